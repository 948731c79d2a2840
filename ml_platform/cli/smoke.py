"""A check of a set-up on Databricks: one small sample product, end to end, there and here, and compared.

What is made in the workspace bears the name of one product, which no other check has. It is named before
anything is made, and removed at the end, whatever came of it (:mod:`.smoke_traces`). The wheel stays: the
next step needs it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from ml_platform.build import build_definitions
from ml_platform.cli.smoke_page import Page, StepDone
from ml_platform.cli.smoke_traces import RUN, run_of, traces_of
from ml_platform.contract.assets import DRIFT_REPORT, MODEL, ONLINE_FEATURES, names
from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import SecretAddress
from ml_platform.engine.databricks import wheel as wheels
from ml_platform.engine.databricks.messages import ENVIRONMENT
from ml_platform.engine.databricks.runner import DatabricksStepRunner
from ml_platform.engine.databricks.workspace import Workspace, in_words
from ml_platform.engine.step import PermanentError
from ml_platform.graph.assets import asset_key
from ml_platform.graph.bad_days import only_bad_days
from ml_platform.graph.partitions import range_tags
from ml_platform.graph.resources import LocalStepRunner, StepRunner
from ml_platform.samples import SAMPLES, contract_of_sample
from ml_platform.settings import Settings

SAMPLE = "customers"
DAYS = DayRange(date(2022, 1, 1), date(2022, 2, 10))
_MONTHS = {MODEL: date(2022, 2, 1), DRIFT_REPORT: date(2022, 1, 1)}

#: Outcome and fingerprint of each asset's partitions.
Made = dict[tuple[str, str], tuple[str, str]]


class SmokeError(Exception):
    """A run failed; the message says on which engine, and why."""


@dataclass
class Smoke:
    """One check.

    Args:
        tables: root of the tables over there, instead of that of the settings.
        say: takes each line of progress.
    """

    settings: Settings
    workspace: Workspace
    volume: str
    assets: Sequence[str] = field(default_factory=names)
    rows_per_day: int = 100
    tables: str | None = None
    say: Callable[[str], None] = lambda _: None

    def run(self) -> Page:
        """Run everything, compare, and clean up; what came of it, a failure as well, is on the page.

        Raises:
            PermanentError: a setting is missing; nothing was made.
            LocationError: the tables can't be where they should; nothing was made.
        """
        product = _product(f"smoke_{secrets.token_hex(4)}")
        page = Page(product.name, self.workspace.host)
        assets = []
        for asset in self.assets:
            if asset == ONLINE_FEATURES and not self.settings.online_store_url:
                page.left_out[asset] = "name its store in ML_PLATFORM_ONLINE_STORE_URL, to be cleaned up"
            else:
                assets.append(asset)
        place = f"{self.volume}/smoke/{product.name}"
        there = self._there(place)
        page.traces = traces_of(product, there, self.workspace, place, assets)
        page.user = self.workspace.user()
        self.say(f"{self.workspace.host} as {page.user}")
        self.say("The check will create, and remove afterwards:")
        for trace in page.traces:
            self.say(f"  {trace.kind} {trace.name}")
        self.say(f"  job runs named {product.name}/…, one a step, and messages in {self.volume}/pipes")
        self.say(f"It leaves the wheel in {self.volume}/wheels: the next step needs it.")
        try:
            self._check(page, product, assets, place, there)
            page.outcome = "failed" if page.differences else "passed"
            if page.differences:
                page.error = f"{len(page.differences)} partitions differ"
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            page.outcome, page.error = "interrupted", "somebody interrupted the check"
        except Exception as error:
            page.error = str(error) if isinstance(error, SmokeError) else in_words(error.__cause__ or error)
        finally:
            self._clean(page)
        return page

    def _check(self, page: Page, product: Product, assets: list[str], place: str, there: Settings) -> None:
        wheel = wheels.build_wheel()
        path, now = wheels.upload(self.workspace, self.volume, wheel)
        page.wheel = f"{path}, {'uploaded now' if now else 'was there'}; it stays"
        self.say(f"wheel {'uploaded to' if now else 'is there:'} {path}")
        with TemporaryDirectory(prefix="ml_platform_smoke") as folder:
            home = Path(folder)
            SAMPLES[SAMPLE](product, home / "landing", DAYS, rows_per_day=self.rows_per_day)
            self.say(f"deliveries of {DAYS} are copied to {place}")
            self._copy(home / "landing", f"{place}/landing")
            runner = DatabricksStepRunner(
                there,
                progress=lambda line: self._hear(page, line),
                submitted=lambda run_id: page.traces.append(run_of(self.workspace, run_id)),
                clock=self.workspace.clock,
            )
            made_there = self._made(page, product, there, runner, assets)
            here = self._here(home)
            made_here = self._made(page, product, here, LocalStepRunner(here, progress=self.say), assets)
        _compare(page, made_here, made_there)

    def _hear(self, page: Page, line: str) -> None:
        if line.startswith(f"{ENVIRONMENT}: "):
            page.remote = line.removeprefix(f"{ENVIRONMENT}: ")
        self.say(line)

    def _clean(self, page: Page) -> None:
        """Remove everything; an interruption leaves what has not been removed by then."""
        self.say("removing what was created")
        for number, trace in enumerate(page.traces):
            try:
                trace.clean()
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                page.outcome = "interrupted"
                for rest in page.traces[number + 1 :]:
                    rest.left, rest.state = True, "LEFT: the removal was interrupted"
                return

    def _there(self, place: str) -> Settings:
        tables = self.tables or self.settings.tables
        if tables is None:
            raise PermanentError(
                "name a root for the tables that the workspace reaches: ML_PLATFORM_TABLES=uc:catalog.schema "
                "(with ML_PLATFORM_CONTROL_TABLES=abfss://…), or abfss://container@account.dfs.core…"
            )
        return self.settings.model_copy(
            update={
                "engine": "databricks",
                "landing": Path(f"{place}/landing"),
                "tables": tables,
                "report_targets": (SecretAddress(f"{place}/reports"),),
                "mlflow_tracking_uri": self.settings.mlflow_tracking_uri or SecretAddress("databricks"),
            }
        )

    def _here(self, home: Path) -> Settings:
        """The settings of the local run, which has nothing in common with what others use."""
        places = (
            "landing", "tables", "control_tables", "model_schema", "online_store_url",
            "mlflow_tracking_uri", "mlflow_registry_uri", "mlflow_experiments",
        )  # fmt: skip
        return self.settings.model_copy(
            update={"engine": "local", "home": home, "report_targets": (), **dict.fromkeys(places)}
        )

    def _made(
        self, page: Page, product: Product, settings: Settings, runner: StepRunner, assets: Sequence[str]
    ) -> Made:
        definitions = build_definitions(
            settings, products={product.name: product}, resource_overrides={"step_runner": runner}
        )
        job = definitions.resolve_implicit_global_asset_job_def()
        made: Made = {}
        with dg.DagsterInstance.ephemeral() as instance:
            for asset in assets:
                first, last = (_MONTHS[asset],) * 2 if asset in _MONTHS else (DAYS.first, DAYS.last)
                done = StepDone(settings.engine, asset, str(DayRange(first, last)), 0.0, "did not end")
                page.steps.append(done)
                self.say(f"{settings.engine}: {asset}, {done.partitions}")
                start = self.workspace.clock.time()
                try:
                    result = job.execute_in_process(
                        asset_selection=[asset_key(product, asset)],
                        instance=instance,
                        tags=range_tags(first, last),
                        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                        raise_on_error=False,
                    )
                finally:
                    done.seconds = self.workspace.clock.time() - start
                if _is_interrupted(result):
                    raise KeyboardInterrupt
                # Days that can't be used are compared like all others.
                if not result.success and not only_bad_days(instance, result.run_id):
                    done.outcome = "failed"
                    if settings.engine == "databricks" and page.traces[-1].kind == RUN:
                        page.traces[-1].keep("its page says why the step failed")
                    raise SmokeError(f"{asset} on the engine {settings.engine}: {_why(result)}")
                found = _facts(instance, product, asset)
                counts = Counter(outcome for outcome, _ in found.values())
                done.outcome = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
                made |= found
        return made

    def _copy(self, folder: Path, target: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self.workspace.put(f"{target}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def _product(name: str) -> Product:
    contract = contract_of_sample(SAMPLE).model_dump(mode="json", by_alias=True)
    return parse_product({**contract, "name": name, "engine": {}}, f"{SAMPLE}.yaml")


def _facts(instance: dg.DagsterInstance, product: Product, asset: str) -> Made:
    records = instance.fetch_materializations(asset_key(product, asset), limit=len(DAYS) + 1).records
    found: Made = {}
    for record in records:
        assert record.asset_materialization is not None
        metadata: Mapping[str, Any] = record.asset_materialization.metadata
        facts = [str(metadata[name].value) if name in metadata else "" for name in ("outcome", "fingerprint")]
        found[asset, record.partition_key or ""] = (facts[0], facts[1])
    return found


def _is_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether somebody has ended a run, which Dagster tells by a failed step."""
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    errors = [failure.error for failure in failures if failure.error is not None]
    names = {name for error in errors for name in (error.cls_name, error.cause and error.cause.cls_name)}
    return bool(names & {"DagsterExecutionInterruptedError", "KeyboardInterrupt"})


def _why(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None:
                pages = [str(value.value) for value in (data.user_failure_data.metadata or {}).values()]
                return "\n".join([data.user_failure_data.description or "", *pages])
            return str(data.error)
    return "the run failed"


def _compare(page: Page, here: Made, there: Made) -> None:
    nothing = ("nothing", "")
    for asset, partition in sorted({*here, *there}):
        ours, theirs = here.get((asset, partition), nothing), there.get((asset, partition), nothing)
        all_, equal = page.compared.get(asset, (0, 0))
        page.compared[asset] = (all_ + 1, equal + (ours == theirs))
        if ours != theirs:
            page.differences.append((asset, partition, " ".join(ours), " ".join(theirs)))
