import numpy as np
import pytest
from sklearn import metrics as sk

from ml_platform.contract.tasks import AT_K, BINARY
from ml_platform.machine_learning import bootstrap, metrics
from ml_platform.machine_learning.metrics import interval, paired_difference, score, summary

METRICS = [metric for metric in BINARY.metrics if metric not in AT_K]

# By hand: tp 2, fn 1, fp 1, tn 2. Of the 9 pairs of a positive and a negative 6 are ordered rightly.
LABEL = [1, 1, 1, 0, 0, 0]
PROBABILITY = [0.9, 0.7, 0.2, 0.8, 0.3, 0.1]
DECISION = [1, 1, 0, 1, 0, 0]


def clustered(rng, entities=300, rows=8, threshold=0.45):
    """Rows whose labels and scores both carry an effect of their entity."""
    entity = np.repeat(np.arange(entities), rng.poisson(rows, entities))
    logit = rng.normal(0, 1, entities)[entity] + 1.5 * rng.normal(0, 1, len(entity)) - 1
    label = (rng.random(len(entity)) < sigmoid(logit)).astype(int)
    noise = 0.8 * rng.normal(0, 1, entities)[entity] + 0.4 * rng.normal(0, 1, len(entity))
    probability = sigmoid(logit + noise)
    return label, probability, (probability > threshold).astype(int), entity


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("f1", 2 / 3),
        ("precision", 2 / 3),
        ("recall", 2 / 3),
        ("accuracy", 4 / 6),
        ("balanced_accuracy", 2 / 3),
        ("roc_auc", 6 / 9),
        ("average_precision", (1 / 1 + 2 / 3 + 3 / 5) / 3),
    ],
)
def test_each_metric_has_the_value_worked_out_by_hand(metric, expected):
    assert score(metric, LABEL, PROBABILITY, DECISION) == pytest.approx(expected)


def test_a_weight_counts_like_that_many_rows():
    weight = [1, 2, 0, 3, 1, 2]
    repeated = [np.repeat(values, weight) for values in (LABEL, PROBABILITY, DECISION)]
    for metric in METRICS:
        assert score(metric, LABEL, PROBABILITY, DECISION, weight) == pytest.approx(score(metric, *repeated))


@pytest.mark.parametrize("metric", METRICS)
def test_no_rows_have_no_score_interval_or_difference(metric):
    assert score(metric, [], [], []) is None
    assert interval(metric, [], [], [], []) is None
    difference = paired_difference(metric, [], [], [], [], [], [])
    assert (difference.challenger, difference.champion, difference.lower) == (None, None, None)


@pytest.mark.parametrize("metric", sorted({*METRICS} - {"accuracy"}))
@pytest.mark.parametrize("weight", [None, [1, 1, 0]])
def test_without_positives_only_accuracy_is_defined(metric, weight):
    label = [0, 0, 0] if weight is None else [0, 0, 1]
    assert score(metric, label, [0.1, 0.9, 0.5], [0, 1, 0], weight) is None
    assert score("accuracy", label, [0.1, 0.9, 0.5], [0, 1, 0], weight) is not None


@pytest.mark.parametrize("metric", ["balanced_accuracy", "roc_auc"])
def test_without_negatives_metrics_of_both_classes_are_undefined(metric):
    assert score(metric, [1, 1], [0.1, 0.9], [0, 1]) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_finding_none_of_the_positives_scores_zero(metric):
    assert score(metric, [1, 0], [0.1, 0.2], [0, 0]) == 0.0


def test_constant_predictions_rank_at_half_and_at_the_prevalence():
    assert score("roc_auc", LABEL, [0.0] * 6, [0] * 6) == 0.5
    assert score("average_precision", [1, 0, 0, 0], [1.0] * 4, [1] * 4) == 0.25


@pytest.mark.parametrize(
    ("label", "probability", "decision", "message"),
    [
        ([1, np.nan], [0.1, 0.2], [0, 1], "1 of 2 rows have a label that is not 0 or 1"),
        ([1, 0], [0.1, np.nan], [0, 1], "1 of 2 rows have a probability"),
        ([1, 0], [0.1, 1.2], [0, 1], "1 of 2 rows have a probability"),
        ([1, 0], [0.1, 0.2], [0, 2], "1 of 2 rows have a decision"),
        ([1, 0], [0.1], [0, 1], "differ in length: 2, 1, 2"),
    ],
)
def test_what_is_no_label_probability_or_decision_is_refused(label, probability, decision, message):
    with pytest.raises(ValueError, match=message):
        score("f1", label, probability, decision)


def test_the_summary_has_every_figure():
    figures = summary(LABEL, PROBABILITY, DECISION)
    counts = {name: figures[name] for name in ("tp", "fp", "fn", "tn", "rows", "positives", "positive_rate")}
    assert counts == {"tp": 2, "fp": 1, "fn": 1, "tn": 2, "rows": 6, "positives": 3, "positive_rate": 0.5}
    assert figures["log_loss"] == pytest.approx(sk.log_loss(LABEL, PROBABILITY))
    assert figures["brier_score"] == pytest.approx(sk.brier_score_loss(LABEL, PROBABILITY))
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["roc_auc"] == pytest.approx(6 / 9)


def test_the_summary_of_nothing_or_of_one_class_leaves_out_what_is_undefined():
    assert summary([], [], []) == dict.fromkeys(
        ("precision", "recall", "f1", "accuracy", "roc_auc", "average_precision", "log_loss", "brier_score")
    ) | {"tp": 0, "fp": 0, "fn": 0, "tn": 0, "rows": 0, "positives": 0, "positive_rate": None}
    one_class = summary([0, 0], [0.5, 0.1], [1, 0])
    assert one_class["f1"] is None
    assert one_class["brier_score"] == pytest.approx((0.25 + 0.01) / 2)
    assert one_class["log_loss"] == pytest.approx(-(np.log(0.5) + np.log(0.9)) / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_a_replicate_is_what_scikit_learn_gives_with_its_weights(metric):
    rng = np.random.default_rng(5)
    label, probability, decision, entity = clustered(rng, entities=30, rows=4)
    probability = probability.round(1)  # many ties
    codes, clusters = bootstrap.coded(entity, len(label))
    weights = bootstrap.weights(clusters, 20, 1)
    expected = [score(metric, label, probability, decision, weight[codes]) for weight in weights]
    found = metrics._resampled(metric, label, probability, decision, codes, weights)
    assert found == pytest.approx(np.array(expected))


def test_each_replicate_draws_as_many_clusters_as_are_present():
    weights = bootstrap.weights(37, 50, 0)
    assert weights.shape == (50, 37)
    assert (weights.sum(axis=1) == 37).all()
    assert not np.array_equal(weights, bootstrap.weights(37, 50, 1))


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_depend_on_neither_the_order_of_rows_nor_the_names_of_clusters(metric):
    label, probability, decision, entity = clustered(np.random.default_rng(1), entities=40)
    probability = probability.round(2)
    order = np.random.default_rng(2).permutation(len(label))
    shuffled = [values[order] for values in (label, probability, decision, 7 * entity + 3)]
    found = interval(metric, label, probability, decision, entity)
    assert found == interval(metric, *shuffled)
    lower, upper = found
    assert lower < score(metric, label, probability, decision) < upper


def test_the_same_predictions_differ_by_exactly_nothing():
    label, probability, decision, entity = clustered(np.random.default_rng(1))
    for metric in METRICS:
        difference = paired_difference(
            metric, label, probability, decision, probability, decision, entity, replicates=100
        )
        assert (difference.difference, difference.lower, difference.upper) == (0, 0, 0)


def test_too_few_clusters_give_no_interval():
    label, probability, decision, entity = clustered(np.random.default_rng(1), entities=9, rows=50)
    assert interval("f1", label, probability, decision, entity) is None
    difference = paired_difference("f1", label, probability, decision, probability, 1 - decision, entity)
    assert difference.challenger == score("f1", label, probability, decision)
    assert (difference.lower, difference.upper) == (None, None)


def test_a_metric_that_most_resamples_cannot_define_has_no_interval():
    # The only positive is in one of 20 clusters: 36 % of the resamples are without it.
    label = [1] + [0] * 19
    assert score("f1", label, [0.9] * 20, [1] * 20) is not None
    assert interval("f1", label, [0.9] * 20, [1] * 20, range(20)) is None


@pytest.mark.parametrize("metric", ["f1", "roc_auc"])
def test_the_interval_covers_the_truth(metric):
    rng = np.random.default_rng(11)
    truth = score(metric, *clustered(rng, entities=100_000)[:3])
    bounds = [interval(metric, *clustered(rng, entities=200), replicates=300) for _ in range(200)]
    covered = np.mean([lower <= truth <= upper for lower, upper in bounds])
    assert covered >= 0.90
    assert np.mean([upper - lower for lower, upper in bounds]) < 0.12


def test_an_interval_of_single_rows_would_miss_the_truth_more_often():
    """What the clusters are for: rows of one entity are not independent."""
    rng = np.random.default_rng(12)
    truth = score("recall", *clustered(rng, entities=100_000)[:3])
    covered = {"entities": 0, "rows": 0}
    for _ in range(200):
        label, probability, decision, entity = clustered(rng)
        for name, cluster in (("entities", entity), ("rows", np.arange(len(label)))):
            lower, upper = interval("recall", label, probability, decision, cluster, replicates=300)
            covered[name] += lower <= truth <= upper
    assert covered["entities"] >= 180
    assert covered["rows"] < covered["entities"] - 10
