"""Every step over Spark Connect with serverless compute's refusals, on tables of a catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from ml_platform.contract.assets import (
    DAILY_AGGREGATES,
    DRIFT_REPORT,
    MODEL,
    ONLINE_FEATURES,
    VALIDATION_REPORT,
    StepName,
    names,
)
from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.samples import contract_of_sample
from ml_platform.samples import shop as shop_sample
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop, visits
from ml_platform_tests.spark_connect.client import Client, RemoteError, client_of
from ml_platform_tests.spark_connect.server import spark_connect_server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.slow, pytest.mark.connect, pytest.mark.timeout(1800)]

SCHEMA = "ml"
JANUARY, FEBRUARY = days("2024-01-25", "2024-01-31"), days("2024-02-26", "2024-02-29")
REFUSED, CORRECTED = D("2024-01-25"), D("2024-01-26")
RACED = D("2024-03-05")
WINDOWS: dict[str, Any] = {
    "spent_7": {"sum": "spend", "days": 7},
    "channels": {"distinct": "channel", "days": 3, "until": "yesterday"},
    "since": {"days_since": "visit"},
    "by_web": {"mean": "pages", "days": "all", "where": "channel = 'web'"},
    "share": {"expression": "spend / nullif(spent_7, 0)"},
}
PRODUCT = shop(
    drift={"minimum_rows": 500, "maximum_rows": 1000},
    mrds__features=WINDOWS,
    model__features={"numeric": ["spend", "pages", "spent_7", "since"], "categorical": ["channel"]},
    model__partial_windows=True,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with spark_connect_server(tmp_path_factory.mktemp("connect")) as address:
        yield address


def settings_of(home: Path, landing: Path, schema: str) -> Settings:
    return settings_in(
        home,
        landing=landing,
        tables=f"uc:spark_catalog.{schema}",
        control_tables=str(home / "control"),
    )


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("landing")


@pytest.fixture(scope="module")
def there(
    server: str, landing: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Settings]]:
    """A process on serverless compute, and the settings of its platform."""
    home = tmp_path_factory.mktemp("there")
    settings = settings_of(home, landing, SCHEMA)
    with client_of(server, settings, PRODUCT, log=home / "client.log") as client:
        client.ask(do="sql", text=f"CREATE SCHEMA {SCHEMA}")
        yield client, settings


def run_all(run: Any, chosen: list[date], months: list[date], steps: Sequence[str]) -> None:
    scored = [day for day in chosen if day >= D("2024-01-30")]
    reports = sorted({day.replace(day=1) for day in chosen})
    of = {MODEL: months, "predictions": scored, "model_performance": scored, DRIFT_REPORT: reports}
    for step in steps:
        run(step, of.get(step, chosen))


def recorded(
    settings: Settings, product: Product = PRODUCT, assets: Sequence[str] = (*names(), DAILY_AGGREGATES)
) -> dict[str, Any]:
    """What the ledger says of every day: outcome, fingerprint, counts and the rest that isn't of the run."""
    ledger = Ledger(Tables.of(settings, None), product.name)
    return {
        f"{asset} {day}": (record.outcome, record.reason, record.fingerprint, record.counts)
        for asset in assets
        for day, record in ledger.latest(asset).items()
    }


def deliver_first(platform: Platform) -> None:
    deliver_visits(platform, [day for day in JANUARY if day != REFUSED])
    platform.deliver(REFUSED, "2024-01-26T0600_visits.csv", "no,header\n")
    platform.deliver(D("2024-01-27"), "2024-01-30T0600_labels.csv", "visit,day,bought\n1,2024-01-27,1\n")
    bad = "visit,day,customer,spend,pages,channel\nx,2024-01-28,c1,1.5,2,web\n"
    platform.deliver(D("2024-01-28"), "2024-01-30T0700_visits.csv", bad)


def correct(platform: Platform) -> None:
    """The refused day is delivered, and another day's rows come again, other ones and fewer."""
    (platform.folder(REFUSED) / "2024-01-26T0600_visits.csv").unlink()
    deliver_visits(platform, [REFUSED])
    frame = visits(CORRECTED).drop(columns="bought").head(100).assign(spend=lambda rows: rows["spend"] + 1)
    platform.deliver(CORRECTED, "2024-01-29T0600_visits.csv", frame.to_csv(index=False))


def deliver_second_month(platform: Platform) -> None:
    deliver_visits(platform, FEBRUARY)


ALL: tuple[StepName, ...] = (
    *("ards", "mrds", ONLINE_FEATURES, VALIDATION_REPORT, MODEL),
    *("predictions", "model_performance", DRIFT_REPORT),
)
ROUNDS: dict[str, tuple[Callable[[Platform], None], list[date], list[date], Sequence[StepName]]] = {
    "a first month": (deliver_first, JANUARY, [D("2024-02-01")], ALL),
    "corrections": (correct, JANUARY, [D("2024-02-01")], ALL[:3]),
    "a second month": (deliver_second_month, JANUARY + FEBRUARY, [D("2024-02-01"), D("2024-03-01")], ALL),
    "nothing new": (lambda platform: None, FEBRUARY, [D("2024-03-01")], ("ards", MODEL)),
}


def test_every_step_makes_the_same_over_spark_connect_as_embedded(
    there: tuple[Client, Settings], landing: Path, tmp_path: Path, spark: SparkSession
) -> None:
    client, settings = there
    here = Platform(settings_in(tmp_path / "here", landing=landing), spark, PRODUCT)
    for number, (name, (deliver, chosen, months, steps)) in enumerate(ROUNDS.items()):
        deliver(here)
        run_all(lambda step, of, n=number: here.run(step, of, run_id=f"run-{n}"), chosen, months, steps)
        run_all(lambda step, of, n=number: client.run(step, of, run_id=f"run-{n}"), chosen, months, steps)
        expected, found = recorded(here.settings), recorded(settings)
        assert {key.split()[0] for key in expected} == {*names(), DAILY_AGGREGATES}, name
        assert {key: found.get(key) for key in expected} == expected, name
        assert found.keys() == expected.keys(), name
    client.run("maintenance", [])
    for table in ("ards", "quarantine", "mrds", "predictions", DAILY_AGGREGATES):
        path = tmp_path / f"{table}.parquet"
        client.ask(do="rows", table=table, to=str(path))
        held = pd.read_parquet(path)
        pd.testing.assert_frame_equal(here.rows(table)[held.columns], held, check_dtype=False)


OF_SHOP = DayRange(D("2023-01-01"), D("2023-02-09"))


def test_the_sample_of_a_shop_is_the_same_in_a_catalog(
    server: str, tmp_path: Path, spark: SparkSession
) -> None:
    """With windows of 28 and 90 days, a label 30 days ahead, who stays away, and corrections in between."""
    product, landing = contract_of_sample("shop"), tmp_path / "landing"
    shop_sample.land(product, landing, OF_SHOP, rows_per_day=100)
    here = Platform(settings_in(tmp_path / "here", landing=landing), spark, product)
    there = settings_of(tmp_path / "there", landing, "of_shop")
    steps = ("ards", "mrds", ONLINE_FEATURES)
    assets = (*steps, DAILY_AGGREGATES)
    with client_of(server, there, product, log=tmp_path / "client.log") as client:
        client.ask(do="sql", text="CREATE SCHEMA of_shop")
        for chosen in ([*OF_SHOP][:35], [*OF_SHOP]):
            for step in steps:
                here.run(step, chosen)
                client.run(step, chosen)
            expected, found = recorded(here.settings, product, assets), recorded(there, product, assets)
            assert found == expected
        assert sum(counts.get("labelled", 0) for *_, counts in expected.values()) > 200
        for table in ("mrds", DAILY_AGGREGATES):
            path = tmp_path / f"{table}.parquet"
            client.ask(do="rows", table=table, to=str(path))
            held = pd.read_parquet(path)
            pd.testing.assert_frame_equal(here.rows(table)[held.columns], held, check_dtype=False)


REFUSALS = {
    "spark.range(1).persist()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.range(1).cache()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.range(1).checkpoint()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.range(1).localCheckpoint()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.catalog.cacheTable('t')": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.sql('CACHE TABLE t')": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.range(1).write.format('delta').save('/tmp/t')": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.read.parquet('/tmp/t').collect()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.sql('SELECT * FROM delta.`/tmp/t`').collect()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.table('delta.`/tmp/t`').collect()": "NOT_SUPPORTED_WITH_SERVERLESS",
    "spark.conf.set('spark.sql.adaptive.enabled', 'false')": "CONFIG_NOT_AVAILABLE",
    "spark.sql('SET spark.sql.adaptive.enabled=false')": "CONFIG_NOT_AVAILABLE",
    "spark.range(1).rdd": "NOT_SUPPORTED|NOT_IMPLEMENTED|JVM_ATTRIBUTE",
    "spark.sparkContext": "NOT_SUPPORTED|NOT_IMPLEMENTED|JVM_ATTRIBUTE",
    "spark._jvm": "NOT_SUPPORTED|NOT_IMPLEMENTED|JVM_ATTRIBUTE",
    "spark._jsparkSession": "NOT_SUPPORTED|NOT_IMPLEMENTED|JVM_ATTRIBUTE",
}


def test_what_serverless_compute_refuses_is_refused_here(there: tuple[Client, Settings]) -> None:
    client, _ = there
    for text, condition in REFUSALS.items():
        with pytest.raises(RemoteError, match=condition):
            client.ask(do="python", text=text)
    client.ask(do="python", text="spark.conf.set('spark.sql.shuffle.partitions', '2')")


#: Has the process remember what it takes for a conflict.
_REMEMBERING = """
from ml_platform.storage import conflicts
before = conflicts.is_conflict
conflicts.seen = []

def is_conflict(error):
    found = before(error)
    if found:
        conflicts.seen.append(type(error).__name__)
    return found

conflicts.is_conflict = is_conflict
"""
WRITERS, COMMITS = 2, 4


def error_of(client: Client) -> RemoteError | None:
    """What the oldest request without an answer raised, if anything."""
    try:
        client.answer()
    except RemoteError as error:
        return error
    return None


def test_two_writers_of_one_day_lose_and_double_nothing(
    there: tuple[Client, Settings], server: str, landing: Path, tmp_path: Path, spark: SparkSession
) -> None:
    first, settings = there
    first.ask(do="python", text=f"exec({_REMEMBERING!r})")
    here = Platform(settings_in(tmp_path / "here", landing=landing), spark, PRODUCT)
    deliver_visits(here, [RACED])
    here.run("ards", [RACED])
    with client_of(server, settings, PRODUCT, log=tmp_path / "second.log", prelude=_REMEMBERING) as second:
        clients = [first, second]
        first.ask(do="write", table="raced", day=RACED, writer=-1, commits=1)
        for number, client in enumerate(clients):
            client.send(do="write", table="raced", day=RACED, writer=number, commits=COMMITS)
        for client in clients:
            client.answer()
        held = first.ask(do="sql", text=f"SELECT writer, n FROM {SCHEMA}.shop_raced ORDER BY n")
        assert [row["n"] for row in held] == [0, 1, 2]
        assert len({row["writer"] for row in held}) == 1
        history = first.ask(do="sql", text=f"DESCRIBE HISTORY {SCHEMA}.shop_raced")
        assert len(history) == WRITERS * COMMITS + 1
        seen = [
            client.ask(do="python", text="__import__('ml_platform.storage.conflicts', fromlist=['x']).seen")
            for client in clients
        ]
        assert any(names_ != "[]" for names_ in seen), "no commit lost against another: nothing was shown"

        for client in clients:
            client.send(do="run", step="ards", days=[RACED], run_id="raced")
        errors = [error_of(client) for client in clients]
        assert all(error.passing for error in errors if error), errors
        assert not all(errors)
        for client, error in zip(clients, errors, strict=True):
            if error:
                client.run("ards", [RACED])
        path = tmp_path / "ards.parquet"
        first.ask(do="rows", table="ards", to=str(path))
    held = pd.read_parquet(path)
    of_day = held[held["event_day"] == RACED].reset_index(drop=True)
    pd.testing.assert_frame_equal(here.rows("ards")[of_day.columns], of_day, check_dtype=False)
