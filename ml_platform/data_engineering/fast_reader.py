"""CSV by Arrow's streaming reader, as far as it reads what the exact tokenizer would."""

from __future__ import annotations

import codecs
import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ml_platform.contract.product import Product
from ml_platform.data_engineering import files, headers, limits
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.exact_reader import (
    LONGEST_MARK,
    encoding_of,
    errors_of,
    has_trailing_delimiters,
    wrong_width,
)
from ml_platform.data_engineering.quoting import BlockGuard, NotAsPlain
from ml_platform.data_engineering.record_lines import RecordLines
from ml_platform.data_engineering.typed_records import Records


def read_fast(file: DeliveryFile, product: Product) -> Generator[Records, None, None]:
    """The records of a file as strings, block by block.

    Raises:
        pa.ArrowInvalid: the exact tokenizer would, or might, see other records than Arrow does. None of
            the blocks before have such a record.
    """
    source, names = product.source, headers.resolve(product, file.header, file.day).columns
    if not source.delimiter.isascii():
        raise pa.ArrowInvalid("Arrow knows only delimiters of one byte")
    is_trailing = source.trailing_delimiter and has_trailing_delimiters(file, source)
    plain = files.open_bytes(file.path, file.rules)
    guard = BlockGuard(source, trailing_delimiter=is_trailing)
    head = plain.read(LONGEST_MARK)
    encoding = encoding_of(head, source)
    if encoding == "utf-8-sig":
        stream = _StreamForArrow(plain, guard, head.removeprefix(codecs.BOM_UTF8))
    elif encoding == "utf-8":
        stream = _StreamForArrow(plain, guard, head)
    else:
        stream = _StreamForArrow(_Recoded(plain, head, encoding), guard, b"")
    misfits: deque[_Misfit] = deque()

    longest_misfit = 0
    may_fit = False

    def set_aside(row: Any) -> str:
        nonlocal longest_misfit, may_fit
        text = (row.text or "").rstrip("\r\n")
        longest_misfit = max(longest_misfit, len(text) + len(source.delimiter))
        is_one_more = row.actual_columns == len(names) + 1 and text.endswith(source.delimiter)
        may_fit = may_fit or (is_one_more and source.trailing_delimiter and not is_trailing)
        # Arrow counts the header, and from 1.
        problem = wrong_width(row.actual_columns, len(names), source, is_one_more=is_one_more)
        misfits.append(_Misfit(row.number - 2, problem))
        return "skip"

    with (
        plain,
        contextlib.closing(RecordLines(file, source)) as lines,
        _arrow_reader(
            stream,
            arrow_csv.ParseOptions(
                delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=set_aside
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(file.header, pa.string()),
                null_values=list(source.null_values),
                strings_can_be_null=True,
                check_utf8=False,  # it has been
            ),
        ) as reader,
    ):
        if tuple(reader.schema.names) != file.header:
            raise pa.ArrowInvalid("the header is not the one that was read before")

        def block(batch: pa.RecordBatch) -> Records:
            records = _with_misfits(batch, names, first, misfits)
            return replace(records, places=None if guard.bare else lines.find)

        # Arrow closes an open quote at the end of the file by itself, so the last block waits for it.
        first, waiting = 0, None
        for batch in reader:
            stream.check()
            if max(_longest_line(batch), longest_misfit) > file.rules.line_characters:
                raise pa.ArrowInvalid("a line may be longer than it may be")
            if may_fit:
                raise pa.ArrowInvalid("a record is a good one without the delimiter at its end")
            if guard.quoted and _has_endless_record(batch):
                raise pa.ArrowInvalid("a record goes on for too long")
            if waiting is not None:
                yield waiting
            waiting = block(batch)
            first += waiting.count
        stream.check()
        if waiting is not None:
            if guard.open:
                raise pa.ArrowInvalid("a quote may be open at the end of the file")
            yield waiting
        if may_fit:
            raise pa.ArrowInvalid("a record is a good one without the delimiter at its end")
        if misfits:
            yield block(pa.RecordBatch.from_pylist([], schema=reader.schema))


#: Arrow's thread may still be leaving a reader that has given its last batch. If it is the last to let go of
#: it, it waits for itself for ever; so the last readers of this process are kept until others come.
_RETIRED: deque[Any] = deque(maxlen=2)


@contextlib.contextmanager
def _arrow_reader(stream: _StreamForArrow, parsing: Any, converting: Any) -> Iterator[Any]:
    """Arrow's reader of a stream, which reads ahead in a thread of its own.

    Nothing is raised in that thread, nor while the reader is made: it would be gone before its thread.
    """
    stream.begin(limits.BLOCK_BYTES)
    reader = arrow_csv.open_csv(
        pa.PythonFile(stream, mode="r"),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=limits.BLOCK_BYTES),
        parse_options=parsing,
        convert_options=converting,
    )
    try:
        yield reader
    finally:
        stream.end()
        with contextlib.suppress(pa.ArrowInvalid):
            for _ in reader:  # what has been read ahead takes memory
                pass
        _RETIRED.append(reader)


@dataclass(frozen=True)
class _Misfit:
    """A record with another number of fields than the header."""

    number: int
    problem: str


def _with_misfits(
    batch: pa.RecordBatch, names: Sequence[str | None], first: int, misfits: deque[_Misfit]
) -> Records:
    """The records from number ``first`` on: those of the batch, and the misfits between them.

    Args:
        names: of the batch's columns; one without a name isn't read.
    """
    columns = {name: column for name, column in zip(names, batch.columns, strict=True) if name is not None}
    taken: list[_Misfit] = []
    while misfits and misfits[0].number <= first + len(batch) + len(taken) - bool(len(batch)):
        taken.append(misfits.popleft())
    count = len(batch) + len(taken)
    if not taken:
        return Records(first, count, columns)
    missing = np.zeros(count, dtype=bool)
    missing[[misfit.number - first for misfit in taken]] = True
    places = pa.array(np.cumsum(~missing) - 1, mask=missing)
    return Records(
        first,
        count,
        {name: column.take(places) for name, column in columns.items()},
        {misfit.number - first: misfit.problem for misfit in taken},
    )


class _StreamForArrow:
    r"""A stream of bytes, cut and ended so that Arrow reads quoted line breaks as they are.

    Each block ends with a line break, as :class:`BlockGuard` needs it. None but the last ends in ``\r`` that
    a ``\n`` follows: Arrow drops a ``\n`` at the head of the block after it, even inside quotes.
    """

    closed = False

    def __init__(self, stream: Any, guard: BlockGuard, head: bytes) -> None:
        self._stream = stream
        self._guard = guard
        self._held = head
        self._first: bytes | None = None
        self._ended = False
        self._error: Exception | None = None

    def begin(self, size: int) -> None:
        """Read the first block, in the caller's thread.

        Raises:
            pa.ArrowInvalid: Arrow would, or might, read it otherwise than the exact tokenizer.
        """
        self._first = self._read(size)
        if not self._first:
            raise pa.ArrowInvalid("there is nothing to read")

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end, or where :meth:`check` says that there can be no more."""
        first, self._first = self._first, None
        if first is not None:
            return first
        if not self._ended:
            try:
                return self._read(size)
            except Exception as error:
                self._error, self._ended = error, True
        return b""

    def check(self) -> None:
        """Raise what :meth:`read` has met.

        Raises:
            pa.ArrowInvalid: Arrow would, or might, read the bytes otherwise than the exact tokenizer.
        """
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback would keep all of this, which only the garbage collector ends

    def end(self) -> None:
        """Give no more bytes."""
        self._ended = True

    def _read(self, size: int) -> bytes:
        held, self._held = self._held, b""
        while len(held) < size:
            more = self._stream.read(size - len(held))
            if not more:
                is_ended = held.endswith((b"\r", b"\n")) or not held
                return self._plain(held if is_ended else held + b"\n")
            if end := more.rfind(b"\n") + 1:
                self._held = more[end:]
                return self._plain(b"".join((held, memoryview(more)[:end])) if held or self._held else more)
            held += more
            if end := held.rfind(b"\r", 0, -1) + 1:
                self._held = held[end:]
                return self._plain(held[:end])
        raise pa.ArrowInvalid("a line is too long for a block")

    def _plain(self, block: bytes) -> bytes:
        if b"\0" in block:
            # Arrow looks for delimiters and quotes eight bytes at once, and in those only up to a NUL.
            raise pa.ArrowInvalid("only the exact tokenizer tells fields apart behind a NUL")
        if not block.isascii():
            # Arrow finds it too, but not in a record that it sets aside.
            _require_text(block)
        try:
            return self._guard.plain(block)
        except NotAsPlain:
            raise pa.ArrowInvalid("only the exact tokenizer knows what its quotes mean") from None

    def close(self) -> None:
        self.closed = True


def _require_text(block: bytes) -> None:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(str(error)) from error


class _Recoded:
    """A stream of bytes in some encoding as one of UTF-8; what is no text there is none here either."""

    def __init__(self, stream: Any, head: bytes, encoding: str) -> None:
        self._stream = stream
        self._head = head
        self._errors = errors_of(encoding)
        self._decoder = codecs.getincrementaldecoder(encoding)(self._errors)
        self._ready = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ready and not self._ended:
            raw = self._head + self._stream.read(max(size // 4, 1))
            self._head, self._ended = b"", not raw
            try:
                self._ready = self._decoder.decode(raw, self._ended).encode("utf-8", self._errors)
            except UnicodeError as error:
                raise pa.ArrowInvalid(str(error)) from error
        found, self._ready = self._ready[:size], self._ready[size:]
        return found


def _longest_line(batch: pa.RecordBatch) -> int:
    """No record of the batch has a longer line: every character may be a quote, and every value be quoted."""
    values = sum(pc.max(pc.binary_length(column)).as_py() or 0 for column in batch.columns)
    return 2 * int(values) + 3 * int(batch.num_columns)


def _has_endless_record(batch: pa.RecordBatch) -> bool:
    """Whether a record may be too long for the exact tokenizer, which counts quotes and delimiters too."""
    lengths = [pc.fill_null(pc.binary_length(column), 0) for column in batch.columns]
    shortest = min(limits.RECORD_LINES, limits.RECORD_CHARACTERS // 4)
    if sum(pc.max(length).as_py() or 0 for length in lengths) < shortest:
        return False
    breaks = [
        pc.fill_null(pc.add(pc.count_substring(column, "\n"), pc.count_substring(column, "\r")), 0)
        for column in batch.columns
    ]
    total_breaks, total_length = reduce(pc.add, breaks), reduce(pc.add, lengths)
    long = pc.or_(
        pc.greater_equal(total_breaks, limits.RECORD_LINES),
        pc.greater(total_length, limits.RECORD_CHARACTERS // 4),
    )
    return bool(pc.any(pc.and_(long, pc.greater(total_breaks, 0))).as_py())
