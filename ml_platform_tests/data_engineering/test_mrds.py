"""Every aggregation of the MRDS, against DuckDB on the same rows."""

from __future__ import annotations

from datetime import date
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.product import Product
from ml_platform.data_engineering import mrds, small_mrds
from ml_platform_tests.small_platform import shop
from ml_platform_tests.typed_rows import DAY, TYPED, typed_rows

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
    """What Spark makes of the rows, and to the bit what a task makes of a day of them."""
    rows_ = spark_rows(spark, frame)
    by_spark = mrds.aggregate(product, rows_, days=3)
    in_tasks = []
    for day, of_day in frame.groupby("event_day"):
        given = rows_.where(F.col("event_day") == day).drop("event_day").toArrow()
        assert len(given) == len(of_day)
        done = small_mrds.aggregate_day(product, day, given)
        assert done is not None
        in_tasks.append(done)
    by = ["event_day", "customer"]
    result: pd.DataFrame = by_spark.toArrow().to_pandas().sort_values(by, ignore_index=True)
    other = pa.concat_tables(in_tasks).to_pandas().sort_values(by, ignore_index=True)
    pd.testing.assert_frame_equal(result, other, check_exact=True)
    return result


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


@pytest.mark.parametrize("seed", range(4))
def test_every_type_is_aggregated_alike_by_spark_and_in_a_task(spark: SparkSession, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows_ = typed_rows(seed)
    numbers, others = ["amount", "count", "big"], ["name", "flag", "born", "seen"]
    rules = {name: str(draw.choice(NAMES)) for name in numbers}
    rules |= {name: str(draw.choice(["min", "max", "first", "last", "count"])) for name in others}
    label_rule = str(draw.choice(["min", "max", "first", "last"]))
    product = shop(
        source=TYPED,
        mrds={
            "entity": ["who"] if seed else ["who", "name"],
            "order_by": [str(draw.choice([*numbers, *others]))],
            "aggregate": {**rules, "bought": label_rule}
            if seed
            else {**{k: v for k, v in rules.items() if k != "name"}, "bought": label_rule},
        },
        model__features={"numeric": ["amount", "big"]},
        validation={"minimum_rows": 0},
    )
    given = spark.createDataFrame(rows_).withColumn("event_day", F.lit(DAY))
    by_spark = mrds.aggregate(product, given).toArrow()
    in_task = small_mrds.aggregate_day(product, DAY, rows_)
    assert in_task is not None
    by = [(name, "ascending") for name in product.entity]
    assert by_spark.cast(in_task.schema).sort_by(by).equals(in_task.sort_by(by))


def test_what_arrow_orders_otherwise_is_left_to_spark() -> None:
    product = shop(
        source=TYPED,
        mrds={"entity": ["who"], "aggregate": {"amount": "max", "big": "sum", "bought": "last"}},
        model__features={"numeric": ["amount", "big"]},
        validation={"minimum_rows": 0},
    )
    rows_ = typed_rows(1)
    at = rows_.column_names.index("amount")
    spoilt = pa.concat_arrays([pa.array([float("nan")]), rows_["amount"].combine_chunks()[1:]])
    assert small_mrds.aggregate_day(product, DAY, rows_) is not None
    assert small_mrds.aggregate_day(product, DAY, rows_.set_column(at, "amount", spoilt)) is None


def extreme_rows(values: list[tuple[int, int | None, float | None]]) -> pa.Table:
    """Rows of ``TYPED`` with these entities, values of ``big`` and of ``amount``."""
    rows_ = typed_rows(0).slice(0, len(values))
    given = {
        "who": pa.array([who for who, _, _ in values], pa.int32()),
        "big": pa.array([big for _, big, _ in values], pa.int64()),
        "amount": pa.array([amount for _, _, amount in values], pa.float64()),
    }
    return pa.table({name: given.get(name, rows_[name]) for name in rows_.column_names})


def typed_product(rule: str) -> Product:
    return shop(
        source=TYPED,
        mrds={"entity": ["who"], "aggregate": {"big": rule, "amount": rule, "bought": "last"}},
        model__features={"numeric": ["big", "amount"]},
        validation={"minimum_rows": 0},
    )


LEAST, MOST = -(2**63), 2**63 - 1
LARGEST = 1.7976931348623157e308


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_sums_at_the_ends_of_a_long_are_exact_in_any_order(spark: SparkSession, rule: str) -> None:
    """Partial sums of these are beyond a long, their totals are not."""
    product = typed_product(rule)
    values: list[tuple[int, int | None, float | None]] = [
        *[(1, big, None) for big in (MOST, MOST, LEAST, LEAST, 1)],
        *[(2, big, LARGEST) for big in (MOST,)],
        *[(3, big, -LARGEST) for big in (LEAST,)],
        *[(4, big, None) for big in (-1, -(2**40), 2**62, 2**62 - 1, None)],
        (5, None, None),
    ]
    expected = {
        who: [big for whose, big, _ in values if whose == who and big is not None] for who in range(1, 6)
    }
    exact = {
        who: None if not bigs else sum(bigs) if rule == "sum" else float(sum(bigs)) / len(bigs)
        for who, bigs in expected.items()
    }
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(values))
        rows_ = extreme_rows([values[n] for n in order])
        in_task = small_mrds.aggregate_day(product, DAY, rows_)
        assert in_task is not None
        assert dict(zip(in_task["who"].to_pylist(), in_task["big"].to_pylist(), strict=True)) == exact
        given = spark.createDataFrame(rows_).withColumn("event_day", F.lit(DAY))
        by_spark = mrds.aggregate(product, given).toArrow().cast(in_task.schema).sort_by("who")
        assert by_spark.equals(in_task.sort_by("who"))
        assert mrds.too_large_days(product, given) == {}


@pytest.mark.parametrize(
    ("rule", "values", "reason"),
    [
        (
            "sum",
            [(1, MOST, 1.0), (1, 1, 1.0)],
            "values of who = 1 add up to 9,223,372,036,854,775,808",
        ),
        ("sum", [(1, 0, 1.0), (2, LEAST, 0.5), (2, -2, 0.5)], "who = 2 add up to -9,223,372,036,854,775,810"),
        ("sum", [(1, 0, LARGEST), (1, 0, LARGEST)], "amount: the values of who = 1 add up to inf"),
        ("mean", [(1, MOST, -LARGEST), (1, MOST, -LARGEST)], "amount: the values of who = 1 add up to -inf"),
        ("sum", [(3, MOST, LARGEST), (3, MOST, LARGEST)], "big: the values of who = 3"),
    ],
)
def test_a_sum_beyond_its_type_is_named_alike_by_tasks_and_by_spark(
    spark: SparkSession, rule: str, values: list[tuple[int, int | None, float | None]], reason: str
) -> None:
    product, rows_ = typed_product(rule), extreme_rows(values)
    with pytest.raises(small_mrds.TooLargeError) as refused:
        small_mrds.aggregate_day(product, DAY, rows_)
    assert reason in str(refused.value)
    given = spark.createDataFrame(rows_).withColumn("event_day", F.lit(DAY))
    assert mrds.too_large_days(product, given) == {DAY: str(refused.value)}
    with pytest.raises(Exception, match="a sum is beyond its type"):
        mrds.aggregate(product, given).toArrow()


def test_a_reason_masks_what_is_sensitive() -> None:
    columns = TYPED["columns"]
    assert isinstance(columns, dict)
    hidden = {name: {**columns[name], "sensitive": True} for name in ("who", "big")}
    product = shop(
        source=TYPED | {"columns": {**columns, **hidden}},
        mrds={"entity": ["who"], "aggregate": {"big": "sum", "bought": "last"}},
        model__features={"numeric": ["big"]},
        validation={"minimum_rows": 0},
    )
    with pytest.raises(small_mrds.TooLargeError) as refused:
        small_mrds.aggregate_day(product, DAY, extreme_rows([(98765, MOST, None), (98765, MOST, None)]))
    assert "who = ••• add up to •••" in str(refused.value)
    assert "98765" not in str(refused.value)
