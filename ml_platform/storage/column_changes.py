"""The columns of a table that exists, made those of another schema without losing what they hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_platform.storage.conflicts import committed
from ml_platform.storage.table_location import LocationError, type_name
from ml_platform.storage.tables import Tables, column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, SparkSession

#: Types between which values are converted where the way back gives the same value.
_NUMBERS = frozenset({"boolean", "integer", "long", "double"})
_TIMES = frozenset({"date", "timestamp"})


@dataclass(frozen=True)
class Change:
    """What a column was called, and its types before and now, as Delta names them."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class Aligned:
    """The columns that a table was given, and by name those that were changed."""

    added: tuple[str, ...] = ()
    changed: Mapping[str, Change] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{name} is new" for name in self.added]
        for name, change in self.changed.items():
            called = f"{name}, called {change.name} before," if name != change.name else name
            retyped = f" was {change.before} and is {change.now}"
            parts.append(called + (retyped if change.before != change.now else " is renamed"))
        return "; ".join(parts)


def align(
    tables: Tables,
    session: Callable[[], SparkSession],
    product: str,
    table: str,
    schema: pa.Schema,
    *,
    keys: Collection[str] = (),
) -> Aligned:
    """Give a table that exists the columns and types of ``schema``; other columns stay as they are.

    A column that it lacks is null in its rows. A column of another type is converted in all rows, in one
    commit: a value that the new type can't hold without loss becomes null until its day is done again.
    Nothing is lost by that: such values stay beside, in a column that is named after the earlier type,
    and come back if the column gets that type again. A column whose name differs in case only is renamed.

    Args:
        session: gives the Spark session if rows must be rewritten.
        keys: columns that tell rows apart, of which no value may become null.

    Raises:
        LocationError: a value of ``keys`` has no equal in the new type. Nothing was changed.
    """
    from deltalake import Schema

    if not tables.exists(product, table):
        return Aligned()
    wanted = {field.name: type_name(field) for field in Schema.from_arrow(schema).fields}
    if wanted.items() <= tables.location.column_types(product, table).items():
        return Aligned()
    with tables.lock(product, table):
        known = tables.location.column_types(product, table)
        # Delta's columns are told apart whatever the case of their letters.
        there = {name.casefold(): name for name in known}
        before = {name: there[name.casefold()] for name in wanted if name.casefold() in there}
        changed = {
            name: Change(before[name], known[before[name]], type_)
            for name, type_ in wanted.items()
            if name in before and (before[name], known[before[name]]) != (name, type_)
        }
        added = {name: type_ for name, type_ in wanted.items() if name not in before}
        if changed:
            _convert(tables, session(), product, table, known, changed, keys)
        if added:
            tables.location.add_columns(product, table, added)
    return Aligned(tuple(added), changed)


def _convert(
    tables: Tables,
    spark: SparkSession,
    product: str,
    table: str,
    known: Mapping[str, str],
    changed: Mapping[str, Change],
    keys: Collection[str],
) -> None:
    from pyspark.sql import functions as F

    rows = tables.read(spark, product, table)
    values = {name: _changed(name, change, known) for name, change in changed.items()}
    lossy = {name: column(changed[name].name).isNotNull() & new.isNull() for name, new in values.items()}
    counted = rows.agg(
        *[F.count_if(lost).alias(f"{name}.count") for name, lost in lossy.items()],
        *[
            F.first(F.when(lost, column(changed[name].name).cast("string")), ignorenulls=True).alias(name)
            for name, lost in lossy.items()
        ],
    ).first()
    assert counted is not None, "an aggregate without keys has one row"
    columns = {name: column(name) for name in rows.columns}
    for name, new in values.items():
        change = changed[name]
        columns[change.name] = new.alias(name)
        if not counted[f"{name}.count"]:
            continue
        if name in keys:
            raise LocationError(
                f"{product}/{table}: {name} tells rows apart, and was {change.before}: {counted[name]!r} "
                f"is no {change.now}. Give the column of the new type another name"
            )
        kept = _beside(name, change.before)
        lost = F.when(lossy[name], column(change.name))
        columns[kept] = (F.coalesce(column(kept), lost) if kept in known else lost).alias(kept)
    converted = rows.select(*columns.values())
    committed(lambda: tables.location.rewrite(converted, product, table))


def _changed(name: str, change: Change, known: Mapping[str, str]) -> Column:
    """A column's values as they are from now on; values of its new type that it had before come back."""
    from pyspark.sql import functions as F

    new = _converted(column(change.name), change.before, change.now)
    kept = _beside(name, change.now)
    return F.coalesce(column(kept), new) if kept in known else new


def _converted(value: Column, before: str, now: str) -> Column:
    """A column's values in another type; null where that would lose anything."""
    from pyspark.sql import functions as F

    if before == now:
        return value
    if {before, now} <= _NUMBERS or {before, now} <= _TIMES:
        new = value.try_cast(now)
        return F.when(new.try_cast(before).eqNullSafe(value), new)
    if "string" in (before, now):
        return value.try_cast(now)
    return F.lit(None).cast(now)


def _beside(name: str, type_: str) -> str:
    """Where values of an earlier type stay that a column's type can't hold."""
    return f"__{name}__{type_}"
