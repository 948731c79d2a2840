"""Every aggregation of the MRDS, against DuckDB on the same rows."""

from __future__ import annotations

from datetime import date
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from ml_platform.data_engineering import mrds
from ml_platform.product import Product
from ml_platform_tests.small_platform import shop

NAMES = ("min", "max", "sum", "mean", "count", "first", "last")


def rows(seed: int = 3) -> pd.DataFrame:
    """Rows of an ARDS with ties in the order, nulls everywhere they may be, and labels that are missing."""
    draw = np.random.default_rng(seed)
    n = 400
    frame = pd.DataFrame(
        {
            "visit": np.arange(n),
            "day": [date(2024, 1, 1 + int(d)) for d in draw.integers(0, 3, n)],
            "customer": [f"c{c}" for c in draw.integers(0, 25, n)],
            "spend": np.where(draw.random(n) < 0.2, None, draw.normal(0, 1e6, n).round(3)),
            "pages": draw.integers(0, 4, n),  # many ties
            "channel": draw.choice(["web", "app", "other"], n),
            "bought": pd.array(draw.integers(0, 2, n), dtype="Int64"),
        }
    )
    frame.loc[draw.random(n) < 0.1, "bought"] = pd.NA
    frame["spend"] = frame["spend"].astype(float)
    frame["event_day"] = frame["day"]
    known = [pd.Timestamp(2024, 1, 3 + int(d)).date() for d in draw.integers(0, 5, n)]
    frame["label_known_on"] = [
        k if b is not pd.NA else None for k, b in zip(known, frame["bought"], strict=True)
    ]
    return frame


def spark_rows(spark: SparkSession, frame: pd.DataFrame) -> Any:
    schema = (
        "visit bigint, day date, customer string, spend double, pages int, channel string, bought int, "
        "event_day date, label_known_on date"
    )
    records = [
        tuple(None if pd.isna(value) else getattr(value, "item", lambda v=value: v)() for value in record)
        for record in frame.itertuples(index=False)
    ]
    return spark.createDataFrame(records, schema)


def aggregated(spark: SparkSession, product: Product, frame: pd.DataFrame) -> pd.DataFrame:
    result = mrds.aggregate(product, spark_rows(spark, frame), days=3).toPandas()
    return result.sort_values(["event_day", "customer"], ignore_index=True)


@pytest.mark.parametrize("rule", NAMES)
def test_a_number_is_aggregated_as_duckdb_does_it(spark: SparkSession, rule: str) -> None:
    product = shop(
        mrds__aggregate={"spend": rule, "bought": "last"},
        mrds__order_by=["pages"],
        model__features={"numeric": ["spend"]},
        validation={"minimum_rows": 0},
    )
    frame = rows()
    expression = {
        "mean": "avg(spend)",
        "first": "arg_min_null(spend, struct_pack(pages := pages, day := day, visit := visit))",
        "last": "arg_max_null(spend, struct_pack(pages := pages, day := day, visit := visit))",
    }.get(rule, f"{rule}(spend)")
    expected = duckdb.sql(
        f"SELECT customer, event_day, {expression} AS spend FROM frame "
        "GROUP BY ALL ORDER BY event_day, customer"
    ).df()
    found = aggregated(spark, product, frame)
    assert list(found["customer"]) == list(expected["customer"])
    np.testing.assert_allclose(
        found["spend"].astype(float), expected["spend"].astype(float), rtol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize("rule", ["min", "max", "first", "last"])
def test_a_label_is_null_until_every_row_it_depends_on_is_labelled(spark: SparkSession, rule: str) -> None:
    product = shop(mrds__aggregate={"spend": "sum", "bought": rule}, model__features={"numeric": ["spend"]})
    frame = rows()
    found = aggregated(spark, product, frame)
    for (day, customer), group in frame.sort_values("visit").groupby(["event_day", "customer"]):
        ends = {"first": group.iloc[[0]], "last": group.iloc[[-1]]}.get(rule, group)
        complete = ends["bought"].notna().all()
        row = found[(found["event_day"] == day) & (found["customer"] == customer)].iloc[0]
        if not complete:
            assert pd.isna(row["bought"])
            assert row["label_known_on"] is None
            continue
        expected = ends["bought"].min() if rule == "min" else ends["bought"].max()
        assert row["bought"] == expected
        assert row["label_known_on"] == ends["label_known_on"].max()


def test_sums_of_doubles_are_the_same_bits_for_every_order_of_rows(spark: SparkSession) -> None:
    product = shop(mrds__aggregate={"spend": "sum", "bought": "last"}, model__features={"numeric": ["spend"]})
    frame = rows()
    first = aggregated(spark, product, frame)
    for seed in range(3):
        shuffled = frame.sample(frac=1, random_state=seed)
        again = aggregated(spark, product, shuffled)
        np.testing.assert_array_equal(first["spend"].to_numpy(), again["spend"].to_numpy())


def test_a_sum_of_nothing_is_null(spark: SparkSession) -> None:
    product = shop(mrds__aggregate={"spend": "sum", "bought": "last"}, model__features={"numeric": ["spend"]})
    frame = rows().assign(spend=np.nan)
    assert aggregated(spark, product, frame)["spend"].isna().all()
