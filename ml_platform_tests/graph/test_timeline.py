"""Runs of the command line as the Timeline sees them: by the code location of the web server's workspace."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from ml_platform.graph import timeline
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.graph.stand_ins import FakeRunner, Graph


def test_a_run_of_this_process_belongs_to_the_code_location_of_the_workspace(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        runner = FakeRunner(outcomes={"2024-03-02": ("refused", "a.csv: no header")})
        graph = Graph(settings_in(tmp_path / "home"), instance, runner=runner)
        for last, status in (("2024-03-01", "SUCCESS"), ("2024-03-02", "FAILURE")):
            run = instance.get_run_by_id(graph.run(["ards", "mrds"], "2024-02-29", last).run_id)
            assert run is not None
            assert run.status.value == status
            origin = run.remote_job_origin
            assert origin is not None
            repository = origin.repository_origin
            found = (repository.code_location_origin.location_name, repository.repository_name)
            workspace = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())
            assert found == (workspace["load_from"][0]["python_module"]["location_name"], "__repository__")
            assert origin.job_name == run.job_name


def test_an_installed_package_has_the_name_of_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "WORKSPACE", tmp_path / "workspace.yaml")
    assert timeline.location_name() == "ml_platform.definitions"
