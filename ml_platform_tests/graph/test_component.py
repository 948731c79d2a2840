"""A product as a component of another Dagster project, as its people would add it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ml_platform import component
from ml_platform.build import build_definitions
from ml_platform.component import ProductAttributes, ProductComponent
from ml_platform.contract.loading import ContractError
from ml_platform.settings import PACKAGE, Settings
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import SHOP, shop


def product_of(folder: Path, **attributes: Any) -> Any:
    return component._product(ProductAttributes.model_validate(attributes), folder)


def definitions_of(name: str, **options: Any) -> dg.Definitions:
    return ProductComponent(shop(name=name), **options).build_defs(None)  # type: ignore[arg-type]


def test_a_component_gives_the_graph_that_the_code_location_of_the_platform_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    found = definitions_of("shop").get_repository_def()
    expected = build_definitions(Settings(), products={"shop": shop()}).get_repository_def()
    keys = expected.asset_graph.get_all_asset_keys()
    assert found.asset_graph.get_all_asset_keys() == keys
    assert len(keys) >= 8
    assert found.asset_graph.asset_check_keys == expected.asset_graph.asset_check_keys
    assert {job.name for job in found.get_all_jobs()} == {job.name for job in expected.get_all_jobs()}
    assert {one.name for one in found.schedule_defs} == {one.name for one in expected.schedule_defs}
    # The page of today is of all products of a deployment.
    sensors = {one.name for one in expected.sensor_defs} - {"today_sensor"}
    assert {one.name for one in found.sensor_defs} == sensors


def test_several_products_go_into_one_code_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    both = dg.Definitions.merge(definitions_of("shop"), definitions_of("store"))
    prefixes = {key.path[0] for key in both.resolve_asset_graph().get_all_asset_keys()}
    assert prefixes == {"shop", "store"}
    assert both.executor is dg.in_process_executor
    own = dg.Definitions(executor=dg.multiprocess_executor)
    merged = dg.Definitions.merge(own, definitions_of("shop", in_process=False))
    assert merged.executor is dg.multiprocess_executor


def test_a_contract_is_the_attributes_or_a_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(SHOP))
    assert product_of(tmp_path, contract="shop.yaml") == shop()
    assert product_of(tmp_path, contract=str(tmp_path / "shop.yaml")) == shop()
    assert product_of(tmp_path, **SHOP) == shop()


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({}, "defs.yaml: name: this key is required"),
        ({**SHOP, "start": "tomorrow"}, "defs.yaml: start: "),
        ({**SHOP, "colour": "red"}, "defs.yaml: colour: unknown key; accepted are name"),
        ({"contract": "shop.yaml"}, "shop.yaml: can't be read"),
        ({"contract": "shop.yaml", "name": "shop"}, "contract names a file, so name can't stand here too"),
        (
            {"source": {"columns": {"a": {"type": "boolean", True: [True], False: ["no"]}}}},
            "source.columns.a.True: words like yes and no need quotes",
        ),
    ],
)
def test_what_is_wrong_with_a_contract_names_file_and_key(
    tmp_path: Path, attributes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ContractError) as raised:
        product_of(tmp_path, **attributes)
    assert said in str(raised.value)


def test_the_package_is_imported_without_dagster_until_the_component_is_asked_for() -> None:
    code = (
        "import sys, ml_platform; assert 'ProductComponent' in dir(ml_platform); "
        "assert 'dagster' not in sys.modules; assert ml_platform.ProductComponent.build_defs"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- in a project that create-dagster has made -------------------------------------------------------


class Project:
    """A fresh project, and the commands of Dagster in it."""

    def __init__(self, folder: Path) -> None:
        site = folder / "site"
        self.root = folder / "team"
        self.defs = self.root / "src" / "team" / "defs"
        paths = [PACKAGE.parent, site, self.root / "src", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ML_PLATFORM_")},
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "VIRTUAL_ENV": str(Path(sys.executable).parents[1]),
            "ML_PLATFORM_HOME": str(folder / "home"),
            "DAGSTER_HOME": str(folder / "dagster"),
            "PYTHONWARNINGS": "ignore",
            "COLUMNS": "200",
        }
        (folder / "dagster").mkdir()
        (folder / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        self._register(site / "ml_platform_here-0.dist-info")
        self.run("create_dagster.cli", "project", self.root.name, "--no-uv-sync", where=folder)

    def _register(self, folder: Path) -> None:
        """The entry points of pyproject.toml, also in an environment that is older than they are."""
        groups = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["entry-points"]
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: ml-platform-here\nVersion: 0\n")
        lines = [
            line
            for group, points in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def run(
        self, module: str, *arguments: str, where: Path | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        command = f"import sys; from {module} import main; sys.argv[0] = 'dg'; main()"
        done = subprocess.run(
            [sys.executable, "-c", command, *arguments],
            cwd=where or self.root,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def dg(self, *arguments: str, code: int = 0) -> str:
        done = self.run("dagster_dg_cli.cli", *arguments, code=code)
        return done.stdout + done.stderr

    def asset_keys(self) -> set[str]:
        done = self.run("dagster_dg_cli.cli", "list", "defs", "--json")
        content = json.loads(done.stdout[done.stdout.index("{") if "{" in done.stdout else 0 :])
        return {asset["asset_key"] for asset in content["assets"]}


def assets_of(names: Sequence[str]) -> set[str]:
    graph = build_definitions(
        Settings(home=Path("/nowhere")), products={"shop": shop()}
    ).resolve_asset_graph()
    return {"/".join((name, *key.path[1:])) for name in names for key in graph.get_all_asset_keys()}


@pytest.mark.slow
def test_a_team_scaffolds_products_in_a_project_of_its_own_and_runs_them(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert "ml_platform.ProductComponent" in project.dg("list", "components")

    # An example of a contract, which is valid as it stands.
    project.dg("scaffold", "defs", "ml_platform.ProductComponent", "orders")
    # A contract that is there already.
    (project.root / "contracts").mkdir()
    (project.root / "contracts" / "shop.yaml").write_text(yaml.safe_dump(SHOP))
    project.dg(
        "scaffold", "defs", "ml_platform.ProductComponent", "buying", "--contract", "contracts/shop.yaml"
    )
    # A contract as the attributes.
    inline = project.defs / "inline"
    inline.mkdir()
    attributes = {**SHOP, "name": "store"}
    (inline / "defs.yaml").write_text(
        yaml.safe_dump({"type": "ml_platform.ProductComponent", "attributes": attributes})
    )
    project.dg("check", "yaml")
    assert "All definitions loaded successfully" in project.dg("check", "defs")
    assert project.asset_keys() == assets_of(["orders", "shop", "store"])

    # A day of one of them, as the team would launch it.
    folder = tmp_path / "home" / "landing" / "orders" / "2024-01-01"
    folder.mkdir(parents=True)
    (folder / "orders.csv").write_text("order,day,customer,amount,again\n1,2024-01-01,ann,7.5,1\n")
    project.dg("launch", "--assets", "orders/ards", "--partition", "2024-01-01")
    ledger = Ledger(Tables.of(Settings(home=tmp_path / "home")), "orders")
    assert [record.outcome for record in ledger.latest("ards").values()] == ["written"]

    # What is wrong is said with the file and the key.
    contract = project.defs / "orders" / "contract.yaml"
    contract.write_text(contract.read_text().replace("label: again", "label: agian"))
    said = " ".join(project.dg("check", "defs", code=1).split())
    assert "orders/contract.yaml: source" in said
    assert "label names the column 'agian'" in said
