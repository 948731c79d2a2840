"""What tells rows apart, what comes back from day to day, and what the days hold: proved over all rows.

Rows are kept as numbers, one for each value, in files by their event day, so that each file's days are
looked at in memory. Values that are equal have equal numbers: what is found to be unique is unique.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.fields import FIRST_DATE, LAST_DATE
from ml_platform.contract.source import Source
from ml_platform.data_engineering import conversion, files
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.line_ends import Record
from ml_platform.data_engineering.onboarding.choices import Answers, Choices, Chosen
from ml_platform.data_engineering.onboarding.columns import FirstLook, chunks_of
from ml_platform.data_engineering.onboarding.dialect import FirstLookError
from ml_platform.data_engineering.onboarding.labels import LabelFacts

#: Columns of which combinations are looked at for a key, and those that can tell rows apart all together.
KEY_COLUMNS, ALL_COLUMNS = 12, 32
#: Columns of a combination.
LONGEST_KEY = 4
#: Rows of the busiest day on which all combinations are tried; those that pass are held against all rows.
TRIED_ROWS = 20_000
PROVED_KEYS = 6
#: Bytes of the history of which one file of numbers is made.
BYTES_A_PART = 64 << 20
MAXIMUM_PARTS = 200
#: Different values of a column that are counted exactly over all days.
COUNTED_VALUES = 20_000_000
#: What is scored is looked for among columns with so many values, each on so many days on average.
LEAST_ENTITIES, LEAST_DAYS_EACH = 20, 2.0
_NAMES_OF_IDS = re.compile(
    r"(?i)(^|[_ .-])(id|no|nr|num|number|code|key|uuid|sku|iban|symbol)s?$|(?-i:[a-z]Id$|ID$)"
)
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Key:
    """Columns that may tell rows apart within their event day.

    Attributes:
        repeats: rows that are like another one of their day in these columns.
        days: of how many days no two rows are alike.
    """

    columns: tuple[Chosen, ...]
    repeats: int
    days: int

    @property
    def headers(self) -> tuple[str, ...]:
        return tuple(column.header for column in self.columns)


@dataclass
class Facts:
    """What the rows hold.

    Attributes:
        days: rows by event day; ``labelled`` those of them with a label.
        key: what tells rows apart; ``other_keys`` would do as well.
        entity: what is scored; ``values`` is how many there are, each on ``days_each`` days on average.
        one_row: whether an entity has one row a day.
        giveaways: number columns whose value alone tells the label.
        entities: of what is scored, how many there are on each day.
        equal: rows that are equal to another one of their day in every column: they count once.
        unplaced: records that can't be read and whose day isn't known either: how many, and where the first
            is.
    """

    days: Counter[date]
    labelled: Counter[date]
    label: LabelFacts
    key: Key
    other_keys: list[Key]
    entity: tuple[Chosen, ...]
    why_entity: str
    one_row: bool
    giveaways: set[str] = field(default_factory=set)
    entities: Counter[date] = field(default_factory=Counter)
    equal: int = 0
    unplaced: tuple[int, str] = (0, "")

    @property
    def rows(self) -> int:
        return self.days.total()


def measure(
    look: FirstLook,
    choices: Choices,
    answers: Answers,
    rules: FileRules,
    progress: Callable[[int], None] | None = None,
) -> Facts:
    """Read all rows again as the contract will have them read, and find what tells them apart.

    Raises:
        FirstLookError: an event day lies beyond what a contract accepts, or a file can't be read.
    """
    source = source_of(look, choices)
    candidates = [
        column
        for column in choices.columns
        if column not in (choices.event_day, choices.label) and not column.nulls
    ]
    given = {*answers.key, *answers.entity}
    for name in given - {one.header for one in candidates} - {choices.event_day.header}:
        why = "is the label" if name == choices.label.header else "is empty in some records"
        raise FirstLookError(f"{name!r} {why}, and can't tell rows apart")
    # Doubles come last: two measurements that differ tell nothing of what was measured.
    candidates = sorted(
        candidates,
        key=lambda one: (
            one.header not in given,
            one.type == "double",
            not _NAMES_OF_IDS.search(one.header),
            one.type != "string",
            choices.columns.index(one),
        ),
    )[: max(ALL_COLUMNS, len(given))]
    likely = sum(files.likely_bytes(str(path), rules) for path in look.paths)
    parts = min(max(1, -(-likely // BYTES_A_PART)), MAXIMUM_PARTS)
    with TemporaryDirectory(prefix="ml-platform-init-") as folder:
        spool = _Spool(Path(folder), candidates, parts)
        counts = _read(look, choices, source, rules, spool, progress)
        spool.close()
        key, others = _key(spool, choices, answers, len(counts.days))
        entity, why, one_row = _entity(spool, choices, answers, key, len(counts.days))
        entities = _entities_by_day(spool, entity)
    return Facts(
        counts.days,
        counts.labelled,
        counts.label_facts,
        key,
        others,
        entity,
        why,
        one_row,
        {name for name, span in counts.spans.items() if span.tells},
        entities,
        spool.equal,
        counts.unplaced,
    )


def source_of(look: FirstLook, choices: Choices) -> Source:
    """The source of the contract, as far as reading values needs it."""
    return look.dialect.source.model_copy(
        update={
            "decimal": choices.marks.decimal,
            "thousands": choices.marks.thousands,
            "null_values": tuple(choices.null_values),
        }
    )


# -- reading -----------------------------------------------------------------------------------------


@dataclass
class _Span:
    """The least and greatest value of a column among rows of each label, and whether nulls are in between."""

    least: dict[int, float] = field(default_factory=dict)
    greatest: dict[int, float] = field(default_factory=dict)

    @property
    def tells(self) -> bool:
        """Whether each value of one label lies beyond all of the other one."""
        if set(self.least) != {0, 1}:
            return False
        return self.greatest[0] < self.least[1] or self.greatest[1] < self.least[0]


@dataclass
class _Moments:
    """How many numbers there were, their mean, and the sum of the squares of what they differ from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Add some more, as Chan, Golub and LeVeque combine two samples."""
        if not len(values):
            return
        mean = float(values.mean())
        total, apart = self.count + len(values), mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * len(values) / total
        self.mean += apart * len(values) / total
        self.count = total

    @property
    def spread(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class _Counts:
    days: Counter[date] = field(default_factory=Counter)
    labelled: Counter[date] = field(default_factory=Counter)
    label: _Moments = field(default_factory=lambda: _Moments())
    classes: Counter[str] = field(default_factory=Counter)
    spans: dict[str, _Span] = field(default_factory=dict)
    unplaced: tuple[int, str] = (0, "")

    @property
    def label_facts(self) -> LabelFacts:
        return LabelFacts(self.labelled.total(), self.label.mean, self.label.spread, dict(self.classes))


def _read(
    look: FirstLook,
    choices: Choices,
    source: Source,
    rules: FileRules,
    spool: _Spool,
    progress: Callable[[int], None] | None,
) -> _Counts:
    counts = _Counts()
    places = {name: n for n, name in enumerate(look.dialect.header)}
    numbers = [
        column
        for column in choices.columns
        if column.type in ("integer", "long", "double") and column is not choices.label
    ]
    counts.spans = {column.header: _Span() for column in numbers}
    spooled = {choices.event_day.header, *(column.header for column in spool.columns)}
    read = 0
    day_at = places[choices.event_day.header]

    def see_bad(record: Record, where: str) -> None:
        text = record.fields[day_at] if day_at < len(record.fields) else ""
        if conversion.day_of(text, choices.event_day.column, source) is None:
            count, first = counts.unplaced
            counts.unplaced = (count + 1, first or where)

    for path in look.paths:
        for chunk in chunks_of(path, look.dialect, rules, see_bad):

            def values(column: Chosen, texts: Sequence[list[str]] = chunk.texts) -> Any:
                return _values(texts[places[column.header]], column, source)

            days = values(choices.event_day)
            ordinals = days.cast(pa.int32()).to_numpy()
            _refuse_beyond(ordinals, choices.event_day, path, chunk.lines)
            labels = values(choices.label)
            for ordinal, count in zip(*np.unique(ordinals, return_counts=True), strict=True):
                counts.days[_EPOCH + timedelta(days=int(ordinal))] += int(count)
            known = labels.is_valid().to_numpy(zero_copy_only=False)
            for ordinal, count in zip(*np.unique(ordinals[known], return_counts=True), strict=True):
                counts.labelled[_EPOCH + timedelta(days=int(ordinal))] += int(count)
            if choices.kind.column.get("allowed") is not None:
                for found in pc.value_counts(labels.drop_null()).to_pylist():
                    counts.classes[str(found["values"])] += found["counts"]
            if choices.label.type in NUMERIC_TYPES:
                counts.label.add(
                    labels.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
                )
            for column in numbers if choices.kind.has_positives else ():
                _widen(counts.spans[column.header], values(column), labels)
            spool.add(
                ordinals,
                [_numbers_of(values(column)) for column in spool.columns],
                [
                    _numbers_of(pa.array(chunk.texts[place], pa.string()))
                    for name, place in places.items()
                    if name not in spooled
                ],
            )
            read += len(ordinals)
            if progress:
                progress(read)
    return counts


def _values(texts: list[str], column: Chosen, source: Source) -> Any:
    array = pa.array(texts, pa.string())
    nothing = pa.scalar(None, pa.string())
    array = pc.if_else(pc.is_in(array, value_set=pa.array(source.null_values, pa.string())), nothing, array)
    return conversion.cast(array, column.column, source)[0]


def _refuse_beyond(ordinals: NDArray[np.int32], day: Chosen, path: Path, lines: Sequence[int]) -> None:
    least, greatest = ((bound - _EPOCH).days for bound in (FIRST_DATE, LAST_DATE))
    beyond = np.flatnonzero((ordinals < least) | (ordinals > greatest))
    if len(beyond):
        first = int(beyond[0])
        found = np.datetime64(int(ordinals[first]), "D")
        raise FirstLookError(
            f"{path}, line {lines[first]}: {day.header} is {found}; event days lie between {FIRST_DATE} and "
            f"{LAST_DATE}. Leave such rows out, or take another --event-day"
        )


def _widen(span: _Span, values: Any, labels: Any) -> None:
    for label in (0, 1):
        chosen = values.filter(pc.fill_null(pc.equal(labels, label), False))
        if (found := pc.min_max(chosen).as_py())["min"] is not None:
            span.least[label] = min(span.least.get(label, found["min"]), found["min"])
            span.greatest[label] = max(span.greatest.get(label, found["max"]), found["max"])


def _numbers_of(values: Any) -> NDArray[np.uint64]:
    """A number for each value, the same for the same."""
    if pa.types.is_string(values.type):
        found = pd.util.hash_array(values.to_numpy(zero_copy_only=False), categorize=True)
    else:
        wide = values.view(pa.int32()) if pa.types.is_date32(values.type) else values
        wide = wide.view(pa.int64()) if pa.types.is_timestamp(wide.type) else wide
        wide = wide if pa.types.is_floating(wide.type) else wide.cast(pa.int64())
        found = pd.util.hash_array(wide.to_numpy(zero_copy_only=False))
    return np.asarray(found, dtype=np.uint64)


class _Spool:
    """Rows as numbers in files by event day: the day, one number for all of the row, and columns."""

    FIRST = 2
    """Where the columns' numbers begin."""

    def __init__(self, folder: Path, columns: Sequence[Chosen], parts: int) -> None:
        self.columns = list(columns)
        self.equal = 0
        self._paths = [folder / f"{n}" for n in range(parts)]
        self._files = [path.open("wb") for path in self._paths]

    def add(
        self,
        ordinals: NDArray[np.int32],
        numbers: Sequence[NDArray[np.uint64]],
        others: Sequence[NDArray[np.uint64]],
    ) -> None:
        """Keep rows.

        Args:
            numbers: of the columns that are looked at; ``others`` of those that aren't.
        """
        days = ordinals.astype(np.int64).astype(np.uint64)
        whole = _combined(
            np.column_stack([days, *numbers, *others]), range(1, 1 + len(numbers) + len(others))
        )
        rows = np.column_stack([days, whole, *numbers])
        part = ordinals % len(self._files)
        for n in np.unique(part):
            self._files[n].write(np.ascontiguousarray(rows[part == n]).tobytes())

    def close(self) -> None:
        """End the writing: of rows that are equal one stays."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            rows = self._rows(path)
            _, first = np.unique(rows[:, 1], return_index=True)
            if len(first) < len(rows):
                self.equal += len(rows) - len(first)
                rows[np.sort(first)].tofile(path)

    def parts(self) -> Iterator[NDArray[np.uint64]]:
        """All rows, those of a day together."""
        for path in self._paths:
            rows = self._rows(path)
            if len(rows):
                yield rows

    def _rows(self, path: Path) -> NDArray[np.uint64]:
        return np.fromfile(path, dtype=np.uint64).reshape(-1, self.FIRST + len(self.columns))

    def places(self, columns: Sequence[Chosen]) -> list[int]:
        """Where columns stand; the event day's is 0."""
        return [
            self.FIRST + self.columns.index(column) if column in self.columns else 0 for column in columns
        ]


def _combined(rows: NDArray[np.uint64], places: Sequence[int]) -> NDArray[np.uint64]:
    """One number for each row's event day and the values in some columns."""
    total = rows[:, 0] * np.uint64(0x9E3779B97F4A7C15)
    for place in places:
        total ^= rows[:, place]
        total *= np.uint64(0xFF51AFD7ED558CCD)
        total ^= total >> np.uint64(32)
    return total


# -- what tells rows apart ---------------------------------------------------------------------------


def _key(spool: _Spool, choices: Choices, answers: Answers, days: int) -> tuple[Key, list[Key]]:
    """The first combination of columns that no two rows of a day have in common, and others like it."""
    if answers.key:
        columns = tuple(choices.named(name) for name in answers.key)
        return _proved(spool, [columns], days)[0], []
    busiest = _busiest_day(spool)
    found: list[Key] = []
    # Measurements tell rows apart only where nothing else does.
    for candidates in ([one for one in spool.columns if one.type != "double"], spool.columns):
        possible = _possible(spool, candidates, choices, busiest)
        found += _proved(spool, [*possible[:PROVED_KEYS], *_widest(candidates, choices)], days)
        unique = [key for key in found if not key.repeats]
        if unique:
            others: list[Key] = []
            for key in unique[1:]:
                known = [unique[0], *others]
                if len(key.columns) <= LONGEST_KEY and not any(
                    {*other.columns} <= {*key.columns} for other in known
                ):
                    others.append(key)
            return unique[0], others[:3]
    found += _proved(spool, [(column,) for column in spool.columns[:KEY_COLUMNS]], days)
    usable = [key for key in found if not _is_all(key.columns, choices)]
    return min(usable, key=lambda key: (key.repeats, len(key.columns))), []


def _is_all(columns: Sequence[Chosen], choices: Choices) -> bool:
    """Whether there is no other column but the event day and the label: a contract can't have such a key."""
    return {*columns} >= {*choices.columns} - {choices.event_day, choices.label}


def _widest(columns: Sequence[Chosen], choices: Choices) -> list[tuple[Chosen, ...]]:
    """The keys of as many columns as a contract can have."""
    if not columns or not _is_all(columns, choices):
        return [tuple(columns) or (choices.event_day,)]
    return [chosen or (choices.event_day,) for chosen in itertools.combinations(columns, len(columns) - 1)]


def _possible(
    spool: _Spool, columns: Sequence[Chosen], choices: Choices, busiest: NDArray[np.uint64]
) -> list[tuple[Chosen, ...]]:
    """Combinations of few columns that no two rows of the busiest day have in common."""
    possible: list[tuple[Chosen, ...]] = [(choices.event_day,)] if len(busiest) <= 1 else []
    some = columns[:KEY_COLUMNS]
    for length in range(1, min(LONGEST_KEY, len(some)) + 1):
        for chosen in itertools.combinations(some, length):
            if _is_all(chosen, choices) or any(set(shorter) <= set(chosen) for shorter in possible):
                continue
            if _repeats(_combined(busiest, spool.places(chosen))) == 0:
                possible.append(chosen)
        if len(possible) >= PROVED_KEYS:
            break
    return possible


def _busiest_day(spool: _Spool) -> NDArray[np.uint64]:
    """Rows of the day that has the most, up to a bound."""
    best = np.empty((0, spool.FIRST + len(spool.columns)), dtype=np.uint64)
    for rows in spool.parts():
        found, counts = np.unique(rows[:, 0], return_counts=True)
        if counts.max() > len(best):
            best = rows[rows[:, 0] == found[counts.argmax()]][:TRIED_ROWS]
    return best


def _proved(spool: _Spool, keys: Sequence[tuple[Chosen, ...]], days: int) -> list[Key]:
    """Keys, held against all rows."""
    repeats, bad_days = [0] * len(keys), [0] * len(keys)
    for rows in spool.parts():
        for n, columns in enumerate(keys):
            combined = _combined(rows, spool.places(columns))
            order = np.argsort(combined, kind="stable")
            same = combined[order][1:] == combined[order][:-1]
            repeats[n] += int(same.sum())
            bad_days[n] += len(np.unique(rows[order[1:][same], 0]))
    return [Key(columns, repeats[n], days - bad_days[n]) for n, columns in enumerate(keys)]


def _repeats(numbers: NDArray[np.uint64]) -> int:
    return len(numbers) - len(np.unique(numbers))


# -- what comes back ---------------------------------------------------------------------------------


def _entity(
    spool: _Spool, choices: Choices, answers: Answers, key: Key, days: int
) -> tuple[tuple[Chosen, ...], str, bool]:
    """What is scored: given, or what is there on many days."""
    if answers.entity:
        chosen = tuple(choices.named(name) for name in answers.entity)
        why = "as you said"
    else:
        chosen, why = _recurring(spool, key, days)
    one_row = set(key.columns) <= {*chosen, choices.event_day} and not key.repeats
    if not one_row:
        one_row = not _proved(spool, [chosen], days)[0].repeats
    return chosen, why, one_row


def _recurring(spool: _Spool, key: Key, days: int) -> tuple[tuple[Chosen, ...], str]:
    found: dict[int, tuple[int, float]] = {}
    for n, column in enumerate(spool.columns):
        is_name = column.type == "string" or (
            column.type in ("integer", "long")
            and (_NAMES_OF_IDS.search(column.header) or column in key.columns)
        )
        if is_name:
            found[n] = _days_each(spool, spool.FIRST + n)
    recurring = {
        n: (values, each) for n, (values, each) in found.items() if values > 1 and each >= LEAST_DAYS_EACH
    }
    places = [place - spool.FIRST for place in spool.places(key.columns)]
    if len(places) == 1 and places[0] in recurring:
        values, each = recurring[places[0]]
        return key.columns, f"{values:,} of them, each on {each:,.1f} of {days:,} days on average"
    many = {n: one for n, one in recurring.items() if one[0] >= LEAST_ENTITIES}
    if many:
        best = max(many, key=lambda n: many[n][0])
        values, each = many[best]
        return (spool.columns[best],), (
            f"{values:,} of them, each on {each:,.1f} of {days:,} days on average; --entity if it is another"
        )
    return (
        key.columns,
        "ASSUMED: no column comes back from day to day like a customer would; --entity names one",
    )


def _entities_by_day(spool: _Spool, entity: Sequence[Chosen]) -> Counter[date]:
    found: Counter[date] = Counter()
    for rows in spool.parts():
        _, first = np.unique(_combined(rows, spool.places(entity)), return_index=True)
        for ordinal, count in zip(*np.unique(rows[first, 0], return_counts=True), strict=True):
            found[_EPOCH + timedelta(days=int(ordinal.astype(np.int64)))] += int(count)
    return found


def _days_each(spool: _Spool, place: int) -> tuple[int, float]:
    """How many values a column has, and on how many days each is on average."""
    seen: list[NDArray[np.uint64]] = []
    pairs = total = 0
    for rows in spool.parts():
        pairs += len(np.unique(_combined(rows, [place])))
        seen.append(np.unique(rows[:, place]))
        total += len(seen[-1])
        if total > COUNTED_VALUES:
            seen = [np.unique(np.concatenate(seen))]
            total = len(seen[0])
            if total > COUNTED_VALUES:
                return total, 1.0
    values = len(np.unique(np.concatenate(seen))) if seen else 0
    return values, pairs / values if values else 0.0
