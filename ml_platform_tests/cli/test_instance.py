"""The Dagster instance of a machine: for several processes at once, and from one version to the next."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import typer
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from ml_platform.cli.console import instance_of
from ml_platform_tests.conftest import settings_in

#: What the configuration of an earlier version began with.
EARLIER = """\
storage:
  custom:
    module: ml_platform.graph.local_storage
    class: LocalStorage
    config:
      base_dir: {env: DAGSTER_HOME}
"""

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-06")


@dg.asset(
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("good", asset="visits", partitions_def=DAYS)],
)
def visits(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None] | dg.Output[None]]:
    for day in context.partition_keys:
        context.add_asset_metadata({"day": day}, partition_key=day)
    yield dg.MaterializeResult()
    for day in context.partition_keys:
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=context.asset_key, check_name="good", passed=day != "2024-01-03", partition=day
            )
        )
    yield dg.Output(None, output_name="visits_good")


def materialize(instance: dg.DagsterInstance, run_id: str | None = None) -> str:
    job = dg.Definitions(assets=[visits]).resolve_implicit_global_asset_job_def()
    tags = {
        "dagster/asset_partition_range_start": "2024-01-01",
        "dagster/asset_partition_range_end": "2024-01-05",
    }
    result = job.execute_in_process(instance=instance, tags=tags, run_id=run_id)
    assert result.success
    return result.run_id


def seen(instance: dg.DagsterInstance, run_id: str) -> list[object]:
    """What an instance has of a run, but for ids and times."""
    events = [
        (entry.dagster_event_type, entry.dagster_event and entry.dagster_event.partition)
        for entry in instance.all_logs(run_id)
    ]
    records = instance.fetch_materializations(visits.key, limit=10).records
    facts = [
        (one.partition_key, one.asset_materialization and one.asset_materialization.metadata)
        for one in records
    ]
    checks = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(visits.key, "good"), limit=10
    )
    statuses = [(one.status, one.partition) for one in checks]
    partitions = instance.get_materialized_partitions(visits.key)
    return [events, facts, sorted(statuses, key=str), sorted(partitions)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dagster"
    folder.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


def test_an_instance_of_an_earlier_version_goes_on_with_its_events(home: Path, tmp_path: Path) -> None:
    """It names a storage of this platform, whose files are those of Dagster's own."""
    with instance_of(settings_in(tmp_path)) as instance:
        run_id = materialize(instance)
        found = seen(instance, run_id)
    configuration = home / "dagster.yaml"
    configuration.write_text(EARLIER + configuration.read_text())
    with instance_of(settings_in(tmp_path)) as instance:
        assert seen(instance, run_id) == found
        materialize(instance)
    # Dagster's own commands read the same file.
    with dg.DagsterInstance.from_config(str(home)) as plain:
        assert type(plain.event_log_storage) is SqliteEventLogStorage
        assert len(plain.get_runs()) == 2


def test_a_dagster_home_that_is_set_to_nothing_is_not_the_present_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there, under names that Dagster uses too, is somebody's."""
    present = tmp_path / "present"
    (present / "schedules").mkdir(parents=True)
    (present / "schedules" / "mine.txt").write_text("mine")
    monkeypatch.chdir(present)
    monkeypatch.setenv("DAGSTER_HOME", "")
    settings = settings_in(tmp_path / "platform")
    with instance_of(settings) as instance:
        assert instance.root_directory == str(settings.home / "dagster")
    for wrong in ("relative", str(tmp_path / "gone")):
        monkeypatch.setenv("DAGSTER_HOME", wrong)
        with pytest.raises(typer.Exit), instance_of(settings):
            pass
    assert [path.name for path in sorted(present.rglob("*"))] == ["schedules", "mine.txt"]


def test_processes_write_at_once_and_lose_nothing(home: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from ml_platform.cli.console import instance_of
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.cli.test_instance import materialize
with instance_of(settings_in(Path({str(tmp_path)!r}))) as instance:
    for _ in range(3):
        materialize(instance)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    with instance_of(settings_in(tmp_path)) as instance:
        assert len(instance.get_runs()) == 9
        assert all(run.status is dg.DagsterRunStatus.SUCCESS for run in instance.get_runs())
        assert len(instance.fetch_materializations(visits.key, limit=100).records) == 45
        checks = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(visits.key, "good"), limit=100
        )
        assert sorted(str(one.status.value) for one in checks) == ["FAILED"] * 9 + ["SUCCEEDED"] * 36
