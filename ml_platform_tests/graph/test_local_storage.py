"""The event log with open databases: what Dagster's own writes and reads, for several processes at once."""

import queue
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
import typer
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from ml_platform.cli.console import instance_of
from ml_platform.graph.local_storage import _OPEN_AT_MOST, LocalEventLog
from ml_platform_tests.conftest import settings_in

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


def test_an_instance_of_this_machine_has_the_events_that_dagsters_own_has(home: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    with (
        instance_of(settings_in(tmp_path)) as ours,
        dg.DagsterInstance.local_temp(str(tmp_path / "theirs")) as theirs,
    ):
        assert isinstance(ours.event_log_storage, LocalEventLog)
        assert not isinstance(theirs.event_log_storage, LocalEventLog)
        run_id = materialize(ours)
        found = seen(ours, run_id)
        assert found == seen(theirs, materialize(theirs))
    # Without the setting Dagster reads the same files, and goes on with them.
    (home / "dagster.yaml").unlink()
    with dg.DagsterInstance.from_config(str(home)) as plain:
        assert type(plain.event_log_storage) is SqliteEventLogStorage
        assert seen(plain, run_id) == found
        materialize(plain)
    with instance_of(settings_in(tmp_path)) as ours:
        assert len(ours.get_runs()) == 2


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


def test_few_databases_stay_open_however_many_runs_are_read(home: Path, tmp_path: Path) -> None:
    with instance_of(settings_in(tmp_path)) as instance:
        runs = [materialize(instance) for _ in range(_OPEN_AT_MOST + 2)]
        for run_id in [*runs, *runs]:
            assert instance.all_logs(run_id)
        assert len(open_databases(home)) <= _OPEN_AT_MOST
    assert not open_databases(home)


def open_databases(home: Path) -> set[str]:
    opened = {file.path for file in psutil.Process().open_files()}
    return {path for path in opened if path.startswith(f"{home}/history/runs/") and path.endswith(".db")}


def test_processes_write_at_once_and_lose_nothing(home: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from ml_platform.cli.console import instance_of
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.test_local_storage import materialize
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


def test_who_watches_a_run_of_another_process_is_told_each_event(home: Path, tmp_path: Path) -> None:
    run_id = str(uuid.uuid4())
    told: queue.Queue[dg.DagsterEventType | None] = queue.Queue()
    code = f"""
from pathlib import Path
from ml_platform.cli.console import instance_of
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.test_local_storage import materialize
with instance_of(settings_in(Path({str(tmp_path)!r}))) as instance:
    materialize(instance, {run_id!r})
"""
    with instance_of(settings_in(tmp_path)) as instance:
        # As the page of a run does: it reads what there is, and wants to be told of the rest.
        assert instance.all_logs(run_id) == []
        instance.watch_event_logs(run_id, None, lambda entry, _: told.put(entry.dagster_event_type))
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
        found = []
        while dg.DagsterEventType.RUN_SUCCESS not in found:
            found.append(told.get(timeout=30))
        assert found.count(dg.DagsterEventType.ASSET_MATERIALIZATION) == 5
        assert found == [entry.dagster_event_type for entry in instance.all_logs(run_id)][: len(found)]


def test_what_is_wiped_is_gone_and_can_be_written_anew(home: Path, tmp_path: Path) -> None:
    with instance_of(settings_in(tmp_path)) as instance:
        run_id = materialize(instance)
        with dg.DagsterInstance.from_config(str(home)) as other:
            # As another process does it: the run's database is deleted while it is open here.
            other.event_log_storage.wipe()
        assert instance.all_logs(run_id) == []
        assert len(seen(instance, materialize(instance))[3]) == 5
        instance.event_log_storage.wipe()
        assert instance.get_materialized_partitions(visits.key) == set()
        assert len(seen(instance, materialize(instance))[3]) == 5
