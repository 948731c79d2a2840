import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ml_platform.machine_learning import ranking

SCORES = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}


@st.composite
def scored(draw, most=60):
    """Rows in clusters, with ties, and weights of the clusters, of which some are 0."""
    rows, clusters = draw(st.integers(2, most)), draw(st.integers(1, 8))
    places = st.lists(st.integers(0, draw(st.integers(1, 30))), min_size=rows, max_size=rows)
    p = np.array(draw(places)) / 30
    y = np.array(draw(st.lists(st.sampled_from([0, 0, 1]), min_size=rows, max_size=rows)))
    if draw(st.booleans()):
        y = 1 - y
    y[:2] = [1, 0]
    codes = np.array(draw(st.lists(st.integers(0, clusters - 1), min_size=rows, max_size=rows)))
    times = st.lists(st.integers(0, 3), min_size=clusters, max_size=clusters)
    weights = np.array(draw(st.lists(times, min_size=1, max_size=5)), dtype=float)
    return y, p, codes, weights


def expected(metric, y, p, codes, weights):
    """What scikit-learn gives with the weights of each replicate; NaN where the metric is undefined."""
    found = []
    for of_clusters in weights:
        weight = of_clusters[codes]
        classes = set(y[weight > 0])
        if 1 in classes and (0 in classes or metric == "average_precision"):
            counts = weight > 0  # a threshold without a row is none
            found.append(SCORES[metric](y[counts], p[counts], sample_weight=weight[counts]))
        else:
            found.append(np.nan)
    return np.array(found)


@pytest.mark.parametrize("metric", sorted(SCORES))
@pytest.mark.parametrize(
    ("replicates", "cells", "run"), [(512, 1 << 17, 8), (2, 40, 2), (1, 1, 3), (3, 12, 4)]
)
@settings(max_examples=30, deadline=None)
@given(scored())
@example((np.array([0, 1]), np.array([0.5, 0.5]), np.array([0, 0]), np.array([[1.0], [0.0]])))
def test_each_replicate_is_what_scikit_learn_gives_with_its_weights(metric, replicates, cells, run, case):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_REPLICATES": replicates, "_CELLS": cells, "_RUN": run}.items():
            patch.setattr(ranking, name, value)
        found = ranking.resampled(metric, *case)
    np.testing.assert_allclose(found, expected(metric, *case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", sorted(SCORES))
@pytest.mark.parametrize("decimals", [2, 16])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_many_rows_and_replicates_are_summed_as_exactly(metric, decimals, share):
    draw = np.random.default_rng(3)
    y = (draw.random(6_000) < share).astype(int)
    p = draw.random(6_000).round(decimals)
    codes = draw.integers(200, size=6_000)
    weights = draw.poisson(1, (1_100, 200)).astype(float)
    found = ranking.resampled(metric, y, p, codes, weights)
    some = [0, 1, 511, 512, 1_023, 1_024, 1_099]
    np.testing.assert_allclose(found[some], expected(metric, y, p, codes, weights[some]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", sorted(SCORES))
def test_numbers_beyond_those_of_32_bits_are_exact_too(metric):
    y, p = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.8, 0.4, 0.1])
    codes = np.arange(5)
    weights = np.array([[1, 2, 3, 4, 5]], dtype=float)
    few, many = (ranking.resampled(metric, y, p, codes, weights * times) for times in (1, 2**29))
    np.testing.assert_allclose(many, few, rtol=0, atol=1e-12)
