"""Models, predictions and evaluations of a history: what they may know, what stays, what is decided."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from ml_platform.cli.backfill import roll_back
from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.engine import model_training, training_plan
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning import performance, training_data
from ml_platform.machine_learning.model_history import ModelHistory, champion
from ml_platform.overview import history as overview
from ml_platform.storage import column_changes
from ml_platform.storage.small_tables import ControlTable
from ml_platform.storage.table_location import LocationError
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import (
    DATA_STEPS,
    SCORING_STEPS,
    D,
    Platform,
    days,
    deliver_visits,
    shop,
    visits,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALL = days("2024-01-01", "2024-03-20")
MONTHS = [D("2024-02-01"), D("2024-03-01")]
SCORED = days("2024-01-25", "2024-03-20")


def run_all(platform: Platform) -> None:
    for step in DATA_STEPS:
        platform.run(step, ALL)
    platform.run("model", MONTHS)
    for step in SCORING_STEPS:
        platform.run(step, SCORED)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Platform:
    """Eighty days of visits with two monthly models; tests that change it work on a copy."""
    platform = Platform(settings_in(tmp_path_factory.mktemp("history")), spark)
    deliver_visits(platform, ALL)
    run_all(platform)
    return platform


@pytest.fixture
def copy(history: Platform, tmp_path: Path) -> Platform:
    """A copy of the history that a test may change."""
    home = tmp_path / "home"
    shutil.copytree(history.settings.home, home, copy_function=shutil.copy2)
    # MLflow keeps absolute paths of artifacts: the copy shares the registry.
    settings = settings_in(home, mlflow_tracking_uri=history.settings.tracking_uri)
    return Platform(settings, history.spark, history.product)


def test_days_before_the_first_model_have_none(history: Platform) -> None:
    records = history.ledger.latest("predictions")
    before = [record.outcome for day, record in records.items() if day < D("2024-02-01")]
    after = [record.outcome for day, record in records.items() if day >= D("2024-02-01")]
    assert set(before) == {"no_model"}
    assert set(after) == {"written"}
    (day,) = history.run("predictions", "2024-01-25").days
    assert day.failure is None  # a warning, not a failure


def test_the_first_model_beats_both_baselines_and_serves_from_its_month(history: Platform) -> None:
    first, second = ModelHistory(history.tables, history.product).decisions()
    assert first.promoted
    assert first.comparison is not None
    assert set(first.comparison.baselines) == {"all_positive", "all_negative"}
    assert second.champion_before == first.fingerprint
    served = history.rows("predictions").groupby("event_day")["model_as_of"].unique()
    expected = {
        day: D("2024-03-01") if second.promoted and day >= D("2024-03-01") else D("2024-02-01")
        for day in served.index
    }
    assert {day: list(one) for day, one in served.items()} == {day: [one] for day, one in expected.items()}


def test_no_model_learns_from_the_entities_it_is_judged_on(history: Platform) -> None:
    from ml_platform.machine_learning import training_data

    usable = days("2024-01-01", "2024-01-31")
    sides = {}
    for held_out in (True, False):
        rows = training_data.labelled(
            lambda: history.spark,
            history.product,
            history.tables,
            usable,
            D("2024-02-01"),
            held_out=held_out,
            maximum_rows=10**6,
        ).collect()
        sides[held_out] = rows
    judged, learned = sides[True], sides[False]
    assert not set(judged["customer"]) & set(learned["customer"])
    assert 0.05 < judged["customer"].nunique() / 400 < 0.16
    # Labels of the 30th come on the 1st, those of the 31st on the 2nd: not known by then.
    assert learned["event_day"].max() == D("2024-01-30")
    mrds = history.rows("mrds")
    known = mrds[(mrds["event_day"] <= D("2024-01-30")) & mrds["bought"].notna()]
    assert len(judged) + len(learned) == len(known)


@pytest.mark.slow
def test_a_sample_above_the_bound_is_the_same_every_time(history: Platform) -> None:
    from ml_platform.machine_learning import training_data

    def sample() -> training_data.Slice:
        return training_data.labelled(
            lambda: history.spark,
            history.product,
            history.tables,
            ALL[:40],
            D("2024-02-15"),
            held_out=False,
            maximum_rows=1000,
        )

    first, second = sample(), sample()
    assert first.taken < first.available
    assert 700 <= first.taken <= 1000 + 100
    by = ["event_day", "customer"]
    pd.testing.assert_frame_equal(
        first.collect().sort_values(by, ignore_index=True),
        second.collect().sort_values(by, ignore_index=True),
    )


@pytest.mark.slow
def test_spark_makes_of_the_same_days_what_tasks_and_this_process_make(
    copy: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.fingerprints("model", "predictions", "model_performance")
    rows = copy.rows("predictions")
    monkeypatch.setattr(Tables, "day_files", lambda self, product, table: None)
    copy.sessions_asked_for = 0
    trained = copy.run("model", MONTHS, force=True)
    assert trained.metadata == {"models_trained": 0, "models_reused": 2}
    for step in ("predictions", "model_performance"):
        copy.run(step, SCORED, force=True, rescore=True)
    assert copy.sessions_asked_for == 3
    assert copy.fingerprints("model", "predictions", "model_performance") == before
    pd.testing.assert_frame_equal(copy.rows("predictions"), rows)


def test_learning_and_publishing_of_small_days_need_no_spark(copy: Platform) -> None:
    copy.sessions_asked_for = 0
    copy.run("model", MONTHS, force=True)
    copy.run("online_features", ALL[-1], force=True)
    assert copy.sessions_asked_for == 0


def test_probabilities_are_those_of_the_registered_pipeline(history: Platform) -> None:
    import mlflow

    day = D("2024-02-10")
    rows = history.rows("mrds")
    rows = rows[rows["event_day"] == day].sort_values("customer", ignore_index=True)
    predicted = history.rows("predictions")
    predicted = predicted[predicted["event_day"] == day].sort_values("customer", ignore_index=True)
    mlflow.set_tracking_uri(history.settings.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/shop/{predicted['model_version'][0]}")
    features = rows[["spend", "pages", "channel"]].astype({"pages": "float64"})
    expected = np.asarray(model.predict(features))[:, 1]
    np.testing.assert_allclose(predicted["probability"], expected, atol=1e-6)
    assert (predicted["decision"] == (predicted["probability"] >= predicted["threshold"])).all()
    assert len(predicted) == len(rows)


def test_an_evaluation_counts_what_was_known_that_morning(history: Platform) -> None:
    day = D("2024-02-25")
    found = performance.evaluations(history.tables, history.product)[day]
    last = day - timedelta(days=1)
    first = last - timedelta(days=9)
    both = history.rows("predictions").merge(
        history.rows("mrds")[["customer", "event_day", "bought", "label_known_on"]],
        on=["customer", "event_day"],
    )
    inside = both[(both["event_day"] >= first) & (both["event_day"] <= last)]
    known = inside[
        inside["bought"].notna()
        & (pd.to_datetime(inside["label_known_on"]) <= pd.Timestamp(day) + pd.Timedelta(days=1))
    ]
    label = known["bought"].astype(int)
    assert found["rows"] == len(inside)
    assert found["labelled"] == len(known)
    assert found["value"] == pytest.approx(f1_score(label, known["decision"]))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(label, known["probability"]))
    assert found["lower"] < found["value"] < found["upper"]
    assert found["tp"] == int(((known["decision"] == 1) & (label == 1)).sum())
    assert found["fn"] == int(((known["decision"] == 0) & (label == 1)).sum())
    assert found["baseline"] == pytest.approx(2 * label.mean() / (1 + label.mean()))
    mine = known[known["model_as_of"] == found["champion_as_of"]]
    assert found["champion_rows"] == len(mine)
    assert found["champion_value"] == pytest.approx(f1_score(mine["bought"].astype(int), mine["decision"]))


@pytest.mark.slow
def test_labels_that_come_late_are_never_negatives(copy: Platform) -> None:
    late = D("2024-03-15")
    (copy.folder(late) / "2024-03-17T0600_labels.csv").rename(
        copy.folder(late) / "2024-04-09T0600_labels.csv"
    )
    for step in ("ards", "mrds"):
        copy.run(step, late)
    day = D("2024-03-18")
    before = performance.evaluations(copy.tables, copy.product)[day]
    copy.run("model_performance", day)
    after = performance.evaluations(copy.tables, copy.product)[day]
    assert after["rows"] == before["rows"]
    missing = before["labelled"] - after["labelled"]
    rows = copy.rows("mrds")
    assert missing == (rows["event_day"] == late).sum()
    assert after["tn"] <= before["tn"]
    assert after["fn"] <= before["fn"]


@pytest.mark.slow
def test_nothing_before_a_date_changes_when_everything_after_it_does(copy: Platform) -> None:
    cut = D("2024-02-20")
    before = copy.fingerprints("predictions", "model_performance", "model")
    for day in ALL:
        if day >= cut:
            shutil.rmtree(copy.folder(day))
    deliver_visits(copy, [day for day in ALL if day >= cut], seed=9, shifted=True)
    # What was labelled before the cut, but whose labels came after it, changes as well.
    for day in (cut - timedelta(days=1),):
        labels = copy.folder(day) / f"{day + timedelta(days=2)}T0600_labels.csv"
        text = labels.read_text()
        labels.write_text(text.replace(",0\n", ",x\n").replace(",1\n", ",0\n").replace(",x\n", ",1\n"))
    for step in DATA_STEPS:
        copy.run(step, ALL)
    copy.run("model", MONTHS, force=True)
    copy.run("predictions", SCORED, rescore=True, force=True)
    copy.run("model_performance", SCORED, force=True)
    after = copy.fingerprints("predictions", "model_performance", "model")
    changed = {key for key in before if after[key] != before[key]}
    assert min(day for asset, day in changed if asset == "predictions") == cut
    # The evaluation of a day is made the morning after it, with labels known by then.
    assert min(day for asset, day in changed if asset == "model_performance") >= cut
    assert {day for asset, day in changed if asset == "model"} == {D("2024-03-01")}


@pytest.mark.slow
def test_predictions_stay_unless_rescoring_is_asked_for(copy: Platform) -> None:
    day = D("2024-03-10")
    before = copy.rows("predictions")
    corrected = copy.folder(day) / "2024-03-12T0900_correction.csv"
    rows = copy.rows("ards")
    first = rows[rows["event_day"] == day].sort_values("visit").iloc[0]
    new = "visit,day,customer,spend,pages,channel\n"
    new += f"{first['visit']},{day},{first['customer']},999.0,1,app\n"
    corrected.write_text(new + f"1,{day},newcomer,50.0,1,app\n")
    for step in ("ards", "mrds"):
        copy.run(step, day)
    copy.run("predictions", day)
    after = copy.rows("predictions")
    (newcomer,) = after[after["customer"] == "newcomer"].to_dict("records")
    assert newcomer["event_day"] == day
    pd.testing.assert_frame_equal(after[after["customer"] != "newcomer"].reset_index(drop=True), before)

    copy.run("predictions", day, rescore=True)
    rescored = copy.rows("predictions")
    moved = rescored.merge(before, on=["customer", "event_day"])
    moved = moved[moved["probability_x"] != moved["probability_y"]]
    assert list(moved["customer"]) == [first["customer"]]


def test_training_again_on_the_same_rows_takes_the_registered_model(copy: Platform) -> None:
    before = ModelHistory(copy.tables, copy.product).models()
    result = copy.run("model", MONTHS, force=True)
    after = ModelHistory(copy.tables, copy.product).models()
    assert result.metadata == {"models_trained": 0, "models_reused": 2}
    assert [(m.as_of, m.version, m.fingerprint) for m in after] == [
        (m.as_of, m.version, m.fingerprint) for m in before
    ]


@pytest.mark.slow
def test_a_month_trained_later_than_its_successor_is_decided_in_its_place(
    copy: Platform, tmp_path: Path
) -> None:
    other = Platform(settings_in(tmp_path / "other"), copy.spark)
    shutil.copytree(copy.settings.landing_path, other.settings.landing_path)
    for step in DATA_STEPS:
        other.run(step, ALL)
    for month in reversed(MONTHS):
        other.run("model", month)
    expected = ModelHistory(copy.tables, copy.product).decisions()
    assert ModelHistory(other.tables, other.product).decisions() == expected


def test_a_retrain_keeps_both_models_each_with_its_own_days(copy: Platform) -> None:
    as_of = D("2024-03-12")
    copy.run("model", D("2024-03-01"), as_of=as_of)
    models = {model.as_of: model for model in ModelHistory(copy.tables, copy.product).models()}
    assert list(models) == [D("2024-02-01"), D("2024-03-01"), as_of]
    assert models[as_of].kind == "retrain"
    # Fourteen days, as the contract says, to the last one whose labels can be known.
    assert models[as_of].first_day == D("2024-02-26")
    assert models[as_of].last_day == D("2024-03-10")


@pytest.mark.parametrize(
    ("months", "as_of", "expected"),
    [
        (MONTHS, "2024-03-12", "one month at once"),
        ([D("2024-02-01")], "2024-03-12", "doesn't lie in the month 2024-02"),
        (MONTHS[1:], "2024-03-22", "in the future: .* is 2024-03-20; the latest as-of is 2024-03-21"),
    ],
)
def test_an_as_of_date_must_fit_the_partition(
    history: Platform, months: list[date], as_of: str, expected: str
) -> None:
    with pytest.raises(PermanentError, match=expected):
        history.run("model", months, as_of=D(as_of))


@pytest.mark.parametrize(
    ("end", "newest", "expected"),
    [
        (None, "2024-03-31", "2024-04-01"),
        ("2024-03-31", "2024-03-30", "2024-03-31"),
        ("2024-03-31", "2024-03-31", "2024-03-31"),
        ("2024-03-20", "2024-03-20", "2024-03-21"),
        ("2024-12-31", "2024-12-31", "2024-12-31"),
    ],
)
def test_the_latest_as_of_is_the_morning_after_the_newest_day_in_a_month_there_is(
    end: str | None, newest: str, expected: str
) -> None:
    assert training_plan.latest_as_of(shop(end=end), D(newest)) == D(expected)


@pytest.mark.slow
def test_too_little_to_learn_from_says_how_much_is_needed(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-31")
    deliver_visits(platform, [*chosen[:2], chosen[-1]], rows=10)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    (month,) = platform.run("model", "2024-02-01").days
    assert month.outcome == "refused"
    assert month.failure is not None
    assert "needed are 50 rows" in month.failure


def test_a_model_that_was_refused_for_its_estimator_is_tried_again_by_every_run(
    copy: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong may be the module that the contract names, or this machine."""
    copy.product = shop(
        model__estimator={"class": "sklearn.linear_model.LogisticRegression", "params": {"C": 0.5}}
    )

    def refuse(product: Product) -> None:
        raise ContractError("shop: model.estimator: it can't be imported")

    with monkeypatch.context() as patch:
        patch.setattr(model_training, "try_estimators", refuse)
        for _ in range(2):
            (month,) = copy.run("model", "2024-02-01").days
            assert (month.outcome, month.up_to_date) == ("refused", False)
            assert month.failure is not None
            assert "it can't be imported" in month.failure
            assert "ml-platform check" in month.failure
    (month,) = copy.run("model", "2024-02-01").days
    assert month.outcome == "written"


def test_a_promotion_can_be_taken_back(copy: Platform) -> None:
    decisions = ModelHistory(copy.tables, copy.product).decisions()
    champion = [one for one in decisions if one.promoted][-1]
    taken, now = roll_back(copy.product, copy.settings, reason="a customer complained", by="ann")
    assert [one.fingerprint for one in taken.taken_back] == [champion.fingerprint]
    after = ModelHistory(copy.tables, copy.product)
    assert [one.taken_back for one in after.decisions() if one.fingerprint == champion.fingerprint] == [True]
    rollback, *_ = after.rollbacks()
    assert (rollback["reason"], rollback["by"]) == ("a customer complained", "ann")
    if now is None:
        assert after.serving(D("2024-03-20")) is None
    copy.run("predictions", SCORED)
    assert copy.fingerprints("predictions") != {}  # predictions that exist stay


def test_a_rollback_reads_no_rows(copy: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may lie where this machine reads none, and labels may have come since the last run."""
    before = ModelHistory(copy.tables, copy.product).decisions()
    assert sum(decision.promoted for decision in before) >= 1
    correct_labels(copy, D("2024-01-25"), known_on=D("2024-01-27"))

    def unreachable(*_: object, **__: object) -> None:
        raise LocationError("`main`.`ml`.`shop_mrds` is a table of a catalog, which is opened on Spark only")

    monkeypatch.setattr(training_data, "labelled", unreachable)
    monkeypatch.setattr(column_changes, "align", unreachable)
    taken, now = roll_back(copy.product, copy.settings, reason="false alarms", by="ann")
    after = ModelHistory(copy.tables, copy.product).decisions()
    rolled_back = {decision.as_of for decision in taken.taken_back}
    assert {decision.as_of for decision in after if decision.promoted} == {
        decision.as_of for decision in before if decision.promoted
    } - rolled_back
    assert now == champion(after)


def correct_labels(platform: Platform, day: date, known_on: date) -> None:
    """Deliver a day's labels once more, every other one turned round, known on a later day."""
    frame = visits(day)
    frame["bought"] = np.where(frame.index % 2, frame["bought"], 1 - frame["bought"])
    platform.deliver(
        day, f"{known_on}T0900_labels.csv", frame[["visit", "day", "bought"]].to_csv(index=False)
    )
    for step in ("ards", "mrds"):
        platform.run(step, day)


def test_a_promotion_that_was_taken_back_stays_so_when_its_month_is_trained_again(copy: Platform) -> None:
    rolled_back, _ = roll_back(copy.product, copy.settings, reason="no", by="ann")
    taken = rolled_back.taken_back[0]
    correct_labels(copy, taken.as_of - timedelta(days=5), known_on=taken.as_of - timedelta(days=2))
    copy.run("model", taken.as_of)
    history = ModelHistory(copy.tables, copy.product)
    again = {one.as_of: one for one in history.decisions()}[taken.as_of]
    assert again.fingerprint != taken.fingerprint
    assert (again.promoted, again.taken_back) == (False, True)
    lines = {line.as_of: line for line in overview.models(copy.product, copy.settings)}
    assert lines[taken.as_of].reason == "rolled back by ann: no"


def test_a_model_that_replaced_another_of_its_date_is_not_judged_by_that_ones_rows(copy: Platform) -> None:
    day = D("2024-02-25")
    before = performance.evaluations(copy.tables, copy.product)[day]
    assert (before["champion_as_of"], before["champion_rows"]) == (MONTHS[0], before["labelled"])
    correct_labels(copy, D("2024-01-20"), known_on=D("2024-01-25"))
    copy.run("model", MONTHS[0])
    first = ModelHistory(copy.tables, copy.product).decisions()[0]
    assert first.promoted
    assert first.fingerprint != before["champion_fingerprint"]
    copy.run("predictions", SCORED)
    copy.run("model_performance", day)
    after = performance.evaluations(copy.tables, copy.product)[day]
    assert (after["champion_as_of"], after["champion_fingerprint"]) == (MONTHS[0], first.fingerprint)
    assert (after["labelled"], after["value"]) == (before["labelled"], before["value"])
    assert (after["champion_rows"], after["champion_value"]) == (0, None)


def test_labels_of_a_day_that_was_blocked_after_it_was_scored_count_nowhere(copy: Platform) -> None:
    bad, day = D("2024-03-10"), D("2024-03-14")
    rows = copy.rows("predictions")
    scored = int((rows["event_day"] == bad).sum())
    before = performance.evaluations(copy.tables, copy.product)[day]
    for path in copy.folder(bad).iterdir():
        path.write_text("no,header\n")
    for step in ("ards", "mrds"):
        copy.run(step, bad)
    assert copy.ledger.latest("predictions", {bad})[bad].outcome == "written"
    (result,) = copy.run("model_performance", day).days
    after = performance.evaluations(copy.tables, copy.product)[day]
    assert scored > 0
    assert after["rows"] == before["rows"] - scored
    assert result.metadata["left_out"] == "2024-03-10 (held_back)"


def test_an_evaluation_leaves_with_the_day_that_it_was_made_from(copy: Platform) -> None:
    one_day = Platform(copy.settings, copy.spark, shop(evaluation__window_days=1))
    bad, day = D("2024-03-10"), D("2024-03-11")
    one_day.run("model_performance", [day, day + timedelta(days=1)])
    known = performance.evaluations(copy.tables, copy.product)
    for path in copy.folder(bad).iterdir():
        path.write_text("no,header\n")
    for step in ("ards", "mrds", "predictions"):
        one_day.run(step, bad)
    results = one_day.run("model_performance", [day, day + timedelta(days=1)]).days
    assert [result.outcome for result in results] == ["held_back", "written"]
    assert set(known) - set(performance.evaluations(copy.tables, copy.product)) == {day}


def test_evaluations_of_an_older_release_stay_beside_new_ones(platform: Platform) -> None:
    table = performance.table(platform.tables, platform.product)
    new = ("champion_fingerprint", "champion_judged_on")
    schema = pa.schema([field for field in table.schema if field.name not in new])
    old = ControlTable(platform.tables, "shop", table.name, schema)
    old.append(
        [{"event_day": D("2024-03-01"), "champion_value": 0.5, "verdict": "failed", "fingerprint": "a"}]
    )
    performance.replace(
        platform.tables, platform.product, [D("2024-03-02")], [{"event_day": D("2024-03-02")}]
    )
    found = performance.evaluations(platform.tables, platform.product)
    assert list(found) == [D("2024-03-01"), D("2024-03-02")]
    assert performance.performance_row(found[D("2024-03-01")]).judged_on == "scored"


def test_a_blocked_day_is_left_out_of_windows_and_listed(copy: Platform) -> None:
    bad = D("2024-03-10")
    for path in copy.folder(bad).iterdir():
        path.write_text("no,header\n")
    for step in ("ards", "mrds"):
        copy.run(step, bad)
    copy.run("predictions", bad)
    (day,) = copy.run("model_performance", D("2024-03-14")).days
    assert day.metadata["left_out"] == "2024-03-10 (held_back)"
    assert day.outcome == "written"


def test_a_contract_with_another_threshold_changes_only_the_evaluations(copy: Platform) -> None:
    changed = Platform(copy.settings, copy.spark, shop(evaluation__threshold=0.99))
    assert all(day.up_to_date for day in changed.run("predictions", SCORED[-5:]).days)
    result = changed.run("model_performance", SCORED[-5:]).days
    assert not any(day.up_to_date for day in result)
    assert not any(day.checks[0].passed for day in result)
    assert "below the threshold 0.99" in result[-1].checks[0].description
