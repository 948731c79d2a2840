"""What was known of a day when: rows as they were before a later delivery changed them.

Most rows are delivered once. Of those that a later file corrects, adds or replaces, every state stays, with
the mornings between which it was the truth, in the table ``ards_versions``: all states of the keys that have
more than one. Days that were never corrected have no rows in it. What models learn from is made of these in
:mod:`.served_states`.

Everything here is a function of all records or rows of some keys of a day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import LABEL_KNOWN_ON
from ml_platform.data_engineering import resolution
from ml_platform.data_engineering.day_statistics import Counted, CountedPart, Counting
from ml_platform.data_engineering.delivery_file import EARLIER_ROW, DeliveryFile
from ml_platform.data_engineering.row_states import (
    INTERVAL,
    KNOWN_FROM,
    KNOWN_TO,
    Integers,
    Runs,
    numbered,
    ordinals_of,
    shared,
    valid_on,
)
from ml_platform.storage.fingerprints import ContentSums


def ards_schema(product: Product) -> pa.Schema:
    """The schema of ``ards_versions``: a row of the ARDS, and from which morning until which it was one.

    ``known_to`` is the morning on which it was one no longer; null of the present one.
    """
    return pa.schema([*resolution.rows_schema(product), *INTERVAL])


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
    labels_on = ordinals_of(chosen[LABEL_KNOWN_ON])
    has_label = resolution.delivered_labels(product, chosen).is_valid().to_numpy()
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
    own = [name for name in rows.column_names if name not in resolution.label_columns(product)]
    key = numbered([rows[name] for name in resolution.keys(product)], len(rows))
    runs = Runs.of(product, rows, key, mornings, at, numbered([rows[name] for name in own], len(rows)))
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
        changed = shared(rows, versions, resolution.keys(product))
        unchanged = rows.filter(pa.array(~changed))
        known = pa.concat_tables([unchanged, valid_on(versions, morning).select(rows.column_names)])
    at = pa.scalar(morning, pa.date32())
    is_known = pc.fill_null(pc.less_equal(known[LABEL_KNOWN_ON], at), False)
    for name in resolution.label_columns(product):
        field = known.schema.field(name)
        values = pc.if_else(is_known, known[name], pa.scalar(None, field.type))
        known = known.set_column(known.schema.get_field_index(name), field, values)
    return known


def _changing(product: Product, entries: pa.Table, timeline: Timeline) -> pa.Table:
    """The records of the keys that may have had more than one state."""
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
    label = resolution.delivered_labels(product, entries)
    has_label = label.is_valid().to_numpy()
    pairs = np.unique(np.column_stack([key[has_label], numbered([label], len(entries))[has_label]]), axis=0)
    changing[np.bincount(pairs[:, 0], minlength=len(changing)) > 1] = True
    return entries.filter(pa.array(changing[key]))


def _labels_repeat(product: Product, entries: pa.Table) -> bool:
    """Whether any key has had several labels, since several mornings."""
    labelled = entries.filter(resolution.delivered_labels(product, entries).is_valid())
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
