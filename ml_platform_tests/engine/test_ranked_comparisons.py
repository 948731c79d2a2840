"""Products that decide for the highest rows of each day: what their models are compared on, by pandas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from ml_platform.contract.windows import days_evaluated
from ml_platform.machine_learning import holdout, performance
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.registry import Registry
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, shop, visits
from ml_platform_tests.tasks_here import TasksHere, without_verdicts

pytestmark = pytest.mark.slow

K = 7
AT_K: dict[str, Any] = {"evaluation__metric": "precision_at_k", "evaluation__threshold": 0.1}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    without_verdicts(monkeypatch)


def rows_of_day(day: date) -> int:
    """More on some days than on others, and on one of ten fewer than are decided."""
    return 5 if day.day % 10 == 0 else 25 + day.day


def entities_of(chosen: Sequence[date]) -> pd.DataFrame:
    """The MRDS of some days, by pandas."""
    frame = pd.concat([visits(day, rows=rows_of_day(day)) for day in chosen], ignore_index=True)
    last = frame.sort_values("visit").groupby(["day", "customer"], as_index=False)
    return last.agg({"spend": "sum", "pages": "max", "channel": "last", "bought": "last"})


def pipeline_of(platform: Platform, model: ModelRecord) -> Any:
    return Registry.of(platform.settings).load(platform.product, model.version, model.fingerprint).pipeline


def precision_of(pipeline: Any, rows: pd.DataFrame) -> float:
    """The share of the k highest rows of each day, or of all if it has fewer, that bought."""
    features = rows[["spend", "pages", "channel"]].astype({"pages": "float64", "channel": object})
    probability = pipeline.predict_proba(features)[:, 1].round(6)
    highest = rows.assign(probability=probability).sort_values("probability", ascending=False)
    return float(highest.groupby("day").head(K)["bought"].mean())


def platform_in(folder: Path, chosen: Sequence[date], delay: int, **changes: Any) -> Platform:
    product = shop(source__label_delay_days=delay, model__decision_highest=K, **AT_K, **changes)
    platform = Platform(settings_in(folder), cast("SparkSession", TasksHere()), product)
    for day in chosen:
        frame = visits(day, rows=rows_of_day(day))
        text = frame.drop(columns="bought").to_csv(index=False)
        platform.deliver(day, f"{day + timedelta(days=1)}_visits.csv", text)
        labels = frame[["visit", "day", "bought"]].to_csv(index=False)
        platform.deliver(day, f"{day + timedelta(days=1 + delay)}_labels.csv", labels)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    return platform


def test_models_that_are_compared_forward_in_time_are_measured_on_the_highest_of_each_day(
    tmp_path: Path,
) -> None:
    first, second = D("2024-04-01"), D("2024-05-01")
    platform = platform_in(
        tmp_path,
        days("2024-01-01", "2024-07-20"),
        1,
        model__holdout="time",
        model__holdout_days=70,
        model__training_months=2,
        model__first_month="2024-04",
    )
    platform.run("model", [first, second])
    history = ModelHistory(platform.tables, platform.product)
    champion, challenger = history.models()
    (_, decision) = history.decisions()
    assert (champion.as_of, challenger.as_of, decision.as_of) == (first, second, second)
    comparison = decision.comparison
    assert comparison is not None
    rows = entities_of(list(holdout.forward(platform.product, second)))
    assert comparison.rows == len(rows)
    assert comparison.positives == rows["bought"].sum()
    assert comparison.challenger == pytest.approx(
        precision_of(pipeline_of(platform, challenger), rows), abs=1e-8
    )
    assert comparison.champion == pytest.approx(precision_of(pipeline_of(platform, champion), rows), abs=1e-8)


def test_a_champion_of_late_labels_is_judged_on_the_highest_of_what_it_never_learned_from(
    tmp_path: Path,
) -> None:
    months = [D("2024-03-01"), D("2024-04-01"), D("2024-05-01")]
    everything = days("2024-01-01", "2024-05-12")
    platform = platform_in(
        tmp_path,
        everything,
        30,
        model__first_month=None,
        model__training_months=1,
        evaluation__minimum_rows=200,
    )
    platform.run("model", months)
    platform.run("predictions", everything[-80:])
    platform.run("model_performance", everything[-80:])
    history = ModelHistory(platform.tables, platform.product)
    models = {one.as_of: (one, pipeline_of(platform, one)) for one in history.models()}
    judged = 0
    for day, found in performance.evaluations(platform.tables, platform.product).items():
        champion, window = history.serving(day), days_evaluated(platform.product, day)
        if found["champion_judged_on"] != "unseen" or champion is None:
            continue
        model, pipeline = models[champion.as_of]
        if window.first <= model.last_day:
            continue  # of days that it learned from, only the held-out entities count
        rows = entities_of(list(window))
        judged += 1
        assert found["champion_rows"] == len(rows)
        assert found["champion_value"] == pytest.approx(precision_of(pipeline, rows), abs=1e-8)
    assert judged
