"""Tables are the same wherever they lie: a folder, an object store, a catalog."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from azure.storage.blob import ContainerClient
from deltalake.fs import DeltaStorageHandler

from ml_platform.contract.monitoring import DataSet
from ml_platform.data_engineering import ards, landing, mrds, unity_catalog
from ml_platform.mlops.quality import quarantine
from ml_platform.mlops.quality.profiles import ProfileStatistics, profile
from ml_platform.storage.catalog_location import CatalogLocation
from ml_platform.storage.column_changes import Change, align
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.locations import location_of
from ml_platform.storage.path_locations import FolderLocation, ObjectStoreLocation
from ml_platform.storage.table_location import LocationError
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import Platform, deliver_visits
from ml_platform_tests.storage.azurite import ACCOUNT, KEY, Azurite
from ml_platform_tests.storage.blob_proxy import listing_from
from ml_platform_tests.storage.test_ledger import DAY, record

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SCHEMA = "ml_roots"


@pytest.fixture(scope="module")
def blob_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an emulated storage account."""
    emulator = Azurite(tmp_path_factory.mktemp("azurite"))
    emulator.start()
    with listing_from(emulator.port) as port:
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    emulator.kill()


@pytest.fixture
def object_store(blob_url: str, request: pytest.FixtureRequest) -> Tables:
    """Tables in an empty container; ``deltalake`` reaches ``abfss`` by Blob's protocol."""
    container = re.sub(r"\W|_", "-", request.node.name)[:60].strip("-")
    ContainerClient(blob_url, container, credential=KEY).create_container()
    options = {
        "account_name": ACCOUNT,
        "account_key": KEY,
        "azure_storage_endpoint": blob_url,
        "allow_http": "true",
    }
    return Tables(f"abfss://{container}@{ACCOUNT}.dfs.core.windows.net/tables", options=options)


@pytest.fixture(params=["folder", "catalog"])
def tables(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Tables:
    """Tables of which none exists yet, in a folder and in a catalog."""
    root = str(tmp_path / "tables")
    if request.param == "catalog":
        root = f"uc:spark_catalog.{request.getfixturevalue('schema')}"
    return Tables(root, control=str(tmp_path / "control"), session=lambda: spark)


@pytest.fixture
def schema(spark: SparkSession) -> Iterator[str]:
    """An empty schema of the session's own catalog."""
    spark.sql(f"CREATE SCHEMA {SCHEMA}")
    yield SCHEMA
    spark.sql(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.mark.parametrize(
    ("place", "kind", "address"),
    [
        ("/srv/tables", FolderLocation, "/srv/tables/shop/ards"),
        (
            "abfss://lake@account.dfs.core.windows.net/ml/",
            ObjectStoreLocation,
            "abfss://lake@account.dfs.core.windows.net/ml/shop/ards",
        ),
        ("uc:main.ml-prod", CatalogLocation, "`main`.`ml-prod`.`shop_ards`"),
    ],
)
def test_a_setting_names_a_root(place: str, kind: type, address: str) -> None:
    root = location_of(place)
    assert type(root) is kind
    assert root.address("shop", "ards") == address


@pytest.mark.parametrize("place", ["uc:main", "uc:main.", "uc:a.b.c", "uc:a.b`c", "https://account/tables"])
def test_a_root_of_no_known_kind_is_refused_with_what_is_accepted(place: str) -> None:
    with pytest.raises(LocationError, match=r"uc:catalog\.schema"):
        location_of(place)


def test_the_small_tables_of_a_catalog_need_a_place_of_their_own() -> None:
    with pytest.raises(LocationError, match="ML_PLATFORM_CONTROL_TABLES"):
        Tables("uc:main.ml")


def test_tables_of_a_catalog_say_that_they_need_a_session(tmp_path: Path) -> None:
    with pytest.raises(LocationError, match=r"`main`\.`ml`\.`shop_mrds`.* from within a step"):
        Tables("uc:main.ml", control=str(tmp_path)).version("shop", "mrds")


@pytest.mark.parametrize("order", [("event_day", "x"), ("x", "event_day"), ("x", "event_day", "y")])
def test_days_are_replaced_again_and_again_wherever_the_day_stands(
    tables: Tables, spark: SparkSession, order: tuple[str, ...]
) -> None:
    """A catalog keeps the columns of partitions last."""
    first, second = date(2024, 1, 1), date(2024, 1, 2)
    for number in range(5):
        values = {"event_day": [first, second], "x": [number, -number], "y": ["a", None]}
        if number == 3:
            values |= {"z": [1.5, 2.5]}  # a column that is new
        columns = [*order, *(values.keys() - {"event_day", "x", "y"})]
        rows = spark.createDataFrame(pa.table({name: values[name] for name in columns}).to_pandas())
        rows = rows.withColumn("event_day", rows["event_day"].cast("date"))
        tables.replace_days(spark, "shop", "ards", rows, [first, second], run_id=f"run-{number}")
        found = {row["event_day"]: row.asDict() for row in tables.read(spark, "shop", "ards").collect()}
        assert {day: row["x"] for day, row in found.items()} == {first: number, second: -number}
    assert {day: row["z"] for day, row in found.items()} == {first: None, second: None}
    tables.replace_days(spark, "shop", "ards", rows.where("x > 0"), [first, second], run_id="run")
    assert [row["event_day"] for row in tables.read(spark, "shop", "ards").collect()] == [first]


def test_a_ledger_in_an_object_store_keeps_the_newest_record(object_store: Tables) -> None:
    ledger = Ledger(object_store, "shop")
    assert ledger.latest("ards") == {}
    ledger.record([record(fingerprint="old"), record(date(2024, 1, 2))])
    ledger.record([record(outcome="blocked", reason="nulls")])
    assert ledger.latest("ards")[DAY].outcome == "blocked"
    assert ledger.latest("ards")[date(2024, 1, 2)].outcome == "written"
    assert object_store.exists("shop", "days")
    assert object_store.version("shop", "days") == 1


def test_writers_of_an_object_store_that_commit_at_once_lose_nothing(object_store: Tables) -> None:
    """The store refuses the second of two equal commits, and the writer tries the next version."""
    together = threading.Barrier(4)

    def write(number: int) -> None:
        ledger = Ledger(object_store, "shop")
        together.wait()
        for turn in range(3):
            ledger.record([record(date(2024, 2, 1 + 3 * number + turn))])

    Ledger(object_store, "shop").record([record()])
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(Ledger(object_store, "shop").latest("ards")) == 13
    assert object_store.version("shop", "days") == 12


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "object store"])
def test_no_thread_of_arrow_holds_a_python_file(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lets go of it while the interpreter ends would abort the process."""
    tables = Tables(str(tmp_path)) if place == "folder" else request.getfixturevalue("object_store")
    opened = DeltaStorageHandler.open_input_file
    threads: list[threading.Thread] = []

    def watched(self: DeltaStorageHandler, path: str) -> pa.PythonFile:
        threads.append(threading.current_thread())
        return opened(self, path)

    monkeypatch.setattr(DeltaStorageHandler, "open_input_file", watched)
    days = [date(2024, 1, 1) + timedelta(days=number) for number in range(20)]
    for day in days:
        tables.control.write(
            "shop", "quarantine", pa.table({"event_day": [day], "n": [day.day]}), mode="append"
        )
        Ledger(tables, "shop").record([record(day)])
    assert list(Ledger(tables, "shop").latest("ards")) == days
    assert list(Ledger(tables, "shop").latest("ards", days[4:6])) == days[4:6]
    found = [
        row["n"]
        for batch in tables.batches("shop", "quarantine", ["n"], days[:18])
        for row in batch.to_pylist()
    ]
    assert sorted(found) == list(range(1, 19))
    if (files := tables.day_files("shop", "quarantine")) is not None:
        assert [(day, rows["n"].to_pylist()) for day, rows in files.read(19, days[:2], ["n"])] == [
            (days[0], [1]),
            (days[1], [2]),
        ]
        assert sorted(pa.Table.from_batches(files.read_in_batches(19, days[:2], ["n"]))["n"].to_pylist()) == [
            1,
            2,
        ]
    # A thread that Python didn't start has a stand-in for its name.
    assert not [thread.name for thread in threads if thread.name.startswith("Dummy")]
    assert bool(threads) == (place == "object store")


@pytest.mark.slow
def test_the_data_sets_are_the_same_in_a_catalog_as_in_a_folder(
    platform: Platform, spark: SparkSession, schema: str
) -> None:
    """Without the verdicts, which are not the tables' business."""
    product, days = platform.product, [date(2024, 1, 1), date(2024, 1, 2)]
    deliver_visits(platform, days)
    bad = "visit,day,customer,spend,pages,channel\n1,2024-01-01,c1,not a number,1,web\n"
    platform.deliver(days[0], "2024-01-02T0700_visits.csv", bad)
    control = str(platform.settings.home / "control")
    catalog = Tables(f"uc:spark_catalog.{schema}", control=control, session=lambda: spark)
    deliveries = list(landing.scan(product, platform.settings.landing_path, days).values())
    made = {}
    for name, tables in (("folder", platform.tables), ("catalog", catalog)):
        rows = ards.write(
            lambda: spark,
            product,
            tables,
            deliveries,
            run_id="1",
            statistics=ProfileStatistics(product, "ards"),
        )
        entities = mrds.write(
            lambda: spark, product, tables, days, run_id="1", statistics=ProfileStatistics(product, "mrds")
        )
        profiles = [profile(product, "ards", rows[day].rows, rows[day].statistics) for day in days]
        counted = [entities[day].counted for day in days]
        profiles += [profile(product, "mrds", one.rows, one.statistics) for one in counted]
        hashes = [(one.fingerprint, one.features_fingerprint) for one in counted]
        made[name] = ([(rows[day].counts, rows[day].fingerprint) for day in days], hashes, profiles)
    assert made["catalog"] == made["folder"]
    names = {row["tableName"] for row in spark.sql(f"SHOW TABLES IN {schema}").collect()}
    assert names == {"shop_ards", "shop_mrds", "shop_quarantine"}
    data_sets: tuple[DataSet, ...] = ("ards", "mrds")
    for data_set in data_sets:
        written = dict(spark.table(f"{schema}.shop_{data_set}").dtypes)
        assert unity_catalog.columns(product, data_set) == written

    (unusable,) = quarantine.of_days(catalog, product, days).items()
    assert unusable[0] == days[0]
    assert "not a number" in unusable[1].records[0][2]
    assert catalog.has_days("shop", "quarantine", [days[0]])
    assert not catalog.has_days("shop", "quarantine", [days[1]])

    # Doing one day again replaces it alone, and the version before it can still be read.
    before = catalog.version("shop", "mrds")
    mrds.write(lambda: spark, product, catalog, [days[1]], run_id="2")
    assert catalog.version("shop", "mrds") == before + 1
    now = catalog.read(spark, "shop", "mrds").count()
    assert catalog.read(spark, "shop", "mrds", version=before).count() == now


@pytest.mark.slow
def test_a_table_gets_the_columns_and_types_of_another_schema(spark: SparkSession, tables: Tables) -> None:
    """A value that the new type can't hold is null; columns that the schema lacks stay."""
    day = date(2024, 1, 1)
    whole, fraction, large = (1, "1", 1.0, day), (2, "two", 2.5, day), (3, None, 2.0**40, day)
    columns = "`n.n` int, text string, amount double, since date, event_day date"
    rows = spark.createDataFrame([(*row, day) for row in (whole, fraction, large)], columns)
    wanted = pa.schema(
        [
            ("n.n", pa.string()),
            ("text", pa.int64()),
            ("amount", pa.int32()),
            ("since", pa.float64()),
            ("note.s", pa.string()),
            ("count", pa.int64()),
            ("event_day", pa.date32()),
        ]
    )
    assert str(align(tables, lambda: spark, "shop", "ards", wanted)) == ""
    assert not tables.exists("shop", "ards")
    tables.replace_days(spark, "shop", "ards", rows, [day], run_id="1")
    kept = pa.schema([("event_day", pa.date32()), ("amount", pa.float64())])
    assert str(align(tables, lambda: spark, "shop", "ards", kept)) == ""

    aligned = align(tables, lambda: spark, "shop", "ards", wanted)
    assert set(aligned.added) == {"note.s", "count"}
    assert aligned.changed == {
        "n.n": Change("n.n", "integer", "string"),
        "text": Change("text", "string", "long"),
        "amount": Change("amount", "double", "integer"),
        "since": Change("since", "date", "double"),
    }
    frame = tables.read(spark, "shop", "ards")
    types = dict(frame.dtypes)
    assert types == {
        "n.n": "string",
        "text": "bigint",
        "amount": "int",
        "since": "double",
        "event_day": "date",
        "note.s": "string",
        "count": "bigint",
        "__text__string": "string",
        "__amount__double": "double",
        "__since__date": "date",
    }
    found = [
        tuple(row)
        for row in frame.select("`n.n`", "text", "amount", "since", "count").orderBy("`n.n`").collect()
    ]
    assert found == [("1", 1, 1, None, None), ("2", None, None, None, None), ("3", None, None, None, None)]
    version = tables.version("shop", "ards")
    assert str(align(tables, lambda: spark, "shop", "ards", wanted)) == ""
    assert tables.version("shop", "ards") == version
    # Days are still replaced alone.
    tables.replace_days(
        spark, "shop", "ards", tables.without_rows(spark, "shop", "ards"), [date(2024, 1, 2)], run_id="2"
    )
    assert tables.read(spark, "shop", "ards").count() == 3


_VALUES = pa.schema(
    [
        ("key", pa.string()),
        ("amount", pa.float64()),
        ("on", pa.date32()),
        ("flag", pa.bool_()),
        ("event_day", pa.date32()),
    ]
)


def retyped(**types: pa.DataType) -> pa.Schema:
    """The schema of :data:`_VALUES` with other types for some of its columns."""
    return pa.schema([(field.name, types.get(field.name, field.type)) for field in _VALUES])


@pytest.mark.slow
def test_a_type_that_is_changed_and_changed_back_loses_nothing(spark: SparkSession, tables: Tables) -> None:
    first, second = date(2024, 1, 1), date(2024, 1, 2)
    rows = [("1", 1.0, first, True, first), ("x", 2.5, first, False, first), ("3", None, None, None, first)]
    of_second = [("4", 0.25, second, True, second)]
    make = "key string, amount double, on date, flag boolean, event_day date"
    delivered = spark.createDataFrame(rows + of_second, make)
    tables.replace_days(spark, "shop", "ards", delivered, [first, second], run_id="1")

    def retype(schema: pa.Schema) -> None:
        align(tables, lambda: spark, "shop", "ards", schema)

    def values(*columns: str) -> list[tuple[object, ...]]:
        frame = tables.read(spark, "shop", "ards").orderBy("key").select(*columns)
        return [tuple(row) for row in frame.collect()]

    before = values("key", "amount", "on", "flag")
    retype(retyped(amount=pa.int64(), on=pa.timestamp("us", "UTC"), flag=pa.int32()))
    assert values("amount", "flag") == [(1, 1), (None, None), (None, 1), (None, 0)]
    assert "__on__date" not in tables.read(spark, "shop", "ards").columns  # nothing of it was lost
    # A day that is done meanwhile has values of the new type only.
    meanwhile = spark.createDataFrame(
        [("4", 7, datetime(2024, 1, 2, 12, tzinfo=UTC), 1, second)],
        "key string, amount long, on timestamp, flag int, event_day date",
    )
    tables.replace_days(spark, "shop", "ards", meanwhile, [second], run_id="2")
    retype(retyped(amount=pa.string(), on=pa.string()))
    retype(_VALUES)
    after = values("key", "amount", "on", "flag")
    assert [row for row in after if row[0] != "4"] == [row for row in before if row[0] != "4"]
    assert [row[1] for row in after if row[0] == "4"] == [7.0]
    with pytest.raises(LocationError, match="key tells rows apart, and was string: 'x' is no long"):
        align(tables, lambda: spark, "shop", "ards", retyped(key=pa.int64()), keys=["key"])
    assert values("key", "amount", "on", "flag") == after


@pytest.mark.slow
def test_a_column_whose_name_changes_in_case_only_is_renamed(spark: SparkSession, tables: Tables) -> None:
    day = date(2024, 1, 1)
    rows = spark.createDataFrame([("a", 1, day)], "key string, pages int, event_day date")
    tables.replace_days(spark, "shop", "ards", rows, [day], run_id="1")
    wanted = pa.schema([("key", pa.string()), ("Pages", pa.int64()), ("event_day", pa.date32())])
    aligned = align(tables, lambda: spark, "shop", "ards", wanted)
    assert str(aligned) == "Pages, called pages before, was integer and is long"
    assert tables.location.column_types("shop", "ards")["Pages"] == "long"
    assert "pages" not in tables.location.column_types("shop", "ards")
    assert [tuple(row) for row in tables.read(spark, "shop", "ards").select("key", "Pages").collect()] == [
        ("a", 1)
    ]
    assert str(align(tables, lambda: spark, "shop", "ards", wanted)) == ""
