"""What every place of tables can do: one interface, whatever kind of place it is.

A location knows how a table is addressed, read and committed there. What a commit replaces and what the
tables hold is not its business.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from ml_platform.contract.faults import EndsTheRunError
from ml_platform.contract.source import EVENT_DAY
from ml_platform.storage.day_files import DayFiles

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

#: Where a commit says what its writer wants to say, in Delta's words.
METADATA = "userMetadata"


class LocationError(EndsTheRunError):
    """A location can't be used like that; the message says which and what is accepted."""


class DamagedTableError(LocationError):
    """A table that is there can't be opened: its log is cut off, or is no log. Nothing was changed."""


#: What a person is to do about a table that is damaged.
DAMAGED_TABLE = "run ml-platform doctor --repair, or restore it from a backup (docs/operating.md)"


class TableLocation(ABC):
    """A place for the tables of all products."""

    #: Whether :meth:`lock` keeps others out; where it doesn't, the place itself orders commits.
    locks: ClassVar[bool] = False

    @abstractmethod
    def address(self, product: str, table: str) -> str:
        """What people and MLflow know the table by."""

    @abstractmethod
    def exists(self, product: str, table: str) -> bool: ...

    @abstractmethod
    def version(self, product: str, table: str) -> int:
        """The newest version of a table that exists."""

    @abstractmethod
    def commits_after(self, product: str, table: str, version: int) -> dict[int, str | None]:
        """What the commits after a version of a table that exists say of themselves, by their version."""

    @abstractmethod
    def has_days(self, product: str, table: str, days: Sequence[date]) -> bool:
        """Whether a table that exists has rows of any of ``days``."""

    @abstractmethod
    def batches(
        self, product: str, table: str, columns: Sequence[str], days: Sequence[date]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of ``days`` of a table that exists, in bounded batches."""

    def rows_held(self, product: str, table: str, days: Collection[date]) -> Mapping[date, int] | None:
        """Rows of those of ``days`` that a table that exists has whole, as its log says; reads no rows.

        None where the place can't tell without a scan, or the log doesn't count rows.
        """
        return None

    def sql_name(self, product: str, table: str) -> str:
        """What SQL calls the table."""
        return self.address(product, table)

    @abstractmethod
    def column_types(self, product: str, table: str) -> dict[str, str]:
        """The columns of a table that exists, with their types as Delta's schemas name them."""

    @abstractmethod
    def add_columns(self, product: str, table: str, columns: Mapping[str, str]) -> None:
        """Give a table that exists columns that it lacks, null in all rows; types as Delta names them."""

    @abstractmethod
    def load(self, spark: SparkSession, product: str, table: str, version: int | None) -> DataFrame:
        """The whole table, at one of its versions or the newest."""

    def without_rows(self, spark: SparkSession, product: str, table: str) -> DataFrame:
        """No rows, in the columns of a table that exists."""
        return self.load(spark, product, table, None).limit(0)

    @abstractmethod
    def replace(self, rows: DataFrame, product: str, table: str, days: Sequence[date], metadata: str) -> None:
        """Make ``rows`` all that a table has of ``days``, in one commit; creates the table if need be.

        A column that is new to the table is added; one that it has besides is null in the rows.

        Args:
            metadata: what the commit says of itself.
        """

    @abstractmethod
    def rewrite(self, rows: DataFrame, product: str, table: str) -> None:
        """Make ``rows`` all of a table that exists, whose columns become theirs, in one commit."""

    def day_files(self, product: str, table: str) -> DayFiles | None:
        """The table as a folder in which tasks may write files; None where only Spark may."""
        return None

    @contextlib.contextmanager
    def lock(self, product: str, table: str) -> Iterator[None]:
        """Hold a table for some commits, where the place doesn't protect commits itself; may be nested."""
        yield


def on_days(days: Iterable[date]) -> Column:
    """The condition that a row's ``event_day`` is among ``days``; prunes partitions."""
    from pyspark.sql import functions as F

    ordered = sorted(set(days))
    if not ordered:
        return F.lit(False)
    if (ordered[-1] - ordered[0]).days + 1 == len(ordered):
        return F.col(EVENT_DAY).between(F.lit(ordered[0]), F.lit(ordered[-1]))
    return F.col(EVENT_DAY).isin(ordered)


def type_name(field: Any) -> str:
    """The type of a column of a Delta schema, as the schema names it."""
    return str(json.loads(field.to_json())["type"])


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever characters it has."""
    return "`" + name.replace("`", "``") + "`"
