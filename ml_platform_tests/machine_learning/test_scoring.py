"""Predictions are those of the pipeline, whoever carries the rows to it, and those that stay do stay."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ml_platform.data_engineering import aggregation, buckets
from ml_platform.machine_learning import scoring, training
from ml_platform.machine_learning.predicted_rows import ServingModel
from ml_platform.storage.path_locations import FolderLocation
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import D, days, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PRODUCT = shop()
CHOSEN = days("2024-03-01", "2024-03-05")
#: One of them whose predictions stay, and one that has lost all its rows and keeps its predictions.
KEPT, LOST = CHOSEN[1], CHOSEN[3]


def mrds_of(day: date, customers: int) -> pa.Table:
    """A row a customer, one without a name."""
    schema, draw = aggregation.schema(PRODUCT), random.Random(day.toordinal())
    rows = []
    for number in range(customers):
        row = {field.name: None for field in schema} | {"customer": f"c{number}" if number else None}
        row |= {"event_day": day, "spend": draw.choice([None, draw.uniform(0, 50)])}
        row |= {"channel": draw.choice(["web", "app", None]), "bought": int(draw.random() < 0.4)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def model(seed: int, as_of: date) -> ServingModel:
    draw = np.random.default_rng(seed)
    frame = pd.concat([mrds_of(as_of - timedelta(days=n), 80).to_pandas() for n in range(1, 9)])
    frame["bought"] = (draw.random(len(frame)) < 0.2 + 0.01 * frame["spend"].fillna(0)).astype(int)
    frame["customer"] = frame["customer"].fillna("nobody")
    trained = training.train(PRODUCT, frame)
    return ServingModel(trained.pipeline, trained.threshold, "shop", str(seed), as_of, f"model {seed}")


@pytest.mark.parametrize("carrier", ["a task a day", "parts of large days", "Spark"])
def test_predictions_are_the_pipelines_and_those_that_stay_stay(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    tables, schema = Tables(str(tmp_path)), aggregation.schema(PRODUCT)
    if carrier == "parts of large days":
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 2000)
        monkeypatch.setattr(buckets, "HELD_BYTES", 5000)
    if carrier == "Spark":
        monkeypatch.setattr(FolderLocation, "day_files", lambda *_: None)
    rows = {day: mrds_of(day, 60 if day != CHOSEN[4] else 0) for day in CHOSEN}

    def write(of_days: dict[date, pa.Table]) -> None:
        whole = spark.createDataFrame(pa.concat_tables(of_days.values()))
        tables.replace_days(spark, PRODUCT.name, "mrds", whole, list(of_days), run_id="test")

    def predictions() -> pd.DataFrame:
        found: pd.DataFrame = tables.read(spark, PRODUCT.name, "predictions").toPandas()
        return found

    write(rows)
    old, new = model(1, D("2024-03-01")), model(2, D("2024-03-02"))
    first = scoring.write(lambda: spark, PRODUCT, tables, dict.fromkeys(CHOSEN, old), run_id="first")
    assert {day: found.counts["rows"] for day, found in first.items()} == {
        day: len(rows[day]) for day in CHOSEN
    }
    assert_scored(predictions(), rows, dict.fromkeys(CHOSEN, old))

    # One day has gained customers and lost one since, one has lost all its rows.
    before = rows[KEPT]
    changed = {KEPT: mrds_of(KEPT, 75).slice(0, 74), LOST: schema.empty_table()}
    write(changed)
    second = scoring.write(
        lambda: spark,
        PRODUCT,
        tables,
        dict.fromkeys([CHOSEN[0], KEPT, LOST], new),
        run_id="second",
        keep=[KEPT, LOST],
    )
    found = predictions()
    kept = found[found["event_day"] == KEPT]
    assert second[KEPT].models == {"model 1": 60, "model 2": 14}
    assert second[LOST].models == {"model 1": 60}
    assert_scored(kept[kept["model_version"] == "1"], {KEPT: before}, {KEPT: old})
    assert_scored(kept[kept["model_version"] == "2"], {KEPT: changed[KEPT].slice(60)}, {KEPT: new})
    assert_scored(found[found["event_day"] == LOST], {LOST: rows[LOST]}, {LOST: old})
    assert_scored(found[found["event_day"] == CHOSEN[0]], {CHOSEN[0]: rows[CHOSEN[0]]}, {CHOSEN[0]: new})


def assert_scored(found: pd.DataFrame, rows: dict[date, pa.Table], serving: dict[date, ServingModel]) -> None:
    """The predictions are what scikit-learn gives for these rows."""
    expected = []
    for day, of_day in rows.items():
        frame = of_day.to_pandas()
        if not len(frame):
            continue
        features = pd.DataFrame(
            {
                "spend": frame["spend"].astype(float),
                **{
                    name: frame[name].astype(float)
                    for name in PRODUCT.model.features.numeric
                    if name != "spend"
                },
                **{
                    name: frame[name].where(frame[name].notna(), None)
                    for name in PRODUCT.model.features.categorical
                },
            }
        )
        served = serving[day]
        frame["probability"] = served.pipeline.predict_proba(features)[:, 1].round(6)
        frame["decision"] = (frame["probability"] >= served.threshold).astype("int32")
        frame["model_fingerprint"] = served.fingerprint
        expected.append(frame)
    names = ["customer", "event_day", "probability", "decision", "model_fingerprint"]
    left, right = (
        frame[names].sort_values(["event_day", "customer"], ignore_index=True)
        for frame in (found, pd.concat(expected))
    )
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
