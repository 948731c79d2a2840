"""Parquet to records, a bounded number of values at a time.

Rows are read in batches within their row groups, and texts as dictionaries: what a few bytes of a file stand
for is known before it takes any room. What a value is under the contract is :mod:`.cells`' business.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml_platform.contract.product import Product
from ml_platform.contract.source import Source
from ml_platform.data_engineering import cells, files, headers, limits
from ml_platform.data_engineering.cells import TypedValues
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.exact_reader import CHANGED
from ml_platform.data_engineering.files import FileRules, RowGroups, UnreachableFile, UnreadableFile
from ml_platform.data_engineering.formats import Format
from ml_platform.data_engineering.typed_records import Place, Records

#: Bytes of a file that are read at once of a column.
_BUFFER_BYTES = 256 << 10
#: Bytes that a value takes in a CSV file, with its delimiter, if it is no text.
_VALUE_BYTES = 8
#: Encodings that Arrow reads as dictionaries.
_IN_DICTIONARIES = frozenset({"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"})
#: The encoding of texts in which a few bytes may stand for many, and what is read at once of such.
_EXPANDING, _EXPANDED_BYTES, _LEAST_ROWS = "DELTA_BYTE_ARRAY", 256 << 20, 64
#: Bytes of a file's beginning that say what it is.
_MARK = b"PAR1"
#: Characters of what Arrow says.
_LONGEST_TEXT = 300


@dataclass(frozen=True)
class Head:
    """What a file says of itself: the names of its columns, and about how many bytes of CSV it would be."""

    names: tuple[str, ...]
    likely_bytes: int


def head_of(path: str, rules: FileRules) -> Head:
    """What a file's footer says; the file is opened once, and no row of it is read.

    Raises:
        UnreadableFile: it is no Parquet file, or a damaged one.
        UnreachableFile: the machine doesn't give its content.
    """
    with _opened(path, rules) as (stream, _):
        metadata, schema = _footer(stream)
        groups = range(metadata.num_row_groups)
        return Head(tuple(schema.names), sum(_likely_bytes(metadata, group) for group in groups))


def read(file: DeliveryFile, product: Product) -> Iterator[Records]:
    """The records of a file, or of a part of it, in order.

    Raises:
        UnreadableFile: it can't be read to its end, or holds more than the rules allow.
        UnreachableFile: the machine doesn't give its content.
    """
    first = 0
    for batch in _batches(file, product):
        yield _records(batch, product.source, first)
        first += len(batch)


def locate(file: DeliveryFile, product: Product, wanted: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Number, row and content of the records of ascending numbers.

    Raises: as :func:`read` does.
    """
    first, numbers = 0, np.asarray(wanted, dtype=np.int64)
    for batch in _batches(file, product):
        inside = numbers[(numbers >= first) & (numbers < first + len(batch))]
        for number, place in zip(inside.tolist(), _places(batch, inside - first, first), strict=True):
            yield number, place.line, place.raw
        first += len(batch)


def parts(file: DeliveryFile, part_bytes: int) -> list[RowGroups]:
    """The row groups of a file, brought together to parts that would be about ``part_bytes`` of CSV.

    Raises: as :func:`head_of` does.
    """
    with _opened(file.path, file.rules) as (stream, _):
        metadata, _ = _footer(stream)
    ends, size = [0], 0
    for group in range(metadata.num_row_groups):
        size += _likely_bytes(metadata, group)
        if size >= part_bytes or group == metadata.num_row_groups - 1:
            ends.append(group + 1)
            size = 0
    rows = np.cumsum([0, *(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))])
    return [RowGroups(start, end, int(rows[start])) for start, end in pairwise(ends)]


# -- reading -----------------------------------------------------------------------------------------


def batches_of(path: str, rules: FileRules) -> Iterator[pa.RecordBatch]:
    """All columns of a file by their names in it. Raises as :func:`read` does."""
    with _opened(path, rules) as (stream, size):
        metadata, schema = _footer(stream)
        if len(set(schema.names)) < len(schema.names):
            raise UnreadableFile("two of its columns have the same name")
        bound = _Bound(size, rules)
        groups = range(metadata.num_row_groups)
        yield from _of_groups(
            stream, (metadata, schema), groups, {name: name for name in schema.names}, bound
        )


def _batches(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    """The declared columns of a file, or of a part of it, by their names in the contract."""
    declared = headers.resolve(product, file.header, file.day, Format.PARQUET).columns
    names = {name: given for name, given in zip(declared, file.header, strict=True) if name is not None}
    part = file.rules.part
    with _opened(file.path, file.rules) as (stream, size):
        metadata, schema = _footer(stream)
        if tuple(schema.names) != file.header:
            raise UnreadableFile(CHANGED)
        groups = range(metadata.num_row_groups)
        if isinstance(part, RowGroups):
            groups = range(part.start, part.end)
        yield from _of_groups(stream, (metadata, schema), groups, names, _Bound(size, file.rules))


def _of_groups(
    stream: _Stream,
    footer: tuple[Any, pa.Schema],
    groups: Sequence[int],
    names: Mapping[str, str],
    bound: _Bound,
) -> Iterator[pa.RecordBatch]:
    """Some columns of some row groups, without dictionaries.

    Args:
        names: those in the file, by those that they are given.
    """
    for group in groups:
        for batch in _of_group(stream, *footer, group, list(names.values())):
            chosen = {name: batch.column(given) for name, given in names.items()}
            for start, end in bound.pieces(chosen, len(batch)):
                yield pa.RecordBatch.from_arrays(
                    [cells.plain(column.slice(start, end - start)) for column in chosen.values()],
                    names=list(chosen),
                )


def _of_group(
    stream: _Stream, metadata: Any, schema: pa.Schema, group: int, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Some columns of a row group, texts as dictionaries wherever Arrow can."""
    otherwise = {
        chunk.path_in_schema
        for chunk in _chunks(metadata, group)
        if not _IN_DICTIONARIES.issuperset(chunk.encodings)
    }
    as_dictionary = [name for name in names if name not in otherwise and _is_bytes(schema.field(name).type)]
    with pq.ParquetFile(
        pa.PythonFile(stream, mode="r"),
        metadata=metadata,
        read_dictionary=as_dictionary,
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        coerce_int96_timestamp_unit="us",
    ) as parquet:
        yield from parquet.iter_batches(
            batch_size=_rows_at_once(metadata, group),
            row_groups=[group],
            columns=names,
            use_threads=False,
        )


def _records(batch: pa.RecordBatch, source: Source, first: int) -> Records:
    columns: dict[str, Any] = {}
    problems: dict[int, str] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        array = column
        if cells.is_bytes(array):
            for place in cells.not_text(array):
                problems.setdefault(place, f"invalid encoding: {name} is not utf-8")
            array = cells.readable(array)
        columns[name] = TypedValues(array, source.null_values)
    return Records(
        first,
        len(batch),
        columns,
        problems,
        places=lambda numbers: _places(batch, np.asarray(numbers, dtype=np.int64) - first, first),
    )


def _places(batch: pa.RecordBatch, chosen: np.ndarray[Any, Any], first: int) -> list[Place]:
    """Rows of a batch with their numbers in the file, from 1, and their values as JSON."""
    if not len(chosen):
        return []
    taken = batch.take(pa.array(chosen))
    texts = {
        name: cells.readable(column) if cells.is_bytes(column) else cells.as_text(column)
        for name, column in zip(batch.schema.names, taken.columns, strict=True)
    }
    found = []
    for row, number in enumerate(chosen.tolist()):
        values = {name: text[row].as_py() for name, text in texts.items()}
        found.append(Place(first + number + 1, json.dumps(values, ensure_ascii=False)))
    return found


class _Bound:
    """Counts what a file has given, in bytes as of CSV, and cuts what would be too much at once."""

    def __init__(self, size: int, rules: FileRules) -> None:
        self._given = 0
        self._line = rules.line_characters
        self._bound, self._what = rules.file_bytes, f"holds more than {rules.file_bytes:,} bytes"
        self._setting = "ML_PLATFORM_DELIVERY_FILE_BYTES"
        if (tightest := max(size * rules.unpacking, files.HARMLESS_BYTES)) < self._bound:
            self._bound = tightest
            self._what = f"holds more than {rules.unpacking} times its size, {tightest:,} bytes"
            self._setting = "ML_PLATFORM_DELIVERY_UNPACKING"

    def pieces(self, columns: Mapping[str, pa.Array], rows: int) -> Iterator[tuple[int, int]]:
        """The rows of a batch, in order, as many at once as may be in memory as texts.

        Raises:
            UnreadableFile: they are more than a record or a file may have.
        """
        lengths = np.full(rows, _VALUE_BYTES * len(columns), dtype=np.int64)
        for column in columns.values():
            if pa.types.is_dictionary(column.type) and _is_bytes(column.type.value_type) and rows:
                of_values = pc.binary_length(column.dictionary.cast(pa.large_binary()))
                lengths += pc.fill_null(of_values.take(column.indices), 0).to_numpy(zero_copy_only=False)
        if rows and int(lengths.max()) > self._line:
            raise UnreadableFile(
                f"has a record of more than {self._line:,} characters; if that is right, raise "
                "ML_PLATFORM_DELIVERY_LINE_CHARACTERS"
            )
        ends = np.cumsum(lengths)
        self._given += int(ends[-1]) if rows else 0
        if self._given > self._bound:
            raise UnreadableFile(f"{self._what}; if that is right, raise {self._setting}")
        start = 0
        while start < rows:
            before = int(ends[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + limits.BLOCK_BYTES, side="right")))
            yield start, end
            start = end


def _rows_at_once(metadata: Any, group: int) -> int:
    """How many rows of a row group are read at once: what lies there of them would be a block of CSV."""
    rows = max(1, metadata.row_group(group).num_rows)
    a_row = max(1, _likely_bytes(metadata, group) // rows)
    found = min(limits.BATCH_RECORDS, limits.BLOCK_BYTES // a_row)
    expanding = [
        chunk.total_uncompressed_size for chunk in _chunks(metadata, group) if _EXPANDING in chunk.encodings
    ]
    if expanding:
        # Each text may be as long as all of the chunk.
        found = min(found, max(_LEAST_ROWS, _EXPANDED_BYTES // max(1, *expanding, 1)))
    return int(max(1, found))


def _chunks(metadata: Any, group: int) -> Iterator[Any]:
    found = metadata.row_group(group)
    return (found.column(number) for number in range(found.num_columns))


def _likely_bytes(metadata: Any, group: int) -> int:
    """About how many bytes of CSV a row group would be; how long texts are that repeat isn't known."""
    least = metadata.row_group(group).num_rows * _VALUE_BYTES
    return sum(
        max(least, chunk.total_uncompressed_size) if chunk.physical_type == "BYTE_ARRAY" else least
        for chunk in _chunks(metadata, group)
    )


def _is_bytes(type_: pa.DataType) -> bool:
    """Whether values are texts or bytes of any length, in dictionaries or not."""
    if pa.types.is_dictionary(type_):
        return _is_bytes(type_.value_type)
    return cells.is_text_type(type_) or (
        cells.is_bytes_type(type_) and not pa.types.is_fixed_size_binary(type_)
    )


# -- opening -----------------------------------------------------------------------------------------


class _Stream(io.RawIOBase):
    """A file for Arrow, which remembers why it could not be read: not all errors come back as they were."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes, or what is left of the file; a raw file may give fewer at once."""
        left = self._size - self._file.tell()
        wanted = left if size < 0 else max(0, min(size, left))
        try:
            found = self._file.read(wanted)
            while len(found) < wanted and (more := self._file.read(wanted - len(found))):
                found += more
        except Exception as error:
            self.error = error
            raise
        return found


@contextlib.contextmanager
def _opened(path: str, rules: FileRules) -> Iterator[tuple[_Stream, int]]:
    """An open file and its size; what Arrow says of it in words."""
    stream: _Stream | None = None
    try:
        file, size = files.open_file(path, rules)
        with file:
            stream = _Stream(file, size)
            if not size:
                raise UnreadableFile("the file is empty; expected is a Parquet file")
            if stream.read(len(_MARK)) != _MARK:
                raise UnreadableFile(f"is no Parquet file: it doesn't begin with {_MARK.decode()}")
            yield stream, size
    except UnreadableFile:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        cause = stream.error if stream is not None and stream.error is not None else error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise UnreachableFile(f"can't be read: {cause.strerror or cause}") from error
        if cause is not error:
            raise cause from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_TEXT]
        raise UnreadableFile(
            f"can't be read to its end, as a Parquet file that is damaged or was cut off: {first}"
        ) from error


def _footer(stream: _Stream) -> tuple[Any, pa.Schema]:
    stream.seek(0)
    with pq.ParquetFile(pa.PythonFile(stream, mode="r"), pre_buffer=False) as parquet:
        return parquet.metadata, parquet.schema_arrow
