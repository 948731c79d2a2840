"""A day in buckets: as many parts as fit in tasks, each with all records of the keys that are in it.

What is computed of a bucket is the same whether a day has one or a thousand. Where tasks may write files,
each scatters a piece of the day into a file that has a batch for each bucket, and then each gathers a bucket
from all the files, in the order of the pieces. Where only Spark may, it groups the records by bucket.

This is the one place that says what fits in a task, and what in the process that runs them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

from ml_platform.spark.tasks import Session, each_in_a_task
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.fingerprints import hashes_of
from ml_platform.storage.tables import column

#: Bytes that a Python function on serverless compute has.
FUNCTION_BYTES = 1_000_000_000
#: Bytes that libraries take of that: 110 MB, and Great Expectations 260 MB more where it was imported.
LIBRARY_BYTES = 370 << 20
#: Bytes that a task takes at most for a byte of CSV: 18 to 20.4 were measured, for 6 columns and for 66.
BYTES_A_BYTE = 22
#: How many times over what a task takes must fit: other values than were measured take other room.
MARGIN = 1.5
#: Bytes of CSV in a bucket, as many megabytes as fit by the above: 17.
BUCKET_BYTES = int((FUNCTION_BYTES - LIBRARY_BYTES) / (BYTES_A_BYTE * MARGIN)) >> 20 << 20
#: Bytes of a bucket as typed records, above which it is divided once more: a text of one character may take
#: eight bytes as a number, and what a packed file holds is a guess.
HELD_BYTES = 96 << 20
#: Bytes of CSV that a task scatters at once: typed, in the order of their buckets and as a file.
PIECE_BYTES = 16 << 20
#: Bytes that a value of a table stands for in a file of CSV.
VALUE_BYTES = 8
#: Bytes of a text in memory, of which most are shorter and some far longer.
TEXT_BYTES = 40
#: Bytes of rows up to which the process that plans and commits reads them itself, a piece at a time, rather
#: than have tasks read them: about as much as it reads in the second or two that a job of Spark takes.
PROCESS_BYTES = 400 << 20
#: Days up to which that process does what a task could hold, one after another. A step takes 15 to 20 ms a
#: day of a thousand rows, so together less than starting Spark and its workers, who do several at once.
DAYS_HERE = 64

Numbers = NDArray[np.uint64]

_SEED = "bucket"
_ROWS_AT_ONCE = 1 << 16


def number_of(csv_bytes: int) -> int:
    """How many buckets a day of so many bytes of CSV has."""
    return max(1, -(-csv_bytes // BUCKET_BYTES))


def csv_bytes(rows: int, columns: int) -> int:
    """About how many bytes of CSV some rows of a table would be."""
    return rows * columns * VALUE_BYTES


def fits_process(rows: int, schema: pa.Schema) -> bool:
    """Whether this process rather than Spark's tasks reads so many rows of a table, in these columns."""
    texts = sum(pa.types.is_string(field.type) for field in schema)
    return bool(csv_bytes(rows, len(schema) - texts) + rows * texts * TEXT_BYTES <= PROCESS_BYTES)


def one_task(days: Sequence[date], csv_bytes: int) -> bool:
    """Whether a single task could do some days that have so many bytes of CSV together, in little time.

    Then the process that plans and commits does them itself: to start Spark would take longer.
    """
    return len(days) <= DAYS_HERE and csv_bytes <= BUCKET_BYTES


def assigned(keys: Sequence[pa.Array | pa.ChunkedArray], rows: int) -> Numbers:
    """A number for each row that depends on its keys alone; it modulo the number of buckets is its bucket."""
    if not keys:
        return np.zeros(rows, dtype=np.uint64)
    found = np.empty(rows, dtype=np.uint64)
    for start in range(0, rows, _ROWS_AT_ONCE):
        (hashes,) = hashes_of([_SEED], [key.slice(start, _ROWS_AT_ONCE) for key in keys])
        found[start : start + _ROWS_AT_ONCE] = hashes.view(np.uint64)
    return found


def in_spark(keys: Sequence[str], count: int) -> Column:
    """The bucket of a row among ``count``, for Spark to group by; another one than :func:`assigned` gives."""
    if not keys:
        return F.lit(0)
    return F.pmod(F.xxhash64(F.lit(_SEED), *[column(name) for name in keys]), F.lit(count)).cast("int")


def divided(table: pa.Table, numbers: Numbers, count: int) -> Iterator[pa.RecordBatch]:
    """Records as their ``count`` buckets, in ascending order; within a bucket they stay in theirs.

    Args:
        numbers: what :func:`assigned` gives for each record.
    """
    chosen = (numbers % np.uint64(count)).astype(np.uint16 if count < 1 << 16 else np.int64)
    order = np.argsort(chosen, kind="stable")
    ends: list[int] = np.cumsum(np.bincount(chosen, minlength=count)).tolist()
    (ordered,) = table.take(pa.array(order)).combine_chunks().to_batches() or [_no_rows(table.schema)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield ordered.slice(start, end - start)


def pieces(batches: Iterable[pa.RecordBatch], piece_bytes: int) -> Iterator[pa.Table]:
    """Batches brought together to tables of about ``piece_bytes`` as they are in memory."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= piece_bytes:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


@dataclass(frozen=True)
class Scattered:
    """The files of a piece of a day, in order, and how many bytes each bucket has in them."""

    files: list[str]
    sizes: list[int]


@dataclass(frozen=True)
class Share:
    """One of ``parts`` that a bucket is divided into."""

    bucket: int
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class BucketFiles:
    """A folder that this process and all tasks reach, with records on their way into ``count`` buckets."""

    folder: str
    count: int

    @classmethod
    @contextmanager
    def beside(cls, table: DayFiles, count: int) -> Iterator[BucketFiles]:
        """A folder of this kind where the files of a table are; it is gone in the end."""
        with table.scratch() as folder:
            yield cls(str(folder), count)

    def scatter(self, tables: Iterable[tuple[pa.Table, Numbers]]) -> Scattered:
        """Write records as files, each with a batch for each bucket.

        Args:
            tables: some records in order, and what :func:`assigned` gives for each.
        """
        files, sizes = [], np.zeros(self.count, dtype=np.int64)
        for table, numbers in tables:
            path = str(Path(self.folder, f"{uuid.uuid4()}.arrow"))
            with pa.ipc.new_file(path, table.schema) as writer:
                for bucket, batch in enumerate(divided(table, numbers, self.count)):
                    sizes[bucket] += batch.nbytes
                    writer.write_batch(batch)
            files.append(path)
        return Scattered(files, sizes.tolist())

    def gather(self, files: Sequence[str], share: Share, keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The records of a bucket, or of a part of it, in the order of the files and within each."""
        for path in files:
            batch = pa.ipc.open_file(pa.memory_map(path)).get_batch(share.bucket)
            if share.parts > 1:
                numbers = assigned([batch.column(name) for name in keys], len(batch))
                part = numbers // np.uint64(self.count) % np.uint64(share.parts)
                batch = batch.filter(pa.array(part == np.uint64(share.part)))
            yield batch


def scatter_day(
    session: Session,
    files: BucketFiles,
    source: DayFiles,
    version: int,
    day: date,
    names: Sequence[str],
    keys: Sequence[str],
) -> list[Scattered]:
    """Have tasks bring the rows of a day of a table into buckets by some of their columns.

    Args:
        names: the columns to read, with the ``keys``.
    """
    row_groups, piece_bytes = source.row_groups(version, day), PIECE_BYTES

    def scatter(number: int) -> Scattered:
        batches = source.read_row_group(version, day, row_groups[number], names)
        tables = pieces(batches, piece_bytes)
        return files.scatter((rows, assigned([rows[key] for key in keys], len(rows))) for rows in tables)

    return each_in_a_task(session, len(row_groups), scatter, Scattered)


def shares(pieces_: Sequence[Scattered], at_most: int) -> list[Share]:
    """The buckets of a day that have any records; one with more than ``at_most`` bytes in parts."""
    found = []
    for bucket, size in enumerate(map(sum, zip(*[piece.sizes for piece in pieces_], strict=True))):
        # Parts of half the size, so that by chance none is too large again.
        parts = 1 if size <= at_most else -(-2 * size // at_most)
        found += [Share(bucket, part, parts) for part in range(parts) if size]
    return found


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)
