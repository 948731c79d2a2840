"""What stands in for Spark and MLflow in tests of the graph, and short ways to run and to read it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from ml_platform.build import build_definitions
from ml_platform.contract.assets import CHALLENGER_BEATS_CHAMPION, DATA_QUALITY, PERFORMANCE_ABOVE_THRESHOLD
from ml_platform.contract.product import Product
from ml_platform.engine.step import Check, DayResult, StepRequest, StepResult
from ml_platform.graph.assets import asset_key
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Outcome
from ml_platform_tests.small_platform import D, shop

CHECKS = {
    "ards": DATA_QUALITY,
    "mrds": DATA_QUALITY,
    "model": CHALLENGER_BEATS_CHAMPION,
    "model_performance": PERFORMANCE_ABOVE_THRESHOLD,
}


@dataclass
class FakeRunner:
    """Does nothing, and reports every day as written but for the outcomes it was given."""

    #: By day, or by "asset day" for one asset alone.
    outcomes: Mapping[str, tuple[Outcome, str]] = field(default_factory=dict)
    #: By day, what the ARDS says of its files.
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Days that nothing had to be done of.
    up_to_date: frozenset[str] = frozenset()
    requests: list[StepRequest] = field(default_factory=list)

    def run(self, request: StepRequest, product: Product, context: dg.OpExecutionContext) -> StepResult:
        self.requests.append(request)
        context.log.info(f"{request.step}: {len(request.days)}")
        return StepResult(
            days=[self._result(request.step, day) for day in request.days],
            metadata={"days_done": len(request.days), "page": "https://compute.test/runs/1"},
        )

    def _result(self, step: str, day: date) -> DayResult:
        of_all = self.outcomes.get(str(day), ("written", ""))
        outcome, reason = self.outcomes.get(f"{step} {day}", of_all)
        metadata: dict[str, Any] = {"outcome": outcome}
        metadata |= self.files.get(str(day), {}) if step == "ards" else {}
        if outcome != "written":
            return DayResult(day=day, outcome=outcome, reason=reason, metadata=metadata | {"reason": reason})
        checks = [Check(name=CHECKS[step], passed=True, description="good")] if step in CHECKS else []
        return DayResult(
            day=day,
            outcome=outcome,
            metadata=metadata | {"rows": day.day * 10},
            checks=checks,
            up_to_date=str(day) in self.up_to_date,
        )

    @property
    def asked(self) -> list[tuple[str, str, str]]:
        """Step, first and last day of each request."""
        return [(one.step, str(one.days[0]), str(one.days[-1])) for one in self.requests]


@dataclass
class FakeMlflow:
    """Counts the runs that would have been opened."""

    opened: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    failed: int = 0

    @contextlib.contextmanager
    def parent(self, product: Product, partitions: str) -> Iterator[str]:
        self.opened.append(product.name)
        self.named.append(partitions)
        try:
            yield "parent-run"
        except BaseException:
            self.failed += 1
            raise


@dataclass
class Graph:
    """A product's definitions on stand-ins, and an instance to run them on."""

    settings: Settings
    instance: dg.DagsterInstance
    product: Product = field(default_factory=shop)
    runner: Any = field(default_factory=FakeRunner)
    mlflow: FakeMlflow = field(default_factory=FakeMlflow)

    def __post_init__(self) -> None:
        self.definitions = build_definitions(
            self.settings,
            products={self.product.name: self.product},
            resource_overrides={"step_runner": self.runner, "mlflow": self.mlflow},
        )
        self.repository = self.definitions.get_repository_def()

    def key(self, asset: str) -> dg.AssetKey:
        return asset_key(self.product, asset)

    def run(
        self,
        assets: Sequence[str],
        first: str,
        last: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """One run of some assets over a range of partitions."""
        ops = {self.key(asset).to_python_identifier(): {"config": dict(config or {})} for asset in assets}
        return self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[self.key(asset) for asset in assets],
            instance=self.instance,
            tags={**range_tags(first, last or first), **(tags or {})},
            run_config={"ops": ops if config else {}, **QUIET},
            raise_on_error=False,
        )

    def execute(self, request: dg.RunRequest, job: str) -> dg.ExecuteInProcessResult:
        """Run what a sensor or schedule asked for, as the daemon does."""
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=request.tags,
            run_config={**request.run_config, **QUIET},
            partition_key=request.partition_key,
            raise_on_error=False,
        )

    def sensor_tick(self, name: str, cursor: str | None = None) -> Any:
        """What the daemon gets of a sensor's tick."""
        with dg.build_sensor_context(
            instance=self.instance, cursor=cursor, repository_def=self.repository
        ) as context:
            return self.repository.get_sensor_def(f"{self.product.name}_{name}").evaluate_tick(context)

    def materialized(self, asset: str) -> dict[str, Mapping[str, Any]]:
        """The metadata of every materialization, by partition; each partition has just one."""
        records = self.instance.fetch_materializations(self.key(asset), limit=1000).records
        keys = [record.partition_key for record in records]
        assert len(keys) == len(set(keys)), "a partition was materialized twice"
        return {
            str(record.partition_key): {
                name: value.value for name, value in _materialization(record).metadata.items()
            }
            for record in records
        }

    def partitions(self, asset: str) -> dict[str, list[str]]:
        """What the page of an asset's partitions shows: which are materialized, and which have failed."""
        key = self.key(asset)
        definition = self.repository.asset_graph.get(key).partitions_def
        assert definition is not None
        status = get_and_update_asset_status_cache_value(self.instance, key, definition)
        assert status is not None
        failed = {*status.deserialize_failed_partition_subsets(definition).get_partition_keys()}
        made = {*status.deserialize_materialized_partition_subsets(definition).get_partition_keys()}
        found = {"MATERIALIZED": sorted(made - failed), "FAILED": sorted(failed)}
        return {name: keys for name, keys in found.items() if keys}

    def verdicts(self, asset: str) -> dict[str, tuple[str, str | None, str]]:
        """Status, description and severity of the newest evaluation of each partition that has one."""
        check = dg.AssetCheckKey(self.key(asset), CHECKS[asset])
        history = self.instance.event_log_storage.get_asset_check_execution_history(check, limit=1000)
        found: dict[str, tuple[str, str | None, str]] = {}
        for record in history:
            evaluation = record.evaluation
            assert evaluation is not None, f"{record.partition} is planned and was never evaluated"
            verdict = (record.status.value, evaluation.description, evaluation.severity.value)
            found.setdefault(str(record.partition), verdict)
        return dict(sorted(found.items()))


QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def range_tags(first: str, last: str) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Why a run of one step failed; it must have failed with a ``dagster.Failure``."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    assert data.user_failure_data is not None, "the step failed with something else than a Failure"
    return data.user_failure_data.description or ""


def requested_range(request: dg.RunRequest) -> tuple[date, date]:
    """The days a request is for."""
    return (
        D(request.tags["dagster/asset_partition_range_start"]),
        D(request.tags["dagster/asset_partition_range_end"]),
    )


def _materialization(record: dg.EventLogRecord) -> dg.AssetMaterialization:
    assert record.asset_materialization is not None
    return record.asset_materialization
