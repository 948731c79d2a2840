"""The classes that Spark's JVM has loaded, kept in a file that its later starts map into their memory.

A session loads some twenty thousand classes before and while it does its first work; parsing and verifying
them is most of what its start costs. The JVM can write them to an archive as it ends, and read them from
there (application class-data sharing, JEP 310 and JEP 350; :mod:`.class_training`). It looks itself whether
an archive fits: one of another Java, or of other jars, is left unused without a word.

The file lies beside Delta's jars, has some 200 MB, and is shared by all sessions of the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import stat
from pathlib import Path

#: Raised when what a training session does changes, so that archives are made anew.
_TRAINING = 1
#: Neither what an archive lacks nor that it doesn't fit is of interest to whoever starts a session.
QUIET = "-Xlog:cds*=off -Xlog:class+path*=off"
#: What others may do with a file whose code is run.
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def java() -> Path | None:
    """The program that starts Spark's JVM; None if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = Path(home, "bin", "java") if home else Path(shutil.which("java") or "")
    return found.resolve() if found.is_file() else None


def key() -> str | None:
    """What tells the archive of this Java and this Spark from those of others; None without a Java."""
    program, jars = java(), _jars()
    if program is None or jars is None:
        return None
    facts = [str(_TRAINING), str(program), str(jars)]
    for part in (program.parents[1] / "lib" / "server" / "libjvm.so", program.parents[1] / "release"):
        with contextlib.suppress(OSError):
            facts.append(f"{part.stat().st_size} {part.stat().st_mtime_ns}")
    # Spark's jars, whose times the JVM compares as well.
    with contextlib.suppress(OSError):
        facts.append(str(jars.stat().st_mtime_ns))
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:16]


def _jars() -> Path | None:
    """The folder with Spark's jars; None if Spark isn't installed."""
    spark = importlib.util.find_spec("pyspark")
    return Path(spark.origin).with_name("jars") if spark is not None and spark.origin is not None else None


def folder_in(cache: Path) -> Path:
    """Where archives lie: in a folder of their own, as that of the jars may be one that others write to."""
    return cache / "classes"


def name_of(key: str, size: int) -> str:
    """An archive's name, which says how many bytes it has: over one that was cut off the JVM crashes."""
    return f"{key}-{size}.jsa"


def found(cache: Path) -> Path | None:
    """The archive of this Java and this Spark, if it has been made, is whole, and nobody else could write it.

    Args:
        cache: the folder with Delta's jars.
    """
    known = key()
    # The JVM takes what follows a colon for a second archive.
    if known is None or ":" in str(cache):
        return None
    folder = folder_in(cache)
    for path in sorted(folder.glob(f"{known}-*.jsa")):
        with contextlib.suppress(OSError):
            if path.name == name_of(known, path.stat().st_size) and _is_ours(folder) and _is_ours(path):
                return path
    return None


def _is_ours(path: Path) -> bool:
    """Whether a file or a folder is the user's or root's, and not to be written by others."""
    found = path.stat()
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & _WRITABLE_BY_OTHERS


def options(cache: Path) -> str:
    """The JVM's options for its archive, to be added to others; none if there is none."""
    path = found(cache)
    return reading(path) if path is not None else ""


def reading(path: Path) -> str:
    """The options for one archive: it is left unused unless its checksums hold."""
    return f"{option('SharedArchiveFile', path)} -XX:+VerifySharedSpaces {QUIET}"


def option(name: str, path: Path) -> str:
    """An option of the JVM as Spark's launcher divides them: at blanks that aren't in quotes."""
    text = f"-XX:{name}={path}".replace("\\", r"\\").replace('"', r"\"")
    return f'"{text}"'
