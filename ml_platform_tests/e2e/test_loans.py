"""Six months of loans whose labels come thirty days late, beside twenty lines of scikit-learn."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.loans import CATEGORICAL, CHANGE, END, LABEL_DELAY_DAYS, NUMERIC, START, loans, product
from ml_platform_tests.small_platform import D, Platform, days

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MONTHS = [D("2024-03-01"), D("2024-04-01"), D("2024-05-01"), D("2024-06-01")]


def baseline(learned: pd.DataFrame, scored: pd.DataFrame) -> float:
    """What plain scikit-learn, trained on some loans, makes of others."""
    model = make_pipeline(
        make_column_transformer((StandardScaler(), NUMERIC), (OneHotEncoder(), CATEGORICAL)),
        LogisticRegression(max_iter=200),
    ).fit(learned, learned["repaid"])
    return float(roc_auc_score(scored["repaid"], model.predict_proba(scored)[:, 1]))


def of_days(first: date, last: date) -> pd.DataFrame:
    return pd.concat([loans(day) for day in days(str(first), str(last))], ignore_index=True)


@pytest.mark.slow
def test_late_labels_cost_no_more_than_they_must(tmp_path: Path, spark: SparkSession) -> None:
    platform = Platform(settings_in(tmp_path), spark, product())
    assert platform.product.first_month == MONTHS[0]
    everything = days(str(START), str(END))
    for day in everything:
        frame = loans(day)
        rows = frame.drop(columns="repaid").to_csv(index=False)
        labels = frame[["id", "granted", "repaid"]].to_csv(index=False)
        platform.deliver(day, f"{day + timedelta(days=1)}T0600_loans.csv", rows)
        platform.deliver(day, f"{day + timedelta(days=1 + LABEL_DELAY_DAYS)}T0600_labels.csv", labels)
    for step in ("ards", "mrds"):
        platform.run(step, everything)
    platform.run("model", MONTHS)
    scored_days = [day for day in everything if day >= MONTHS[0]]
    for step in ("predictions", "model_performance"):
        platform.run(step, scored_days)

    predicted = platform.rows("predictions")[["id", "probability", "event_day"]]
    difference = {}
    for month in MONTHS:
        last = min(END, (month + timedelta(days=31)).replace(day=1) - timedelta(days=1))
        scored = of_days(month, last)
        known = month - timedelta(days=1 + LABEL_DELAY_DAYS)
        two_months = pd.DateOffset(months=2)
        first = max(START, (pd.Timestamp(known + timedelta(days=1)) - two_months).date())
        both = scored.merge(predicted, on="id")
        assert len(both) == len(scored)
        platform_auc = roc_auc_score(both["repaid"], both["probability"])
        difference[month] = platform_auc - baseline(of_days(first, known), scored)
    # The first model serves, and the first one that has learned of the changed world takes its place.
    decisions = {one.as_of: one for one in ModelHistory(platform.tables, platform.product).decisions()}
    assert list(decisions) == MONTHS
    assert decisions[MONTHS[0]].promoted
    assert decisions[MONTHS[3]].promoted
    # A champion that stays may be better than a month's model by chance; worse it must not be.
    gaps = {month: round(gap, 3) for month, gap in difference.items()}
    assert [month for month, gap in gaps.items() if gap < -0.01] == [], gaps
    assert [month for month, gap in gaps.items() if decisions[month].promoted and gap > 0.01] == [], gaps
    comparison = decisions[MONTHS[1]].comparison
    assert comparison is not None
    # A tenth of the loans of thirty-one labelled days, where thirty-one event days would have had one day.
    assert 300 < comparison.rows < 650

    # What the changed world does to the champion is known when its first labels are.
    found = performance.evaluations(platform.tables, platform.product)
    known_well = found[CHANGE + timedelta(days=LABEL_DELAY_DAYS - 1)]
    assert known_well["value"] > 0.7
    fallen = found[CHANGE + timedelta(days=LABEL_DELAY_DAYS + 29)]
    assert fallen["champion_judged_on"] in ("scored", "unseen")
    assert fallen["champion_rows"] >= 300
    assert fallen["champion_value"] < known_well["value"] - 0.1
    assert fallen["verdict"] == "failed" or fallen["value"] < known_well["value"]
