"""Which rows a model may learn from: the same whether Spark reads them or this process does."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import functions as F

from ml_platform.contract.product import Product
from ml_platform.data_engineering import buckets
from ml_platform.machine_learning import training_data
from ml_platform.machine_learning.pipeline import feature_frame
from ml_platform.storage.fingerprints import EMPTY
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import shop
from ml_platform_tests.typed_rows import DAY, TYPED, typed_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COLUMNS = ("amount", "count", "name", "seen", "bought")
PLAIN = ["id", "who", "name", "big", "flag", "born", "amount", "seen"]


def product_of(*entity: str) -> Product:
    """A product over typed rows with these columns as its entity."""
    aggregate = {name: "last" for name in COLUMNS if name not in entity}
    return shop(
        source=TYPED,
        mrds={"entity": list(entity), "order_by": ["id"], "aggregate": aggregate},
        model__features={"numeric": ["count"], "categorical": ["seen"] if "seen" in aggregate else []},
        validation={},
    )


@pytest.mark.parametrize("entity", [*[[name] for name in PLAIN], PLAIN])
def test_an_entity_has_the_hash_that_spark_gives_it(spark: SparkSession, entity: list[str]) -> None:
    product, rows = product_of(*entity), typed_rows(3)
    hashes = F.xxhash64(F.lit(f"{product.name}/held out"), *[F.col(name).cast("string") for name in entity])
    by_spark = spark.createDataFrame(rows).select(F.pmod(hashes, F.lit(10)).alias("hash"))
    found = training_data.entity_hashes(product, rows, "held out", 10)
    assert found.tolist() == [row["hash"] for row in by_spark.collect()]
    if "id" in entity:
        assert set(found) == set(range(10))


def test_doubles_and_times_have_the_text_that_spark_writes(spark: SparkSession) -> None:
    draw = random.Random(0)
    doubles = [
        round(draw.uniform(-1, 1) * 10 ** draw.randint(-12, 15), draw.randint(0, 9)) for _ in range(3000)
    ]
    doubles += [
        0.0,
        -0.0,
        1.0,
        0.001,
        0.00099,
        9999999.0,
        1e7,
        12345678.9,
        1e300,
        5e-5,
        float("nan"),
        float("inf"),
    ]
    instants = [draw.randint(-62_000_000_000, 250_000_000_000) for _ in doubles]
    micros = [instant * 1_000_000 + draw.choice([0, 1, 500_000, 120, 999_999]) for instant in instants]
    rows = pa.table(
        {
            "number": pa.array([*doubles, None], pa.float64()),
            "instant": pa.array([*micros, None], pa.timestamp("us", "UTC")),
        }
    )
    written = spark.createDataFrame(rows).select(*[F.col(name).cast("string") for name in rows.column_names])
    found = [training_data._text(rows[name].combine_chunks()).to_pylist() for name in rows.column_names]
    assert [tuple(row) for row in written.collect()] == list(zip(*found, strict=True))


@pytest.mark.parametrize("held_out", [False, True])
def test_the_rows_are_those_that_spark_reads(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    product, tables = product_of("id"), Tables(str(tmp_path))
    days = [DAY + timedelta(days=n) for n in range(4)]
    rows = {day: mrds_of(seed, day) for seed, day in enumerate(days)}
    files = tables.day_files(product.name, "mrds")
    assert files
    written = {day: files.write(day, one) for day, one in rows.items()}
    tables.replace_days_by(product.name, "mrds", rows[DAY].schema, written, days, run_id="test")
    # The last day is not before it, and half of the labels were not known by then.
    as_of = days[-1]

    def no_session() -> SparkSession:
        raise AssertionError("Spark was asked for")

    def labelled(
        session: Callable[[], SparkSession], held_out: bool, maximum_rows: int
    ) -> training_data.Slice:
        return training_data.labelled(
            session, product, tables, days, as_of, held_out=held_out, maximum_rows=maximum_rows
        )

    ours = labelled(no_session, held_out, 900)
    monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    by_spark = labelled(lambda: spark, held_out, 899)
    monkeypatch.undo()
    assert ours.taken == ours.available == by_spark.available == by_spark.taken > 0
    assert ours.fingerprint == by_spark.fingerprint
    left, right = (
        one.collect().sort_values(["event_day", "id"], ignore_index=True) for one in (ours, by_spark)
    )
    pd.testing.assert_frame_equal(left.drop(columns="seen"), right.drop(columns="seen"))
    pd.testing.assert_frame_equal(*(feature_frame(product, frame) for frame in (left, right)))
    assert feature_frame(product, left)["seen"].nunique() > 5
    others = labelled(no_session, not held_out, 900).collect()
    assert not set(left["id"]) & set(others["id"])
    expected = {
        (row["event_day"], row["id"])
        for day in days[:-1]
        for row in rows[day].to_pylist()
        if row["bought"] is not None and row["label_known_on"] and row["label_known_on"] <= as_of
    }
    assert {(row.event_day, row.id) for row in pd.concat([left, others]).itertuples()} == expected


@pytest.mark.parametrize("case", ["no day before it", "no label known by then", "nobody held out"])
def test_a_slice_may_be_empty(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    product, tables = product_of("id"), Tables(str(tmp_path))
    rows = mrds_of(0, DAY)
    learned = training_data.entity_hashes(product, rows, "held out", 10) != 0
    rows = rows.filter(pa.array(learned))
    if case == "no label known by then":
        rows = rows.filter(pc.field("label_known_on") > pa.scalar(DAY + timedelta(days=1)))
    files = tables.day_files(product.name, "mrds")
    assert files
    tables.replace_days_by(
        product.name, "mrds", rows.schema, {DAY: files.write(DAY, rows)}, [DAY], run_id="test"
    )
    as_of = DAY if case == "no day before it" else DAY + timedelta(days=1)
    held_out = case == "nobody held out"
    ours = training_data.labelled(
        lambda: spark, product, tables, [DAY], as_of, held_out=held_out, maximum_rows=len(rows)
    )
    monkeypatch.setattr(buckets, "PROCESS_BYTES", 0)
    by_spark = training_data.labelled(
        lambda: spark, product, tables, [DAY], as_of, held_out=held_out, maximum_rows=len(rows)
    )
    for found in (ours, by_spark):
        assert (found.available, found.taken, found.fingerprint) == (0, 0, EMPTY)
        assert not len(found.collect())
    assert list(ours.collect()) == list(by_spark.collect())


def mrds_of(seed: int, day: date) -> pa.Table:
    """A day of the MRDS with an entity a row."""
    rows = typed_rows(seed).select(["id", *COLUMNS, "label_known_on"])
    return rows.append_column("event_day", pa.repeat(pa.scalar(day), len(rows)))
