"""What surely holds of a day that is read in parts, held against pandas over the whole day."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from deltalake.writer import WriterProperties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.data_engineering import buckets
from ml_platform.mlops.quality import large_days
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.large_days import LargeDay
from ml_platform.storage.day_files import DayFiles

DAY = date(2024, 1, 1)
NAMES = ["id", "shop", "amount", "channel", "event_day"]
#: What is expected, and whether a whole day fulfils it, as pandas says.
EXPECTED: list[tuple[str, dict[str, Any], Callable[[pd.DataFrame], bool] | None]] = [
    (
        "expect_compound_columns_to_be_unique",
        {"column_list": ["id", "shop"]},
        lambda rows: not rows.duplicated(["id", "shop"]).any(),
    ),
    ("expect_column_values_to_be_unique", {"column": "id"}, lambda rows: not rows.id.duplicated().any()),
    ("expect_column_values_to_not_be_null", {"column": "amount"}, lambda rows: rows.amount.notna().all()),
    (
        "expect_column_values_to_be_between",
        {"column": "amount", "min_value": -5, "max_value": 5},
        lambda rows: rows.amount.dropna().between(-5, 5).all(),
    ),
    (
        "expect_column_values_to_be_in_set",
        {"column": "channel", "value_set": ["web", "shop"]},
        lambda rows: rows.channel.dropna().isin(["web", "shop"]).all(),
    ),
    (
        "expect_column_values_to_match_regex",
        {"column": "channel", "regex": "^[a-z]*$"},
        lambda rows: rows.channel.dropna().str.match("^[a-z]*$").all(),
    ),
    # Of parts nothing follows for these: the library is asked about the whole day.
    ("expect_column_values_to_be_increasing", {"column": "id"}, None),
    ("expect_column_values_to_not_be_null", {"column": "channel", "mostly": 0.5}, None),
    ("expect_column_values_to_be_unique", {"column": "gone"}, None),
    ("expect_column_values_to_not_be_null", {"column": "gone"}, None),
    ("expect_column_mean_to_be_between", {"column": "amount", "max_value": 1}, None),
]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from(["a", "b"]),
        st.one_of(st.none(), st.floats(-5, 5.2)),
        st.sampled_from(["web", "shop", "web", "shop", None, "Zoo"]),
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
    frame = pd.DataFrame(rows, columns=NAMES[:4]).astype({"id": "int64", "amount": "float64"})
    suite = [expectation(type_, kwargs) for type_, kwargs, _ in EXPECTED]
    asked: list[Expectation] = []

    def by_spark(self: LargeDay, rows: Any, rest: list[Expectation]) -> list[Any]:
        asked.extend(rest)
        return [None] * len(rest)

    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
        table = pa.Table.from_pandas(frame, preserve_index=False)
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
        day = LargeDay(DAY, suite, NAMES, ["id", "shop"], frozenset(), len(rows))
        found = day.results(no_session, lambda: FakeRows(), (DayFiles(folder), 0))  # type: ignore[arg-type, return-value]
        left = {entry.name for entry in Path(folder).iterdir()} - {"_delta_log", f"event_day={DAY}"}
    holds = [fulfils is not None and bool(fulfils(frame)) for _, _, fulfils in EXPECTED]
    assert [result is not None for result in found] == holds
    assert asked == [one for one, is_held in zip(suite, holds, strict=True) if not is_held]
    assert not left


class FakeRows:
    """Rows that Spark would read, where nothing is to be read."""

    def where(self, condition: Any) -> FakeRows:
        return self


def no_session() -> Any:
    raise AssertionError("no session is needed")
