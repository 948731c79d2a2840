"""What surely holds of a day that is read in parts, held against pandas over the whole day."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from deltalake.writer import WriterProperties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.data_engineering import buckets
from ml_platform.mlops.quality import great_expectations as gx
from ml_platform.mlops.quality import large_days
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.large_days import LargeDay
from ml_platform.storage.day_files import DayFiles

DAY = date(2024, 1, 1)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("shop", pa.string()),
        ("amount", pa.float64()),
        ("channel", pa.string()),
        ("seen", pa.timestamp("us", "UTC")),
    ]
)
TYPES = {"id": "long", "shop": "string", "amount": "double", "channel": "string", "seen": "timestamp"} | {
    "event_day": "date"
}
NAMES = list(TYPES)
#: What adds up over parts: what the library says of the whole day is the right answer.
OF_EACH_ROW: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_not_be_null", {"column": "amount"}),
    ("expect_column_values_to_be_between", {"column": "amount", "min_value": -5, "max_value": 5}),
    ("expect_column_values_to_be_in_set", {"column": "channel", "value_set": ["web", "shop"]}),
    ("expect_column_values_to_match_regex", {"column": "channel", "regex": "^[a-z]*$"}),
    ("expect_column_value_lengths_to_be_between", {"column": "channel", "max_value": 3}),
    ("expect_column_values_to_be_in_set", {"column": "id", "value_set": ["1", "22"]}),
    (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "amount", "column_B": "id", "ignore_row_if": "either_value_is_missing"},
    ),
    ("expect_column_pair_values_to_be_equal", {"column_A": "amount", "column_B": "id"}),
    ("expect_column_values_to_not_be_null", {"column": "gone"}),
]
#: What is unique, by pandas: it takes a number that is none for no value.
UNIQUE: list[tuple[str, dict[str, Any], list[str]]] = [
    ("expect_compound_columns_to_be_unique", {"column_list": ["id", "shop"]}, ["id", "shop"]),
    ("expect_compound_columns_to_be_unique", {"column_list": ["amount", "shop"]}, ["amount", "shop"]),
    ("expect_column_values_to_be_unique", {"column": "id"}, ["id"]),
]
#: Of parts nothing follows for these: the library is asked about the whole day.
OF_ALL_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_be_increasing", {"column": "id"}),
    ("expect_column_values_to_not_be_null", {"column": "channel", "mostly": 0.5}),
    ("expect_column_values_to_be_unique", {"column": "gone"}),
    ("expect_column_mean_to_be_between", {"column": "amount", "max_value": 1}),
    ("expect_column_values_to_not_match_regex", {"column": "seen", "regex": "00:00:00"}),
    (
        "expect_column_values_to_not_be_null",
        {"column": "channel", "row_condition": "amount > amount.mean()", "condition_parser": "pandas"},
    ),
]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from(["a", "b"]),
        st.one_of(st.none(), st.just(math.nan), st.floats(-5, 5.2)),
        st.sampled_from(["web", "shop", "web", "shop", None, "Zoo"]),
        st.sampled_from([datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 12, tzinfo=UTC)]),
    ),
    min_size=1,
    max_size=60,
)


def expectation(type_: str, kwargs: dict[str, Any]) -> Expectation:
    return Expectation(
        type=type_, kwargs=kwargs, words=type_, wrong="", dimension="validity", severity="error", expected=""
    )


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.integers(1, 20), st.integers(50, 3000), st.integers(1, 30))
def test_what_holds_in_parts_is_what_holds_of_the_whole_day(
    monkeypatch: pytest.MonkeyPatch, rows: list[Any], group: int, piece_bytes: int, hashes: int
) -> None:
    suite = [
        *(expectation(type_, kwargs) for type_, kwargs in OF_EACH_ROW),
        *(expectation(type_, kwargs) for type_, kwargs, _ in UNIQUE),
        *(expectation(type_, kwargs) for type_, kwargs in OF_ALL_ROWS),
    ]
    asked: list[Expectation] = []

    def by_spark(self: LargeDay, rows: Any, rest: list[Expectation]) -> list[Any]:
        asked.extend(rest)
        return [None] * len(rest)

    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
        names = [name for name in NAMES if name != "event_day"]
        table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), schema=SCHEMA)
        table = table.append_column("event_day", pa.array([DAY] * len(table), pa.date32()))
        write_deltalake(
            folder,
            table,
            partition_by=["event_day"],
            writer_properties=WriterProperties(max_row_group_size=group, write_batch_size=group),
        )
        (path,) = Path(folder).glob("*/*.parquet")
        assert pq.ParquetFile(path).num_row_groups == -(-len(rows) // group)
        patch.setattr(buckets, "PIECE_BYTES", piece_bytes)
        patch.setattr(large_days, "HASHES_AT_ONCE", hashes)
        patch.setattr(
            large_days, "each_in_a_task", lambda _, count, work, __: [work(n) for n in range(count)]
        )
        patch.setattr(large_days, "on_days", lambda _: None)
        patch.setattr(LargeDay, "_by_spark", by_spark)
        day = LargeDay(DAY, suite, TYPES, ["id", "shop"], frozenset(), len(rows))
        found = day.results(no_session, lambda: FakeRows(), (DayFiles(folder), 0))  # type: ignore[arg-type, return-value]
        left = {entry.name for entry in Path(folder).iterdir()} - {"_delta_log", f"event_day={DAY}"}
    whole = gx.evaluate(suite, gx.frame(table), ["id", "shop"], frozenset())
    of_each_row, unique = len(OF_EACH_ROW), len(UNIQUE)
    assert [replace(result, examples=()) for result in found[:of_each_row]] == [
        replace(result, examples=()) for result in whole[:of_each_row]
    ]
    frame = table.to_pandas()
    holds = [not frame.duplicated(columns).any() for _, _, columns in UNIQUE]
    assert [result is not None for result in found[of_each_row : of_each_row + unique]] == holds
    assert found[of_each_row + unique :] == [None] * len(OF_ALL_ROWS)
    is_known = [True] * of_each_row + holds + [False] * len(OF_ALL_ROWS)
    rest = [one for one, known in zip(suite, is_known, strict=True) if not known]
    assert asked == rest
    assert not left


class FakeRows:
    """Rows that Spark would read, where nothing is to be read."""

    def where(self, condition: Any) -> FakeRows:
        return self


def no_session() -> Any:
    raise AssertionError("no session is needed")
