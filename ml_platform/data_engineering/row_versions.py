"""What was known of a day when: rows as they were before a later delivery changed them.

Most rows are delivered once. Of those that a later file corrects, adds or replaces, every state stays, with
the mornings between which it was the truth: those of the ARDS in the table ``ards_versions``, which holds
all states of the keys that have more than one. What models learn from is in ``mrds_served``, for days that
have such keys: each row as it was when its day was first scored, with its label as it was known. Days that
were never corrected have no rows in either.

Everything here is a function of all records or rows of some keys, or entities, of a day.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import aggregation, resolution
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.day_statistics import Counted, CountedPart, Counting
from ml_platform.data_engineering.delivery_file import EARLIER_ROW, DeliveryFile
from ml_platform.storage.fingerprints import ContentSums

KNOWN_FROM, KNOWN_TO = "known_from", "known_to"
#: Whether a row of ``mrds_served`` is the one that its entity was scored from.
IS_SCORED = "is_scored"

Integers = NDArray[np.int64]

_INTERVAL = (pa.field(KNOWN_FROM, pa.date32()), pa.field(KNOWN_TO, pa.date32()))
_NO_LABEL = -1


def ards_schema(product: Product) -> pa.Schema:
    """The schema of ``ards_versions``: a row of the ARDS, and from which morning until which it was one.

    ``known_to`` is the morning on which it was one no longer; null of the present one.
    """
    return pa.schema([*resolution.rows_schema(product), *_INTERVAL])


def served_schema(product: Product) -> pa.Schema:
    """The schema of ``mrds_served``: a row of the MRDS, and as of which dates models learn from it.

    Those from ``known_from`` on, and before ``known_to`` if that isn't null.
    """
    return pa.schema([*aggregation.schema(product), *_INTERVAL, pa.field(IS_SCORED, pa.bool_())])


@dataclass(frozen=True)
class Morning:
    """A morning on which rows of a day came.

    Attributes:
        replaces: whether what came replaces the day, so that it is read as repaired from then on.
        is_usable: whether the day could be used as it was known then.
    """

    day: date
    replaces: bool = False
    is_usable: bool = True


@dataclass(frozen=True)
class Timeline:
    """Since when the rows of a day's files are known, by the file's number, and which replace the day."""

    rows_known_on: Mapping[int, date]
    replacing: tuple[int, ...] = ()

    @classmethod
    def of(cls, files: Sequence[DeliveryFile]) -> Timeline:
        """That of a day's files, or of parts of them."""
        with_rows = {file.number: file for file in files if not file.labels_only}
        return cls(
            {number: file.rows_known_on for number, file in with_rows.items()},
            tuple(sorted(number for number, file in with_rows.items() if file.replaces)),
        )

    @property
    def mornings(self) -> list[Morning]:
        """The mornings on which rows came, ascending."""
        replaced_on = {self.rows_known_on[number] for number in self.replacing}
        return [Morning(day, day in replaced_on) for day in sorted(set(self.rows_known_on.values()))]

    def begins_with(self, morning: date) -> int:
        """The number of the file that rows known on a morning begin with."""
        known = [number for number in self.replacing if self.rows_known_on[number] <= morning]
        return max(known, default=0)


# -- the ARDS ---------------------------------------------------------------------------------------


def ards_versions(product: Product, day: date, entries: pa.Table, timeline: Timeline) -> pa.Table:
    """All states of the keys that have had more than one, in :func:`ards_schema`.

    A label that comes is no new state of its row; one that changes is.

    Args:
        entries: as for :func:`.resolution.resolve`, with the rows of files that were replaced.
    """
    schema = ards_schema(product)
    chosen = _changing(product, entries, timeline)
    if not len(chosen):
        return schema.empty_table()
    rows_on = _rows_known_on(chosen, timeline)
    labels_on = _ordinals(chosen[LABEL_KNOWN_ON])
    has_label = chosen[product.label].is_valid().to_numpy()
    is_row = _is_row(chosen)
    first = min(timeline.rows_known_on.values()).toordinal()
    # What replaces a day may have nothing of its own.
    replaced_on = [timeline.rows_known_on[number].toordinal() for number in timeline.replacing]
    moments = np.concatenate(
        [rows_on[is_row], labels_on[~is_row & has_label], np.array(replaced_on, dtype=np.int64)]
    )
    mornings = [date.fromordinal(moment) for moment in np.unique(np.maximum(moments, first)).tolist()]
    states = []
    for morning in mornings:
        known = _there_on(chosen, timeline, morning, rows_on, labels_on)
        states.append(resolution.resolve(product, day, known).rows)
    rows = pa.concat_tables(states)
    if not len(rows):
        return schema.empty_table()
    at = np.repeat(np.arange(len(states)), [len(state) for state in states])
    own = [name for name in rows.column_names if name not in (product.label, LABEL_KNOWN_ON)]
    key = numbered([rows[name] for name in resolution.keys(product)], len(rows))
    runs = _Runs.of(product, rows, key, mornings, at, numbered([rows[name] for name in own], len(rows)))
    found = runs.states(rows)
    # A key of one state since the day's first morning has never changed.
    several = pa.array(np.bincount(runs.groups)[runs.groups] > 1)
    later = pc.greater(found[KNOWN_FROM], pa.scalar(date.fromordinal(first), pa.date32()))
    return found.filter(pc.or_(pc.or_(several, later), found[KNOWN_TO].is_valid())).cast(schema)


def as_known(product: Product, rows: pa.Table, versions: pa.Table, morning: date) -> pa.Table:
    """Rows of the ARDS as they were known on a morning.

    Args:
        rows: the present ones.
        versions: all states of those that have had more than one.
    """
    known = rows
    if len(versions):
        changed = _shared(rows, versions, resolution.keys(product))
        unchanged = rows.filter(pa.array(~changed))
        known = pa.concat_tables([unchanged, valid_on(versions, morning).select(rows.column_names)])
    at = pa.scalar(morning, pa.date32())
    is_known = pc.fill_null(pc.less_equal(known[LABEL_KNOWN_ON], at), False)
    for name in (product.label, LABEL_KNOWN_ON):
        field = known.schema.field(name)
        values = pc.if_else(is_known, known[name], pa.scalar(None, field.type))
        known = known.set_column(known.schema.get_field_index(name), field, values)
    return known


def _changing(product: Product, entries: pa.Table, timeline: Timeline) -> pa.Table:
    """The records of the keys that may have had more than one state."""
    label = product.label
    dated = len(set(timeline.rows_known_on.values())) > 1
    if not len(entries) or (not dated and not _labels_repeat(product, entries)):
        return entries.slice(0, 0)
    key = numbered([entries[name] for name in resolution.keys(product)], len(entries))
    changing = np.zeros(key.max() + 1, dtype=bool)
    if dated:
        first = min(timeline.rows_known_on.values()).toordinal()
        late = _rows_known_on(entries, timeline) > first
        replaced = pc.equal(entries["_kind"], EARLIER_ROW).to_numpy()
        changing[key[_is_row(entries) & (late | replaced)]] = True
    has_label = entries[label].is_valid().to_numpy()
    pairs = np.unique(
        np.column_stack([key[has_label], numbered([entries[label]], len(entries))[has_label]]), axis=0
    )
    changing[np.bincount(pairs[:, 0], minlength=len(changing)) > 1] = True
    return entries.filter(pa.array(changing[key]))


def _labels_repeat(product: Product, entries: pa.Table) -> bool:
    """Whether any key has had several labels, since several mornings."""
    labelled = entries.filter(entries[product.label].is_valid())
    if len(set(pc.unique(labelled[LABEL_KNOWN_ON]).to_pylist())) < 2:
        return False
    key = numbered([labelled[name] for name in resolution.keys(product)], len(labelled))
    return len(labelled) > int(key.max()) + 1


def _there_on(
    entries: pa.Table, timeline: Timeline, morning: date, rows_on: Integers, labels_on: Integers
) -> pa.Table:
    """Those of a day's records that were there on a morning, in the kinds that they had then.

    A label that came with its row is among them, whenever it counts as known.
    """
    at = morning.toordinal()
    is_row = _is_row(entries)
    number = entries["_file_number"].to_numpy()
    row_counts = is_row & (rows_on <= at) & (number >= timeline.begins_with(morning))
    label_counts = ~is_row & (labels_on <= at)
    kind = pa.array(np.where(is_row, "row", "label"))
    found = entries.set_column(entries.schema.get_field_index("_kind"), "_kind", kind)
    return found.filter(pa.array(row_counts | label_counts))


def _is_row(entries: pa.Table) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(entries["_kind"], pa.array(["row", EARLIER_ROW])).to_numpy()
    return found


def _rows_known_on(entries: pa.Table, timeline: Timeline) -> Integers:
    """The morning of each record's row as an ordinal; 0 of those of label files."""
    number = entries["_file_number"].to_numpy()
    known = np.zeros(int(number.max()) + 1 if len(number) else 1, dtype=np.int64)
    for file, morning in timeline.rows_known_on.items():
        if file < len(known):
            known[file] = morning.toordinal()
    of_rows: Integers = known[number]
    return of_rows


def _ordinals(days: pa.ChunkedArray) -> Integers:
    """Days as ordinals; beyond all days where there is none."""
    numbers = pc.fill_null(days.cast(pa.int32()), (date.max - date(1970, 1, 1)).days).to_numpy()
    found: Integers = numbers.astype(np.int64) + date(1970, 1, 1).toordinal()
    return found


@dataclass(frozen=True)
class History:
    """What is counted of a day's versions, or of a part of it; parts add up.

    Attributes:
        mornings: those on which rows of the day came, ascending.
        content: of the versions.
        earlier: of each morning but the last, what the day held then; not of a whole day without versions.
    """

    mornings: list[Morning]
    content: ContentSums
    earlier: list[CountedPart]


def changes(
    product: Product,
    day: date,
    entries: pa.Table,
    rows: pa.Table,
    timeline: Timeline,
    counting: Counting,
    *,
    is_whole: bool = False,
) -> tuple[pa.Table, History]:
    """What :func:`ards_versions` finds among some records of a day, and what is counted of it.

    Args:
        rows: what the records become now.
    """
    versions = ards_versions(product, day, entries, timeline)
    mornings = timeline.mornings
    earlier = [
        counting.of_part(as_known(product, rows, versions, morning.day), is_whole=is_whole)
        for morning in mornings[:-1]
        if len(versions) or not is_whole
    ]
    return versions, History(mornings, ContentSums.of(versions, versions.column_names), earlier)


@dataclass(frozen=True)
class DayHistory:
    """What a day with versions held on each morning on which rows of it came, but for the last.

    Attributes:
        versions: how many states there are of rows that have had several.
        fingerprint: of these.
    """

    mornings: tuple[Morning, ...]
    versions: int
    fingerprint: str
    earlier: tuple[Counted, ...]

    @classmethod
    def of(cls, histories: Sequence[History], counting: Counting) -> DayHistory | None:
        """That of the day which these parts make up; None if nothing of it has ever changed."""
        content = sum((history.content for history in histories), ContentSums())
        if not content.rows:
            return None
        mornings = histories[0].mornings
        earlier = [
            counting.of_parts([history.earlier[place] for history in histories])
            for place in range(len(mornings) - 1)
        ]
        fingerprint = content.fingerprint([*counting.columns, KNOWN_FROM, KNOWN_TO])
        return cls(tuple(mornings), content.rows, fingerprint, tuple(earlier))


# -- the MRDS ---------------------------------------------------------------------------------------


def served(
    product: Product, day: date, rows: pa.Table, versions: pa.Table, mornings: Sequence[Morning]
) -> pa.Table:
    """The rows of a corrected day that models learn from, in :func:`served_schema`.

    A row is as it was on the first morning on which the day was usable and had the entity; what replaced the
    day begins anew. As of a morning on which the day can't be used, or hasn't the entity, there is none.

    Args:
        rows: of the ARDS, of some entities all, with :func:`.aggregation.columns`.
        versions: of the same entities; a key's versions may be of others as well.
        mornings: those on which rows of the whole day came, ascending.
    """
    entity = [name for name in product.entity if name != EVENT_DAY]
    names = aggregation.columns(product)
    now, states = rows.select(names), versions.select([*names, KNOWN_FROM, KNOWN_TO])
    changed = _shared(now, states, resolution.keys(product))
    of_entities = _shared(now, states, entity)
    schema = served_schema(product)
    found = [schema.empty_table(), *_unchanged(product, day, now.filter(pa.array(~of_entities)), mornings)]
    if len(states):
        beside = now.filter(pa.array(of_entities & ~changed))
        found.append(_changed(product, day, beside, states, mornings))
    return pa.concat_tables(found)


def _unchanged(product: Product, day: date, rows: pa.Table, mornings: Sequence[Morning]) -> list[pa.Table]:
    """The rows of entities that nothing was corrected of, once for each time in which the day was usable."""
    made = aggregation.aggregate(product, day, rows)
    found: list[pa.Table] = []
    for start, end in _usable(mornings):
        columns = {
            KNOWN_FROM: pa.repeat(pa.scalar(start, pa.date32()), len(made)),
            KNOWN_TO: pa.repeat(pa.scalar(end, pa.date32()), len(made)),
            IS_SCORED: pa.repeat(not found, len(made)),
        }
        part = made
        for name, values in columns.items():
            part = part.append_column(name, values)
        found.append(part.cast(served_schema(product)))
    return found


def _usable(mornings: Sequence[Morning]) -> list[tuple[date, date | None]]:
    """The times in which a day was usable: from one morning to before another, or to now."""
    found: list[tuple[date, date | None]] = []
    for is_usable, group in itertools.groupby(
        zip(mornings, [*mornings[1:], None], strict=True), key=lambda pair: pair[0].is_usable
    ):
        pairs = list(group)
        if is_usable:
            after = pairs[-1][1]
            found.append((pairs[0][0].day, after.day if after else None))
    return found


def _changed(
    product: Product, day: date, beside: pa.Table, versions: pa.Table, mornings: Sequence[Morning]
) -> pa.Table:
    """The rows of the entities that have had more than one state.

    Args:
        beside: their other rows, which have always been as they are.
    """
    bounds = {value for name in (KNOWN_FROM, KNOWN_TO) for value in versions[name].to_pylist() if value}
    moments = sorted(bounds | {morning.day for morning in mornings})
    states, at = [], []
    for place, moment in enumerate(moments):
        before = [morning for morning in mornings if morning.day <= moment]
        if not before or not before[-1].is_usable:
            continue
        known = pa.concat_tables([beside, valid_on(versions, moment).select(beside.column_names)])
        try:
            state = aggregation.aggregate(product, day, known)
        except TooLargeError:
            continue  # nobody could use what was known then
        states.append(state)
        at.append(np.full(len(state), place))
    rows = pa.concat_tables([aggregation.schema(product).empty_table(), *states])
    if not len(rows):
        return served_schema(product).empty_table()
    moment_of = np.concatenate(at)
    entity = numbered([rows[name] for name in product.entity if name != EVENT_DAY], len(rows))
    replaced = sorted(morning.day for morning in mornings if morning.replaces)
    epochs = np.array([sum(day <= moment for day in replaced) for moment in moments])[moment_of]
    order = np.lexsort((moment_of, epochs, entity))
    begins = np.r_[True, (np.diff(entity[order]) != 0) | (np.diff(epochs[order]) != 0)]
    source = np.empty(len(rows), dtype=np.int64)
    source[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))]
    features = rows.take(pa.array(source))
    as_served = features
    for name in (product.label, LABEL_KNOWN_ON):
        as_served = as_served.set_column(
            rows.schema.get_field_index(name), rows.schema.field(name), rows[name]
        )
    runs = _Runs.of(product, as_served, entity, moments, moment_of, source)
    is_scored = np.r_[True, np.diff(runs.groups) != 0]
    found = runs.states(as_served).append_column(IS_SCORED, pa.array(is_scored))
    return found.cast(served_schema(product))


# -- both -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """States of rows that stand from one moment to another, each from the first row of it to the last.

    Attributes:
        groups: the number of the row's key or entity, ascending.
        moments: all of them, ascending.
        starts, ends: the places among these of each run's first and last row.
        last: where each run's last row stands.
    """

    moments: Sequence[date]
    groups: Integers
    starts: Integers
    ends: Integers
    last: Integers

    @classmethod
    def of(
        cls,
        product: Product,
        rows: pa.Table,
        groups: Integers,
        moments: Sequence[date],
        at: Integers,
        content: Integers,
    ) -> _Runs:
        """The runs of rows with the same group and content at successive moments.

        A label that comes ends no run if it is known since then or later, as whoever reads the run then sees
        it in time. One that a correction brings although it has been known for longer ends a run, as one does
        that changes, goes, or is known since another day.

        Args:
            at: the place of each row's moment among ``moments``.
        """
        label = numbered([rows[product.label], rows[LABEL_KNOWN_ON]], len(rows))
        label[rows[product.label].is_null().to_numpy()] = _NO_LABEL
        ordinals = np.array([moment.toordinal() for moment in moments], dtype=np.int64)
        was_known = _ordinals(rows[LABEL_KNOWN_ON]) < ordinals[at]
        order = np.lexsort((at, groups))
        groups, at, content = groups[order], at[order], content[order]
        label, was_known = label[order], was_known[order]
        begins = np.r_[
            True,
            (np.diff(groups) != 0)
            | (np.diff(at) != 1)
            | (np.diff(content) != 0)
            | ((np.diff(label) != 0) & ((label[:-1] != _NO_LABEL) | was_known[1:])),
        ]
        (first,) = np.nonzero(begins)
        last = np.r_[first[1:], len(order)] - 1
        return cls(moments, groups[first], at[first], at[last], order[last])

    def states(self, rows: pa.Table) -> pa.Table:
        """The last row of each run, from which moment it stands, and at which it no longer does, if ever."""
        days = pa.array([*self.moments, None], pa.date32())
        found = rows.take(pa.array(self.last))
        for column, places in zip(_INTERVAL, (self.starts, self.ends + 1), strict=True):
            found = found.append_column(column, days.take(pa.array(places)))
        return found


def valid_on(rows: pa.Table, morning: date) -> pa.Table:
    """The states that stood on a morning; of rows of ``mrds_served``, what a model as of then learns from."""
    at = pa.scalar(morning, pa.date32())
    ended = pc.fill_null(pc.less_equal(rows[KNOWN_TO], at), False)
    return rows.filter(pc.and_(pc.less_equal(rows[KNOWN_FROM], at), pc.invert(ended)))


def _shared(rows: pa.Table, others: pa.Table, keys: Sequence[str]) -> NDArray[np.bool_]:
    """Of each row, whether the other table has one of the same key."""
    together = [pa.chunked_array([*rows[key].chunks, *others[key].chunks], rows[key].type) for key in keys]
    number = numbered(together, len(rows) + len(others))
    return np.isin(number[: len(rows)], number[len(rows) :])


def numbered(columns: Sequence[Any], rows: int) -> Integers:
    """A number from 0 on for each row, alike exactly where all columns are; null is a value."""
    found = np.zeros(rows, dtype=np.int64)
    for column in columns:
        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
        if len(codes):
            _, found = np.unique(found * (codes.max() + 1) + codes, return_inverse=True)
    return found.astype(np.int64)
