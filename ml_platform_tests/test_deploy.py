"""The files of a production set-up are what the tools that read them accept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config
from dagster_azure.blob.compute_log_manager import AzureBlobComputeLogManager

from ml_platform.settings import PACKAGE

DEPLOY = PACKAGE.parent / "deploy"


def test_dagster_takes_its_production_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "logs")
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text())
    configuration, _ = dagster_instance_config(str(tmp_path))
    assert configuration["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    logs = configuration["compute_logs"]
    assert logs["class"] == AzureBlobComputeLogManager.__name__
    assert process_config(AzureBlobComputeLogManager.config_type(), logs["config"]).success


def test_no_value_of_the_production_configuration_is_a_secret() -> None:
    content = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert content["storage"]["postgres"]["postgres_url"] == {"env": "DAGSTER_POSTGRES_URL"}
    assert "access_key_or_sas_token" not in content["compute_logs"]["config"]
