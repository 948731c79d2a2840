"""Models in Unity Catalog: three-level names, and no more of MLflow than the catalog offers.

No workspace is at hand: a real store answers, behind a guard that refuses what the catalog refuses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from ml_platform.machine_learning import tracking
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.training import train
from ml_platform.settings import Settings
from ml_platform_tests.machine_learning.test_registry import log
from ml_platform_tests.machine_learning.test_training import FLIGHTS, labelled_rows

NAME = f"main.ml.{FLIGHTS.name}"


class CatalogRules:
    """A client that answers as Unity Catalog's registry does."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def search_model_versions(self, filter_string: str) -> list[Any]:
        if not re.fullmatch(r"(name|run_id) = '[^']*'", filter_string):
            raise MlflowException("only a name or a run id", error_code=1000)
        found = self._client.search_model_versions(filter_string)
        for version in found:
            version._tags = {}
        return list(found)

    def search_registered_models(self, filter_string: str) -> Any:
        raise MlflowException("Argument 'filter_string' is unsupported", error_code=1000)

    def create_registered_model(self, name: str, **options: Any) -> Any:
        assert re.fullmatch(r"[^.]+\.[^.]+\.[^.]+", name), "models have names of three levels"
        return self._client.create_registered_model(name, **options)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    prepared = tracking.prepared_client
    monkeypatch.setattr(tracking, "prepared_client", lambda *uris: CatalogRules(prepared(*uris)))
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", schema="main.ml", experiments="/Shared/ml_platform/")


def test_a_model_of_a_catalog_is_registered_found_loaded_and_promoted(catalog: Registry) -> None:
    trained = train(FLIGHTS, labelled_rows())
    assert catalog.find(FLIGHTS, "one") is None
    first = log(catalog, trained, fingerprint="one")
    second = log(catalog, trained, fingerprint="two")
    assert first.model_uri == f"models:/{NAME}/1"
    assert catalog.find(FLIGHTS, "one") == first
    assert catalog.find(FLIGHTS, "two") == second
    assert catalog.load(FLIGHTS, second.version, "two").fingerprint == "two"

    client = catalog.tracking.client()
    catalog.set_champion(FLIGHTS, second.version)
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == second.version
    catalog.set_champion(FLIGHTS, None)
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias(NAME, "champion")
    assert client.get_experiment_by_name(f"/Shared/ml_platform/{FLIGHTS.name}") is not None


def test_databricks_with_tables_in_a_catalog_registers_models_beside_them() -> None:
    settings = Settings(mlflow_tracking_uri="databricks", tables="uc:main.ml")
    assert (settings.registry_uri, settings.registry_schema) == ("databricks-uc", "main.ml")
    assert Registry.of(settings).name(FLIGHTS) == NAME
    assert Registry.of(settings).tracking.experiment_name("shop") == "/Shared/ml_platform/shop"


def test_a_schema_of_models_goes_before_that_of_the_tables() -> None:
    settings = Settings(mlflow_tracking_uri="databricks", tables="uc:main.ml", model_schema="main.models")
    assert settings.registry_schema == "main.models"


def test_elsewhere_models_bear_the_products_name_alone() -> None:
    settings = Settings(tables="uc:main.ml")
    assert settings.registry_uri == settings.tracking_uri
    assert Registry.of(settings).name(FLIGHTS) == FLIGHTS.name


def test_a_catalog_of_models_without_a_schema_is_refused() -> None:
    settings = Settings(mlflow_tracking_uri="databricks", mlflow_registry_uri="databricks-uc")
    with pytest.raises(ValueError, match="ML_PLATFORM_MODEL_SCHEMA"):
        Registry.of(settings)
