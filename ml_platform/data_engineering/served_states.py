"""What models learn from of a corrected day: each row as it was when its day was first scored.

The rows of ``mrds_served``, made of those of the ARDS and their versions; what reads them is
:mod:`.served_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.data_engineering import aggregation, resolution
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.row_states import (
    INTERVAL,
    KNOWN_FROM,
    KNOWN_TO,
    Runs,
    numbered,
    shared,
    valid_on,
)
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.trailing_windows import MORNING

#: Whether a row of ``mrds_served`` is the one that its entity was scored from.
IS_SCORED = "is_scored"


def served_schema(product: Product, *, with_ahead: bool = True) -> pa.Schema:
    """The schema of ``mrds_served``: a row of the MRDS, and as of which dates models learn from it.

    Those from ``known_from`` on, and before ``known_to`` if that isn't null.

    Args:
        with_ahead: with a label that looks ahead, if there is one.
    """
    rows = aggregation.schema(product, with_ahead=with_ahead)
    return pa.schema([*rows, *INTERVAL, pa.field(IS_SCORED, pa.bool_())])


def own_schema(product: Product) -> pa.Schema:
    """The same before it has what is of trailing windows, and with the morning as known on which they are."""
    own = pa.schema([*aggregation.own_schema(product), *INTERVAL, pa.field(IS_SCORED, pa.bool_())])
    return own.append(pa.field(MORNING, pa.date32())) if product.mrds.over_days else own


def served(
    product: Product, day: date, rows: pa.Table, versions: pa.Table, mornings: Sequence[Morning]
) -> pa.Table:
    """The rows of a corrected day that models learn from, in :func:`own_schema`.

    A row is as it was on the first morning on which the day was usable and had the entity; what replaced the
    day begins anew. As of a morning on which the day can't be used, or hasn't the entity, there is none.

    Args:
        rows: of the ARDS, of some entities all, with :func:`.aggregation.columns`.
        versions: of the same entities; a key's versions may be of others as well.
        mornings: those on which rows of the whole day came, ascending.
    """
    entity = product.entity_of_day
    names = aggregation.columns(product)
    now, states = rows.select(names), versions.select([*names, KNOWN_FROM, KNOWN_TO])
    changed = shared(now, states, resolution.keys(product))
    of_entities = shared(now, states, entity)
    schema = own_schema(product)
    found = [schema.empty_table(), *_unchanged(product, day, now.filter(pa.array(~of_entities)), mornings)]
    if len(states):
        beside = now.filter(pa.array(of_entities & ~changed))
        found.append(_changed(product, day, beside, states, mornings))
    return pa.concat_tables(found)


def _unchanged(product: Product, day: date, rows: pa.Table, mornings: Sequence[Morning]) -> list[pa.Table]:
    """The rows of entities that nothing was corrected of, once for each time in which the day was usable."""
    made = aggregation.aggregate(product, day, rows)
    found: list[pa.Table] = []
    for time in usable_times(mornings, by_epoch=bool(product.mrds.over_days)):
        columns = {
            KNOWN_FROM: pa.repeat(pa.scalar(time.start, pa.date32()), len(made)),
            KNOWN_TO: pa.repeat(pa.scalar(time.end, pa.date32()), len(made)),
            IS_SCORED: pa.repeat(not found, len(made)),
            MORNING: pa.repeat(pa.scalar(time.scored, pa.date32()), len(made)),
        }
        part = made
        for name, values in columns.items():
            part = part.append_column(name, values)
        schema = own_schema(product)
        found.append(part.select(schema.names).cast(schema))
    return found


@dataclass(frozen=True)
class UsableTime:
    """A time in which a day was usable: from one morning to before another, or to now.

    ``scored`` is the morning on which rows are scored that are learned from in it: the first one on which the
    day was usable, since what last replaced it.
    """

    start: date
    end: date | None
    scored: date


def usable_times(mornings: Sequence[Morning], *, by_epoch: bool) -> list[UsableTime]:
    """The times in which a day was usable; those before and after it is replaced are two if ``by_epoch``."""
    found: list[UsableTime] = []
    scored: date | None = None
    for morning, after in zip(mornings, [*mornings[1:], None], strict=True):
        end = after.day if after else None
        if morning.replaces and by_epoch:
            scored = None
        if not morning.is_usable:
            continue
        begins = scored is None
        scored = scored or morning.day
        if found and found[-1].end == morning.day and not (begins and by_epoch):
            found[-1] = replace(found[-1], end=end)
        else:
            found.append(UsableTime(morning.day, end, scored))
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
    rows = pa.concat_tables([aggregation.own_schema(product).empty_table(), *states])
    if not len(rows):
        return own_schema(product).empty_table()
    moment_of = np.concatenate(at)
    entity = numbered([rows[name] for name in product.entity_of_day], len(rows))
    replaced = sorted(morning.day for morning in mornings if morning.replaces)
    epochs = np.array([sum(day <= moment for day in replaced) for moment in moments])[moment_of]
    order = np.lexsort((moment_of, epochs, entity))
    begins = np.r_[True, (np.diff(entity[order]) != 0) | (np.diff(epochs[order]) != 0)]
    source = np.empty(len(rows), dtype=np.int64)
    source[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))]
    features = rows.take(pa.array(source))
    as_served = features
    for name in resolution.label_columns(product):
        as_served = as_served.set_column(
            rows.schema.get_field_index(name), rows.schema.field(name), rows[name]
        )
    scored_on = pa.array(moments, pa.date32()).take(pa.array(moment_of[source]))
    as_served = as_served.append_column(MORNING, scored_on)
    runs = Runs.of(product, as_served, entity, moments, moment_of, source)
    is_scored = np.r_[True, np.diff(runs.groups) != 0]
    found = runs.states(as_served).append_column(IS_SCORED, pa.array(is_scored))
    schema = own_schema(product)
    return found.select(schema.names).cast(schema)
