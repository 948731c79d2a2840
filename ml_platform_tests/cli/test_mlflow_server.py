"""MLflow's own web server, whose pages open as those of trained models."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ml_platform.cli.mlflow_server import APP_NAME, create_app
from ml_platform.machine_learning.registry import Registry
from ml_platform_tests.machine_learning.test_training import FLIGHTS


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    Registry(store).find(FLIGHTS, "none")  # makes the database
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", store)
    monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", store)
    return TestClient(create_app(), base_url="http://localhost")


def test_the_first_page_chooses_models_before_its_own_scripts_run(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    choice = "localStorage.setItem('mlflow.workflowType_v1', '\"machine_learning\"')"
    assert page.text.index(choice) < page.text.index("static-files/static/js/main")
    # Who has chosen otherwise keeps that.
    assert "if (localStorage.getItem('mlflow.workflowType_v1') === null)" in page.text


def test_the_rest_is_mlflows_own(client: TestClient) -> None:
    assert client.get("/health").text == "OK"
    assert client.get("/version").status_code == 200
    found = client.post("/api/2.0/mlflow/experiments/search", json={"max_results": 5})
    assert [experiment["name"] for experiment in found.json()["experiments"]] == ["Default"]


def test_it_is_found_by_its_name() -> None:
    (found,) = (entry for entry in entry_points(group="mlflow.app") if entry.name == APP_NAME)
    assert found.load() is create_app
