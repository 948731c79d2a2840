"""What a run with bad days leaves in Dagster: red partitions, an error that names them, nothing undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.retries import auto_reexecution_should_retry_run

from ml_platform.contract.assets import daily
from ml_platform.engine.step import StepResult
from ml_platform.graph import bad_days
from ml_platform.graph.bad_days import MAX_RETRIES_TAG, Bad, in_words
from ml_platform.graph.deliveries import ATTEMPTS
from ml_platform.graph.jobs import RUN_KEY_TAG, status_of
from ml_platform.graph.run_history import RunHistory
from ml_platform.storage.ledger import NOT_DONE, Outcome
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import FakeRunner, Graph, failure_of
from ml_platform_tests.small_platform import D, shop

FIRST, LAST = "2024-03-01", "2024-03-10"
DAYS = [str(D(FIRST) + timedelta(days=n)) for n in range(10)]
HELD: tuple[Outcome, str] = ("held_back", "the ARDS can't be used")
#: A refused, a blocked and an undelivered day, as the steps report them.
BAD: dict[str, tuple[Outcome, str]] = {
    "ards 2024-03-02": ("refused", "a.csv: missing columns: pages"),
    "ards 2024-03-05": ("blocked", "missing required value in spend: 12"),
    "2024-03-08": ("missing", "nothing has been delivered"),
    **{
        f"{asset} {day}": HELD
        for asset in ("mrds", "online_features", "predictions")
        for day in ("2024-03-02", "2024-03-05")
    },
}
RED = ["2024-03-02", "2024-03-05", "2024-03-08"]


def test_the_bad_days_of_a_range_are_failed_partitions_and_all_else_is_materialized(
    graph_of: Callable[..., Graph],
) -> None:
    runner = FakeRunner(outcomes=BAD)
    graph = graph_of(runner=runner)
    result = graph.run(daily(), FIRST, LAST)
    assert [request.step for request in runner.requests] == [*daily()], "all steps were done, in this order"
    expected = {"MATERIALIZED": [day for day in DAYS if day not in RED], "FAILED": RED}
    assert {asset: graph.partitions(asset) for asset in daily()} == dict.fromkeys(daily(), expected)
    (failed,) = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failed == "shop__model_performance", "the last step shows what the run has left"
    # The facts of a bad day are there all the same.
    assert graph.materialized("ards")["2024-03-05"]["reason"] == "missing required value in spend: 12"


def test_the_error_names_days_causes_and_commands(graph_of: Callable[..., Graph]) -> None:
    result = graph_of(runner=FakeRunner(outcomes=BAD)).run(daily(), FIRST, LAST)
    again = "ml-platform backfill shop --from {0} --to {0}".format
    accept = 'ml-platform accept shop 2024-03-05 --reason "…"'
    assert failure_of(result).splitlines() == [
        "3 days can't be used; all that can be done is done.",
        "2024-03-02 refused (ards): a.csv: missing columns: pages",
        f"  Correct the delivery in landing/shop/2024-03-02, then: {again('2024-03-02')}",
        "2024-03-05 blocked (ards): missing required value in spend: 12",
        f"  Correct the delivery in landing/shop/2024-03-05, then: {again('2024-03-05')}",
        f"  Or use the day as it is, and say why: {accept} && {again('2024-03-05')}",
        "2024-03-08 missing (ards): nothing has been delivered",
        f"  Put the day's files into landing/shop/2024-03-08, then: {again('2024-03-08')}",
    ]


def test_a_later_good_run_turns_the_days_green(graph_of: Callable[..., Graph]) -> None:
    graph = graph_of(runner=FakeRunner(outcomes=BAD))
    assert not graph.run(daily(), FIRST, LAST).success
    graph.runner.outcomes = {}
    assert graph.run(daily(), RED[0], RED[0]).success
    assert graph.partitions("mrds")["FAILED"] == RED[1:]
    assert graph.run(daily(), FIRST, LAST).success
    assert all(graph.partitions(asset) == {"MATERIALIZED": DAYS} for asset in daily())


@pytest.mark.parametrize("outcome", NOT_DONE)
def test_each_outcome_that_is_not_done_is_red(graph_of: Callable[..., Graph], outcome: Outcome) -> None:
    graph = graph_of(runner=FakeRunner(outcomes={"2024-03-02": (outcome, "so it is")}))
    assert not graph.run(["mrds"], FIRST, "2024-03-03").success
    assert graph.partitions("mrds") == {"MATERIALIZED": [DAYS[0], DAYS[2]], "FAILED": [DAYS[1]]}


@pytest.mark.parametrize("outcome", ["empty", "not_due"])
def test_days_that_are_as_they_should_be_are_green(graph_of: Callable[..., Graph], outcome: Outcome) -> None:
    graph = graph_of(runner=FakeRunner(outcomes={"2024-03-02": (outcome, "a Sunday")}))
    assert graph.run(daily(), FIRST, "2024-03-03").success
    assert graph.partitions("ards") == {"MATERIALIZED": DAYS[:3]}


def test_a_bad_day_of_an_asset_leaves_the_assets_above_it_green(graph_of: Callable[..., Graph]) -> None:
    outcomes: dict[str, tuple[Outcome, str]] = {"predictions 2024-03-02": ("no_model", "there is none")}
    graph = graph_of(runner=FakeRunner(outcomes=outcomes))
    graph.run(daily(), FIRST, "2024-03-03")
    red = [asset for asset in daily() if "FAILED" in graph.partitions(asset)]
    assert red == ["predictions", "model_performance"]


def test_a_bad_month_is_named_as_a_month(graph_of: Callable[..., Graph]) -> None:
    outcomes: dict[str, tuple[Outcome, str]] = {"2024-03-01": ("refused", "too few rows")}
    graph = graph_of(runner=FakeRunner(outcomes=outcomes))
    result = graph.run(["model"], "2024-02-01", "2024-04-01")
    assert failure_of(result).splitlines()[:2] == [
        "1 month can't be used; all that can be done is done.",
        "2024-03 refused (model): too few rows",
    ]
    assert "ml-platform backfill shop --from 2024-03-01" in failure_of(result)
    assert graph.partitions("model")["FAILED"] == ["2024-03-01"]


class OneStepFails(FakeRunner):
    """An error in the online store."""

    def run(self, request: Any, *others: Any) -> StepResult:
        if request.step == "online_features":
            raise RuntimeError("the database is gone")
        return super().run(request, *others)


def test_bad_days_are_red_although_another_step_ends_with_an_error(graph_of: Callable[..., Graph]) -> None:
    graph = graph_of(runner=OneStepFails(outcomes=BAD))
    result = graph.run(daily(), FIRST, LAST)
    assert graph.partitions("ards")["FAILED"] == RED
    assert graph.partitions("online_features") == {"FAILED": DAYS}
    assert not bad_days.only_bad_days(graph.instance, result.run_id)
    run = graph.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert MAX_RETRIES_TAG not in run.tags, "the error may pass"


def test_two_products_of_one_run_name_their_own_days(
    graph_of: Callable[..., Graph], instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Dagster puts assets of one partitions definition into one run, whatever their product."""
    from ml_platform.build import build_definitions

    other = shop(name="kiosk")
    runner = FakeRunner(outcomes={"2024-03-02": ("refused", "a.csv: no header")})
    definitions = build_definitions(
        settings_in(tmp_path / "home"),
        products={"shop": shop(), "kiosk": other},
        resource_overrides={"step_runner": runner, "mlflow": None},
    )
    keys = [dg.AssetKey([name, asset]) for name in ("shop", "kiosk") for asset in ("ards", "mrds")]
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=keys,
        instance=instance,
        tags={bad_days_range[0]: FIRST, bad_days_range[1]: "2024-03-03"},
        raise_on_error=False,
    )
    failures = {event.step_key: event for event in result.all_events if event.is_step_failure}
    assert sorted(failures) == ["kiosk__mrds", "shop__mrds"]
    for step, event in failures.items():
        told = event.step_failure_data.user_failure_data
        assert told is not None
        assert f"ml-platform backfill {step.partition('__')[0]} " in (told.description or "")


bad_days_range = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


# -- who looks at runs that failed -------------------------------------------------------------------


def test_a_run_that_failed_over_a_bad_day_is_not_tried_again(tmp_path: Path) -> None:
    overrides = {"run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": True}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        graph = Graph(settings_in(tmp_path / "home"), instance, runner=FakeRunner(outcomes=BAD))
        run = instance.get_run_by_id(graph.run(["ards", "mrds"], FIRST, LAST).run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert not auto_reexecution_should_retry_run(instance, run, None)
        broken = Graph(settings_in(tmp_path / "home"), instance, runner=OneStepFails(outcomes=BAD))
        run = instance.get_run_by_id(broken.run(daily(), FIRST, LAST).run_id)
        assert run is not None
        assert auto_reexecution_should_retry_run(instance, run, None)


def test_for_sensors_and_alerts_a_run_that_shows_bad_days_has_done_its_work(
    graph_of: Callable[..., Graph],
) -> None:
    assert ATTEMPTS > 1, "a success is looked at again, a failure is for people"
    graph = graph_of(runner=FakeRunner(outcomes=BAD))
    shown = graph.run(daily(), FIRST, LAST, tags={RUN_KEY_TAG: "shown"})
    graph.runner.outcomes = {}
    broken = graph_of(runner=OneStepFails(outcomes=BAD)).run(
        daily(), FIRST, LAST, tags={RUN_KEY_TAG: "broken"}
    )
    assert status_of(graph.instance, "shown") == dg.DagsterRunStatus.SUCCESS
    assert status_of(graph.instance, "broken") == dg.DagsterRunStatus.FAILURE
    assert status_of(graph.instance, "none") is None
    history = RunHistory()
    runs = {run.run_id: run for run in history.runs(graph.instance, datetime.now(tz=UTC))}
    assert history.has_done_its_work(graph.instance, runs[shown.run_id])
    assert not history.has_done_its_work(graph.instance, runs[broken.run_id])
    assert history.why_failed(graph.instance, runs[broken.run_id]) == "shop__online_features: RuntimeError"


# -- the words ---------------------------------------------------------------------------------------


def _missing(days: Sequence[date]) -> dict[str, dict[date, Bad]]:
    return {"ards": {day: Bad(0, "missing", f"nothing in landing/{day}") for day in days}}


def test_ten_years_without_a_delivery_are_one_line() -> None:
    days = [D("2010-01-01") + timedelta(days=n) for n in range(3653)]
    words = in_words(shop(), _missing(days))
    assert words.splitlines() == [
        "3,653 days can't be used; all that can be done is done.",
        "2010-01-01 to 2020-01-01 missing (ards): nothing in landing/2010-01-01",
        "  Put the day's files into landing/shop/<day>, then: "
        "ml-platform backfill shop --from 2010-01-01 --to 2020-01-01",
    ]


@pytest.mark.parametrize("count", [9, 10, 11, 1000])
def test_an_error_stays_short_and_counts_all_days(count: int) -> None:
    days = [D("2010-01-01") + timedelta(days=2 * n) for n in range(count)]
    lines = in_words(shop(), _missing(days)).splitlines()
    assert lines[0].startswith(f"{count:,} days can't be used")
    named = min(count, bad_days.NAMED)
    assert len(lines) == 1 + 2 * named + (count > named)
    if count > named:
        assert lines[-1] == f"And {count - named:,} more: ml-platform summary shop"


def test_a_day_is_named_with_the_first_asset_that_is_bad() -> None:
    day = D("2024-03-02")
    notes = {
        "predictions": {day: Bad(5, "held_back", "the MRDS")},
        "mrds": {day: Bad(1, "blocked", "too few rows")},
    }
    assert "2024-03-02 blocked (mrds): too few rows" in in_words(shop(), notes)
