"""The tables of a product in the online store, as its contract has them, and bringing a database to that.

The features, one row per entity; the days that were published, with the MRDS version each came from; the
entities to forget; and the staging of a publication. What is done with them is not said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ml_platform.contract import online
from ml_platform.contract.column_types import COLUMN_TYPES
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.dialects import PUBLISHED_AT, VERSION, Dialect, Key
from ml_platform.online_store.failures import OnlineStoreError
from ml_platform.online_store.names import FEATURES, VALID_UNTIL, table_name

if TYPE_CHECKING:
    import pyarrow as pa

PUBLICATION = "publication"
NUMBER = "row_number"
REASON = "reason"


class FeatureTables:
    """The tables of one product for one kind of database."""

    def __init__(self, product: Product, dialect: Dialect) -> None:
        self.product = product
        self.dialect = dialect
        self.entity = tuple(product.entity)
        of_mrds = (*product.entity, EVENT_DAY, *product.features)
        #: Whether rows hold for some time alone.
        self.expires = online.rule(product) is not None
        #: What a look-up and a staged row hold, in order.
        self.values = tuple(dict.fromkeys((*of_mrds, *([VALID_UNTIL] if self.expires else []))))
        self._refuse_names()

    def _refuse_names(self) -> None:
        longest = self.dialect.longest_name
        own = (VERSION, PUBLISHED_AT, NUMBER, REASON, *([VALID_UNTIL] if self.expires else []))
        for name in (*self.product.entity, *self.product.features, self.features.name):
            if name.casefold() in own:
                raise OnlineStoreError(
                    f"{self.product.name}: the online store has a column {name!r} of its own; rename the "
                    "contract's"
                )
            if longest and len(name.encode()) > longest:
                raise OnlineStoreError(
                    f"{self.product.name}: {name!r} is longer than the {longest} bytes a name may have in "
                    "this database; shorten it in the contract"
                )

    @cached_property
    def features(self) -> sa.Table:
        """Each entity's newest features, with the day and the MRDS version they are from."""
        return self._table(
            FEATURES,
            *self._columns(self.entity, key=True),
            *self._columns(self.values[len(self.entity) :]),
            sa.Column(_quoted(VERSION), sa.BigInteger, nullable=False),
            self._set_by_database(PUBLISHED_AT),
        )

    @cached_property
    def days(self) -> sa.Table:
        """The published days; ``publication`` numbers the changes of the features, of whatever kind."""
        return self._table(
            "features_days",
            sa.Column(_quoted(EVENT_DAY), sa.Date, primary_key=True),
            sa.Column(_quoted(VERSION), sa.BigInteger, nullable=False),
            sa.Column(_quoted(PUBLICATION), sa.BigInteger, nullable=False),
            self._set_by_database(PUBLISHED_AT),
        )

    @cached_property
    def forgotten(self) -> sa.Table:
        """The entities that no publication may bring back."""
        return self._table(
            "features_forgotten",
            *self._columns(self.entity, key=True),
            sa.Column(_quoted(REASON), self.dialect.feature_type("string"), nullable=False),
            self._set_by_database("forgotten_at"),
        )

    def staging(self) -> sa.Table:
        """A new staging table for rows of the MRDS; one row per entity once it is settled."""
        return self._staging("features_staging", *self._columns(self.values))

    def gone(self) -> sa.Table:
        """A new staging table for stored rows that their day no longer has, numbered from 1."""
        names = tuple(dict.fromkeys((*self.entity, EVENT_DAY)))
        number = sa.Column(_quoted(NUMBER), sa.BigInteger, nullable=False)
        return self._staging("features_gone", *self._columns(names), number)

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The types of a staged row; times are UTC without a zone."""
        import pyarrow as pa

        def type_of(name: str) -> pa.DataType:
            found = COLUMN_TYPES[self._type(name)].arrow_type
            return pa.timestamp(found.unit) if pa.types.is_timestamp(found) else found

        return pa.schema([(name, type_of(name)) for name in self.values])

    def key(self, values: Sequence[Any]) -> Key:
        """An entity's key as the store compares it: times in UTC without a zone.

        Raises:
            OnlineStoreError: another number of values than the entity has columns.
        """
        if isinstance(values, str) or len(values) != len(self.entity):
            raise OnlineStoreError(
                f"{self.product.name}: a key is a sequence of {', '.join(self.entity)}, not {values!r}"
            )
        if any(isinstance(value, datetime) and value.tzinfo for value in values):
            return tuple(
                value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value
                for value in values
            )
        return tuple(values)

    def prepare(self, connection: sa.Connection) -> list[str]:
        """Create what is missing, inside the caller's transaction, and add the contract's new columns.

        Returns:
            The stored columns that the contract no longer has.

        Raises:
            OnlineStoreError: the stored table can't hold the contract's features; nothing is changed.
        """
        inspector = sa.inspect(connection)
        if inspector.has_table(self.forgotten.name):
            self._refuse_other_tombstones(connection, inspector)
        for table in (self.days, self.forgotten):
            table.create(connection, checkfirst=True)
        if not inspector.has_table(self.features.name):
            self.features.create(connection)
            return []
        stored = {column["name"]: column for column in inspector.get_columns(self.features.name)}
        key = inspector.get_pk_constraint(self.features.name)["constrained_columns"]
        self._refuse_changes(stored, key)
        for column in self.features.c:
            if column.name not in stored:
                self._add(connection, column)
        unused = [name for name in stored if name not in self.features.c]
        for name in unused:
            self.features.append_column(sa.Column(_quoted(name), stored[name]["type"]))
        return unused

    def _refuse_changes(self, stored: dict[str, Any], key: Sequence[str]) -> None:
        table, product = self.features.name, self.product
        wanted = dict(self.features.c.items())
        problems = []
        if set(key) != set(self.entity):
            problems.append(f"its entity is {', '.join(key)}, the contract's is {', '.join(self.entity)}")
        problems += [f"it lacks {name}" for name in (EVENT_DAY, VERSION, PUBLISHED_AT) if name not in stored]
        for name, column in stored.items():
            if name in wanted:
                found, asked = self._written(column["type"]), self._written(wanted[name].type)
                if found != asked:
                    problems.append(f"{name} is {found}, the contract needs {asked}")
            elif name == product.label:
                problems.append(f"{name} is the label now, which may not be stored")
            elif not column["nullable"] and name not in key:
                problems.append(f"{name} is not in the contract and can't be null")
        if problems:
            raise OnlineStoreError(
                f"the online table {table} does not fit the contract of {product.name}: "
                f"{'; '.join(problems)}. Drop the tables {table} and {self.days.name}, then materialize "
                "the days of online_features again with force"
            )

    def _refuse_other_tombstones(self, connection: sa.Connection, inspector: sa.Inspector) -> None:
        """Entities are forgotten by their keys: those of another entity can't be told from this one's."""
        name = self.forgotten.name
        key = inspector.get_pk_constraint(name)["constrained_columns"]
        stored = {
            stored_column["name"]: self._written(stored_column["type"])
            for stored_column in inspector.get_columns(name)
        }
        wanted = {name: self._written(self.forgotten.c[name].type) for name in self.entity}
        if {value: stored[value] for value in key} == wanted:
            return
        if connection.scalar(sa.select(sa.func.count()).select_from(sa.table(self.forgotten.name))):
            raise OnlineStoreError(
                f"the table {name} keeps entities to forget by {', '.join(key)}, and the contract of "
                f"{self.product.name} has another entity ({', '.join(self.entity)}): note its rows, drop it, "
                "and forget these entities by their new keys before you publish"
            )
        self.forgotten.drop(connection)

    def _written(self, type_: Any) -> str:
        return str(type_.compile(self.dialect.sql)).partition(" COLLATE")[0].upper()

    def _add(self, connection: sa.Connection, column: sa.Column[Any]) -> None:
        sql = self.dialect.sql
        table = sql.identifier_preparer.format_table(self.features)
        keyword = "ADD" if sql.name == "mssql" else "ADD COLUMN"
        written = sa.schema.CreateColumn(column).compile(dialect=sql)
        connection.exec_driver_sql(f"ALTER TABLE {table} {keyword} {written}")

    def _type(self, name: str) -> Any:
        return "date" if name in (EVENT_DAY, VALID_UNTIL) else self.product.mrds_type(name)

    def _columns(self, names: Sequence[str], *, key: bool = False) -> list[sa.Column[Any]]:
        found = []
        for name in names:
            is_entity = name in self.entity
            type_ = (
                self.dialect.key_type(self._type(name), len(self.entity))
                if is_entity
                else self.dialect.feature_type(self._type(name))
            )
            nullable = not (is_entity or name == EVENT_DAY)
            found.append(
                sa.Column(_quoted(name), type_, primary_key=key, nullable=nullable, autoincrement=False)
            )
        return found

    def _set_by_database(self, name: str) -> sa.Column[Any]:
        type_ = self.dialect.feature_type("timestamp")
        return sa.Column(_quoted(name), type_, nullable=False, server_default=self.dialect.now())

    def _table(self, name: str, *columns: sa.Column[Any]) -> sa.Table:
        name = _quoted(table_name(self.product, name))
        return sa.Table(name, sa.MetaData(), *columns, **self.dialect.table_options())

    def _staging(self, name: str, *columns: sa.Column[Any]) -> sa.Table:
        name = _quoted(self.dialect.staging_name(table_name(self.product, name)))
        return sa.Table(name, sa.MetaData(), *columns, prefixes=list(self.dialect.staging_prefixes))


def _quoted(name: str) -> sa.quoted_name:
    """A name that stands in quotes in every statement, whatever it is."""
    return sa.quoted_name(name, quote=True)
