"""What tests share: one Spark session, and small products that live in a folder of the test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")

from ml_platform.settings import Settings
from ml_platform_tests.small_platform import Platform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHECKOUT = Path(__file__).parents[1]


def settings_in(home: Path, **values: object) -> Settings:
    """Settings of a platform in ``home`` that shares the checkout's cache of jars."""
    conf = {
        "spark.jars.ivy": str(CHECKOUT / "var" / "ivy"),
        "spark.sql.shuffle.partitions": "2",
        # Compiling a query takes longer than running it over a few rows.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    return Settings(home=home, spark_driver_memory="2g", spark_conf=conf, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The one Spark session of the test run."""
    from ml_platform.graph.resources import LocalStepRunner

    session = LocalStepRunner(settings_in(tmp_path_factory.mktemp("spark"))).session()
    yield session
    session.stop()


@pytest.fixture
def platform(tmp_path: Path, spark: SparkSession) -> Platform:
    """An empty platform with the small product ``shop``."""
    return Platform(settings_in(tmp_path / "home"), spark)
