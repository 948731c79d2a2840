"""Which settings a remote step gets, and which it must not get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.engine.databricks.remote_settings import settings_for
from ml_platform.engine.step import PermanentError
from ml_platform.settings import Settings
from ml_platform_tests.small_platform import shop

PLACES: dict[str, Any] = {
    "landing": Path("/Volumes/main/ml/landing"),
    "tables": "abfss://ml@account.dfs.core.windows.net/tables",
    "mlflow_tracking_uri": "databricks",
    "report_targets": ("/Volumes/main/ml/reports",),
    "online_store_url": "keyvault://vault/online",
}


def test_places_and_manner_travel() -> None:
    sent = settings_for("ards", shop(), Settings(**PLACES, chunk_days=7))
    assert sent["tables"] == PLACES["tables"]
    assert sent["landing"] == "/Volumes/main/ml/landing"
    assert sent["chunk_days"] == 7
    assert sent["online_store_url"] == "keyvault://vault/online", "the name of a secret is none"
    assert "home" not in sent
    assert Settings(**sent).tables_root == PLACES["tables"]


@pytest.mark.parametrize(
    ("step", "left_out"),
    [
        ("ards", "landing"),
        ("mrds", "tables"),
        ("model", "mlflow_tracking_uri"),
        ("validation_report", "report_targets"),
        ("drift_report", "report_targets"),
        ("online_features", "online_store_url"),
    ],
)
def test_a_place_of_this_machine_is_refused(step: Any, left_out: str) -> None:
    places = {name: value for name, value in PLACES.items() if name != left_out}
    with pytest.raises(PermanentError, match=f"set ML_PLATFORM_{left_out.upper()} to"):
        settings_for(step, shop(), Settings(**places))
    secrets = {f"ML_PLATFORM_{left_out.upper()}": "scope/key"}
    assert left_out not in settings_for(step, shop(), Settings(**places, databricks_secrets=secrets))


def test_a_secret_setting_stays_here() -> None:
    settings = Settings(**{**PLACES, "online_store_url": "mssql://u:hidden@db/x"}, blob_credential="hidden")
    assert "hidden" not in str(settings_for("ards", shop(), settings))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlflow_tracking_uri", "https://someone:hidden@mlflow.example.com"),
        ("report_targets", ("/Volumes/a/b/c", "https://u:hidden@example.com/")),
    ],
)
def test_a_place_with_a_secret_in_it_is_refused(name: str, value: Any) -> None:
    with pytest.raises(PermanentError, match=f"ML_PLATFORM_{name.upper()} holds a secret") as refused:
        settings_for("ards", shop(), Settings(**{**PLACES, name: value}))
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"databricks_secrets": {"A": "a-secret-itself"}},
        {"databricks_secrets": {"A": "a/b/c"}},
        {"databricks_volume": "/dbfs/folder"},
        {"databricks_volume": "/Volumes/main"},
        {"databricks_compute": {"new_cluster": {}}},
        {"databricks_compute": {"cluster_id": "a", "new_cluster": {"spark_version": "x"}}},
        {"engine": "spark"},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)


def test_compute_and_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_ENGINE", "databricks")
    monkeypatch.setenv("ML_PLATFORM_DATABRICKS_COMPUTE", '{"cluster_id": "0101-abc"}')
    monkeypatch.setenv("ML_PLATFORM_DATABRICKS_SECRETS", '{"ML_PLATFORM_ALERT_URLS": "ml/alerts"}')
    monkeypatch.setenv("ML_PLATFORM_DATABRICKS_VOLUME", "/Volumes/main/ml/platform/")
    settings = Settings()
    assert settings.engine == "databricks"
    assert settings.databricks_compute.cluster_id == "0101-abc"
    assert settings.databricks_secrets == {"ML_PLATFORM_ALERT_URLS": "ml/alerts"}
    assert settings.databricks_volume == "/Volumes/main/ml/platform"
