"""A day's profile, counted by Spark and of rows in memory, against pandas."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product
from ml_platform.data_engineering.day_statistics import Counted, Counting
from ml_platform.mlops.quality.profiles import ProfileStatistics, profile
from ml_platform_tests.small_platform import shop
from ml_platform_tests.typed_rows import DAY, TYPED, typed_rows


def product() -> Product:
    columns = {**TYPED["columns"], "name": {**TYPED["columns"]["name"], "allowed": ["z", "é", "gone"]}}
    return shop(
        source={**TYPED, "columns": columns},
        mrds={"entity": ["who"], "aggregate": {"amount": "max", "big": "sum", "bought": "last"}},
        model__features={"numeric": ["amount", "big"]},
        validation={"minimum_rows": 0},
    )


def rows_of(kind: str) -> pa.Table:
    rows = typed_rows(3)
    if kind == "nulls":
        return pa.table([pa.nulls(len(rows), field.type) for field in rows.schema], schema=rows.schema)
    if kind == "alike":
        alike = pa.repeat(pa.scalar(19.99), len(rows))
        return rows.set_column(rows.schema.get_field_index("amount"), "amount", alike)
    return rows


@pytest.mark.parametrize("data_set", ["ards", "mrds"])
@pytest.mark.parametrize("kind", ["some", "nulls", "alike"])
def test_spark_and_a_task_make_the_same_profile(spark: SparkSession, data_set: DataSet, kind: str) -> None:
    statistics = ProfileStatistics(product(), data_set)
    rows = rows_of(kind)
    aggregates = [one.alias(name) for name, one in statistics.in_spark().items()]
    found = spark.createDataFrame(rows).agg(*aggregates).collect()[0].asDict()
    in_task = statistics.of_rows(rows)
    for name in found:
        if name.startswith("values "):
            # Spark's is approximate.
            assert found[name] == pytest.approx(in_task[name], rel=0.1)
            found[name] = in_task[name]
    by_spark = profile(statistics.product, data_set, len(rows), found)
    assert profile(statistics.product, data_set, len(rows), in_task) == by_spark
    if kind == "alike":
        assert by_spark.columns["amount"].stddev == 0


def test_days_that_spark_has_written_are_counted_in_tasks_as_they_are_in_memory(spark: SparkSession) -> None:
    rows = pa.concat_tables([of_day(typed_rows(seed), seed) for seed in range(3)])
    counting = Counting("bought", rows.column_names, ["name"], ProfileStatistics(product(), "ards"))
    found = counting.in_tasks(spark.createDataFrame(rows).repartition(4), rows.schema)
    expected = {
        DAY + timedelta(days=seed): counting.of_rows(of_day(typed_rows(seed), seed)) for seed in range(3)
    }
    assert {day: plain(one) for day, one in found.items()} == {
        day: plain(one) for day, one in expected.items()
    }


def plain(counted: Counted) -> list[object]:
    figures = profile(product(), "ards", counted.rows, counted.statistics)
    return [figures, dataclasses.replace(counted, statistics={})]


def of_day(rows: pa.Table, number: int) -> pa.Table:
    day = pa.scalar(DAY + timedelta(days=number), pa.date32())
    return rows.append_column("event_day", pa.repeat(day, len(rows)))


def test_the_figures_are_those_of_pandas() -> None:
    statistics = ProfileStatistics(product(), "ards")
    rows = typed_rows(4)
    found = profile(statistics.product, "ards", len(rows), statistics.of_rows(rows)).columns
    frame = rows.to_pandas()
    finite = frame["amount"][np.isfinite(frame["amount"])]
    assert found["amount"].nulls == frame["amount"].isna().sum()
    assert found["amount"].minimum == finite.min()
    assert found["amount"].maximum == finite.max()
    assert found["amount"].mean == pytest.approx(finite.mean(), rel=1e-8)
    count = frame["count"].dropna()
    assert found["count"].stddev == pytest.approx(count.std(ddof=0), rel=1e-8)
    names: pd.Series[str] = frame["name"].dropna()
    assert found["name"].values == names.nunique()
    shares = {one: pytest.approx((names == one).mean(), rel=1e-8) for one in ("z", "é", "gone")}
    assert found["name"].shares == shares
    assert found["seen"].values == frame["seen"].nunique()
    assert "id" not in found
    assert DAY not in found
