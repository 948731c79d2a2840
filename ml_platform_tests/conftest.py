"""What tests share: one Spark session, and small products that live in a folder of the test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")
# Threads of a fit wait for each other by spinning; beside a second process of tests, and Spark, on as many
# processors, small trees then take ten times as long. Read by libraries when they are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Named in the environment, since processes that tests start read their settings there.
os.environ.setdefault("ML_PLATFORM_ESTIMATOR_MODULES", "ml_platform_tests.light_classifier")
# Files that tests deliver one after another come on one morning; tests of arrivals say when they look.
os.environ.setdefault("ML_PLATFORM_WATCH_ARRIVALS", "false")

from ml_platform.contract import estimators
from ml_platform.settings import Settings
from ml_platform_tests import postgres
from ml_platform_tests.small_platform import Platform, shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The tests of the online store run against this address alone, if it is given.
ONLINE_URL = os.environ.get("ML_PLATFORM_TEST_ONLINE_URL")
estimators.allow(os.environ["ML_PLATFORM_ESTIMATOR_MODULES"].split())
CHECKOUT = Path(__file__).parents[1]


#: Files of slow tests that take minutes each: begun first, so that no process waits for the other at the end.
LONGEST_FIRST = (
    "spark_connect/test_serverless.py",
    "e2e/test_whole_path.py",
    "test_document_commands.py",
    "engine/test_beside.py",
    "e2e/test_windows_everywhere.py",
    "engine/test_windows_by_spark.py",
    "e2e/test_ui.py",
    "e2e/test_ui_backfill.py",
    "e2e/test_disturbed.py",
    "engine/test_contract_changes.py",
    "graph/test_late_labels.py",
    "machine_learning/test_boosting.py",
    "e2e/test_doctor.py",
    "e2e/test_faults.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long their slow tests take; within a file nothing changes."""
    order = {CHECKOUT / "ml_platform_tests" / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def settings_in(home: Path, **values: object) -> Settings:
    """Settings of a platform in ``home`` that shares the checkout's cache of jars."""
    conf = {
        "spark.jars.ivy": str(CHECKOUT / "var" / "ivy"),
        "spark.sql.shuffle.partitions": "2",
        # Compiling a query takes longer than running it over a few rows; as in sessions for brief work.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    return Settings(home=home, spark_driver_memory="2g", spark_conf=conf, **values)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def without_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps fail at once; tests of retries set a policy of their own."""
    import dagster as dg

    from ml_platform.graph import retries

    monkeypatch.setattr(retries, "POLICY", dg.RetryPolicy(max_retries=0))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The one Spark session of the test run."""
    from ml_platform.graph.resources import LocalStepRunner

    session = LocalStepRunner(settings_in(tmp_path_factory.mktemp("spark"))).session(length="brief")
    yield session
    session.stop()


@pytest.fixture
def platform(tmp_path: Path, spark: SparkSession) -> Platform:
    """An empty platform with the small product ``shop``."""
    return Platform(settings_in(tmp_path / "home"), spark)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The address of the test run's PostgreSQL server."""
    with postgres.postgresql() as port:
        url = sa.URL.create(
            "postgresql+psycopg", postgres.USER, postgres.PASSWORD, "127.0.0.1", port, "postgres"
        )
        yield url.render_as_string(hide_password=False)


@pytest.fixture(params=["given"] if ONLINE_URL else ["sqlite", "postgresql"])
def online_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an online store without tables of the product ``shop``, of each kind there is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'online' / 'features.db'}"
        return
    url = ONLINE_URL or request.getfixturevalue("postgresql_url")
    drop_tables(url)
    yield url
    drop_tables(url)


def drop_tables(url: str) -> None:
    """Remove the online tables of the product ``shop``."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for name in sa.inspect(connection).get_table_names():
            if name.startswith(f"{shop().name}_features"):
                sa.Table(name, sa.MetaData()).drop(connection)
