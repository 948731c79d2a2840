"""JSON lines to records: one object a line, each with its line and raw text.

Each line names its values, so a file has no header; its first lines say which columns it has. A line that is
no object, or names what the contract doesn't know, is one record that can't be used. What a value is under
the contract is :mod:`.cells`' business.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.source import Source
from ml_platform.data_engineering import files, headers, limits
from ml_platform.data_engineering.cells import JsonValues, Texts
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.exact_reader import INVALID_ENCODING, open_text, readable, without_end
from ml_platform.data_engineering.files import DeliveredBytes, FileRules, UnreachableFile, UnreadableFile
from ml_platform.data_engineering.typed_records import Place, Records

#: Lines, and characters of them, that are looked at to learn which columns a file has.
HEAD_LINES = 1000
HEAD_CHARACTERS = 1 << 20
#: Characters that are read at once: as Python's objects they take some ten times as much.
BLOCK_CHARACTERS = 2 << 20
_UNPAIRED = "\\ud"


class Number(str):
    """A number as it is written."""

    __slots__ = ()


@dataclass(frozen=True)
class JsonRecord:
    """A line that isn't blank: its object, or why it has none."""

    line: int
    raw: str
    values: dict[str, Any]
    problem: str | None = None


def names_of(
    path: str,
    source: Source,
    rules: FileRules,
    on_open: Callable[[DeliveredBytes], None] | None = None,
) -> tuple[str, ...]:
    """The names of the values in a file's first lines, in order.

    Another name of a column that lines before have named otherwise is left out: which one counts is each
    line's own business.

    Raises:
        UnreadableFile: there is no object in these lines, or the file can't be read.
        UnreachableFile: the machine doesn't give its content.
    """
    names: dict[str, None] = {}
    columns: set[str | None] = set()
    first: JsonRecord | None = None
    seen = 0
    found = False
    for lines, record in enumerate(records_of(path, source, rules, on_open), start=1):
        first = first or record
        if record.problem is None:
            found = True
            new = {name: source.header_names.get(source.folded(name)) for name in record.values}
            names |= {
                name: None
                for name, column in new.items()
                if name not in names and (column is None or column not in columns)
            }
            columns |= set(new.values()) - {None}
        seen += len(record.raw)
        if lines == HEAD_LINES or seen >= HEAD_CHARACTERS:
            break
    if first is None:
        raise UnreadableFile("the file is empty; expected is one JSON object a line")
    if not found:
        raise UnreadableFile(f"no line has a JSON object: {first.problem}{_advice(first.raw)}")
    return tuple(names)


def _advice(raw: str) -> str:
    if raw.lstrip().startswith("["):
        return "; of a JSON array write each object on a line of its own (in pandas to_json(lines=True))"
    if raw.strip() == "{":
        return "; write each object on one line"
    return ""


def records_of(
    path: str, source: Source, rules: FileRules, on_open: Callable[[DeliveredBytes], None] | None = None
) -> Iterator[JsonRecord]:
    """Every line that isn't blank.

    Raises:
        UnreadableFile: the file can't be read to its end.
        UnreachableFile: the machine doesn't give its content.
    """
    # JSON is UTF-8, whatever the contract's CSV files are.
    utf_8 = source.model_copy(update={"encoding": "utf-8"})
    with _errors_in_words(), open_text(path, utf_8, rules, on_open) as text:
        for number, line in enumerate(files.text_lines(text, rules), start=1):
            if line.isspace():
                continue
            yield _record(number, without_end(line))


def read(file: DeliveryFile, product: Product) -> Iterator[Records]:
    """The records of a file, or of a part of it, in order. Raises as :func:`records_of` does."""
    layouts = _Layouts(file, product)
    first, size = 0, 0
    waiting: list[JsonRecord] = []
    for record in records_of(file.path, product.source, file.rules):
        waiting.append(record)
        size += len(record.raw)
        if size >= BLOCK_CHARACTERS or len(waiting) == limits.BATCH_RECORDS:
            yield _records(waiting, layouts, first)
            first, size, waiting = first + len(waiting), 0, []
    if waiting:
        yield _records(waiting, layouts, first)


def locate(file: DeliveryFile, product: Product, wanted: set[int]) -> Iterator[tuple[int, int, str]]:
    """Number, line and text of the records of some numbers. Raises as :func:`records_of` does."""
    for number, record in enumerate(records_of(file.path, product.source, file.rules)):
        if number in wanted:
            yield number, record.line, readable(record.raw)


# -- a line ------------------------------------------------------------------------------------------


class _RepeatedNameError(ValueError):
    """An object names a value twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedNameError(f"it names {twice!r} twice")
    return found


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=str
).decode


def _record(number: int, raw: str) -> JsonRecord:
    if not raw.isascii() and readable(raw) != raw:
        return JsonRecord(number, raw, {}, f"{INVALID_ENCODING}: it is not utf-8, which JSON has to be")
    try:
        values = _decode(raw)
    except json.JSONDecodeError as error:
        return JsonRecord(number, raw, {}, f"no JSON: {error.msg} at character {error.colno}")
    except _RepeatedNameError as error:
        return JsonRecord(number, raw, {}, str(error))
    except RecursionError:
        return JsonRecord(number, raw, {}, "no JSON that can be read: it is nested too deeply")
    if not isinstance(values, dict):
        return JsonRecord(number, raw, {}, "no JSON object")
    if _UNPAIRED in raw.lower() and not _is_text(values):
        return JsonRecord(number, raw, {}, "half of a surrogate pair is no text")
    return JsonRecord(number, raw, values)


def _is_text(values: dict[str, Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeError) as error:
        raise UnreadableFile(f"can't be read to its end: {error}") from error
    except OSError as error:
        raise UnreachableFile(f"can't be read: {error.strerror or error}") from error


# -- columns -----------------------------------------------------------------------------------------


@dataclass
class _Layouts:
    """What the names of a line mean, found once for all lines with the same names in the same order."""

    file: DeliveryFile
    product: Product
    known: dict[tuple[str, ...], tuple[dict[str, str], str | None]] = field(default_factory=dict)

    def of(self, names: tuple[str, ...]) -> tuple[dict[str, str], str | None]:
        """The name that each declared column has among some names, or why they can't be used."""
        found = self.known.get(names)
        if found is None:
            found = self._of(names)
            if len(self.known) < limits.BATCH_RECORDS:
                self.known[names] = found
        return found

    @property
    def always(self) -> list[str]:
        """The columns that the file is known to have."""
        meaning = headers.resolve(self.product, self.file.header, self.file.day)
        return [column for column in meaning.columns if column is not None]

    def _of(self, names: tuple[str, ...]) -> tuple[dict[str, str], str | None]:
        source = self.product.source
        found: dict[str, str] = {}
        for name in names:
            column = source.header_names.get(source.folded(name))
            if column is None:
                continue
            if column in found:
                return {}, f"it names {column} twice, as {found[column]!r} and {name!r}"
            found[column] = name
        unexpected = [
            name
            for name in names
            if source.folded(name) not in source.header_names and not headers.is_accepted(self.product, name)
        ]
        if unexpected:
            return {}, headers.unexpected(unexpected)
        if self.file.labels_only and (more := set(found) - self.product.label_file_columns):
            return {}, (
                f"it has {min(more)}, in a file whose first lines have nothing but key, event day and label"
            )
        return found, None


def _records(records: Sequence[JsonRecord], layouts: _Layouts, first: int) -> Records:
    problems: dict[int, str] = {}
    given: dict[str, list[Any]] = {name: [None] * len(records) for name in layouts.always}
    for place, record in enumerate(records):
        problem = record.problem
        if problem is None:
            names, problem = layouts.of(tuple(record.values))
        if problem is not None:
            problems[place] = problem
            continue
        for column, name in names.items():
            if (value := record.values[name]) is not None:
                if column not in given:
                    given[column] = [None] * len(records)
                given[column][place] = value
    columns: dict[str, Any] = {}
    nulls = layouts.product.source.null_values
    for name, values in given.items():
        columns[name] = _column(name, values, nulls, problems)
    return Records(
        first,
        len(records),
        columns,
        problems,
        places=lambda numbers: [
            Place(records[number - first].line, readable(records[number - first].raw)) for number in numbers
        ],
    )


def _column(
    name: str, values: list[Any], null_values: Sequence[str], problems: dict[int, str]
) -> Texts | JsonValues:
    """A column's values; one that is a list or an object is a problem of its record."""
    types = set(map(type, values))
    if types <= {str, type(None)}:
        return Texts(_without_nulls(pa.array(values, pa.string()), null_values))
    own = pa.array([type(value) is not str and value is not None for value in values])
    texts: list[str | None] = []
    for place, value in enumerate(values):
        if isinstance(value, bool):
            texts.append("true" if value else "false")
        elif isinstance(value, dict | list):
            kind = "an object" if isinstance(value, dict) else "a list"
            problems.setdefault(place, f"{kind} in {name}, where one value is expected")
            texts.append(None)
        else:
            texts.append(value)
    return JsonValues(_without_nulls(pa.array(texts, pa.string()), null_values), own)


def _without_nulls(texts: pa.Array, null_values: Sequence[str]) -> pa.Array:
    stand_for_null = pc.is_in(texts, value_set=pa.array(list(null_values), pa.string()))
    if not pc.any(stand_for_null).as_py():
        return texts
    return pc.if_else(stand_for_null, pa.scalar(None, pa.string()), texts)
