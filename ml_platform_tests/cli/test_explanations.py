"""Faults of the machine are one sentence with the place and what to do; the traceback is in the log file."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ml_platform.cli import logs, main
from ml_platform.cli.explanations import explain
from ml_platform.engine.report_targets import report_store
from ml_platform.settings import Settings
from ml_platform.storage.reports import ReportError
from ml_platform_tests.small_platform import SHOP


def command(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    contracts = home.parent / "contracts"
    contracts.mkdir(exist_ok=True)
    (contracts / "shop.yaml").write_text(yaml.safe_dump(SHOP, sort_keys=False))
    variables = {"ML_PLATFORM_HOME": str(home), "ML_PLATFORM_PRODUCTS": str(contracts), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "ml_platform.cli.entry", *arguments],
        env={key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}
        | variables
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.getuid() or not mount or not umount:
        pytest.skip("only root can make a small disk")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run([umount, str(folder)], check=True)


def test_a_full_disk_is_named(small_disk: Path) -> None:
    done = command(
        small_disk / "home",
        "sample", "customers", "--from", "2022-01-01", "--to", "2022-01-31", "--rows-per-day", "20000",
    )  # fmt: skip
    assert done.returncode == 1
    assert "the disk is full: " in done.stderr
    assert str(small_disk) in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_damaged_database_of_dagster_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "dagster" / "history").mkdir(parents=True)
    (home / "dagster" / "history" / "runs.db").write_text("no database" * 1000)
    done = command(home, "backfill", "shop", "--from", "2024-01-01", "--to", "2024-01-01")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert f"Dagster's databases in {home / 'dagster'} can't be used" in done.stderr
    assert "restore the folder" in done.stderr


def test_an_unknown_error_is_a_sentence_and_its_traceback_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["ml-platform", "history", "flights"])

    def fail(*_: object) -> None:
        raise LookupError("of a kind that nobody has thought of")

    monkeypatch.setattr("ml_platform.overview.history.models", fail)
    assert main.run() == 1
    said = capfd.readouterr().err
    log = tmp_path / "logs" / logs.NAME
    assert "LookupError: of a kind that nobody has thought of" in said
    assert str(log) in said
    assert "Traceback" not in said
    assert "Traceback" in log.read_text()


def test_a_wrong_setting_is_named_without_its_value(tmp_path: Path) -> None:
    done = command(tmp_path / "home", "history", "shop", ML_PLATFORM_CHUNK_DAYS="secret")
    assert done.returncode == 1
    assert "ML_PLATFORM_CHUNK_DAYS" in done.stderr
    assert "secret" not in done.stderr


def test_a_home_that_cannot_be_written_takes_no_command_down(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = command(tmp_path / "home", "check", str(tmp_path / "contracts" / "shop.yaml"))
    assert done.returncode == 0, done.stderr


class Py4JNetworkError(Exception):
    __module__ = "py4j.protocol"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.csv"), "the disk is full: /data/x.csv"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.DatabaseError("file is not a database"), "a SQLite database is damaged"),
        (sqlite3.DatabaseError("database disk image is malformed"), "restore it from a backup"),
        (Py4JNetworkError("Answer from Java side is empty"), "Spark's JVM was killed"),
        (Py4JNetworkError("java.lang.OutOfMemoryError: Java heap space"), "Spark has too little memory, 3g"),
        (Py4JNetworkError("Python worker exited unexpectedly (crashed)"), "a worker of Spark was killed"),
        (PermissionError(errno.EACCES, "denied", "/data/x.csv"), "/data/x.csv can't be used"),
        (ValueError("any other"), None),
    ],
)
def test_an_error_has_its_sentence(error: Exception, expected: str | None, tmp_path: Path) -> None:
    wrapped = RuntimeError("a step has failed")
    wrapped.__cause__ = error
    said = explain(wrapped, Settings(home=tmp_path))
    assert (said is None) == (expected is None)
    assert said is None or (expected in said and "\n" not in said)


def test_a_wrong_key_of_blob_storage_is_named_with_its_setting(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        report_targets=("azblob://reports/here",),
        blob_account_url="https://account.blob.core.windows.net",
        blob_credential="no key!",  # type: ignore[arg-type]
    )
    with pytest.raises(ReportError, match="ML_PLATFORM_BLOB_CREDENTIAL is neither an account key") as caught:
        report_store(settings).publish("shop/validation_report/2024-01-01", {"report.html": b"page"})
    assert "no key!" not in str(caught.value)
