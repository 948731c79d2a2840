"""Features over trailing windows on a platform: beside pandas, in shares, refused, lost, learned."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from dagster._core.events import DagsterEvent

from ml_platform.cli.findings import Examination
from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering import buckets, windowed_days, windows_as_known
from ml_platform.engine import local
from ml_platform.engine.acceptance import accept
from ml_platform.engine.earlier_verdicts import judges_windows
from ml_platform.engine.step import FAILED_ADVICE, StepRequest
from ml_platform.graph import deliveries, trailing_days
from ml_platform.graph.jobs import RUN_KEY_TAG
from ml_platform.mlops.alerts import findings
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import Graph, requested_range
from ml_platform_tests.graph.test_run_processes import dead_process, mark_as
from ml_platform_tests.small_platform import (
    D,
    Platform,
    carry_by,
    days,
    deliver_visits,
    shop,
    shop_contract,
    visits,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

FEATURES: dict[str, Any] = {
    "spent_7": {"sum": "spend", "days": 7},
    "spent_before": {"sum": "spend", "days": 7, "until": "yesterday"},
    "mean_pages": {"mean": "pages", "days": 14},
    "largest": {"max": "spend", "days": 5},
    "visits": {"count": "visit", "days": "all"},
    "since": {"days_since": "visit"},
    "channels": {"distinct": "channel", "days": 7},
}
ALL = days("2024-01-01", "2024-01-25")


def product(**changes: Any) -> Product:
    return shop(**{"mrds__features": FEATURES} | changes)


def by_pandas(delivered: dict[date, pd.DataFrame]) -> pd.DataFrame:
    """The features of every customer and day with a visit, by rolling windows over a row for each of both."""
    rows = pd.concat(delivered.values()).assign(day=lambda frame: pd.to_datetime(frame["day"]))
    found = []
    calendar = pd.date_range(min(delivered), max(delivered))
    for customer, own in rows.groupby("customer"):
        by_day = own.groupby("day")
        sums = by_day["spend"].sum().reindex(calendar, fill_value=0.0)
        counts = by_day["visit"].count().reindex(calendar, fill_value=0)
        pages = by_day["pages"].sum().reindex(calendar, fill_value=0)
        most = by_day["spend"].max().reindex(calendar)
        active = counts > 0
        newest = pd.Series(np.where(active, np.arange(len(calendar)), np.nan), calendar).ffill().shift()
        channels = by_day["channel"].agg(set).reindex(calendar)
        frame = pd.DataFrame(
            {
                "spent_7": sums.rolling(7, min_periods=1).sum(),
                "spent_before": sums.shift(fill_value=0.0).rolling(7, min_periods=1).sum(),
                "mean_pages": pages.rolling(14, min_periods=1).sum()
                / counts.rolling(14, min_periods=1).sum(),
                "largest": most.rolling(5, min_periods=1).max(),
                "visits": counts.cumsum(),
                "since": np.arange(len(calendar)) - newest,
                "channels": [
                    len(set().union(*[c for c in channels.iloc[max(0, n - 6) : n + 1] if isinstance(c, set)]))
                    for n in range(len(calendar))
                ],
            },
            index=calendar,
        )
        frame.loc[frame.index[0], "spent_before"] = np.nan  # the first day has none before it
        found.append(frame[active].assign(customer=customer).rename_axis("event_day").reset_index())
    return pd.concat(found).assign(event_day=lambda frame: frame["event_day"].dt.date)


def made(platform: Platform) -> pd.DataFrame:
    return platform.rows("mrds", ["customer", "event_day"])


def run(platform: Platform, chosen: list[date]) -> None:
    platform.run("ards", chosen)
    platform.run("mrds", chosen)


def test_features_are_those_of_pandas(tmp_path: Path, spark: SparkSession) -> None:
    platform = Platform(settings_in(tmp_path), spark, product())
    delivered = deliver_visits(platform, ALL, rows=40, customers=25)

    run(platform, ALL)

    found = made(platform)
    wanted = by_pandas(delivered).sort_values(["customer", "event_day"], ignore_index=True)
    pd.testing.assert_frame_equal(
        found[wanted.columns], wanted, check_dtype=False, check_exact=False, rtol=1e-12
    )
    reached = found["event_day"].map(lambda day: (day - ALL[0]).days + 1)
    assert (found["days_7"] == reached.clip(upper=7)).all()
    assert (found["days_all"] == reached).all()
    assert platform.run("mrds", ALL).metadata["days_done"] == 0


@pytest.mark.parametrize("carrier", ["tasks", "buckets"])
def test_tasks_and_shares_make_the_same(
    carrier: str, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However days are cut into tasks, and entities into shares, and rows into buckets."""
    whole = Platform(settings_in(tmp_path / "whole"), spark, product())
    cut = Platform(settings_in(tmp_path / "cut"), spark, product())
    chosen = ALL[:10]
    for platform in (whole, cut):
        deliver_visits(platform, chosen, rows=40, customers=25)
    run(whole, chosen)

    monkeypatch.setattr(windowed_days, "ROWS_AT_ONCE", 150 if carrier == "tasks" else 30)
    if carrier == "buckets":
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 2_000)
        monkeypatch.setattr(buckets, "PIECE_BYTES", 1_000)
    run(cut, chosen)

    assert cut.fingerprints("mrds", "daily_aggregates") == whole.fingerprints("mrds", "daily_aggregates")


def test_a_correction_changes_the_days_whose_windows_hold_it_and_no_others(platform: Platform) -> None:
    features = {"spent_3": {"sum": "spend", "days": 3}}
    platform.product = product(mrds__features=features, model__features={"numeric": ["spent_3"]})
    chosen = ALL[:10]
    deliver_visits(platform, chosen, rows=20, customers=5)
    run(platform, chosen)
    before = platform.fingerprints("mrds")
    assert not outdated(platform)

    frame = visits(chosen[4], rows=20, customers=5).drop(columns="bought").assign(spend=1.0)
    platform.deliver(chosen[4], "2024-01-15_fix.csv", frame.to_csv(index=False))
    platform.run("ards", chosen[4])
    result = platform.run("mrds", chosen[4])

    assert "2 days from 2024-01-06 to 2024-01-07" in result.metadata["days_whose_windows_have_changed"]
    assert outdated(platform) == chosen[5:7]
    with dg.DagsterInstance.ephemeral() as instance:
        (request,) = tick(platform, instance).run_requests
        assert requested_range(request) == (chosen[5], chosen[6])
    assert platform.run("mrds", chosen).metadata["days_done"] == 2
    after = platform.fingerprints("mrds")
    assert {day for (_, day), found in after.items() if found != before["mrds", day]} == {*chosen[4:7]}
    assert not outdated(platform)
    with dg.DagsterInstance.ephemeral() as instance:
        assert not tick(platform, instance).run_requests


def outdated(platform: Platform) -> list[date]:
    return list(trailing_days.outdated(platform.product, platform.settings, platform.ledger))


def tick(platform: Platform, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """What the daemon gets of the landing sensor."""
    return Graph(platform.settings, instance, platform.product).sensor_tick("landing_sensor", cursor)


def started(
    instance: dg.DagsterInstance, request: dg.RunRequest, status: str = "STARTED", pid: int = 0
) -> str:
    """Add a requested run as the daemon does, which a process works on if it has an id."""
    run = dg.DagsterRun(
        job_name="shop_daily",
        tags={**request.tags, RUN_KEY_TAG: str(request.run_key)},
        status=dg.DagsterRunStatus(status),
    )
    assert not instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)})), (
        "the daemon drops it"
    )
    instance.add_run(run)
    if pid:
        mark_as(instance, run.run_id, pid=pid)
    return run.run_id


def ended(instance: dg.DagsterInstance, run_id: str, how: dg.DagsterEventType) -> None:
    instance.report_dagster_event(DagsterEvent(how.value, job_name="shop_daily"), run_id)


def test_a_run_over_changed_windows_that_dies_is_requested_again_some_times(platform: Platform) -> None:
    features = {"spent_3": {"sum": "spend", "days": 3}}
    platform.product = product(mrds__features=features, model__features={"numeric": ["spent_3"]})
    chosen = ALL[:8]
    deliver_visits(platform, chosen, rows=20, customers=5)
    run(platform, chosen)

    def correct(name: str, spend: float) -> None:
        frame = visits(chosen[4], rows=20, customers=5).drop(columns="bought").assign(spend=spend)
        platform.deliver(chosen[4], name, frame.to_csv(index=False))
        run(platform, [chosen[4]])

    correct("2024-01-15_fix.csv", 1.0)
    with dg.DagsterInstance.ephemeral() as instance:
        never_came = tick(platform, instance)
        cursor = never_came.cursor
        requested = []
        for attempt in range(deliveries.ATTEMPTS):
            found = tick(platform, instance, cursor)
            (request,) = found.run_requests
            requested.append(request.run_key)
            assert requested_range(request) == (chosen[5], chosen[6])
            cursor = found.cursor
            run_id = started(instance, request, pid=os.getpid())
            assert not tick(platform, instance, cursor).run_requests, "that run is at work"
            if attempt:
                ended(instance, run_id, dg.DagsterEventType.RUN_FAILURE)
            else:
                mark_as(instance, run_id, pid=dead_process())
        assert len({*requested, never_came.run_requests[0].run_key}) == deliveries.ATTEMPTS + 1
        assert not tick(platform, instance, cursor).run_requests, "it isn't requested for ever"

        correct("2024-01-16_fix.csv", 2.0)
        found = tick(platform, instance, cursor)
        (request,) = found.run_requests
        canceled = started(instance, request)
        ended(instance, canceled, dg.DagsterEventType.RUN_CANCELED)
        assert not tick(platform, instance, found.cursor).run_requests, "a person has canceled it"
        platform.run("mrds", chosen)
        done = tick(platform, instance, found.cursor)
        assert not done.run_requests
        assert deliveries.Requested.read(done.cursor).windows == ()


def test_the_sensor_asks_for_a_day_whose_aggregates_failed_and_then_for_those_held_back(
    platform: Platform,
) -> None:
    features = {"spent_3": {"sum": "spend", "days": 3}}
    platform.product = product(mrds__features=features, model__features={"numeric": ["spent_3"]})
    chosen = ALL[:6]
    deliver_visits(platform, chosen, rows=20, customers=5)
    platform.run("ards", chosen)
    bad = chosen[2]

    def ask(cursor: str | None) -> tuple[list[tuple[date, date]], str | None]:
        found = tick(platform, instance, cursor)
        for request in found.run_requests:
            first, last = requested_range(request)
            platform.run("mrds", [day for day in chosen if first <= day <= last])
            started(instance, request, "SUCCESS")
        return [requested_range(request) for request in found.run_requests], found.cursor

    with dg.DagsterInstance.ephemeral() as instance:
        cursor = None
        with unreadable(platform, "ards", bad):
            platform.run("mrds", chosen)
            for _ in range(deliveries.ATTEMPTS):
                asked, cursor = ask(cursor)
                assert asked == [(bad, bad)]
            assert ask(cursor)[0] == [], "it isn't requested for ever"
        assert ask(cursor)[0] == []

        platform.run("mrds", chosen[4])  # as any later run does, it tries again what has failed
        asked, cursor = ask(cursor)
        assert asked == [(bad, chosen[3])]
        assert {record.outcome for record in platform.ledger.latest("mrds").values()} == {"written"}
        assert ask(cursor)[0] == []


def test_a_label_that_comes_changes_no_other_day(platform: Platform) -> None:
    platform.product = product()
    chosen = ALL[:6]
    frame = visits(chosen[2], rows=20, customers=5)
    deliver_visits(platform, [day for day in chosen if day != chosen[2]], rows=20, customers=5)
    platform.deliver(chosen[2], "rows.csv", frame.drop(columns="bought").to_csv(index=False))
    run(platform, chosen)

    platform.deliver(chosen[2], "labels.csv", frame[["visit", "day", "bought"]].to_csv(index=False))
    platform.run("ards", chosen[2])

    assert platform.run("mrds", chosen).metadata["days_done"] == 1


def test_days_wait_for_delivered_days_of_their_windows(platform: Platform) -> None:
    platform.product = product()
    deliver_visits(platform, ALL[:5], rows=20, customers=5)
    platform.run("ards", ALL[4])

    (result,) = platform.run("mrds", ALL[4]).days

    assert result.outcome == "held_back"
    assert (
        "4 days from 2024-01-01 to 2024-01-04, delivered and not made yet under this contract"
        in result.reason
    )
    run(platform, ALL[:5])
    assert made(platform)["visits"].max() > 1


@contextlib.contextmanager
def unreadable(platform: Platform, table: str, day: date) -> Iterator[None]:
    """A table whose files of a day can't be read, as they were written wrongly: as long as they should be."""
    files = (platform.settings.home / "tables" / "shop" / table / f"event_day={day}").glob("*.parquet")
    whole = {path: path.read_bytes() for path in files}
    for path, content in whole.items():
        path.write_bytes(bytes(len(content)))
    yield
    for path, content in whole.items():
        path.write_bytes(content)


def is_pending(platform: Platform, chosen: list[date]) -> bool:
    request = StepRequest(step="mrds", product="shop", days=tuple(chosen), run_id="look")
    context = local.context_for(
        request, platform.product, platform.settings, platform._session, lambda _: None
    )
    return local.is_pending(context)


@pytest.mark.parametrize("until", ["today", "yesterday"])
def test_a_day_whose_aggregates_failed_is_told_of_and_tried_again_by_every_run(
    until: str, platform: Platform
) -> None:
    features = {"spent_3": {"sum": "spend", "days": 3, "until": until}}
    platform.product = product(mrds__features=features, model__features={"numeric": ["spent_3"]})
    chosen = ALL[:6]
    deliver_visits(platform, chosen, rows=20, customers=5)
    platform.run("ards", chosen)
    bad, last = chosen[2], chosen[5]
    with unreadable(platform, "ards", bad):
        results = {result.day: result for result in platform.run("mrds", chosen).days}

        reached = chosen[3:5] if until == "today" else chosen[3:6]
        outcomes = {day: result.outcome for day, result in results.items()}
        assert {day for day, outcome in outcomes.items() if outcome == "held_back"} == {*reached}
        assert outcomes[bad] == "refused"
        assert results[bad].reason.startswith("daily_aggregates failed: ")
        assert results[bad].advice == FAILED_ADVICE
        for day in reached:
            assert results[day].reason.startswith("its windows hold 2024-01-03: daily_aggregates failed: ")
            assert results[day].reason.endswith("fix its cause, then make that day again")
        told = findings.of_records({"mrds": platform.ledger.latest("mrds")})
        assert [(one.asset, one.since) for one in told if one.kind == "outcome"] == [("mrds", str(bad))]
        assert is_pending(platform, reached)

    assert not (until == "today" and is_pending(platform, [last]))
    (result,) = platform.run("mrds", reached[0]).days
    assert result.outcome == "written", "a run of a day tries the failed one of its windows again"
    platform.run("mrds", chosen)
    assert {record.outcome for record in platform.ledger.latest("mrds").values()} == {"written"}
    assert not is_pending(platform, chosen)


def test_days_that_failed_are_told_of_beside_those_that_are_not_made(platform: Platform) -> None:
    platform.product = product()
    deliver_visits(platform, ALL[:6], rows=20, customers=5)
    platform.run("ards", ALL[1:6])
    with unreadable(platform, "ards", ALL[2]), unreadable(platform, "ards", ALL[3]):
        platform.run("mrds", ALL[1:6])
    reason = platform.ledger.latest("mrds")[ALL[5]].reason
    assert reason.startswith(
        "its windows hold 2 days from 2024-01-03 to 2024-01-04, of which 2024-01-03 says: "
        "daily_aggregates failed: "
    )
    assert reason.endswith(
        "; and 2024-01-01, delivered and not made yet under this contract; make these days first"
    )


def test_blocked_and_missing_days_are_left_out_and_said(platform: Platform) -> None:
    platform.product = product(validation__minimum_rows=10)
    chosen = ALL[:6]
    deliver_visits(platform, [chosen[0], *chosen[3:]], rows=20, customers=3)
    blocked = visits(chosen[1], rows=5, customers=3).drop(columns="bought")
    platform.deliver(chosen[1], "few.csv", blocked.to_csv(index=False))

    run(platform, chosen)

    found = made(platform).groupby("event_day")["days_7"].max()
    assert found.to_dict() == {chosen[0]: 1, chosen[3]: 2, chosen[4]: 3, chosen[5]: 4}
    totals = made(platform).groupby("event_day")["visits"].max()
    assert totals.max() <= 80


def test_a_sum_beyond_its_type_refuses_its_day_alone(platform: Platform) -> None:
    features = {"visits_3": {"sum": "visit", "days": 3}}
    platform.product = product(mrds__features=features, model__features={"numeric": ["visits_3"]})
    chosen = ALL[:4]
    for number, day in enumerate(chosen):
        visit = 2**62 + number if number in (0, 1) else number
        platform.deliver(
            day, "rows.csv", f"visit,day,customer,spend,pages,channel\n{visit},{day},ann,1,1,web\n"
        )

    run(platform, chosen)

    records = platform.ledger.latest("mrds")
    assert [records[day].outcome for day in chosen] == ["written", "refused", "refused", "written"]
    assert (
        "visits_3: the values of customer = ann add up to 9,223,372,036,854,775,809"
        in records[chosen[1]].reason
    )


def test_lost_aggregates_are_made_again(platform: Platform) -> None:
    import shutil

    platform.product = product()
    deliver_visits(platform, ALL[:5], rows=20, customers=5)
    run(platform, ALL[:5])
    before = made(platform)
    for table in ("daily_aggregates", "mrds"):
        shutil.rmtree(platform.settings.home / "tables" / "shop" / table)

    platform.run("mrds", ALL[:5])

    pd.testing.assert_frame_equal(made(platform), before)


def test_files_of_aggregates_that_are_cut_off_are_found_and_made_again(platform: Platform) -> None:
    """Those of states as well, wherever other steps run; of a contract without windows nobody needs them."""
    platform.product = product(engine={"default": "databricks", "assets": {"ards": "local", "mrds": "local"}})
    delivered = deliver_visits(platform, ALL[:5], rows=20, customers=5)
    fixed = delivered[ALL[1]].drop(columns="bought").assign(spend=1.0)
    platform.deliver(ALL[1], "2024-01-20_fix.csv", fixed.to_csv(index=False))
    run(platform, ALL[:5])
    before = platform.fingerprints("mrds", "daily_aggregates")

    def found() -> list[tuple[str, tuple[date, ...], str]]:
        examination = Examination(platform.product, platform.settings)
        wrong = [one for one in examination.examine(()) if one.part.startswith("daily_")]
        return [(one.part, one.days, one.detail.partition(": ")[0]) for one in wrong]

    assert found() == []
    for table, day in (("daily_aggregates", ALL[2]), ("daily_aggregates_versions", ALL[1])):
        folder = platform.settings.home / "tables" / "shop" / table
        (file,) = (folder / f"event_day={day}").glob("*.parquet")
        file.write_bytes(file.read_bytes()[:50])
        assert found() == [("daily_aggregates", (day,), f"{folder} lacks rows")]
        assert is_pending(platform, [ALL[4]]), "a day whose windows hold it asks for it"

        assert platform.run("mrds", ALL[4]).metadata["days_done"] == 0
        assert found() == []
        assert platform.fingerprints("mrds", "daily_aggregates") == before
    platform.tables.remove_days(
        lambda: platform.spark, "shop", "daily_aggregates", [ALL[0]], run_id="by hand"
    )
    assert found() == [("daily_aggregates", (ALL[0],), f"{folder.parent / 'daily_aggregates'} lacks rows")]
    platform.product = shop()
    assert found() == []


@pytest.mark.slow
def test_maintenance_tidies_what_is_kept_for_windows(platform: Platform) -> None:
    platform.product = product()
    deliver_visits(platform, ALL[:3], rows=20, customers=5)
    run(platform, ALL[:3])
    before = platform.rows("daily_aggregates")

    told = platform.run("maintenance", []).metadata

    assert told["daily_aggregates"].startswith("3 files of ")
    pd.testing.assert_frame_equal(platform.rows("daily_aggregates"), before)
    assert platform.run("mrds", ALL[:3]).metadata["days_done"] == 0


def test_a_feature_that_a_contract_gains_is_made_of_the_history(platform: Platform) -> None:
    deliver_visits(platform, ALL[:8], rows=20, customers=5)
    platform.product = shop()
    run(platform, ALL[:8])

    platform.product = product()
    platform.run("mrds", ALL[7])

    (newest,) = made(platform)[lambda frame: frame["event_day"] == ALL[7]]["days_7"].unique()
    assert newest == 7


@pytest.mark.slow
def test_a_model_learns_what_customers_did_before(tmp_path: Path, spark: SparkSession) -> None:
    """The label follows what was spent on the seven days before, which the day alone doesn't say."""
    chosen = days("2024-01-01", "2024-03-12")
    draw = np.random.default_rng(5)
    frames, visit = [], 0
    spent: dict[str, dict[date, float]] = {f"c{n:03d}": {} for n in range(300)}
    for day in chosen:
        rows = []
        for customer in draw.choice(list(spent), 120, replace=False):
            before = sum(value for then, value in spent[customer].items() if 0 < (day - then).days <= 7)
            visit += 1
            spend = round(draw.gamma(2, 20), 2)
            chance = 1 / (1 + np.exp(-((before - 90) / 20 + (spend - 40) / 20)))
            rows.append((visit, day, customer, spend, 1, "web", int(draw.random() < chance)))
            spent[customer][day] = spent[customer].get(day, 0) + rows[-1][3]
        frames.append(
            pd.DataFrame(rows, columns=["visit", "day", "customer", "spend", "pages", "channel", "bought"])
        )
    scores = {}
    for name, numeric in {
        "day": ["spend"],
        "windows": ["spend", "spent_before", "days_7_until_yesterday"],
    }.items():
        platform = Platform(
            settings_in(tmp_path / name),
            spark,
            product(
                model__features={"numeric": numeric},
                model__first_month="2024-03",
                evaluation__metric="roc_auc",
                evaluation__threshold=0.5,
            ),
        )
        for day, frame in zip(chosen, frames, strict=True):
            platform.deliver(
                day, f"{day + timedelta(days=1)}_rows.csv", frame.drop(columns="bought").to_csv(index=False)
            )
            platform.deliver(
                day,
                f"{day + timedelta(days=2)}_labels.csv",
                frame[["visit", "day", "bought"]].to_csv(index=False),
            )
        run(platform, chosen)
        (model,) = platform.run("model", D("2024-03-01")).days
        assert model.outcome == "written", model.reason
        late = [day for day in chosen if day >= D("2024-03-01")]
        scored = platform.run("predictions", late).days
        assert {day.outcome for day in scored} == {"written"}, (scored[0].reason, model.metadata)
        found = platform.rows("predictions").merge(
            pd.concat(frames).assign(event_day=lambda frame: frame["day"]), on=["customer", "event_day"]
        )
        from sklearn.metrics import roc_auc_score

        scores[name] = roc_auc_score(found["bought"], found["probability"])
    assert scores["windows"] > scores["day"] + 0.1, scores


EXPRESSIONS: dict[str, Any] = {
    "spent_3": {"sum": "spend", "days": 3},
    "spent_7": {"sum": "spend", "days": 7, "where": "channel = 'web'"},
    "share": {"expression": "spent_3 / nullif(spent_7, 0)"},
    "is_much": {"expression": "share > 0.5 or pages > 6"},
    "weekday": {"expression": "extract(isodow from event_day)"},
}


def test_expressions_are_those_of_pandas_and_of_rows_as_they_were_served(platform: Platform) -> None:
    platform.product = product(mrds__features=EXPRESSIONS)
    chosen = ALL[:9]
    delivered = deliver_visits(platform, chosen, rows=20, customers=5)
    fixed = delivered[chosen[3]].drop(columns="bought").assign(spend=1.0, channel="app")
    platform.deliver(chosen[3], "2024-01-20_fix.csv", fixed.to_csv(index=False))

    run(platform, chosen)

    served = platform.rows("mrds_served", ["customer", "event_day"])
    assert set(served["event_day"]) == {*chosen[3:9]}
    for rows in (made(platform), served):
        of_web = rows["spent_7"].where(rows["spent_7"] != 0)
        wanted = (rows["spent_3"] / of_web).astype("float64")
        pd.testing.assert_series_equal(rows["share"].astype("float64"), wanted, check_names=False)
        weekdays = pd.to_datetime(rows["event_day"]).dt.dayofweek + 1
        assert (rows["weekday"] == weekdays).all()
        assert rows["is_much"].isin([True, False, None]).all()
    corrected = made(platform)[lambda frame: frame["event_day"] == chosen[3]]
    before = served[lambda frame: (frame["event_day"] == chosen[3]) & frame["is_scored"]]
    assert not np.allclose(corrected["spent_3"], before["spent_3"])


@pytest.mark.parametrize("carrier", ["tasks", "Spark"])
def test_expressions_of_the_day_alone_are_made_wherever_tables_lie(
    carrier: str, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"worth": {"expression": "spend * pages"}, "worth_2": {"expression": "worth * 2"}}
    platform = Platform(settings_in(tmp_path), spark, product(mrds__features=features))
    carry_by(carrier, monkeypatch)
    deliver_visits(platform, ALL[:3], rows=20, customers=5)
    run(platform, ALL[:3])
    found = made(platform)
    pd.testing.assert_series_equal(found["worth"], found["spend"] * found["pages"], check_names=False)
    pd.testing.assert_series_equal(found["worth_2"], found["worth"] * 2, check_names=False)


def test_another_length_of_a_window_keeps_what_is_kept_of_days(platform: Platform) -> None:
    platform.product = product(mrds__features={"x": {"sum": "spend", "days": 3}})
    deliver_visits(platform, ALL[:6], rows=20, customers=5)
    run(platform, ALL[:6])
    kept = platform.tables.version("shop", "daily_aggregates")

    platform.product = product(mrds__features={"x": {"sum": "spend", "days": 5}})
    assert platform.run("mrds", ALL[:6]).metadata["days_done"] == 6
    assert platform.tables.version("shop", "daily_aggregates") == kept


def test_a_sum_of_a_day_beyond_its_type_refuses_that_day_and_is_left_out_of_windows(
    platform: Platform,
) -> None:
    features = {"visits_3": {"sum": "visit", "days": 3}}
    platform.product = product(mrds__features=features, model__features={"numeric": ["visits_3"]})
    header = "visit,day,customer,spend,pages,channel\n"
    rows = "".join(f"{2**62 + n},{ALL[1]},ann,1,1,web\n" for n in range(2))
    for day in (ALL[0], ALL[2]):
        platform.deliver(day, "rows.csv", f"{header}7,{day},ann,1,1,web\n")
    platform.deliver(ALL[1], "rows.csv", header + rows)

    run(platform, ALL[:3])

    records = platform.ledger.latest("mrds")
    assert [records[day].outcome for day in ALL[:3]] == ["written", "refused", "written"]
    assert "add up to 9,223,372,036,854,775,809" in records[ALL[1]].reason
    assert list(made(platform)["days_3"]) == [1, 2]
    found = findings.of_records(
        {asset: platform.ledger.latest(asset) for asset in ("mrds", "daily_aggregates")}
    )
    assert {finding.asset for finding in found if finding.kind == "outcome"} == {"mrds"}


def test_days_of_another_contract_in_a_window_are_made_first(platform: Platform) -> None:
    platform.product = product()
    deliver_visits(platform, ALL[:4], rows=20, customers=5)
    run(platform, ALL[:4])
    deliver_visits(platform, [ALL[4]], rows=20, customers=5)
    columns = shop_contract()["source"]["columns"]
    platform.product = product(source__columns=columns | {"spend": {"type": "double", "fill_null": 0.0}})
    platform.run("ards", ALL[4])

    (result,) = platform.run("mrds", ALL[4]).days

    assert result.outcome == "held_back"
    assert "4 days from 2024-01-01 to 2024-01-04" in result.reason
    run(platform, ALL[:5])
    assert platform.ledger.latest("mrds")[ALL[4]].outcome == "written"


def test_rows_that_come_late_for_a_day_without_a_delivery_leave_what_was_served(platform: Platform) -> None:
    """A Saturday is empty until somebody delivers rows for it."""
    content = shop_contract(mrds__features={"spent_3": {"sum": "spend", "days": 3}})
    content["delivery"] = {"weekdays": ["mon", "tue", "wed", "thu", "fri"]}
    content["model"]["features"] = {"numeric": ["spent_3"]}
    platform.product = parse_product(content, "shop.yaml")
    due, saturday = [D("2024-01-04"), D("2024-01-05"), D("2024-01-08")], D("2024-01-06")

    def deliver(day: date, name: str, visit: int, spend: int) -> None:
        header = "visit,day,customer,spend,pages,channel\n"
        platform.deliver(day, name, f"{header}{visit},{day},ann,{spend},1,web\n")

    for number, day in enumerate(due):
        deliver(day, "rows.csv", number, 10**number)
    run(platform, due)
    (before,) = made(platform)[lambda frame: frame["event_day"] == due[2]].to_dict("records")
    assert (before["spent_3"], before["days_3"]) == (100, 3)

    deliver(saturday, "2024-01-10_rows.csv", 9, 5)
    run(platform, [*due, saturday])

    (now,) = made(platform)[lambda frame: frame["event_day"] == due[2]].to_dict("records")
    (served,) = platform.rows("mrds_served").to_dict("records")
    assert (now["spent_3"], now["days_3"]) == (105, 3)
    assert (served["event_day"], served["spent_3"], served["days_3"]) == (due[2], 100, 3)


def test_a_sum_that_was_too_large_and_is_corrected_refuses_nothing_any_more(platform: Platform) -> None:
    platform.product = product(
        mrds__features={"visits_3": {"sum": "visit", "days": 3}}, model__features={"numeric": ["visits_3"]}
    )
    header = "visit,day,customer,spend,pages,channel\n"
    for number, day in enumerate(ALL[:3]):
        visit = 2**62 + number if number < 2 else number
        platform.deliver(day, f"{day + timedelta(days=1)}_a.csv", f"{header}{visit},{day},ann,1,1,web\n")
    run(platform, ALL[:3])
    assert platform.ledger.latest("mrds")[ALL[1]].outcome == "refused"

    fixed = f"{header}5,{ALL[0]},ann,1,1,web\n"
    platform.deliver(ALL[0], "2024-01-09_b.csv", fixed)
    platform.deliver(ALL[0], "2024-01-09_b.csv.manifest.yaml", "replaces: true\n")
    run(platform, ALL[:3])

    assert {record.outcome for record in platform.ledger.latest("mrds").values()} == {"written"}
    served = platform.rows("mrds_served")
    assert set(served[served["known_from"] < D("2024-01-09")]["event_day"]) == {ALL[0]}


def test_a_changed_contract_asks_for_no_day_by_itself_and_an_empty_folder_holds_nothing_back(
    platform: Platform,
) -> None:
    platform.product = product(mrds__features={"spent_3": {"sum": "spend", "days": 3}})
    deliver_visits(platform, ALL[:5], rows=20, customers=5)
    platform.folder(ALL[5])
    run(platform, ALL[:5])
    columns = shop_contract()["source"]["columns"] | {"note": {"type": "string", "nullable": True}}
    features = {"spent_3": {"sum": "spend", "days": 3}}
    platform.product = product(mrds__features=features, source__columns=columns)
    deliver_visits(platform, [ALL[6]], rows=20, customers=5)
    run(platform, [ALL[6]])
    assert platform.ledger.latest("mrds")[ALL[6]].outcome == "written"
    assert not outdated(platform)


RULED: dict[str, Any] = {
    "spent_3": {"sum": "spend", "days": 3},
    "double": {"expression": "spent_3 * 2"},
}


@pytest.mark.parametrize("rule", ["spent_3", "double"])
@pytest.mark.parametrize("corrected", ["the day", "a day of its windows"])
def test_a_day_that_broke_a_rule_of_its_windows_is_served_from_what_mended_it_on(
    rule: str, corrected: str, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made on each morning or at once, as a whole or in shares of the entities."""
    ruled = product(
        mrds__features=RULED,
        model__features={"numeric": ["spent_3"]},
        validation__ranges={rule: {"maximum": 50 if rule == "spent_3" else 100}},
    )
    chosen, (first, bad, after) = ALL[:3], ALL[:3]
    fixed = bad if corrected == "the day" else first

    def deliver(platform: Platform, day: date, morning: date, ann: int) -> None:
        header, visit = "visit,day,customer,spend,pages,channel\n", 10 * day.toordinal()
        text = f"{visit},{day},ann,{ann},1,web\n{visit + 1},{day},bob,1,1,web\n"
        platform.deliver(day, f"{morning}_rows.csv", header + text)

    found = {}
    for how in ("live", "at once", "in shares"):
        platform = Platform(settings_in(tmp_path / how), spark, ruled)
        if how == "in shares":
            monkeypatch.setattr(windowed_days, "ROWS_AT_ONCE", 2)
            monkeypatch.setattr(windows_as_known, "ROWS_AT_ONCE", 1)
        for day, spend in zip(chosen, (30, 30, 1), strict=True):
            deliver(platform, day, day + timedelta(days=1), spend)
            if how == "live":
                run(platform, [day])
        if how == "live":
            records = platform.ledger.latest("mrds")
            assert [records[day].outcome for day in chosen] == ["written", "blocked", "blocked"]
        deliver(platform, fixed, D("2024-01-10"), 5)
        run(platform, chosen)
        assert {record.outcome for record in platform.ledger.latest("mrds").values()} == {"written"}
        served = platform.rows("mrds_served", ["event_day", "customer", "known_from"])
        found[how] = served[["event_day", "customer", "known_from", "known_to", "spent_3", "is_scored"]]

    pd.testing.assert_frame_equal(found["at once"], found["live"])
    pd.testing.assert_frame_equal(found["in shares"], found["live"])
    of_bad = found["live"][lambda frame: frame["event_day"] >= bad]
    assert [tuple(row) for row in of_bad[["event_day", "customer", "spent_3"]].itertuples(index=False)] == [
        (bad, "ann", 35),
        (bad, "bob", 2),
        (after, "ann", 36),
        (after, "bob", 3),
    ]
    assert set(of_bad["known_from"]) == {D("2024-01-10")}
    assert of_bad["known_to"].isna().all()
    assert of_bad["is_scored"].all()


def test_a_day_that_broke_a_rule_of_a_made_column_is_served_from_what_mended_it_on(
    platform: Platform,
) -> None:
    """Without any windows."""
    features = {"worth": {"expression": "spend * pages"}}
    platform.product = product(mrds__features=features, validation__ranges={"worth": {"maximum": 50}})
    header = "visit,day,customer,spend,pages,channel\n"
    for morning, spend in (("2024-01-02", 30), ("2024-01-05", 20)):
        platform.deliver(ALL[0], f"{morning}_rows.csv", f"{header}1,{ALL[0]},ann,{spend},2,web\n")

    run(platform, ALL[:1])

    (served,) = platform.rows("mrds_served").to_dict("records")
    assert (served["known_from"], served["worth"], served["is_scored"]) == (D("2024-01-05"), 40, True)


def test_what_windows_were_is_put_together_for_rules_that_block_alone() -> None:
    assert not judges_windows(product(validation__ranges={"spend": {"maximum": 50}}))
    assert not judges_windows(shop(validation__ranges={"spend": {"maximum": 50}}))
    ranges = {"validation__ranges": {"spent_7": {"maximum": 50}}}
    assert judges_windows(product(**ranges))
    assert not judges_windows(product(**ranges, validation__severity={"range": "warning"}))
    assert judges_windows(product(validation__not_null=["days_7"]))


def test_days_after_one_that_was_accepted_are_judged_though_no_row_has_ever_changed(
    platform: Platform,
) -> None:
    """No table has states of rows then."""
    platform.product = product(
        validation__minimum_rows=10, validation__ranges={"days_7": {"minimum": 2}, "visits": {"minimum": 0}}
    )
    deliver_visits(platform, [ALL[0], ALL[2]], rows=20, customers=3)
    few = visits(ALL[1], rows=5, customers=3).drop(columns="bought")
    platform.deliver(ALL[1], "few.csv", few.to_csv(index=False))
    run(platform, ALL[:3])
    outcomes = [record.outcome for record in platform.ledger.latest("mrds").values()]
    assert outcomes == ["blocked", "held_back", "written"]

    accept(platform.ledger, ALL[1], reason="a quiet day", by="ann", on=D("2024-01-10"))
    run(platform, ALL[:3])

    assert not platform.tables.exists("shop", "ards_versions")
    assert platform.ledger.latest("mrds")[ALL[2]].outcome == "written"
    found = platform.rows("mrds_served")[lambda frame: frame["event_day"] == ALL[2]]
    assert set(found["days_7"]) == {2}, "as it was before"
    assert set(made(platform)[lambda frame: frame["event_day"] == ALL[2]]["days_7"]) == {3}
