"""The exact tokenizer of CSV: every record with its line and raw text, wherever its quotes stand."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.contract.source import BACKSLASH, QUOTE, Source
from ml_platform.data_engineering import files, headers, limits, line_ends
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.files import (
    DeliveredBytes,
    FileRules,
    UnreachableFile,
    UnreadableFile,
)
from ml_platform.data_engineering.line_ends import Record
from ml_platform.data_engineering.quoting import AMBIGUOUS, Grammar
from ml_platform.data_engineering.typed_records import Place, Records, convert

INVALID_ENCODING = "invalid encoding"
CHANGED = "the file changed while it was read"

#: Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LONGEST_MARK = 4


def read_exactly(file: DeliveryFile, product: Product, skip: int) -> Iterator[pa.RecordBatch]:
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
                problem = wrong_width(
                    len(record.fields),
                    width,
                    source,
                    is_one_more=len(record.fields) == width + 1 and record.ends_with(source.delimiter),
                )
            elif problem is not None:
                problem = explained(record, source)
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
        places = [Place(record.line, readable(record.raw)) for record in records]
        converted = convert(
            file,
            product,
            Records(
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
        raise UnreadableFile(CHANGED)
    size = 0
    for number, record in enumerate(tokens):
        if number < skip:
            continue
        records.append(record)
        size += len(record.raw)
        if len(records) == limits.BATCH_RECORDS or size >= limits.BLOCK_BYTES:
            yield batch(first)
            first += len(records)
            size = 0
            records.clear()
    if records:
        yield batch(first)


def tokenize(
    path: str, source: Source, rules: FileRules, on_open: Callable[[DeliveredBytes], None] | None = None
) -> Iterator[Record]:
    """Every record with its first line's number, the header being the record at line 1.

    Blank lines are no records. Where it can't be known where a record ends, its first line is a bad record.
    A field that only seems to begin at the end of a line, as :mod:`.line_ends` knows, is none.

    Args:
        on_open: is given the file when it has been opened.

    Raises:
        UnreadableFile: it can't be read to its end.
    """
    records = _records_of(path, source, rules, on_open)
    return line_ends.without_trailing(records, source) if source.trailing_delimiter else records


def has_trailing_delimiters(file: DeliveryFile, source: Source) -> bool:
    """Whether the lines of a file end with a delimiter that no field follows."""
    with contextlib.closing(_records_of(file.path, source, file.rules)) as records:
        return line_ends.ends_lines(line_ends.sample(records), source)


def _records_of(
    path: str, source: Source, rules: FileRules, on_open: Callable[[DeliveredBytes], None] | None = None
) -> Generator[Record, None, None]:
    grammar = Grammar.of(
        source, maximum_lines=limits.RECORD_LINES, maximum_characters=limits.RECORD_CHARACTERS
    )
    width: int | None = None
    try:
        with open_text(path, source, rules, on_open) as text:
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


def open_text(
    path: str, source: Source, rules: FileRules, on_open: Callable[[DeliveredBytes], None] | None = None
) -> io.TextIOWrapper:
    """The file as text; bytes that are none become surrogates."""
    opened = files.open_bytes(path, rules)
    if on_open is not None:
        on_open(opened)
    buffered = files.buffered(opened)
    encoding = encoding_of(buffered.peek(LONGEST_MARK), source)
    return io.TextIOWrapper(buffered, encoding=encoding, errors=errors_of(encoding), newline="")


def encoding_of(head: bytes, source: Source) -> str:
    """What a file's byte order mark says, or else the contract; without either the low byte comes first."""
    order = "-le" if source.encoding in ("utf-16", "utf-32") else ""
    return encoding_of_mark(head) or source.encoding + order


def encoding_of_mark(head: bytes) -> str | None:
    """What a byte order mark at the head of a file says; None without one."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def errors_of(encoding: str) -> str:
    """How bytes that are no text in an encoding are read: as surrogates, which can be written again."""
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
    raw = without_end("".join(found.lines))
    return Record(first_line, raw, found.fields, found.problem or _encoding_problem(raw))


def _encoding_problem(raw: str) -> str | None:
    return None if raw.isascii() or readable(raw) == raw else INVALID_ENCODING


def readable(raw: str) -> str:
    """A text without the surrogates that stand for bytes that are no text."""
    try:
        raw.encode()
    except UnicodeEncodeError:
        return re.sub(r"[\ud800-\udfff]", _as_escape, raw)
    return raw


def _as_escape(surrogate: re.Match[str]) -> str:
    code = ord(surrogate.group())
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def explained(record: Record, source: Source) -> str:
    """The problem of a record, with the key that could make it a good one."""
    if record.problem == INVALID_ENCODING:
        others = [name for name in ("utf-8", "windows-1252", "latin-1") if name != source.encoding]
        return f"{record.problem}: it is not {source.encoding} (`encoding` may be {' or '.join(others)})"
    escapes = f"{BACKSLASH}{QUOTE}" in record.raw or record.problem == AMBIGUOUS
    if escapes and source.escape is None and record.problem:
        return f'{record.problem} (`escape: "\\\\"` would read backslashes as escapes)'
    return record.problem or ""


def without_end(text: str) -> str:
    """A line without the break at its end."""
    return text.removesuffix("\n").removesuffix("\r")


def wrong_width(given: int, expected: int, source: Source, *, is_one_more: bool) -> str:
    """The problem of a record of another number of fields; of one more that is empty, if ``is_one_more``."""
    problem = f"wrong number of fields: {given}, expected {expected}"
    if is_one_more and not source.trailing_delimiter:
        return f"{problem} (`trailing_delimiter: true` would accept it)"
    if source.trailing_delimiter and given == expected - 1:
        return (
            f"{problem} (with `trailing_delimiter: true` no field follows a delimiter at the end of a line)"
        )
    return problem
