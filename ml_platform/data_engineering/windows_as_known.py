"""The MRDS of some days as it would have been on earlier mornings, with its windows as known then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation, trailing_windows
from ml_platform.data_engineering.made_columns import with_made_columns
from ml_platform.data_engineering.rows_as_known import EntitiesAsKnown
from ml_platform.data_engineering.trailing_windows import BEYOND, MORNING, UsableDays
from ml_platform.data_engineering.windowed_days import KeptDays
from ml_platform.data_engineering.windowed_rows import with_windows

#: Rows of days that are put together at once, so that their windows are read once for all; a day at least.
ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class WholeEntitiesAsKnown:
    """The entities of some days with all their columns. It travels to the tasks.

    Attributes:
        kept: what windows are put together from; None if the contract has none.
        usable: which days they may hold.
    """

    entities: EntitiesAsKnown
    kept: KeptDays | None
    usable: UsableDays

    def read(self, _: int, days: Sequence[date], columns: Sequence[str]) -> Iterator[tuple[date, pa.Table]]:
        """Each day with its entities; a day without any is left out."""
        names = list(columns)
        for some in self._at_once(days):
            for day, rows in self._whole(some).items():
                if len(rows):
                    yield day, rows.select(names).combine_chunks()

    def _at_once(self, days: Sequence[date]) -> Iterator[dict[date, pa.Table]]:
        """The days with what is of each by itself, a few at a time."""
        found: dict[date, pa.Table] = {}
        for day, rows in self.entities.read(-1, days, aggregation.own_schema(self._product).names):
            if found and sum(map(len, found.values())) + len(rows) > ROWS_AT_ONCE:
                yield found
                found = {}
            found[day] = rows
        yield found

    def _whole(self, own: Mapping[date, pa.Table]) -> dict[date, pa.Table]:
        product, schema = self._product, aggregation.schema(self._product, with_ahead=False)
        if self.kept is None:
            return {day: with_made_columns(product, rows, schema) for day, rows in own.items()}
        found: dict[date, list[pa.Table]] = {day: [] for day in own}
        for work in self.kept.divided(sorted(own)):
            chosen = {day: work.within(product, own[day]) for day in work.days}
            outputs = pa.concat_tables([self._outputs(day, rows) for day, rows in chosen.items()])
            values = trailing_windows.fold(
                product, outputs, *self.kept.in_windows(work, outputs), self.usable
            )
            at = 0
            for day, rows in chosen.items():
                part = values.slice(at, len(rows))
                at += len(rows)
                # Nobody could use an entity with a sum beyond its type.
                could = pc.invert(part[BEYOND])
                found[day].append(with_windows(product, rows.filter(could), part.filter(could), schema))
        return {day: pa.concat_tables(parts) for day, parts in found.items()}

    def _outputs(self, day: date, rows: pa.Table) -> pa.Table:
        """What windows are put together for: the entities of a day, as known on its morning."""
        morning = pa.scalar(self.entities.rows.mornings[day], pa.date32())
        names = [*self._product.entity_of_day, EVENT_DAY]
        return rows.select(names).append_column(MORNING, pa.repeat(morning, len(rows)))

    @property
    def _product(self) -> Product:
        return self.entities.rows.product
