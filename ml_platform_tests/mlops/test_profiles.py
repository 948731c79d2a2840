"""A day's profile, of the whole day and of parts of it, against pandas."""

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
from ml_platform.mlops.quality import distinct_values
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
    if kind == "greatest":
        greatest = pa.array([1.7e308, -1.7e308, *[1.7e308] * (len(rows) - 2)])
        return rows.set_column(rows.schema.get_field_index("amount"), "amount", greatest)
    if kind == "alike":
        alike = pa.repeat(pa.scalar(19.99), len(rows))
        return rows.set_column(rows.schema.get_field_index("amount"), "amount", alike)
    return rows


@pytest.mark.parametrize("data_set", ["ards", "mrds"])
@pytest.mark.parametrize("kind", ["some", "nulls", "alike", "greatest"])
def test_the_parts_of_a_day_make_the_profile_of_the_whole(data_set: DataSet, kind: str) -> None:
    rows = rows_of(kind)
    counting = Counting("bought", rows.column_names, ["name"], ProfileStatistics(product(), data_set))
    whole = counting.of_rows(rows)
    draw = np.random.default_rng(1)
    for cuts in ([0], [len(rows)], [1, 1, 100], sorted(draw.integers(0, len(rows), 20).tolist())):
        ends = [*cuts, len(rows)]
        parts = [
            counting.of_part(rows.slice(start, end - start))
            for start, end in zip([0, *cuts], ends, strict=True)
        ]
        assert plain(counting.of_parts(parts), data_set) == plain(whole, data_set)
    if kind == "alike":
        assert profile(product(), data_set, len(rows), whole.statistics).columns["amount"].stddev == 0


def test_days_that_spark_has_written_are_counted_in_tasks_as_they_are_in_memory(spark: SparkSession) -> None:
    rows = pa.concat_tables([of_day(typed_rows(seed), seed) for seed in range(3)])
    counting = Counting("bought", rows.column_names, ["name"], ProfileStatistics(product(), "ards"))
    found = counting.of_frame(spark.createDataFrame(rows).repartition(4), rows.schema)
    expected = {
        DAY + timedelta(days=seed): counting.of_rows(of_day(typed_rows(seed), seed)) for seed in range(3)
    }
    assert {day: plain(one) for day, one in found.items()} == {
        day: plain(one) for day, one in expected.items()
    }


def test_more_values_than_a_sketch_holds_are_counted_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, values in ((1024, 1023), (1024, 1500), (1024, 200_000), (64, 5000)):
        monkeypatch.setattr(distinct_values, "SIZE", size)
        texts = pa.chunked_array([pa.array(np.arange(values)).cast(pa.string())])
        # Parts share some of their values.
        parts = [texts.slice(0, values // 2 + 50), texts.slice(values // 3), texts.slice(0, 0)]
        found = distinct_values.count([distinct_values.sketch_of(part) for part in parts])
        assert found == values if values < size else abs(found / values - 1) < 4 / np.sqrt(size)


def plain(counted: Counted, data_set: DataSet = "ards") -> list[object]:
    figures = profile(product(), data_set, counted.rows, counted.statistics)
    return [figures, dataclasses.replace(counted, statistics={})]


def of_day(rows: pa.Table, number: int) -> pa.Table:
    day = pa.scalar(DAY + timedelta(days=number), pa.date32())
    return rows.append_column("event_day", pa.repeat(day, len(rows)))


def test_the_figures_are_those_of_pandas() -> None:
    statistics = ProfileStatistics(product(), "ards")
    rows = typed_rows(4)
    found = profile(
        statistics.product, "ards", len(rows), statistics.of_parts([statistics.of_part(rows, is_whole=True)])
    ).columns
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
