"""Who has a row of the MRDS on a day without rows of its own: entities that were active lately.

Whom a day has beside those with rows of it is settled on the morning on which it is scored first: who turns
out later to have been active has a row from the next day on. A delivery that replaces the day settles it
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation, served_states
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO, numbered, ordinals_of, shared
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform.data_engineering.trailing_windows import MORNING, UsableDays

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Population:
    """The entities of a share of all, and on which days they had rows.

    Attributes:
        kept, versions: what is kept of the days in the windows, of all entities of the share, and its states.
        own: some days with their own rows, in :func:`.aggregation.own_schema`, and the states of these, in
            :func:`.served_states.own_schema`.
    """

    product: Product
    kept: pa.Table
    versions: pa.Table
    usable: UsableDays
    own: Sequence[tuple[date, pa.Table, pa.Table]]

    def with_silent(self, place: int, mornings: Sequence[Morning] | None) -> tuple[pa.Table, pa.Table]:
        """The rows and states of a day, with those of the entities that have none of the day.

        Args:
            place: that of the day.
            mornings: of a day with states, those that count for it.
        """
        day, rows, states = self.own[place]
        known = self._numbered(place)
        silent = np.setdiff1d(self._active(known, day, None), known.of_rows)
        together = pa.concat_tables([rows, self._rows(known, day, silent)])
        if mornings is None:
            return together, states
        return together, self._states(known, day, states, mornings)

    def _states(self, known: _Numbered, day: date, states: pa.Table, mornings: Sequence[Morning]) -> pa.Table:
        times = served_states.usable_times(mornings, by_epoch=True)
        begun = ordinals_of(states[KNOWN_FROM])
        ended = ordinals_of(states[KNOWN_TO])
        scored = sorted({time.scored for time in times})
        epoch = np.searchsorted([morning.toordinal() for morning in scored], begun, side="right") - 1
        stays = np.ones(len(states), dtype=bool)
        found: list[pa.Table] = []
        numbers: list[Integers] = []
        for place, morning in enumerate(scored):
            at = morning.toordinal()
            own = known.of_states[(begun <= at) & (at < ended)]
            silent = np.setdiff1d(self._active(known, day, morning), own)
            # Who was scored without rows of the day stays as scored when some come.
            stays &= ~((epoch == place) & np.isin(known.of_states, silent))
            for time in times:
                if time.scored == morning:
                    part = self._rows(known, day, silent)
                    for name, value in {
                        KNOWN_FROM: time.start,
                        KNOWN_TO: time.end,
                        MORNING: morning,
                    }.items():
                        part = part.append_column(name, pa.repeat(pa.scalar(value, pa.date32()), len(part)))
                    part = part.append_column(IS_SCORED, pa.repeat(False, len(part)))
                    found.append(part.select(states.schema.names).cast(states.schema))
                    numbers.append(silent)
        rows = pa.concat_tables([states.filter(pa.array(stays)), *found])
        return _scored_once(rows, np.concatenate([known.of_states[stays], *numbers]))

    def _rows(self, known: _Numbered, day: date, chosen: Integers) -> pa.Table:
        """Rows of entities without any of the day: nothing was counted or spent, and all else is null."""
        product = self.product
        entities = known.entities(chosen)
        columns: list[Any] = []
        for field in aggregation.own_schema(product):
            if field.name in entities.column_names:
                columns.append(entities[field.name].cast(field.type))
            elif field.name == EVENT_DAY:
                columns.append(pa.repeat(pa.scalar(day, pa.date32()), len(chosen)))
            elif product.mrds.aggregate.get(field.name) in ("count", "sum"):
                columns.append(pa.repeat(pa.scalar(0, field.type), len(chosen)))
            else:
                columns.append(pa.nulls(len(chosen), field.type))
        return pa.table(columns, schema=aggregation.own_schema(product))

    def _active(self, known: _Numbered, day: date, morning: date | None) -> Integers:
        """The numbers of the entities with rows on the days that count, as known on a morning or now."""
        population = self.product.mrds.population
        if population is None:
            return np.zeros(0, dtype=np.int64)
        last = day.toordinal()
        first = (day - timedelta(days=population.active_within_days - 1)).toordinal()
        days = self._days
        inside = np.flatnonzero((days >= first) & (days <= last))
        could = self.usable.flags(morning, days[inside])
        stood = self._stood(morning)[inside]
        marked = np.zeros(known.count, dtype=bool)
        marked[known.of_kept[inside[could & stood]]] = True
        return np.flatnonzero(marked)

    def _numbered(self, place: int) -> _Numbered:
        """The entities, and which of them a day's rows are of."""
        keys, first, parts = self._numbers
        return _Numbered(keys, first, parts[0], *parts[1 + 2 * place : 3 + 2 * place])

    @cached_property
    def _numbers(self) -> tuple[pa.Table, Integers, list[Integers]]:
        """The entities of all tables, where each is first, and the numbers of each table."""
        names = self.product.entity_of_day
        of_days = [table for _, *both in self.own for table in both]
        tables = [table.select(names) for table in (self.kept, self.versions, *of_days)]
        keys = pa.concat_tables(tables).combine_chunks()
        number = numbered([keys[name] for name in names], len(keys))
        _, first = np.unique(number, return_index=True)
        ends = np.cumsum([len(tables[0]) + len(tables[1]), *(len(table) for table in tables[2:])])
        return keys, first, np.split(number, ends[:-1])

    @cached_property
    def _days(self) -> Integers:
        """The days of what is kept, and then of its states, as ordinals."""
        return np.concatenate([ordinals_of(self.kept[EVENT_DAY]), ordinals_of(self.versions[EVENT_DAY])])

    def _stood(self, morning: date | None) -> Flags:
        """Which rows of what is kept, and then which of its states, stood on a morning, or do now."""
        count = len(self.kept)
        found = np.zeros(len(self._days), dtype=bool)
        if morning is None:
            found[:count] = True
            return found
        at = morning.toordinal()
        found[:count] = ~self._has_states
        begun, ended = (ordinals_of(self.versions[name]) for name in (KNOWN_FROM, KNOWN_TO))
        found[count:] = (begun <= at) & (at < ended)
        return found

    @cached_property
    def _has_states(self) -> Flags:
        """Of each row of what is kept, whether it has had several states."""
        return shared(self.kept, self.versions, [*self.product.entity_of_day, EVENT_DAY])


@dataclass(frozen=True)
class _Numbered:
    """The entities of some tables by numbers.

    Attributes:
        keys: the entities' columns, of all tables one after another.
        first: where each number stands first.
        of_kept, of_rows, of_states: the numbers of what is kept with its states, of a day's rows, and of its
            states.
    """

    keys: pa.Table
    first: Integers
    of_kept: Integers
    of_rows: Integers
    of_states: Integers

    @property
    def count(self) -> int:
        return len(self.first)

    def entities(self, chosen: Integers) -> pa.Table:
        """The columns of some entities."""
        return self.keys.take(pa.array(self.first[chosen]))


def _scored_once(states: pa.Table, numbers: Integers) -> pa.Table:
    """States of which the first one of each entity is the one that it was scored from."""
    order = np.lexsort((ordinals_of(states[KNOWN_FROM]), numbers))
    begins = np.r_[True, np.diff(numbers[order]) != 0][: len(order)]
    is_scored = np.zeros(len(states), dtype=bool)
    is_scored[order[begins]] = True
    at = states.schema.get_field_index(IS_SCORED)
    return states.set_column(at, states.schema.field(at), pa.array(is_scored))
