"""A checkout that is copied or moved with its environment runs its own code after ``make setup``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from ml_platform.settings import PACKAGE

CHECKOUT = PACKAGE.parent

#: In place of the downloads: what the environment gets is installed by the test.
UV = """#!/bin/sh
case "$*" in *" sync "*) exit 0 ;; esac
exec {uv} --offline "$@"
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "ml-platform"
version = "1"
[project.scripts]
ml-platform = "ml_platform:main"
[tool.setuptools]
packages = ["ml_platform"]
"""


def say(checkout: Path, word: str) -> None:
    (checkout / "ml_platform" / "__init__.py").write_text(f"def main():\n    print({word!r})\n")


def run(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a checkout from elsewhere, without the path that these tests may run with."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [checkout / command],
        env=environment | {"PYTHON": sys.executable},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def setup(checkout: Path) -> str:
    done = run(checkout, "scripts/setup.sh")
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(checkout: Path) -> str:
    done = run(checkout, ".venv/bin/ml-platform")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the real scripts, a package of one line, and an environment that was set up."""
    place = tmp_path_factory.mktemp("checkouts") / "first"
    (place / "ml_platform").mkdir(parents=True)
    (place / "scripts").mkdir()
    for name in ("setup.sh", "relocate.py"):
        shutil.copy(CHECKOUT / "scripts" / name, place / "scripts" / name)
    (place / "pyproject.toml").write_text(PROJECT)
    (place / "setup.cfg").write_text("")
    (place / "requirements.lock").write_text("")
    say(place, "first")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)
    packages = place / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (packages / "pip.py").write_text("")
    here = Path(setuptools.__file__).parents[1]
    for found in (here / "setuptools", here / "_distutils_hack", *here.glob("setuptools-*.dist-info")):
        (packages / found.name).symlink_to(found)
    uv = place / ".venv" / "bin" / "uv"
    uv.write_text(UV.format(uv=Path(sys.executable).parent / "uv"))
    uv.chmod(0o755)
    assert "Creating the environment" in setup(place)
    assert setup(place) == "", "a second time there is nothing to do"
    assert said(place) == "first"
    return place


@pytest.mark.parametrize("name", ["first2", f"with a space {'a' * 110}"])
def test_a_copied_checkout_runs_its_own_code_and_leaves_the_other_one_alone(
    checkout: Path, name: str
) -> None:
    copy = checkout.with_name(name)
    shutil.copytree(checkout, copy, symlinks=True)
    say(copy, name)
    # The fault: the scripts of the copy start the interpreter of the first checkout, with its code.
    assert said(copy) == "first"
    assert "moved or copied" in setup(copy)
    assert (said(copy), said(checkout)) == (name, "first")
    assert (setup(copy), setup(checkout)) == ("", "")


def test_an_environment_that_is_linked_from_another_checkout_is_refused(checkout: Path) -> None:
    linked = checkout.with_name("linked")
    shutil.copytree(checkout, linked, ignore=shutil.ignore_patterns(".venv"))
    (linked / ".venv").symlink_to(checkout / ".venv")
    done = run(linked, "scripts/setup.sh")
    assert done.returncode == 1
    assert "is a link to the environment of another checkout" in done.stderr
    assert said(checkout) == "first"


def test_a_moved_checkout_runs_although_the_old_place_is_gone(checkout: Path) -> None:
    # The last test, as it takes the checkout away from the others.
    moved = checkout.rename(checkout.with_name("moved"))
    assert "moved or copied" in setup(moved)
    assert said(moved) == "first"
    assert setup(moved) == ""
