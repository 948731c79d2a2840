"""Which process works on a run, so that a run whose process was killed doesn't stay STARTED for ever."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dagster as dg

PROCESS_TAG = "ml_platform/process"

#: A run that nothing has begun to work on has no tag of its own, and is left alone.
_AT_WORK = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
#: The kernel's constant number of the namespace that processes outside of containers are in.
_OUTSIDE_CONTAINERS = "4026531836"
_UNKNOWN = "-"


@dataclass(frozen=True)
class Process:
    """A process, named so that no other has the same name, on this machine or another.

    Containers may share a hostname, and have processes of their own under the same ids; so the machine, its
    boot and the namespace of the process ids are part of the name. ``started`` tells a later process with the
    same id apart.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def own(cls) -> Process:
        pid = os.getpid()
        return cls(*_here(), pid, _started(pid) or _UNKNOWN)

    @classmethod
    def read(cls, text: str) -> Process | None:
        """The process that a tag names; None if it was written by another version, or by hand."""
        parts = text.split(":")
        if len(parts) != 6 or not parts[4].isdecimal():
            return None
        host, machine, boot, namespace, pid, started = parts
        return cls(host, machine, boot, namespace, int(pid), started)

    def __str__(self) -> str:
        facts = (self.host, self.machine, self.boot, self.namespace, str(self.pid), self.started)
        return ":".join(facts)

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended; never of one that can't be seen from here."""
        host, machine, boot, namespace = _here()
        if (self.host, self.machine) != (host, machine):
            return False
        if self.boot != boot:
            # The machine was started again. Copies of a container may claim to be one machine.
            known = _UNKNOWN not in (self.machine, self.boot, boot)
            return known and {self.namespace, namespace} == {_OUTSIDE_CONTAINERS}
        if self.namespace != namespace:
            return False
        started = _started(self.pid)
        return started is not None and started != self.started


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
    return f"{Process.own()}:{run_id}"


def reap(instance: dg.DagsterInstance) -> list[str]:
    """End the runs whose process is certainly gone, as failed; returns their ids.

    A killed process can't report its own end, and what waits for it would wait for ever.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_AT_WORK)):
        process = _process_of(run)
        if process is None or not process.is_gone():
            continue
        # Its last act may have been to report the end of the run; what it has reported stands by now.
        now = instance.get_run_by_id(run.run_id)
        if now is None or now.is_finished or _process_of(now) != process:
            continue
        instance.report_run_failed(now, "The process of this run is gone; the next run continues its work.")
        ended.append(run.run_id)
    return ended


def _process_of(run: dg.DagsterRun) -> Process | None:
    text, _, run_id = run.tags.get(PROCESS_TAG, "").rpartition(":")
    return Process.read(text) if run_id == run.run_id else None


@cache
def _here() -> tuple[str, str, str, str]:
    """Host, machine, boot, and the namespace of this process's id."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        namespace = _UNKNOWN
    machine, boot = _read("/etc/machine-id"), _read("/proc/sys/kernel/random/boot_id")
    return socket.gethostname().replace(":", "_"), machine[:16], boot[:8], namespace


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip() or _UNKNOWN
    except OSError:
        return _UNKNOWN


def _started(pid: int) -> str | None:
    """When a process of this namespace started, or "gone"; None if it exists and nothing is told of it."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A killed process whose parent hasn't taken note of it is a zombie, and still listed.
        return "gone" if facts[0] in ("Z", "X") else facts[19]
    except OSError:
        # Other users' processes may be hidden from this one.
        return None if _exists(pid) else "gone"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
