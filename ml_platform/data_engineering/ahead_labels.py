"""Labels that look ahead, given to rows of the MRDS: as they are now, and as they were known before.

A day's labels are known since one morning, all at once. A correction of a day ahead changes some of them
later; what a model had learned from until then stays, as with labels that are delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import LABEL_KNOWN_ON
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO, ordinals_of
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform.data_engineering.trailing_windows import MORNING

Flags = NDArray[np.bool_]

_EVER = 0
#: As :func:`.row_states.ordinals_of` has it where there is no day.
_NEVER = date.max.toordinal()


def outputs(rows: pa.Table, mornings: Sequence[date], names: Sequence[str]) -> pa.Table:
    """What :func:`.trailing_windows.fold_labels` is asked for: each row as known on each morning.

    The last morning is now; the rows of one morning come after those of the one before.

    Args:
        names: the columns of the entity and the day.
    """
    of_rows = rows.select(names)
    if not mornings:
        return of_rows.slice(0, 0).append_column(MORNING, pa.nulls(0, pa.date32()))
    return pa.concat_tables(
        of_rows.append_column(MORNING, pa.repeat(pa.scalar(morning, pa.date32()), len(rows)))
        for morning in (*mornings[:-1], None)
    )


def labelled(product: Product, rows: pa.Table, mornings: Sequence[date], labels: Flags) -> pa.Table:
    """Rows with their label as it is now, and since when they have it.

    Args:
        mornings: those on which the labels of their day were given, and then changed; none if not yet.
        labels: of each morning, by row.
    """
    if not mornings or not len(rows):
        return _with_label(product, rows, None, None)
    by_morning = labels.reshape(len(mornings), len(rows))
    first = (by_morning == by_morning[-1]).argmax(axis=0)
    return _with_label(product, rows, by_morning[-1], pa.array(mornings, pa.date32()).take(pa.array(first)))


def labelled_states(product: Product, states: pa.Table, mornings: Sequence[date], labels: Flags) -> pa.Table:
    """States of rows with their label; where it changed while one stood, that becomes several.

    Arguments as for :func:`labelled`, of states in :func:`.served_states.served_schema` but for the label.
    """
    if not mornings or not len(states):
        return _with_label(product, states, None, None)
    by_morning = labels.reshape(len(mornings), len(states))
    begins = np.ones_like(by_morning)
    begins[1:] = by_morning[1:] != by_morning[:-1]
    start = ordinals_of(states[KNOWN_FROM])
    end = ordinals_of(states[KNOWN_TO])
    is_scored = states[IS_SCORED].to_numpy(zero_copy_only=False)
    known_on = pa.array(mornings, pa.date32())
    bounds = [_EVER, *(morning.toordinal() for morning in mornings[1:]), _NEVER]
    until = np.full(len(states), _NEVER, dtype=np.int64)
    found: list[pa.Table] = []
    # From the last morning back, so that it is known where the label of each row changes next.
    for place in reversed(range(len(mornings))):
        since = np.maximum(start, bounds[place])
        stood = begins[place] & (since < np.minimum(end, until))
        (at,) = np.nonzero(stood)
        if len(at):
            part = states.take(pa.array(at))
            first = (by_morning[:, at] == by_morning[place, at]).argmax(axis=0)
            part = _with_label(product, part, by_morning[place, at], known_on.take(pa.array(first)))
            part = _replaced(part, KNOWN_FROM, _days(since[at]))
            part = _replaced(part, KNOWN_TO, _days(np.minimum(end, until)[at]))
            part = _replaced(part, IS_SCORED, pa.array(is_scored[at] & (since == start)[at]))
            found.append(part)
        until = np.where(begins[place], bounds[place], until)
    return pa.concat_tables(found)


def _with_label(
    product: Product, rows: pa.Table, values: Flags | None, known_on: pa.Array | None
) -> pa.Table:
    type_ = ARROW_TYPES[product.mrds_type(product.label)]
    label = pa.nulls(len(rows), type_) if values is None else pa.array(values.astype(np.int8)).cast(type_)
    rows = rows.append_column(product.label, label)
    return _replaced(rows, LABEL_KNOWN_ON, pa.nulls(len(rows), pa.date32()) if known_on is None else known_on)


def _replaced(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), values)


def _days(ordinals: NDArray[np.int64]) -> pa.Array:
    """Ordinals as days; null where there is no end."""
    since_epoch = np.where(ordinals == _NEVER, 0, ordinals - date(1970, 1, 1).toordinal())
    return pa.array(since_epoch.astype(np.int32), mask=ordinals == _NEVER).cast(pa.date32())
