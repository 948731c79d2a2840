"""Tables at a path: in a folder or an object store, opened in-process by ``deltalake`` or by Spark."""

from __future__ import annotations

import contextlib
import json
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ml_platform.contract.source import EVENT_DAY
from ml_platform.storage.conflicts import ATTEMPTS
from ml_platform.storage.datasets import fetched, in_folder, kept_open
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.locks import DEFAULT_SECONDS, held
from ml_platform.storage.table_location import (
    DAMAGED_TABLE,
    METADATA,
    DamagedTableError,
    LocationError,
    TableLocation,
    quoted,
    type_name,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

_BATCH_ROWS = 10_000


class _ForestalledError(LocationError):
    """Another commit came first; a new look at the table is needed."""


class PathLocation(TableLocation):
    """Tables at ``<root>/<product>/<table>``, which Spark and ``deltalake`` both open by their path."""

    def __init__(self, root: str, options: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._options = dict(options or {}) or None

    def address(self, product: str, table: str) -> str:
        return os.path.join(self.root, product, table)  # noqa: PTH118 - the root may be a URI

    def sql_name(self, product: str, table: str) -> str:
        return f"delta.{quoted(self.address(product, table))}"

    def open(self, product: str, table: str) -> DeltaTable:
        """A table that exists, in-process."""
        from deltalake import DeltaTable

        return DeltaTable(self.address(product, table), storage_options=self._options)

    def opened(self, product: str, table: str) -> DeltaTable:
        """A table that exists, as it is now, to be looked at only: others may have it as well."""
        return self.open(product, table)

    @abstractmethod
    def datasets(self, product: str, table: str, where: pc.Expression | None) -> Iterator[ds.Dataset]:
        """Together, all rows of a table that exists for which ``where`` holds, and some others."""

    def small_datasets(self, product: str, table: str, where: pc.Expression | None) -> Iterator[ds.Dataset]:
        """The same of a table that is read again and again, and small enough to be kept open."""
        return self.datasets(product, table, where)

    def write(self, product: str, table: str, data: pa.Table, **options: Any) -> None:
        """Commit rows in-process; ``options`` are those of ``write_deltalake``."""
        from deltalake import write_deltalake

        write_deltalake(self.address(product, table), data, storage_options=self._options, **options)

    def append_numbered(
        self,
        product: str,
        table: str,
        data: pa.Table,
        column: str,
        *,
        properties: Mapping[str, str] | None = None,
    ) -> int:
        """Append rows, with the number of their commit in a column; creates the table if need be.

        ``properties`` are those that a table gets that is created.

        The number is that of the commit in the table's own history, whatever the clocks of the writers say:
        rows of a later commit have a greater one. Where rows were copied from another table, whose numbers
        were greater, it goes on from these.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(_ForestalledError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )
        return int(attempts(self._append_once, product, table, data, column, dict(properties or {})))

    def _append_once(
        self, product: str, table: str, data: pa.Table, column: str, properties: dict[str, str]
    ) -> int:
        import pyarrow as pa
        from deltalake import CommitProperties, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        opened = self.open(product, table) if self.exists(product, table) else None
        number = 0 if opened is None else max(opened.version(), _greatest(opened, column)) + 1
        position = data.schema.get_field_index(column)
        numbers = pa.array([number] * len(data), data.schema.field(column).type)
        numbered = data.set_column(position, data.schema.field(column), numbers)
        # Without retries the commit is the one after the version that was looked at, or fails.
        alone = CommitProperties(max_commit_retries=0)
        try:
            if opened is None:
                place = self.address(product, table)
                write_deltalake(
                    place,
                    numbered,
                    mode="error",
                    configuration=dict(properties),
                    storage_options=self._options,
                    commit_properties=alone,
                )
            else:
                write_deltalake(opened, numbered, mode="append", schema_mode="merge", commit_properties=alone)
        except CommitFailedError as error:
            raise _ForestalledError(
                f"{product}/{table}: other commits came first, again and again"
            ) from error
        except DeltaError as error:
            if opened is None and self.exists(product, table):
                raise _ForestalledError(f"{product}/{table}: another process has created it") from error
            raise
        return number

    def commit(
        self,
        product: str,
        table: str,
        schema: pa.Schema,
        files: Mapping[date, Sequence[DayFile]],
        days: Sequence[date],
        metadata: str,
    ) -> None:
        """Make ``files`` all that the table has of ``days``, in one commit; creates the table if need be.

        A column that is new to the table is added; one that it has besides stays.

        Raises:
            LocationError: a column has another type than the table's; nothing is committed.
        """
        from deltalake import CommitProperties, Schema
        from deltalake.transaction import AddAction, create_table_with_add_actions

        added = [
            AddAction(
                path=file.path,
                size=file.size,
                partition_values={EVENT_DAY: day.isoformat()},
                modification_time=file.written_at,
                data_change=True,
                stats=json.dumps({"numRecords": file.rows}),
            )
            for day in days
            for file in files.get(day, ())
        ]
        wanted = Schema.from_arrow(schema)
        properties = CommitProperties(custom_metadata={METADATA: metadata})
        if not self.exists(product, table):
            create_table_with_add_actions(
                self.address(product, table),
                wanted,
                added,
                partition_by=[EVENT_DAY],
                storage_options=self._options,
                commit_properties=properties,
            )
            return
        opened = self.open(product, table)
        known = {field.name: field for field in opened.schema().fields}
        for field in wanted.fields:
            if field.name in known and known[field.name].type != field.type:
                raise LocationError(
                    f"{product}/{table}: the column {field.name} is {type_name(known[field.name])} in the "
                    f"table and {type_name(field)} by the contract; run again, which converts the column"
                )
        merged = Schema([*known.values(), *[field for field in wanted.fields if field.name not in known]])
        opened.create_write_transaction(
            added,
            "overwrite",
            merged,
            partition_by=[EVENT_DAY],
            partition_filters=[(EVENT_DAY, "in", [day.isoformat() for day in days])],
            commit_properties=properties,
        )

    def exists(self, product: str, table: str) -> bool:
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self.address(product, table), storage_options=self._options))

    def version(self, product: str, table: str) -> int:
        return int(self.open(product, table).version())

    def stamp(self, product: str, table: str) -> str | None:
        """Changes with every commit; None if the table doesn't exist. Cheaper than to open the table."""
        return str(self.version(product, table)) if self.exists(product, table) else None

    def column_types(self, product: str, table: str) -> dict[str, str]:
        return {field.name: type_name(field) for field in self.open(product, table).schema().fields}

    def add_columns(self, product: str, table: str, columns: Mapping[str, str]) -> None:
        from deltalake import Field
        from deltalake.schema import PrimitiveType

        fields = [Field(name, PrimitiveType(type_), nullable=True) for name, type_ in columns.items()]
        self.open(product, table).alter.add_columns(fields)

    def commits_after(self, product: str, table: str, version: int) -> dict[int, str | None]:
        # The history is the log's, numbered from the version that was opened: both must be of one moment.
        while True:
            opened = self.open(product, table)
            newest = int(opened.version())
            commits = opened.history(newest - version) if newest > version else []
            if not commits or self.version(product, table) == newest:
                return {commit["version"]: commit.get(METADATA) for commit in commits}

    def has_days(self, product: str, table: str, days: Sequence[date]) -> bool:
        present = {partition[EVENT_DAY] for partition in self.open(product, table).partitions()}
        return any(day.isoformat() in present or day in present for day in days)

    def batches(
        self, product: str, table: str, columns: Sequence[str], days: Sequence[date]
    ) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute as pc

        of_days = pc.field(EVENT_DAY).isin(list(days))
        for part in self.datasets(product, table, of_days):
            yield from part.to_batches(columns=list(columns), filter=of_days, batch_size=_BATCH_ROWS)

    def rows_held(self, product: str, table: str, days: Collection[date]) -> Mapping[date, int] | None:
        import pyarrow as pa

        files = pa.table(self.open(product, table).get_add_actions(flatten=True))
        if not len(files):
            return {}
        found: Counter[date] = Counter()
        broken = set()
        wanted = set(days)
        columns = (f"partition.{EVENT_DAY}", "num_records", "path", "size_bytes")
        for day, rows, path, size in zip(*[files[name].to_pylist() for name in columns], strict=True):
            if day not in wanted:
                continue
            if rows is None:
                return None
            found[day] += rows
            if not self._is_whole(product, table, path, size):
                broken.add(day)
        return {day: rows for day, rows in found.items() if day not in broken}

    def _is_whole(self, product: str, table: str, path: str, size: int) -> bool:
        """Whether a file that the log names is there in its full length; taken for granted in a store."""
        return True

    def load(self, spark: SparkSession, product: str, table: str, version: int | None) -> DataFrame:
        reader = spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.address(product, table))

    def without_rows(self, spark: SparkSession, product: str, table: str) -> DataFrame:
        from pyspark.sql.types import StructType

        # Delta's schemas are Spark's; to open the table in Spark takes a second or two.
        schema = self.open(product, table).schema().to_json()
        return spark.createDataFrame([], StructType.fromJson(json.loads(schema)))

    def replace(self, rows: DataFrame, product: str, table: str, days: Sequence[date], metadata: str) -> None:
        chosen = ", ".join(f"DATE'{day}'" for day in sorted(days))
        (
            rows.write.format("delta")
            .mode("overwrite")
            .partitionBy(EVENT_DAY)
            .option("replaceWhere", f"{quoted(EVENT_DAY)} IN ({chosen})")
            .option("mergeSchema", "true")
            .option(METADATA, metadata)
            .save(self.address(product, table))
        )

    def rewrite(self, rows: DataFrame, product: str, table: str) -> None:
        (
            rows.write.format("delta")
            .mode("overwrite")
            .partitionBy(EVENT_DAY)
            .option("overwriteSchema", "true")
            .save(self.address(product, table))
        )


class FolderLocation(PathLocation):
    """A local folder, or one that all machines of a cluster share."""

    locks = True

    def __init__(self, root: str, *, lock_seconds: float = DEFAULT_SECONDS) -> None:
        super().__init__(root)
        self.lock_seconds = lock_seconds

    def datasets(self, product: str, table: str, where: pc.Expression | None) -> Iterator[ds.Dataset]:
        yield in_folder(self.open(product, table), self.address(product, table))

    def opened(self, product: str, table: str) -> DeltaTable:
        stamp, place = self.stamp(product, table), self.address(product, table)
        return kept_open(place, stamp, lambda: self.open(product, table))

    def small_datasets(self, product: str, table: str, where: pc.Expression | None) -> Iterator[ds.Dataset]:
        stamp, place = self.stamp(product, table), self.address(product, table)
        yield kept_open(f"{place}/rows", stamp, lambda: in_folder(self.opened(product, table), place))

    def exists(self, product: str, table: str) -> bool:
        return self.stamp(product, table) is not None or super().exists(product, table)

    def stamp(self, product: str, table: str) -> str | None:
        log = os.path.join(self.address(product, table), "_delta_log")  # noqa: PTH118 - ticks are many
        try:
            newest = max((name for name in os.listdir(log) if name.endswith(".json")), default=None)  # noqa: PTH208
            if newest is None:
                return None
            status = os.stat(os.path.join(log, newest))  # noqa: PTH116, PTH118
        except FileNotFoundError:
            return None
        return f"{newest}/{status.st_ino}/{status.st_mtime_ns}"

    def open(self, product: str, table: str) -> DeltaTable:
        """A table that exists, in-process.

        Raises:
            DamagedTableError: its log can't be read.
        """
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return super().open(product, table)
        except TableNotFoundError:
            raise
        except DeltaError as error:
            if "(os error " in str(error):
                raise  # the disk, or who may read it
            log = f"{self.address(product, table)}/_delta_log"
            raise DamagedTableError(
                f"the table {product}/{table} is damaged, its log in {log} can't be read: {DAMAGED_TABLE}"
            ) from error

    def _is_whole(self, product: str, table: str, path: str, size: int) -> bool:
        try:
            # In Delta's log a path is an address: characters may be percent-encoded.
            return Path(self.address(product, table), unquote(path)).stat().st_size == size
        except OSError:
            return False

    def day_files(self, product: str, table: str) -> DayFiles:
        return DayFiles(self.address(product, table))

    @contextlib.contextmanager
    def lock(self, product: str, table: str) -> Iterator[None]:
        """Hold a file lock.

        A local folder has no atomic put-if-absent that every writer uses, and two JVMs that commit at
        once can lose a commit.

        Raises:
            LockedError: another process has held it for longer than ``lock_seconds``.
        """
        path = Path(self.root) / ".locks" / f"{product}.{table}.lock"
        with held(path, f"the table {product}/{table}", seconds=self.lock_seconds):
            yield


class ObjectStoreLocation(PathLocation):
    """An object store, which rejects a commit if another committed first.

    Credentials come from the environment, for ``deltalake`` by the usual ``AZURE_*`` variables
    (``AZURE_STORAGE_ACCOUNT_KEY``; or ``AZURE_CLIENT_ID``, ``AZURE_CLIENT_SECRET`` and ``AZURE_TENANT_ID``;
    or the identity of the machine); ``options`` go before them. Spark has its own: those of the cluster.
    """

    def datasets(self, product: str, table: str, where: pc.Expression | None) -> Iterator[ds.Dataset]:
        return fetched(self.open(product, table), where)

    def write(self, product: str, table: str, data: pa.Table, **options: Any) -> None:
        """Commit rows, again if the store refused the commit for ones that came first.

        ``deltalake`` tries a few times by itself, without a pause, and gives up when others are quicker.
        """
        from deltalake.exceptions import CommitFailedError

        attempts = Retrying(
            retry=retry_if_exception_type(CommitFailedError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )
        attempts(super().write, product, table, data, **options)


def _greatest(table: DeltaTable, column: str) -> int:
    """The greatest value of a column of integers, by the statistics of the table's files; -1 without any."""
    import pyarrow as pa

    actions = pa.table(table.get_add_actions(flatten=True))
    name = f"max.{column}"
    known = actions.column(name).drop_null().to_pylist() if name in actions.column_names else []
    return max(known, default=-1)
