"""Make an environment work at the place where it lies now, after its checkout was moved or copied.

The scripts of an environment name its interpreter by the full path. `pyvenv.cfg` has the path at which the
environment was made, or was last adjusted.

Run: `python scripts/relocate.py [--check] .venv`; with `--check` it changes nothing, and ends with 1 if the
environment was moved.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

#: Bytes of a script's first line that every kernel reads.
LONGEST_FIRST_LINE = 127
#: The line of `pyvenv.cfg` with the command that made the environment; its last word is the path.
MADE_BY = re.compile(r"^(command = .*? -m venv (?:--?\S+ )*)(.+)$", re.MULTILINE)


def recorded_place(environment: Path) -> str | None:
    """The path at which the environment was made; None if it isn't known."""
    found = MADE_BY.search((environment / "pyvenv.cfg").read_text())
    return found[2] if found else None


def relocate(environment: Path) -> None:
    """Name the present path wherever a script names the one at which the environment was made."""
    old, new = recorded_place(environment), str(environment.resolve())
    if old is None:
        sys.exit(f"{environment.resolve()} doesn't say where it was made: remove it and run this again")
    # A path that merely begins like the old one, such as that of its neighbour .venv2, is another one.
    named = re.compile(rb"(?<![\w./-])" + re.escape(old.encode()) + rb"(?![\w.-])")
    for path in sorted((environment / "bin").iterdir()):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        changed = _fit_for_the_kernel(named.sub(lambda _: new.encode(), content))
        if b"\0" not in content and changed != content:
            _replace(path, changed)
    # Last, so that an interrupted adjustment is done again.
    configuration = environment / "pyvenv.cfg"
    _replace(configuration, MADE_BY.sub(lambda found: found[1] + new, configuration.read_text()).encode())


def _replace(path: Path, content: bytes) -> None:
    """Replace a file as a whole: what is linked to the old one, like a backup, stays as it is."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    shutil.copymode(path, beside)
    beside.replace(path)


def _fit_for_the_kernel(script: bytes) -> bytes:
    """A script whose first line the kernel understands: the shell starts what has spaces or is too long."""
    first, _, rest = script.partition(b"\n")
    interpreter = first.removeprefix(b"#!")
    if first == interpreter or (b" " not in interpreter and len(first) < LONGEST_FIRST_LINE):
        return script
    if not Path(interpreter.decode()).is_absolute() or not Path(interpreter.decode()).exists():
        return script  # the interpreter has arguments
    return b"#!/bin/sh\n'''exec' \"%s\" \"$0\" \"$@\"\n' '''\n%s" % (interpreter, rest)


def main() -> None:
    """Check an environment, or adjust it."""
    *options, place = sys.argv[1:]
    environment = Path(place)
    if options == ["--check"]:
        recorded = recorded_place(environment)
        sys.exit(recorded is not None and Path(recorded).resolve() != environment.resolve())
    relocate(environment)


if __name__ == "__main__":
    main()
