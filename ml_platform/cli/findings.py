"""What isn't as the ledger says: tables, models, online store, reports, events. Looking changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlalchemy.engine import make_url

from ml_platform.cli.damage import State, torn_commit, wrong_with
from ml_platform.contract.assets import (
    ARDS,
    CATALOGUE,
    MODEL,
    MRDS,
    Asset,
    brought_up_to_date_with,
    drawn,
    names,
    table_names,
)
from ml_platform.contract.days import in_a_sentence, last_day_of, month_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import landing
from ml_platform.data_engineering.object_store import landing_of
from ml_platform.engine import local, presence
from ml_platform.engine.context import StepContext
from ml_platform.engine.maintenance import small_tables_of_all
from ml_platform.engine.step import PermanentError, StepRequest
from ml_platform.graph.events import not_shown
from ml_platform.graph.resources import LocalStepRunner
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform.online_store.store import OnlineStoreError
from ml_platform.settings import Settings
from ml_platform.storage.contract_versions import CONTRACTS
from ml_platform.storage.ledger import DAYS, SETTLED, Ledger
from ml_platform.storage.path_locations import FolderLocation
from ml_platform.storage.small_tables import ControlTable
from ml_platform.storage.table_location import DamagedTableError, LocationError

if TYPE_CHECKING:
    import dagster as dg

#: The small tables that nothing else tells the content of.
_IRREPLACEABLE = frozenset({DAYS, "rollbacks"})
#: The hashes that the table of the contracts knows a version by: of what makes the ARDS, and the MRDS.
_VERSIONS = pa.schema([("ards", pa.string()), ("mrds", pa.string())])
_LET_READ = (
    "remove the obstacle that the message names; whether it is damaged isn't known, and it is left as it is"
)


@dataclass(frozen=True)
class Finding:
    """One thing that isn't as the ledger says.

    Attributes:
        part: the asset, table, or database.
        place: where it should be.
        command: what makes it again; what to do, where no command can.
        repairable: whether :func:`repair` does it.
    """

    part: str
    state: State
    place: str
    detail: str
    command: str
    repairable: bool = True
    days: tuple[date, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]


@dataclass
class Examination:
    """One look at all that there is of a product."""

    product: Product
    settings: Settings
    _runner: LocalStepRunner = field(init=False)

    def __post_init__(self) -> None:
        self._runner = LocalStepRunner(self.settings)

    def examine(self, databases: Sequence[Finding]) -> list[Finding]:
        """All that isn't as the ledger says but Dagster's events, in the order in which it is made again.

        Args:
            databases: what :meth:`databases` has found.
        """
        found = [*self._torn_tables(), *databases]
        broken = {finding.part for finding in found}
        if DAYS in broken or "models" in broken or "decisions" in broken or "rollbacks" in broken:
            return found  # what these say of all else isn't known
        found += self._unrecorded()
        if CONTRACTS not in broken:
            found += self.contracts()
        found += self.deliveries()
        found += self._steps(broken)
        found += self._history(broken)
        return found

    # -- looking -------------------------------------------------------------------------------------

    @property
    def dagster_home(self) -> Path:
        """The folder of Dagster's instance."""
        return Path(os.environ.get("DAGSTER_HOME") or self.settings.home / "dagster")

    def context_of(self, asset: str, days: Sequence[date] = (), **options: Any) -> StepContext:
        request = StepRequest(
            step=asset, product=self.product.name, days=tuple(days), run_id="doctor", **options
        )
        return local.context_for(request, self.product, self.settings, self._runner.session, lambda _: None)

    @property
    def ledger(self) -> Ledger:
        return self.context_of(MODEL).ledger

    def _torn_tables(self) -> Iterator[Finding]:
        tables, name = self.context_of(MODEL).tables, self.product.name
        places = [(tables.control, table) for table in small_tables_of_all()]
        places += [
            (tables.location, table) for table in table_names() if isinstance(tables.location, FolderLocation)
        ]
        for location, table in places:
            address = location.address(name, table)
            try:
                if location.exists(name, table):
                    location.version(name, table)
            except DamagedTableError as error:
                folder = Path(address) if isinstance(location, FolderLocation) else None
                torn = folder is not None and torn_commit(folder) is not None
                again = torn or not self._is_irreplaceable(table)
                yield Finding(
                    table,
                    "damaged",
                    address,
                    "its newest commit is cut off" if torn else f"its log can't be read: {error.__cause__}",
                    f"ml-platform doctor {name} --repair"
                    if again
                    else "restore it from a backup (docs/operating.md)",
                    repairable=folder is not None and again,
                )
            except Exception as error:
                yield Finding(table, "unreadable", address, str(error), _LET_READ, repairable=False)

    def _is_irreplaceable(self, table: str) -> bool:
        """Whether a table's content can't be had from elsewhere."""
        if table != CONTRACTS:
            return table in _IRREPLACEABLE
        try:
            return any(set(hashes) - {self._present(asset)} for asset, hashes in self._made_under().items())
        except LocationError:
            return True  # the ledger that would tell is damaged as well

    def unusable(self) -> list[Finding]:
        """The tables and databases that are damaged or can't be read."""
        return [*self._torn_tables(), *self.databases()]

    def databases(self) -> list[Finding]:
        """The SQLite databases that are there and damaged, or can't be read."""
        return list(self._databases())

    def _databases(self) -> Iterator[Finding]:
        for part, path in self._files():
            wrong = wrong_with(path)
            if wrong is None:
                continue
            state, why = wrong
            repair_ = f"ml-platform doctor {self.product.name} --repair"
            yield Finding(
                part,
                state,
                str(path),
                why,
                repair_ if state == "damaged" else _LET_READ,
                repairable=state == "damaged",
            )

    def _files(self) -> list[tuple[str, Path]]:
        """The SQLite databases of this deployment, by what they are part of."""
        addresses = {
            "mlflow": self.settings.tracking_uri,
            "registry": self.settings.registry_uri,
            "online_features": self.settings.online_url,
        }
        found: dict[Path, str] = {}
        for part, address in addresses.items():
            if address.startswith("sqlite:") and (name := make_url(address).database):
                found.setdefault(Path(name).absolute(), part)
        home = self.dagster_home
        if (home / "history").exists():
            for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
                found.setdefault(home / name, "dagster")
        return [(part, path) for path, part in found.items()]

    def _unrecorded(self) -> Iterator[Finding]:
        """Tables without a ledger: nothing would be called done, and acceptances are forgotten."""
        tables, name = self.context_of(MODEL).tables, self.product.name
        if tables.control.exists(name, DAYS) or not isinstance(tables.location, FolderLocation):
            return
        held = [table for table in table_names() if tables.exists(name, table)]
        if held:
            yield Finding(
                DAYS,
                "missing",
                tables.control.address(name, DAYS),
                f"the ledger is gone, while {', '.join(held)} are there",
                "restore it from a backup (docs/operating.md); without one a backfill makes all days again, "
                "but acceptances are lost, and predictions become those of the models that serve their days",
                repairable=False,
            )

    def deliveries(self) -> Iterator[Finding]:
        if not self._sees_deliveries:
            return
        place = landing_of(self.settings, self.product) / self.product.name
        if gone := self._gone():
            yield Finding(
                "landing",
                "gone from the deliveries",
                str(place),
                f"the deliveries of {_days(gone)} were used, and are not there any more",
                "restore them from a backup, unless they were withdrawn on purpose: the next run over these "
                "days takes them for withdrawn",
                repairable=False,
                days=gone,
            )

    def _gone(self) -> tuple[date, ...]:
        """The days that were made from deliveries that aren't there any more."""
        known = self.ledger.latest("ards", details=False)
        used = [day for day, record in known.items() if record.outcome in ("written", "blocked", "empty")]
        looks = landing.looks(self.product, landing_of(self.settings, self.product), used)
        return tuple(day for day in used if looks[day].stamp is None)

    def _present(self, asset: str) -> str:
        """The hash of the present contract, as the records of an asset name it."""
        return self.product.hash_of(*CATALOGUE[asset].sections)

    def _made_under(self) -> dict[str, dict[str, list[date]]]:
        """Of the ARDS and the MRDS, the days that were made under each version of the contract."""
        found: dict[str, dict[str, list[date]]] = {ARDS: {}, MRDS: {}}
        for asset, versions in found.items():
            for day, record in self.ledger.latest(asset, details=False).items():
                if record.outcome in SETTLED:
                    versions.setdefault(record.contract, []).append(day)
        return found

    def contracts(self) -> Iterator[Finding]:
        """Versions of the contract that days were made under, and that the table of the contracts lacks.

        Days of such a version count as made by another contract, whatever it was.
        """
        name, tables = self.product.name, self.context_of(MODEL).tables
        place = tables.control.address(name, CONTRACTS)
        rows = ControlTable(tables, name, CONTRACTS, _VERSIONS).read()
        present: set[date] = set()
        earlier: set[date] = set()
        for asset, versions in self._made_under().items():
            known = {row[asset] for row in rows}
            for version, days in versions.items():
                if version not in known:
                    (present if version == self._present(asset) else earlier).update(days)
        if present:
            yield Finding(
                CONTRACTS,
                "missing",
                place,
                f"it lacks the present version of the contract, which made {_days(sorted(present))}",
                f"ml-platform doctor {name} --repair",
                days=tuple(sorted(present)),
            )
        if earlier:
            days = sorted(earlier)
            gone = earlier.intersection(self._gone()) if self._sees_deliveries else ()
            yield Finding(
                CONTRACTS,
                "missing",
                place,
                f"it lacks the versions of the contract that made {_days(days)}: what these days hold counts "
                "as another contract's, so no model learns from them and they are not scored",
                "restore it from a backup (docs/operating.md), or make the days again under the present "
                f"contract: ml-platform backfill {name} --from {days[0]} --to {days[-1]} --select ards,mrds"
                + (
                    f"; not before the deliveries of {_days(sorted(gone))} are restored: days without a "
                    "delivery are taken for withdrawn"
                    if gone
                    else ""
                ),
                repairable=False,
                days=tuple(days),
            )

    @property
    def _sees_deliveries(self) -> bool:
        return self.product.engine.of("ards", self.settings.engine) == "local"

    def _steps(self, broken: set[str]) -> Iterator[Finding]:
        for asset in names():
            if asset == MODEL:
                continue
            for made in brought_up_to_date_with(asset, self.product):
                if made.name not in broken:
                    yield from self._step(made, broken)

    def _step(self, made: Asset, broken: set[str]) -> Iterator[Finding]:
        """What a step's tables, database or reports lack of what the ledger says that it has made."""
        asset = drawn(made.name)
        step = made.step_class(self.context_of(asset))
        if set(step.tables) & broken:
            return
        try:
            lost = step.lost(self.ledger.latest(made.name))
        except (PermanentError, OnlineStoreError, LocationError) as error:
            yield Finding(made.name, "unreadable", "", str(error), "see the message", repairable=False)
            return
        for why, days in presence.grouped(lost).items():
            yield Finding(
                made.name,
                "missing",
                why.partition(" ")[0] if why.startswith("/") else "",
                f"{why}: {_days(days, asset)}",
                _backfill(self.product.name, asset, days),
                days=tuple(days),
            )

    def _history(self, broken: set[str]) -> Iterator[Finding]:
        """The models: what was trained, decided, rolled back, and is in the registry."""
        name, context = self.product.name, self.context_of(MODEL)
        history = ModelHistory(context.tables, self.product)
        repair_ = f"ml-platform doctor {name} --repair"
        for decision in presence.lost_rollbacks(history):
            yield Finding(
                "rollbacks",
                "missing",
                context.tables.control.address(name, "rollbacks"),
                f"the promotion as of {decision.as_of} was rolled back, and no rollback is recorded",
                repair_,
            )
        if broken & {"mlflow", "registry"}:
            return
        try:
            lost = presence.lost_models(context, self.ledger.latest(MODEL, details=False))
            lost |= self.lost_in_remote_registry(set(lost))
        except Exception as error:  # MLflow's and SQLAlchemy's kinds are many; none of them is a lost model
            yield Finding("registry", "unreadable", "", str(error), "see the message", repairable=False)
            return
        for as_of, why in lost.items():
            place = (
                why.partition(" ")[0]
                if why.startswith("/")
                else Registry.of(self.settings).name(self.product)
            )
            yield Finding(MODEL, "missing", place, f"as of {as_of}: {why}", repair_, days=(as_of,))
        yield from self._without_library(history)

    def _without_library(self, history: ModelHistory) -> Iterator[Finding]:
        """Models that can't be loaded here since a library isn't installed: they are as they should be."""
        registry, models = Registry.of(self.settings), {model.version: model for model in history.models()}
        for version, why in registry.without_library(self.product, models).items():
            said, _, what_to_do = why.rpartition(": ")
            as_of = models[version].as_of
            yield Finding(
                MODEL,
                "unreadable",
                registry.name(self.product),
                f"as of {as_of}: {said}",
                what_to_do,
                repairable=False,
                days=(as_of,),
            )

    def lost_in_remote_registry(self, known: set[date]) -> dict[date, str]:
        """What a registry on a server lacks, or has as another version than is recorded.

        It takes a request a model, so no run asks before it loads one.
        """
        if self.settings.registry_uri.startswith("sqlite:"):
            return {}
        registry = Registry.of(self.settings)
        models = ModelHistory(self.context_of(MODEL).tables, self.product).by_fingerprint()
        lost = {}
        for as_of, record in self.ledger.latest(MODEL, outcomes=["written"], details=False).items():
            model = models.get(record.fingerprint or "")
            if as_of in known or model is None:
                continue
            try:
                registry.require(self.product, model.version, model.fingerprint)
            except RegistryError as error:
                lost[as_of] = str(error)
        return lost

    def events(self, instance: dg.DagsterInstance | None) -> list[Finding]:
        """Days that Dagster shows as not done, since its database was lost; None if all of it is gone."""
        return list(self._events(instance))

    def _events(self, instance: dg.DagsterInstance | None) -> Iterator[Finding]:
        for asset in names():
            if days := self.unknown_to(instance, asset):
                yield Finding(
                    "dagster",
                    "missing",
                    str(self.dagster_home),
                    f"{asset}: Dagster has no events of {_days(days, asset)}",
                    f"ml-platform doctor {self.product.name} --repair",
                    days=tuple(days),
                )

    def unknown_to(self, instance: dg.DagsterInstance | None, asset: str) -> list[date]:
        """The partitions of an asset that the ledger knows and Dagster doesn't."""
        return not_shown(instance, self.product, self.ledger, asset)


def _backfill(product: str, asset: str, days: Sequence[date]) -> str:
    last = last_day_of(month_of(max(days))) if asset == "drift_report" else max(days)
    return f"ml-platform backfill {product} --from {min(days)} --to {last} --select {asset}"


def _days(days: Sequence[date], asset: str = ARDS) -> str:
    return in_a_sentence(CATALOGUE[asset].period, days)
