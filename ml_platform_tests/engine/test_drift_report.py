"""Drift reports of a small history: which rows each window counts, what is left out, what is done again."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ml_platform.contract.loading import parse_product
from ml_platform.data_engineering import buckets
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, shop, shop_contract, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BAD = D("2024-03-25")
#: Its labels have not come yet, as on the first morning of the month after.
UNLABELLED = D("2024-02-29")
DELIVERED = {
    "2024-01": days("2024-01-22", "2024-01-31"),
    "2024-02": days("2024-02-20", "2024-02-29"),
    "2024-03": days("2024-03-22", "2024-03-31"),
}
MONTHS = [D("2024-01-01"), D("2024-02-01"), D("2024-03-01")]


def visits_of(day: date) -> pd.DataFrame:
    """A day of visits; in March people spend twice as much, and of a tenth it isn't known."""
    frame = visits(day)
    if day.month == 3:
        frame["spend"] = frame["spend"] * 2
        frame.loc[frame.index % 10 == 0, "spend"] = np.nan
    return frame


def delivered_in(*months: str) -> pd.DataFrame:
    """What windows should count, from the deliveries themselves."""
    chosen = [day for month in months for day in DELIVERED[month] if day != BAD]
    return pd.concat([visits_of(day) for day in chosen], ignore_index=True)


def deliver(platform: Platform, day: date) -> None:
    frame = visits_of(day)
    rows, labels = frame.drop(columns="bought"), frame[["visit", "day", "bought"]]
    platform.deliver(day, f"{day + timedelta(days=1)}T0600_visits.csv", rows.to_csv(index=False))
    if day != UNLABELLED:
        platform.deliver(day, f"{day + timedelta(days=2)}T0600_labels.csv", labels.to_csv(index=False))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    """Ten days at the end of each of three months, one of them refused, with models and three reports."""
    # An entity can be a feature too, as it is here.
    features = {"numeric": ["spend", "pages"], "categorical": ["channel", "customer"]}
    product = shop(drift={"minimum_rows": 500, "maximum_rows": 1000}, model__features=features)
    platform = Platform(settings_in(tmp_path_factory.mktemp("drift")), spark, product)
    everything = [day for month in DELIVERED.values() for day in month]
    for day in everything:
        deliver(platform, day)
    for path in platform.folder(BAD).iterdir():
        path.write_text("no,header\n")
    for step in ("ards", "mrds"):
        platform.run(step, everything)
    platform.run("model", MONTHS[1:])
    platform.run("predictions", everything)
    platform.run("drift_report", MONTHS)
    return platform


def report(platform: Platform, month: str) -> dict[str, Any]:
    folder = platform.settings.reports_path / "shop" / "drift_report" / f"{month}-01"
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def column(content: dict[str, Any], position: int, name: str) -> dict[str, Any]:
    (one,) = [one for one in content["comparisons"][position]["columns"] if one["column"] == name]
    assert isinstance(one, dict)
    return one


def test_counts_nulls_and_ranges_are_those_of_all_rows(history: Platform) -> None:
    content = report(history, "2024-03")
    march = delivered_in("2024-03")
    assert content["rows"] == len(march) == 9 * 150
    assert content["sampled"] is True
    assert content["left_out"] == [f"{BAD} (refused)"]
    before, learned = (one["reference"] for one in content["comparisons"])
    assert before == "2024-02"
    assert learned.startswith("the training data of the model as of 2024-0")
    windows = [delivered_in("2024-02")]
    windows.append(
        delivered_in("2024-01", "2024-02") if learned.endswith("03-01") else delivered_in("2024-01")
    )
    for position, frame in enumerate(windows):
        spend = column(content, position, "spend")
        assert spend["nulls_now"] == pytest.approx(march["spend"].isna().mean())
        assert spend["nulls_before"] == 0.0
        assert spend["range_before"] == f"{frame['spend'].min():,.4g} to {frame['spend'].max():,.4g}"
        assert spend["range_now"] == f"{march['spend'].min():,.4g} to {march['spend'].max():,.4g}"


def test_what_changed_has_drifted_and_nothing_else(history: Platform) -> None:
    january, february, march = history.run("drift_report", MONTHS).days
    assert january.checks[0].description == "nothing to compare with yet"
    assert [day.checks[0].passed for day in (january, february, march)] == [True, True, False]
    (check,) = march.checks
    assert (check.name, check.severity) == ("no_drift", "WARN")
    drifted = {
        one["column"]
        for one in report(history, "2024-03")["comparisons"][0]["columns"]
        if one["verdict"] == "drifted"
    }
    # More is spent, so more is bought, and a higher probability is predicted.
    assert {"spend"} <= drifted <= {"spend", "bought", "predicted probability"}
    assert check.metadata["spend vs month before"] > 0.15 > check.metadata["pages vs month before"]
    # Of the held-out tenth of so small a history there are too few to judge.
    learned = column(report(history, "2024-03"), 1, "predicted probability")
    assert (learned["verdict"], learned["score"]) == ("insufficient", None)
    assert check.metadata["columns"].startswith("| column | against |")
    assert march.failure is None
    page = Path(march.metadata["report_file"])
    assert "Drifted" in page.read_text()
    assert sorted(path.name for path in page.parent.glob("evidently*")) == [
        "evidently_1.html",
        "evidently_2.html",
    ]


def test_what_is_up_to_date_is_left_alone_until_a_day_changes(history: Platform) -> None:
    history.sessions_asked_for = 0
    assert all(day.up_to_date for day in history.run("drift_report", MONTHS).days)
    assert history.sessions_asked_for == 0
    deliver(history, BAD)
    for path in history.folder(BAD).glob("*"):
        if path.read_text() == "no,header\n":
            path.unlink()
    for step in ("ards", "mrds", "predictions"):
        history.run(step, BAD)
    january, february, march = history.run("drift_report", MONTHS).days
    assert (january.up_to_date, february.up_to_date, march.up_to_date) == (True, True, False)
    assert report(history, "2024-03")["left_out"] == []


@pytest.mark.slow
def test_windows_read_by_spark_are_those_held_in_memory(
    history: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.sessions_asked_for = 0
    held = history.run("drift_report", MONTHS, force=True)
    assert history.sessions_asked_for == 0
    known = history.fingerprints("drift_report")
    monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    opened = history.run("drift_report", MONTHS, force=True)
    assert history.sessions_asked_for == 1
    assert history.fingerprints("drift_report") == known
    assert [day.metadata for day in opened.days] == [day.metadata for day in held.days]


def test_a_month_of_which_nothing_is_there_is_missing(history: Platform) -> None:
    (april,) = history.run("drift_report", D("2024-04-01")).days
    assert (april.outcome, april.reason) == ("missing", "nothing of the month has been materialized")
    assert april.failure is not None


@pytest.mark.slow
@pytest.mark.parametrize("held", [True, False])
def test_labels_that_come_early_are_no_drift_and_count_when_all_can_be_known(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    if not held:
        monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    product = shop(source__label_delay_days=20, drift={"minimum_rows": 500, "against": ["month_before"]})
    platform = Platform(settings_in(tmp_path), spark, product)
    january, february = (DELIVERED[month] for month in ("2024-01", "2024-02"))
    for day in (*january, *february):
        frame = visits(day)
        labels = frame[["visit", "day", "bought"]]
        if day in february:
            labels = labels[labels["bought"] == 1].iloc[::2]
        platform.deliver(
            day, f"{day + timedelta(days=1)}_visits.csv", frame.drop(columns="bought").to_csv(index=False)
        )
        platform.deliver(day, f"{day + timedelta(days=2)}_labels.csv", labels.to_csv(index=False))
    platform.run("ards", [*january, *february])
    platform.run("drift_report", MONTHS[1])
    early = column(report(platform, "2024-02"), 0, "bought")
    assert (early["verdict"], early["score"]) == ("no values", None)

    # The first day that is there when the last label of February can be known, and its other labels.
    newest = D("2024-03-20")
    platform.deliver(
        newest, "2024-03-21_visits.csv", visits(newest).drop(columns="bought").to_csv(index=False)
    )
    for day in february:
        labels = visits(day)[["visit", "day", "bought"]].to_csv(index=False)
        platform.deliver(day, f"{day + timedelta(days=21)}_labels.csv", labels)
    platform.run("ards", [*february, newest])
    platform.run("drift_report", MONTHS[1])
    known = column(report(platform, "2024-02"), 0, "bought")
    assert known["verdict"] == "stable"
    assert known["score"] is not None


# -- what the MRDS makes of many days ----------------------------------------------------------------

FEBRUARY, MARCH = days("2024-02-01", "2024-02-29"), days("2024-03-01", "2024-03-31")
OF_MANY_DAYS: dict[str, Any] = {
    "spent_7": {"sum": "spend", "days": 7},
    "newest": {"last": "channel", "days": 7},
    "a_visit": {"expression": "spent_7 / visit"},
}


def visits_in(day: date) -> pd.DataFrame:
    """Some customers on each day; in March each visits every day, and so spends more in a week."""
    frame = visits(day, rows=80, customers=80).drop_duplicates("customer")
    return frame if day in MARCH else frame[frame.index % 2 == 0]


@pytest.fixture(scope="module")
def of_many_days(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    content = shop_contract(drift={"minimum_rows": 50, "maximum_null_change": 0.5})
    source, mrds = content["source"], content["mrds"]
    for key in ("label", "label_delay_days"):
        source.pop(key)
    source["columns"].pop("bought")
    mrds["aggregate"].pop("bought")
    mrds |= {"features": OF_MANY_DAYS, "label": {"name": "back", "any": "visit", "within_days": 3}}
    content["model"]["features"]["numeric"] = ["spend", "spent_7", "days_7"]
    product = parse_product(content, "shop.yaml")
    platform = Platform(settings_in(tmp_path_factory.mktemp("made")), spark, product)
    for day in (*FEBRUARY, *MARCH):
        frame = visits_in(day).drop(columns="bought")
        platform.deliver(day, f"{day + timedelta(days=1)}_visits.csv", frame.to_csv(index=False))
    for step in ("ards", "mrds"):
        platform.run(step, [*FEBRUARY, *MARCH])
    platform.run("drift_report", MONTHS[1:])
    return platform


def made_of(month: list[date]) -> pd.DataFrame:
    """The features and the label of a month's customers and days, by pandas."""
    everything = pd.concat([visits_in(day) for day in (*FEBRUARY, *MARCH)])
    everything["day"] = pd.to_datetime(everything["day"]).dt.date
    there = everything.groupby("customer")["day"].agg(set)
    found = []
    for day in month:
        week = everything[(everything["day"] > day - timedelta(days=7)) & (everything["day"] <= day)]
        own = week[week["day"] == day].set_index("customer")
        ahead = [day + timedelta(days=number) for number in (1, 2, 3)]
        back = [float(bool(there[name].intersection(ahead))) for name in own.index]
        known = ahead[-1] <= MARCH[-1]
        found.append(
            pd.DataFrame(
                {
                    "spent_7": week.groupby("customer")["spend"].sum()[own.index],
                    "newest": own["channel"].fillna("other"),
                    "days_7": float(min(7, (day - FEBRUARY[0]).days + 1)),
                    "back": back if known else np.nan,
                },
                index=own.index,
            )
        )
    rows = pd.concat(found)
    return rows.assign(a_visit=rows["spent_7"])  # one visit a day


def psi(now: pd.Series, before: pd.Series) -> float:
    """By its definition, over the bins that two samples of few values have: each value is one."""
    p, q = (part.value_counts(normalize=True).reindex(sorted({*now, *before})) for part in (now, before))
    p, q = p.fillna(0.0001), q.fillna(0.0001)
    return float(((p - q) * np.log(p / q)).sum())


def test_what_is_made_of_many_days_is_compared_and_so_is_a_label_ahead(of_many_days: Platform) -> None:
    content = report(of_many_days, "2024-03")
    (comparison,) = content["comparisons"]
    found = {one["column"]: one for one in comparison["columns"]}
    assert {"spent_7", "newest", "a_visit", "days_7", "back"} < set(found)
    assert found["back"]["role"] == "label"
    march, february = made_of(MARCH), made_of(FEBRUARY)
    for name in ("spent_7", "a_visit", "days_7"):
        now, before = march[name].dropna().astype(float), february[name].dropna().astype(float)
        assert found[name]["range_now"] == f"{now.min():,.4g} to {now.max():,.4g}"
        assert found[name]["range_before"] == f"{before.min():,.4g} to {before.max():,.4g}"
        assert found[name]["nulls_now"] == 0.0, name
    assert found["back"]["nulls_now"] == 0.0, "a label that isn't known yet is no missing one"
    for name in ("newest", "back"):
        now, before = (part[name].dropna() for part in (march, february))
        assert found[name]["score"] == pytest.approx(psi(now, before), abs=1e-4), name
    # Everybody comes every day, so more is spent in a week, and all come back.
    drifted = {name for name, one in found.items() if one["verdict"] == "drifted"}
    assert {"spent_7", "a_visit", "back"} <= drifted
    assert found["spend"]["verdict"] == "stable", "what is spent on a day is as before"


@pytest.mark.slow
def test_what_is_made_of_many_days_is_the_same_read_by_spark(
    of_many_days: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = report(of_many_days, "2024-03")
    monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    opened = of_many_days.run("drift_report", MONTHS[1:], force=True)
    assert {day.outcome for day in opened.days} == {"written"}
    assert report(of_many_days, "2024-03") == known


def test_labels_that_come_have_the_month_measured_again(of_many_days: Platform) -> None:
    platform = of_many_days
    assert all(day.up_to_date for day in platform.run("drift_report", MONTHS[1:]).days)
    newest = MARCH[-1] + timedelta(days=1)
    frame = visits(newest, rows=80, customers=80).drop(columns="bought")
    platform.deliver(newest, f"{newest + timedelta(days=1)}_visits.csv", frame.to_csv(index=False))
    for step in ("ards", "mrds"):
        platform.run(step, newest)
    february, march = platform.run("drift_report", MONTHS[1:]).days
    assert (february.up_to_date, march.up_to_date) == (True, False)


def test_a_month_without_rows_of_the_mrds_has_the_ards_compared(
    tmp_path: Path, of_many_days: Platform
) -> None:
    platform = Platform(settings_in(tmp_path), of_many_days.spark, of_many_days.product)
    for day in (*FEBRUARY[-4:], *MARCH[:4]):
        frame = visits_in(day).drop(columns="bought")
        platform.deliver(day, f"{day + timedelta(days=1)}_visits.csv", frame.to_csv(index=False))
    platform.run("ards", [*FEBRUARY[-4:], *MARCH[:4]])
    platform.run("drift_report", MONTHS[2])
    content = report(platform, "2024-03")
    assert column(content, 0, "pages")["score"] is not None
    assert column(content, 0, "spent_7")["verdict"] == "no values"
