"""Models of labels that come thirty days late: what they learn from, are compared on and are judged by."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pandas as pd
import pytest
from sklearn.metrics import f1_score

from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.day_rows import day_rows
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.machine_learning import evaluation, performance, training_data, unseen_rows
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.training_data import SAMPLE_STEPS
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, shop, visits
from ml_platform_tests.tasks_here import TasksHere, without_verdicts

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DELAY = 30
ALL = days("2024-01-01", "2024-05-12")
MONTHS = [D("2024-03-01"), D("2024-04-01"), D("2024-05-01")]
SHIFT = D("2024-03-10")


def visits_of(day: date) -> pd.DataFrame:
    return visits(day, rows=60, shifted=day >= SHIFT)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Nineteen weeks of visits; what is bought is known after thirty days, and turns round on 10 March."""
    product = shop(
        source__label_delay_days=DELAY,
        model__first_month=None,
        model__training_months=1,
        evaluation__minimum_rows=200,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_verdicts(monkeypatch)
        session = cast("SparkSession", TasksHere())
        platform = Platform(settings_in(tmp_path_factory.mktemp("late")), session, product)
        for day in ALL:
            frame = visits_of(day)
            labels = frame[["visit", "day", "bought"]]
            platform.deliver(
                day, f"{day + timedelta(days=1)}_visits.csv", frame.drop(columns="bought").to_csv(index=False)
            )
            # Of some days a few labels come at once: all of people who bought.
            early = labels[labels["bought"] == 1].head(10)
            platform.deliver(day, f"{day + timedelta(days=1)}_early.csv", early.to_csv(index=False))
            platform.deliver(day, f"{day + timedelta(days=1 + DELAY)}_labels.csv", labels.to_csv(index=False))
        platform.run("ards", ALL)
        platform.run("mrds", ALL)
        platform.run("model", MONTHS)
        platform.run("predictions", ALL[-80:])
        platform.run("model_performance", ALL[-80:])
    return platform


def test_models_learn_from_and_are_compared_on_days_whose_labels_are_known(history: Platform) -> None:
    models = {model.as_of: model for model in ModelHistory(history.tables, history.product).models()}
    assert list(models) == MONTHS
    windows = {as_of: (str(model.first_day), str(model.last_day)) for as_of, model in models.items()}
    assert windows == {
        MONTHS[0]: ("2024-01-01", "2024-01-30"),
        MONTHS[1]: ("2024-02-02", "2024-03-01"),
        MONTHS[2]: ("2024-03-01", "2024-03-31"),
    }
    decisions = {one.as_of: one for one in ModelHistory(history.tables, history.product).decisions()}
    for as_of in MONTHS:
        held_out = training_data.labelled(
            lambda: history.spark,
            history.product,
            history.tables,
            days(str(as_of - timedelta(days=50)), str(as_of - timedelta(days=31))),
            as_of,
            held_out=True,
            maximum_rows=10**6,
        )
        comparison = decisions[as_of].comparison
        assert comparison is not None
        assert comparison.rows == held_out.available > 40
    # The month that learned of the change takes the champion's place, as soon as the labels allow.
    assert [decisions[as_of].promoted for as_of in (MONTHS[0], MONTHS[2])] == [True, True]


def test_a_champion_that_has_scored_no_labelled_row_is_judged_on_those_it_never_learned_from(
    history: Platform,
) -> None:
    day = D("2024-05-10")
    found = performance.evaluations(history.tables, history.product)[day]
    champion = ModelHistory(history.tables, history.product).serving(day)
    assert champion is not None
    assert champion.as_of == MONTHS[2]
    (model,) = [
        one for one in ModelHistory(history.tables, history.product).models() if one.as_of == champion.as_of
    ]
    assert (model.first_day, model.last_day) == (D("2024-03-01"), D("2024-03-31"))
    window = days_evaluated(history.product, day)
    assert (str(window.first), str(window.last)) == ("2024-04-01", "2024-04-10")

    # All of the window is later than what the champion has learned from, so every entity's rows count.
    frame = pd.concat([visits_of(one) for one in window], ignore_index=True)
    last = frame.sort_values("visit").groupby(["day", "customer"], as_index=False)
    rows = last.agg({"spend": "sum", "pages": "max", "channel": "last", "bought": "last"})
    pipeline = Registry.of(history.settings).load(history.product, model.version, model.fingerprint).pipeline
    probability = pipeline.predict_proba(
        rows[["spend", "pages", "channel"]].astype({"pages": "float64", "channel": object})
    )[:, 1]
    decision = probability.round(6) >= model.threshold
    assert found["champion_judged_on"] == "unseen"
    assert (found["champion_rows"], found["champion_positives"]) == (len(rows), int(rows["bought"].sum()))
    assert found["champion_value"] == pytest.approx(f1_score(rows["bought"], decision))
    # The window itself was scored by the champions of April, which didn't know of the change.
    assert found["champion_fingerprint"] == champion.fingerprint
    assert found["value"] < found["champion_value"] - 0.1


def test_of_the_days_it_learned_from_a_champion_is_judged_on_the_held_out_entities_alone(
    history: Platform,
) -> None:
    day = D("2024-05-02")  # the window ends on 2 April, two days after what the champion learned from
    found = performance.evaluations(history.tables, history.product)[day]
    expected = 0
    for chosen, held_out in (
        (days("2024-03-24", "2024-03-31"), [True]),
        (days("2024-04-01", "2024-04-02"), [True, False]),
    ):
        for side in held_out:
            rows = training_data.labelled(
                lambda: history.spark,
                history.product,
                history.tables,
                chosen,
                day + timedelta(days=1),
                held_out=side,
                maximum_rows=10**6,
            )
            expected += rows.available
    assert found["champion_judged_on"] == "unseen"
    assert found["champion_rows"] == expected


@pytest.mark.parametrize(("delay", "expected"), [(0, False), (1, False), (7, False), (8, True), (180, True)])
@pytest.mark.parametrize(
    ("rows", "positives", "enough"), [(199, 90, False), (200, 9, False), (200, 10, True)]
)
def test_only_late_labels_have_a_champion_judged_on_what_it_has_not_scored(
    delay: int, expected: bool, rows: int, positives: int, enough: bool
) -> None:
    product = shop(source__label_delay_days=delay, model__first_month=None, evaluation__minimum_rows=200)
    found = evaluation.Evaluation(D("2024-05-10"), "f1", champion_rows=rows, champion_positives=positives)
    assert unseen_rows.needs_unseen_rows(product, found) == (expected and not enough)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 1, 7, 60, 90, 180])
def test_however_late_labels_come_the_first_model_serves_from_its_first_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    without_verdicts(monkeypatch)
    product = shop(source__label_delay_days=delay, model__first_month=None, evaluation__minimum_rows=200)
    platform = Platform(settings_in(tmp_path), cast("SparkSession", TasksHere()), product)
    first, newest = product.first_month, product.first_month + timedelta(days=14)
    known_to = product.last_labelled_day(newest + timedelta(days=1))
    everything = days("2024-01-01", str(newest))
    for day in everything:
        frame = visits(day, rows=60)
        rows, labels = frame.drop(columns="bought"), frame[["visit", "day", "bought"]]
        platform.deliver(day, f"{day + timedelta(days=1)}_visits.csv", rows.to_csv(index=False))
        if day <= known_to:
            known_on = day + timedelta(days=1 + delay)
            platform.deliver(day, f"{known_on}_labels.csv", labels.to_csv(index=False))
    platform.run("ards", everything)
    platform.run("mrds", everything)
    platform.run("model", first)
    scored = [day for day in everything if day >= first]
    platform.run("predictions", scored)
    platform.run("model_performance", newest)
    (decision,) = ModelHistory(platform.tables, product).decisions()
    assert decision.promoted, decision.reason
    found = performance.evaluations(platform.tables, product)
    if delay >= 15:  # no label of a day that it has scored is known yet
        assert platform.ledger.latest("model_performance")[newest].outcome == "no_model"
        assert found == {}
    else:
        assert found[newest]["labelled"] == found[newest]["rows"] > 0
        assert found[newest]["champion_rows"] == found[newest]["rows"]
        assert found[newest]["verdict"] == "passed"


@pytest.mark.parametrize("share", [SAMPLE_STEPS, SAMPLE_STEPS // 2])
def test_spark_reads_the_unseen_rows_that_this_process_reads(
    history: Platform, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    tables, product = Tables.of(history.settings, lambda: spark), history.product
    chosen, learned_to = days("2024-03-24", "2024-04-02"), D("2024-03-31")
    schema = aggregation.schema(product)

    def read(share: int) -> pd.DataFrame:
        rows = day_rows(lambda: spark, tables, product.name, MRDS, chosen, schema)
        found = rows.map(unseen_rows._unseen(product, learned_to, share), schema).to_pandas()
        return found.sort_values(["event_day", "customer"], ignore_index=True)

    held = read(SAMPLE_STEPS)
    monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    opened = read(share)
    assert set(held["event_day"]) == set(chosen)
    if share == SAMPLE_STEPS:
        pd.testing.assert_frame_equal(opened, held)
    else:
        customers = set(opened["customer"])
        kept = held[held["customer"].isin(customers)].reset_index(drop=True)
        pd.testing.assert_frame_equal(opened, kept)
        assert 0.3 < len(customers) / held["customer"].nunique() < 0.7


def test_a_champion_of_other_features_is_judged_by_what_it_has_scored_alone(history: Platform) -> None:
    day = D("2024-05-10")
    decision = ModelHistory(history.tables, history.product).serving(day)
    assert decision is not None
    model = ModelHistory(history.tables, history.product).by_fingerprint()[decision.fingerprint]
    pipeline = Registry.of(history.settings).load(history.product, model.version, model.fingerprint).pipeline
    found = [evaluation.Evaluation(day, "f1", champion_as_of=model.as_of)]
    labelled = {day: dict.fromkeys(ALL, 60)}
    changed = shop(
        source__label_delay_days=DELAY,
        model__first_month=None,
        model__features={"numeric": ["spend"], "categorical": ["channel"]},
    )
    for product, judged in ((history.product, [day]), (changed, [])):
        result = unseen_rows.judge_on_unseen(
            lambda: history.spark, product, history.tables, pipeline, model, found, labelled
        )
        assert list(result) == judged
