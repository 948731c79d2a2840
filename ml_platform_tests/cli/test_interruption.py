"""Signals end every command with one line, the code that shells know, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

LINE = "Interrupted: what was done stays, and the same command goes on from there."
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

#: The command, which gets a signal at the moment in which it imports a module.
WHILE_IMPORTING = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.argv[1] = ""
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Finder())
from ml_platform.cli.entry import main
main()
"""

#: The command, at work with a process that takes no notice of being asked to end, and one of its own.
AT_WORK = """
import subprocess, sys, time
import ml_platform.cli.interruption, ml_platform.cli.main
from ml_platform.cli.entry import main

ml_platform.cli.interruption.GRACE = 0.5
ml_platform.cli.interruption._JVM_GRACE = 0.5

def run():
    child = "import signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN); " \\
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sleep', '600']); " \\
        "print('ready', flush=True); time.sleep(600)"
    started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    started.stdout.readline()
    if sys.argv[1] == "of a library's own":
        from dagster._utils.interrupts import capture_interrupts, raise_interrupts_as
        from ml_platform.cli.console import fail
        try:
            with capture_interrupts(), raise_interrupts_as(LookupError):
                print("ready", flush=True)
                time.sleep(600)
        except LookupError:
            fail("a step was interrupted")
    print("ready", flush=True)
    if sys.argv[1] == "deaf":
        while True:
            try:
                time.sleep(600)
            except BaseException:
                print("what a library says of an interruption", flush=True)
    time.sleep(600)

ml_platform.cli.main.run = run
main()
"""


def start(code: str, *arguments: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"ML_PLATFORM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_of(group: int) -> Sequence[psutil.Process]:
    def is_left(process: psutil.Process) -> bool:
        # Any process of the machine may end while it is looked at.
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            return process.status() != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group
        return False

    return [process for process in psutil.process_iter() if is_left(process)]


@pytest.mark.parametrize("module", ["ml_platform.cli.main", "pydantic", "rich"])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_everything_is_imported_ends_in_one_line(
    module: str, number: signal.Signals, tmp_path: Path
) -> None:
    process = start(WHILE_IMPORTING, module, str(int(number)), home=tmp_path)
    output, _ = process.communicate(timeout=120)
    assert output == f"{LINE}\n"
    assert process.returncode == CODES[number]


@pytest.mark.parametrize("kind", ["polite", "deaf", "of a library's own"])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_what_was_started_as_well(number: signal.Signals, kind: str, tmp_path: Path) -> None:
    process = start(AT_WORK, kind, home=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert output == f"{LINE}\n"
    assert process.returncode == CODES[number]
    assert left_of(process.pid) == []
