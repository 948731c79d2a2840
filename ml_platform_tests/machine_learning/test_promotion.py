import json
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from ml_platform import products as products_package
from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.machine_learning.metrics import paired_difference
from ml_platform.machine_learning.promotion import Candidate, Comparison, compare, fold, serving

FLIGHTS = load_product(Path(products_package.__path__[0]) / "flights.yaml")
ENTITIES = 300
BETTER, AS_GOOD, WORSE = 0.5, 2.0, 4.0  # noise; F1 in truth 0.80, 0.71, 0.62


def contract(metric="f1", **promotion) -> Product:
    evaluation = FLIGHTS.evaluation.model_copy(update={"metric": metric})
    rule = FLIGHTS.promotion.model_copy(update=promotion)
    return FLIGHTS.model_copy(update={"evaluation": evaluation, "promotion": rule})


class Holdout:
    """About 8 rows of each of 300 entities, whose effect their labels and each model's errors share.

    Models of one ``noise`` are equally good in truth: only chance tells them apart.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.entity = np.repeat(np.arange(ENTITIES), self.rng.poisson(8, ENTITIES))
        effect = self.rng.normal(0, 1, ENTITIES)[self.entity]
        self.logit = 3 * effect + self.rng.normal(0, 1, len(self.entity)) - 1
        self.label = (self.rng.random(len(self.entity)) < sigmoid(self.logit)).astype(int)

    def model(self, noise):
        errors = self.rng.normal(0, 1, ENTITIES)[self.entity] + 0.3 * self.rng.normal(0, 1, len(self.entity))
        probability = sigmoid(self.logit + noise * errors)
        return probability, (probability > 0.45).astype(int)

    def promotes(self, challenger, champion, cluster=None, product=FLIGHTS):
        clusters = self.entity if cluster is None else cluster
        return compare(product, self.label, challenger, champion, clusters).verdict


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# -- the gate, with known truth --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_of_200_as_good_challengers_at_most_5_percent_are_promoted(metric):
    promoted = 0
    for seed in range(200):
        holdout = Holdout(seed)
        promoted += holdout.promotes(holdout.model(AS_GOOD), holdout.model(AS_GOOD), product=contract(metric))
    assert promoted <= 10


@pytest.mark.slow
def test_a_gate_that_resampled_rows_would_promote_more_as_good_challengers():
    better = {"entities": 0, "rows": 0}
    for seed in range(200):
        holdout = Holdout(seed)
        models = *holdout.model(AS_GOOD), *holdout.model(AS_GOOD)
        for name, cluster in (("entities", holdout.entity), ("rows", np.arange(len(holdout.label)))):
            difference = paired_difference("f1", holdout.label, *models, cluster, replicates=200)
            better[name] += difference.lower > 0
    assert better["entities"] <= 10 < better["rows"]


@pytest.mark.slow
def test_of_200_clearly_worse_challengers_none_is_promoted():
    for seed in range(200):
        holdout = Holdout(seed)
        assert not holdout.promotes(holdout.model(WORSE), holdout.model(AS_GOOD))


def test_a_clearly_better_challenger_is_nearly_always_promoted():
    promoted = 0
    for seed in range(200):
        holdout = Holdout(seed)
        promoted += holdout.promotes(holdout.model(BETTER), holdout.model(AS_GOOD))
    assert promoted >= 190


def test_a_challenger_that_decides_just_like_the_champion_is_not_superior():
    holdout = Holdout(0)
    model = holdout.model(AS_GOOD)
    comparison = compare(FLIGHTS, holdout.label, model, model, holdout.entity)
    assert (comparison.verdict, comparison.lower, comparison.upper) == (False, 0, 0)


@pytest.mark.slow
def test_an_as_good_challenger_is_mostly_promoted_where_not_worse_is_enough():
    lenient, strict = contract(rule="non_inferior", margin=0.08), contract(rule="non_inferior", margin=0.001)
    promoted = {"lenient": 0, "strict": 0}
    for seed in range(50):
        holdout = Holdout(seed)
        models = holdout.model(AS_GOOD), holdout.model(AS_GOOD)
        promoted["lenient"] += holdout.promotes(*models, product=lenient)
        promoted["strict"] += holdout.promotes(*models, product=strict)
        assert not holdout.promotes(holdout.model(WORSE), holdout.model(AS_GOOD), product=lenient)
    assert promoted["lenient"] > 40
    assert promoted["strict"] < 10


# -- one comparison --------------------------------------------------------------------------------


def hand_made(found, false_alarms):
    """100 entities with a positive and a negative row each; the first ``found`` positives are found."""
    entity = np.repeat(np.arange(100), 2)
    label = np.tile([1, 0], 100)
    decision = np.where(label == 1, entity < found, entity < false_alarms).astype(int)
    return label, (decision.astype(float), decision), entity


def test_the_comparison_says_what_was_measured_and_why_it_promotes():
    label, challenger, entity = hand_made(found=90, false_alarms=10)
    _, champion, _ = hand_made(found=60, false_alarms=10)
    comparison = compare(FLIGHTS, label, challenger, champion, entity, entities=120)
    assert comparison.challenger == pytest.approx(0.9)
    assert comparison.champion == pytest.approx(120 / 170)
    assert comparison.baselines == pytest.approx({"all_positive": 2 / 3, "all_negative": 0})
    assert (comparison.rows, comparison.positives, comparison.entities) == (200, 100, 120)
    assert (comparison.metric, comparison.against, comparison.verdict) == ("f1", "champion", True)
    assert 0 < comparison.lower < 0.9 - 120 / 170 < comparison.upper
    assert comparison.reason == (
        f"f1 0.900 against 0.706: better by 0.194 [{comparison.lower:.3f}, {comparison.upper:.3f}]"
    )
    assert Comparison(**json.loads(json.dumps(asdict(comparison)))) == comparison


def test_a_worse_challenger_is_told_so():
    label, challenger, entity = hand_made(found=60, false_alarms=10)
    _, champion, _ = hand_made(found=90, false_alarms=10)
    comparison = compare(FLIGHTS, label, challenger, champion, entity)
    assert not comparison.verdict
    assert comparison.reason.startswith("f1 0.706 against 0.900: not shown to be better: -0.194 [-0.")


def test_a_non_inferior_challenger_is_told_by_which_margin():
    label, challenger, entity = hand_made(found=89, false_alarms=10)
    _, champion, _ = hand_made(found=90, false_alarms=10)
    verdicts = {}
    for margin in (0.001, 0.1):
        product = contract(rule="non_inferior", margin=margin)
        comparison = compare(product, label, challenger, champion, entity)
        verdicts[comparison.verdict] = comparison.reason
    assert "not worse by 0.1 or more: -0.006 [" in verdicts[True]
    assert "may be worse by 0.001 or more: -0.006 [" in verdicts[False]


@pytest.mark.parametrize(
    ("metric", "baseline"),
    [("f1", "all-positive"), ("precision", "all-positive"), ("roc_auc", "all-positive")],
)
def test_the_first_model_must_beat_the_harder_baseline(metric, baseline):
    label, challenger, entity = hand_made(found=90, false_alarms=10)
    comparison = compare(contract(metric), label, challenger, None, entity)
    assert comparison.verdict
    assert comparison.champion is None
    assert f"of the {baseline} baseline: better by" in comparison.reason


def test_a_first_model_no_better_than_all_positive_is_not_promoted_whatever_the_rule():
    label, challenger, entity = hand_made(found=60, false_alarms=30)  # f1 120 / 190, all-positive 2 / 3
    for product in (FLIGHTS, contract(rule="non_inferior", margin=0.5)):
        comparison = compare(product, label, challenger, None, entity)
        assert not comparison.verdict
        assert comparison.against == "all_positive"
        assert comparison.reason.startswith("f1 0.632 against 0.667 of the all-positive baseline: not shown")


def test_where_nearly_all_are_negative_accuracy_must_beat_all_negative():
    entity = np.arange(1000)
    label = (entity < 50).astype(int)
    decision = (entity < 60).astype(int) * (entity >= 30)
    comparison = compare(contract("accuracy"), label, (decision.astype(float), decision), None, entity)
    assert comparison.against == "all_negative"
    assert comparison.baselines == pytest.approx({"all_positive": 0.05, "all_negative": 0.95})


@pytest.mark.parametrize("champion", [False, True])
def test_no_held_out_rows_promote_nothing(champion):
    nothing = ([], [])
    comparison = compare(FLIGHTS, [], nothing, nothing if champion else None, [])
    assert (comparison.verdict, comparison.rows, comparison.challenger) == (False, 0, None)
    assert comparison.reason == "no labelled held-out rows to compare on"


def test_held_out_rows_without_a_positive_promote_nothing():
    zeros = np.zeros(50)
    comparison = compare(FLIGHTS, zeros, (zeros, zeros), None, np.arange(50))
    assert not comparison.verdict
    assert comparison.reason == "f1 is undefined on the held-out rows: 0 positives of 50"


def test_a_handful_of_entities_promotes_nothing():
    label = np.tile([1, 0], 9)
    comparison = compare(FLIGHTS, label, (label, label), None, np.repeat(np.arange(9), 2))
    assert not comparison.verdict
    assert comparison.challenger == 1.0
    assert comparison.reason == "held-out entities in only 9 clusters, at least 10 are needed"


def test_a_single_positive_promotes_nothing():
    label = (np.arange(50) == 0).astype(int)
    comparison = compare(FLIGHTS, label, (label, label), None, np.arange(50))
    assert not comparison.verdict
    assert comparison.reason.startswith("too few positives or negatives among the held-out rows: 1 positive")


def test_an_unlabelled_row_is_an_error_and_no_verdict():
    with pytest.raises(ValueError, match="1 of 2 rows have a label that is not 0 or 1"):
        compare(FLIGHTS, [1, np.nan], ([0.5, 0.5], [1, 1]), None, [0, 1])


# -- the fold --------------------------------------------------------------------------------------

JAN, FEB, MAR, APR = (date(2013, month, 1) for month in (1, 2, 3, 4))


class ByQuality:
    """A comparison that knows each model's true quality, and remembers what it was asked."""

    def __init__(self, **quality):
        self.quality = quality
        self.asked = []

    def __call__(self, candidate, champion, day=None):
        mine, other = self.quality[candidate.fingerprint], champion and self.quality[champion.fingerprint]
        self.asked.append((candidate.fingerprint, champion and champion.fingerprint))
        verdict = mine > (other or 0)
        return Comparison("f1", mine, other, "", 0, 0, 1, 1, 1, {}, verdict, f"{mine} against {other}")


def folded(quality, candidates, taken_back=()):
    compare = ByQuality(**quality)
    decisions = fold([Candidate(day, name) for day, name in candidates], compare, taken_back)
    return decisions, compare.asked


def test_each_candidate_is_compared_with_the_champion_so_far():
    decisions, asked = folded(
        {"a": 5, "b": 4, "c": 6, "d": 6}, [(MAR, "c"), (JAN, "a"), (APR, "d"), (FEB, "b")]
    )
    assert asked == [("a", None), ("b", "a"), ("c", "a"), ("d", "c")]
    assert [(d.fingerprint, d.promoted, d.champion_before) for d in decisions] == [
        ("a", True, None),
        ("b", False, "a"),
        ("c", True, "a"),
        ("d", False, "c"),
    ]
    assert decisions[1].reason == "4 against 5"


def test_without_a_champion_the_next_candidate_meets_the_baselines_again():
    decisions, asked = folded({"a": -1, "b": 3}, [(JAN, "a"), (FEB, "b")])
    assert asked == [("a", None), ("b", None)]
    assert [d.promoted for d in decisions] == [False, True]


def test_a_promotion_taken_back_leaves_the_champion_before_it():
    quality, candidates = {"a": 5, "b": 6, "c": 5.5}, [(JAN, "a"), (FEB, "b"), (MAR, "c")]
    decisions, asked = folded(quality, candidates, taken_back={FEB})
    assert asked == [("a", None), ("b", "a"), ("c", "a")]
    assert [(d.promoted, d.taken_back) for d in decisions] == [(True, False), (False, True), (True, False)]
    assert decisions[1].comparison.verdict
    assert decisions[1].reason == "taken back; 6 against 5"
    assert [d.promoted for d in folded(quality, candidates)[0]] == [True, True, False]


def test_a_promotion_stays_taken_back_when_its_date_is_trained_again():
    quality, candidates = {"a": 5, "better": 7}, [(JAN, "a"), (FEB, "better")]
    decisions, _ = folded(quality, candidates, taken_back={FEB})
    assert [(d.promoted, d.taken_back) for d in decisions] == [(True, False), (False, True)]


def test_the_champions_own_fingerprint_stays_champion_without_a_comparison():
    decisions, asked = folded({"a": 5}, [(JAN, "a"), (FEB, "a")])
    assert asked == [("a", None)]
    assert (decisions[1].promoted, decisions[1].comparison) == (True, None)
    assert decisions[1].reason == "the same model as the champion as of 2013-01-01, which stays"


def test_two_candidates_of_one_date_are_refused_and_a_repeated_one_is_not():
    with pytest.raises(ValueError, match="two candidates as of 2013-01-01: a and b"):
        folded({"a": 5, "b": 6}, [(JAN, "a"), (JAN, "b")])
    assert len(folded({"a": 5}, [(JAN, "a"), (JAN, "a")])[0]) == 1


def test_an_error_in_a_comparison_is_not_swallowed():
    with pytest.raises(KeyError):
        folded({}, [(JAN, "a")])


def test_the_serving_model_is_the_promoted_one_with_the_greatest_as_of_up_to_the_day():
    decisions, _ = folded(
        {"a": 5, "b": 4, "c": 6, "d": 7}, [(JAN, "a"), (FEB, "b"), (MAR, "c"), (APR, "d")], {APR}
    )
    served = {
        day: found.fingerprint if (found := serving(reversed(decisions), day)) else None
        for day in (date(2012, 12, 31), JAN, date(2013, 2, 28), MAR, date(2013, 12, 31))
    }
    assert list(served.values()) == [None, "a", "a", "c", "c"]


# -- forward in time -------------------------------------------------------------------------------

WAIT = timedelta(days=72)


def folded_forward(quality, candidates, until=date.max, taken_back=(), modes=None):
    compare = ByQuality(**quality)
    named = [Candidate(day, name, (modes or {}).get(name, "time")) for day, name in candidates]
    return fold(named, compare, taken_back, wait=WAIT, until=until), compare.asked


def folded_after_a_change(unusable, at_once=()):
    compare = ByQuality(a=5, b=6, c=7, d=8)
    named = [Candidate(day, name, "time") for day, name in zip((JAN, FEB, MAR, APR), "abcd", strict=True)]
    decisions = fold(named, compare, wait=WAIT, until=APR, unusable=unusable, at_once=at_once)
    return {one.fingerprint: (one.decided_on, one.waiting) for one in decisions}


def test_a_champion_that_cannot_score_any_more_is_nothing_to_wait_for():
    first = {"a": (JAN, False), "b": (FEB + WAIT, True)}
    assert folded_after_a_change(set()) == first | {"c": (MAR + WAIT, True), "d": (APR + WAIT, True)}
    # The contract changed in February: c is the first that can score under it, and is promoted at once.
    after = folded_after_a_change({"a", "b"})
    assert after == first | {"c": (MAR, False), "d": (APR + WAIT, True)}
    # Once decided at once it stays so, when the contract changes again and c can't score either.
    assert folded_after_a_change({"a", "b", "c"}, {"a", "c"})["c"] == (MAR, False)
    assert folded_after_a_change({"a", "b", "c"}, {"a"})["c"] == (MAR + WAIT, True)


def test_a_first_model_is_decided_at_once_and_the_others_when_their_days_have_labels():
    decisions, asked = folded_forward({"a": 5, "b": 6, "c": 7}, [(JAN, "a"), (FEB, "b"), (MAR, "c")])
    assert [decision.decided_on for decision in decisions] == [JAN, FEB + WAIT, MAR + WAIT]
    assert asked == [("a", None), ("b", "a"), ("c", "b")]
    assert serving(decisions, FEB + WAIT - timedelta(days=1)).fingerprint == "a"
    assert serving(decisions, FEB + WAIT).fingerprint == "b"
    assert serving(decisions, MAR + WAIT).fingerprint == "c"


@pytest.mark.parametrize("days", [0, 1, 71])
def test_before_its_labels_are_known_a_challenger_waits_and_serves_nothing(days):
    until = FEB + timedelta(days=days)
    decisions, asked = folded_forward({"a": 5, "b": 6}, [(JAN, "a"), (FEB, "b")], until)
    assert asked == [("a", None)]
    assert (decisions[1].waiting, decisions[1].promoted, decisions[1].comparison) == (True, False, None)
    assert decisions[1].reason == (
        f"scored in shadow since {FEB}; it is compared with the champion on {FEB + WAIT}"
    )
    assert serving(decisions, date.max).fingerprint == "a"


def test_what_is_decided_later_decides_no_differently_of_what_was_decided_before():
    quality, candidates = {"a": 5, "b": 4, "c": 6, "d": 5.5}, [(JAN, "a"), (FEB, "b"), (MAR, "c"), (APR, "d")]
    whole, _ = folded_forward(quality, candidates)
    for day in range(200):
        until = JAN + timedelta(days=day)
        known = [(as_of, name) for as_of, name in candidates if as_of <= until]
        settled = [one for one in folded_forward(quality, known, until)[0] if not one.waiting]
        assert settled == [one for one in whole if one.decided_on <= until and one.as_of <= until]


def test_a_promotion_taken_back_while_another_waits_leaves_it_to_the_baselines():
    decisions, asked = folded_forward({"a": 5, "b": 6}, [(JAN, "a"), (FEB, "b")], taken_back={JAN})
    # Without a champion the second one needs to wait for nobody.
    assert asked == [("a", None), ("b", None)]
    assert (decisions[1].promoted, decisions[1].decided_on) == (True, FEB)


def test_a_change_of_the_mode_makes_the_next_comparison_one_forward_in_time():
    candidates = [(JAN, "a"), (FEB, "b"), (MAR, "c")]
    quality = {"a": 5, "b": 6, "c": 7}
    to_time, _ = folded_forward(quality, candidates, modes={"a": "entities"})
    assert [one.decided_on for one in to_time] == [JAN, FEB + WAIT, MAR + WAIT]
    # The champion has learned from everybody, so nobody is held out from both.
    back, _ = folded_forward(quality, candidates, modes={"b": "entities", "c": "entities"})
    assert [one.decided_on for one in back] == [JAN, FEB + WAIT, MAR + WAIT]


def test_a_champion_that_has_learned_from_the_days_is_not_compared_on_them():
    far = date(2013, 3, 20)
    candidates = [(JAN, "a"), (FEB, "b"), (date(2013, 2, 2), "c")]
    modes = {"a": "entities", "c": "entities"}
    decisions, asked = folded_forward({"a": 5, "b": 9, "c": 6}, candidates, far + WAIT, modes=modes)
    assert asked == [("a", None), ("c", "a")]
    assert [one.promoted for one in decisions] == [True, False, True]
    assert (
        decisions[1].reason
        == "the champion as of 2013-02-02 has learned from days that it could be compared on"
    )
