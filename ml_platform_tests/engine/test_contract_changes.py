"""A contract that changes in the middle of a history: what still counts, and that work goes on."""

from __future__ import annotations

import copy as copying
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.overview import history as overview
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import SHOP, D, Platform, days, deliver_visits, shop, visits

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALL = days("2024-01-01", "2024-03-12")
MONTHS = [D("2024-02-01"), D("2024-03-01")]
SCORED = days("2024-02-01", "2024-03-12")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    """Ten weeks of visits, two models and their predictions under the first contract."""
    platform = Platform(settings_in(tmp_path_factory.mktemp("history")), spark)
    deliver_visits(platform, ALL, rows=80, customers=250)
    for step in ("ards", "mrds"):
        platform.run(step, ALL)
    platform.run("model", MONTHS)
    for step in ("predictions", "model_performance"):
        platform.run(step, SCORED)
    return platform


@pytest.fixture
def copy(history: Platform, tmp_path: Any) -> Platform:
    """A copy of the history that a test may change; it shares the registry."""
    import shutil

    home = tmp_path / "home"
    shutil.copytree(history.settings.home, home, copy_function=shutil.copy2)
    settings = settings_in(home, mlflow_tracking_uri=history.settings.tracking_uri)
    return Platform(settings, history.spark, history.product)


def without(column: str, **changes: Any) -> Product:
    """The product without a column, as a feature and in the source."""
    content = copying.deepcopy(SHOP)
    del content["source"]["columns"][column]
    content["source"]["extra_columns"] = [column]  # files go on having it
    del content["mrds"]["aggregate"][column]
    for names in content["model"]["features"].values():
        if column in names:
            names.remove(column)
    content["validation"]["not_null"] = [one for one in SHOP["validation"]["not_null"] if one != column]
    for section, values in changes.items():
        content[section] |= values
    return parse_product(content, "shop.yaml")


def scorers(platform: Platform) -> dict[date, set[str]]:
    found = platform.rows("predictions").groupby("event_day")["model_fingerprint"].unique()
    return {day: set(models) for day, models in found.items()}


def test_a_feature_that_leaves_the_contract_leaves_its_predictions_and_gives_new_days_no_model(
    copy: Platform,
) -> None:
    before = copy.rows("predictions")
    copy.product = without("pages")
    tomorrow = ALL[-1] + timedelta(days=1)
    deliver_visits(copy, [tomorrow], rows=80, customers=250)
    for step in ("ards", "mrds"):
        copy.run(step, tomorrow)
    (day,) = copy.run("predictions", tomorrow).days
    assert day.outcome == "no_model"
    assert "it needs pages, which the MRDS no longer has" in day.reason
    assert "ml-platform train shop" in day.reason
    kept = copy.run("predictions", SCORED)
    assert {one.outcome for one in kept.days} == {"written"}
    # Asking to score them again takes nothing away either: their model can't.
    rescored = copy.run("predictions", SCORED[:3], rescore=True)
    assert {one.outcome for one in rescored.days} == {"written"}
    assert "pages" in rescored.days[0].metadata["not_scored_again"]
    again = copy.run("predictions", SCORED[:3], rescore=True)
    assert all(one.up_to_date for one in again.days)
    pd.testing.assert_frame_equal(copy.rows("predictions"), before)


@pytest.mark.slow
def test_a_champion_of_an_earlier_contract_is_replaced_by_what_beats_the_baselines(copy: Platform) -> None:
    copy.product = without("pages")
    decisions = {one.as_of: one for one in ModelHistory(copy.tables, copy.product).decisions()}
    for step in ("ards", "mrds"):
        copy.run(step, ALL)
    result = copy.run("model", "2024-03-01", as_of=D("2024-03-10"))
    (month,) = result.days
    assert month.metadata["promoted"] is True
    after = {one.as_of: one for one in ModelHistory(copy.tables, copy.product).decisions()}
    comparison = after[D("2024-03-10")].comparison
    assert comparison is not None
    assert comparison.champion is None
    assert comparison.against in ("all_positive", "all_negative")
    assert "can't be evaluated under this contract (it needs pages" in comparison.reason
    assert "the baselines are the bar" in comparison.reason
    # What was decided under the earlier contract stands.
    assert {day: after[day].promoted for day in decisions} == {
        day: one.promoted for day, one in decisions.items()
    }
    scored = copy.run("predictions", ALL[-3:], rescore=True)
    assert {one.outcome for one in scored.days} == {"written"}
    assert scorers(copy)[ALL[-1]] == {after[D("2024-03-10")].fingerprint}


@pytest.mark.slow
def test_a_backfill_of_everything_after_a_feature_has_left_makes_one_history_of_one_contract(
    copy: Platform,
) -> None:
    copy.product = without("pages")
    for step in ("ards", "mrds"):
        copy.run(step, ALL)
    copy.run("model", MONTHS)
    history = ModelHistory(copy.tables, copy.product)
    assert history.decisions()[0].promoted is True
    copy.run("predictions", SCORED, rescore=True)
    serving = {day: {history.serving(day).fingerprint} for day in SCORED}
    assert scorers(copy) == serving
    copy.run("model_performance", SCORED)
    # The window of the first day ends before the first predictions.
    evaluated = copy.ledger.latest("model_performance", SCORED[1:])
    assert {one.outcome for one in evaluated.values()} == {"written"}


def test_rolling_back_after_a_feature_has_left_works(copy: Platform) -> None:
    from ml_platform.cli.backfill import roll_back

    copy.product = without("pages")
    taken, _ = roll_back(copy.product, copy.settings, reason="test", by="me")
    decisions = ModelHistory(copy.tables, copy.product).decisions()
    expected = {decision.as_of for decision in (*taken.taken_back, *taken.passed_over)}
    assert {decision.as_of for decision in decisions if decision.taken_back} == expected
    assert len(taken.taken_back) == 1


@pytest.mark.slow
def test_days_of_another_contract_are_not_learned_from_and_are_counted(copy: Platform) -> None:
    """A column that is a feature now was delivered all along, and no day that exists has it."""
    columns = SHOP["source"]["columns"] | {"score": {"type": "double", "nullable": True}}
    aggregate = SHOP["mrds"]["aggregate"] | {"score": "max"}
    changed = shop(
        source__columns=columns,
        mrds__aggregate=aggregate,
        model__features={"numeric": ["spend", "score"], "categorical": ["channel"]},
    )
    copy.product = changed
    (month,) = copy.run("model", "2024-03-01", as_of=D("2024-03-10")).days
    assert month.outcome == "refused"
    assert "14 days were left out" in month.reason
    assert "--from 2024-02-24 --to 2024-03-08 --select ards,mrds" in month.reason
    for day in ALL:
        for path in copy.folder(day).glob("*visits.csv"):
            frame = pd.read_csv(path)
            draw = np.random.default_rng(day.toordinal())
            frame["score"] = draw.random(len(frame)).round(3)
            frame.to_csv(path, index=False)
    half = [day for day in ALL if day >= D("2024-03-03")]
    for step in ("ards", "mrds"):
        copy.run(step, half)
    (month,) = copy.run("model", "2024-03-01", as_of=D("2024-03-10")).days
    assert month.metadata["days_of_another_contract"] == 8
    mrds = copy.rows("mrds")
    known = mrds[
        (mrds["event_day"] >= D("2024-03-03"))
        & mrds["bought"].notna()
        & (pd.to_datetime(mrds["label_known_on"]) <= pd.Timestamp("2024-03-10"))
        & (mrds["event_day"] < D("2024-03-10"))
    ]
    assert month.metadata["training_rows"] < len(known) < 1.2 * month.metadata["training_rows"]
    assert known["score"].notna().all()


def test_each_model_is_held_to_its_own_columns_whatever_else_serves_in_the_same_run(copy: Platform) -> None:
    """The days that exist have all that the new model reads, and not what the one before it reads."""
    copy.product = without("pages")
    (month,) = copy.run("model", "2024-03-01", as_of=D("2024-03-10")).days
    assert month.metadata["promoted"] is True
    assert "days_of_another_contract" not in month.metadata
    earlier, later = copy.run("predictions", [SCORED[0], ALL[-1]], rescore=True).days
    assert "not_scored_again" in earlier.metadata
    assert "not_scored_again" not in later.metadata
    assert scorers(copy)[ALL[-1]] == {served_by(copy, ALL[-1])}
    assert month.metadata["model_version"] == later.metadata["model_version"]


def test_a_column_that_no_model_reads_leaves_the_days_as_good_as_they_were(copy: Platform) -> None:
    columns = SHOP["source"]["columns"] | {"note": {"type": "string", "nullable": True}}
    copy.product = shop(source__columns=columns)
    (month,) = copy.run("model", "2024-03-01", as_of=D("2024-03-10")).days
    assert month.outcome == "written"
    assert "days_of_another_contract" not in month.metadata


def test_a_retyped_column_is_converted_where_nothing_is_lost(copy: Platform) -> None:
    before = copy.rows("ards")
    columns = copying.deepcopy(SHOP["source"]["columns"])
    columns["pages"]["type"] = "double"
    columns["channel"] = {"type": "string", "nullable": True}
    copy.product = shop(source__columns=columns)
    tomorrow = ALL[-1] + timedelta(days=1)
    deliver_visits(copy, [tomorrow], rows=80, customers=250)
    for step in ("ards", "mrds", "online_features"):
        (day,) = copy.run(step, tomorrow).days
        assert day.outcome == "written", day.reason
    after = copy.rows("ards")
    assert after["pages"].dtype == "float64"
    old = after[after["event_day"] < tomorrow].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before.astype({"pages": "float64"}), check_dtype=False)


@pytest.mark.slow
def test_states_of_corrected_rows_follow_a_retyped_column(copy: Platform) -> None:
    day, tomorrow = ALL[-5], ALL[-1] + timedelta(days=1)
    fix = visits(day, rows=80, customers=250).head(3).assign(pages=99)
    copy.deliver(day, f"{day + timedelta(days=3)}T0600_fix.csv", fix.to_csv(index=False))
    for step in ("ards", "mrds"):
        copy.run(step, day)
    before = {table: copy.rows(table) for table in ("ards_versions", "mrds_served")}
    assert len(before["ards_versions"]) == 2 * len(fix)
    assert not before["mrds_served"].empty
    assert 99 not in set(before["mrds_served"]["pages"])

    columns = copying.deepcopy(SHOP["source"]["columns"])
    columns["pages"]["type"] = "double"
    copy.product = shop(source__columns=columns)
    deliver_visits(copy, [tomorrow], rows=80, customers=250)
    for again in ([tomorrow], [day]):
        for step in ("ards", "mrds"):
            assert {one.outcome for one in copy.run(step, again).days} == {"written"}
        for table, rows in before.items():
            after = copy.rows(table)
            assert after["pages"].dtype == "float64"
            pd.testing.assert_frame_equal(after, rows.astype({"pages": "float64"}), check_dtype=False)
    (model,) = copy.run("model", "2024-03-01", as_of=tomorrow).days
    assert model.outcome == "written", model.reason


@pytest.mark.slow
def test_what_another_model_has_scored_is_shown_until_it_is_scored_again(copy: Platform) -> None:
    before = copy.rows("predictions")
    first = scorers(copy)
    copy.product = shop(model__estimator__params={"random_state": 1, "C": 0.01})
    copy.run("model", MONTHS)
    served = {day: served_by(copy, day) for day in SCORED}
    assert set(served.values()).isdisjoint(set().union(*first.values()))

    result = copy.run("predictions", SCORED)
    assert all(day.up_to_date for day in result.days)
    remark = result.days[0].metadata["scored_by_another_model"]
    assert "rows were scored by v" in remark
    assert "--from 2024-02-01 --to 2024-02-01 --rescore" in remark
    forced = copy.run("predictions", SCORED, force=True)
    assert "scored_by_another_model" in forced.days[0].metadata
    pd.testing.assert_frame_equal(copy.rows("predictions"), before)
    evaluated = copy.run("model_performance", SCORED[-1], force=True)
    window = before[before["event_day"] >= SCORED[-1] - timedelta(days=10)]
    counted = evaluated.days[0].metadata["rows_scored_by_another_model"]
    assert counted == len(window[window["event_day"] < SCORED[-1]])

    others = overview.other_scores(copy.product, copy.settings)
    assert sum(one.rows for one in others) == len(before)
    assert {day for one in others for day in one.days} == set(SCORED)
    lines = overview.models(copy.product, copy.settings)
    assert sum(line.days_scored for line in lines) == len(SCORED)
    assert {line.version for line in lines if line.days_scored} == set(before["model_version"])
    assert any(line.reason.startswith("replaced by v") for line in lines)

    rescored = copy.run("predictions", SCORED, rescore=True)
    assert all("scored_by_another_model" not in day.metadata for day in rescored.days)
    assert overview.other_scores(copy.product, copy.settings) == []
    assert scorers(copy) == {day: {model} for day, model in served.items()}
    known = {line.version for line in overview.models(copy.product, copy.settings)}
    assert set(copy.rows("predictions")["model_version"]) <= known


def served_by(platform: Platform, day: date) -> str:
    decision = ModelHistory(platform.tables, platform.product).serving(day)
    assert decision is not None
    return decision.fingerprint


@pytest.mark.slow
def test_when_no_model_serves_any_more_predictions_stay_until_they_are_to_be_scored_again(
    copy: Platform,
) -> None:
    from ml_platform.cli.backfill import roll_back

    before = copy.rows("predictions")
    while any(one.promoted for one in ModelHistory(copy.tables, copy.product).decisions()):
        roll_back(copy.product, copy.settings, reason="test", by="me")
    kept = copy.run("predictions", SCORED)
    assert {day.outcome for day in kept.days} == {"written"}
    assert "is served by no model" in kept.days[0].metadata["scored_by_another_model"]
    pd.testing.assert_frame_equal(copy.rows("predictions"), before)
    for _ in range(2):
        gone = copy.run("predictions", SCORED, rescore=True)
        assert {day.outcome for day in gone.days} == {"no_model"}
        assert len(copy.rows("predictions")) == 0
    assert all(day.up_to_date for day in copy.run("predictions", SCORED).days)


def test_check_says_what_a_contract_does_to_a_history_before_it_is_deployed(history: Platform) -> None:
    assert overview.consequences(history.product, history.settings) == []
    otherwise = shop(mrds__aggregate=SHOP["mrds"]["aggregate"] | {"pages": "min"})
    champion, days_ = overview.consequences(otherwise, history.settings)
    assert "can't be evaluated under this contract: it needs pages aggregated by max" in champion
    assert "the baselines are the bar" in champion
    assert "ml-platform train shop" in champion
    assert f"{len(ALL)} of {len(ALL)} days of the MRDS (2024-01-01 to 2024-03-12)" in days_
    # Columns that go and that no other model has learned from leave the days as they are.
    (only,) = overview.consequences(without("pages"), history.settings)
    assert "it needs pages" in only


@pytest.mark.slow
def test_the_graph_goes_on_through_columns_that_come_go_are_renamed_and_retyped(copy: Platform) -> None:
    """Half a year. In March ``score`` comes, ``pages`` goes, ``channel`` is called ``medium``,
    ``visit`` becomes a string, and labels of the days before are still coming.
    """
    content = copying.deepcopy(SHOP)
    columns = content["source"]["columns"]
    del columns["pages"]
    columns["medium"] = columns.pop("channel") | {"aliases": ["channel"]}
    columns["visit"] = {"type": "string"}
    columns["score"] = {"type": "double", "nullable": True}
    content["source"]["extra_columns"] = ["pages"]
    rules = {"spend": "sum", "visit": "count", "medium": "last", "score": "max", "bought": "last"}
    content["mrds"]["aggregate"] = rules
    content["model"] |= {"features": {"numeric": ["spend", "score"], "categorical": ["medium"]}}
    content["validation"] = {"minimum_rows": 1, "not_null": ["customer", "medium"]}
    copy.product = parse_product(content, "shop.yaml")
    later = days("2024-03-13", "2024-06-30")
    for day in later:
        frame = visits(day, rows=80, customers=250).rename(columns={"channel": "medium"})
        frame["score"] = frame.pop("pages") / 10
        copy.deliver(day, "visits.csv", frame.to_csv(index=False))
    late = ALL[-3:]
    for day in late:
        frame = visits(day, rows=80, customers=250)[["visit", "day", "bought"]]
        copy.deliver(day, f"{day + timedelta(days=5)}T0600_labels.csv", frame.to_csv(index=False))

    for step in ("ards", "mrds", "online_features"):
        result = copy.run(step, [*late, *later])
        assert {day.outcome for day in result.days} == {"written"}, step
    new_months = [D(f"2024-0{month}-01") for month in (4, 5, 6)]
    trained = copy.run("model", new_months)
    assert trained.days[0].metadata.get("days_of_another_contract", 0) > 0
    first = trained.days[0].day
    predicted = copy.run("predictions", later)
    outcomes = {day.day: day.outcome for day in predicted.days}
    promoted = [day.day for day in trained.days if day.metadata.get("promoted")]
    assert promoted[0] in (first, D("2024-05-01"))
    assert {outcome for day, outcome in outcomes.items() if day < promoted[0]} == {"no_model"}
    assert {outcome for day, outcome in outcomes.items() if day >= promoted[0]} == {"written"}
    copy.run("model_performance", later)
    assert copy.run("drift_report", new_months[:2]).days[0].outcome == "written"

    everything, months = [*ALL, *later], [*MONTHS, *new_months]
    for step in ("ards", "mrds", "online_features"):
        result = copy.run(step, everything)
        assert {day.outcome for day in result.days} == {"written"}, step
    again = copy.run("model", months)
    assert all("days_of_another_contract" not in day.metadata for day in again.days)
    scored = [day for day in everything if day >= D("2024-02-01")]
    result = copy.run("predictions", scored, rescore=True)
    assert {day.outcome for day in result.days} == {"written"}
    assert scorers(copy) == {day: {served_by(copy, day)} for day in scored}
    copy.run("model_performance", scored)
    copy.run("drift_report", months[:-1])
    assert overview.other_scores(copy.product, copy.settings) == []
    assert overview.consequences(copy.product, copy.settings) == []
    rows = copy.rows("mrds")
    assert rows.loc[rows["event_day"] < D("2024-03-13"), "score"].isna().all()
    assert rows["medium"].notna().all()


def test_a_late_label_after_a_change_of_the_contract_takes_no_promotion_back(copy: Platform) -> None:
    """The days that the earlier decisions were made on are partly of the earlier contract by now."""
    before = {one.as_of: one.promoted for one in ModelHistory(copy.tables, copy.product).decisions()}
    channel = SHOP["source"]["columns"]["channel"] | {"fill_null": "web"}
    copy.product = shop(source__columns=SHOP["source"]["columns"] | {"channel": channel})
    for day in (D("2024-01-25"), D("2024-02-25")):
        frame = visits(day, rows=80, customers=250)[["visit", "day", "bought"]]
        frame["bought"] = 1 - frame["bought"]
        copy.deliver(day, f"{day + timedelta(days=9)}T0600_labels.csv", frame.to_csv(index=False))
        for step in ("ards", "mrds"):
            copy.run(step, day)
    copy.run("model", "2024-03-01", as_of=D("2024-03-10"))
    after = {one.as_of: one.promoted for one in ModelHistory(copy.tables, copy.product).decisions()}
    assert {as_of: after[as_of] for as_of in before} == before
    assert any(before.values())
