"""The wheel: the same bytes for the same code, uploaded once, and all that a step over there needs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ml_platform
from ml_platform.cli.main import app
from ml_platform.engine.databricks import wheel as wheels
from ml_platform.engine.databricks.wheel import DISTRIBUTION, Wheel, build_wheel, upload
from ml_platform.engine.databricks.workspace import Workspace
from ml_platform.engine.step import PermanentError
from ml_platform_tests.conftest import CHECKOUT
from ml_platform_tests.engine.databricks.conftest import VOLUME, QuickClock
from ml_platform_tests.fake_workspace import FakeWorkspace

PACKAGE = Path(ml_platform.__file__).parent


@pytest.fixture(scope="module")
def wheel() -> Wheel:
    return build_wheel()


def contents(wheel: Wheel) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def built_by(python_path: Path, folder: Path, **environment: str) -> bytes:
    """The wheel that the package on a path makes of itself, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "ml_platform.cli.main", "databricks", "wheel", "--to", folder],
        check=True,
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(python_path), **environment},
        stdout=subprocess.DEVNULL,
    )
    (made,) = folder.iterdir()
    return made.read_bytes()


@pytest.mark.slow
def test_two_builds_are_the_same_bytes_from_a_checkout_and_from_what_was_installed(
    wheel: Wheel, tmp_path: Path
) -> None:
    again = built_by(CHECKOUT, tmp_path / "again", TZ="Asia/Tokyo", PYTHONHASHSEED="7", LC_ALL="C")
    assert again == wheel.content
    installed = tmp_path / "installed"
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--offline"),
            *("--python", sys.executable, "--target", installed, tmp_path / "again" / wheel.name),
        ],
        check=True,
    )
    assert built_by(installed, tmp_path / "from_installed") == wheel.content


def test_other_code_is_another_version_at_another_path(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    files = dict(wheels._package_files(PACKAGE))
    files["ml_platform/engine/databricks/entry.py"] += b"# changed\n"
    monkeypatch.setattr(wheels, "_package_files", lambda _: files.items())
    other = build_wheel()
    assert other.path != wheel.path
    assert other.name != wheel.name
    assert wheel.path == f"wheels/{wheel.release}-{wheel.digest}/{wheel.name}"


def test_it_holds_every_file_of_the_package_and_no_other(wheel: Wheel) -> None:
    kept = {name for name in contents(wheel) if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "ml_platform"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert kept == set(listed.stdout.split())


def test_it_is_installed_with_its_entry_point(wheel: Wheel, tmp_path: Path) -> None:
    (tmp_path / wheel.name).write_bytes(wheel.content)
    with zipfile.ZipFile(tmp_path / wheel.name) as archive:
        archive.extractall(tmp_path)
    (found,) = metadata.distributions(name=DISTRIBUTION, path=[str(tmp_path)])
    assert found.version == f"{wheel.release}+{wheel.digest}"
    points = {point.name: point.value for point in found.entry_points}
    assert points == {"ml-platform-step": "ml_platform.engine.databricks.entry:main"}
    for file in found.files or []:
        if file.hash is not None:
            assert file.size == len(Path(str(file.locate())).read_bytes())


def test_it_is_uploaded_once(wheel: Wheel, workspace: FakeWorkspace) -> None:
    client = Workspace(60, clock=QuickClock())
    path, first = upload(client, VOLUME, wheel)
    assert upload(client, VOLUME, wheel) == (path, False)
    assert first
    assert workspace.path(path).read_bytes() == wheel.content
    assert len(workspace.asked("PUT", ".whl")) == 1


def test_the_command_uploads(workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_DATABRICKS_VOLUME", VOLUME)
    told = [CliRunner().invoke(app, ["databricks", "upload"]).output.strip() for _ in range(2)]
    assert told[0].endswith("is uploaded")
    assert told[1].endswith("is there already")
    assert told[0].startswith(f"{VOLUME}/wheels/")


def test_the_command_says_in_a_line_what_is_wrong(
    workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ML_PLATFORM_DATABRICKS_VOLUME" in CliRunner().invoke(app, ["databricks", "upload"]).output
    monkeypatch.setenv("ML_PLATFORM_DATABRICKS_VOLUME", VOLUME)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-wrong")
    result = CliRunner().invoke(app, ["databricks", "upload"])
    assert result.exit_code == 1
    assert "does not allow it: PermissionDenied" in result.output
    assert "dapi-wrong" not in result.output


def test_a_package_that_was_never_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(PermanentError, match="make setup"):
        build_wheel()
