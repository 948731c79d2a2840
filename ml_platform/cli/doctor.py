"""Whether what the ledger says of a product is there: tables, models, online store, reports, events.

To examine changes nothing; a repair makes again what the deliveries and the ledger allow. The rest, like the
ledger itself, rollbacks without a trace and deliveries, comes from a backup (docs/operating.md).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from sqlalchemy.engine import make_url

from ml_platform.cli.backfill import Backfill, BackfillError, apart
from ml_platform.cli.interruption import interruption
from ml_platform.contract.assets import ARDS, CATALOGUE, MODEL, MRDS, names, nothing_made_from, table_names
from ml_platform.contract.days import DayRange, add_months, in_a_sentence, month_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import landing
from ml_platform.engine import local, presence
from ml_platform.engine.context import StepContext
from ml_platform.engine.maintenance import small_tables_of_all
from ml_platform.engine.step import PermanentError, StepRequest
from ml_platform.graph.assets import asset_key
from ml_platform.graph.resources import LocalStepRunner
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform.online_store.store import OnlineStoreError
from ml_platform.settings import Settings
from ml_platform.storage.contract_versions import CONTRACTS, ContractVersions
from ml_platform.storage.ledger import DAYS, SETTLED, Ledger
from ml_platform.storage.path_locations import FolderLocation, PathLocation
from ml_platform.storage.small_tables import ControlTable
from ml_platform.storage.table_location import DamagedTableError, LocationError
from ml_platform.storage.tables import Tables

if TYPE_CHECKING:
    import dagster as dg

State = Literal["missing", "damaged", "unreadable", "gone from the deliveries"]
#: The small tables that nothing else tells the content of.
_IRREPLACEABLE = frozenset({DAYS, "rollbacks"})
_SUFFIX = ".damaged"
#: What SQLite says when it was kept from looking by who works on the database; anything else but damage is
#: a database that can't be read.
_IN_USE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: The primary code of an error is in the lowest byte of its extended code.
_PRIMARY = 0xFF
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


def check_up(
    product: Product,
    settings: Settings,
    open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]],
    *,
    repair: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """What isn't as the ledger says; with ``repair``, what still isn't after all that can be made again was.

    Raises:
        BackfillError: a run of the repair failed.
    """
    doctor = Doctor(product, settings, say)
    found = _look(doctor, open_instance)
    if not repair or not any(finding.repairable for finding in found):
        return found
    doctor.set_aside(found)
    if all(finding.part in nothing_made_from() for finding in doctor.unusable()):
        with open_instance() as instance:
            doctor.repair(instance)
            doctor.report_again(instance)
    return _look(doctor, open_instance)


def is_new(product: Product, settings: Settings) -> bool:
    """Whether nothing of a product has been recorded yet, so that nothing can be missing."""
    return not Tables.of(settings).control.exists(product.name, DAYS)


def not_looked_at(product: Product, settings: Settings) -> list[str]:
    """What can't be seen from here, in sentences that say where to look."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return []  # this is the other machine
    tables = Tables.of(settings)
    parts: dict[str, list[str]] = {}
    for asset in names():
        engine = product.engine.of(asset, settings.engine)
        if asset == MODEL or engine == "local":
            continue
        if asset == ARDS:
            parts.setdefault(engine, []).append("the deliveries")
        if not CATALOGUE[asset].tables:
            if not CATALOGUE[asset].small_tables:  # these every machine sees
                parts.setdefault(engine, []).append(asset)
        elif isinstance(tables.location, FolderLocation):
            parts.setdefault(engine, []).append(asset)
    said = [
        f"{', '.join(made)}: made on {engine}; run ml-platform doctor {product.name} there"
        for engine, made in parts.items()
    ]
    if not isinstance(tables.location, PathLocation):
        said.append(
            f"the rows of {', '.join(table_names())}: {settings.tables_root} is a catalog, which only Spark "
            "opens; look there"
        )
    return said


def _look(
    doctor: Doctor, open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]]
) -> list[Finding]:
    """All findings; Dagster's instance is opened where there is one, and not made."""
    databases = doctor.databases()
    found = doctor.examine(databases)
    if any(finding.part == "dagster" for finding in databases):
        return found
    if not (doctor.dagster_home / "dagster.yaml").exists():
        return found + doctor.events(None)
    with open_instance() as instance:
        return found + doctor.events(instance)


@dataclass
class Doctor:
    """One examination of one product; ``say`` is told what a repair does."""

    product: Product
    settings: Settings
    say: Callable[[str], None] = lambda _: None
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
            found += self._contracts()
        found += self._deliveries()
        found += self._steps(broken)
        found += self._history(broken)
        return found

    # -- looking -------------------------------------------------------------------------------------

    @property
    def dagster_home(self) -> Path:
        """The folder of Dagster's instance."""
        return Path(os.environ.get("DAGSTER_HOME") or self.settings.home / "dagster")

    def _context(self, asset: str, days: Sequence[date] = (), **options: Any) -> StepContext:
        request = StepRequest(
            step=asset, product=self.product.name, days=tuple(days), run_id="doctor", **options
        )
        return local.context_for(request, self.product, self.settings, self._runner.session, lambda _: None)

    @property
    def _ledger(self) -> Ledger:
        return self._context(MODEL).ledger

    def _torn_tables(self) -> Iterator[Finding]:
        tables, name = self._context(MODEL).tables, self.product.name
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
                torn = folder is not None and _torn_commit(folder) is not None
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
            wrong = _wrong_with(path)
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
        tables, name = self._context(MODEL).tables, self.product.name
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

    def _deliveries(self) -> Iterator[Finding]:
        if not self._sees_deliveries:
            return
        place = self.settings.landing_path / self.product.name
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
        known = self._ledger.latest("ards", details=False)
        used = [day for day, record in known.items() if record.outcome in ("written", "blocked", "empty")]
        place = self.settings.landing_path
        return tuple(day for day in used if landing.stamp(self.product, place, day) is None)

    def _present(self, asset: str) -> str:
        """The hash of the present contract, as the records of an asset name it."""
        return self.product.hash_of(*CATALOGUE[asset].sections)

    def _made_under(self) -> dict[str, dict[str, list[date]]]:
        """Of the ARDS and the MRDS, the days that were made under each version of the contract."""
        found: dict[str, dict[str, list[date]]] = {ARDS: {}, MRDS: {}}
        for asset, versions in found.items():
            for day, record in self._ledger.latest(asset, details=False).items():
                if record.outcome in SETTLED:
                    versions.setdefault(record.contract, []).append(day)
        return found

    def _contracts(self) -> Iterator[Finding]:
        """Versions of the contract that days were made under, and that the table of the contracts lacks.

        Days of such a version count as made by another contract, whatever it was.
        """
        name, tables = self.product.name, self._context(MODEL).tables
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
        name = self.product.name
        for asset in names():
            if asset == MODEL or asset in broken:
                continue
            step = CATALOGUE[asset].step_class(self._context(asset))
            if set(step.tables) & broken:
                continue
            try:
                lost = step.lost(self._ledger.latest(asset))
            except (PermanentError, OnlineStoreError, LocationError) as error:
                yield Finding(asset, "unreadable", "", str(error), "see the message", repairable=False)
                continue
            for why, days in presence.grouped(lost).items():
                yield Finding(
                    asset,
                    "missing",
                    why.partition(" ")[0] if why.startswith("/") else "",
                    f"{why}: {_days(days, asset)}",
                    _backfill(name, asset, days),
                    days=tuple(days),
                )

    def _history(self, broken: set[str]) -> Iterator[Finding]:
        """The models: what was trained, decided, taken back, and is in the registry."""
        name, context = self.product.name, self._context(MODEL)
        history = ModelHistory(context.tables, self.product)
        repair_ = f"ml-platform doctor {name} --repair"
        for decision in presence.lost_rollbacks(history):
            yield Finding(
                "rollbacks",
                "missing",
                context.tables.control.address(name, "rollbacks"),
                f"the promotion as of {decision.as_of} was taken back, and no rollback tells of it",
                repair_,
            )
        if broken & {"mlflow", "registry"}:
            return
        try:
            lost = presence.lost_models(context, self._ledger.latest(MODEL, details=False))
            lost |= self._lost_in_remote_registry(set(lost))
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

    def _lost_in_remote_registry(self, known: set[date]) -> dict[date, str]:
        """What a registry on a server lacks, or has as another version than is recorded.

        It takes a request a model, so no run asks before it loads one.
        """
        if self.settings.registry_uri.startswith("sqlite:"):
            return {}
        registry = Registry.of(self.settings)
        models = ModelHistory(self._context(MODEL).tables, self.product).by_fingerprint()
        lost = {}
        for as_of, record in self._ledger.latest(MODEL, outcomes=["written"], details=False).items():
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
            if days := self._unknown_to(instance, asset):
                yield Finding(
                    "dagster",
                    "missing",
                    str(self.dagster_home),
                    f"{asset}: Dagster has no events of {_days(days, asset)}",
                    f"ml-platform doctor {self.product.name} --repair",
                    days=tuple(days),
                )

    def _unknown_to(self, instance: dg.DagsterInstance | None, asset: str) -> list[date]:
        """The partitions of an asset that the ledger knows and Dagster doesn't."""
        # A day that couldn't be used may have ended its run, which leaves no event of it.
        known = self._ledger.latest(asset, outcomes=["written"], details=False)
        shown = instance.get_materialized_partitions(asset_key(self.product, asset)) if instance else ()
        partitions = {month_of(day) if asset == MODEL else day for day in known}
        return sorted(partitions - {date.fromisoformat(key) for key in shown})

    # -- making again --------------------------------------------------------------------------------

    def set_aside(self, findings: Sequence[Finding]) -> None:
        """Move what is damaged and can be made again out of the way; nothing is deleted."""
        tables, name = self._context(MODEL).tables, self.product.name
        for finding in findings:
            if finding.state != "damaged" or not finding.repairable:
                continue
            path = Path(finding.place).absolute()
            torn = _torn_commit(path) if path.is_dir() else None
            if torn is not None:
                with tables.control.lock(name, finding.part):
                    moved = [_move_aside(torn)]
            else:
                moved = [_move_aside(file) for file in (path, *_beside(path)) if file.exists()]
            for file in moved:
                self.say(f"moved aside: {file}")

    def repair(self, instance: dg.DagsterInstance) -> None:
        """Make again what can be made again; ask :meth:`examine` afterwards what is left.

        Raises:
            BackfillError: a run failed.
        """
        context = self._context(MODEL)
        history = ModelHistory(context.tables, self.product)
        for decision in presence.lost_rollbacks(history):
            history.take_back(decision, reason=decision.reason, by="ml-platform doctor")
            self.say(f"the rollback as of {decision.as_of} is known again")
        for as_of in presence.restore_models(context, history):
            self.say(f"the model as of {as_of} is known again, from the ledger")
        if any(finding.repairable for finding in self._contracts()):
            ContractVersions(context.tables, self.product).remember()
            self.say("the present version of the contract is known again")
        if self._lost("ards") and any(True for _ in self._deliveries()):
            self.say("nothing is made again before the deliveries that are gone are restored, or given up")
            return
        # In the order of the graph: what is made of something that was lost is looked at when that is there.
        for asset in names():
            if asset == MODEL:
                lost = presence.lost_models(context, self._ledger.latest(MODEL, details=False))
                for as_of in sorted(lost):
                    self._work(instance, asset).train_alone(as_of)
                for as_of in sorted(self._lost_in_remote_registry(set(lost))):
                    work = self._work(instance, asset)
                    work.force = True  # what only a server can tell no run asks for
                    work.train_alone(as_of)
                continue
            try:
                self._make_again(instance, asset)
            except (BackfillError, PermanentError, OnlineStoreError) as error:
                # What is made from days that are lost would be made from nothing.
                if asset not in nothing_made_from() or interruption.noticed():
                    raise
                self.say(f"{asset} is left as it is: {error}")

    def _make_again(self, instance: dg.DagsterInstance, asset: str) -> None:
        work = self._work(instance, asset)
        for span in self._spans(work, asset, sorted(self._lost(asset))):
            last = _month_end(span.last) if asset == "drift_report" else span.last
            work.run(DayRange(span.first, last))

    def _spans(self, work: Backfill, asset: str, days: Sequence[date]) -> list[DayRange]:
        """The ranges to run over, so that days are done and none whose delivery is gone is withdrawn."""
        if not days or asset != "ards":
            return apart(days, ())
        gone = work.without_delivery(DayRange(days[0], days[-1]))
        return apart([day for day in days if day not in gone], gone)

    def _lost(self, asset: str) -> set[date]:
        return set(CATALOGUE[asset].step_class(self._context(asset)).lost(self._ledger.latest(asset)))

    def _work(self, instance: dg.DagsterInstance, asset: str) -> Backfill:
        return Backfill(
            self.product, self.settings, instance, select=(asset,), started=self.say, progress=self.say
        )

    def report_again(self, instance: dg.DagsterInstance) -> None:
        """Tell Dagster of every day that only the ledger knows; what is up to date isn't done again.

        Raises:
            BackfillError: a run failed.
        """
        for asset in names():
            work = self._work(instance, asset)
            for span in self._spans(work, asset, self._unknown_to(instance, asset)):
                work.show(asset, span)


def _month_end(day: date) -> date:
    return date.fromordinal(add_months(month_of(day), 1).toordinal() - 1)


def _backfill(product: str, asset: str, days: Sequence[date]) -> str:
    last = _month_end(max(days)) if asset == "drift_report" else max(days)
    return f"ml-platform backfill {product} --from {min(days)} --to {last} --select {asset}"


def _days(days: Sequence[date], asset: str = ARDS) -> str:
    return in_a_sentence(CATALOGUE[asset].period, days)


def _torn_commit(table: Path) -> Path | None:
    """The newest commit of a table, if it is cut off and all before it are whole."""
    commits = sorted((table / "_delta_log").glob("[0-9]*.json"))
    broken = [path for path in commits if not _is_whole(path)]
    return broken[0] if len(commits) > 1 and broken == commits[-1:] else None


def _is_whole(commit: Path) -> bool:
    try:
        lines = commit.read_text().splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines if line)
    except (OSError, ValueError):
        return False


def _wrong_with(database: Path) -> tuple[State, str] | None:
    """Whether a SQLite database that is there is damaged or can't be read, and what SQLite says of it."""
    try:
        database.stat()
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        return "unreadable", str(error)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
        if code in _IN_USE:
            return None
        return "damaged" if code in _DAMAGED else "unreadable", str(error)
    return None if verdict == "ok" else ("damaged", str(verdict))


def _beside(path: Path) -> list[Path]:
    """What belongs to a SQLite database: its log, and the log's index."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]


def _move_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}{_SUFFIX}-{number}")).exists():
        number += 1
    return path.rename(target)
