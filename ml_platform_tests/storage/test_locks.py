"""A lock has a time limit, and names its holder; held by real second processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.locks import LockedError, held
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in

HOLD = """
import sys, time
from pathlib import Path
from ml_platform.storage.locks import held
with held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


class Holder:
    """A process that holds a lock until it is ended."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    found = Holder(tmp_path / "tables" / ".locks" / "shop.days.lock")
    yield found
    found.end()


def record() -> DayRecord:
    return DayRecord("ards", date(2024, 1, 1), "written", inputs="i", contract="c", code_version="1")


def test_a_table_that_another_process_has_locked_is_an_error_that_names_it(
    tmp_path: Path, holder: Holder
) -> None:
    settings = settings_in(tmp_path, lock_timeout_seconds=0.2)
    ledger = Ledger(Tables.of(settings), "shop")
    # A process that is stopped holds its lock for as long as it is there.
    os.kill(holder.process.pid, signal.SIGSTOP)
    with pytest.raises(LockedError) as caught:
        ledger.record([record()])
    said = str(caught.value)
    assert "the table shop/days is locked by process" in said
    assert str(holder.process.pid) in said
    assert socket.gethostname() in said
    assert "0.2 seconds" in said
    assert ledger.latest("ards") == {}


def test_a_lock_ends_with_its_process(tmp_path: Path, holder: Holder) -> None:
    ledger = Ledger(Tables.of(settings_in(tmp_path, lock_timeout_seconds=30)), "shop")
    holder.end()
    ledger.record([record()])
    assert ledger.latest("ards")


def test_a_thread_that_holds_a_lock_takes_it_again_whatever_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with held(path, "it", seconds=1), held(path, "it", seconds=2):
        pass
    other = Holder(path)
    try:
        with pytest.raises(LockedError), held(path, "it", seconds=0):
            pass
    finally:
        other.end()


def test_a_lock_whose_holder_can_not_be_read_is_still_an_error(tmp_path: Path, holder: Holder) -> None:
    path = tmp_path / "tables" / ".locks" / "shop.days.lock"
    for content in ("", "no JSON", "[]", "null", '{"pid": 1}'):
        path.write_text(content)
        with pytest.raises(LockedError, match="locked by another process"), held(path, "it", seconds=0):
            pass


def test_every_lock_goes_through_this_module() -> None:
    package = Path(__file__).parents[2] / "ml_platform"
    imports = re.compile(r"^\s*(from|import) filelock", re.MULTILINE)
    users = [path.name for path in package.rglob("*.py") if imports.search(path.read_text(encoding="utf-8"))]
    assert users == ["locks.py"]
