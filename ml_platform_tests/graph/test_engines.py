"""Which engine runs which asset: the contract's choice before the settings'."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.engine.step import StepRequest
from ml_platform.graph.resources import ChosenStepRunner
from ml_platform.settings import Settings
from ml_platform_tests.small_platform import D, shop


def chosen(product: Product, asset: Any, **settings: Any) -> str:
    """The engine that gets the step of an asset."""
    runner = ChosenStepRunner(Settings(**settings))
    told: list[str] = []

    class Engine:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, *_: Any) -> Any:
            told.append(self.name)

    runner._local = Engine("local")  # type: ignore[assignment]
    runner._remote = Engine("databricks")
    request = StepRequest(step=asset, product=product.name, days=(D("2024-01-01"),), run_id="r")
    runner.run(request, product, None)  # type: ignore[arg-type]
    return told[0]


@pytest.mark.parametrize(
    ("contract", "setting", "expected"),
    [
        ({}, "local", "local"),
        ({}, "databricks", "databricks"),
        ({"default": "local"}, "databricks", "local"),
        ({"default": "databricks"}, "local", "databricks"),
        ({"assets": {"ards": "local"}}, "databricks", "local"),
        ({"default": "local", "assets": {"ards": "databricks"}}, "local", "databricks"),
        ({"assets": {"mrds": "databricks"}}, "local", "local"),
    ],
)
def test_the_contract_chooses_before_the_settings(contract: Any, setting: str, expected: str) -> None:
    assert chosen(shop(engine=contract), "ards", engine=setting) == expected


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"default": "spark"}, "engine.default: Input should be 'local' or 'databricks'"),
        ({"assets": {"arts": "local"}}, "engine.assets.arts"),
        ({"compute": {"cluster": "x"}}, "accepted are cluster_id, new_cluster, environment_version"),
        ({"engine": "local"}, "accepted are default, assets, compute"),
        ({"compute": {"new_cluster": {"num_workers": 1}}}, "spark_version is required"),
    ],
)
def test_a_wrong_choice_is_explained(section: Any, told: str) -> None:
    with pytest.raises(ContractError) as refused:
        shop(engine=section)
    assert told in str(refused.value)


def test_where_a_step_runs_changes_no_data() -> None:
    sections = [name for name in Product.model_fields if name != "engine"]
    assert shop().hash_of(*sections) == shop(engine={"default": "databricks"}).hash_of(*sections)


def test_a_local_engine_never_loads_what_databricks_needs() -> None:
    code = (
        "import sys\n"
        "from ml_platform.build import build_definitions\n"
        "from ml_platform.settings import Settings\n"
        "build_definitions(Settings())\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('databricks', 'dagster_databricks')])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
