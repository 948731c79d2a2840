"""The ARDS and the MRDS as feature tables of Unity Catalog: the SQL that declares them from the contract.

A table with a primary key is a feature table there; ``TIMESERIES`` on the event day makes look-ups of the
past see what was known then. Types, keys, comments and tags all come from the contract. Nothing here reads
or writes rows, and nothing runs unless the tables lie in a catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ml_platform.contract.column_types import sql_type
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import ards, mrds
from ml_platform.spark.tasks import Session
from ml_platform.storage.catalog_location import CatalogLocation
from ml_platform.storage.table_location import quoted
from ml_platform.storage.tables import Tables

#: The table property that tells which declaration a table has.
DECLARATION = "ml_platform.declaration"

_COMMENTS = {
    "ards": "Analytics-ready data set: the typed, de-duplicated rows of the deliveries, one row per key.",
    "mrds": "Model-ready data set: one row per entity and event day; training and scoring both read it.",
}
_OWN_COLUMNS = {
    EVENT_DAY: "The business day the row belongs to",
    LABEL_KNOWN_ON: "The day the row's label arrived; null while it has none",
}


def declare(session: Session, product: Product, tables: Tables, data_set: DataSet) -> bool:
    """Declare a data set to its catalog, unless it has this declaration already.

    Call it before rows are written: a key can only be declared over columns that were never null.

    Returns:
        Whether anything was declared. Never, where the tables lie at a path.
    """
    location = tables.location
    if not isinstance(location, CatalogLocation):
        return False
    spark, wanted = session(), statements(product, location, data_set)
    version = fingerprint_of(wanted)
    name = location.address(product.name, data_set)
    if location.exists(product.name, data_set):
        found = spark.sql(f"SHOW TBLPROPERTIES {name}").collect()
        if {row["key"]: row["value"] for row in found}.get(DECLARATION) == version:
            return False
    for statement in wanted:
        spark.sql(statement)
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ({_text(DECLARATION)} = {_text(version)})")
    return True


def statements(product: Product, location: CatalogLocation, data_set: DataSet) -> list[str]:
    """The SQL that declares a data set; running it again changes nothing.

    The key of a table that exists stays as it is. A contract with another key makes another table, which a
    person must decide on: drop the table and build it again.
    """
    name = location.address(product.name, data_set)
    key = primary_key(product, data_set)
    comment = f"{_COMMENTS[data_set]} {product.description}"
    declared = columns(product, data_set)
    lines = []
    for column, type_ in declared.items():
        meaning = _comment(product, data_set, column)
        line = f"  {quoted(column)} {type_}{' NOT NULL' if column in key else ''}"
        lines.append(line + (f" COMMENT {_text(meaning)}" if meaning else ""))
    marked = ", ".join(quoted(column) + (" TIMESERIES" if column == EVENT_DAY else "") for column in key)
    lines.append(f"  CONSTRAINT {quoted(f'{product.name}_{data_set}_key')} PRIMARY KEY ({marked})")
    return [
        f"CREATE TABLE IF NOT EXISTS {name} (\n"
        + ",\n".join(lines)
        + f"\n)\nUSING DELTA\nPARTITIONED BY ({quoted(EVENT_DAY)})\nCOMMENT {_text(comment)}",
        f"COMMENT ON TABLE {name} IS {_text(comment)}",
        f"ALTER TABLE {name} SET TAGS ({_pairs(_table_tags(product, data_set))})",
        *_column_tags(product, name, declared),
    ]


def primary_key(product: Product, data_set: DataSet) -> list[str]:
    """What identifies a row; the event day comes last, as the time of the series."""
    names = product.ards_key if data_set == "ards" else product.entity
    # The contract's event day has the same values as the column that all data sets have.
    own = {EVENT_DAY, product.source.event_day} if data_set == "ards" else {EVENT_DAY}
    return [*(name for name in names if name not in own), EVENT_DAY]


def columns(product: Product, data_set: DataSet) -> dict[str, str]:
    """The columns with their Spark SQL types, in the order of the table."""
    own = {EVENT_DAY: "date", LABEL_KNOWN_ON: "date"}
    if data_set == "ards":
        return {name: ards.spark_type(product, name) for name in ards.columns(product)}
    names = dict.fromkeys(mrds.columns(product))
    return {name: own.get(name) or sql_type(product.mrds_type(name)) for name in names}


def _comment(product: Product, data_set: DataSet, column: str) -> str:
    if column in _OWN_COLUMNS:
        return _OWN_COLUMNS[column]
    if column in (*product.mrds.trailing, *product.mrds.made, *product.mrds.ahead):
        return product.definition_of(column) or ""
    declared = product.columns[column]
    parts = [declared.description] if declared.description else []
    if column == product.label:
        parts.append("The label; null while it has not come")
    if data_set == "mrds" and column in product.mrds.aggregate:
        parts.append(f"{product.mrds.aggregate[column]} of the day's rows")
    if declared.allowed and column != product.label:
        parts.append(f"one of {', '.join(map(str, declared.allowed))}")
    if declared.fill_null is not None:
        parts.append(f"{declared.fill_null} where nothing was delivered")
    return "; ".join(parts)


def _table_tags(product: Product, data_set: DataSet) -> dict[str, str]:
    tags = {"product": product.name, "data_set": data_set}
    if product.owners:
        tags["owners"] = ", ".join(product.owners)
    return tags


def _column_tags(product: Product, table: str, names: Iterable[str]) -> Iterator[str]:
    """What a column is for, and whether its values may be shown."""
    features = set(product.model.features.all)
    for column in names:
        tags = {}
        if column == product.label:
            tags["role"] = "label"
        elif column in features:
            tags["role"] = "feature"
        elif column in product.entity:
            tags["role"] = "entity"
        if column in product.sensitive:
            tags["sensitive"] = "true"
        if tags:
            yield f"ALTER TABLE {table} ALTER COLUMN {quoted(column)} SET TAGS ({_pairs(tags)})"


def _pairs(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{_text(name)} = {_text(value)}" for name, value in tags.items())


def _text(value: str) -> str:
    """A string as SQL takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
