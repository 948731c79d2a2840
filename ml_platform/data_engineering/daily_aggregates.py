"""What is kept of each entity and day for trailing windows: a row of parts, like sums and counts.

Windows are put together from these, so that the rows of the ARDS are read once. Days that were corrected have
their states in a table of their own, as the ARDS has. What becomes of the parts is the business of
:mod:`.trailing_windows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.trailing import PARTS, ROWS, Feature, Part
from ml_platform.data_engineering import buckets, resolution
from ml_platform.data_engineering.aggregation import Grouped
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.expression_values import holds
from ml_platform.data_engineering.row_states import (
    INTERVAL,
    KNOWN_FROM,
    KNOWN_TO,
    Runs,
    numbered,
    shared,
    valid_on,
)
from ml_platform.storage.fingerprints import hashes_of, one_chunk

#: A hash of the entity. Rows stand in its order, so that a share of the entities can be read alone.
ENTITY_HASH = "_entity_hash"

#: Rows of each part of a file: a share of the entities is read without most of the others.
ROW_GROUP = 1 << 16

_SEED = "value"
#: Hexadecimal digits of a value's hash.
HASH_DIGITS = 16


@dataclass(frozen=True)
class KeptPart:
    """A column of the table: which part of which column of the ARDS, of the rows that fulfil a condition.

    ``rows`` is how many these are, and of no column.
    """

    part: Part
    column: str = ""
    where: str | None = None

    @classmethod
    def of(cls, part: Part, feature: Feature) -> KeptPart:
        """What a feature needs."""
        return cls(part, "" if part == "rows" else feature.column, feature.where)

    @property
    def name(self) -> str:
        # No column of a contract begins with an underscore, and no part has one in its name.
        name = f"_{self.part}_{self.column}"
        return name if self.where is None else f"{name}_{fingerprint_of(self.where)[:12]}"

    @property
    def plain(self) -> list[str | None]:
        return [self.part, self.column, self.where]


def parts(product: Product) -> list[KeptPart]:
    """What the contract's features need of a day, each once."""
    needed = {
        KeptPart.of(part, feature): None
        for feature in product.mrds.over_days.values()
        for part in (*PARTS[feature.rule], *([] if feature.where is None else [ROWS]))
    }
    return list(needed)


def schema(product: Product) -> pa.Schema:
    """The schema of ``daily_aggregates``: an entity and day a row."""
    return pa.schema(
        [
            *[(name, ARROW_TYPES[product.mrds_type(name)]) for name in product.entity_of_day],
            (EVENT_DAY, pa.date32()),
            (ENTITY_HASH, pa.int64()),
            *[(kept.name, _type_of(product, kept)) for kept in parts(product)],
        ]
    )


def versions_schema(product: Product) -> pa.Schema:
    """The schema of ``daily_aggregates_versions``: as :func:`schema`, and between which mornings it stood."""
    return pa.schema([*schema(product), *INTERVAL])


def _type_of(product: Product, kept: KeptPart) -> pa.DataType:
    if kept.part in ("count", "rows"):
        return pa.int64()
    declared = product.columns[kept.column].type
    match kept.part:
        case "sum":
            return pa.float64() if declared == "double" else pa.int64()
        case "distinct":
            return pa.string()
        case _:
            return ARROW_TYPES[declared]


def columns(product: Product) -> list[str]:
    """The columns of the ARDS that the table is made from."""
    of_features = [feature.column for feature in product.mrds.over_days.values()]
    of_conditions = [name for condition in product.conditions.values() for name in condition.columns]
    names = [
        *product.entity,
        *product.mrds.order_by,
        *product.ards_key,
        *of_features,
        *of_conditions,
    ]
    return [name for name in dict.fromkeys(names) if name != EVENT_DAY]


# -- what is kept ------------------------------------------------------------------------------------


def aggregate(product: Product, day: date, rows: pa.Table) -> pa.Table:
    """One row per entity of some of a day's rows, in :func:`schema`, in the order of the entities' hashes.

    Args:
        rows: with the :func:`columns`; of an entity all of the day, or none.

    Raises:
        TooLargeError: a sum is beyond its type.
    """
    made = schema(product)
    if not len(rows):
        return made.empty_table()
    grouped = Grouped(product, day, rows)
    found = grouped.entities()
    count = grouped.groups
    found[EVENT_DAY] = pa.repeat(pa.scalar(day, pa.date32()), count)
    hashes = buckets.assigned([found[name] for name in product.entity_of_day], count).view(np.int64)
    found[ENTITY_HASH] = pa.array(hashes)
    found |= _parts(product, grouped, [kept for kept in parts(product) if kept.where is None])
    for text, condition in product.conditions.items():
        chosen = rows.filter(pa.array(holds(condition, rows)))
        of_condition = [kept for kept in parts(product) if kept.where == text]
        found |= _spread(product, found, day, chosen, of_condition)
    table = pa.table([found[field.name].cast(field.type) for field in made], schema=made)
    return table.take(pa.array(np.argsort(hashes, kind="stable")))


def _parts(product: Product, grouped: Grouped, chosen: Sequence[KeptPart]) -> dict[str, Any]:
    """Some parts of a day's rows, a value an entity."""
    found: dict[str, Any] = {}
    bounds = most_distinct(product)
    for kept in chosen:
        match kept.part:
            case "rows":
                found[kept.name] = pa.array(grouped.sizes)
            case "distinct":
                found[kept.name] = _distinct(grouped, kept.column, bounds[kept.column])
            case part:
                found[kept.name] = grouped.aggregate(kept.column, part)
    return found


def _spread(
    product: Product, entities: Mapping[str, Any], day: date, rows: pa.Table, chosen: Sequence[KeptPart]
) -> dict[str, Any]:
    """Parts of the rows that fulfil a condition, for all entities of a day; null for those without such rows.

    Args:
        entities: the columns of the entities.
    """
    made = schema(product)
    count = len(entities[EVENT_DAY])
    if not len(rows):
        return {kept.name: pa.nulls(count, made.field(kept.name).type) for kept in chosen}
    grouped = Grouped(product, day, rows)
    some = grouped.entities()
    number = numbered(
        [pa.chunked_array([one_chunk(entities[key]), one_chunk(some[key])]) for key in product.entity_of_day],
        count + grouped.groups,
    )
    place = np.full(int(number.max()) + 1, -1, dtype=np.int64)
    place[number[count:]] = np.arange(grouped.groups)
    at = place[number[:count]]
    spread = pa.array(at, mask=at < 0)
    return {name: one_chunk(values).take(spread) for name, values in _parts(product, grouped, chosen).items()}


def most_distinct(product: Product) -> Mapping[str, int]:
    """How many values of a day are kept for counts of different values, by column."""
    bounds: dict[str, int] = {}
    for feature in product.mrds.over_days.values():
        if feature.rule == "distinct":
            bounds[feature.column] = max(bounds.get(feature.column, 0), feature.most_distinct)
    return bounds


def _distinct(grouped: Grouped, name: str, at_most: int) -> pa.Array:
    """Of each entity the smallest hashes of its different values, so many at most, as one text."""
    count = grouped.groups
    group, values = grouped.distinct(name)
    (hashes,) = hashes_of([_SEED], [values])
    pairs = np.unique(np.column_stack([group.astype(np.uint64), hashes.view(np.uint64)]), axis=0)
    groups = pairs[:, 0].astype(np.int64)
    starts = np.searchsorted(groups, np.arange(count))
    rank = np.arange(len(groups)) - starts[groups]
    kept = rank < at_most
    digits = pairs[kept, 1].astype(">u8").tobytes().hex()
    ends = np.cumsum(np.bincount(groups[kept], minlength=count)) * HASH_DIGITS
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    text = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits.encode()))
    return text.cast(pa.string())


def states_of(product: Product, day: date, first: date, rows: pa.Table, versions: pa.Table) -> pa.Table:
    """All states of the entities of a day that have had more than one, in :func:`versions_schema`.

    Args:
        first: the morning on which rows of the day first came.
        rows: of the ARDS, of some entities all, with the :func:`columns`.
        versions: of the same entities, all states of rows that have had more than one.
    """
    made = versions_schema(product)
    if not len(versions):
        return made.empty_table()
    names, of_entity = columns(product), product.entity_of_day
    now, earlier = rows.select(names), versions.select([*names, KNOWN_FROM, KNOWN_TO])
    same = shared(now, earlier, of_entity) if of_entity else np.ones(len(now), dtype=bool)
    changed = shared(now, earlier, resolution.keys(product))
    beside = now.filter(pa.array(same & ~changed))
    bounds = {value for name in (KNOWN_FROM, KNOWN_TO) for value in earlier[name].to_pylist() if value}
    mornings = sorted(bounds | {first})
    known = [
        aggregate(product, day, pa.concat_tables([beside, valid_on(earlier, morning).select(names)]))
        for morning in mornings
    ]
    found = pa.concat_tables(known)
    if not len(found):
        return made.empty_table()
    at = np.repeat(np.arange(len(known)), [len(state) for state in known])
    entity = numbered([found[name] for name in of_entity], len(found))
    content = numbered([found[name] for name in schema(product).names], len(found))
    runs = Runs.of_content(entity, mornings, at, content)
    chosen = runs.states(found)
    # An entity of one state since the first morning has never changed in what is kept of it.
    several = np.bincount(runs.groups)[runs.groups] > 1
    ended = chosen[KNOWN_TO].is_valid().to_numpy()
    return chosen.filter(pa.array(several | ended | (runs.starts > 0))).cast(made)


def share_of_hashes(share: int, shares: int) -> tuple[int, int]:
    """The least hash of a share of the entities, and the greatest."""
    least, span = -(2**63), 2**64
    return least + span * share // shares, least + span * (share + 1) // shares - 1
