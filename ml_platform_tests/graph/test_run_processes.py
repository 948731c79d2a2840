"""Runs whose process is gone are ended; all others are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform.graph import run_processes
from ml_platform_tests.graph.stand_ins import Graph

STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that another process can open too."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def started_run(instance: dg.DagsterInstance, tags: dict[str, str] | None = None) -> str:
    run = dg.DagsterRun(job_name="shop_model", status=STARTED, tags=tags or {})
    instance.add_run(run)
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def mark_elsewhere(instance: dg.DagsterInstance, run_id: str) -> subprocess.Popen[bytes]:
    """Have another process mark a run, and stay; it says when it has."""
    code = f"""
import sys, time
import dagster as dg
from ml_platform.graph import run_processes
with dg.DagsterInstance.from_config({instance.root_directory!r}) as instance:
    run_processes.mark(instance, {run_id!r})
    print("marked", flush=True)
    time.sleep(120)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"marked\n"
    return process


def test_a_run_of_this_process_goes_on(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance)
    run_processes.mark(instance, run_id)
    run_processes.mark(instance, run_id)  # each step of a run marks it
    assert run_processes.reap(instance) == []
    assert status(instance, run_id) == STARTED


def test_a_killed_process_s_run_is_ended_as_failed_and_says_so(shared: dg.DagsterInstance) -> None:
    run_id = started_run(shared)
    process = mark_elsewhere(shared, run_id)
    try:
        assert run_processes.reap(shared) == [], "its process is alive"
        assert status(shared, run_id) == STARTED
    finally:
        process.send_signal(signal.SIGKILL)
        # Wait for its end and leave it a zombie, as a code server that is busy does.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert run_processes.reap(shared) == [run_id]
    process.wait()
    assert status(shared, run_id) == FAILURE
    (event,) = [entry for entry in shared.all_logs(run_id) if entry.dagster_event]
    assert event.dagster_event is not None
    assert event.dagster_event.message == (
        "The process of this run is gone; the next run continues its work."
    )
    assert run_processes.reap(shared) == [], "it is ended once"


def test_a_later_process_with_the_same_id_is_another_one(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance)
    run_processes.mark(instance, run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    text, _, marked = run.tags[run_processes.PROCESS_TAG].rpartition(":")
    process = run_processes.Process.read(text)
    assert process == run_processes.Process.own()
    assert (process.pid, marked) == (os.getpid(), run_id)
    mark_as(instance, run_id, started="1")
    assert run_processes.reap(instance) == [run_id]


def test_a_run_of_another_host_is_left_alone(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance)
    mark_as(instance, run_id, host="elsewhere", pid=dead_process())
    assert run_processes.reap(instance) == []
    assert status(instance, run_id) == STARTED


def test_a_run_that_nobody_marked_is_left_alone(instance: dg.DagsterInstance) -> None:
    run_id = started_run(instance)
    assert run_processes.reap(instance) == []
    assert status(instance, run_id) == STARTED


def test_a_run_that_has_ended_stays_as_it_ended(graph: Graph) -> None:
    result = graph.run(["ards"], "2024-03-01")
    tag = graph.instance.get_run_by_id(result.run_id)
    assert tag is not None
    assert tag.tags[run_processes.PROCESS_TAG].endswith(f":{result.run_id}")
    mark_as(graph.instance, result.run_id, pid=dead_process())
    assert run_processes.reap(graph.instance) == []
    assert status(graph.instance, result.run_id) == dg.DagsterRunStatus.SUCCESS


def test_a_run_that_is_executed_again_inherits_tags_but_not_its_parents_death(
    instance: dg.DagsterInstance,
) -> None:
    """Dagster copies a run's tags to the run that repeats it, until that has marked itself."""
    parent = started_run(instance)
    mark_as(instance, parent, pid=dead_process())
    tags = instance.get_run_by_id(parent)
    assert tags is not None
    again = started_run(instance, dict(tags.tags))
    assert run_processes.reap(instance) == [parent]
    run_processes.mark(instance, again)
    assert run_processes.reap(instance) == []
    assert status(instance, again) == STARTED


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def mark_as(instance: dg.DagsterInstance, run_id: str, **facts: Any) -> None:
    """Mark a run as worked on by a process that is this one but for some facts."""
    process = replace(run_processes.Process.own(), **facts)
    instance.add_run_tags(run_id, {run_processes.PROCESS_TAG: f"{process}:{run_id}"})


def test_a_run_that_succeeds_while_its_process_ends_stays_a_success(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process reports the success and ends after the runs were listed and before it is looked for."""
    run_id = started_run(instance)
    mark_as(instance, run_id, pid=dead_process())
    is_gone = run_processes.Process.is_gone

    def succeed_then_look(process: run_processes.Process) -> bool:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name), run_id=run_id
        )
        return is_gone(process)

    monkeypatch.setattr(run_processes.Process, "is_gone", succeed_then_look)
    assert run_processes.reap(instance) == []
    assert status(instance, run_id) == dg.DagsterRunStatus.SUCCESS


@pytest.mark.parametrize(
    ("facts", "ended"),
    [
        ({}, True),
        # A container with this hostname, whose processes have ids of their own.
        ({"namespace": "4026539999"}, False),
        # A machine that claims this hostname, or a container that was copied with its machine's name.
        ({"machine": "another"}, False),
        ({"boot": "another", "namespace": "4026539999"}, False),
    ],
)
def test_only_processes_that_can_be_seen_from_here_are_gone(
    instance: dg.DagsterInstance, facts: dict[str, str], ended: bool
) -> None:
    run_id = started_run(instance)
    mark_as(instance, run_id, pid=dead_process(), **facts)
    assert run_processes.reap(instance) == ([run_id] if ended else [])


def test_a_machine_that_was_started_again_has_none_of_its_processes(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine, namespace, ended in (
        ("m", run_processes._OUTSIDE_CONTAINERS, True),
        ("m", "4026539999", False),
        ("-", run_processes._OUTSIDE_CONTAINERS, False),
    ):
        monkeypatch.setattr(run_processes, "_here", lambda facts=("h", machine, "now", namespace): facts)
        run_id = started_run(instance)
        mark_as(instance, run_id, boot="before")
        assert run_processes.reap(instance) == ([run_id] if ended else [])


def test_a_process_that_is_hidden_from_this_user_is_not_gone(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = started_run(instance)
    mark_as(instance, run_id, started="1")

    def hidden(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(run_processes.Path, "read_text", hidden)
    assert run_processes.reap(instance) == []


@pytest.mark.parametrize("tag", ["", "host:12:1:{}", "host:x:1:{}", "a:b:c:d:x:1:{}", ":::::::{}", "{}"])
def test_a_tag_of_another_version_is_left_alone(instance: dg.DagsterInstance, tag: str) -> None:
    run_id = started_run(instance)
    instance.add_run_tags(run_id, {run_processes.PROCESS_TAG: tag.format(run_id)})
    assert run_processes.reap(instance) == []
