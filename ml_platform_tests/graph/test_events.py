"""The adapter between steps and Dagster's events: what a run leaves in the event log for each day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from ml_platform.contract.product import Product
from ml_platform.engine.step import PermanentError, StepRequest, StepResult
from ml_platform.graph.events import BACKFILL_TAGS
from ml_platform.graph.resources import LocalStepRunner
from ml_platform.storage.ledger import Outcome
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import CHECKS, QUIET, FakeRunner, Graph, failure_of
from ml_platform_tests.small_platform import D

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BAD: dict[str, tuple[Outcome, str]] = {"2024-03-02": ("refused", "a.csv: missing columns: pages")}


class SparklessRunner(LocalStepRunner):
    """The real steps; what needs Spark fails."""

    def session(self) -> SparkSession:
        raise AssertionError("a refusal needs no Spark")


class Raising(FakeRunner):
    """Fails with an error, whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, request: StepRequest, product: Product, context: dg.AssetExecutionContext) -> StepResult:
        self.requests.append(request)
        raise self.error


def test_a_range_gives_every_day_its_own_metadata(graph: Graph) -> None:
    result = graph.run(["ards"], "2024-03-01", "2024-03-03")
    assert result.success
    assert graph.runner.asked == [("ards", "2024-03-01", "2024-03-03")]
    found = graph.materialized("ards")
    assert {day: (one["outcome"], one["rows"]) for day, one in found.items()} == {
        "2024-03-01": ("written", 10),
        "2024-03-02": ("written", 20),
        "2024-03-03": ("written", 30),
    }
    # What the run did as a whole is no fact of a day; the link to it is.
    assert not any("days_done" in one for one in found.values())
    assert {one["page"] for one in found.values()} == {"https://compute.test/runs/1"}
    columns = [column.name for column in found["2024-03-02"]["dagster/column_schema"].columns]
    assert columns[-2:] == ["event_day", "label_known_on"]


def test_a_run_that_reads_deliveries_shows_what_they_were(graph_of: Callable[..., Graph]) -> None:
    """Also of a day that is refused; not of one that was not delivered or not read again."""
    files = {"files": 2, "bytes": 4096}
    runner = FakeRunner(
        outcomes=BAD | {"2024-03-03": ("missing", "no rows")},
        files={"2024-03-01": files | {"delivered": 70}, "2024-03-02": files, "2024-03-04": files},
        up_to_date=frozenset({"2024-03-04"}),
    )
    graph = graph_of(runner=runner)
    graph.run(["ards"], "2024-03-01", "2024-03-04")
    seen = graph.materialized("landing")
    assert seen.keys() == {"2024-03-01", "2024-03-02"}
    folder = graph.settings.landing_path / "shop" / "2024-03-01"
    assert seen["2024-03-01"] == {"folder": str(folder), "files": 2, "bytes": 4096, "records": 70}
    assert "records" not in seen["2024-03-02"]


@pytest.mark.parametrize(
    ("first", "last", "config", "named"),
    [
        ("2024-02-01", "2024-02-01", {}, "2024-02"),
        ("2024-02-01", "2024-04-01", {}, "2024-02 … 2024-04"),
        ("2024-03-01", "2024-03-01", {"as_of": "2024-03-15"}, "as of 2024-03-15"),
    ],
)
def test_the_mlflow_run_of_a_training_is_named_after_what_was_asked_for(
    graph: Graph, first: str, last: str, config: dict[str, str], named: str
) -> None:
    graph.run(["model"], first, last, config=config)
    assert graph.mlflow.named == [named]


def test_a_range_settles_one_check_a_day(graph: Graph) -> None:
    graph.run(["ards", "mrds", "model_performance"], "2024-03-01", "2024-03-03")
    for asset in ("ards", "mrds", "model_performance"):
        good = ("SUCCEEDED", "good", "ERROR")
        assert graph.verdicts(asset) == {f"2024-03-0{day}": good for day in (1, 2, 3)}
        check = dg.AssetCheckKey(graph.key(asset), CHECKS[asset])
        history = graph.instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
        assert len(history) == 3


def test_a_bad_day_fails_its_own_check_and_leaves_the_rest_of_its_range_done(
    graph_of: Callable[..., Graph],
) -> None:
    graph = graph_of(runner=FakeRunner(outcomes=BAD))
    graph.run(["ards", "mrds"], "2024-03-01", "2024-03-03")
    assert graph.verdicts("ards") == {
        "2024-03-01": ("SUCCEEDED", "good", "ERROR"),
        "2024-03-02": ("FAILED", "refused: a.csv: missing columns: pages", "ERROR"),
        "2024-03-03": ("SUCCEEDED", "good", "ERROR"),
    }
    found = graph.materialized("ards")
    assert found["2024-03-02"]["outcome"] == "refused"
    assert found["2024-03-02"]["reason"] == "a.csv: missing columns: pages"
    assert "rows" not in found["2024-03-02"]
    assert found["2024-03-03"]["rows"] == 30


@pytest.mark.parametrize("outcome", ["held_back", "no_model"])
def test_a_day_that_is_not_to_blame_is_a_warning(graph_of: Callable[..., Graph], outcome: Outcome) -> None:
    graph = graph_of(runner=FakeRunner(outcomes={"2024-03-02": (outcome, "because of another")}))
    graph.run(["mrds"], "2024-03-01", "2024-03-02")
    assert graph.verdicts("mrds")["2024-03-02"] == ("FAILED", f"{outcome}: because of another", "WARN")


def test_a_run_of_just_a_bad_day_fails_with_the_reason(
    graph_of: Callable[..., Graph],
) -> None:
    graph = graph_of(runner=FakeRunner(outcomes=BAD))
    result = graph.run(["ards"], "2024-03-02")
    assert not result.success
    assert failure_of(result) == (
        "2024-03-02 is refused: a.csv: missing columns: pages. "
        "Now: fix the delivery, then materialize the day again."
    )
    assert graph.materialized("ards") == {}
    assert graph.verdicts("ards")["2024-03-02"][0] == "FAILED"


@pytest.mark.parametrize("tag", BACKFILL_TAGS)
def test_a_bad_day_that_is_alone_in_a_run_of_a_backfill_is_an_outcome(
    graph_of: Callable[..., Graph], tag: str
) -> None:
    runner = FakeRunner(outcomes=BAD)
    graph = graph_of(runner=runner)
    result = graph.run(["ards", "mrds", "validation_report"], "2024-03-02", tags={tag: "all"})
    assert failure_of(result).startswith("1 day can't be used; all that can be done is done.")
    assert [one.step for one in runner.requests] == ["ards", "mrds", "validation_report"]
    assert graph.materialized("ards")["2024-03-02"]["outcome"] == "refused"
    assert graph.verdicts("ards")["2024-03-02"][0] == "FAILED"


def test_a_day_that_fails_alone_has_its_validation_report_all_the_same(
    graph_of: Callable[..., Graph],
) -> None:
    runner = FakeRunner(outcomes=BAD)
    graph = graph_of(runner=runner)
    assert not graph.run(["ards", "mrds", "validation_report"], "2024-03-02").success
    assert [one.step for one in runner.requests] == ["ards", "validation_report"]
    assert list(graph.materialized("validation_report")) == ["2024-03-02"]


class ReportsFail(FakeRunner):
    """Can't write reports."""

    def run(self, request: Any, *others: Any) -> Any:
        if request.step == "validation_report":
            raise ConnectionError("the report store is away")
        return super().run(request, *others)


def test_a_report_that_cannot_be_made_does_not_hide_why_the_day_failed(
    graph_of: Callable[..., Graph],
) -> None:
    graph = graph_of(runner=ReportsFail(outcomes=BAD))
    result = graph.run(["ards"], "2024-03-02")
    assert failure_of(result).startswith("2024-03-02 is refused: a.csv: missing columns: pages.")


@pytest.mark.parametrize(
    ("runner", "attempts"),
    [
        pytest.param(FakeRunner(outcomes=BAD), 1, id="a bad day"),
        pytest.param(Raising(PermanentError("one class only")), 1, id="a step that can't succeed"),
        pytest.param(Raising(ConnectionError("the cluster is gone")), 3, id="a lost connection"),
    ],
)
def test_only_what_may_pass_is_tried_again(
    graph_of: Callable[..., Graph], runner: FakeRunner, attempts: int
) -> None:
    graph = graph_of(runner=runner)
    job = dg.define_asset_job(
        "patient", selection=[graph.key("ards")], op_retry_policy=dg.RetryPolicy(max_retries=2)
    )
    definitions = dg.Definitions.merge(graph.definitions, dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("patient").execute_in_process(
        instance=graph.instance,
        partition_key="2024-03-02",
        run_config=QUIET,
        raise_on_error=False,
    )
    assert not result.success
    assert [one.step for one in runner.requests].count("ards") == attempts


def test_a_single_day_without_a_model_is_recorded_and_not_green(graph_of: Callable[..., Graph]) -> None:
    outcomes: dict[str, tuple[Outcome, str]] = {
        "2024-01-02": ("no_model", "no model had been promoted by this day")
    }
    graph = graph_of(runner=FakeRunner(outcomes=outcomes))
    result = graph.run(["predictions", "model_performance"], "2024-01-02")
    assert "2024-01-02 no model (predictions): no model had been promoted by this day" in failure_of(result)
    assert graph.materialized("predictions")["2024-01-02"]["outcome"] == "no_model"
    assert graph.partitions("predictions") == {"FAILED": ["2024-01-02"]}
    assert graph.verdicts("model_performance")["2024-01-02"][0] == "SUCCEEDED", "it says nothing of the model"


def test_a_verdict_counts_for_the_newest_materialization_of_its_day(tmp_path: Path) -> None:
    """Dagster forgets a verdict as outdated when a newer materialization of its day exists."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        graph = Graph(settings_in(tmp_path / "home"), instance, runner=FakeRunner(outcomes=BAD))
        check = dg.AssetCheckKey(graph.key("ards"), "data_quality")

        def current() -> dict[str, tuple[str, bool]]:
            infos = instance.event_log_storage.get_asset_check_partition_info([check])
            return {
                str(info.partition_key): (info.latest_execution_status.value, info.is_current)
                for info in infos
            }

        graph.run(["ards"], "2024-03-01", "2024-03-02")
        expected = {"2024-03-01": ("SUCCEEDED", True), "2024-03-02": ("FAILED", True)}
        assert current() == expected
        graph.run(["ards"], "2024-03-01", "2024-03-02")
        assert current() == expected
        # A failed run of just the day makes no materialization: its verdict is on what the day still holds.
        graph.run(["ards"], "2024-03-02")
        assert current() == expected


def test_a_wrong_as_of_is_refused_before_anything_starts(graph: Graph) -> None:
    result = graph.run(["model"], "2024-03-01", config={"as_of": "last tuesday"})
    assert failure_of(result) == "as_of 'last tuesday' is not a date; accepted is yyyy-mm-dd"
    assert graph.runner.requests == []
    assert graph.mlflow.opened == []


def test_the_as_of_date_reaches_the_step_and_the_tags_of_the_run(graph: Graph) -> None:
    result = graph.run(["model"], "2024-03-01", config={"as_of": "2024-03-15", "force": True})
    assert result.success
    (request,) = graph.runner.requests
    assert (request.step, request.days, request.as_of) == ("model", (D("2024-03-01"),), D("2024-03-15"))
    assert request.force
    assert request.mlflow_parent_run_id == "parent-run"
    assert request.run_id == result.run_id
    run = graph.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["ml_platform/as_of"] == "2024-03-15"


def test_a_monthly_model_has_no_as_of(graph: Graph) -> None:
    result = graph.run(["model"], "2024-02-01", "2024-04-01")
    (request,) = graph.runner.requests
    assert request.days == (D("2024-02-01"), D("2024-03-01"), D("2024-04-01"))
    assert request.as_of is None
    assert not request.force
    run = graph.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert "ml_platform/as_of" not in run.tags
    assert {month: status for month, (status, _, _) in graph.verdicts("model").items()} == {
        "2024-02-01": "SUCCEEDED",
        "2024-03-01": "SUCCEEDED",
        "2024-04-01": "SUCCEEDED",
    }


@pytest.mark.parametrize(
    ("months", "as_of", "reason"),
    [
        (("2024-02-01", "2024-03-01"), "2024-03-15", "an as-of date is for one month at once"),
        (("2024-02-01", "2024-02-01"), "2024-03-15", "doesn't lie in the month 2024-02"),
    ],
)
def test_an_as_of_date_for_two_months_or_another_month_is_refused(
    graph_of: Callable[..., Graph], tmp_path: Path, months: tuple[str, str], as_of: str, reason: str
) -> None:
    graph = graph_of(runner=SparklessRunner(settings_in(tmp_path / "home")))
    result = graph.run(["model"], *months, config={"as_of": as_of})
    assert reason in failure_of(result)
    assert graph.mlflow.failed == 1


def test_force_and_rescore_reach_the_steps(graph: Graph) -> None:
    assert graph.run(["predictions"], "2024-03-01", config={"force": True, "rescore": True}).success
    assert graph.run(["ards"], "2024-03-01", config={"force": True}).success
    assert graph.run(["predictions"], "2024-03-01").success
    found = [(one.step, one.force, one.rescore) for one in graph.runner.requests]
    assert found == [("predictions", True, True), ("ards", True, False), ("predictions", False, False)]


def test_an_error_that_is_not_the_datas_keeps_its_own_type(graph_of: Callable[..., Graph]) -> None:
    graph = graph_of(runner=Raising(ConnectionError("the cluster is gone")))
    result = graph.run(["ards"], "2024-03-01", "2024-03-02")
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is None
    error = event.step_failure_data.error
    assert error is not None
    assert error.cause is not None
    assert error.cause.message == "ConnectionError: the cluster is gone\n"
    assert graph.materialized("ards") == {}
