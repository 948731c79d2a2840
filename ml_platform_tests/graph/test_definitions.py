"""The graph as it is drawn from contracts: what loads, what exists, and which days read which."""

from __future__ import annotations

import ast
import copy
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import yaml

import ml_platform
from ml_platform.build import build_definitions
from ml_platform.contract.assets import daily, names
from ml_platform.contract.days import add_months
from ml_platform.contract.loading import load_products
from ml_platform.contract.product import Product
from ml_platform.engine.training_plan import training_days
from ml_platform.graph import partitions
from ml_platform.machine_learning.holdout import by_entities
from ml_platform.settings import PACKAGE, Settings
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import Graph
from ml_platform_tests.small_platform import SHOP, days, shop

SAMPLES = ("customers", "flights", "shop")
GROUPS = {
    "landing": "data_engineering",
    "ards": "data_engineering",
    "mrds": "data_engineering",
    "online_features": "data_engineering",
    "model": "machine_learning",
    "predictions": "machine_learning",
    "model_performance": "machine_learning",
    "validation_report": "mlops",
    "drift_report": "mlops",
}
CHECKS = {
    ("ards", "data_quality"),
    ("mrds", "data_quality"),
    ("model", "challenger_beats_champion"),
    ("drift_report", "no_drift"),
    ("model_performance", "performance_above_threshold"),
}
#: What takes seconds to import, and a code location that only draws the graph doesn't need.
SLOW_TO_IMPORT = [
    "pyspark",
    "mlflow",
    "great_expectations",
    "evidently",
    "dagster_mlflow",
    "dagster_azure",
    "dagster_databricks",
    "dagster_pyspark",
    "sklearn",
    "pandas",
    "deltalake",
    "sqlalchemy",
]


def fresh(
    code: str, home: Path, products: Iterable[Path] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter with a platform of its own."""
    own = {
        "ML_PLATFORM_HOME": str(home),
        "ML_PLATFORM_PRODUCTS": os.pathsep.join(map(str, products)),
        **environment,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ML_PLATFORM_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | own,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contract(folder: Path, name: str, **changes: Any) -> Path:
    """Write the contract of ``shop`` under another name; changes are of its top level."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(SHOP) | {"name": name} | changes))
    return path


# -- loading -----------------------------------------------------------------------------------------


def test_all_samples_load_in_a_fresh_interpreter_without_a_warning_or_a_slow_import(tmp_path: Path) -> None:
    code = f"""
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    from ml_platform.definitions import defs
    repository = defs.get_repository_def()
ours = [str(one.message) for one in caught if "ml_platform" in one.filename]
preview = [str(one.message) for one in caught if one.category.__module__.startswith("dagster")]
print(json.dumps({{
    "assets": [key.path for key in repository.asset_graph.get_all_asset_keys()],
    "slow": [name for name in {SLOW_TO_IMPORT!r} if name in sys.modules],
    "warnings": ours + preview,
}}))
"""
    done = fresh(code, tmp_path)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["slow"] == []
    assert found["warnings"] == []
    expected = {(product, asset) for product in SAMPLES for asset in GROUPS}
    assert {tuple(path) for path in found["assets"]} == expected
    assert list(tmp_path.iterdir()) == [], "loading the graph writes nothing"


def test_every_asset_has_its_group_a_description_and_its_checks() -> None:
    products, errors = load_products([PACKAGE / "products"])
    assert errors == {}
    assert set(products) == set(SAMPLES)
    definitions = build_definitions(Settings(home=Path("/nowhere")))
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    groups = {tuple(key.path): graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert groups == {(name, asset): group for name in products for asset, group in GROUPS.items()}
    assert all(graph.get(key).description for key in graph.get_all_asset_keys())
    checks = {(*key.asset_key.path, key.name) for key in graph.asset_check_keys}
    assert checks == {(name, asset, check) for name in products for asset, check in CHECKS}


def test_each_column_says_what_it_means_and_where_it_comes_from() -> None:
    products, _ = load_products([PACKAGE / "products"])
    graph = build_definitions(Settings(home=Path("/nowhere"))).resolve_asset_graph()

    def metadata(asset: str) -> Mapping[str, Any]:
        return graph.get(dg.AssetKey(["flights", asset])).metadata

    described = {
        asset: {
            column.name: column.description for column in metadata(asset)["dagster/column_schema"].columns
        }
        for asset in ("ards", "mrds", "predictions")
    }
    assert described["ards"]["distance"] == "miles; from landing.distance"
    assert described["mrds"]["distance"] == "miles; min of the day's rows; from ards.distance"
    assert described["predictions"]["probability"].startswith(
        "that late is 1; from mrds.dep_delay, mrds.hour"
    )

    # From a prediction back to what was delivered.
    reached, found = [("predictions", "probability")], set()
    while reached:
        asset, column = reached.pop()
        found.add((asset, column))
        if asset != "landing":
            deps = metadata(asset)["dagster/column_lineage"].deps_by_column[column]
            reached += [(dep.asset_key.path[-1], dep.column_name) for dep in deps]
    features = set(products["flights"].model.features.all)
    assert {column for asset, column in found if asset == "landing"} == features


@pytest.mark.parametrize(
    ("tables", "named", "uri"),
    [
        ("/srv/tables", "delta.`/srv/tables/flights/mrds`", "/srv/tables/flights/mrds"),
        (
            "abfss://lake@account.dfs.core.windows.net/ml",
            "delta.`abfss://lake@account.dfs.core.windows.net/ml/flights/mrds`",
            "abfss://lake@account.dfs.core.windows.net/ml/flights/mrds",
        ),
        ("uc:main.ml", "`main`.`ml`.`flights_mrds`", None),
    ],
)
def test_an_asset_says_where_its_table_is(tables: str, named: str, uri: str | None) -> None:
    control = {"control_tables": "/srv/control"} if tables.startswith("uc:") else {}
    settings = Settings(home=Path("/nowhere"), tables=tables, **control)
    graph = build_definitions(settings).resolve_asset_graph()

    def metadata(asset: str) -> Mapping[str, Any]:
        return graph.get(dg.AssetKey(["flights", asset])).metadata

    assert metadata("mrds")["dagster/table_name"] == named
    assert metadata("mrds").get("dagster/uri") == uri
    assert metadata("online_features")["dagster/table_name"] == "flights_features"
    assert metadata("landing")["dagster/uri"] == "/nowhere/landing/flights"
    assert "dagster/table_name" not in metadata("drift_report")


def test_the_launchpad_knows_what_each_asset_can_be_asked() -> None:
    graph = build_definitions(Settings(home=Path("/nowhere"))).resolve_asset_graph()
    asked = {}
    for name in SAMPLES:
        for asset in ("ards", "predictions", "model", "drift_report"):
            schema = graph.assets_def_for_key(dg.AssetKey([name, asset])).op.config_schema.as_field()
            fields = schema.config_type.fields
            asked[name, asset] = (
                schema.description,
                {key: (field.default_value, field.description) for key, field in fields.items()},
            )
    days = ("How days are done.", {"force": (False, None)})
    for name in SAMPLES:
        assert asked[name, "ards"] == asked[name, "drift_report"] == days
        assert asked[name, "predictions"][1] == days[1] | {"rescore": (False, None)}
        assert asked[name, "model"][1].keys() == {"as_of", "force"}
        assert asked[name, "model"][0] == "How a month's model is trained."


def test_a_run_that_is_asked_for_something_unknown_does_not_start(graph: Graph) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="rescore"):
        graph.run(["ards"], "2024-03-01", config={"rescore": True})
    assert graph.runner.requests == []


def test_drawing_a_graph_leaves_the_search_for_garbage_as_it_was() -> None:
    settings = Settings(home=Path("/nowhere"))
    build_definitions(settings)
    assert gc.isenabled()
    gc.disable()
    try:
        build_definitions(settings)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(AttributeError):
        build_definitions(settings, products={"shop": None})  # type: ignore[dict-item]
    assert gc.isenabled()


def test_jobs_sensors_and_schedules_of_a_live_and_of_a_finished_product() -> None:
    repository = build_definitions(Settings(home=Path("/nowhere"))).get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert jobs == {f"{name}_{job}" for name in SAMPLES for job in ("daily", "model", "drift", "maintenance")}
    assert {sensor.name for sensor in repository.sensor_defs} - {"today_sensor"} == {
        f"{name}_{sensor}_sensor" for name in SAMPLES for sensor in ("landing", "retrain", "alert")
    }
    # The samples are history: no month's model or drift will ever be due.
    assert repository.schedule_defs == []
    live = build_definitions(Settings(home=Path("/nowhere")), products={"shop": shop()}).get_repository_def()
    schedules = {schedule.name for schedule in live.schedule_defs}
    assert schedules == {f"shop_{job}_schedule" for job in ("model", "drift", "maintenance")}


def test_whatever_starts_runs_by_itself_is_off_until_it_is_switched_on() -> None:
    repository = build_definitions(Settings(home=Path("/nowhere"))).get_repository_def()
    assert {sensor.default_status for sensor in repository.sensor_defs} == {dg.DefaultSensorStatus.STOPPED}
    live = build_definitions(Settings(home=Path("/nowhere")), products={"shop": shop()}).get_repository_def()
    schedules = {schedule.default_status for schedule in live.schedule_defs}
    assert schedules == {dg.DefaultScheduleStatus.STOPPED}
    graph = repository.asset_graph
    assert all(graph.get(key).automation_condition is None for key in graph.get_all_asset_keys())


def test_daily_assets_can_share_one_run_over_a_range(graph: Graph) -> None:
    nodes = [graph.definitions.resolve_asset_graph().get(graph.key(asset)) for asset in daily()]
    assert len({node.partitions_def for node in nodes}) == 1
    assert {node.backfill_policy for node in nodes} == {dg.BackfillPolicy.single_run()}
    model = graph.definitions.resolve_asset_graph().get(graph.key("model"))
    assert model.backfill_policy == dg.BackfillPolicy.single_run()


@pytest.mark.parametrize(("end", "overdue"), [(None, True), ("2024-12-31", False)])
def test_only_a_live_product_is_ever_overdue(
    graph_of: Callable[..., Graph], end: str | None, overdue: bool
) -> None:
    graph = graph_of(product=shop(end=end))
    nodes = graph.definitions.resolve_asset_graph()
    for asset in ("landing", *daily()):
        assert (nodes.get(graph.key(asset)).freshness_policy is not None) is overdue, asset


# -- contracts ---------------------------------------------------------------------------------------


def test_a_contract_in_a_folder_of_ones_own_gives_a_full_graph(tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    contract(folder, "bakery")
    code = """
from ml_platform.definitions import defs
graph = defs.resolve_asset_graph()
print(*sorted(key.path[1] for key in graph.get_all_asset_keys() if key.path[0] == "bakery"))
print(*sorted(key.name for key in graph.asset_check_keys if key.asset_key.path[0] == "bakery"))
print(*sorted({key.path[0] for key in graph.get_all_asset_keys()}))
"""
    done = fresh(code, tmp_path, [folder])
    assert done.stderr == ""
    assets, checks, products = done.stdout.splitlines()
    assert assets.split() == sorted(GROUPS)
    assert checks.split() == sorted(name for _, name in CHECKS)
    assert products.split() == ["bakery", *SAMPLES]


def test_a_broken_contract_leaves_the_others_and_its_location_says_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    contract(folder, "bakery")
    broken = contract(folder, "broken", retrain={"cooldown_weeks": 1})
    code = """
from ml_platform.definitions import defs
print(*sorted({key.path[0] for key in defs.resolve_asset_graph().get_all_asset_keys()}))
"""
    done = fresh(code, tmp_path, [folder], ML_PLATFORM_OWN_PRODUCTS="false")
    assert done.stderr == ""
    assert done.stdout.split() == ["bakery"]

    contracts = fresh("import ml_platform.graph.contract_errors", tmp_path, [folder])
    assert contracts.returncode != 0
    error = contracts.stderr
    assert f"{broken}: retrain.cooldown_weeks: unknown key" in error
    assert "accepted are cooldown_days, back_off_after, training_months, training_days" in error
    assert "bakery" not in error


def test_the_location_of_contracts_is_empty_while_all_are_valid(tmp_path: Path) -> None:
    code = """
from ml_platform.graph.contract_errors import defs
print(list(defs.resolve_asset_graph().get_all_asset_keys()))
"""
    done = fresh(code, tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -- days and months ---------------------------------------------------------------------------------


def upstream(product: Product, child: str, partition: str, parent: str) -> list[str]:
    """The partitions of ``parent`` that a partition of ``child`` reads."""
    definitions = build_definitions(Settings(home=Path("/nowhere")), products={product.name: product})
    graph = definitions.resolve_asset_graph()
    child_key, parent_key = dg.AssetKey([product.name, child]), dg.AssetKey([product.name, parent])
    found = graph.get_parents_partitions(child_key, partition).parent_partitions
    return sorted(str(one.partition_key) for one in found if one.asset_key == parent_key)


def keys(first: str, last: str) -> list[str]:
    return [str(day) for day in days(first, last)]


@pytest.mark.parametrize("asset", ["mrds"])
def test_what_is_drawn_for_a_model_are_the_days_of_its_month(asset: str) -> None:
    assert upstream(shop(), "model", "2024-04-01", asset) == keys("2024-04-01", "2024-04-30")


@pytest.mark.parametrize("asset", ["ards", "predictions"])
def test_what_is_drawn_for_a_months_drift_are_its_days(asset: str) -> None:
    assert upstream(shop(), "drift_report", "2024-04-01", asset) == keys("2024-04-01", "2024-04-30")


@pytest.mark.parametrize("delay", [0, 1, 7, 27, 28, 30, 31, 59, 60, 90, 180, 365])
@pytest.mark.parametrize(("months", "holdout"), [(1, 7), (1, 90), (3, 31), (24, 31)])
def test_a_model_reads_nothing_whose_labels_are_not_known(delay: int, months: int, holdout: int) -> None:
    product = shop(
        start="2015-01-01",
        model__training_months=months,
        model__holdout_days=holdout,
        model__first_month="2016-06",
        source__label_delay_days=delay,
    )
    for as_of in (date(2023, month, 1) for month in range(1, 13)):
        read = [training_days(product, as_of, "monthly"), by_entities(product, as_of)]
        assert {window.last for window in read} == {as_of - timedelta(days=1 + delay)}
        assert len(read[1]) == holdout


def test_predictions_read_their_day_and_their_months_model() -> None:
    assert upstream(shop(), "predictions", "2024-03-31", "model") == ["2024-03-01"]
    assert upstream(shop(), "predictions", "2024-04-01", "model") == ["2024-04-01"]
    assert upstream(shop(), "predictions", "2024-04-01", "mrds") == ["2024-04-01"]
    assert upstream(shop(), "predictions", "2024-01-31", "model") == []  # the first model is February's


@pytest.mark.parametrize("asset", ["predictions", "mrds"])
def test_what_is_drawn_for_an_evaluation_is_its_own_day(asset: str) -> None:
    assert upstream(shop(), "model_performance", "2024-03-20", asset) == ["2024-03-20"]


#: Prints how many partitions of each asset a backfill of everything over two months targets.
REACH = """
import json, sys, time
import dagster as dg
from dagster._core.execution.asset_backfill import AssetBackfillData
from ml_platform.build import build_definitions
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import days, shop
from pathlib import Path

product = shop(end="2024-12-31")
graph = build_definitions(settings_in(Path(sys.argv[1])), products={"shop": product}).resolve_asset_graph()
with dg.DagsterInstance.ephemeral() as instance:
    data = AssetBackfillData.from_asset_partitions(
        asset_graph=graph,
        partition_names=[str(day) for day in days("2024-03-01", "2024-04-30")],
        asset_selection=sorted(key for key in graph.materializable_asset_keys),
        dynamic_partitions_store=instance,
        all_partitions=False,
        backfill_start_timestamp=time.time(),
    )
    target = data.target_subset
    print(json.dumps({
        key.path[-1]: [min(found), max(found), len(found)]
        for key in graph.materializable_asset_keys
        for found in [target.get_partitions_subset(key).get_partition_keys()]
    }))
"""


@pytest.mark.parametrize("seed", ["0", "1", "7"])
def test_a_backfill_of_everything_targets_just_the_days_and_months_asked_for(
    tmp_path: Path, seed: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REACH, str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    whole_days, whole_months = ["2024-03-01", "2024-04-30", 61], ["2024-03-01", "2024-04-01", 2]
    assert found == {asset: whole_days if asset in daily() else whole_months for asset in names()}


def test_the_current_month_has_a_model_and_the_current_day_is_no_partition_yet() -> None:
    product = shop(timezone="America/Chicago")
    today = datetime.now(ZoneInfo("America/Chicago")).date()
    months = partitions.monthly_models(product).get_partition_keys()
    assert months[0] == "2024-02-01"
    assert months[-1] == str(today.replace(day=1))
    daily = partitions.daily(product).get_partition_keys()
    assert daily[0] == "2024-01-01"
    assert daily[-1] == str(today - timedelta(days=1))


def test_a_finished_history_ends_with_its_last_day_and_month() -> None:
    product = shop(end="2024-06-15")
    assert partitions.daily(product).get_last_partition_key() == "2024-06-15"
    months = partitions.monthly_models(product).get_partition_keys()
    assert (months[0], months[-1]) == ("2024-02-01", "2024-06-01")
    # The last month's model serves its days: every day of it has one to be scored with.
    assert upstream(product, "predictions", "2024-06-15", "model") == ["2024-06-01"]


def test_the_year_of_flights_has_365_days_and_eleven_models() -> None:
    flights = load_products([PACKAGE / "products"])[0]["flights"]
    assert partitions.daily(flights).get_partition_keys() == keys("2013-01-01", "2013-12-31")
    expected = [str(add_months(date(2013, 2, 1), n)) for n in range(11)]
    assert partitions.monthly_models(flights).get_partition_keys() == expected


# -- who knows Dagster -------------------------------------------------------------------------------


def imports(path: Path) -> set[str]:
    """The packages that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_services_steps_and_storage_know_nothing_of_dagster() -> None:
    package = Path(ml_platform.__file__).parent
    # dagster_pipes is not Dagster: it is what a process without Dagster talks to it by.
    knowing: Mapping[str, set[str]] = {
        str(path.relative_to(package)): {
            name for name in imports(path) - {"dagster_pipes"} if name.startswith("dagster")
        }
        for path in package.rglob("*.py")
    }
    allowed = {
        "build.py",
        "cli/backfill.py",
        "cli/check_up.py",
        "cli/console.py",
        "cli/findings.py",
        "cli/repairs.py",
        "cli/smoke.py",
        "component.py",
    }
    allowed |= {"engine/report_targets.py", "engine/databricks/pipes.py", "engine/databricks/runner.py"}
    strangers = [path for path, names in knowing.items() if names and not path.startswith("graph/")]
    assert set(strangers) <= allowed
    assert knowing["definitions.py"] == set()


def test_a_graph_of_a_settings_folder_needs_no_environment(tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    contract(folder, "bakery")
    settings = settings_in(tmp_path / "home", products=(folder,), own_products=False)
    found = build_definitions(settings).resolve_asset_graph().get_all_asset_keys()
    assert {tuple(key.path) for key in found} == {("bakery", asset) for asset in GROUPS}
