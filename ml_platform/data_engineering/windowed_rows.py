"""Rows of the MRDS get what is of trailing windows, and labels that look ahead: a function of Arrow tables.

Where these come from, and where what is made of them goes, is said by :mod:`.windowed_days` and
:mod:`.windowed_by_spark`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.trailing import days_reached
from ml_platform.data_engineering import aggregation, ahead_labels, served_states, trailing_windows
from ml_platform.data_engineering.made_columns import with_made_columns
from ml_platform.data_engineering.population import Population
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.trailing_windows import BEYOND, MORNING, UsableDays

#: Rows of days, with entities that have none of theirs, of which windows are put together at once.
OUTPUTS_AT_ONCE = 500_000


@dataclass(frozen=True)
class DayOnTheWay:
    """A day's rows of some entities, or of all, before they have what is of windows.

    Attributes:
        rows: as they are now, in :func:`.aggregation.own_schema`.
        states: as they were served, in :func:`.served_states.own_schema`.
    """

    day: date
    rows: pa.Table
    states: pa.Table


@dataclass(frozen=True)
class Windowing:
    """What decides the windows of days, beside what these hold. It travels to tasks.

    Attributes:
        usable: which days windows may hold.
        labels: by event day, the mornings on which a label that looks ahead was given, and then changed.
        mornings: those that count for each day with states.
    """

    product: Product
    usable: UsableDays
    labels: Mapping[date, Sequence[date]]
    mornings: Mapping[date, Sequence[Morning]]

    def complete(
        self, days: Sequence[DayOnTheWay], kept: pa.Table, versions: pa.Table
    ) -> Iterator[tuple[date, pa.Table, pa.Table]]:
        """Each day with its rows and its states, in the schemas of the MRDS and of what was served of it.

        Args:
            kept, versions: what is kept of the days in the windows, at least of the entities of these days,
                and its states. Where there is a population, of all entities that could have rows.

        Raises:
            TooLargeError: a total of a window is beyond its type.
        """
        if self.product.mrds.population is None:
            yield from self._complete(days, kept, versions)
            return
        tables = [(of_day.day, of_day.rows, of_day.states) for of_day in days]
        population = Population(self.product, kept, versions, self.usable, tables)
        waiting: list[DayOnTheWay] = []
        for place, of_day in enumerate(days):
            with_silent = population.with_silent(place, self.mornings.get(of_day.day))
            waiting.append(DayOnTheWay(of_day.day, *with_silent))
            if sum(len(other.rows) + len(other.states) for other in waiting) > OUTPUTS_AT_ONCE:
                yield from self._complete(waiting, kept, versions)
                waiting = []
        if waiting:
            yield from self._complete(waiting, kept, versions)

    def _complete(
        self, days: Sequence[DayOnTheWay], kept: pa.Table, versions: pa.Table
    ) -> Iterator[tuple[date, pa.Table, pa.Table]]:
        product = self.product
        names = [*product.entity_of_day, EVENT_DAY]
        now = [
            of_day.rows.select(names).append_column(MORNING, pa.nulls(len(of_day.rows), pa.date32()))
            for of_day in days
        ]
        served = [of_day.states.select([*names, MORNING]) for of_day in days]
        values = trailing_windows.fold(
            product, pa.concat_tables([*now, *served]), kept, versions, self.usable
        )
        labels = self._labels(days, kept, versions)
        at = 0
        cut: list[pa.Table] = []
        for table in (*now, *served):
            cut.append(values.slice(at, len(table)))
            at += len(table)
        for number, of_day in enumerate(days):
            of_rows, of_states = cut[number], cut[len(days) + number]
            mornings = self.labels.get(of_day.day, ())
            rows = with_windows(product, of_day.rows, of_rows, aggregation.schema(product, with_ahead=False))
            could = pc.invert(of_states[BEYOND])
            states = with_windows(
                product,
                of_day.states.filter(could),
                of_states.filter(could),
                served_states.served_schema(product, with_ahead=False),
            )
            if product.mrds.ahead:
                rows = ahead_labels.labelled(product, rows, mornings, labels[number])
                rows = rows.select(aggregation.schema(product).names)
                of_could = np.tile(could.to_numpy(zero_copy_only=False), len(mornings))
                given = labels[len(days) + number][of_could]
                states = ahead_labels.labelled_states(product, states, mornings, given)
                states = states.select(served_states.served_schema(product).names)
            yield of_day.day, rows, states

    def _labels(
        self, days: Sequence[DayOnTheWay], kept: pa.Table, versions: pa.Table
    ) -> list[NDArray[np.bool_]]:
        """The labels that look ahead, of each day's rows and then of each day's states, by morning."""
        product = self.product
        if not product.mrds.ahead:
            return []
        names = [*product.entity_of_day, EVENT_DAY]
        tables = [
            *((of_day.day, of_day.rows) for of_day in days),
            *((of_day.day, of_day.states) for of_day in days),
        ]
        asked = [ahead_labels.outputs(table, self.labels.get(day, ()), names) for day, table in tables]
        outputs = pa.concat_tables(asked)
        parts = [
            trailing_windows.fold_labels(
                product, outputs.slice(begin, OUTPUTS_AT_ONCE), kept, versions, self.usable
            )
            for begin in range(0, len(outputs), OUTPUTS_AT_ONCE)
        ]
        found = np.concatenate([np.zeros(0, dtype=bool), *parts])
        return np.split(found, np.cumsum([len(outputs) for outputs in asked])[:-1])


def reached(product: Product, days: Sequence[date]) -> DayRange | None:
    """The days that the windows of some days hold together, from the first of these to the last."""
    return days_reached(product.mrds.looks, days[0], product.start, until=days[-1])


def with_windows(product: Product, rows: pa.Table, values: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with what their windows gave, and what is made of that, in a schema."""
    for name in values.column_names:
        rows = rows.append_column(name, values[name])
    return with_made_columns(product, rows, schema)
