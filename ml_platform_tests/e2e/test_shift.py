"""A concept shift in the generated customers: the retrain after it wins, repairs, and doesn't repeat."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from pyspark.sql import SparkSession

from ml_platform.cli.backfill import Backfill
from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import load_product
from ml_platform.machine_learning import performance
from ml_platform.overview import history as overview
from ml_platform.samples import customers
from ml_platform.settings import PACKAGE
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in

pytestmark = pytest.mark.slow

DAYS = DayRange(date(2022, 9, 1), date(2022, 12, 31))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


def test_the_retrain_after_a_concept_shift_wins_and_repairs_the_metric(
    tmp_path: Path, spark: SparkSession, instance: dg.DagsterInstance
) -> None:
    contract = load_product(PACKAGE / "products" / "customers.yaml")
    product = contract.model_copy(
        update={
            "start": DAYS.first,
            "model": contract.model.model_copy(update={"first_month": date(2022, 10, 1)}),
        }
    )
    settings = settings_in(tmp_path / "home")
    customers.land(product, settings.landing_path, DAYS, rows_per_day=800)
    Backfill(product, settings, instance).run_with_retraining(DAYS)

    shift = customers.CONCEPT_SHIFT
    models = overview.models(product, settings)
    retrains = [model for model in models if model.kind == "retrain"]
    after = [model for model in retrains if model.as_of > shift]
    assert len(retrains) == len(after), "nothing but the concept shift asks for a retrain"
    winner = next(model for model in after if model.promoted)
    assert winner.as_of - shift <= timedelta(days=21)

    evaluations = performance.evaluations(Tables(settings.tables_root), product)
    fallen = evaluations[winner.as_of - timedelta(days=1)]
    assert fallen["champion_value"] < product.evaluation.threshold
    # The champion's own rows show what it does; the window of all models still remembers the fall.
    repaired = evaluations[winner.as_of + timedelta(days=7)]
    assert repaired["champion_as_of"] == winner.as_of
    assert repaired["champion_value"] > 0.65
    later = [model for model in after if model.as_of > winner.as_of]
    assert all(model.as_of - winner.as_of > timedelta(days=21) for model in later)
    last = evaluations[DAYS.last]
    assert last["verdict"] == "passed"
