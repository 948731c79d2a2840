"""The files of a production set-up agree with the package, and are what the tools that read them accept."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from dagster._config import process_config
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickStatus
from dagster_azure.blob.compute_log_manager import AzureBlobComputeLogManager
from databricks.sdk.service.catalog import Privilege, SchemaInfo, VolumeInfo
from databricks.sdk.service.jobs import JobPermissionLevel, JobSettings

from ml_platform.contract.compute import Compute
from ml_platform.data_engineering import unity_catalog
from ml_platform.engine.databricks.remote_settings import settings_for
from ml_platform.graph.jobs import ENGINE_TAG, PRODUCT_TAG, jobs
from ml_platform.settings import PACKAGE, Settings
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHECKOUT = PACKAGE.parent
DEPLOY = CHECKOUT / "deploy"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
WORKFLOW = CHECKOUT / ".github" / "workflows" / "ci.yml"
PIPELINE = DEPLOY / "azure-pipelines.yml"
BUNDLE: dict[str, Any] = yaml.safe_load((DEPLOY / "databricks.yml").read_text())
RESOURCES = BUNDLE["resources"]
SMOKE = RESOURCES["jobs"]["smoke"]


# -- Dagster's instance ----------------------------------------------------------------------------


def test_dagster_starts_with_its_production_configuration(
    tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real PostgreSQL. The container of the logs is opened when the first run writes to it."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "logs")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgresql_url.replace("+psycopg", ""))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    opened = []
    monkeypatch.setattr(
        AzureBlobComputeLogManager, "__init__", lambda self, **options: opened.append(options) or None
    )
    monkeypatch.setattr(AzureBlobComputeLogManager, "dispose", lambda self: None)
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs_count() == 0
        assert type(instance.event_log_storage).__module__.startswith("dagster_postgres")
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        limited = {(limit["key"], str(limit["value"])) for limit in queue.tag_concurrency_limits}
        assert {key for key, _ in limited} == {PRODUCT_TAG, ENGINE_TAG, "dagster/backfill"}
        assert instance.run_monitoring_enabled
        kept = instance.get_tick_retention_settings(InstigatorType.SENSOR)
        assert (kept[TickStatus.SKIPPED], kept[TickStatus.SUCCESS]) == (7, 365)
        assert instance.compute_log_manager is not None
    (options,) = opened
    assert options["container"] == "dagster-logs"


def test_the_compute_logs_are_configured_as_their_class_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "logs")
    logs = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())["compute_logs"]
    assert logs["class"] == AzureBlobComputeLogManager.__name__
    assert process_config(AzureBlobComputeLogManager.config_type(), logs["config"]).success


def test_no_value_of_the_production_configuration_is_a_secret() -> None:
    content = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert content["storage"]["postgres"]["postgres_url"] == {"env": "DAGSTER_POSTGRES_URL"}
    assert "access_key_or_sas_token" not in content["compute_logs"]["config"]


def test_the_runs_of_every_job_carry_the_tags_that_the_queue_limits() -> None:
    here, there = shop(), shop(engine={"default": "databricks"})
    for product, engine in ((here, "local"), (there, "databricks")):
        found = jobs(product, Settings())
        assert {(job.tags[PRODUCT_TAG], job.tags[ENGINE_TAG]) for job in found} == {("shop", engine)}


# -- the bundle ------------------------------------------------------------------------------------


def test_the_bundle_builds_and_installs_the_wheel_of_the_package() -> None:
    artifact = BUNDLE["artifacts"]["wheel"]
    built = PROJECT["name"].replace("-", "_") + f"-{PROJECT['version']}-py3-none-any.whl"
    root = (DEPLOY / artifact["path"]).resolve()
    folder = artifact["build"].rpartition("--to ")[2]
    patterns = [
        artifact["files"][0]["source"],
        SMOKE["environments"][0]["spec"]["dependencies"][0],
        SMOKE["tasks"][1]["libraries"][0]["whl"],
    ]
    for pattern in patterns:
        place = (DEPLOY / pattern).resolve()
        assert place.parent == root / folder == CHECKOUT / "dist"
        assert Path(built).match(place.name)


def test_the_bundles_files_lie_where_it_looks_for_them() -> None:
    for task in SMOKE["tasks"]:
        assert (DEPLOY / task["spark_python_task"]["python_file"]).exists()
        assert task["spark_python_task"]["python_file"] in BUNDLE["sync"]["include"]


def test_every_reference_of_the_bundle_leads_to_something() -> None:
    text = (DEPLOY / "databricks.yml").read_text()
    for kind, name in re.findall(r"\$\{resources\.(\w+)\.(\w+)\.", text):
        assert name in RESOURCES[kind]
    used = set(re.findall(r"\$\{var\.(\w+)\}", text))
    assert used <= set(BUNDLE["variables"])
    for target in BUNDLE["targets"].values():
        assert set(target.get("variables", {})) <= set(BUNDLE["variables"])
    clusters = {one["job_cluster_key"] for one in SMOKE["job_clusters"]}
    environments = {one["environment_key"] for one in SMOKE["environments"]}
    for task in SMOKE["tasks"]:
        assert task.get("job_cluster_key") in clusters | {None}
        assert task.get("environment_key") in environments | {None}


#: Kinds of resources that the Databricks CLI has known since bundles have schemas and volumes.
KNOWN_TO_EVERY_CLI = {"jobs", "schemas", "volumes"}


def test_the_bundle_asks_for_resources_alone_that_every_cli_knows() -> None:
    assert set(RESOURCES) == KNOWN_TO_EVERY_CLI


def test_every_key_and_value_of_the_bundles_resources_is_one_of_the_workspaces_api() -> None:
    """The SDK drops keys that it doesn't know, and values that aren't among those of an enumeration."""
    job = {name: value for name, value in SMOKE.items() if name != "permissions"}
    assert JobSettings.from_dict(job).as_dict() == job
    for permission in SMOKE["permissions"]:
        assert permission["level"] in JobPermissionLevel.__members__
    for kind, request in (("schemas", SchemaInfo), ("volumes", VolumeInfo)):
        for resource in RESOURCES[kind].values():
            plain = {name: value for name, value in resource.items() if name != "grants"}
            assert request.from_dict(plain).as_dict() == plain
            for grant in resource["grants"]:
                assert set(grant) == {"principal", "privileges"}
                assert set(grant["privileges"]) <= set(Privilege.__members__)


def test_the_platform_may_do_what_steps_do() -> None:
    granted = {
        kind: {
            grant["principal"]: set(grant["privileges"])
            for resource in RESOURCES[kind].values()
            for grant in resource["grants"]
        }
        for kind in ("schemas", "volumes")
    }
    steps = {"USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE", "CREATE_MODEL", "APPLY_TAG", "EXECUTE"}
    assert granted["schemas"]["${var.platform}"] >= steps
    assert granted["volumes"]["${var.platform}"] == {"READ_VOLUME", "WRITE_VOLUME"}
    assert "default" not in BUNDLE["variables"]["platform"], "an empty principal is granted nothing"


def test_the_smoke_jobs_cluster_isolates_its_user_and_takes_a_policy_by_its_id() -> None:
    cluster = SMOKE["job_clusters"][0]["new_cluster"]
    assert cluster["data_security_mode"] == "SINGLE_USER"
    assert cluster["policy_id"] == "${var.policy_id}"


def test_the_computes_python_is_one_the_package_runs_on() -> None:
    # Python of Databricks' runtimes and serverless environments, from their release notes.
    python = {"17.3.x-scala2.13": (3, 12), "environment 5": (3, 12)}
    lowest, highest = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    runtime = BUNDLE["variables"]["spark_version"]["default"]
    version = SMOKE["environments"][0]["spec"]["environment_version"]
    assert version == Compute().environment_version, "steps and the smoke job have one environment"
    for name in (runtime, f"environment {version}"):
        assert int(lowest) <= python[name][1] < int(highest)


def test_only_staging_and_prod_are_shared_and_run_as_the_platform() -> None:
    targets = BUNDLE["targets"]
    assert set(targets) == {"dev", "staging", "prod"}
    assert targets["dev"] == {"mode": "development", "default": True}
    for name in ("staging", "prod"):
        assert targets[name]["mode"] == "production"
        assert targets[name]["run_as"] == {"service_principal_name": "${var.platform}"}
        assert targets[name]["variables"]["catalog"] == f"ml_{name}"


def test_the_smoke_job_starts_what_the_package_installs() -> None:
    tree = ast.parse((DEPLOY / "smoke_job.py").read_text())
    (name,) = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "ENTRY_POINT"
        and isinstance(node.value, ast.Constant)
    ]
    assert name == "ml-platform-step"
    if name in PROJECT["scripts"]:
        assert PROJECT["scripts"][name] == "ml_platform.engine.databricks.entry:main"


# -- the pipelines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [WORKFLOW, PIPELINE], ids=["github", "azure"])
def test_a_pipeline_runs_only_what_there_is(file: Path) -> None:
    text = file.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (?:-C \.\. )?([a-z-]+)", text)) <= targets | {"smoke-databricks"}
    scripts = set(re.findall(r"scripts/\w+\.sh", text))
    assert scripts == {"scripts/products_to_retrain.sh", "scripts/retrain.sh"}
    assert all((CHECKOUT / script).exists() for script in scripts)
    deployed = set(re.findall(r"bundle (?:validate|deploy|run \w+) --target (\w+)", text))
    assert deployed == {"staging", "prod"}
    assert set(re.findall(r"bundle run (\w+)", text)) == set(RESOURCES["jobs"])


def test_prod_comes_after_staging_and_the_retrain_after_prod() -> None:
    jobs_of = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    assert jobs_of["staging"]["needs"] == ["check", "slow"]
    assert (jobs_of["prod"]["needs"], jobs_of["prod"]["environment"]) == (["staging"], "prod")
    assert jobs_of["retrain"]["needs"] == ["prod"]
    stages = {one["stage"]: one for one in yaml.safe_load(PIPELINE.read_text())["stages"]}
    assert [stages[name].get("dependsOn") for name in ("staging", "prod", "retrain")] == [
        "check",
        "staging",
        "prod",
    ]
    (prod,) = stages["prod"]["jobs"]
    assert prod["environment"] == "ml-platform-prod"


def test_azure_pipelines_know_no_anchors() -> None:
    assert not re.search(r": [&*]\w|<<:", PIPELINE.read_text())
    assert not re.search(r": [&*]\w|<<:", WORKFLOW.read_text())


@pytest.mark.parametrize("file", sorted([*DEPLOY.iterdir(), WORKFLOW]), ids=lambda path: path.name)
def test_no_file_names_a_host_of_a_workspace_or_a_registry(file: Path) -> None:
    if file.is_file():
        hosts = set(re.findall(r"https?://([\w.-]+)", file.read_text()))
        assert not {host for host in hosts if "pypi" in host or "azuredatabricks" in host or "pkg" in host}


# -- continuous training ---------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two contracts and training code, in one commit."""
    files = {
        "contracts/customers.yaml": "name: customers\nstart: 2022-01-01\n",
        "contracts/flights.yaml": "# real\nname: flights\n",
        "ml_platform/machine_learning/training.py": "rate = 1\n",
        "README.md": "words\n",
    }
    git(tmp_path, "init", "-q")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "change")


@pytest.mark.parametrize(
    ("changed", "retrained"),
    [
        ("README.md", []),
        ("contracts/flights.yaml", ["flights"]),
        ("ml_platform/machine_learning/training.py", ["customers", "flights"]),
    ],
)
def test_what_a_change_concerns_is_trained_anew(repository: Path, changed: str, retrained: list[str]) -> None:
    path = repository / changed
    path.write_text(path.read_text() + "# changed\n")
    commit(repository)
    script = CHECKOUT / "scripts" / "products_to_retrain.sh"
    found = subprocess.run([script, "HEAD~1"], cwd=repository, check=True, capture_output=True, text=True)
    assert found.stdout.split() == retrained


def test_a_product_whose_history_has_ended_is_not_trained(repository: Path) -> None:
    ended = repository / "contracts/flights.yaml"
    ended.write_text(ended.read_text() + "end: 2013-12-31\n")
    (repository / "contracts/customers.yaml").write_text("name: customers\nend: 2999-12-31\n")
    commit(repository)
    script = CHECKOUT / "scripts" / "products_to_retrain.sh"
    found = subprocess.run([script, "HEAD~1"], cwd=repository, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["customers"]


def test_the_retrain_has_every_setting_that_a_remote_training_asks_for() -> None:
    """The variables of Azure's stage come from its variable group as well."""
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["retrain"]
    placeholder = "uc:catalog.schema"
    given = {name.removeprefix("ML_PLATFORM_").lower(): placeholder for name in job["env"]}
    fields = {"landing", "tables", "control_tables", "mlflow_tracking_uri"}
    settings = Settings(**{name: value for name, value in given.items() if name in fields})
    assert settings_for("model", shop(), settings)["landing"]


def test_a_contract_that_is_gone_is_not_trained(repository: Path) -> None:
    (repository / "contracts/flights.yaml").unlink()
    commit(repository)
    script = CHECKOUT / "scripts" / "products_to_retrain.sh"
    found = subprocess.run([script, "HEAD~1"], cwd=repository, check=True, capture_output=True, text=True)
    assert found.stdout == ""


@pytest.mark.slow
def test_the_smoke_job_writes_a_table_twice_and_a_file_once(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the session's own catalog, which has no feature tables to declare."""
    described = importlib.util.spec_from_file_location("smoke_job", DEPLOY / "smoke_job.py")
    assert described is not None
    assert described.loader is not None
    smoke_job = importlib.util.module_from_spec(described)
    described.loader.exec_module(smoke_job)
    monkeypatch.setattr(unity_catalog, "declare", lambda *_: False)
    product = shop(name="smoke")
    tables = Tables("uc:spark_catalog.default", control=str(tmp_path), session=lambda: spark)
    try:
        smoke_job.try_table(spark, product, tables)
        assert tables.version("smoke", "mrds") == 1
    finally:
        spark.sql("DROP TABLE IF EXISTS default.smoke_mrds")
    smoke_job.try_volume(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
