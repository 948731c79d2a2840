"""Metrics of the highest rows of each day, beside pandas and scikit-learn, and with known truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ml_platform.contract.tasks import AT_K, Metric
from ml_platform.machine_learning import bootstrap, highest
from ml_platform.machine_learning.highest import Highest
from ml_platform.machine_learning.kind import Kind
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.promotion import compare
from ml_platform_tests.small_platform import shop


@cache
def kind_with(metric: Metric, **contract: int) -> Kind:
    return kind_of(shop(evaluation__metric=metric, **contract))


DECIDED: tuple[Metric, ...] = ("f1", "precision", "recall", "accuracy", "balanced_accuracy")


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, int]:
    """Predictions of some days with ranks, labels of which some are missing, and k."""
    k, days = draw(st.integers(1, 12)), []
    deepest = k + draw(st.integers(0, 3))
    for day in range(draw(st.integers(1, 4))):
        rows = draw(st.integers(1, 15))
        quarters = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
        of_day = pd.DataFrame(
            {
                "event_day": pd.Timestamp("2024-01-01").date() + pd.Timedelta(days=day),
                "probability": np.sort(quarters)[::-1] / 4,
                "label": draw(st.lists(st.sampled_from([0, 0, 1, np.nan]), min_size=rows, max_size=rows)),
            }
        )
        of_day["rank"] = pd.Series(np.arange(1, rows + 1)).where(np.arange(1, rows + 1) <= deepest)
        of_day["decision"] = (of_day["rank"] <= k).astype(int)
        days.append(of_day)
    return pd.concat(days, ignore_index=True), k


def by_pandas(frame: pd.DataFrame, k: int) -> dict[Metric, float | None]:
    known = frame.dropna(subset="label")
    top = known[known["rank"] <= k]
    positives = known["label"].sum()
    none: dict[Metric, float | None] = dict.fromkeys(sorted(AT_K))
    if not positives:
        return none
    recall = top["label"].sum() / positives
    if top.empty:
        return none | {"recall_at_k": recall}
    precision = top["label"].mean()
    return {
        "precision_at_k": precision,
        "recall_at_k": recall,
        "lift_at_k": precision / known["label"].mean(),
    }


@settings(max_examples=80, deadline=None)
@given(tables())
def test_metrics_of_predictions_are_what_pandas_counts(case: tuple[pd.DataFrame, int]) -> None:
    frame, k = case
    shuffled = frame.sample(frac=1, random_state=k)
    known = shuffled["label"].notna().to_numpy()
    for metric, expected in by_pandas(frame, k).items():
        kind = kind_with(metric, evaluation__k=k)
        predictions = tuple(values[known] for values in kind.of_table(shuffled))
        found = kind.score(shuffled["label"].to_numpy()[known], predictions)
        assert found == (None if expected is None else pytest.approx(expected))


@settings(max_examples=40, deadline=None)
@given(tables())
def test_metrics_of_decisions_are_scikit_learns(case: tuple[pd.DataFrame, int]) -> None:
    frame, k = case
    frame = frame.dropna(subset="label")
    y, decision = frame["label"].to_numpy(), frame["decision"].to_numpy()
    for metric in DECIDED:
        kind = kind_with(metric, model__decision_highest=k)
        found = kind.score(y, kind.of_table(frame))
        if metric != "accuracy" and not y.any():
            assert found is None
        elif len(frame) and (metric != "balanced_accuracy" or not y.all()):
            options = {"zero_division": 0} if metric in ("f1", "precision") else {}
            assert found == pytest.approx(getattr(sk, f"{metric}_score")(y, decision, **options))


# -- the share of each day, and resamples -----------------------------------------------------------


@st.composite
def rows_of_days(draw: st.DrawFn) -> dict[str, Any]:
    number = draw(st.integers(1, 40))
    lists = {
        "day": st.integers(5, 8),
        "place": st.integers(0, 6),
        "cluster": st.integers(0, 5),
        "label": st.sampled_from([0, 0, 1]),
    }
    found: dict[str, Any] = {
        name: np.array(draw(st.lists(values, min_size=number, max_size=number)))
        for name, values in lists.items()
    }
    found["share"] = np.array([Fraction(draw(st.integers(0, 8)), 8) for _ in range(10)])[found["day"]]
    times = st.lists(st.integers(0, 3), min_size=6, max_size=6)
    found["weights"] = np.array(draw(st.lists(times, min_size=1, max_size=4)), dtype=float)
    return found


def taken(rows: dict[str, Any], weight: Any, shares: dict[int, Fraction]) -> list[Fraction]:
    """How much of each row, counted as often as it weighs, is among the highest of its day: row by row."""
    found = [Fraction(0)] * len(weight)
    for day in set(rows["day"].tolist()):
        inside = np.flatnonzero(rows["day"] == day)
        left = shares[day] * int(weight[inside].sum())
        for place in sorted(set(rows["place"][inside].tolist())):
            tied = inside[rows["place"][inside] == place]
            size = int(weight[tied].sum())
            part = min(Fraction(1), left / size) if size else Fraction(0)
            left -= part * size
            for row in tied:
                found[row] = part
    return found


@settings(max_examples=80, deadline=None)
@given(rows_of_days())
def test_the_share_of_each_day_is_taken_from_its_highest_rows(rows: dict[str, Any]) -> None:
    share = rows["share"].astype(float)
    found = highest.chosen(rows["day"], rows["place"].astype(float), share)
    shares = dict(zip(rows["day"].tolist(), rows["share"].tolist(), strict=True))
    expected = taken(rows, np.ones(len(found), dtype=int), shares)
    np.testing.assert_allclose(found, np.array(expected, dtype=float), atol=1e-12)

    whole = highest.in_whole_rows(rows["day"], rows["place"], np.arange(len(found)), share)
    assert abs(whole.sum() - float(sum(expected))) < 1
    frame = pd.DataFrame({"day": rows["day"], "place": rows["place"], "whole": whole})
    for _, of_day in frame.groupby("day"):
        ordered = of_day.sort_values("place", kind="stable")["whole"]
        assert ordered.is_monotonic_decreasing


@pytest.mark.parametrize("more", [highest._MORE, 0])
@settings(max_examples=60, deadline=None)
@given(rows_of_days())
def test_a_resample_takes_the_same_share_once_more(more: int, rows: dict[str, Any]) -> None:
    y, place = rows["label"], rows["place"].astype(float)
    sample = Highest(rows["day"], place, highest.chosen(rows["day"], place, rows["share"].astype(float)))
    shares = dict(zip(rows["day"].tolist(), rows["share"].tolist(), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(highest, "_MORE", more)
        patch.setattr(highest, "_DEEPER", 1.0 if not more else 1.5)
        found = {
            metric: highest.resampled(metric, y, sample, rows["cluster"], rows["weights"])
            for metric in (*sorted(AT_K), "f1")
        }
    for replicate, of_clusters in enumerate(rows["weights"]):
        weight = of_clusters[rows["cluster"]]
        part = np.array(taken(rows, weight.astype(int), shares), dtype=float) * weight
        hits, number, positives = part @ y, part.sum(), weight @ y
        expected: dict[str, float] = dict.fromkeys(found, np.nan)
        if positives:
            expected |= {"recall_at_k": hits / positives, "f1": 2 * hits / (number + positives)}
            if number:
                precision = hits / number
                expected |= {"precision_at_k": precision}
                expected |= {"lift_at_k": precision / (positives / weight.sum())}
        for metric, values in found.items():
            assert values[replicate] == pytest.approx(expected[metric], abs=1e-9, nan_ok=True)


def test_without_rows_positives_or_labels_among_the_highest_there_is_no_score() -> None:
    nothing = Highest(np.zeros(0, dtype=int), np.zeros(0), np.zeros(0))
    two = Highest(np.array([1, 1]), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    none = Highest(np.array([1, 1]), np.array([8.0, 9.0]), np.zeros(2))
    for metric in sorted(AT_K):
        assert highest.score(metric, [], nothing) is None
        assert highest.score(metric, [0, 0], two) is None
        assert highest.interval(metric, [], nothing, []) is None
    scores = {metric: highest.score(metric, [0, 1], none) for metric in sorted(AT_K)}
    assert scores == {"precision_at_k": None, "lift_at_k": None, "recall_at_k": 0.0}
    assert highest.score("lift_at_k", [1, 0], two) == 2.0
    with pytest.raises(ValueError, match="1 of 2 rows have a label that is not 0 or 1"):
        highest.score("precision_at_k", [np.nan, 1], two)


def test_a_constant_has_the_lift_of_rows_at_random() -> None:
    product = shop(evaluation__metric="lift_at_k", evaluation__k=5)
    kind = kind_of(product)
    frame = pd.DataFrame({"event_day": ["2024-01-01"] * 32 + ["2024-01-02"] * 8, "customer": "c"})
    frame["event_day"] = pd.to_datetime(frame["event_day"]).dt.date
    frame["_rows_of_day"] = [300] * 32 + [4] * 8
    label = np.tile([1.0, 0.0, 0.0, 0.0], 10)
    for predictions in kind.baselines(None, frame).values():
        assert kind.score(label, predictions) == pytest.approx(1)
        assert predictions[-1].sum() == pytest.approx(32 * 5 / 300 + 8)


# -- with known truth -------------------------------------------------------------------------------


class World:
    """Entities that come on some days, whose effect their labels and each model's errors share."""

    def __init__(self, rng: np.random.Generator, entities: int, days: int = 8) -> None:
        self.rng = rng
        entity, day = np.repeat(np.arange(entities), days), np.tile(np.arange(days), entities)
        there = rng.random(len(entity)) < 0.5
        self.entity, self.day = entity[there], day[there]
        self.entities = entities
        self.logit = rng.normal(0, 1, entities)[self.entity] + rng.normal(0, 1, len(self.entity)) - 2
        self.label = (rng.random(len(self.entity)) < sigmoid(self.logit)).astype(int)

    def model(self, noise: float) -> np.ndarray:
        of_entities = self.rng.normal(0, 1, self.entities)[self.entity]
        probability: np.ndarray = sigmoid(
            self.logit + noise * (of_entities + 0.3 * self.rng.normal(0, 1, len(self.entity)))
        )
        return probability

    def rows(self, probability: np.ndarray, share: float) -> Highest:
        of_rows = np.full(len(self.day), share)
        return Highest(self.day, -probability, highest.chosen(self.day, -probability, of_rows))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@contextmanager
def hits_once() -> Iterator[None]:
    """What of the same rows under the same weights is asked for each metric is worked out once."""
    known: dict[int, Any] = {}
    hits = highest._hits

    def once(*arguments: Any) -> Any:
        key = hash(arguments[2].tobytes())  # only places tell models apart
        if key not in known:
            known[key] = hits(*arguments)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(highest, "_hits", once)
        yield


@pytest.mark.slow
def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """In 93 to 97 % of 1,000 simulations; the truth is that of 400,000 rows."""
    rng, share = np.random.default_rng(5), 0.1
    world = World(rng, 100_000)
    rows = world.rows(world.model(0.8), share)
    truth = {metric: highest.score(metric, world.label, rows) for metric in sorted(AT_K)}
    covered = dict.fromkeys(truth, 0)
    with hits_once():
        for _ in range(1000):
            world = World(rng, 300)
            rows = world.rows(world.model(0.8), share)
            codes, clusters = bootstrap.coded(world.entity, len(world.label))
            drawn = bootstrap.weights(clusters, 500, 0)
            for metric, value in truth.items():
                found = bootstrap.bounds(highest.resampled(metric, world.label, rows, codes, drawn), 0.95)
                assert found is not None
                assert value is not None
                covered[metric] += found[0] <= value <= found[1]
    assert all(930 <= times <= 970 for times in covered.values()), covered


@pytest.mark.slow
def test_of_500_as_good_challengers_at_most_5_percent_are_promoted_and_of_200_worse_ones_none() -> None:
    """On a tenth of the entities, with the k of the whole day, which holds ten times as many rows.

    Both models take as many rows, so that one resample tells of all three metrics.
    """
    products = {metric: shop(evaluation__metric=metric, evaluation__k=75) for metric in sorted(AT_K)}
    kind, rng = kind_of(products["precision_at_k"]), np.random.default_rng(7)

    def promoted(noise: float, metrics: Sequence[Metric]) -> list[Metric]:
        world = World(rng, 150, days=6)
        days = pd.to_datetime(world.day + 20_000, unit="D").date
        frame = pd.DataFrame({"event_day": days, "customer": world.entity, "_rows_of_day": 750})
        models = (kind.decided(kind.in_days((world.model(of),), frame), 0.5) for of in (noise, 1.5))
        challenger, champion = models
        return [
            metric
            for metric in metrics
            if compare(
                products[metric], world.label, challenger, champion, world.entity, baselines={}
            ).verdict
        ]

    with hits_once():
        as_good = Counter(metric for _ in range(500) for metric in promoted(1.5, sorted(AT_K)))
        worse = Counter(metric for _ in range(200) for metric in promoted(6.0, ["precision_at_k"]))
        better = Counter(metric for _ in range(40) for metric in promoted(0.1, ["precision_at_k"]))
    assert all(as_good[metric] <= 25 for metric in AT_K), as_good
    assert not worse
    assert better["precision_at_k"] >= 15  # and a better one is seen
