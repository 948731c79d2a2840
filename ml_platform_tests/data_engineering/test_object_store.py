"""Deliveries in an object store: S3 by moto's server, Azure by Azurite; read as those in a folder are."""

from __future__ import annotations

import gzip
import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from azure.storage.blob import ContainerClient
from obstore.store import AzureStore
from pydantic import ValidationError
from pyspark.sql import SparkSession

from ml_platform.contract.secrets import Secret
from ml_platform.data_engineering import buckets, landing, object_store, uploads
from ml_platform.data_engineering.arrivals import ArrivalRegister
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.object_store import StoreAwayError, StoreError, landing_of
from ml_platform.data_engineering.parsing import parse_file
from ml_platform.engine.passing_errors import is_passing
from ml_platform.graph import deliveries
from ml_platform.settings import Settings
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.s3 import BUCKET, S3, s3
from ml_platform_tests.small_platform import D, Platform, deliver_visits, shop
from ml_platform_tests.storage.azurite import ACCOUNT, KEY, Azurite

DAY = D("2024-01-10")
HEADER = "visit,day,customer,spend,pages,channel\n"


@dataclass
class Store:
    """A place in a store, and a client of it that isn't the platform's."""

    address: str
    options: dict[str, str]
    client: Any
    prefix: str

    def put(self, day: date | str, name: str, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        obstore.put(self.client, f"{self.prefix}/shop/{day}/{name}", content)

    def delete(self, day: date | str, name: str) -> None:
        obstore.delete(self.client, f"{self.prefix}/shop/{day}/{name}")

    def settings(self, home: Path, **more: Any) -> Settings:
        options = {name: Secret(value) for name, value in {**self.options, **more.pop("options", {})}.items()}
        return settings_in(home, landing=self.address, storage_options=options, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3() as running:
        yield running


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    emulator = Azurite(tmp_path_factory.mktemp("azurite"))
    emulator.start()
    yield emulator
    emulator.kill()


def _of_azure(request: pytest.FixtureRequest) -> Store:
    emulator: Azurite = request.getfixturevalue("azurite")
    container = re.sub(r"\W|_", "-", request.node.name)[:60].strip("-")
    ContainerClient(emulator.account_url, container, credential=KEY).create_container()
    options = {"azure_storage_account_key": KEY, "azure_storage_endpoint": emulator.account_url}
    config = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": emulator.account_url}
    client = AzureStore(container, config=config, client_options={"allow_http": True})  # type: ignore[arg-type]
    address = f"abfss://{container}@{ACCOUNT}.dfs.core.windows.net/landing"
    return Store(address, options | {"allow_http": "true"}, client, "landing")


def _of_s3(request: pytest.FixtureRequest) -> Store:
    running: S3 = request.getfixturevalue("server")
    name = re.sub(r"\W", "-", request.node.name)
    return Store(f"s3://{BUCKET}/{name}/landing", running.options, running.client(), f"{name}/landing")


@pytest.fixture(params=["s3", "azure"])
def store(request: pytest.FixtureRequest) -> Store:
    return _of_s3(request) if request.param == "s3" else _of_azure(request)


@pytest.fixture
def in_s3(request: pytest.FixtureRequest) -> Store:
    return _of_s3(request)


@pytest.fixture
def made(store: Store, tmp_path: Path, spark: SparkSession) -> Platform:
    """A platform whose deliveries lie in the store."""
    return Platform(store.settings(tmp_path / "home"), spark)


def pending(platform: Platform) -> list[date]:
    made_from = {day: record.inputs for day, record in platform.ledger.latest("ards").items()}
    return list(deliveries.pending(platform.product, platform.settings, made_from).states)


def row(number: int, spend: int = 1) -> str:
    return f"{number},{DAY},ann,{spend},1,web\n"


def test_a_delivery_is_read_as_the_same_one_in_a_folder_is(
    store: Store, made: Platform, platform: Platform
) -> None:
    days = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=40)]
    deliver_visits(platform, days)
    odd = HEADER + row(10_001)
    platform.deliver(DAY, "b ü%20+#.csv", odd)
    platform.deliver(DAY, "c.csv.gz", gzip.compress((HEADER + row(10_002)).encode()))
    platform.deliver(days[1], "2024-01-14_new.csv", HEADER + f"7,{days[1]},bob,3,1,app\nx\n")
    platform.deliver(days[1], "2024-01-14_new.csv.manifest.yaml", "replaces: true\n")
    platform.deliver(DAY, "notes.txt", "nothing")
    for path in platform.settings.landing_path.rglob("*.*"):
        store.put(path.parent.name, path.name, path.read_bytes())
    for running in (made, platform):
        running.run("ards", days)
    assert len(made.rows("ards")) > 10
    ours, others = made.ledger.latest("ards"), platform.ledger.latest("ards")
    assert {day: record.fingerprint for day, record in ours.items()} == {
        day: record.fingerprint for day, record in others.items()
    }
    assert {day: record.counts for day, record in ours.items()} == {
        day: record.counts for day, record in others.items()
    }
    assert ours[DAY].details["metadata"] == others[DAY].details["metadata"]
    assert list(made.rows("quarantine")["raw"]) == ["x"]


def test_tasks_of_spark_read_from_the_store(
    store: Store, made: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "one_task", lambda *_: False)
    for number in range(3):
        day = DAY + timedelta(days=number)
        store.put(day, "rows.csv", HEADER + f"1,{day},ann,{number},1,web\n")
    made.run("ards", [DAY + timedelta(days=number) for number in range(3)])
    assert list(made.rows("ards", ["day"])["spend"]) == [0.0, 1.0, 2.0]


def test_a_large_file_is_read_in_parts(store: Store, made: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 20_000)
    monkeypatch.setattr(buckets, "PIECE_BYTES", 10_000)
    store.put(DAY, "rows.csv", HEADER + "".join(row(number) for number in range(5_000)))
    made.run("ards", DAY)
    assert sorted(made.rows("ards")["visit"]) == list(range(5_000))


def test_what_is_new_changed_or_gone_is_pending(store: Store, made: Platform) -> None:
    assert pending(made) == []
    store.put(DAY, "rows.csv", HEADER + row(1, 5))
    assert pending(made) == [DAY]
    made.run("ards", DAY)
    assert pending(made) == []
    store.put(DAY, "rows.csv", HEADER + row(1, 6))  # as long as before
    assert pending(made) == [DAY]
    made.run("ards", DAY)
    assert list(made.rows("ards")["spend"]) == [6.0]
    store.put(DAY, "2024-01-13_fix.csv", HEADER + row(1, 7))
    assert pending(made) == [DAY]
    made.run("ards", DAY)
    store.delete(DAY, "2024-01-13_fix.csv")
    assert pending(made) == [DAY]
    made.run("ards", DAY)
    assert list(made.rows("ards")["spend"]) == [6.0]
    store.put(DAY + timedelta(days=1), "rows.csv", HEADER)
    store.delete(DAY, "rows.csv")
    assert pending(made) == [DAY, DAY + timedelta(days=1)]
    (done,) = made.run("ards", DAY).days
    assert done.outcome == "missing"
    assert len(made.rows("ards")) == 0


def test_a_file_without_bytes_is_still_being_written(store: Store, made: Platform) -> None:
    store.put(DAY, "rows.csv", b"")
    (done,) = made.run("ards", DAY).days
    assert (done.outcome, "rows.csv: has no bytes" in done.reason) == ("refused", True)
    store.put(DAY, "rows.csv", HEADER + row(1))
    made.run("ards", DAY)
    assert len(made.rows("ards")) == 1
    # Whoever writes over a file may truncate it first, and its day is neither gone nor whole meanwhile.
    store.put(DAY, "rows.csv", b"")
    assert pending(made) == []
    (done,) = made.run("ards", DAY).days
    assert done.outcome == "refused"
    assert len(made.rows("ards")) == 1
    store.put(DAY, "rows.csv", HEADER + row(1) + row(2))
    assert pending(made) == [DAY]
    made.run("ards", DAY)
    assert len(made.rows("ards")) == 2


@pytest.mark.parametrize(
    "neighbour", [" copy/a.csv", "+/a.csv", "-old/a.csv", ".tmp/a.csv", ".csv", "0/a.csv"]
)
def test_neighbours_of_a_days_folder_hide_nothing(in_s3: Store, tmp_path: Path, neighbour: str) -> None:
    last = DAY + timedelta(days=1)
    for day in (DAY, last):
        in_s3.put(day, "rows.csv", HEADER)
        obstore.put(in_s3.client, f"{in_s3.prefix}/shop/{day}{neighbour}", b"x")
    place = landing_of(in_s3.settings(tmp_path), shop())
    for days in ([DAY], [last], [DAY, last]):
        looks = landing.looks(shop(), place, days)
        assert [[file.name for file in looks[day].files] for day in days] == [["rows.csv"]] * len(days)
    assert landing.delivered_days(shop(), place) == [DAY, last]


def test_options_of_the_tables_lead_deliveries_nowhere_else(in_s3: Store, tmp_path: Path) -> None:
    in_s3.put(DAY, "rows.csv", HEADER)
    options = {
        "aws_bucket": "tables",
        "azure_storage_account_name": "tables",
        "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
        "azure_allow_http": "true",
    }
    settings = in_s3.settings(tmp_path, options=options)
    assert landing.delivered_days(shop(), landing_of(settings, shop())) == [DAY]


@pytest.mark.parametrize("options", [{"aws_no_such_option": "1"}, {"timeout": "soon"}])
def test_options_that_cannot_be_used_are_no_reason_to_try_again(
    in_s3: Store, tmp_path: Path, options: dict[str, str]
) -> None:
    settings = in_s3.settings(tmp_path, options=options)
    with pytest.raises(StoreError) as raised:
        landing.delivered_days(shop(), landing_of(settings, shop()))
    assert not is_passing(raised.value)
    assert "secret" not in str(raised.value)


def test_a_folder_in_a_day_costs_no_memory(in_s3: Store, tmp_path: Path) -> None:
    in_s3.put(DAY, "rows.csv", HEADER)
    for number in range(30):
        in_s3.put(DAY, f"checkpoint/{number}/part.csv", "x")
    found = (landing_of(in_s3.settings(tmp_path), shop()) / "shop").files_by_folder(str(DAY), str(DAY))  # type: ignore[union-attr]
    assert [file.facts.name for file in found[str(DAY)] if file.facts] == [
        "checkpoint/0/part.csv",
        "rows.csv",
    ]


def test_folders_within_a_day_are_named_and_not_read(store: Store, made: Platform) -> None:
    store.put(DAY, "rows.csv", HEADER + row(1))
    store.put(DAY, "deeper/rows.csv", HEADER + row(2))
    (done,) = made.run("ards", DAY).days
    assert done.metadata["unread_files"] == "deeper/"
    assert len(made.rows("ards")) == 1


def test_a_wrong_key_ends_the_step_and_makes_no_day_missing(store: Store, tmp_path: Path) -> None:
    store.put(DAY, "rows.csv", HEADER + row(1))
    if not store.address.startswith("abfss"):
        pytest.skip("moto checks no keys")
    settings = store.settings(tmp_path / "home", options={"azure_storage_account_key": "d3Jvbmc="})
    with pytest.raises(StoreError, match="refuses"):
        landing.delivered_days(shop(), landing_of(settings, shop()))
    with pytest.raises(StoreError, match=re.escape(store.address)) as raised:
        landing.scan(shop(), landing_of(settings, shop()), [DAY], FileRules.of(settings, shop()))
    assert not is_passing(raised.value)
    assert "d3Jvbmc=" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_an_error_and_no_empty_landing(in_s3: Store, tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path,
        landing="s3://nowhere/landing",
        storage_options={name: Secret(value) for name, value in in_s3.options.items()},
    )
    with pytest.raises(StoreError, match="no such container or bucket"):
        landing.looks(shop(), landing_of(settings, shop()), [DAY])
    with pytest.raises(StoreError, match="no such container or bucket"):
        landing.delivered_days(shop(), landing_of(settings, shop()))


def test_a_store_that_dies_is_no_missing_day(tmp_path: Path, spark: SparkSession) -> None:
    object_store._store.cache_clear()
    with s3() as server:
        store = Store(f"s3://{BUCKET}/landing", server.options, server.client(), "landing")
        platform = Platform(store.settings(tmp_path / "home"), spark)
        store.put(DAY, "rows.csv", HEADER + row(1))
        store.put(DAY + timedelta(days=1), "rows.csv", HEADER)
        platform.run("ards", DAY)
    before = platform.ledger.latest("ards")
    with pytest.raises(StoreAwayError, match="doesn't answer") as raised:
        platform.run("ards", [DAY, DAY + timedelta(days=1)], force=True)
    assert is_passing(raised.value)
    assert "secret" not in str(raised.value)
    assert platform.ledger.latest("ards") == before
    assert len(platform.rows("ards")) == 1


def test_a_store_that_dies_while_a_file_is_read_refuses_no_day(
    store: Store, made: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(DAY, "rows.csv", HEADER + row(1))
    reads = object_store._Reader.readinto

    def dying(self: Any, buffer: Any) -> int:
        if reads(self, buffer):
            raise StoreAwayError("the store doesn't answer: error sending request")
        return 0

    monkeypatch.setattr(object_store._Reader, "readinto", dying)
    with pytest.raises(StoreAwayError):
        made.run("ards", DAY)
    assert made.ledger.latest("ards") == {}


class _Requests(logging.Handler):
    """The requests that moto's server has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def requests() -> Iterator[Callable[[], int]]:
    """What counts the requests since it was asked last."""
    handler, logger = _Requests(), logging.getLogger("werkzeug")
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)

    def count() -> int:
        found = len(handler.lines)
        handler.lines.clear()
        return found

    yield count
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_years_are_looked_at_in_few_requests(
    in_s3: Store, tmp_path: Path, requests: Callable[[], int]
) -> None:
    from moto.s3.models import s3_backends

    (backends,) = [
        backend
        for account in s3_backends.values()
        for backend in account.values()
        if BUCKET in backend.buckets
    ]
    first, product = D("2024-01-01"), shop()
    days = [first + timedelta(days=number) for number in range(1_460)]
    for day in days:
        for name in ("a.csv", "b.csv", "c.csv", "d.csv", "e.csv", "f.csv"):
            backends.put_object(BUCKET, f"{in_s3.prefix}/shop/{day}/{name}", HEADER.encode())
    place = landing_of(in_s3.settings(tmp_path), shop())
    requests()
    assert landing.delivered_days(product, place) == days
    assert requests() <= 5
    looks = landing.looks(product, place, days)
    assert sum(len(look.files) for look in looks.values()) == 6 * 1_460
    assert requests() <= 2 + 6 * 1_460 // 1_000
    assert len(landing.looks(product, place, days[-62:])) == 62
    assert requests() == 1
    assert len(landing.looks(product, place, [days[0], *days[-10:]])) == 11
    assert requests() <= 3


def test_the_register_knows_files_of_a_store(store: Store, made: Platform) -> None:
    register, rules = ArrivalRegister(made.tables, made.product), FileRules.of(made.settings, shop())
    place = landing_of(made.settings, shop())

    def look(morning: str) -> int:
        now = datetime.fromisoformat(f"{morning}T08:00").replace(tzinfo=UTC)
        return register.observe(place, landing.looks(made.product, place, [DAY]), now, rules)

    store.put(DAY, "rows.csv", HEADER + row(1))
    assert look("2024-01-11") == 1
    assert look("2024-01-12") == 0
    store.put(DAY, "rows.csv", HEADER + row(1))
    store.put(DAY, "back.csv", HEADER + row(2))
    look("2024-01-20")
    seen = register.read([DAY]).seen(DAY, landing.looks(made.product, place, [DAY])[DAY].files)
    assert seen is not None
    assert seen.late_files == {"back.csv": D("2024-01-20")}


def test_deliveries_that_are_made_here_are_uploaded(store: Store, made: Platform) -> None:
    def write(content: str, *, replace: bool = False) -> None:
        with uploads.folder_for(made.product, made.settings, replace=replace) as folder:
            path = folder / "shop" / str(DAY) / "rows.csv"
            path.parent.mkdir(parents=True)
            path.write_text(content)

    write(HEADER + row(1))
    made.run("ards", DAY)
    assert len(made.rows("ards")) == 1
    write(HEADER + row(1))
    assert pending(made) == [], "what is there already isn't written again"
    with pytest.raises(uploads.UploadError, match="exists already with other content"):
        write(HEADER + row(2))
    assert pending(made) == []
    write(HEADER + row(2), replace=True)
    assert pending(made) == [DAY]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("ftp://host/landing", "no place of deliveries"),
        ("https://account.blob.core.windows.net/landing", "no place of deliveries"),
        ("abfss://account.dfs.core.windows.net/landing", "names no account"),
        ("s3://", "no place of deliveries"),
        ("dbfs:/Volumes/a/b/c", "write /Volumes"),
        ("abfss://c@account.dfs.core.windows.net/x?sv=2024&sig=abc", "can't stand here"),
        ("s3://key:secret@bucket/x", "can't stand here"),
    ],
)
def test_a_place_that_cannot_be_read_is_refused_when_settings_are(place: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Settings(landing=place)


@pytest.mark.parametrize(
    "place", ["s3://bucket/a/", "gs://bucket", "az://container/x", "abfss://c@account.dfs.core.windows.net/"]
)
def test_places_in_object_stores_are_kept_as_they_are(place: str) -> None:
    assert str(landing_of(Settings(landing=place), shop())) == place.rstrip("/")


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    assert landing_of(Settings(landing=tmp_path), shop()) == tmp_path
    assert landing_of(Settings(landing="/Volumes/a/b/c/landing"), shop()) == Path("/Volumes/a/b/c/landing")
    assert landing_of(Settings(home=tmp_path), shop()) == tmp_path / "landing"


def test_parquet_and_json_lines_are_read_from_a_store(
    in_s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform(in_s3.settings(tmp_path / "home"), None)  # type: ignore[arg-type]
    table = pa.table(
        {
            "visit": range(1000),
            "day": pa.array([DAY] * 1000),
            "customer": [f"customer {n}" for n in range(1000)],
            "pages": [1] * 1000,
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=300, compression="none")
    in_s3.put(DAY, "a.parquet", sink.getvalue())
    more = '{"visit": 1000, "day": "2024-01-10", "customer": "ann", "pages": 1}\n'
    in_s3.put(DAY, "b.jsonl.gz", gzip.compress(more.encode()))
    (done,) = platform.run("ards", DAY).days
    assert done.outcome == "written"
    assert platform.ledger.latest("ards")[DAY].counts["rows"] == 1001

    # A store that dies while a file is read is no damaged file.
    (delivery,) = landing.scan(
        shop(),
        landing_of(platform.settings, shop()),
        [DAY],
        FileRules.of(platform.settings, shop()),
    ).values()
    read, asked = object_store._Reader.readinto, 0

    def dying(self: Any, buffer: Any) -> int:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise StoreAwayError("the store doesn't answer")
        return read(self, buffer)

    monkeypatch.setattr(object_store, "_READ_BYTES", 512)
    monkeypatch.setattr(object_store._Reader, "readinto", dying)
    with pytest.raises(StoreAwayError):
        list(parse_file(delivery.files[0], shop()))
    assert asked > 1
