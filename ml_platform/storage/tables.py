"""Delta tables by name, and the one way a table's days are replaced.

What the tables hold is the services' business, and where they lie that of :mod:`.locations`. Tables that grow
with the data are written by Spark (:meth:`Tables.replace_days`) or by tasks (:meth:`Tables.replace_days_by`);
the small ones that steer the platform are in :mod:`.small_tables`. Their columns follow the contract by
:mod:`.column_changes`, and :mod:`.upkeep` tidies them.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from ml_platform.contract.faults import EndsTheRunError
from ml_platform.settings import Settings
from ml_platform.storage.conflicts import committed
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.locations import location_of
from ml_platform.storage.locks import DEFAULT_SECONDS
from ml_platform.storage.path_locations import PathLocation
from ml_platform.storage.table_location import LocationError, on_days, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

__all__ = ["OvertakenError", "Tables", "column", "on_days"]


class OvertakenError(EndsTheRunError):
    """Another run has written days of a table since this one looked at what they are made from."""


class Tables:
    """The Delta tables of all products under one root, and the place of the small ones that steer them."""

    def __init__(
        self,
        root: str,
        *,
        control: str | None = None,
        options: Mapping[str, str] | None = None,
        session: Callable[[], SparkSession] | None = None,
        lock_seconds: float = DEFAULT_SECONDS,
    ) -> None:
        """Take the places as they are; nothing is opened.

        Args:
            control: the root of the small tables, a folder or an object store; by default ``root``.
            options: of ``deltalake``, for object stores.
            session: gives the session on which tables of a catalog are opened.
            lock_seconds: how long a commit waits for another one's lock, where there are locks.

        Raises:
            LocationError: a root can't be understood, or the small tables would be in a catalog.
        """
        self.location = location_of(root, options=options, session=session, lock_seconds=lock_seconds)
        steering = self.location
        if control:
            steering = location_of(control, options=options, lock_seconds=lock_seconds)
        if not isinstance(steering, PathLocation):
            raise LocationError(
                f"with tables in {root}, the small tables that steer the platform need a place that needs no "
                "Spark: set ML_PLATFORM_CONTROL_TABLES to abfss://container@account.dfs.core.windows.net/path"
            )
        self.control: PathLocation = steering
        self._guarded: dict[tuple[str, str], int] = {}
        #: The commits that were made here: they are no other run's.
        self._own: set[tuple[str, str, int]] = set()

    @classmethod
    def of(cls, settings: Settings, session: Callable[[], SparkSession] | None = None) -> Tables:
        """The tables that the settings name."""
        return cls(
            settings.tables_root,
            control=settings.control_tables,
            options=settings.table_options,
            session=session,
            lock_seconds=settings.lock_timeout_seconds,
        )

    def path(self, product: str, table: str) -> str:
        """What people and MLflow know a table by: its path, or its name in the catalog."""
        return self.location.address(product, table)

    def exists(self, product: str, table: str) -> bool:
        return self.location.exists(product, table)

    def version(self, product: str, table: str) -> int:
        """The newest version of a table that exists."""
        return self.location.version(product, table)

    def losses(
        self, product: str, table: str, expected: Mapping[date, tuple[int, int | None]]
    ) -> dict[date, str]:
        """Those of some days that a table doesn't hold as it should, each with what is wrong.

        It takes milliseconds: the table's log and the presence of its files are looked at, never rows. What
        lies in a catalog, which only Spark opens, is taken for granted.

        Rows that a run has written and not recorded, because it was killed or is still at work, are no loss.

        Args:
            expected: of each day its rows, and the version of the table that first had them if known.

        Raises:
            DamagedTableError: the table's log can't be read.
        """
        if not isinstance(self.location, PathLocation):
            return {}
        place = self.path(product, table)
        if not self.exists(product, table):
            return {day: f"{place} is gone" for day, (rows, _) in expected.items() if rows}
        version = self.version(product, table)
        held = self.location.rows_held(product, table, expected)
        lost = {}
        for day, (rows, written_by) in expected.items():
            if written_by is not None and written_by > version:
                lost[day] = f"{place} is at version {version}, older than the day's {written_by}"
            elif held is not None and held.get(day, 0) < rows:
                lost[day] = f"{place} has {held.get(day, 0):,} whole rows of the day, not {rows:,}"
        return lost

    def has_days(self, product: str, table: str, days: Iterable[date]) -> bool:
        """Whether the table has rows of any of ``days``."""
        return self.exists(product, table) and self.location.has_days(product, table, list(days))

    def batches(
        self, product: str, table: str, columns: Sequence[str], days: Sequence[date]
    ) -> Iterator[pa.RecordBatch]:
        """Columns of the rows of ``days``, in this process, a batch at a time; none without a table."""
        if days and self.exists(product, table):
            yield from self.location.batches(product, table, columns, days)

    def read(self, spark: SparkSession, product: str, table: str, *, version: int | None = None) -> DataFrame:
        """The whole table, at one of its versions or the newest; filter it by ``event_day`` before use."""
        return self.location.load(spark, product, table, version)

    def read_days(
        self,
        spark: SparkSession,
        product: str,
        table: str,
        days: Iterable[date],
        *,
        version: int | None = None,
    ) -> DataFrame:
        """The rows of exactly ``days``."""
        return self.read(spark, product, table, version=version).where(on_days(days))

    def column_types(self, product: str, table: str) -> dict[str, str]:
        """The columns of a table that exists, in order, each with its type as a contract names it."""
        return self.location.column_types(product, table)

    def without_rows(self, spark: SparkSession, product: str, table: str) -> DataFrame:
        """No rows, in the columns of a table that exists, which Spark need not open for that."""
        return self.location.without_rows(spark, product, table)

    @contextlib.contextmanager
    def guarded(self, product: str, tables: Iterable[str]) -> Iterator[None]:
        """Until the end of the block, replace no days of these tables that others write from now on.

        What a run knows of the days it replaces may be out of date when it commits: a run that looked later,
        and knew more, must not be undone. So a run looks at what days are made from within this block.
        """
        for table in tables:
            exists = self.exists(product, table)
            self._guarded[product, table] = self.version(product, table) if exists else -1
        try:
            yield
        finally:
            for table in tables:
                del self._guarded[product, table]

    @contextlib.contextmanager
    def hold(self, product: str, table: str, days: Sequence[date]) -> Iterator[None]:
        """Keep others from writing a table, where its place has locks, for commits that belong together.

        Raises:
            OvertakenError: another run has written some of ``days`` since the table is guarded.
        """
        with self.lock(product, table):
            self._refuse_overtaken(product, table, days, self._commits_since_guard(product, table))
            yield

    def replace_days(
        self,
        spark: SparkSession,
        product: str,
        table: str,
        rows: DataFrame,
        days: Sequence[date],
        *,
        run_id: str,
    ) -> int:
        """Replace exactly ``days`` of a table with ``rows``, in one commit that carries the run's id.

        Args:
            rows: every row's ``event_day`` is among ``days`` (Delta refuses the commit otherwise);
                days without rows end up empty.

        Returns:
            The version the commit made.

        Raises:
            OvertakenError: another run has written some of ``days`` since the table is guarded.
        """
        origin = _Origin(product, table, run_id, days)

        def replace() -> None:
            self.location.replace(rows, product, table, days, origin.text)

        return self._replace(origin, lambda: committed(replace))

    def day_files(self, product: str, table: str) -> DayFiles | None:
        """The table as a folder in which tasks may write; None where only Spark may."""
        return self.location.day_files(product, table)

    def replace_days_by(
        self,
        product: str,
        table: str,
        schema: pa.Schema,
        files: Mapping[date, Sequence[DayFile]],
        days: Sequence[date],
        *,
        run_id: str,
    ) -> int:
        """Replace exactly ``days`` of a table with files that tasks have written, in one commit.

        Args:
            schema: of the table, the event day included.

        Returns:
            The version the commit made.

        Raises:
            LocationError: a column has another type than the table's; nothing is committed.
            OvertakenError: another run has written some of ``days`` since the table is guarded.
        """
        location, origin = self.location, _Origin(product, table, run_id, days)
        assert isinstance(location, PathLocation), "tasks write files below a path only"
        return self._replace(
            origin, lambda: location.commit(product, table, schema, files, days, origin.text)
        )

    def remove_days(
        self,
        session: Callable[[], SparkSession],
        product: str,
        table: str,
        days: Sequence[date],
        *,
        run_id: str,
    ) -> int | None:
        """Take all rows of ``days`` out of a table, in one commit; where tasks may write, without Spark.

        Returns:
            The version the commit made; None if there was nothing to take out.

        Raises:
            OvertakenError: another run has written some of ``days`` since the table is guarded.
        """
        if not self.has_days(product, table, days):
            return None
        if self.day_files(product, table) is not None:
            import pyarrow as pa

            return self.replace_days_by(product, table, pa.schema([]), {}, days, run_id=run_id)
        spark = session()
        nothing = self.without_rows(spark, product, table)
        return self.replace_days(spark, product, table, nothing, days, run_id=run_id)

    def _replace(self, origin: _Origin, commit: Callable[[], None]) -> int:
        product, table = origin.product, origin.table
        with self.hold(product, table, origin.days):
            commit()
            commits = self._commits_since_guard(product, table)
            own = next((version for version, metadata in commits.items() if metadata == origin.text), None)
            # Where nothing is locked, another commit may have come between the look and this one.
            before = {
                version: metadata for version, metadata in commits.items() if own is None or version < own
            }
            self._refuse_overtaken(product, table, origin.days, before)
            if own is not None:
                self._own.add((product, table, own))
            return self.version(product, table) if own is None else own

    def _commits_since_guard(self, product: str, table: str) -> dict[int, str | None]:
        """What others have committed to a table since it is guarded; of one that isn't nothing."""
        seen = self._guarded.get((product, table))
        if seen is None or (seen < 0 and not self.exists(product, table)):
            return {}
        commits = self.location.commits_after(product, table, seen)
        return {
            version: text for version, text in commits.items() if (product, table, version) not in self._own
        }

    def _refuse_overtaken(
        self, product: str, table: str, days: Sequence[date], commits: Mapping[int, str | None]
    ) -> None:
        for metadata in commits.values():
            if touched := sorted(set(days) & _days_of(metadata)):
                raise OvertakenError(
                    f"{product}/{table}: another run has written {touched[0]}"
                    + (f" and {len(touched) - 1} more days" if len(touched) > 1 else "")
                )

    def lock(self, product: str, table: str) -> AbstractContextManager[None]:
        """Hold a table for one commit, where its place doesn't protect commits itself."""
        return self.location.lock(product, table)


@dataclass(frozen=True)
class _Origin:
    """Where a commit comes from, and the days it replaces."""

    product: str
    table: str
    run_id: str
    days: Sequence[date]

    @cached_property
    def text(self) -> str:
        """What the commit says of it; no other commit says the same."""
        facts = {"run_id": self.run_id, "product": self.product, "table": self.table}
        return json.dumps({**facts, "days": [str(day) for day in self.days], "commit": uuid.uuid4().hex})


def _days_of(metadata: str | None) -> set[date]:
    """The days that a commit has replaced; none for one that is not of a run, like maintenance's."""
    try:
        facts = json.loads(metadata or "{}")
    except ValueError:
        return set()
    return {date.fromisoformat(day) for day in facts.get("days", ())} if isinstance(facts, dict) else set()


def column(name: str) -> Column:
    """A column by its exact name, whatever characters it has."""
    from pyspark.sql import functions as F

    return F.col(quoted(name))
