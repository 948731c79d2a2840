"""The verdict on a day that is too large to be held in memory: what no row fails is found part by part.

What is expected of each row by itself adds up over the parts of a day, so tasks ask the library's pandas
engine about a part each: first whether it holds, and where it doesn't how many rows fail. What is expected of
all rows together is asked of the library's Spark engine, without the day being collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_be_null",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_not_be_null",
        "expect_multicolumn_sum_to_equal",
        "expect_select_column_values_to_be_unique_within_record",
    }
)
#: The same where the column holds texts: others become texts, timestamps in a way that depends on all others.
_OF_EACH_TEXT = frozenset(
    {
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_not_match_regex_list",
    }
)


@dataclass(frozen=True)
class _Part:
    """Of a part of a day the positions of expectations that it fails, and files with the hashes of keys."""

    failed: list[int]
    hashes: list[list[str]]


@dataclass(frozen=True)
class _Counted:
    """Of each piece of a part of a day what the library says of each expectation, as text."""

    parts: list[list[str]]


@dataclass(frozen=True)
class LargeDay:
    """A day that is too large to be held in memory. It travels to the tasks.

    Args:
        suite: what is expected of its rows.
        types: the columns of the data set, in order, each with its type as a contract names it.
        size: how many rows it has.
    """

    day: date
    suite: Sequence[Expectation]
    types: Mapping[str, str]
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
        found = {position: gx.holds(self.suite[position]) for position in holding}
        if failing := {place: one for place, one in self._of_each_row.items() if place not in holding}:
            if files is not None:
                counted = self._counted_in_files(session, failing, *files)
            else:
                counted = self._counted(failing, of_day())
            found |= {
                position: gx.added_up(one, [part[place] for part in counted])
                for place, (position, one) in enumerate(failing.items())
            }
        rest = {position: one for position, one in enumerate(self.suite) if position not in found}
        if rest:
            found |= dict(zip(rest, self._by_spark(of_day(), list(rest.values())), strict=True))
        return [found[position] for position in range(len(self.suite))]

    @property
    def columns(self) -> list[str]:
        """The columns of the data set, in order."""
        return list(self.types)

    @property
    def _parts_of_hashes(self) -> int:
        """Into how many parts hashes are divided, so that each can be compared at once."""
        return max(1, -(-self.size // HASHES_AT_ONCE))

    @cached_property
    def _of_each_row(self) -> Mapping[int, Expectation]:
        """The expectations about each row by itself that hold if no row fails them, by their position."""
        return {position: one for position, one in enumerate(self.suite) if self._adds_up(one)}

    def _adds_up(self, one: Expectation) -> bool:
        """Whether an expectation is fulfilled just if no row fails it, each looked at by itself.

        A condition on rows may be one on all of them, such as that a value is above the mean.
        """
        is_of_text = self.types.get(str(one.kwargs.get("column"))) == "string"
        return (
            (one.type in _OF_EACH_ROW or (one.type in _OF_EACH_TEXT and is_of_text))
            and one.kwargs.get("mostly", 1) == 1
            and not one.kwargs.get("row_condition")
        )

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

    def _hashed(self, rows: pa.Table, failed: set[int]) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """The hashes of keys that differ among these rows, by the position of the expectation that they do.

        Those that repeat here needn't be compared with other parts: it joins the ``failed`` ones.
        """
        for position, names in self._unique.items():
            hashes = _hashes(rows, names)
            if position not in failed and _are_different(hashes):
                yield position, hashes
            else:
                failed.add(position)

    def _holding_in_files(self, session: Session, place: DayFiles, version: int) -> set[int]:
        """The positions of the expectations that surely hold, of a day that tasks read in parts."""
        day, columns = self.day, self.columns
        groups, piece_bytes = place.row_groups(version, day), buckets.PIECE_BYTES
        with BucketFiles.beside(place, self._parts_of_hashes) as files:

            def look(number: int) -> _Part:
                failed: set[int] = set()
                hashes: dict[int, list[NDArray[np.uint64]]] = {position: [] for position in self._unique}
                batches = place.read_row_group(version, day, groups[number], columns)
                for rows in buckets.pieces(batches, piece_bytes):
                    failed |= self._failed(rows)
                    for position, of_rows in self._hashed(rows, failed):
                        hashes[position].append(of_rows)
                return _Part(sorted(failed), [_scattered(files, known) for known in hashes.values()])

            parts = each_in_a_task(session, len(groups), look, _Part)
            failed = {position for part in parts for position in part.failed}
            failed |= {
                position
                for nth, position in enumerate(self._unique)
                if position not in failed
                and not all(map(_are_different, _gathered(files, _paths(parts, nth))))
            }
        return {*self._of_each_row, *self._unique} - failed

    def _holding(self, rows: DataFrame) -> set[int]:
        """The same of a day that Spark brings to the tasks."""
        piece_bytes = buckets.PIECE_BYTES
        count = np.uint64(self._parts_of_hashes)

        def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            failed: set[int] = set()
            for part in buckets.pieces(batches, piece_bytes):
                failed |= self._failed(part)
                for position, hashes in self._hashed(part, failed):
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
        return {*self._of_each_row, *self._unique} - failed

    def _count(self, suite: Sequence[Expectation], rows: pa.Table) -> list[str]:
        return gx.counted(suite, rows, self.key, self.sensitive)

    def _counted_in_files(
        self, session: Session, failing: Mapping[int, Expectation], place: DayFiles, version: int
    ) -> list[list[str]]:
        """What the library says of each part of the day, of each expectation that some row fails."""
        day, columns, suite = self.day, self.columns, list(failing.values())
        groups, piece_bytes = place.row_groups(version, day), buckets.PIECE_BYTES

        def count(number: int) -> _Counted:
            batches = place.read_row_group(version, day, groups[number], columns)
            return _Counted([self._count(suite, part) for part in buckets.pieces(batches, piece_bytes)])

        found = each_in_a_task(session, len(groups), count, _Counted)
        return [part for counted in found for part in counted.parts]

    def _counted(self, failing: Mapping[int, Expectation], rows: DataFrame) -> list[list[str]]:
        """The same of a day that Spark brings to the tasks."""
        suite, piece_bytes = list(failing.values()), buckets.PIECE_BYTES

        def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for part in buckets.pieces(batches, piece_bytes):
                yield pa.RecordBatch.from_pydict({"counted": [self._count(suite, part)]})
            spare_next_task()

        chosen = rows.select(*[column(name) for name in self.columns])
        return [row["counted"] for row in chosen.mapInArrow(count, "counted array<string>").collect()]

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
    values = [rows[name] for name in names]
    # To pandas a number that is none is no value.
    values = [
        pc.if_else(pc.is_nan(value), None, value) if pa.types.is_floating(value.type) else value
        for value in values
    ]
    hashes: NDArray[np.uint64] = hashes_of([_HASH], values)[0].view(np.uint64)
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
