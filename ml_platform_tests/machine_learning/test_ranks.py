"""The ranks of a day are those of the whole day, whatever parts it is scored in."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data_engineering import aggregation
from ml_platform.machine_learning import ranks, scoring, training
from ml_platform.machine_learning.predicted_rows import ServingModel
from ml_platform.machine_learning.ranks import Ranks
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import CARRIERS, D, carry_by, days, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DECIDED, DEEPEST = 4, 7
PRODUCT = shop(model__decision_highest=DECIDED, evaluation__metric="recall_at_k", evaluation__k=DEEPEST)


FIRST = D("2024-03-01")


def rows_of(number: int, day: date = FIRST) -> pa.Table:
    customers = [f"c{n}" if n else None for n in range(number)]
    days = pa.array([day] * len(customers), pa.date32())
    return pa.table({"customer": pa.array(customers, pa.string()), "event_day": days})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=25),
    st.lists(st.integers(0, 3), min_size=25, max_size=25),
    st.integers(0, 9),
)
def test_ranks_by_parts_are_those_of_the_whole_day(
    quarters: list[int], part_of: list[int], taken: int
) -> None:
    probability = np.array(quarters, dtype=float) / 3
    rows = rows_of(len(quarters))
    part = np.array(part_of[: len(rows)], dtype=int)
    parts = [
        Ranks.of(PRODUCT, rows.filter(pa.array(part == n)), probability[part == n], taken if not n else 0)
        for n in range(4)
    ]
    together = Ranks.together(PRODUCT, reversed(parts))
    found = together.columns(PRODUCT, ranks.keys_of(PRODUCT, rows, probability))

    frame = pd.DataFrame({"probability": probability, "tie": ranks.ties(PRODUCT, rows)})
    ordered = frame.sort_values(["probability", "tie"], ascending=[False, True]).index
    expected = pd.Series(np.arange(len(frame)) + taken + 1, index=ordered).reindex(frame.index)
    assert found["rank"].to_pylist() == [int(n) if n <= DEEPEST else None for n in expected]
    assert found["decision"].to_pylist() == [int(n <= DECIDED) for n in expected]


def test_ties_are_broken_otherwise_on_another_day() -> None:
    orders = {
        tuple(np.argsort(ranks.ties(PRODUCT, rows_of(20, day)))) for day in days("2024-03-01", "2024-03-05")
    }
    assert len(orders) == 5


CHOSEN = days("2024-03-01", "2024-03-04")
#: One of the days gains rows, one has fewer than are decided, and one has none but predictions.
GAINS, FEW, LOST = CHOSEN[0], CHOSEN[1], CHOSEN[2]


def mrds_of(day: date, first: int, last: int) -> pa.Table:
    """A row a customer, many of whom are equally probable."""
    schema = aggregation.schema(PRODUCT)
    rows = []
    for number in range(first, last):
        row = {field.name: None for field in schema} | {"customer": f"c{number}" if number else None}
        row |= {"event_day": day, "spend": float(number % 6 * 9), "channel": "web", "bought": number % 2}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def model() -> ServingModel:
    frame = pd.concat([mrds_of(day, 0, 90).to_pandas() for day in days("2024-02-20", "2024-02-26")])
    frame["customer"] = frame["customer"].fillna("nobody")
    trained = training.train(PRODUCT, frame.assign(bought=(frame["spend"] > 20).astype(int)))
    assert trained.threshold is None
    return ServingModel(trained.pipeline, None, "shop", "1", D("2024-03-01"), "model")


@pytest.mark.parametrize(
    "carrier",
    [each if each == "buckets" else pytest.param(each, marks=pytest.mark.slow) for each in CARRIERS],
)
def test_a_day_has_its_highest_decided_and_late_rows_come_after_them(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    tables, serving = Tables(str(tmp_path)), model()
    carry_by(carrier, monkeypatch)

    def score(rows: dict[date, pa.Table], keep: list[date]) -> pd.DataFrame:
        whole = spark.createDataFrame(pa.concat_tables(rows.values()))
        tables.replace_days(spark, PRODUCT.name, "mrds", whole, list(rows), run_id="test")
        of_days = dict.fromkeys(rows, serving)
        scoring.write(lambda: spark, PRODUCT, tables, of_days, run_id="test", keep=keep)
        found: pd.DataFrame = tables.read(spark, PRODUCT.name, "predictions").toPandas()
        return found.sort_values(["event_day", "customer"], ignore_index=True)

    sizes = {day: 2 if day == FEW else 60 for day in CHOSEN}
    first = score({day: mrds_of(day, 0, size) for day, size in sizes.items()}, [])
    assert_ranked(first)
    assert first["threshold"].isna().all()

    late = {GAINS: (10, 75), FEW: (0, 9), LOST: (0, 0)}
    second = score({day: mrds_of(day, *numbers) for day, numbers in late.items()}, [GAINS, FEW, LOST])
    names = ["event_day", "customer"]
    both = first.merge(second, on=names, suffixes=("", "_after"), how="left")
    pd.testing.assert_series_equal(both["rank_after"], both["rank"], check_names=False)
    pd.testing.assert_series_equal(both["decision_after"], both["decision"], check_names=False)
    assert len(second) == len(first) + 15 + 7
    assert second.groupby("event_day")["decision"].sum().to_dict() == dict.fromkeys(CHOSEN, DECIDED)
    few = second[second["event_day"] == FEW]
    assert sorted(few["rank"].dropna()) == list(range(1, DEEPEST + 1))
    new = few.merge(first[names], on=names, how="left", indicator=True).query("_merge == 'left_only'")
    assert_ordered(new, taken=2)


def assert_ranked(found: pd.DataFrame) -> None:
    for _, of_day in found.groupby("event_day"):
        assert of_day["decision"].sum() == min(DECIDED, len(of_day))
        assert ((of_day["rank"] <= DECIDED).astype(int) == of_day["decision"]).all()
        assert_ordered(of_day)


def assert_ordered(of_day: pd.DataFrame, taken: int = 0) -> None:
    """The ranks of some rows of a day are those that pandas gives them."""
    keys = pa.Table.from_pandas(of_day[["customer", "event_day"]], preserve_index=False)
    ordered = of_day.assign(tie=ranks.ties(PRODUCT, keys)).sort_values(
        ["probability", "tie"], ascending=[False, True]
    )
    number = max(0, min(len(ordered), DEEPEST - taken))
    assert ordered["rank"].head(number).tolist() == list(range(taken + 1, taken + number + 1))
    assert ordered["rank"].iloc[number:].isna().all()
