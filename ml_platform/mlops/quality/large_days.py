"""The verdict on a day that is too large to be held in memory: what no row fails is found part by part.

An expectation about each row by itself holds for a day if it holds for every part of it, so tasks ask the
library's pandas engine about a part each. What a row fails, and what is expected of all rows together, is
asked of the library's Spark engine, without the day being collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.data_engineering import buckets
from ml_platform.data_engineering.buckets import BucketFiles
from ml_platform.mlops.quality import great_expectations as gx
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.results import Result
from ml_platform.spark.tasks import Session, each_in_a_task, spare_next_task
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.fingerprints import hashes_of
from ml_platform.storage.tables import column, on_days

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

#: Hashes of keys that this process compares at once, of eight bytes each, as are those sorted beside them.
HASHES_AT_ONCE = 4_000_000

_HASH = "hash"
#: Where Spark carries them: hashes of the keys of an expectation, or that some row fails it.
_HASHES = pa.schema([("failed", pa.int32()), ("bucket", pa.int32()), ("hashes", pa.binary())])
_UNIQUE = ("expect_compound_columns_to_be_unique", "expect_column_values_to_be_unique")
#: Expectations of the library about each row by itself. Others that look at rows may depend on their order,
#: or on all of them.
_OF_EACH_ROW = frozenset(
    {
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_column_pair_values_to_be_equal",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_be_null",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_not_match_regex_list",
        "expect_multicolumn_sum_to_equal",
        "expect_select_column_values_to_be_unique_within_record",
    }
)


@dataclass(frozen=True)
class _Part:
    """Of a part of a day the positions of expectations that it fails, and files with the hashes of keys."""

    failed: list[int]
    hashes: list[list[str]]


@dataclass(frozen=True)
class LargeDay:
    """A day that is too large to be held in memory. It travels to the tasks.

    Args:
        suite: what is expected of its rows.
        columns: those of the data set, in order.
        size: how many rows it has.
    """

    day: date
    suite: Sequence[Expectation]
    columns: Sequence[str]
    key: Sequence[str]
    sensitive: frozenset[str]
    size: int

    def results(
        self, session: Session, rows: Callable[[], DataFrame], files: tuple[DayFiles, int] | None
    ) -> list[Result]:
        """One result per expectation, in order.

        Args:
            rows: opens the data set, of which only the day is read, where Spark has to.
            files: where tasks can read the day themselves, and at which version.
        """

        def of_day() -> DataFrame:
            return rows().where(on_days([self.day]))

        holding = self._holding_in_files(session, *files) if files is not None else self._holding(of_day())
        rest = [expectation for position, expectation in enumerate(self.suite) if position not in holding]
        others = iter(self._by_spark(of_day(), rest) if rest else ())
        return [
            gx.holds(expectation) if position in holding else next(others)
            for position, expectation in enumerate(self.suite)
        ]

    @property
    def _parts_of_hashes(self) -> int:
        """Into how many parts hashes are divided, so that each can be compared at once."""
        return max(1, -(-self.size // HASHES_AT_ONCE))

    @cached_property
    def _of_each_row(self) -> Mapping[int, Expectation]:
        """The expectations about each row by itself that hold if no row fails them, by their position."""
        return {
            position: one
            for position, one in enumerate(self.suite)
            if one.type in _OF_EACH_ROW and one.kwargs.get("mostly", 1) == 1
        }

    @cached_property
    def _unique(self) -> Mapping[int, Sequence[str]]:
        """The columns whose values are expected to be unique together, by the expectation's position."""
        found = {}
        for position, one in enumerate(self.suite):
            names = one.kwargs.get("column_list") or [one.kwargs.get("column")]
            if (
                one.type in _UNIQUE
                and one.kwargs.get("mostly", 1) == 1
                and not one.kwargs.get("row_condition")
                and set(names) <= set(self.columns)
            ):
                found[position] = names
        return found

    def _failed(self, rows: pa.Table) -> set[int]:
        """The positions of the expectations about each row that some of these rows fail."""
        expectations = [
            gx.configured(one.type, one.kwargs, position) for position, one in self._of_each_row.items()
        ]
        results = gx.run(gx.frame(rows), expectations, self.key, "BOOLEAN_ONLY")
        return {position for position, result in results.items() if not result.success}

    def _holding_in_files(self, session: Session, place: DayFiles, version: int) -> set[int]:
        """The positions of the expectations that surely hold, of a day that tasks read in parts."""
        day, columns, unique = self.day, list(self.columns), list(self._unique.values())
        groups, piece_bytes = place.row_groups(version, day), buckets.PIECE_BYTES
        with BucketFiles.beside(place, self._parts_of_hashes) as files:

            def look(number: int) -> _Part:
                failed: set[int] = set()
                hashes: list[list[NDArray[np.uint64]]] = [[] for _ in unique]
                batches = place.read_row_group(version, day, groups[number], columns)
                for rows in buckets.pieces(batches, piece_bytes):
                    failed |= self._failed(rows)
                    for names, known in zip(unique, hashes, strict=True):
                        known.append(_hashes(rows, names))
                return _Part(sorted(failed), [_scattered(files, known) for known in hashes])

            parts = each_in_a_task(session, len(groups), look, _Part)
            surely_unique = {
                position
                for place_, position in enumerate(self._unique)
                if all(map(_are_different, _gathered(files, _paths(parts, place_))))
            }
        failed = {position for part in parts for position in part.failed}
        return (set(self._of_each_row) - failed) | surely_unique

    def _holding(self, rows: DataFrame) -> set[int]:
        """The same of a day that Spark brings to the tasks."""
        unique, piece_bytes = list(self._unique.items()), buckets.PIECE_BYTES
        count = np.uint64(self._parts_of_hashes)

        def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            failed: set[int] = set()
            for part in buckets.pieces(batches, piece_bytes):
                failed |= self._failed(part)
                for position, names in unique:
                    hashes = _hashes(part, names)
                    for bucket in range(int(count)):
                        packed = hashes[hashes % count == bucket].tobytes()
                        yield pa.RecordBatch.from_arrays([[position], [bucket], [packed]], schema=_HASHES)
            # What fails has no hashes.
            for position in failed:
                yield pa.RecordBatch.from_arrays([[position], [-1], [None]], schema=_HASHES)
            spare_next_task()

        def compare(found: pa.Table) -> pa.Table:
            packed = found["hashes"].drop_null()
            hashes = [np.frombuffer(part.as_buffer(), np.uint64) for part in packed]
            failed = not hashes or not _are_different(np.concatenate(hashes))
            spare_next_task()
            return found.select(["failed"]).slice(0, int(failed))

        chosen = rows.select(*[column(name) for name in self.columns])
        found = chosen.mapInArrow(look, from_arrow_schema(_HASHES)).groupBy("failed", "bucket")
        failed = {row["failed"] for row in found.applyInArrow(compare, "failed int").collect()}
        return ({*self._of_each_row} | {*self._unique}) - failed

    def _by_spark(self, rows: DataFrame, suite: Sequence[Expectation]) -> list[Result]:
        from pyspark.sql import functions as F

        # The library's Spark engine takes NaN for a value, its pandas engine doesn't.
        doubles = {name for name, type_ in rows.dtypes if type_ in ("double", "float")}
        cleaned = rows.select(
            *[
                F.when(~F.isnan(column(name)), column(name)).alias(name) if name in doubles else column(name)
                for name in rows.columns
            ]
        )
        return gx.evaluate(suite, cleaned, self.key, self.sensitive)


def _paths(parts: Sequence[_Part], place: int) -> list[str]:
    return [path for part in parts for path in part.hashes[place]]


def _hashes(rows: pa.Table, names: Sequence[str]) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64] = hashes_of([_HASH], [rows[name] for name in names])[0].view(np.uint64)
    return hashes


def _scattered(files: BucketFiles, hashes: Sequence[NDArray[np.uint64]]) -> list[str]:
    """Files with the hashes of a part, in batches of hashes that may be the same."""
    return files.scatter((pa.table({_HASH: found}), found) for found in hashes).files


def _gathered(files: BucketFiles, paths: Sequence[str]) -> Iterator[NDArray[np.uint64]]:
    for bucket in range(files.count):
        batches = list(files.gather(paths, buckets.Share(bucket), [_HASH]))
        if batches:
            yield np.concatenate([batch.column(_HASH).to_numpy() for batch in batches])


def _are_different(hashes: NDArray[np.uint64]) -> bool:
    """Whether no two hashes are the same, so that no two values are.

    The library looks for what isn't unique by sorting all rows, which takes longer than all else that is
    expected of them. So it is asked only where values have fewer hashes than there are rows.
    """
    ordered = np.sort(hashes)
    return not bool((ordered[1:] == ordered[:-1]).any())
