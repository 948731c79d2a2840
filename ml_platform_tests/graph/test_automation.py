"""What starts runs by itself, ticked as the daemon does it: real definitions, files and instance."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._utils.schedules import schedule_execution_time_iterator

from ml_platform.contract.assets import daily
from ml_platform.contract.product import Product
from ml_platform.data_engineering import landing
from ml_platform.engine import local
from ml_platform.engine.evaluated_days import EvaluatedDays
from ml_platform.engine.step import StepRequest
from ml_platform.engine.steps.ards import Ards
from ml_platform.graph import deliveries, jobs, partitions, run_processes, schedules, sensors
from ml_platform.machine_learning import performance
from ml_platform.storage.ledger import DayRecord, Ledger, Outcome
from ml_platform.storage.tables import Tables
from ml_platform_tests.graph.stand_ins import Graph, requested_range
from ml_platform_tests.graph.test_run_processes import dead_process
from ml_platform_tests.small_platform import D, days, shop

# -- deliveries --------------------------------------------------------------------------------------


def deliver(graph: Graph, day: str | date, name: str = "visits.csv", text: str = "visit,day\n") -> Path:
    folder = graph.settings.landing_path / graph.product.name / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def tick(graph: Graph, cursor: str | None = None) -> tuple[list[tuple[str, str]], str | None, Any]:
    """The ranges that the landing sensor asks for, its cursor, and all else of the tick; runs are at work."""
    found = graph.sensor_tick("landing_sensor", cursor)
    asked = [requested_range(request) for request in found.run_requests]
    submit(graph, found)
    return [(str(first), str(last)) for first, last in asked], found.cursor, found


def submit(
    graph: Graph,
    found: Any,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    job: str = "shop_daily",
) -> None:
    """Add the requested runs to the instance as the daemon does, which drops a run key that it has seen."""
    for request in found.run_requests:
        tags = {**request.tags, jobs.RUN_KEY_TAG: request.run_key}
        if not graph.instance.get_runs(dg.RunsFilter(tags={jobs.RUN_KEY_TAG: request.run_key})):
            graph.instance.add_run(dg.DagsterRun(job_name=job, tags=tags, status=status))


def work(
    graph: Graph, *, outcome: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS
) -> list[tuple[str, str]]:
    """Let the requested daily runs make their days from what lies there now, by the step's own inputs."""
    ranges = []
    for run in graph.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        first, last = (run.tags[tag] for tag in partitions.RANGE_TAGS)
        if outcome == dg.DagsterRunStatus.SUCCESS:
            chosen = days(first, last)
            request = StepRequest(
                step="ards", product=graph.product.name, days=tuple(chosen), run_id=run.run_id
            )
            context = local.context_for(request, graph.product, graph.settings, no_session, lambda _: None)
            made = Ards(context).plan(chosen)
            records = [
                replace(
                    record(graph, "ards", day, made[day].outcome or "written"), inputs=made[day].fingerprint
                )
                for day in chosen
            ]
            Ledger(Tables(graph.settings.tables_root), graph.product.name).record(records)
        event = dg.DagsterEventType.RUN_SUCCESS if outcome == dg.DagsterRunStatus.SUCCESS else None
        graph.instance.report_dagster_event(
            DagsterEvent((event or dg.DagsterEventType.RUN_FAILURE).value, job_name=run.job_name), run.run_id
        )
        ranges.append((first, last))
    return sorted(ranges)


def no_session() -> Any:
    raise AssertionError("ticks start no Spark")


def seen(graph: Graph, chosen: Iterable[date]) -> str | None:
    """Deliver days, and let them be seen and made."""
    for day in chosen:
        deliver(graph, day)
    cursor = tick(graph)[1]
    work(graph)
    return cursor


def test_an_ordinary_morning_is_one_run_over_yesterday_and_the_day_whose_labels_came(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-10"))
    deliver(graph, "2024-03-11")
    deliver(graph, "2024-03-10", "labels.csv")
    asked, cursor, found = tick(graph, cursor)
    assert asked == [("2024-03-10", "2024-03-11")]
    assert [(one.asset_key.path, one.partition) for one in found.asset_events] == [
        (["shop", "landing"], "2024-03-10"),
        (["shop", "landing"], "2024-03-11"),
    ]


def test_a_tick_without_a_change_asks_for_nothing(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-10"))
    asked, again, found = tick(graph, cursor)
    assert asked == []
    assert found.skip_message == "nothing new: the newest delivered day is 2024-03-10"
    assert not found.asset_events
    assert tick(graph, again)[:2] == ([], again)


def test_before_the_first_delivery_there_is_nothing_to_do(graph: Graph) -> None:
    asked, _, found = tick(graph)
    assert asked == []
    assert found.skip_message == "nothing new: nothing has been delivered"


def test_late_labels_are_a_run_over_their_day(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-20"))
    deliver(graph, "2024-03-05", "late_labels.csv")
    assert tick(graph, cursor)[0] == [("2024-03-05", "2024-03-05")]


def test_a_correction_is_a_run_over_its_day(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-20"))
    deliver(graph, "2024-03-05", text="visit,day\n1,2024-03-05\n")
    assert tick(graph, cursor)[0] == [("2024-03-05", "2024-03-05")]


def test_a_file_that_was_taken_away_is_a_change_of_its_day(graph: Graph) -> None:
    extra = deliver(graph, "2024-03-05", "wrong.csv")
    cursor = seen(graph, days("2024-03-01", "2024-03-20"))
    extra.unlink()
    assert tick(graph, cursor)[0] == [("2024-03-05", "2024-03-05")]


def test_a_missing_day_in_between_comes_when_it_is_delivered(graph: Graph) -> None:
    for day in ("2024-03-01", "2024-03-02", "2024-03-04"):
        deliver(graph, day)
    asked, cursor, found = tick(graph)
    # One run; the day without a delivery gets its outcome in it, and isn't observed as landed.
    assert asked == [("2024-03-01", "2024-03-04")]
    assert [one.partition for one in found.asset_events] == ["2024-03-01", "2024-03-02", "2024-03-04"]
    work(graph)
    assert tick(graph, cursor)[0] == []
    deliver(graph, "2024-03-03")
    assert tick(graph, cursor)[0] == [("2024-03-03", "2024-03-03")]


def test_an_empty_folder_is_no_delivery_until_a_file_is_in_it(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-02"))
    deliver(graph, "2024-03-03", "visits.csv.part")
    asked, cursor, _ = tick(graph, cursor)
    assert asked == []
    deliver(graph, "2024-03-03")
    assert tick(graph, cursor)[0] == [("2024-03-03", "2024-03-03")]


def test_a_long_history_landed_at_once_is_one_run(graph: Graph) -> None:
    chosen = days("2024-01-01", "2024-12-31")
    for day in chosen:
        deliver(graph, day)
    asked, cursor, found = tick(graph)
    assert asked == [("2024-01-01", "2024-12-31")]
    assert len(found.asset_events) <= deliveries.WATCHED_DAYS
    assert tick(graph, cursor)[0] == []


def test_a_history_that_lands_before_the_known_days_is_one_run_over_it(graph: Graph) -> None:
    cursor = seen(graph, days("2024-06-01", "2024-08-31"))
    for day in days("2024-01-01", "2024-04-30"):
        deliver(graph, day)
    asked, cursor, _ = tick(graph, cursor)
    assert asked == [("2024-01-01", "2024-04-30")]
    assert tick(graph, cursor)[0] == []


@pytest.mark.slow
def test_a_tick_over_two_thousand_days_looks_at_the_files_of_the_newest_and_of_some_older_ones(
    graph_of: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(product=shop(start="2018-01-01", model__first_month="2018-02"))
    chosen = days("2018-01-01", "2023-06-23")
    assert len(chosen) == 2000
    for day in chosen:
        deliver(graph, day)
    looked_at: list[date] = []
    looks = landing.looks

    def counted(product: Product, folder: Path, some: Collection[date]) -> dict[date, landing.Look]:
        looked_at.extend(some)
        return looks(product, folder, some)

    monkeypatch.setattr(landing, "looks", counted)
    asked, cursor, found = tick(graph)
    assert asked == [("2018-01-01", "2023-06-23")]
    assert looked_at == chosen[-62:]
    assert len(found.asset_events) == 62
    assert cursor is not None
    assert len(cursor) < 5000

    assert tick(graph, cursor)[0] == [], "the first run is at work"
    work(graph)
    cursor = tick(graph, cursor)[1]

    looked_at.clear()
    deliver(graph, "2023-06-24")
    deliver(graph, "2023-06-23", "labels.csv")
    asked, cursor, found = tick(graph, cursor)
    assert asked == [("2023-06-23", "2023-06-24")]
    assert len(looked_at) == deliveries.WATCHED_DAYS + deliveries.OLDER_A_TICK
    assert len(found.asset_events) == 2
    work(graph)

    deliver(graph, "2018-01-01", "late_labels.csv")
    asked = []
    for _ in range(2000 // deliveries.OLDER_A_TICK + 1):
        found, cursor, _ = tick(graph, cursor)
        asked += found
    assert asked == [("2018-01-01", "2018-01-01")]


def test_changed_days_far_apart_are_runs_of_their_own(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-04-20"))
    for day in ("2024-03-05", "2024-03-10", "2024-04-19", "2024-04-20"):
        deliver(graph, day, "correction.csv")
    asked, _, found = tick(graph, cursor)
    assert asked == [("2024-03-05", "2024-03-10"), ("2024-04-19", "2024-04-20")]
    assert len({request.run_key for request in found.run_requests}) == 2


def test_too_many_scattered_changes_are_one_run_over_all(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-04-30"))
    scattered = ["2024-03-01", "2024-03-10", "2024-03-19", "2024-03-28", "2024-04-06", "2024-04-15"]
    for day in scattered:
        deliver(graph, day, "correction.csv")
    assert tick(graph, cursor)[0] == [("2024-03-01", "2024-04-15")]


def test_days_outside_the_history_are_ignored(graph: Graph) -> None:
    today = datetime.now(UTC).date()
    for day in ("2023-12-31", "2024-03-01", today, today + timedelta(days=1), "2999-01-01"):
        deliver(graph, day)
    deliver(graph, "not-a-day")
    asked, _, found = tick(graph)
    assert asked == [("2024-03-01", "2024-03-01")]
    assert [one.partition for one in found.asset_events] == ["2024-03-01"]


def test_days_after_a_finished_history_are_ignored(graph_of: Callable[..., Graph]) -> None:
    graph = graph_of(product=shop(end="2024-03-31"))
    for day in ("2024-03-31", "2024-04-01"):
        deliver(graph, day)
    assert tick(graph)[0] == [("2024-03-31", "2024-03-31")]


def test_what_was_seen_is_known_after_a_restart(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-10"))
    restarted = Graph(graph.settings, graph.instance)
    assert tick(restarted, cursor)[0] == []
    deliver(graph, "2024-03-11")
    assert tick(restarted, cursor)[0] == [("2024-03-11", "2024-03-11")]


def test_a_delivery_that_returns_to_an_earlier_state_is_made_again(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-06"))
    asked = []
    for _ in range(3):
        wrong = deliver(graph, "2024-03-05", "wrong.csv")
        found, cursor, _ = tick(graph, cursor)
        asked += found
        assert work(graph) == [("2024-03-05", "2024-03-05")]
        wrong.unlink()
        found, cursor, _ = tick(graph, cursor)
        asked += found
        assert work(graph) == [("2024-03-05", "2024-03-05")]
    assert asked == [("2024-03-05", "2024-03-05")] * 6
    made = Ledger(Tables(graph.settings.tables_root), "shop").latest("ards")[D("2024-03-05")]
    stamp = landing.stamp(graph.product, graph.settings.landing_path, D("2024-03-05"))
    assert made.inputs.partition("/")[0] == stamp


def test_a_file_that_cp_restores_with_its_times_is_made_again(graph: Graph) -> None:
    original = deliver(graph, "2024-03-05", text="visit,day\n1,2024-03-05\n")
    saved = Path(shutil.copy2(original, graph.settings.home / "saved.csv"))
    cursor = seen(graph, days("2024-03-01", "2024-03-04"))
    original.write_text("visit,day\n2,2024-03-05\n3,2024-03-05\n")
    asked, cursor, _ = tick(graph, cursor)
    work(graph)
    shutil.copy2(saved, original)
    again, cursor, _ = tick(graph, cursor)
    assert asked == again == [("2024-03-05", "2024-03-05")]
    assert work(graph) == [("2024-03-05", "2024-03-05")]


def test_a_state_that_returns_while_the_other_is_being_made_is_made_in_the_end(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-05"))
    wrong = deliver(graph, "2024-03-05", "wrong.csv")
    cursor = tick(graph, cursor)[1]
    text = wrong.read_text()
    wrong.unlink()
    asked, cursor, _ = tick(graph, cursor)
    assert asked == [], "the day is as it was last made"
    # The run has read the wrong file before that was taken away.
    wrong.write_text(text)
    work(graph)
    wrong.unlink()
    asked, cursor, _ = tick(graph, cursor)
    assert asked == [("2024-03-05", "2024-03-05")]


def test_a_wrong_file_that_comes_while_its_run_is_queued_goes_and_comes_again_is_made(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-05"))
    wrong = deliver(graph, "2024-03-05", "wrong.csv")
    facts = wrong.stat()
    cursor = tick(graph, cursor)[1]
    wrong.unlink()
    work(graph)  # finds the day up to date
    deliver(graph, "2024-03-05", "wrong.csv")
    os.utime(wrong, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert tick(graph, cursor)[0] == [("2024-03-05", "2024-03-05")]


def test_after_a_reset_of_the_cursor_just_what_is_pending_is_requested(graph: Graph) -> None:
    seen(graph, days("2024-03-01", "2024-03-20"))
    assert tick(graph, None)[0] == []
    deliver(graph, "2024-03-05", "correction.csv")
    asked, cursor, _ = tick(graph, None)
    assert asked == [("2024-03-05", "2024-03-05")]
    # The run fails, and a person resets the cursor.
    work(graph, outcome=dg.DagsterRunStatus.FAILURE)
    assert tick(graph, cursor)[0] == [], "a failed run is for retries and people"
    assert tick(graph, None)[0] == [("2024-03-05", "2024-03-05")]
    assert work(graph) == [("2024-03-05", "2024-03-05")]
    assert tick(graph, None)[0] == []


def test_a_cursor_of_an_earlier_version_requests_what_is_pending(graph: Graph) -> None:
    seen(graph, days("2024-03-01", "2024-03-05"))
    deliver(graph, "2024-03-05", "b.csv")
    old = json.dumps({"first": "2024-03-01", "last": "2024-03-05", "stamps": {"2024-03-05": "x"}})
    assert tick(graph, old)[0] == [("2024-03-05", "2024-03-05")]


def test_a_request_whose_run_never_came_to_be_is_made_again(graph: Graph) -> None:
    seen(graph, days("2024-03-01", "2024-03-05"))
    deliver(graph, "2024-03-05", "b.csv")
    lost = graph.sensor_tick("landing_sensor")
    asked, cursor, found = tick(graph, lost.cursor)
    assert asked == [("2024-03-05", "2024-03-05")]
    assert found.run_requests[0].run_key != lost.run_requests[0].run_key
    asked, _, found = tick(graph, cursor)
    assert asked == []
    assert (
        found.skip_message
        == "1 days wait for runs that were requested: the newest delivered day is 2024-03-05"
    )


def test_a_day_that_successful_runs_leave_pending_is_not_requested_for_ever(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-05"))
    deliver(graph, "2024-03-05", "b.csv")
    asked = []
    for _ in range(2 * deliveries.ATTEMPTS):
        found, cursor, _ = tick(graph, cursor)
        asked += found
        for run in graph.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            event = DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name=run.job_name)
            graph.instance.report_dagster_event(event, run.run_id)
    assert asked == [("2024-03-05", "2024-03-05")] * deliveries.ATTEMPTS


def test_labels_that_come_before_their_rows_are_looked_at_once(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-05"))
    deliver(graph, "2024-03-06", "labels.csv", "visit,day,bought\n1,2024-03-06,1\n")
    asked, cursor, _ = tick(graph, cursor)
    assert asked == [("2024-03-06", "2024-03-06")]
    work(graph)
    for _ in range(3):
        asked, cursor, _ = tick(graph, cursor)
        assert asked == []
    deliver(graph, "2024-03-06")
    assert tick(graph, cursor)[0] == [("2024-03-06", "2024-03-06")]


def test_a_day_that_is_withdrawn_is_made_again(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-05"))
    shutil.rmtree(graph.settings.landing_path / "shop" / "2024-03-03")
    (graph.settings.landing_path / "shop" / "2024-03-05" / "visits.csv").unlink()
    asked, cursor, found = tick(graph, cursor)
    assert asked == [("2024-03-03", "2024-03-05")]
    assert found.asset_events == []
    work(graph)
    assert tick(graph, cursor)[0] == []


def test_files_that_all_vanish_look_like_a_disk_that_is_away(graph: Graph) -> None:
    cursor = seen(graph, days("2024-03-01", "2024-03-20"))
    for day in days("2024-03-05", "2024-03-18"):
        shutil.rmtree(graph.settings.landing_path / "shop" / str(day))
    assert tick(graph, cursor)[0] == []
    shutil.rmtree(graph.settings.landing_path / "shop")
    assert tick(graph, cursor)[0] == []


def test_the_requested_run_does_all_daily_assets_over_its_days(graph: Graph) -> None:
    for day in days("2024-03-10", "2024-03-11"):
        deliver(graph, day)
    (request,) = tick(graph)[2].run_requests
    result = graph.execute(request, "shop_daily")
    assert result.success
    expected = [(asset, "2024-03-10", "2024-03-11") for asset in daily()]
    assert sorted(graph.runner.asked) == sorted(expected)
    assert not any(one.force or one.rescore for one in graph.runner.requests)
    assert list(graph.materialized("mrds")) == ["2024-03-11", "2024-03-10"]


def test_the_daily_job_mends_one_day_without_touching_the_model(graph: Graph) -> None:
    result = graph.definitions.resolve_job_def("shop_daily").execute_in_process(
        instance=graph.instance, partition_key="2024-03-10"
    )
    assert result.success
    assert {step for step, _, _ in graph.runner.asked} == set(daily())


def test_the_maintenance_job_asks_its_step_for_no_days(graph: Graph) -> None:
    job = graph.definitions.resolve_job_def("shop_maintenance")
    result = job.execute_in_process(instance=graph.instance)
    assert result.success
    (request,) = graph.runner.requests
    assert (request.step, request.days, request.run_id) == ("maintenance", (), result.run_id)


def labels_after_the_evaluation(graph: Graph) -> str | None:
    """Days to 12 March have been evaluated, and the labels of the 11th come after that; the cursor."""
    chosen = days("2024-03-01", "2024-03-12")
    cursor = seen(graph, chosen)
    for asset in ("predictions", "mrds"):
        write_ledger(graph, *(record(graph, asset, day, fingerprint=f"{day}") for day in chosen))
    ledger = Ledger(Tables(graph.settings.tables_root), "shop")
    there = EvaluatedDays.of(ledger, chosen)
    for day in chosen[-4:]:
        made_from = there.evaluated(graph.product, day, None).inputs
        evaluated = record(graph, "model_performance", day)
        write_ledger(graph, dataclasses.replace(evaluated, inputs=made_from))
    asked, cursor, _ = tick(graph, cursor)
    assert asked == []

    # With a delay of one day the labels of the 11th belong to the window of the 12th, and to no other.
    write_ledger(graph, record(graph, "mrds", "2024-03-11", fingerprint="with labels"))
    return cursor


def test_the_newest_evaluation_is_asked_for_again_when_its_labels_come_after_it(graph: Graph) -> None:
    cursor = labels_after_the_evaluation(graph)
    run_id = unfinished_run(graph, job_name="shop_daily")
    assert tick(graph, cursor)[0] == [], "the run that brings the labels is at work"
    graph.instance.delete_run(run_id)
    asked, cursor, found = tick(graph, cursor)
    assert asked == [("2024-03-12", "2024-03-12")]
    (request,) = found.run_requests
    assert request.asset_selection == [graph.key("model_performance")]
    assert tick(graph, cursor)[0] == [], "that run is at work"

    ledger = Ledger(Tables(graph.settings.tables_root), "shop")
    day = date(2024, 3, 12)
    there = EvaluatedDays.of(ledger, days("2024-03-01", "2024-03-12"))
    now = there.evaluated(graph.product, day, None).inputs
    for run in graph.instance.get_runs():
        graph.instance.delete_run(run.run_id)
    write_ledger(graph, dataclasses.replace(record(graph, "model_performance", day), inputs=now))
    assert tick(graph, cursor)[0] == []


def test_an_evaluation_whose_run_failed_is_asked_for_again_some_times(graph: Graph) -> None:
    cursor = labels_after_the_evaluation(graph)
    asked = []
    for _ in range(6):
        found, cursor, _ = tick(graph, cursor)
        asked += found
        work(graph, outcome=dg.DagsterRunStatus.FAILURE)
    assert asked == [("2024-03-12", "2024-03-12")] * deliveries.ATTEMPTS


def test_a_day_that_waits_for_people_keeps_no_evaluation_waiting(graph: Graph) -> None:
    cursor = labels_after_the_evaluation(graph)
    deliver(graph, "2024-03-05", "b.csv")
    asked, cursor, _ = tick(graph, cursor)
    assert asked == [("2024-03-05", "2024-03-05")]
    assert tick(graph, cursor)[0] == [], "its run is at work"
    work(graph, outcome=dg.DagsterRunStatus.FAILURE)
    assert tick(graph, cursor)[0] == [("2024-03-12", "2024-03-12")]


# -- retraining --------------------------------------------------------------------------------------


def evaluation(day: str, value: float | None, **changes: Any) -> dict[str, Any]:
    """A row of the table ``model_performance``, as the step writes it, of a champion as of 1 February."""
    row: dict[str, Any] = {
        "event_day": D(day),
        "metric": "f1",
        "rows": 1500,
        "labelled": 1200,
        "positives": 300,
        "value": value,
        "lower": None,
        "upper": None,
        "precision": 0.5,
        "recall": 0.5,
        "roc_auc": 0.7,
        "tp": 150,
        "fp": 150,
        "fn": 150,
        "tn": 750,
        "baseline": 0.4,
        "sampled": False,
        "models": ["2024-02-01"],
        "champion_as_of": D("2024-02-01"),
        "champion_rows": 1200,
        "champion_positives": 300,
        "champion_value": value,
        "verdict": "passed" if value is not None and value >= 0.6 else "failed",
        "fingerprint": f"evaluation-of-{day}",
    }
    return row | changes


def evaluate(graph: Graph, *rows: dict[str, Any]) -> None:
    table = performance.table(Tables(graph.settings.tables_root), graph.product)
    listed = ", ".join(f"'{row['event_day']}'" for row in rows)
    table.replace(f"event_day IN ({listed})", rows)


def record(
    graph: Graph, asset: str, day: str | date, outcome: Outcome = "written", **parts: Any
) -> DayRecord:
    return DayRecord(
        asset=asset,
        day=D(day) if isinstance(day, str) else day,
        outcome=outcome,
        inputs="i",
        contract="c",
        code_version="1",
        **parts,
    )


def write_ledger(graph: Graph, *records: DayRecord) -> None:
    Ledger(Tables(graph.settings.tables_root), graph.product.name).record(records)


def trained(graph: Graph, as_of: str, outcome: Outcome = "written") -> None:
    write_ledger(graph, record(graph, "model", as_of, outcome))


def retrain_tick(graph: Graph, cursor: str | None = None) -> tuple[list[str], str, str | None]:
    """The as-of dates that the retrain sensor asks for, what it says, and its cursor; the runs fail."""
    found = graph.sensor_tick("retrain_sensor", cursor)
    asked = [request.tags["ml_platform/as_of"] for request in found.run_requests]
    submit(graph, found, dg.DagsterRunStatus.FAILURE, "shop_model")
    return asked, found.skip_message or "", found.cursor


@pytest.fixture
def failing(graph: Graph) -> Graph:
    """Days to 12 March have landed, the model of February was trained, and the newest evaluation fails."""
    for day in days("2024-03-01", "2024-03-12"):
        deliver(graph, day)
    trained(graph, "2024-02-01")
    evaluate(graph, evaluation("2024-03-11", 0.7), evaluation("2024-03-12", 0.4))
    return graph


def test_a_failed_evaluation_of_the_newest_day_requests_a_retrain(failing: Graph) -> None:
    found = failing.sensor_tick("retrain_sensor")
    (request,) = found.run_requests
    assert request.partition_key == "2024-03-01"
    assert request.run_config["ops"] == {"shop__model": {"config": {"as_of": "2024-03-13", "force": False}}}
    assert request.tags["ml_platform/as_of"] == "2024-03-13"
    assert request.run_key.startswith("2024-03-12/evaluation-of-2024-03-12/")

    result = failing.execute(request, "shop_model")
    assert result.success
    (asked,) = failing.runner.requests
    assert (asked.step, asked.days, asked.as_of) == ("model", (D("2024-03-01"),), D("2024-03-13"))


@pytest.mark.parametrize("day", ["2024-03-10", "2024-03-11", "2024-03-12"])
def test_an_evaluation_of_one_of_the_newest_three_landed_days_counts(failing: Graph, day: str) -> None:
    passed = [evaluation(str(one), 0.7) for one in days("2024-03-10", "2024-03-12") if str(one) != day]
    evaluate(failing, *passed, evaluation(day, 0.4))
    assert retrain_tick(failing)[0] == [str(D(day) + timedelta(days=1))]


def test_a_backfill_of_the_past_never_retrains(failing: Graph) -> None:
    past = [evaluation(str(day), 0.2) for day in days("2024-02-01", "2024-03-09")]
    recent = [evaluation(str(day), 0.7) for day in days("2024-03-10", "2024-03-12")]
    evaluate(failing, *past, *recent)
    asked, why, _ = retrain_tick(failing)
    assert asked == []
    assert "2024-03-12: f1 0.700 of the champion as of 2024-02-01 is not below 0.6" in why
    assert "2024-03-09" not in why


def test_a_folder_of_a_day_to_come_hides_no_landed_day(failing: Graph) -> None:
    today = datetime.now(UTC).date()
    for day in (today, today + timedelta(days=1), date(2999, 1, 1)):
        deliver(failing, day)
    assert retrain_tick(failing)[0] == ["2024-03-13"]


def test_a_failed_evaluation_requests_a_retrain_once(failing: Graph) -> None:
    asked, _, cursor = retrain_tick(failing)
    assert asked == ["2024-03-13"]
    asked, why, again = retrain_tick(failing, cursor)
    assert (asked, again) == ([], cursor)
    assert "was requested before" in why


def test_each_failed_evaluation_is_asked_for_though_those_before_came_to_nothing(failing: Graph) -> None:
    """Runs that crash leave no attempt behind, and must not keep each other's evaluations alive."""
    evaluate(failing, *(evaluation(f"2024-03-{day}", 0.4) for day in (10, 11, 12)))
    asked, cursor = [], None
    for _ in range(5):
        found, _, cursor = retrain_tick(failing, cursor)
        asked += found
    assert asked == ["2024-03-11", "2024-03-12", "2024-03-13"]


def test_the_memory_of_requests_stays_small(failing: Graph) -> None:
    cursor: str | None = json.dumps([f"2024-01-01/{n}" for n in range(sensors.REMEMBERED_EVALUATIONS)])
    _, _, cursor = retrain_tick(failing, cursor)
    remembered = json.loads(cursor or "")
    assert len(remembered) == sensors.REMEMBERED_EVALUATIONS
    assert list(remembered)[-1] == "2024-03-12/evaluation-of-2024-03-12"


def test_a_retrain_whose_run_never_came_to_be_is_requested_again(failing: Graph) -> None:
    lost = failing.sensor_tick("retrain_sensor")
    asked, _, cursor = retrain_tick(failing, lost.cursor)
    assert asked == ["2024-03-13"]
    assert retrain_tick(failing, cursor)[0] == []


def test_after_a_reset_of_the_cursor_a_retrain_that_came_to_nothing_is_requested_again(
    failing: Graph,
) -> None:
    keys = set()
    for _ in range(2):
        found = failing.sensor_tick("retrain_sensor")
        submit(failing, found, dg.DagsterRunStatus.FAILURE, "shop_model")
        keys |= {request.run_key for request in found.run_requests}
    assert len(failing.instance.get_runs()) == len(keys) == 2


@pytest.mark.parametrize("outcome", ["written", "refused"])
def test_within_the_cooldown_nothing_is_trained(failing: Graph, outcome: Outcome) -> None:
    trained(failing, "2024-03-07", outcome)  # six days before the 13th, and the cooldown is seven
    asked, why, cursor = retrain_tick(failing)
    assert (asked, cursor) == ([], None)
    assert "no retrain: the cooldown of 7 days after the training as of 2024-03-07" in why


def test_after_the_cooldown_a_retrain_is_requested(failing: Graph) -> None:
    trained(failing, "2024-03-06")
    assert retrain_tick(failing)[0] == ["2024-03-13"]


def test_too_little_evidence_is_no_reason_to_retrain(failing: Graph) -> None:
    evaluate(failing, evaluation("2024-03-12", 0.1, champion_rows=49))
    asked, why, _ = retrain_tick(failing)
    assert asked == []
    assert "insufficient evidence of the champion as of 2024-02-01: 49 labelled rows" in why


def test_a_day_that_was_not_evaluated_is_named(failing: Graph) -> None:
    deliver(failing, "2024-03-13")
    evaluate(failing, evaluation("2024-03-12", 0.7))
    asked, why, _ = retrain_tick(failing)
    assert asked == []
    assert "2024-03-13: not evaluated yet" in why


def test_without_deliveries_there_is_nothing_to_retrain(graph: Graph) -> None:
    assert retrain_tick(graph)[:2] == ([], "nothing has been delivered yet")


def unfinished_run(graph: Graph, **parts: Any) -> str:
    status = parts.pop("status", dg.DagsterRunStatus.STARTED)
    run = dg.DagsterRun(status=status, **({"job_name": "shop_model"} | parts))
    graph.instance.add_run(run)
    return run.run_id


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_while_a_model_is_being_trained_no_retrain_is_requested(
    failing: Graph, status: dg.DagsterRunStatus
) -> None:
    unfinished_run(failing, status=status)
    asked, why, cursor = retrain_tick(failing)
    assert (asked, cursor) == ([], None)
    assert "no retrain: a training is in progress" in why


def test_a_backfill_of_the_model_from_the_ui_is_a_training_too(failing: Graph) -> None:
    unfinished_run(failing, job_name="__ASSET_JOB", asset_selection={failing.key("model")})
    assert retrain_tick(failing)[0] == []


def test_other_runs_and_other_products_are_no_obstacle(failing: Graph) -> None:
    unfinished_run(failing, job_name="shop_daily", asset_selection={failing.key("ards")})
    unfinished_run(failing, job_name="bakery_model")
    unfinished_run(failing, status=dg.DagsterRunStatus.FAILURE)
    assert retrain_tick(failing)[0] == ["2024-03-13"]


def test_a_run_whose_process_was_killed_is_ended_and_is_no_obstacle(failing: Graph) -> None:
    run_id = unfinished_run(failing)
    gone = replace(run_processes.Process.own(), pid=dead_process())
    failing.instance.add_run_tags(run_id, {run_processes.PROCESS_TAG: f"{gone}:{run_id}"})
    assert retrain_tick(failing)[0] == ["2024-03-13"]
    run = failing.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.FAILURE


# -- the month's model -------------------------------------------------------------------------------


def labelled(graph: Graph, chosen: Iterable[date], labels: int = 90) -> None:
    write_ledger(
        graph, *(record(graph, "mrds", day, counts={"rows": 100, "labelled": labels}) for day in chosen)
    )


def schedule_tick(graph: Graph, day: str) -> Any:
    """The tick of eight o'clock on a day, in the product's time zone."""
    at = datetime.fromisoformat(f"{day}T08:00").replace(tzinfo=ZoneInfo(graph.product.timezone))
    schedule = graph.repository.get_schedule_def("shop_model_schedule")
    with dg.build_schedule_context(
        instance=graph.instance, scheduled_execution_time=at, repository_def=graph.repository
    ) as context:
        return schedule.evaluate_tick(context)


def test_on_the_first_of_a_month_the_model_waits_for_labels(graph: Graph) -> None:
    # On 1 April the labels of 30 March are the newest that can be known.
    labelled(graph, days("2024-03-01", "2024-03-28"))
    labelled(graph, [D("2024-03-29")], labels=0)
    found = schedule_tick(graph, "2024-04-01")
    assert found.run_requests == []
    assert found.skip_message == "waiting for the labels of 2 days, the first is 2024-03-29"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Chicago"])
def test_with_complete_labels_the_model_of_the_month_is_trained(
    graph_of: Callable[..., Graph], zone: str
) -> None:
    graph = graph_of(product=shop(timezone=zone))
    labelled(graph, days("2024-03-01", "2024-03-30"))
    (request,) = schedule_tick(graph, "2024-04-01").run_requests
    assert request.partition_key == "2024-04-01"
    assert request.tags["ml_platform/reason"] == "all labels before 2024-04-01 that can be known have come"

    assert graph.execute(request, "shop_model").success
    (asked,) = graph.runner.requests
    assert (asked.step, asked.days, asked.as_of) == ("model", (D("2024-04-01"),), None)


def test_a_day_without_rows_has_no_labels_to_wait_for(graph: Graph) -> None:
    labelled(graph, days("2024-03-01", "2024-03-29"))
    write_ledger(graph, record(graph, "mrds", "2024-03-30", "empty", counts={"rows": 0, "labelled": 0}))
    assert len(schedule_tick(graph, "2024-04-01").run_requests) == 1


def test_overdue_labels_are_waited_for_until_the_fifth(graph: Graph) -> None:
    labelled(graph, days("2024-03-01", "2024-03-29"))
    assert schedule_tick(graph, "2024-04-04").run_requests == []
    (request,) = schedule_tick(graph, "2024-04-05").run_requests
    assert request.partition_key == "2024-04-01"
    assert request.tags["ml_platform/reason"] == "overdue: 1 days have no labels, the first is 2024-03-30"


def test_labels_that_take_longer_than_a_month_are_waited_for_by_their_own_month(
    graph_of: Callable[..., Graph],
) -> None:
    graph = graph_of(product=shop(source__label_delay_days=45, model__first_month="2024-03"))
    # 46 days before 1 April is 15 February.
    labelled(graph, days("2024-02-01", "2024-02-14"))
    found = schedule_tick(graph, "2024-04-01")
    assert found.skip_message == "waiting for the labels of 1 days, the first is 2024-02-15"
    labelled(graph, [D("2024-02-15")])
    assert len(schedule_tick(graph, "2024-04-01").run_requests) == 1


def test_a_trained_month_is_not_trained_again(graph: Graph) -> None:
    labelled(graph, days("2024-03-01", "2024-03-30"))
    trained(graph, "2024-04-01")
    found = schedule_tick(graph, "2024-04-02")
    assert found.run_requests == []
    assert found.skip_message == "the model of 2024-04 has been trained"


def test_a_retrain_is_not_the_months_model(graph: Graph) -> None:
    labelled(graph, days("2024-03-01", "2024-03-30"))
    trained(graph, "2024-04-02")
    assert len(schedule_tick(graph, "2024-04-03").run_requests) == 1


def test_a_refused_training_is_named_and_not_repeated_every_day(graph: Graph) -> None:
    labelled(graph, days("2024-03-01", "2024-03-30"))
    write_ledger(graph, record(graph, "model", "2024-04-01", "refused", reason="12 rows; needed are 50"))
    found = schedule_tick(graph, "2024-04-02")
    assert found.run_requests == []
    assert found.skip_message == "the model of 2024-04 was refused: 12 rows; needed are 50"


def test_before_the_first_month_there_is_no_model(graph: Graph) -> None:
    found = schedule_tick(graph, "2024-01-05")
    assert found.run_requests == []
    assert found.skip_message == "the first model is that of 2024-02"


def test_the_schedule_ticks_every_morning_from_the_first_until_labels_are_overdue(graph: Graph) -> None:
    schedule = graph.repository.get_schedule_def("shop_model_schedule")
    start = datetime(2024, 3, 31, 12, tzinfo=UTC).timestamp()
    ticks = schedule_execution_time_iterator(start, schedule.cron_schedule, schedule.execution_timezone)
    mornings = [next(ticks) for _ in range(schedules.OVERDUE_ON)]
    assert [f"{morning:%m-%d %H:%M}" for morning in mornings] == [f"04-0{n} 08:00" for n in range(1, 6)]
