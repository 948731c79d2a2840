"""Which settings go to a remote step: where the data lies, and how it is worked on; never a secret.

A path of this machine's home means nothing there, so what has no explicit setting is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_platform.contract.assets import CATALOGUE, StepName
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import SCHEME, Secret, holds_credentials
from ml_platform.contract.volumes import NO_TABLES, is_in_volume
from ml_platform.engine.step import PermanentError
from ml_platform.settings import Settings
from ml_platform.storage.locations import UNITY_CATALOG

_PLACES = (
    "landing",
    "tables",
    "control_tables",
    "mlflow_tracking_uri",
    "mlflow_registry_uri",
    "mlflow_experiments",
    "model_schema",
    "report_targets",
    "blob_account_url",
)
_SECRETS = ("online_store_url", "blob_credential")
_MANNER = (
    "mlflow_ui_url",
    "dagster_ui_url",
    "reports_url",
    "estimator_modules",
    "validation_rows_in_memory",
    "chunk_days",
    "table_retention_days",
    "delivery_links",
    "delivery_line_characters",
    "delivery_file_bytes",
    "delivery_unpacking",
)


def settings_for(step: StepName, product: Product, settings: Settings) -> dict[str, Any]:
    """The settings of a remote step, as plain data.

    Raises:
        PermanentError: a place isn't set, or can't be told without a secret; says what to set.
    """
    looked_up = settings.databricks_secrets
    missing = [
        _variable(name)
        for name in _needed(step, product, settings)
        if not getattr(settings, name) and _variable(name) not in looked_up
    ]
    if missing:
        raise PermanentError(
            f"{step} on Databricks can't reach the folders of this machine: set {', '.join(missing)} to "
            "places that both reach (or ML_PLATFORM_DATABRICKS_SECRETS, for what is secret)"
        )
    for name in ("tables", "control_tables"):
        # macOS has its disks there; over there it is a volume.
        if is_in_volume(getattr(settings, name) or "", disks=False):
            raise PermanentError(f"{_variable(name)} is {getattr(settings, name)}: {NO_TABLES}")
    chosen = {
        name: _plain(getattr(settings, name))
        for name in (*_PLACES, *_MANNER)
        if getattr(settings, name) is not None and _variable(name) not in looked_up
    }
    for name, value in chosen.items():
        for address in value if isinstance(value, list | tuple) else [value]:
            if isinstance(address, str) and holds_credentials(address):
                raise PermanentError(
                    f"{_variable(name)} holds a secret, which is not sent to Databricks: keep it in a secret "
                    f'scope, and name it: ML_PLATFORM_DATABRICKS_SECRETS={{"{_variable(name)}": "scope/key"}}'
                )
    return chosen | _named_secrets(settings)


def _plain(value: Any) -> Any:
    """A setting as JSON has it; what is secret in it is looked for afterwards."""
    if isinstance(value, Secret):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _needed(step: StepName, product: Product, settings: Settings) -> tuple[str, ...]:
    needed = [*([] if product.landing else ["landing"]), "tables", "mlflow_tracking_uri"]
    if (settings.tables or "").startswith(UNITY_CATALOG):
        needed.append("control_tables")
    return (*needed, *(CATALOGUE[step].settings if step in CATALOGUE else ()))


def _named_secrets(settings: Settings) -> dict[str, str]:
    """Settings that name a secret of a vault; a secret itself stays here, and must be looked up there."""
    named = {}
    for name in _SECRETS:
        secret = getattr(settings, name)
        if secret is None or _variable(name) in settings.databricks_secrets:
            continue
        value = secret.get_secret_value()
        if value.startswith((SCHEME, "sqlite:")):
            named[name] = value
    return named


def _variable(name: str) -> str:
    return f"ML_PLATFORM_{name.upper()}"
