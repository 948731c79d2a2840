"""CSV files to typed records, each record that can't be used with its line and raw text.

A file is read by Arrow's streaming reader, and a bad record found in it by counting lines and quotes. Where
quotes don't stand as :mod:`.quoting` needs them the file is read by an exact tokenizer from there on. Both
give strings to the same conversion, so that a value is accepted by both or by neither. What a day's records
add up to is :mod:`.ards`'s business.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import itertools
import re
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ml_platform.contract.product import Product
from ml_platform.contract.source import BACKSLASH, LABEL_KNOWN_ON, QUOTE, Column, Source
from ml_platform.data_engineering import conversion, files, headers, line_ends
from ml_platform.data_engineering.conversion import ARROW_TYPES, positions
from ml_platform.data_engineering.files import FileRules, Part, UnreachableFile, UnreadableFile
from ml_platform.data_engineering.line_ends import Record
from ml_platform.data_engineering.quoting import AMBIGUOUS, BlockGuard, Grammar, NotAsPlain, QuoteCounter

BLOCK_BYTES = 8 << 20
BATCH_RECORDS = 50_000

#: A record that goes on to further lines for longer has a quote that was never closed.
RECORD_LINES = 1000
RECORD_CHARACTERS = 1 << 20

#: Bytes of a file up to which its lines are looked for in memory, all at once.
_IN_MEMORY_BYTES = 32 << 20

#: Different texts of a column and block for which a key is looked for that would accept them; it takes time.
HINTED_TEXTS = 1000
INVALID_ENCODING = "invalid encoding"
_CHANGED = "the file changed while it was read"

#: Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST_MARK = 4
_SHOWN = 100


@dataclass(frozen=True)
class DeliveryFile:
    """One file of a day's delivery; ``number`` is its place in file-name order.

    ``header`` has the names as they stand in the file; :func:`.headers.resolve` says what they mean.
    ``size`` is in bytes, as it lies there, and ``likely_bytes`` what that probably is unpacked.
    """

    day: date
    path: str
    name: str
    number: int
    labels_only: bool
    header: tuple[str, ...]
    known_on: date
    size: int = 0
    likely_bytes: int = 0
    rules: FileRules = field(default_factory=FileRules)
    replaced: bool = False  # a later file of the day has come to replace what was delivered before it


def parsed_schema(product: Product) -> pa.Schema:
    """The schema of :func:`parse_file`, the same for every file of a product.

    ``_kind`` is ``row``, ``label``, ``pending`` (in a label file, without a label yet), ``bad`` (with
    ``_line``, ``_raw`` and ``_reason``), ``unreadable``, or ``unreachable`` where that is no fault of the
    file's content;
    ``_record`` counts the records of a file from 0, blank lines not counted; where a file is read in parts,
    those of a part come after those of the parts before it.
    """
    columns = [(name, ARROW_TYPES[declared.type]) for name, declared in product.source.columns.items()]
    return pa.schema(
        [
            ("_day", pa.date32()),
            ("_file", pa.string()),
            ("_file_number", pa.int32()),
            ("_record", pa.int64()),
            ("_kind", pa.string()),
            *columns,
            (LABEL_KNOWN_ON, pa.date32()),
            ("_line", pa.int64()),
            ("_raw", pa.string()),
            ("_reason", pa.string()),
        ]
    )


def parse_file(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    """Every record of a file, in order, typed.

    A file that can't be read to its end ends with one record of the kind ``unreadable`` or
    ``unreachable``; the records before it are then to be discarded.
    """
    try:
        for batch in _read(file, product):
            yield _placed(batch, file.rules.part)
    except UnreadableFile as error:
        yield _unreadable(file, product, error)


def _placed(batch: pa.RecordBatch, part: Part | None) -> pa.RecordBatch:
    """Records with their lines, and numbers in order, in the file that they are a part of."""
    if part is None or not part.lines:
        return batch
    for name in ("_record", "_line"):
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(at), pc.add(batch.column(at), part.lines))
    return batch


def _read(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        with contextlib.closing(_read_fast(file, product)) as blocks:
            for records in blocks:
                batch = _convert(file, product, records)
                if batch is None:
                    break
                yield batch
                done += records.count
            else:
                return
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, UnicodeError):
        pass  # whatever it is, the exact tokenizer can say where it is
    yield from _parse_exactly(file, product, done)


def read_header(path: str, source: Source, rules: FileRules | None = None) -> tuple[str, ...]:
    """The column names in a file's first record.

    Raises:
        UnreadableFile: the file is empty, damaged, not UTF-8, or not to be opened.
        UnreachableFile: the machine doesn't give its content.
    """
    for record in tokenize(path, source, rules or FileRules()):
        if record.problem:
            raise UnreadableFile(f"the header can't be read: {_explained(record, source)}")
        return tuple(record.fields)
    raise UnreadableFile("the file is empty; expected is a header with the names of the columns")


def locate(file: DeliveryFile, product: Product, records: set[int]) -> Iterator[tuple[int, int, str]]:
    """Number, line and raw text of the chosen records of a file.

    Raises:
        UnreadableFile: the file can't be read any more, or has changed.
    """
    try:
        before = file.rules.part.lines if file.rules.part else 0
        found = [
            (number + before, line + before, raw)
            for number, line, raw in _locate(file, product, {number - before for number in records})
        ]
    except UnreadableFile as error:
        raise type(error)(f"{file.name}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UnreachableFile(f"{file.name}: can't be read: {error}") from error
    except pa.ArrowInvalid as error:
        raise UnreadableFile(f"{file.name}: {_CHANGED}") from error
    if len(found) < len(records):
        raise UnreadableFile(f"{file.name}: {_CHANGED}")
    yield from found


def _locate(file: DeliveryFile, product: Product, records: set[int]) -> Iterator[tuple[int, int, str]]:
    wanted = sorted(records)
    if _has_quotes(file, product.source):
        for number, record in enumerate(tokenize(file.path, product.source, file.rules), start=-1):
            if number in records:
                yield number, record.line, _readable(record.raw)
        return
    with contextlib.closing(_RecordLines(file, product.source)) as lines:
        for number, place in zip(wanted, lines.find(wanted), strict=True):
            yield number, place.line, place.raw


def _has_quotes(file: DeliveryFile, source: Source) -> bool:
    with _open(file.path, source, file.rules) as text:
        return any(QUOTE in block for block in iter(lambda: text.read(BLOCK_BYTES), ""))


# -- reading fast ------------------------------------------------------------------------------------


def _read_fast(file: DeliveryFile, product: Product) -> Generator[_Records, None, None]:
    """The records of a file as strings, block by block.

    Raises:
        pa.ArrowInvalid: the exact tokenizer would, or might, see other records than Arrow does. None of
            the blocks before have such a record.
    """
    source, names = product.source, headers.resolve(product, file.header, file.day).columns
    if not source.delimiter.isascii():
        raise pa.ArrowInvalid("Arrow knows only delimiters of one byte")
    is_trailing = source.trailing_delimiter and _has_trailing_delimiters(file, source)
    plain = files.open_bytes(file.path, file.rules)
    guard = BlockGuard(source, trailing_delimiter=is_trailing)
    head = plain.read(_LONGEST_MARK)
    encoding = _encoding_of(head, source)
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
        problem = _wrong_width(row.actual_columns, len(names), source, is_one_more=is_one_more)
        misfits.append(_Misfit(row.number - 2, problem))
        return "skip"

    with (
        plain,
        contextlib.closing(_RecordLines(file, source)) as lines,
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

        def block(batch: pa.RecordBatch) -> _Records:
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
    stream.begin(BLOCK_BYTES)
    reader = arrow_csv.open_csv(
        pa.PythonFile(stream, mode="r"),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
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
) -> _Records:
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
        return _Records(first, count, columns)
    missing = np.zeros(count, dtype=bool)
    missing[[one.number - first for one in taken]] = True
    places = pa.array(np.cumsum(~missing) - 1, mask=missing)
    return _Records(
        first,
        count,
        {name: column.take(places) for name, column in columns.items()},
        {one.number - first: one.problem for one in taken},
    )


def _wrong_width(given: int, expected: int, source: Source, *, is_one_more: bool) -> str:
    """The problem of a record of another number of fields; of one more that is empty, if ``is_one_more``."""
    problem = f"wrong number of fields: {given}, expected {expected}"
    if is_one_more and not source.trailing_delimiter:
        return f"{problem} (`trailing_delimiter: true` would accept it)"
    if source.trailing_delimiter and given == expected - 1:
        return (
            f"{problem} (with `trailing_delimiter: true` no field follows a delimiter at the end of a line)"
        )
    return problem


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
        self._errors = _errors_of(encoding)
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


class _PlainLines:
    """The lines of a small file without any quote, in UTF-8: each is a record, but for blank ones."""

    def __init__(self, content: bytes, encoding: str) -> None:
        text = content.removeprefix(codecs.BOM_UTF8) if encoding == "utf-8-sig" else content
        self._content = text
        codes = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(codes == ord("\n")) + 1
        self._ends = ends if text.endswith(b"\n") or not text else np.append(ends, len(text))
        self._starts = np.concatenate([[0], self._ends[:-1]]).astype(np.intp)[: len(self._ends)]
        lengths = self._ends - self._starts
        is_blank = lengths == 1
        two = np.flatnonzero(lengths == 2)
        is_blank[two] = codes[self._starts[two]] == ord("\r")
        # The file may end without a line break, in one character.
        is_blank[-1:] &= text.endswith(b"\n")
        self._lines = np.flatnonzero(~is_blank)
        self.longest = int(lengths.max(initial=0))

    @classmethod
    def of(cls, file: DeliveryFile, source: Source) -> _PlainLines | None:
        """Those of a file, if it is one whose lines are found like that."""
        if file.likely_bytes > _IN_MEMORY_BYTES and file.rules.part is None:
            return None
        with files.open_bytes(file.path, file.rules) as stream:
            content = b"" if stream.packed else stream.read()
        encoding = _encoding_of(content[:_LONGEST_MARK], source)
        breaks_alone = content.count(b"\r") != content.count(b"\r\n")
        if encoding not in ("utf-8", "utf-8-sig") or QUOTE.encode() in content or breaks_alone or not content:
            return None
        lines = cls(content, encoding)
        return lines if lines.longest <= min(file.rules.line_characters, RECORD_CHARACTERS) else None

    def find(self, numbers: Sequence[int]) -> list[_Place]:
        """Where the records of these numbers stand; the header is that before number 0.

        Raises:
            pa.ArrowInvalid: there are not so many.
        """
        if numbers and max(numbers) + 1 >= len(self._lines):
            raise pa.ArrowInvalid("only the exact tokenizer knows where its records end")
        found = []
        for line in self._lines[np.asarray(numbers, dtype=np.intp) + 1].tolist():
            raw = self._content[self._starts[line] : self._ends[line]].decode("utf-8", "surrogateescape")
            found.append(_Place(line + 1, _without_end(raw)))
        return found


class _RecordLines:
    """The lines of a file in which every quote opens or closes: they tell where its records stand."""

    def __init__(self, file: DeliveryFile, source: Source) -> None:
        self._file = file
        self._source = source
        self._quotes = QuoteCounter(source)
        self._records: Iterator[_Place] | None = None
        self._text: io.TextIOWrapper | None = None
        self._next = -1  # the header
        self._plain: _PlainLines | None = None
        self._looked = False

    def find(self, numbers: Sequence[int]) -> list[_Place]:
        """Where the records of these numbers stand; they ascend, from one call to the next too.

        Raises:
            pa.ArrowInvalid: one of them is longer than a record can be.
        """
        if not self._looked:
            self._looked, self._plain = True, _PlainLines.of(self._file, self._source)
        if self._plain is not None:
            return self._plain.find(numbers)
        if self._records is None:
            self._records = self._read()
        found = []
        for number in numbers:
            skipped = number - self._next
            place = next(itertools.islice(self._records, skipped, None), None)
            if place is None or not _is_possible(place.raw):
                raise pa.ArrowInvalid("only the exact tokenizer knows where its records end")
            found.append(_Place(place.line, _without_end(place.raw)))
            self._next = number + 1
        return found

    def _read(self) -> Iterator[_Place]:
        """The records, with the line breaks at their ends; a blank line is none."""
        self._text = _open(self._file.path, self._source, self._file.rules)
        first, taken = 0, ""
        for number, line in enumerate(files.text_lines(self._text, self._file.rules), start=1):
            if taken:
                taken += line
                if len(taken) > RECORD_CHARACTERS and not _is_possible(taken):
                    raise pa.ArrowInvalid("a record goes on for too long")
            elif line in ("\n", "\r\n", "\r"):
                continue
            else:
                first, taken, is_open = number, line, False
            is_open ^= self._quotes.toggles(line)
            if not is_open:
                yield _Place(first, taken)
                taken = ""

    def close(self) -> None:
        if self._text is not None:
            self._text.close()


def _is_possible(raw: str) -> bool:
    """Whether a record can be that long."""
    lines = raw.count("\n") + raw.count("\r")
    return lines < RECORD_LINES and (lines < 2 or len(raw) < RECORD_CHARACTERS)


def _longest_line(batch: pa.RecordBatch) -> int:
    """No record of the batch has a longer line: every character may be a quote, and every value be quoted."""
    values = sum(pc.max(pc.binary_length(column)).as_py() or 0 for column in batch.columns)
    return 2 * int(values) + 3 * int(batch.num_columns)


def _has_endless_record(batch: pa.RecordBatch) -> bool:
    """Whether a record may be too long for the exact tokenizer, which counts quotes and delimiters too."""
    lengths = [pc.fill_null(pc.binary_length(column), 0) for column in batch.columns]
    shortest = min(RECORD_LINES, RECORD_CHARACTERS // 4)
    if sum(pc.max(length).as_py() or 0 for length in lengths) < shortest:
        return False
    breaks = [
        pc.fill_null(pc.add(pc.count_substring(column, "\n"), pc.count_substring(column, "\r")), 0)
        for column in batch.columns
    ]
    total_breaks, total_length = reduce(pc.add, breaks), reduce(pc.add, lengths)
    long = pc.or_(
        pc.greater_equal(total_breaks, RECORD_LINES), pc.greater(total_length, RECORD_CHARACTERS // 4)
    )
    return bool(pc.any(pc.and_(long, pc.greater(total_breaks, 0))).as_py())


# -- reading exactly ---------------------------------------------------------------------------------


def _parse_exactly(file: DeliveryFile, product: Product, skip: int) -> Iterator[pa.RecordBatch]:
    """The records from number ``skip`` on, with line and raw text for those that can't be used."""
    source, names = product.source, headers.resolve(product, file.header, file.day).columns
    nulls = set(source.null_values)
    records: list[Record] = []

    def batch(first: int) -> pa.RecordBatch:
        width = len(file.header)
        problems = {}
        for n, record in enumerate(records):
            problem = record.problem
            if problem is None and len(record.fields) != width:
                problem = _wrong_width(
                    len(record.fields),
                    width,
                    source,
                    is_one_more=len(record.fields) == width + 1 and record.ends_with(source.delimiter),
                )
            elif problem is not None:
                problem = _explained(record, source)
            if problem is not None:
                problems[n] = problem
        columns = {
            name: pa.array(
                [
                    None if n in problems or record.fields[place] in nulls else record.fields[place]
                    for n, record in enumerate(records)
                ],
                pa.string(),
            )
            for place, name in enumerate(names)
            if name is not None
        }
        places = [_Place(record.line, _readable(record.raw)) for record in records]
        converted = _convert(
            file,
            product,
            _Records(
                first,
                len(records),
                columns,
                problems,
                places=lambda numbers: [places[number - first] for number in numbers],
            ),
        )
        assert converted is not None, "records that are known by line can all be reported"
        return converted

    first = skip
    tokens = tokenize(file.path, source, file.rules)
    if tuple(next(tokens, Record(1, "", [], None)).fields) != file.header:
        raise UnreadableFile(_CHANGED)
    size = 0
    for number, record in enumerate(tokens):
        if number < skip:
            continue
        records.append(record)
        size += len(record.raw)
        if len(records) == BATCH_RECORDS or size >= BLOCK_BYTES:
            yield batch(first)
            first += len(records)
            size = 0
            records.clear()
    if records:
        yield batch(first)


def tokenize(path: str, source: Source, rules: FileRules) -> Iterator[Record]:
    """Every record with its first line's number, the header being the record at line 1.

    Blank lines are no records. Where it can't be known where a record ends, its first line is a bad record.
    A field that only seems to begin at the end of a line, as :mod:`.line_ends` knows, is none.

    Raises:
        UnreadableFile: it can't be read to its end.
    """
    records = _records_of(path, source, rules)
    return line_ends.without_trailing(records, source) if source.trailing_delimiter else records


def _has_trailing_delimiters(file: DeliveryFile, source: Source) -> bool:
    with contextlib.closing(_records_of(file.path, source, file.rules)) as records:
        return line_ends.ends_lines(line_ends.sample(records), source)


def _records_of(path: str, source: Source, rules: FileRules) -> Generator[Record, None, None]:
    grammar = Grammar.of(source, maximum_lines=RECORD_LINES, maximum_characters=RECORD_CHARACTERS)
    width: int | None = None
    try:
        with _open(path, source, rules) as text:
            lines = _Lines(text, rules)
            while (record := _next_record(lines, grammar, width)) is not None:
                if record.raw:
                    if width is None:
                        ends = source.trailing_delimiter and record.ends_with(source.delimiter)
                        width = len(record.fields) - ends
                    yield record
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeError) as error:
        raise UnreadableFile(f"can't be read to its end: {error}") from error
    except OSError as error:
        raise UnreachableFile(f"can't be read: {error.strerror or error}") from error


def _open(path: str, source: Source, rules: FileRules) -> io.TextIOWrapper:
    """The file as text; bytes that are none become surrogates."""
    buffered = files.buffered(files.open_bytes(path, rules))
    encoding = _encoding_of(buffered.peek(_LONGEST_MARK), source)
    return io.TextIOWrapper(buffered, encoding=encoding, errors=_errors_of(encoding), newline="")


def _encoding_of(head: bytes, source: Source) -> str:
    """What a file's byte order mark says, or else the contract; without either the low byte comes first."""
    order = "-le" if source.encoding in ("utf-16", "utf-32") else ""
    return next((name for mark, name in _MARKS if head.startswith(mark)), source.encoding + order)


def _errors_of(encoding: str) -> str:
    return "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"


@dataclass
class _Lines:
    """Physical lines, of which some can be put back."""

    text: io.TextIOWrapper
    rules: FileRules
    number: int = 0
    returned: deque[str] = field(default_factory=deque)

    def next(self) -> str | None:
        line = self.returned.popleft() if self.returned else files.read_line(self.text, self.rules)
        if not line:
            return None
        self.number += 1
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        self.returned.extendleft(reversed(lines))
        self.number -= len(lines)


def _next_record(lines: _Lines, grammar: Grammar, width: int | None) -> Record | None:
    first_line = lines.number + 1
    found = grammar.next_record(lines, width)
    if found is None:
        return None
    raw = _without_end("".join(found.lines))
    return Record(first_line, raw, found.fields, found.problem or _encoding_problem(raw))


def _encoding_problem(raw: str) -> str | None:
    return None if raw.isascii() or _readable(raw) == raw else INVALID_ENCODING


def _readable(raw: str) -> str:
    """A text without the surrogates that stand for bytes that are no text."""
    try:
        raw.encode()
    except UnicodeEncodeError:
        return re.sub(r"[\ud800-\udfff]", _as_escape, raw)
    return raw


def _as_escape(surrogate: re.Match[str]) -> str:
    code = ord(surrogate.group())
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _explained(record: Record, source: Source) -> str:
    """The problem of a record, with the key that could make it a good one."""
    if record.problem == INVALID_ENCODING:
        others = [name for name in ("utf-8", "windows-1252", "latin-1") if name != source.encoding]
        return f"{record.problem}: it is not {source.encoding} (`encoding` may be {' or '.join(others)})"
    escapes = f"{BACKSLASH}{QUOTE}" in record.raw or record.problem == AMBIGUOUS
    if escapes and source.escape is None and record.problem:
        return f'{record.problem} (`escape: "\\\\"` would read backslashes as escapes)'
    return record.problem or ""


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


# -- converting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a record begins in its file, and its text."""

    line: int
    raw: str


@dataclass(frozen=True)
class _Records:
    """Some records as columns of strings.

    ``problems`` are those of records that aren't in the columns, by position. ``places`` finds ascending
    record numbers in the file; without it, only the exact tokenizer could.
    """

    first: int
    count: int
    columns: dict[str, pa.Array]
    problems: dict[int, str] = field(default_factory=dict)
    places: Callable[[Sequence[int]], list[_Place]] | None = None


def _convert(file: DeliveryFile, product: Product, records: _Records) -> pa.RecordBatch | None:
    """The typed records; None if one can't be used and it isn't known where it stands in the file."""
    reasons: dict[int, list[str]] = {n: [problem] for n, problem in records.problems.items()}

    def blame(positions: Sequence[int], reason: Callable[[int], str]) -> None:
        for n in positions:
            if n not in records.problems:
                reasons.setdefault(n, []).append(reason(n))

    found_values: dict[str, pa.Array] = {}
    for name, text in records.columns.items():
        found_values[name] = _column(file, product, name, text, blame)
    if not file.labels_only:
        found_values |= _missing_columns(product, records)
    if reasons and records.places is None:
        return None

    count = records.count
    label = found_values.get(product.label)
    kind: Any = pa.repeat("label" if file.labels_only else "row", count)
    if label is not None and file.labels_only:
        kind = pc.if_else(label.is_valid(), kind, "pending")
    bookkeeping = {
        "_day": pa.repeat(pa.scalar(file.day, pa.date32()), count),
        "_file": pa.repeat(file.name, count),
        "_file_number": pa.repeat(pa.scalar(file.number, pa.int32()), count),
        "_record": pa.array(np.arange(records.first, records.first + count, dtype="int64")),
        "_kind": kind,
    }
    if label is not None:
        known_on = pa.repeat(pa.scalar(file.known_on, pa.date32()), count)
        bookkeeping[LABEL_KNOWN_ON] = pc.if_else(label.is_valid(), known_on, pa.scalar(None, pa.date32()))
    if reasons and records.places is not None:
        blamed = sorted(reasons)
        places = records.places([records.first + n for n in blamed])
        bad = np.zeros(count, dtype=bool)
        bad[blamed] = True
        bookkeeping["_kind"] = pc.if_else(pa.array(bad), "bad", kind)
        rank = pa.array(np.cumsum(bad) - 1, mask=~bad)
        bookkeeping["_line"] = pa.array([place.line for place in places], pa.int64()).take(rank)
        bookkeeping["_raw"] = pa.array([place.raw for place in places], pa.string()).take(rank)
        bookkeeping["_reason"] = pa.array(["; ".join(reasons[n]) for n in blamed], pa.string()).take(rank)
    schema = parsed_schema(product)
    found = found_values | bookkeeping
    arrays = [found[one.name] if one.name in found else pa.nulls(count, one.type) for one in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _missing_columns(product: Product, records: _Records) -> dict[str, pa.Array]:
    """The columns with a value for whatever is null, of those that rows come without."""
    return {
        name: pa.repeat(pa.scalar(declared.fill_null, ARROW_TYPES[declared.type]), records.count)
        for name, declared in product.source.columns.items()
        if declared.fill_null is not None and name not in records.columns
    }


def _column(
    file: DeliveryFile,
    product: Product,
    name: str,
    text: pa.Array,
    blame: Callable[[Sequence[int], Callable[[int], str]], None],
) -> pa.Array:
    """A column's values; whatever can't be used is blamed on its record."""
    source = product.source
    declared = source.columns[name]
    value, unparseable = conversion.cast(text, declared, source)
    blame(unparseable, _Unparseable(name, declared, source, text))
    if declared.fill_null is not None:
        value = value.fill_null(pa.scalar(declared.fill_null, value.type))
    if (accepted := source.allowed_in(name)) is not None:
        allowed = pa.array(accepted, value.type)
        others = pc.and_(value.is_valid(), pc.invert(pc.is_in(value, value_set=allowed)))
        blame(positions(others), lambda n: f"value not allowed in {name}: {_shown(text[n])}")
    if value.null_count and _is_required(file, source, name, declared):
        identifies = name in source.key or name == source.event_day
        reason = f"missing required value in {name} (`nullable: true` or `fill_null` would accept it)"
        reason = f"key missing: {name}" if identifies else reason
        missing = pc.and_(value.is_null(), text.is_null())
        blame(positions(missing), lambda _: reason)
    if name == source.event_day:
        outside = pc.fill_null(pc.not_equal(value, pa.scalar(file.day, pa.date32())), False)
        blame(positions(outside), lambda n: f"date outside the delivery's day: {value[n].as_py()}")
    return value


def _is_required(file: DeliveryFile, source: Source, name: str, declared: Column) -> bool:
    """Whether a record without this value is of no use; a label may come later."""
    return name != source.label and declared.must_have_value(file.day)


class _Unparseable:
    """Why a text is no value of its column, and which key would make it one."""

    def __init__(self, name: str, declared: Column, source: Source, text: pa.Array) -> None:
        self._name, self._declared, self._source, self._text = name, declared, source, text
        self._hints: dict[str, str] = {}

    def __call__(self, position: int) -> str:
        text = self._text[position].as_py()
        if text not in self._hints and len(self._hints) < HINTED_TEXTS:
            self._hints[text] = conversion.hint(text, self._declared, self._source)
        hint = self._hints.get(text)
        type_ = f"{'an' if self._declared.type == 'integer' else 'a'} {self._declared.type}"
        reason = f"unparseable value in {self._name}: {_shown(self._text[position])} is not {type_}"
        return f"{reason} ({hint})" if hint else reason


def _shown(text: pa.Scalar) -> str:
    value = str(text.as_py())
    return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "...")


def _unreadable(file: DeliveryFile, product: Product, error: UnreadableFile) -> pa.RecordBatch:
    schema = parsed_schema(product)
    facts = {
        "_day": file.day,
        "_file": file.name,
        "_file_number": file.number,
        "_record": -1,
        "_kind": error.kind,
        "_reason": f"{file.name}: {error}",
    }
    arrays = [pa.array([facts.get(one.name)], one.type) for one in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
