"""Choosing among estimators and parameters: the folds, the search, and who wins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform.contract.searching import Search
from ml_platform.contract.tasks import METRICS
from ml_platform.engine.passing_errors import is_passing
from ml_platform.machine_learning import search
from ml_platform.machine_learning.binary import Binary as BinaryKind
from ml_platform.machine_learning.folds import FOLDS, PARTS, PARTS_FORWARD, folds
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_plots import of_trials
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.search import Score, Trial
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import Choosing, TrainedModel, train
from ml_platform.storage.locks import LockedError
from ml_platform_tests.contract.test_kinds import NUMBER
from ml_platform_tests.contract.test_searching import LOGISTIC, several
from ml_platform_tests.machine_learning import test_multiclass, test_regression
from ml_platform_tests.small_platform import D, shop, visits

TREE = "sklearn.tree.DecisionTreeClassifier"
DUMMY = "sklearn.dummy.DummyClassifier"
NEIGHBORS = "sklearn.neighbors.KNeighborsClassifier"
FAILING = {"class": NEIGHBORS, "params": {"n_neighbors": 10**6}}


def rows(count: int = 30) -> pd.DataFrame:
    """Labelled rows of the MRDS, one a customer and day."""
    made = [visits(D("2024-01-01") + timedelta(days=n), rows=40, customers=60) for n in range(count)]
    frame = pd.concat(made, ignore_index=True)
    frame["event_day"] = [D(day) for day in frame["day"]]
    return frame.drop_duplicates(["customer", "event_day"], ignore_index=True)


def chosen(trained: TrainedModel) -> Selection:
    assert trained.selection is not None
    return trained.selection


# -- the folds -----------------------------------------------------------------------------------------


@st.composite
def labelled(draw: Any) -> pd.DataFrame:
    count = draw(st.integers(2, 120))
    seed, entities, length = draw(st.integers(0, 999)), draw(st.integers(1, 12)), draw(st.integers(1, 40))
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "customer": [f"c{n}" for n in random.integers(0, entities, count)],
            "event_day": [
                D("2024-01-01") + timedelta(days=int(n)) for n in random.integers(0, length, count)
            ],
            "bought": (random.random(count) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))).astype(int),
        }
    ).sort_values(["event_day", "customer"], ignore_index=True)


@settings(max_examples=150, deadline=None)
@given(
    frame=labelled(),
    by=st.sampled_from(["entities", "time"]),
    delay=st.sampled_from([0, 1, 5, 90]),
    metric=st.sampled_from(["f1", "accuracy", "roc_auc"]),
)
def test_no_fold_learns_from_what_it_is_scored_on_nor_from_later_days(
    frame: pd.DataFrame, by: Any, delay: int, metric: str
) -> None:
    product = shop(source__label_delay_days=delay, evaluation__metric=metric, model__first_month="2024-06")
    made = folds(kind_of(product), frame, by)
    first, last = frame["event_day"].min(), frame["event_day"].max()
    length = (last - first).days + 1
    alone = frame["customer"].nunique() == 1
    assert len(made) <= (PARTS_FORWARD if alone else FOLDS)
    seen: list[int] = []
    for fold in made:
        learned, scored = frame.loc[fold.learned], frame.loc[fold.scored]
        gap = (scored["event_day"].min() - learned["event_day"].max()).days
        too_long = length >= PARTS and length * (PARTS - 1) // PARTS - delay < length // PARTS
        assert gap > delay or (too_long and not alone)
        if (by == "entities" or too_long) and not alone:
            assert not {*learned["customer"]} & {*scored["customer"]}
        if not too_long:
            assert (learned["event_day"].max() - first).days + delay < (
                scored["event_day"].min() - first
            ).days
        if by == "entities" and not alone and not too_long:
            assert scored["event_day"].min() >= first + timedelta(days=length * (PARTS - 1) // PARTS)
        assert learned["bought"].nunique() == 2
        assert metric != "roc_auc" or scored["bought"].nunique() == 2
        assert metric != "f1" or scored["bought"].any()
        seen += list(fold.scored)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("delay", "length", "by_entities", "forward"),
    [
        # Of each the days that a fold learns from, and that it is scored on, counted from the first one on.
        (0, 30, [(24, 24, 30)], [(12, 12, 18), (18, 18, 24), (24, 24, 30)]),
        (7, 30, [(17, 24, 30)], [(11, 18, 24), (17, 24, 30)]),
        (60, 30, [(30, 0, 30)], None),
        (7, 90, [(65, 72, 90)], [(29, 36, 54), (47, 54, 72), (65, 72, 90)]),
        (60, 90, [(90, 0, 90)], None),
        (60, 100, [(20, 80, 100)], [(20, 80, 100)]),
        (60, 365, [(232, 292, 365)], [(86, 146, 219), (159, 219, 292), (232, 292, 365)]),
        (60, 730, [(524, 584, 730)], [(232, 292, 438), (378, 438, 584), (524, 584, 730)]),
    ],
)
def test_folds_learn_from_no_label_that_would_not_have_been_known(
    delay: int, length: int, by_entities: list[tuple[int, int, int]], forward: Any
) -> None:
    product = shop(source__label_delay_days=delay, model__first_month="2026-01")
    first, draw = D("2024-01-01"), np.random.default_rng(1)
    many = [(day, customer) for day in range(length) for customer in range(10)]
    frame = pd.DataFrame(
        {
            "event_day": [first + timedelta(days=day) for day, _ in many],
            "customer": [f"c{customer}" for _, customer in many],
            "bought": draw.integers(0, 2, len(many)),
        }
    )
    day = np.array([day for day, _ in many])
    for by, expected in (("entities", by_entities), ("time", forward)):
        found = [
            (int(day[fold.learned].max()) + 1, int(day[fold.scored].min()), int(day[fold.scored].max()) + 1)
            for fold in folds(kind_of(product), frame, by)  # type: ignore[arg-type]
        ]
        wanted = by_entities if expected is None else expected
        assert found == (wanted * FOLDS if by == "entities" or expected is None else wanted)
    if forward is None:
        searched = several({"class": DUMMY}, {"class": LOGISTIC}).model_copy(
            update={"source": product.source}
        )
        trained = train(searched, rows(length), Choosing("time"))
        assert f"labels come {delay} days late" in chosen(trained).reason
        assert Selection.read(chosen(trained).plain) == chosen(trained)


def test_as_many_folds_as_entities_where_these_are_fewer_and_the_rows_in_any_order() -> None:
    product, frame = shop(), rows()
    each_day = [
        {"customer": f"c{n}", "event_day": D("2024-01-01") + timedelta(days=d)}
        for d in range(30)
        for n in range(3)
    ]
    few = pd.DataFrame(each_day).assign(bought=lambda all_: all_.index % 2)
    assert len(folds(kind_of(product), frame, "entities")) == FOLDS
    found = folds(kind_of(product), few, "entities")
    assert [few.loc[fold.scored, "customer"].nunique() for fold in found] == [1, 1, 1]
    assert len(folds(kind_of(product), few, "time")) == PARTS_FORWARD
    one = few[few["customer"] == "c1"].reset_index(drop=True).assign(bought=lambda all_: all_.index % 2)
    assert len(folds(kind_of(product), one, "entities")) == PARTS_FORWARD


# -- the search ----------------------------------------------------------------------------------------

SPEC = Search.model_validate(
    {
        "params": {
            "x": {"low": 0.001, "high": 1000.0, "log": True},
            "n": {"low": 1, "high": 9},
            "shape": {"choices": [[4], [4, 4], "flat"]},
        },
        "trials": 40,
    }
)


def worth(values: Any) -> Score:
    """Best at x=10, n=3, and the second shape."""
    shape = {"[4]": 0.5, "[4, 4]": 0.0, "flat": 1.0}[str(values["shape"])]
    return Score((-abs(np.log10(values["x"]) - 1) - abs(values["n"] - 3) - shape,))


def run(sign: int = 1, seed: int = 3, **options: Any) -> list[Trial]:
    def signed(values: Any) -> Score:
        return Score(tuple(sign * one for one in worth(values).folds))

    return search.run(SPEC, signed, sign=sign, seed=seed, start=options.pop("start", {}), **options)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_search_comes_near_to_what_is_known_to_be_best_and_finds_it_again(sign: int) -> None:
    trials = run(sign)
    best = search.best(trials, sign)
    assert best is not None
    assert best.values["n"] == 3
    assert 1 < best.values["x"] < 100
    assert trials == run(sign)
    assert [trial.values for trial in trials] != [trial.values for trial in run(sign, seed=4)]
    for trial in trials:
        assert all(space.holds(trial.values[name]) for name, space in SPEC.params.items())


def test_fewer_trials_are_the_first_of_more_and_a_start_comes_first() -> None:
    start = {"n": 3, "shape": "flat"}
    whole = run(start=start)
    assert run(start=start, exactly=7) == whole[:7]
    assert {name: whole[0].values[name] for name in start} == start
    assert len(run(start=start, exactly=45)) == 45


def test_the_clock_ends_a_search_but_not_one_whose_trials_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 100_000, 100))
    monkeypatch.setattr(search.time, "monotonic", lambda: float(next(ticks)))
    cut = run()
    assert len(cut) == 3  # 100 s each, within 300
    assert run(exactly=len(cut)) == cut
    assert len(run(exactly=12)) == 12


def test_values_that_come_again_are_not_scored_again_and_failures_do_not_end_a_search() -> None:
    asked = []

    def fails_for_two(values: Any) -> Score:
        asked.append(values["n"])
        return Score(failure="no") if values["n"] == 2 else Score((float(values["n"]),))

    few = Search.model_validate({"params": {"n": {"low": 1, "high": 3}}, "trials": 25})
    trials = search.run(few, fails_for_two, sign=1, seed=0, start={})
    assert sorted(asked) == sorted({trial.values["n"] for trial in trials}) == [1, 2, 3]
    assert len(trials) == 25
    best = search.best(trials, 1)
    assert best is not None
    assert best.values == {"n": 3}
    assert search.best([trial for trial in trials if trial.score.failure], 1) is None
    assert search.best([], 1) is None


def test_the_plot_of_trials_shows_failed_ones_as_gaps_and_less_as_better() -> None:
    figure = of_trials([None, 3.0, 5.0, None, 2.0], "rmse", -1)
    points, best = figure.axes[0].lines
    np.testing.assert_array_equal(points.get_ydata(), [np.nan, 3, 5, np.nan, 2])
    np.testing.assert_array_equal(best.get_ydata(), [np.nan, 3, 3, 3, 2])
    assert of_trials([0.5], "f1", 1) is None


# -- who wins ------------------------------------------------------------------------------------------


def tree(depth: int, **params: Any) -> dict[str, Any]:
    return {"class": TREE, "params": {"max_depth": depth, **params}}


def test_the_best_is_trained_and_its_record_brings_it_back() -> None:
    product, frame = several({"class": DUMMY}, tree(1), {"class": LOGISTIC}), rows()
    trained = train(product, frame)
    found = chosen(trained)
    assert trained.estimator == product.model.estimators[2]
    assert [found.tried[2].score.mean, 2] == max(
        [one.score.mean, place] for place, one in enumerate(found.tried)
    )
    assert found.reason.startswith("LogisticRegression: f1 0.")
    assert Selection.read(found.plain) == found
    alone = train(product.with_estimator(trained.estimator), frame)
    np.testing.assert_array_equal(
        trained.pipeline[-1].coef_, alone.pipeline[-1].coef_, "as if the contract had named it alone"
    )
    assert trained.threshold == alone.threshold
    assert alone.selection is None
    shuffled = train(product, frame.sample(frac=1, random_state=0))
    assert chosen(shuffled) == found


def test_the_first_of_equals_wins() -> None:
    # Trees of one split each; what differs between them changes no prediction.
    product = several(tree(1, min_samples_leaf=1), tree(1, min_samples_leaf=2), tree(1, min_samples_leaf=3))
    found = chosen(train(product, rows()))
    assert found.chosen == 0
    assert "the first of equals" in found.reason


def test_one_that_fails_is_left_out_and_all_that_fail_refuse_the_month() -> None:
    found = chosen(train(several(FAILING, tree(2)), rows()))
    assert found.chosen == 1
    assert "left out is KNeighborsClassifier: ValueError: Expected n_neighbors" in found.reason
    with pytest.raises(TrainingError, match=r"no estimator .* can be trained: KNeighborsClassifier \(1\): V"):
        train(several(FAILING, {"class": NEIGHBORS, "params": {"n_neighbors": 10**5}}), rows())


def test_one_that_fails_on_all_rows_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    fit, frame = LogisticRegression.fit, rows()

    def fails_on_many(self: Any, X: Any, y: Any, **options: Any) -> Any:  # noqa: N803
        if len(y) == len(frame):
            raise ArithmeticError("did not converge")
        return fit(self, X, y, **options)

    monkeypatch.setattr(LogisticRegression, "fit", fails_on_many)
    trained = train(several({"class": LOGISTIC}, tree(2)), frame)
    assert trained.estimator.class_ == TREE
    assert "left out is LogisticRegression: ArithmeticError: did not converge" in chosen(trained).reason


def test_what_no_estimator_is_to_blame_for_is_no_failure_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.tree import DecisionTreeClassifier

    for error in (MemoryError(), OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fails(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(DecisionTreeClassifier, "fit", fails)
        with pytest.raises(type(error)):
            train(several({"class": LOGISTIC}, tree(2)), rows(10))


def test_an_error_that_passes_ends_the_training_and_leaves_no_estimator_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sklearn.tree import DecisionTreeClassifier

    for error in (LockedError("another process works here"), RuntimeError("no luck")):

        def fails(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(DecisionTreeClassifier, "fit", fails)
        product, choosing = several({"class": LOGISTIC}, tree(2)), Choosing(passes=is_passing)
        if is_passing(error):
            with pytest.raises(LockedError):
                train(product, rows(10), choosing)
        else:
            assert "left out is DecisionTreeClassifier: RuntimeError: no luck" in (
                chosen(train(product, rows(10), choosing)).reason
            )


def test_predictions_that_can_not_be_scored_are_a_failure_that_names_the_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BinaryKind, "is_defined", lambda *_: True)
    monkeypatch.setattr(BinaryKind, "score", lambda *_: None)
    with pytest.raises(
        TrainingError, match=r"UndefinedScoreError: f1 is undefined for what it predicts on a "
    ):
        train(several({"class": LOGISTIC}, tree(2)), rows())


def test_rows_on_which_no_fold_can_tell_take_the_first_and_say_so() -> None:
    frame = rows(1)
    product = several(
        {"class": LOGISTIC, "search": {"params": {"C": {"low": 0.1, "high": 1.0}}}}, tree(2), minimum_rows=1
    )
    for by in ("entities", "time"):
        found = chosen(train(product, frame, Choosing(by)))
        assert (found.chosen, found.folds, found.trials) == (0, 0, [0, None])
        assert "the rows are too few for a fold to tell" in found.reason


def with_estimators(product: Product, *estimators: dict[str, Any]) -> Product:
    model = product.model.model_dump(mode="json", by_alias=True, exclude={"estimator"}, exclude_defaults=True)
    content = product.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return Product.model_validate({**content, "model": {**model, "estimators": list(estimators)}})


RIDGE = {
    "class": "sklearn.linear_model.Ridge",
    "search": {"params": {"alpha": {"low": 1e-3, "high": 1e6, "log": True}}, "trials": 6},
}


@pytest.mark.parametrize("by", ["entities", "time"])
def test_numbers_are_chosen_by_the_least_error(by: Any) -> None:
    product = with_estimators(shop(**NUMBER), {"class": "sklearn.dummy.DummyRegressor"}, RIDGE)
    found = chosen(train(product, test_regression.rows(product, 900, customers=40), Choosing(by)))
    assert METRICS["rmse"].sign == -1
    assert found.chosen == 1
    assert found.tried[1].score.mean == min(trial.score.mean or 9e9 for trial in found.tried[1].made)
    assert (found.tried[1].score.mean or 9e9) < (found.tried[0].score.mean or 0)


@pytest.mark.parametrize("by", ["entities", "time"])
def test_of_many_classes_one_may_be_absent_from_a_fold(by: Any) -> None:
    plain = shop(**test_multiclass.CLASS)
    product = with_estimators(
        plain,
        {"class": DUMMY},
        {"class": LOGISTIC, "search": {"params": {"C": {"low": 0.01, "high": 9.0}}, "trials": 4}},
    )
    frame = test_multiclass.rows(900)
    rare = np.flatnonzero(frame["paid"] == "later")[2:]
    found = chosen(train(product, frame.drop(index=rare).reset_index(drop=True), Choosing(by)))
    assert found.chosen == 1
    assert found.folds == (FOLDS if by == "entities" else PARTS_FORWARD)
    assert all(not trial.score.failure for trial in found.tried[1].made)
