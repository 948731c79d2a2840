"""What a remote environment is given besides the wheel's own code: as little as its step needs.

What decides a result has the version that is installed here, so that both ends compute the same. What a
runtime ships (pandas, NumPy, Arrow, MLflow's client) is asked for by bounds that it fulfils, so that it stays
as it is. What one step alone needs comes with that step. Spark, Delta Lake's jars and Dagster are never asked
for: the runtime's are used, or none. Servers, the command line and sample data stay here.

What a runtime ships is published by Databricks (github.com/databricks/environments); the tests hold these
bounds to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from ml_platform.contract import boosting
from ml_platform.contract.assets import (
    ARDS,
    DRIFT_REPORT,
    MODEL,
    MODEL_PERFORMANCE,
    ONLINE_FEATURES,
    PREDICTIONS,
    StepName,
)
from ml_platform.contract.places import is_address

if TYPE_CHECKING:
    from ml_platform.contract.product import Product
    from ml_platform.settings import Settings

#: What decides a result: the version is that of this environment.
PINNED = ("deltalake", "great-expectations", "holidays", "scikit-learn", "scipy", "skops")
#: What runtimes ship, with bounds that these fulfil and that the steps were tried with. MLflow's client alone
#: is upgraded on 17.3 LTS, whose 3.0 can't download from a registry that isn't the tracking store.
SHIPPED: Mapping[str, str] = {
    "azure-identity": ">=1.17",
    "azure-storage-blob": ">=12.23",
    "databricks-sdk": ">=0.49",
    "filelock": ">=3.16",
    "jinja2": ">=3.1",
    "markupsafe": ">=2.1",
    "mlflow-skinny": ">=3.8.1,<4",
    "numpy": ">=2,<3",
    "pandas": ">=2.2,<3",
    "pyarrow": ">=19",
    "pydantic": ">=2.10",
    "pyyaml": ">=6",
    "tenacity": ">=9",
    "threadpoolctl": ">=3.5",
}
#: What no runtime ships, with the bounds of the project.
BROUGHT = ("azure-keyvault-secrets", "dagster-pipes", "pydantic-settings", "tzdata")

#: The steps that load models, and train one again that can't be loaded: they need what training needs.
LOADS_MODELS: frozenset[str] = frozenset({MODEL, PREDICTIONS, MODEL_PERFORMANCE, DRIFT_REPORT})

#: Tracking stores that MLflow's client reaches by an API; it opens all others itself, with all of MLflow.
_BY_API = ("databricks", "http:", "https:")


def of_wheel(declared: Iterable[str]) -> list[str]:
    """The requirements of the wheel.

    Args:
        declared: those of the installed package.
    """
    bounds = {_name(requirement): requirement for requirement in declared if "extra ==" not in requirement}
    return sorted(
        [
            *map(_installed, PINNED),
            *(f"{name}{bound}" for name, bound in SHIPPED.items()),
            *(bounds[name] for name in BROUGHT if name in bounds),
        ]
    )


def of_step(step: StepName, product: Product, settings: Settings, made_with: Iterable[str] = ()) -> list[str]:
    """What one step needs besides, each a package with its version, or without one where any will do.

    Args:
        made_with: the packages, with versions, that the product's models were made with.
    """
    # The wheel asks for no library of boosted trees: only products whose model is of one need it.
    found = (boosting.library_of(candidate.class_) for candidate in product.model.candidates)
    boosted = (library.requirement for library in found if library is not None)
    needed = list(dict.fromkeys(requirement for requirement in boosted if requirement is not None))
    if step in LOADS_MODELS:
        needed += _of_models(made_with, needed)
    if _opens_a_database(settings):
        needed.append(_installed("mlflow"))
    elif step in LOADS_MODELS:
        # Older ones, which runtimes ship, can't log a model without pickle.
        needed.append(_installed("mlflow-skinny"))
    if step in LOADS_MODELS:
        needed.append("matplotlib")  # of the plots; every runtime ships one
        if any(candidate.search is not None for candidate in product.model.candidates):
            needed.append(_installed("optuna"))
    if step == ARDS and is_address(product.landing or str(settings.landing or "")):
        needed.append(_installed("obstore"))
    if step == DRIFT_REPORT:
        needed.append(_installed("evidently"))
    if product.mrds.has_sql or product.source.derive:
        needed.append(_installed("sqlglot"))
    if step == ONLINE_FEATURES:
        needed += [_installed("sqlalchemy"), *_drivers(settings)]
    return needed


def _of_models(made_with: Iterable[str], needed: Iterable[str]) -> list[str]:
    """The libraries of boosted trees that only models of earlier contracts need.

    The version is the one of this environment or, where that has none, the one a model was made with.
    """
    there, found = {_name(requirement) for requirement in needed}, dict[str, str]()
    for requirement in made_with:
        library = boosting.library_named(_name(requirement))
        if library is not None and there.isdisjoint(library.distributions):
            found[library.name] = library.requirement or requirement
    return list(found.values())


def _drivers(settings: Settings) -> list[str]:
    """The driver of the online store; of each kind, where the address is a secret that is looked up there."""
    url = settings.online_store_url.get_secret_value() if settings.online_store_url is not None else ""
    is_named = "ML_PLATFORM_ONLINE_STORE_URL" in settings.databricks_secrets
    kind = "" if is_named else re.split(r"[+:]", url)[0]
    drivers = {
        "sqlite": [],
        "postgresql": [_installed("psycopg"), _installed("psycopg-binary")],
        "mssql": [_installed("mssql-python")],
    }
    return drivers.get(kind, [*drivers["postgresql"], *drivers["mssql"]])


def _opens_a_database(settings: Settings) -> bool:
    """Whether MLflow's store is no API, or may be none because its address is looked up there."""
    secret = {"ML_PLATFORM_MLFLOW_TRACKING_URI", "ML_PLATFORM_MLFLOW_REGISTRY_URI"}
    given = [settings.mlflow_tracking_uri, settings.mlflow_registry_uri]
    addresses = [address.get_secret_value() for address in given if address is not None]
    is_looked_up = bool(secret & settings.databricks_secrets.keys())
    return is_looked_up or not all(address.startswith(_BY_API) for address in addresses)


def _installed(name: str) -> str:
    """A package with the version that is installed here; else with the lowest one that the project takes."""
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        declared = [each for each in metadata.requires("ml-platform") or [] if _name(each) == name]
        lowest = next(iter(re.findall(r">=\s*([\d.]+)", " ".join(declared))), None)
        return f"{name}=={lowest}" if lowest else name


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
