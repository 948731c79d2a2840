"""Which process works on a run, so that a run whose process was killed doesn't stay STARTED for ever."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dagster as dg

PROCESS_TAG = "ml_platform/process"

#: A run that nothing has begun to work on has no tag of its own, and is left alone.
_AT_WORK = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def mark(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note in a run's tags that this process works on it.

    The tag names the run too: a run that is executed again inherits its tags, this one included.
    """
    own = mark_of(run_id)
    run = instance.get_run_by_id(run_id)
    if run is not None and run.tags.get(PROCESS_TAG) != own:
        instance.add_run_tags(run_id, {PROCESS_TAG: own})


def mark_of(run_id: str) -> str:
    """The tag's value for a run of this process."""
    return f"{_describe(os.getpid())}:{run_id}"


def reap(instance: dg.DagsterInstance) -> list[str]:
    """End the runs of this host whose process is gone, as failed; returns their ids.

    A killed process can't report its own end, and what waits for it would wait for ever.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_AT_WORK)):
        process, _, run_id = run.tags.get(PROCESS_TAG, "").rpartition(":")
        host, _, rest = process.partition(":")
        if run_id != run.run_id or host != socket.gethostname():
            continue
        pid = int(rest.partition(":")[0])
        if _describe(pid) != process:
            instance.report_run_failed(
                run, "The process of this run is gone; the next run continues its work."
            )
            ended.append(run.run_id)
    return ended


def _describe(pid: int) -> str:
    """Host, process id and the process's start: a later process with the same id is another one."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A killed process whose parent hasn't taken note of it is a zombie, and still listed.
        started = "gone" if facts[0] == "Z" else facts[19]
    except (FileNotFoundError, ProcessLookupError):
        started = "alive" if _is_alive(pid) else "gone"
    return f"{socket.gethostname()}:{pid}:{started}"


def _is_alive(pid: int) -> bool:
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
