"""What the texts of each column can be, found from all of them: readings that fit every one.

A reading is a type with the keys that it needs: a format of dates, words for true and false, the marks in
numbers. All begin as possible, and one goes with the first text that it doesn't accept, as
:mod:`..conversion` reads it; so what is left holds for the whole file, in memory that doesn't grow with it.
Which reading becomes the contract's is :mod:`.choices`' business.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.source import Column, Source
from ml_platform.data_engineering import conversion
from ml_platform.data_engineering.files import FileRules, shown
from ml_platform.data_engineering.line_ends import Record
from ml_platform.data_engineering.onboarding.dialect import Dialect, records_of

#: Records, and characters of them, that are looked at together.
CHUNK_RECORDS = 20_000
CHUNK_CHARACTERS = 8 << 20
#: Different texts of a column that are remembered: so many values a person still reads in a list.
DISTINCT_TEXTS = 200
#: Ways in which "no value" is written in one column: more are words of their own.
_NULL_TEXTS = 20
#: Texts on which a reading is tried before all of a chunk, as most readings fail on the first.
_PROBED_TEXTS = 8
_LONGEST_WORD = 40
#: Texts that tell whether a column is nearly one of numbers or dates, and how many of them may be neither.
_SAMPLED_TEXTS, _FEW_MISFITS = 50, 0.1


class Marks(NamedTuple):
    """How numbers are written: the decimal mark, and what stands between groups of three digits."""

    decimal: str
    thousands: str | None


#: The plainest come first: where several fit all numbers and mean the same, the first is taken.
MARKS = (
    Marks(".", None),
    Marks(",", None),
    Marks(".", ","),
    Marks(",", "."),
    Marks(".", " "),
    Marks(",", " "),
    Marks(".", "'"),
    Marks(".", "_"),
)
_NUMBERS: tuple[ColumnType, ...] = ("integer", "long", "double")

_DAYS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d.%m.%y",
    "%y.%m.%d",
    "%d/%m/%y",
    "%m/%d/%y",
    "%y/%m/%d",
    "%d-%m-%y",
    "%m-%d-%y",
    "%y-%m-%d",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d %Y",
    "%B %d %Y",
    "%b %d, %Y",
    "%B %d, %Y",
)
#: Months: their first day stands for them.
_MONTHS = ("%Y-%m", "%m/%Y", "%b %Y", "%B %Y", "%Y-%b", "%b-%Y")
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
#: Of ISO 8601 with a time, as strptime's formats: an event day of type date needs one. What is written with
#: a fraction of a second is often written without one where that is 0.
_ISO_TIMES = tuple(
    (f"%Y-%m-%d{mark}{time}{zone}",)
    for mark in (" ", "T")
    for time in ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f")
    for zone in ("", "%z")
) + tuple(
    (f"%Y-%m-%d{mark}%H:%M:%S{zone}", f"%Y-%m-%d{mark}%H:%M:%S.%f{zone}")
    for mark in (" ", "T")
    for zone in ("", "%z")
)
#: Formats of digits alone, with what the digits must be: strptime reads others, too.
_DIGITS = {
    "%Y%m%d": r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])",
    "%Y%m": r"(?:19|20)\d\d(?:0[1-9]|1[0-2])",
    "%Y": r"(?:19|20)\d\d",
    "epoch_seconds": r"[1-9]\d{8,9}",
    "epoch_milliseconds": r"[1-9]\d{11,12}",
}
_ISO_TIME = r"^\s*\d{4}-\d\d-\d\d[T ]\d\d:\d\d"
_LEADING_ZERO = r"^\s*[+-]?0[0-9]"
_PLAIN_NUMBER = r"\s*[+-]?[0-9]*[.,]?[0-9]*\s*"
_WHOLE = r"^\s*[+-]?[0-9]{16,}\s*$"
_GROUPED = {mark: rf"^[+-]?[1-9][0-9]{{0,2}}{re.escape(mark)}[0-9]{{3}}$" for mark in ".,"}


@dataclass(frozen=True)
class Moment:
    """A reading of dates or times: ``format`` as the contract's key, None for ISO 8601."""

    type: ColumnType
    format: str | tuple[str, ...] | None

    @property
    def column(self) -> Column:
        return _column_of(self)


@functools.cache
def _column_of(moment: Moment) -> Column:
    return Column(type=moment.type, format=moment.format, nullable=True)


_DATES = (
    Moment("date", None),
    *(Moment("date", format_) for format_ in (*_DAYS, *_MONTHS)),
)
_TIMESTAMPS = (
    Moment("timestamp", None),
    *(Moment("timestamp", f"{day} {time}") for day in _DAYS for time in _TIMES),
)
#: How the day of a moment is read as an event day.
_DAYS_OF_MOMENTS = (
    *(Moment("date", formats[0] if len(formats) == 1 else formats) for formats in _ISO_TIMES),
    *(Moment("date", f"{day} {time}") for day in _DAYS for time in _TIMES),
    *(Moment("date", format_) for format_ in _DIGITS),
)


@dataclass(frozen=True)
class Misfit:
    """The first text that ended a reading, and where it stands."""

    text: str
    line: int
    was: str


@dataclass(eq=False)
class ColumnLook:
    """What all texts of a column can be.

    Attributes:
        name: in the header.
        values: records with a text that isn't empty.
        empty: records without one.
        null_texts: texts that people write for no value, with how often.
        numbers: the narrowest type of numbers by how they are written, where all texts are numbers.
        moments: readings as dates or times; ``days`` are those for an event day, of texts that are
            times or digits as well.
        words: the words for true and false, if there are no others.
        distinct: how often each text is there, while there are few.
        is_few: whether ``distinct`` has all texts.
        last_new: the record with the last text that was new, from 1.
        misfit: the first text that is no number, or no date, although those before were.
    """

    name: str
    values: int = 0
    empty: int = 0
    null_texts: Counter[str] = field(default_factory=Counter)
    numbers: dict[Marks, ColumnType] = field(default_factory=dict)
    grouped: set[str] = field(default_factory=set)
    moments: list[Moment] = field(default_factory=lambda: [*_DATES, *_TIMESTAMPS])
    days: list[Moment] = field(default_factory=lambda: [*_DAYS_OF_MOMENTS])
    disagree: set[frozenset[Moment]] = field(default_factory=set)
    words: tuple[str, str] | None = None
    distinct: Counter[str] = field(default_factory=Counter)
    is_few: bool = True
    last_new: int = 0
    misfit: Misfit | None = None
    longest: int = 0

    @property
    def records(self) -> int:
        return self.values + self.empty

    def nulls_with(self, null_values: Sequence[str]) -> int:
        """How many records have no value, if these texts stand for none."""
        return self.empty + sum(self.null_texts[text] for text in null_values if text)


@dataclass
class FirstLook:
    """What the files hold, before anything is chosen.

    Attributes:
        columns: in the order of the header.
        bad: records that can't be read, by the reason, with how many and the first one's line.
    """

    dialect: Dialect
    paths: Sequence[Path]
    columns: list[ColumnLook]
    records: int = 0
    bad: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def bad_records(self) -> int:
        return sum(count for count, _ in self.bad.values())


def look_at(
    paths: Sequence[Path],
    dialect: Dialect,
    rules: FileRules,
    progress: Callable[[int], None] | None = None,
    formats: Mapping[str, str] | None = None,
) -> FirstLook:
    """Read all records, and find what the texts of each column can be.

    Args:
        formats: how the dates of some columns are written; only that is tried of them.

    Raises:
        FirstLookError: a file can't be read to its end.
    """
    columns = [ColumnLook(name) for name in dialect.header]
    readers = [_Reader(look, dialect, (formats or {}).get(look.name)) for look in columns]
    found = FirstLook(dialect, paths, columns)

    def see_bad(record: Record, where: str) -> None:
        problem = record.problem or f"{len(record.fields)} fields, expected {len(columns)}"
        count, first = found.bad.get(problem, (0, where))
        found.bad[problem] = (count + 1, first)

    for path in paths:
        for chunk in chunks_of(path, dialect, rules, see_bad):
            for reader, texts in zip(readers, chunk.texts, strict=True):
                reader.take(texts, chunk.lines, found.records)
            found.records += len(chunk.lines)
            if progress:
                progress(found.records)
    for reader in readers:
        reader.end()
    return found


class Chunk(NamedTuple):
    """Some records that can be read: their texts by column, and the lines that they begin on."""

    texts: list[list[str]]
    lines: list[int]


def chunks_of(
    path: Path, dialect: Dialect, rules: FileRules, bad: Callable[[Record, str], None]
) -> Iterator[Chunk]:
    """The records of a file that have the header's number of fields, some at once.

    Args:
        bad: is called with each other one, and where it stands.

    Raises:
        FirstLookError: the file can't be read to its end.
    """
    width = len(dialect.header)
    rows: list[list[str]] = []
    lines: list[int] = []
    characters = 0
    records = records_of(path, dialect.source, rules)
    next(records, None)
    for record in records:
        if record.problem is not None or len(record.fields) != width:
            bad(record, f"{shown(path.name)}, line {record.line}")
            continue
        rows.append(record.fields)
        lines.append(record.line)
        characters += len(record.raw)
        if len(rows) >= CHUNK_RECORDS or characters >= CHUNK_CHARACTERS:
            yield Chunk([list(texts) for texts in zip(*rows, strict=True)], lines)
            rows, lines, characters = [], [], 0
    if rows:
        yield Chunk([list(texts) for texts in zip(*rows, strict=True)], lines)


class _Reader:
    """Takes the texts of one column, and drops the readings that they don't fit."""

    def __init__(self, look: ColumnLook, dialect: Dialect, format_: str | None) -> None:
        self._look = look
        self._is_told = format_ is not None
        if format_ is not None:
            has_time = bool(re.search("%[HIMSfp]", format_)) or format_.startswith("epoch")
            look.moments = [Moment("timestamp" if has_time else "date", format_)]
            look.days = [Moment("date", format_)]
        self._sources: dict[Marks, Source] = {
            marks: dialect.source.model_copy(update={"decimal": marks.decimal, "thousands": marks.thousands})
            for marks in MARKS
            if not dialect.delimiter == marks.decimal == ","
        }
        look.numbers = dict.fromkeys(self._sources, "integer")
        self._plain = dialect.source
        self._words: set[str] | None = set()

    def take(self, texts: list[str], lines: Sequence[int], before: int) -> None:
        """Look at the texts of some records, which come after so many others."""
        look = self._look
        counts = Counter(texts)
        look.empty += counts.pop("", 0)
        self._remember(counts, texts, before)
        look.longest = max(look.longest, max(map(len, counts), default=0))
        for text in [text for text in counts if _is_null_text(text)]:
            if text in look.null_texts or len(look.null_texts) < _NULL_TEXTS:
                look.null_texts[text] += counts[text]
                look.values += counts.pop(text)
        look.values += sum(counts.values())
        if not counts:
            return
        distinct = list(counts)
        array = pa.array(distinct, pa.string())
        could_be = bool(look.numbers or look.moments)
        self._narrow_numbers(array)
        self._narrow_moments(array)
        self._narrow_words(distinct)
        if could_be and not look.numbers and not look.moments and self._words is None:
            look.misfit = self._misfit(array, texts, lines)

    def end(self) -> None:
        """Say what the words were, once all texts are known."""
        look = self._look
        if not look.values - sum(look.null_texts.values()):
            look.numbers, look.moments, look.days, self._words = {}, [], [], None
        if self._words:
            look.words = _pair(self._words)

    def _remember(self, counts: Counter[str], texts: list[str], before: int) -> None:
        look = self._look
        if not look.is_few:
            return
        new = [text for text in counts if text not in look.distinct]
        if len(look.distinct) + len(new) > DISTINCT_TEXTS:
            look.is_few = False
            look.distinct.clear()
            return
        if new:
            unseen = set(new)
            look.last_new = before + max(texts.index(text) for text in unseen) + 1
        look.distinct.update(counts)

    def _narrow_numbers(self, array: pa.Array) -> None:
        look = self._look
        if not look.numbers:
            return
        if _any(array, _LEADING_ZERO):  # digits of a code, which would lose its zeros
            look.numbers = {}
            return
        for marks in list(look.numbers):
            source = self._sources[marks]
            for type_ in _NUMBERS[_NUMBERS.index(look.numbers[marks]) :]:
                # A double has no room for the digits of a long whole number.
                fits = type_ != "double" or not _any(array, _WHOLE)
                if fits and _accepts(Column(type=type_, nullable=True), array, source):
                    look.numbers[marks] = type_
                    break
            else:
                del look.numbers[marks]
        look.grouped |= {mark for mark, pattern in _GROUPED.items() if _any(array, pattern)}

    def _narrow_moments(self, array: pa.Array) -> None:
        look = self._look
        if not look.moments and not look.days:
            return
        if re.fullmatch(_PLAIN_NUMBER, array[0].as_py()) and not self._is_told:
            look.moments = []
            look.days = [one for one in look.days if one.format in _DIGITS]
        for name in ("moments", "days"):
            readings: list[Moment] = getattr(look, name)
            values = {one: value for one in readings if (value := self._read(one, array)) is not None}
            setattr(look, name, list(values))
            kept = list(values)
            for n, one in enumerate(kept):
                for other in kept[n + 1 :]:
                    same_type = one.type == other.type
                    pair = frozenset((one, other))
                    if same_type and pair not in look.disagree and not values[one].equals(values[other]):
                        look.disagree.add(pair)

    def _read(self, reading: Moment, array: pa.Array) -> Any:
        """The values of all texts; None if one has none."""
        if reading.format in _DIGITS and not _all(array, rf"^{_DIGITS[str(reading.format)]}$"):
            return None
        if reading.type == "timestamp" and reading.format is None and not _all(array, _ISO_TIME):
            return None
        for text in array[:_PROBED_TEXTS].to_pylist():
            if conversion.value_of(text.strip(), reading.column) is None:
                return None
        value, wrong = conversion.cast(array, reading.column, self._plain)
        return None if wrong else value

    def _narrow_words(self, distinct: Sequence[str]) -> None:
        if self._words is None:
            return
        self._words |= {text.strip() for text in distinct}
        if _pair(self._words) is None:
            self._words = None

    def _misfit(self, array: pa.Array, texts: Sequence[str], lines: Sequence[int]) -> Misfit | None:
        """The first text that keeps nearly all others from being numbers, dates or times."""
        readings = [
            Column(type="double", nullable=True),
            *(moment.column for moment in (*_DATES, _TIMESTAMPS[0])),
        ]
        some = array[:_SAMPLED_TEXTS]
        for reading in readings:
            wrong = conversion.cast(some, reading, self._plain)[1]
            if len(wrong) <= _FEW_MISFITS * len(some):
                others = {array[n].as_py() for n in conversion.cast(array, reading, self._plain)[1]}
                for text, line in zip(texts, lines, strict=True):
                    if text in others:
                        return Misfit(text, line, "number" if reading.type == "double" else reading.type)
        return None


def _accepts(column: Column, array: pa.Array, source: Source) -> bool:
    """Whether each text is a value of a column."""
    return all(
        not conversion.cast(part, column, source)[1] for part in (array[:_PROBED_TEXTS], array) if len(part)
    )


def _any(array: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(array, pattern), min_count=0).as_py())


def _all(array: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(array, pattern), min_count=0).as_py())


def _is_null_text(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and (
        not text.strip() or text.strip().casefold() in conversion.NULL_WORDS
    )


_PAIRS: Mapping[str, str] = {"true": "false", **conversion.TRUE_WORDS}


def _pair(words: set[str]) -> tuple[str, str] | None:
    """The words for true and false that these are, in any case, if there are no others among them."""
    folded = {word.casefold() for word in words}
    return next((pair for pair in _PAIRS.items() if folded <= {*pair}), None)
