"""What Spark's JVM and Ivy print by themselves: in a file, where a terminal is for people.

Not what the platform says, and nothing of Python's logging; a process that sets no file leaves the JVM the
streams it has, as a run of Dagster does, whose page shows them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAME = "spark.log"
#: A file that is longer is put aside when the next JVM starts; one is kept.
_MAXIMUM_BYTES = 5 << 20
_file: Path | None = None


def write_to(path: Path | None) -> None:
    """Name the file for the JVMs that this process starts from now on."""
    global _file
    _file = path


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While this is open, a JVM that PySpark starts writes to the file that was named, if any.

    The JVM keeps the file for as long as it lives, and so do the Python workers it starts.
    """
    from pyspark.core import context

    try:
        file = None if _file is None else _opened(_file)
    except OSError:
        file = None  # no reason to do no work
    if file is None:
        yield
        return
    before = context.launch_gateway
    streams = {"stdout": file, "stderr": subprocess.STDOUT}
    try:
        context.launch_gateway = functools.partial(before, popen_kwargs=streams)
        yield
    finally:
        context.launch_gateway = before
        os.close(file)


def _opened(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _MAXIMUM_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
