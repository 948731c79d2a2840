"""A database whose creation is stopped half-way, by a kill or a full disk, is made by the next process."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ml_platform.cli.console import instance_of
from ml_platform.machine_learning.mlflow_store import prepared_client
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.registry import Registry
from ml_platform_tests.conftest import settings_in

#: Makes MLflow's database, and is killed in the middle of a migration.
KILLED = """
import os, signal, sqlite3, sys, threading
from ml_platform.machine_learning.registry import Registry

def watch():
    while True:
        try:
            with sqlite3.connect(sys.argv[1] + ".new") as connection:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 12:
                    os.kill(os.getpid(), signal.SIGKILL)
        except sqlite3.Error:
            pass

threading.Thread(target=watch, daemon=True).start()
Registry("sqlite:///" + sys.argv[1]).tracking.prepare("shop")
"""


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """A disk of 300 kB; what is given can make it larger."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.getuid() or not mount or not umount:
        pytest.skip("only root can make a small disk")

    def resize(size: str, *options: str) -> None:
        words = [mount, "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)]
        if subprocess.run(words, check=False).returncode:
            pytest.skip("no small disk can be made here")

    resize("300k")
    try:
        yield lambda size: resize(size, "remount")
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)  # connections may be open still


def is_usable(database: Path) -> bool:
    prepared_client.cache_clear()
    registry = Registry(f"sqlite:///{database}")
    registry.tracking.prepare("shop")
    registry.tracking.prepare("shop")
    return bool(registry.tracking.client().get_experiment_by_name("shop"))


@pytest.mark.slow
def test_a_registry_whose_creation_was_killed_is_made_by_the_next_process(tmp_path: Path) -> None:
    database = tmp_path / "mlflow" / "mlflow.db"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(database)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not database.exists()

    # What a process that made it in place would have left.
    shutil.copy(database.with_name("mlflow.db.new"), database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS _alembic_tmp_experiments (a INTEGER)")
        connection.commit()
    assert is_usable(database)
    assert sorted(path.name for path in database.parent.glob("*.new*")) == []


@pytest.mark.slow
def test_a_registry_whose_creation_found_a_full_disk_is_made_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk) as resize:
        with pytest.raises(Exception, match="full"):
            is_usable(disk / "mlflow.db")
        resize("20m")
        assert is_usable(disk / "mlflow.db")


def test_a_damaged_registry_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"no database " * 1000)
    with pytest.raises(RegistryError, match=r"mlflow\.db is damaged"):
        is_usable(database)
    assert database.read_bytes() == b"no database " * 1000


def test_an_instance_of_dagster_whose_creation_was_stopped_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "dagster"
    (home / ".new" / "history").mkdir(parents=True)
    (home / ".new" / "history" / "runs.db").write_bytes(b"half of a database")
    (home / "schedules").mkdir()
    (home / "schedules" / "schedules.db").write_bytes(b"half of a database")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    for _ in range(2):
        with instance_of(settings_in(tmp_path / "home")) as instance:
            assert instance.get_runs_count() == 0
            assert instance.all_instigator_state() == []
    assert not (home / ".new").exists()
