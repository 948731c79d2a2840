"""The document of licences names what the lock file installs, as the packages say it themselves."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "scripts" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_licences_are_those_of_the_packages_of_the_lock_file() -> None:
    licences = script()
    listed = dict(re.findall(r"^\| (\S+) \| (.+) \|$", licences.DOCUMENT.read_text(), flags=re.MULTILINE))
    del listed["package"]
    names = licences.packages(licences.LOCK.read_text())
    assert set(listed) == set(names), "run: .venv/bin/python scripts/licences.py"
    installed = {name: text for name in names if (text := licences.licence(name)) != licences.ELSEWHERE}
    assert {name: listed[name] for name in installed} == installed


def test_a_package_with_several_versions_is_named_once() -> None:
    lock = "a==1 ; x \\\n    --hash=sha256:00\na==2 ; y\nb-c.d==3\n    # via a==9\n"
    assert script().packages(lock) == ["a", "b-c.d"]
