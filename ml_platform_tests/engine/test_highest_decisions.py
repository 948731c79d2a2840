"""A product that decides for the highest rows of each day, through its steps, and one that comes to it."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from ml_platform.engine import serving_models
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop

pytestmark = pytest.mark.slow

K = 20
ALL = days("2024-01-01", "2024-03-10")
SCORED = days("2024-02-01", "2024-03-10")
#: Days that were scored while there was a threshold, and one with fewer rows than are decided.
BEFORE, FEW = days("2024-02-01", "2024-02-04"), D("2024-02-20")
EVALUATED = D("2024-03-10")
AT_K: dict[str, Any] = {"evaluation__metric": "precision_at_k", "evaluation__threshold": 0.3}


def predictions(platform: Platform) -> pd.DataFrame:
    return platform.rows("predictions", ["event_day", "customer"])


def metrics_by_pandas(platform: Platform, k: int) -> dict[str, float]:
    """Of the ten days whose labels are known on the morning after the evaluated day."""
    window = days("2024-02-29", "2024-03-09")
    labels = platform.rows("mrds")[["customer", "event_day", "bought"]]
    rows = predictions(platform).merge(labels, on=["customer", "event_day"])
    rows = rows[rows["event_day"].isin(window) & rows["bought"].notna()]
    top = rows[rows["rank"] <= k]
    precision = top["bought"].mean()
    return {
        "precision_at_k": precision,
        "recall_at_k": top["bought"].sum() / rows["bought"].sum(),
        "lift_at_k": precision / rows["bought"].mean(),
    }


def test_the_k_highest_of_each_day_are_decided_and_measured(tmp_path: Any, spark: Any) -> None:
    platform = Platform(settings_in(tmp_path), spark)
    deliver_visits(platform, [day for day in ALL if day != FEW])
    deliver_visits(platform, [FEW], rows=12)
    for step in ("ards", "mrds"):
        platform.run(step, ALL)
    platform.run("model", D("2024-02-01"))
    platform.run("predictions", BEFORE)
    served = predictions(platform)
    assert "rank" not in served

    platform.product = shop(model__decision_highest=K, **AT_K)
    platform.run("model", D("2024-03-01"))
    platform.run("predictions", SCORED)
    found = predictions(platform)
    old, new = (found[found["event_day"].isin(BEFORE) == is_old] for is_old in (True, False))
    pd.testing.assert_frame_equal(old[list(served.columns)].reset_index(drop=True), served)
    for day, of_day in new.groupby("event_day"):
        assert of_day["decision"].sum() == min(K, len(of_day)), day
        chosen, others = (of_day[of_day["decision"] == is_chosen] for is_chosen in (1, 0))
        assert sorted(chosen["rank"]) == list(range(1, len(chosen) + 1))
        assert others.empty or chosen["probability"].min() >= others["probability"].max()
        assert others["rank"].isna().all()
    assert (new.groupby("event_day").size() < K).sum() == 1
    assert new["threshold"].isna().all()
    models = {
        model.as_of: model.threshold for model in ModelHistory(platform.tables, platform.product).models()
    }
    assert models[D("2024-02-01")] is not None
    assert models[D("2024-03-01")] is None

    platform.run("model_performance", [D("2024-02-08"), EVALUATED])
    evaluated = performance.evaluations(platform.tables, platform.product)
    row, figures = evaluated[EVALUATED], json.loads(evaluated[EVALUATED]["figures"])
    for metric, value in metrics_by_pandas(platform, K).items():
        assert figures[metric] == pytest.approx(value, abs=1e-8)
    assert (row["metric"], figures["k"]) == ("precision_at_k", K)
    assert row["value"] == figures["precision_at_k"]
    assert row["lower"] < row["value"] < row["upper"]
    assert row["baseline"] < row["value"]
    # Of the days before they were ranked none is counted, and the evaluation says so.
    assert evaluated[D("2024-02-08")]["rows"] == len(new[new["event_day"] <= D("2024-02-07")])
    metadata = platform.run("model_performance", D("2024-02-08")).days[0].metadata
    assert "2024-02-04 (not ranked to k = 20" in metadata["left_out"]

    # A correction and a customer that comes late change nothing that was served.
    day = D("2024-03-05")
    late = platform.folder(day) / "2024-03-08T0600_more.csv"
    first = next(platform.folder(day).glob("*_visits.csv"))
    lines = pd.read_csv(first)
    more = pd.concat(
        [lines.head(1).assign(spend=900.0), lines.head(1).assign(visit=1, customer="late", spend=900)]
    )
    more.to_csv(late, index=False)
    for step in ("ards", "mrds", "predictions"):
        platform.run(step, day)
    after = predictions(platform)
    is_late = after["customer"] == "late"
    pd.testing.assert_frame_equal(after[~is_late].reset_index(drop=True), found)
    assert after[is_late]["decision"].tolist() == [0]
    assert after[is_late]["rank"].isna().all()
    assert after[is_late]["probability"].item() >= found[found["event_day"] == day]["probability"].quantile(
        0.9
    )

    # A greater k: the ranks that there are don't reach as deep, until the days are scored again.
    platform.product = shop(model__decision_highest=K, evaluation__k=K + 10, **AT_K)
    for step in ("predictions", "model_performance"):
        result = platform.run(step, [EVALUATED])
    assert "not ranked to k = 30" in result.days[0].reason
    platform.run("predictions", days("2024-02-29", "2024-03-10"), rescore=True)
    platform.run("model_performance", EVALUATED)
    row = performance.evaluations(platform.tables, platform.product)[EVALUATED]
    assert row["value"] == pytest.approx(metrics_by_pandas(platform, K + 10)["precision_at_k"], abs=1e-8)
    rescored = predictions(platform)
    assert (rescored[rescored["event_day"] == day]["decision"]).sum() == K
    assert rescored[rescored["customer"] == "late"]["decision"].item() == 1

    # Back to a threshold: a model without one can't decide.
    registry = Registry.of(platform.settings)
    february, march = ModelHistory(platform.tables, platform.product).models()
    assert serving_models.mismatch(registry, platform.product, march) is None
    assert "it has no threshold" in str(serving_models.mismatch(registry, shop(), march))
    assert serving_models.mismatch(registry, shop(), february) is None
