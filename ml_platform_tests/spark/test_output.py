"""Where a JVM writes that PySpark starts: into the file that was named, and nowhere else."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_platform.spark import output


@pytest.fixture(autouse=True)
def unnamed() -> Iterator[None]:
    yield
    output.write_to(None)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """In place of a JVM a shell that prints as Spark and Ivy do, with the streams it is given."""
    from pyspark.core import context

    calls: list[dict[str, Any]] = []

    def launch(conf: object = None, popen_kwargs: dict[str, Any] | None = None) -> None:
        calls.append(popen_kwargs or {})
        subprocess.run(
            ["/bin/sh", "-c", "echo ':: loading settings'; echo 'Setting default log level' >&2"],
            check=True,
            **(popen_kwargs or {}),
        )

    monkeypatch.setattr(context, "launch_gateway", launch)
    return calls


def launch() -> None:
    from pyspark.core import context

    context.launch_gateway(None)


def test_both_streams_go_to_the_file_and_none_to_the_terminal(
    tmp_path: Path, launched: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / output.NAME
    output.write_to(log)
    for _ in range(2):
        with output.apart():
            launch()
    assert log.read_text() == ":: loading settings\nSetting default log level\n" * 2
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert capfd.readouterr() == ("", "")


def test_a_process_that_names_no_file_leaves_the_streams_as_they_are(
    launched: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    with output.apart():
        launch()
    assert launched == [{}]
    assert capfd.readouterr().out == ":: loading settings\n"


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, launched: list[dict[str, Any]]) -> None:
    output.write_to(tmp_path / "gone" / output.NAME)
    with output.apart():
        launch()
    assert launched == [{}]


def test_a_long_file_is_put_aside(
    tmp_path: Path, launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_MAXIMUM_BYTES", 10)
    log = tmp_path / output.NAME
    log.write_text("twelve chars")
    output.write_to(log)
    with output.apart():
        launch()
    assert (tmp_path / "spark.log.1").read_text() == "twelve chars"
    assert log.read_text().startswith(":: loading")


def test_no_descriptor_is_left_open(tmp_path: Path, launched: list[dict[str, Any]]) -> None:
    output.write_to(tmp_path / output.NAME)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RuntimeError, match="no Java"), output.apart():
        raise RuntimeError("no Java")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
