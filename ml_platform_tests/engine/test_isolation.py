"""One bad day stops one day: whatever a step's own functions raise for a day, the other days go on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from ml_platform.contract.faults import FAILING_DAYS, FailingDaysError, Isolation, ends_the_run, in_words
from ml_platform.data_engineering import ards_in_tasks, entity_days, landing
from ml_platform.engine import local
from ml_platform.engine.step import StepRequest, StepResult
from ml_platform.machine_learning import evaluation, scoring_in_tasks, training
from ml_platform.mlops.drift import drift_report
from ml_platform.mlops.quality import anomalies as history_rules
from ml_platform.mlops.quality import validation, validation_report
from ml_platform.online_store import publish
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, carry_by, days, deliver_visits, shop

HEADER = "visit,day,customer,spend,pages,channel\n"


class InjectedError(Exception):
    """What a function of a day raises in these tests."""


# -- where it stops ----------------------------------------------------------------------------------


def test_each_bad_day_of_many_is_found_and_the_others_are_done_in_few_goes() -> None:
    chosen, bad = days("2024-01-01", "2024-04-30"), {D("2024-01-01"), D("2024-02-10"), D("2024-02-11")}
    done: list[date] = []
    blamed: dict[date, Exception] = {}
    goes = 0

    def do(some: Sequence[date]) -> None:
        nonlocal goes
        goes += 1
        if bad.intersection(some):
            raise InjectedError(str(min(some)))
        done.extend(some)

    Isolation(lambda day, error: blamed.update({day: error})).work(chosen, do)
    assert set(blamed) == bad
    assert sorted(done) == [day for day in chosen if day not in bad]
    assert goes <= 1 + 2 * len(bad) * 7  # 2**7 > 121 days


def test_days_that_all_fail_are_not_to_blame() -> None:
    blamed: list[date] = []

    def do(_: Sequence[date]) -> None:
        raise InjectedError("whatever the day")

    with pytest.raises(FailingDaysError, match="none was done"):
        Isolation(lambda day, _: blamed.append(day)).work(days("2024-01-01", "2024-12-31"), do)
    assert len(blamed) == FAILING_DAYS


def chained(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("the lock"),
        chained(ValueError("can't write"), OSError(errno.ENOSPC, "No space left on device")),
        OSError("Generic LocalFileSystem error: No space left on device (os error 28)"),
    ],
)
def test_what_would_stop_every_day_ends_the_run(error: Exception) -> None:
    assert ends_the_run(error)
    with pytest.raises(type(error)):
        Isolation(lambda *_: pytest.fail("a day was blamed")).work(
            days("2024-01-01", "2024-01-09"), raising(error)
        )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("could not convert string to float: 'OSError: [Errno 28] No space left on device'"),
        MemoryError(),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"),
        PermissionError(errno.EACCES, "Permission denied", "a.csv"),
        pa.ArrowInvalid("not a Parquet file"),
        AssertionError(),
    ],
)
def test_what_may_be_a_days_own_does_not(error: Exception) -> None:
    assert not ends_the_run(error)


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


def test_what_a_worker_of_spark_raised_is_said_in_words(spark: Any) -> None:
    def fail(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches
        raise ValueError("row 7 is odd")

    def full(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches
        raise OSError(errno.ENOSPC, "No space left on device")

    rows = spark.range(1)
    with pytest.raises(Exception, match="row 7") as failed:
        rows.mapInArrow(fail, "id long").collect()
    assert in_words(failed.value) == "ValueError: row 7 is odd"
    assert "row 7" not in in_words(failed.value, quoting=False)
    assert not ends_the_run(failed.value)
    with pytest.raises(Exception, match="No space") as ended:
        rows.mapInArrow(full, "id long").collect()
    assert ends_the_run(ended.value)


# -- every step --------------------------------------------------------------------------------------

ALL = days("2024-01-20", "2024-02-06")
FEBRUARY = D("2024-02-01")
BAD = D("2024-02-05")
AROUND = days("2024-02-05", "2024-02-06")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Platform:
    """Some weeks of visits that nothing has been made of yet; the test goes through the steps in order."""
    product = shop(drift={"minimum_rows": 500}, evaluation__minimum_rows=1)
    platform = Platform(settings_in(tmp_path_factory.mktemp("isolation")), spark, product)
    deliver_visits(platform, ALL)
    return platform


def run(platform: Platform, step: Any, chosen: Sequence[date], log: list[str], **options: Any) -> StepResult:
    request = StepRequest(step=step, product="shop", days=tuple(chosen), run_id="run", **options)
    context = local.context_for(
        request, platform.product, platform.settings, lambda: platform.spark, log.append
    )
    return local.run_step(context)


def failing(function: Callable[..., Any], bad: date, place: int | None) -> Callable[..., Any]:
    """The function, but for calls whose argument at a place is or has the day; for all without a place."""

    def spoilt(*arguments: Any, **more: Any) -> Any:
        if place is None:
            raise InjectedError("injected")
        given = arguments[place]
        given = getattr(given, "month", given) if not isinstance(given, date) else given
        if bad == given if isinstance(given, date) else bad in given:
            raise InjectedError("injected")
        return function(*arguments, **more)

    return spoilt


def failing_in_tasks(in_tasks: Callable[..., Any], bad: date) -> Callable[..., Any]:
    """Spark's tasks, of which the one that does a day raises an exception in its worker."""

    def spoilt(
        spark: Any, chosen: Sequence[date], work: Callable[..., Any], result: Any, **more: Any
    ) -> dict[date, Any]:
        def spoilt_work(some: Sequence[date]) -> Any:
            if bad in some:
                raise ValueError("injected")
            return work(some)

        found: dict[date, Any] = in_tasks(spark, chosen, spoilt_work, result, **more)
        return found

    return spoilt


TASKS = "in_tasks"
#: By step: its days, the one that fails, and the functions that are made to fail for it, one after the other,
#: each with the place of the argument that tells the days.
FAULTS: list[tuple[str, Sequence[date], date, list[tuple[Any, str, int | None]]]] = [
    (
        "ards",
        AROUND,
        BAD,
        [(ards_in_tasks, TASKS, None), (landing, "_delivery", 1), (history_rules, "facts", 1)],
    ),
    ("mrds", AROUND, BAD, [(entity_days, TASKS, None), (history_rules, "facts_of_rows", 1)]),
    ("online_features", AROUND, BAD, [(publish, "publish", 4)]),
    ("model", [FEBRUARY], FEBRUARY, [(training, "train", None)]),
    ("predictions", AROUND, BAD, [(scoring_in_tasks, TASKS, None)]),
    ("model_performance", AROUND, BAD, [(evaluation, TASKS, None)]),
    ("validation_report", AROUND, BAD, [(validation_report, "build", 1)]),
    ("drift_report", [D("2024-01-01"), FEBRUARY], FEBRUARY, [(drift_report, "build", 1)]),
]


@pytest.mark.slow
def test_a_fault_in_any_function_of_a_day_stops_that_day_alone_and_is_tried_again(
    history: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step, chosen, bad, functions in FAULTS:
        if step not in ("model", "drift_report"):
            run(history, step, ALL, [])
        for module, name, place in functions:
            where, log = f"{step}: {name}", list[str]()
            function = getattr(module, name)
            with monkeypatch.context() as patched:
                spoilt = failing_in_tasks(function, bad) if name == TASKS else failing(function, bad, place)
                patched.setattr(module, name, spoilt)
                # Predictions that exist are only made again where that is asked for.
                options = {"force": True, "rescore": step == "predictions"}
                found = {day.day: day for day in run(history, step, chosen, log, **options).days}
            assert {day for day, one in found.items() if one.outcome == "refused"} == {bad}, where
            assert "failed: " in found[bad].reason, where
            assert "Error: injected" in found[bad].reason, where
            assert "traceback" in (found[bad].failure or ""), where
            assert any("Traceback" in said and "injected" in said for said in log), where
            again = {day.day: day for day in run(history, step, chosen, log).days}
            assert {one.outcome for one in again.values()} == {"written"}, (where, again)
            # A neighbour may be judged again, since a day before it has changed.
            assert not again[bad].up_to_date, where
    assert len(history.rows("ards")) == 150 * len(ALL)


@pytest.mark.slow
def test_a_day_whose_rows_cannot_be_validated_stops_alone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = days("2024-01-01", "2024-01-03")
    deliver_visits(platform, chosen, rows=5)
    with monkeypatch.context() as patched:
        patched.setattr(validation, "validate", failing(validation.validate, chosen[1], 4))
        found = platform.run("ards", chosen).days
    assert [day.outcome for day in found] == ["written", "refused", "written"]
    assert "Error: injected" in found[1].reason
    again = platform.run("ards", chosen).days
    assert [day.outcome for day in again] == ["written"] * 3
    assert not again[1].up_to_date


def test_a_day_that_fails_again_is_tried_by_every_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = days("2024-01-01", "2024-01-02")
    deliver_visits(platform, chosen, rows=5)
    monkeypatch.setattr(landing, "_delivery", failing(landing._delivery, chosen[0], 1))
    for n in range(2):
        bad, good = platform.run("ards", chosen).days
        assert (bad.outcome, bad.up_to_date) == ("refused", False)
        assert (good.outcome, good.up_to_date) == ("written", n > 0)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_records_no_day_as_done(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = days("2024-01-01", "2024-01-03")
    deliver_visits(platform, chosen, rows=5)
    full = OSError(errno.ENOSPC, "No space left on device", "/data")
    with monkeypatch.context() as patched:
        patched.setattr(ards_in_tasks, "in_tasks", raising(full))
        with pytest.raises(OSError, match="No space left"):
            platform.run("ards", chosen)
    assert platform.ledger.latest("ards") == {}
    assert [day.outcome for day in platform.run("ards", chosen).days] == ["written"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["tasks", "buckets", "Spark", "buckets of Spark"])
def test_a_days_sum_beyond_a_long_refuses_that_day_with_column_and_entity(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    carry_by(carrier, monkeypatch)
    product = shop(
        source__columns__pages={"type": "long"},
        mrds__aggregate={"spend": "sum", "pages": "sum", "channel": "last", "bought": "last"},
    )
    beside = Platform(platform.settings, platform.spark, product)
    chosen = days("2024-01-01", "2024-01-06")
    for n, day in enumerate(chosen):
        pages = 2**63 - 1 if day == chosen[2] else 7
        spend = "1.7e308" if day == chosen[4] else "1.5"
        lines = [f"{2 * n + k},{day},ann,{spend},{pages},web\n" for k in range(2)]
        beside.deliver(day, "a.csv", HEADER + "".join(lines))
    beside.run("ards", chosen)
    found = beside.run("mrds", chosen).days
    assert [day.outcome for day in found] == [
        "written",
        "written",
        "refused",
        "written",
        "refused",
        "written",
    ]
    assert "pages: the values of customer = ann add up to 18,446,744,073,709,551,614" in found[2].reason
    assert "a long holds at most 9,223,372,036,854,775,807" in found[2].reason
    assert "spend: the values of customer = ann add up to inf" in found[4].reason
    rows = beside.rows("mrds")
    assert sorted(rows["event_day"]) == [chosen[n] for n in (0, 1, 3, 5)]
    assert list(rows["pages"]) == [14] * 4
    # It is the rows that are to be corrected: nothing changes until they are.
    assert all(day.up_to_date for day in beside.run("mrds", chosen).days)
    beside.deliver(chosen[2], "b.csv", HEADER + f"4,{chosen[2]},ann,1,1,web\n5,{chosen[2]},ann,1,1,web\n")
    beside.run("ards", chosen)
    assert beside.run("mrds", chosen).days[2].outcome == "written"
