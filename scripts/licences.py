"""Writes docs/licences.md: the licence of every package of the lock file, as its own metadata names it.

Run it after the lock file has changed: .venv/bin/python scripts/licences.py
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, files, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, DOCUMENT = ROOT / "requirements.lock", ROOT / "docs" / "licences.md"

HEAD = """\
# Licences

What `requirements.lock` installs, each with the licence that its own metadata names; written by
`.venv/bin/python scripts/licences.py` after `make lock`. Delta Lake's jars are under Apache-2.0, those that
come with Spark under the licences in its package. What only other systems install can't be asked here.

| package | licence |
|---|---|
"""
ELSEWHERE = "(installed on other systems only)"
#: Where metadata holds the licence's text, its first line names it.
LONGEST = 80


def packages(lock: str) -> list[str]:
    """The names of the packages of a lock file, in its order; one that has several versions, once."""
    return list(dict.fromkeys(re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", lock, flags=re.MULTILINE)))


def licence(package: str) -> str:
    """The licence that an installed package's metadata names."""
    try:
        facts = metadata(package)
    except PackageNotFoundError:
        return ELSEWHERE
    if expression := facts.get("License-Expression"):
        return expression
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in facts.get_all("Classifier") or ()
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    if classifiers:
        return ", ".join(dict.fromkeys(classifiers))
    named = facts.get("License") or ""
    text = named if named not in ("", "UNKNOWN") else _licence_file(package)
    if "Permission is hereby granted, free of charge" in text:
        return "MIT"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:LONGEST] if lines else "not named"


def _licence_file(package: str) -> str:
    """The text of the licence file that came with a package; nothing without one."""
    for path in files(package) or ():
        if path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            return path.read_text()
    return ""


def document(lock: str) -> str:
    """The whole document."""
    lines = [f"| {name} | {licence(name).replace('|', '/')} |" for name in packages(lock)]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(LOCK.read_text()))
