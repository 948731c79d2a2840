"""A number as the label: learning it, undoing its transform, its intervals, its baselines."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io

from ml_platform.contract.product import Product
from ml_platform.machine_learning import promotion, regression, training_data
from ml_platform.machine_learning.kind import LAST_LABEL
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.retraining import PerformanceRow, decide
from ml_platform.machine_learning.training import train
from ml_platform_tests.contract.test_kinds import NUMBER
from ml_platform_tests.small_platform import D, shop


def rows(product: Product, count: int = 4_000, seed: int = 0, *, customers: int = 300) -> pd.DataFrame:
    """Labelled rows of the MRDS whose label grows with what is spent, with an error that grows with it."""
    rng = np.random.default_rng(seed)
    spend = rng.gamma(2, 10, count)
    return pd.DataFrame(
        {
            "customer": [f"c{number}" for number in rng.integers(0, customers, count)],
            "event_day": [D("2024-01-01") + timedelta(days=int(n)) for n in rng.integers(0, 60, count)],
            "spend": spend,
            "pages": rng.integers(1, 9, count),
            "channel": rng.choice(["web", "app", "other"], count),
            "visit": 1,
            "paid": np.expm1(0.5 + 0.02 * spend + rng.normal(0, 0.3, count)),
        }
    )


def test_a_transform_is_undone_in_predictions_also_of_a_model_loaded_from_its_file() -> None:
    product = shop(**NUMBER, model__transform="log1p")
    learned, new = rows(product), rows(product, seed=1)
    model = train(product, learned)
    loaded = skops.io.loads(skops.io.dumps(model.pipeline), trusted=["numpy.dtype"])

    (value,) = kind_of(product).predict(loaded, new)

    plain = train(shop(**NUMBER), learned.assign(paid=np.log1p(learned["paid"])))
    (on_log_scale,) = kind_of(shop(**NUMBER)).predict(plain.pipeline, new)
    np.testing.assert_allclose(value, np.expm1(on_log_scale), rtol=1e-9)
    assert model.threshold is None
    assert model.positives == 0


@pytest.mark.parametrize("transform", [None, "log1p"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_an_interval_holds_its_share_of_labels_that_the_model_has_not_seen(
    transform: str | None, share: float
) -> None:
    product = shop(**NUMBER, model__interval=share, model__transform=transform)
    kind, new = kind_of(product), rows(product, seed=1)
    predictions = kind.predict(train(product, rows(product)).pipeline, new)
    value, lower, upper = predictions

    coverage = kind.summary(kind.labels(new["paid"]), predictions)["interval_coverage"]

    assert coverage == np.mean((new["paid"] >= lower) & (new["paid"] <= upper))
    assert coverage == pytest.approx(share, abs=0.03)
    assert (lower <= value).all()
    assert (value <= upper).all()
    if transform:
        assert np.corrcoef(value, upper - lower)[0, 1] > 0.9


def test_a_model_that_was_trained_without_an_interval_has_none() -> None:
    plain, asked = shop(**NUMBER), shop(**NUMBER, model__interval=0.9)
    model = train(plain, rows(plain))
    value, lower, _ = kind_of(asked).predict(model.pipeline, rows(plain, seed=1))
    stored = kind_of(asked).stored((value, lower, lower), None)
    assert np.isnan(lower).all()
    assert stored["lower"].null_count == len(value)
    summary = kind_of(asked).summary(value + 1, (value, lower, lower))
    assert summary["interval_coverage"] is None
    assert summary["mae"] == pytest.approx(1)


def test_values_beyond_all_bounds_are_predicted_as_numbers_all_the_same() -> None:
    product = shop(**NUMBER, model__transform="log1p", model__interval=0.9)
    kind, model = kind_of(product), train(product, rows(product))
    extreme = rows(product, 3).assign(spend=[1e12, -1e12, np.nan])
    predicted = kind.rounded(kind.predict(model.pipeline, extreme))
    assert all(np.isfinite(values).all() for values in predicted)
    assert predicted[0][0] == regression.LARGEST
    assert predicted[0][1] >= -1


def test_stored_values_have_nine_digits_whatever_their_size() -> None:
    values = np.array([0.0, 1 / 3, -2e-9 / 3, 2e99 / 3, 123_456_789_012.0, 5e-324, 1e100])
    expected = [float(f"{value:.8e}") for value in values]
    (found,) = kind_of(shop(**NUMBER)).rounded((values,))
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({}, lambda rows: rows.head(49), "found 49 labelled rows .* needed are 50 rows"),
        ({}, lambda rows: rows.assign(paid=7.0), "all 4,000 labelled rows have the same label"),
        (
            {"model__transform": "log1p"},
            lambda rows: rows.assign(paid=rows["paid"].where(rows.index > 1, -1.0)),
            "model.transform: log1p has no value for labels of -1 and below, and 2 of 4,000 rows",
        ),
        ({}, lambda rows: rows.head(0), "found 0 labelled rows \\(no labelled days\\)"),
    ],
)
def test_rows_that_no_model_can_be_made_of_are_refused_with_the_reason(
    changes: dict[str, Any], labels: Any, message: str
) -> None:
    product = shop(**NUMBER, **changes)
    with pytest.raises(TrainingError, match=message):
        train(product, labels(rows(product)))


def test_the_last_label_is_the_one_that_was_known_when_the_row_was_scored() -> None:
    """By hand, row by row, for every delay of labels."""
    rng = np.random.default_rng(3)
    for delay in (0, 1, 3):
        product = shop(**NUMBER, source__label_delay_days=delay)
        frame = rows(product, 400, seed=delay, customers=12).drop_duplicates(["customer", "event_day"])
        frame = frame.sample(frac=1, random_state=int(rng.integers(9))).reset_index(drop=True)
        first = D("2024-01-20")
        found = training_data.with_last_labels(product, frame, first, LAST_LABEL)

        assert (found["event_day"] >= first).all()
        assert len(found) == (frame["event_day"] >= first).sum()
        for _, row in found.iterrows():
            known_to = row["event_day"] - timedelta(days=max(delay, 1))
            before = frame[(frame["customer"] == row["customer"]) & (frame["event_day"] <= known_to)]
            expected = before.loc[before["event_day"].idxmax(), "paid"] if len(before) else None
            assert row[LAST_LABEL] == expected


def test_a_first_model_must_beat_the_mean_the_median_and_the_last_known_value() -> None:
    product = shop(**NUMBER)
    kind, learned, new = kind_of(product), rows(product), rows(product, seed=1)
    pipeline = train(product, learned).pipeline
    label = kind.labels(new["paid"])
    near = pd.Series(label + 0.001, dtype=object).where(new.index % 10 > 0, None)
    frame = new.assign(**{LAST_LABEL: near})
    clusters = pd.factorize(new["customer"])[0]

    def compared(frame: pd.DataFrame) -> promotion.Comparison:
        baselines = kind.baselines(pipeline, frame)
        return promotion.compare(
            product, label, kind.predict(pipeline, frame), None, clusters, baselines=baselines
        )

    against_last = compared(frame)
    assert not against_last.verdict
    assert against_last.against == "last_known_value"
    assert "of the last-known-value baseline: not shown to be better" in against_last.reason
    baselines = {
        "training_mean": np.full(len(label), learned["paid"].mean()),
        "training_median": np.full(len(label), learned["paid"].median()),
        "last_known_value": near.astype(float).fillna(learned["paid"].median()).to_numpy(),
    }
    for name, values in baselines.items():
        rmse = float(np.sqrt(np.mean((label - values) ** 2)))
        assert against_last.baselines[name] == pytest.approx(rmse)

    without = compared(new)
    assert without.verdict
    assert without.challenger is not None
    assert without.lower is not None
    assert without.reason.startswith(f"rmse {product.metric.shown(without.challenger)} against ")
    assert without.positives == 0


@pytest.mark.parametrize(("value", "acts"), [(21.0, True), (20.0, False), (3.0, False)])
def test_an_error_above_its_threshold_asks_for_a_retrain(value: float, acts: bool) -> None:
    product, day = shop(**NUMBER), date(2024, 3, 10)
    row = PerformanceRow(day, "f", "failed" if acts else "passed", date(2024, 3, 1), 500, 0, value)
    decision = decide(product, row, [], [day])
    assert decision.act == acts
    side = "above" if acts else "not above"
    assert (
        f"rmse {value:.4g} of the champion as of 2024-03-01 is {side} 20 (500 labelled rows)"
        in decision.reason
    )


def test_values_of_a_sensitive_label_are_not_shown() -> None:
    product = shop(**NUMBER, source__columns__paid__sensitive=True)
    kind, label = kind_of(product), np.array([1.0, 2.0])
    assert kind.plots(label, (label,), None) == {}
    assert "mean_label" not in kind.summary(label, (label,))
    assert set(kind_of(shop(**NUMBER)).plots(label, (label,), None)) == {
        "predicted_against_actual",
        "residuals",
    }
