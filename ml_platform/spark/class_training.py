"""Makes the archive of the classes that Spark's JVM loads (:mod:`.class_archive`), with its own session."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.settings import Settings
from ml_platform.spark import class_archive
from ml_platform.spark.session import check_downloaded, prepare_environment, spark_conf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: Seconds that a session may take, with the archive to be written at its end.
_SECONDS = 900
#: Archives that a folder keeps, of so many Javas, versions of Spark and checkouts.
_KEPT = 3
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"


class ArchiveError(Exception):
    """The archive couldn't be made; the message says why."""


def make(settings: Settings, cache: Path) -> Path:
    """Make the archive, from the classes that a session loads for little work; it takes a minute.

    Returns:
        Where it is.

    Raises:
        ArchiveError: there is no Java, its JVM made none that it starts with, or the folder can't be used.
    """
    known = class_archive.key()
    if known is None:
        raise ArchiveError("no Java was found: install Java 17, or point JAVA_HOME at one")
    if ":" in str(cache):
        raise ArchiveError(f"{cache}: the JVM takes no archive from a path with a colon")
    # Written under another name, since a session would take one that is not whole.
    kept = class_archive.folder_in(cache)
    unfinished = kept / f"{os.getpid()}.unfinished"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        kept.chmod(0o755)
        with tempfile.TemporaryDirectory(prefix="ml_platform_") as folder:
            for what in ("write", "read"):  # it must be one that a session starts with
                _run(
                    [sys.executable, "-m", __name__, what, str(unfinished), folder, str(cache)],
                    ML_PLATFORM_SPARK_DRIVER_MEMORY=settings.spark_driver_memory,
                )
        unfinished.chmod(0o644)
        path = kept / class_archive.name_of(known, unfinished.stat().st_size)
        unfinished.replace(path)
        _tidy(path)
    except OSError as error:
        raise ArchiveError(f"{cache} can't be used: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return path


def _run(words: list[str], **environment: str) -> None:
    try:
        # Settings of a platform, as where its tables are, would be those of the session as well.
        others = {name: value for name, value in os.environ.items() if not name.startswith("ML_PLATFORM_")}
        done = subprocess.run(  # noqa: S603 - this interpreter
            words,
            env={**others, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ArchiveError(f"Spark's JVM made no archive in {_SECONDS} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ArchiveError(f"Spark's JVM made no archive: {said[-1] if said else 'it says nothing'}")


def _tidy(made: Path) -> None:
    """Keep the newest archives: others are of a Java, a Spark or a checkout that is gone, or unfinished."""
    with contextlib.suppress(OSError):
        others = [path for path in made.parent.glob("*.jsa") if path != made]
        for path in sorted(others, key=lambda archive: archive.stat().st_mtime)[: -(_KEPT - 1)]:
            path.unlink(missing_ok=True)
        for path in made.parent.glob("*.unfinished"):
            if time.time() - path.stat().st_mtime > _SECONDS:
                path.unlink(missing_ok=True)


def _train(what: str, archive: Path, folder: Path, cache: Path) -> None:
    """Start a session that writes its classes as it ends, or one that reads them; each works a little."""
    from pyspark.sql import SparkSession

    settings = Settings(home=folder, spark_master="local[2]", spark_conf={"spark.jars.ivy": str(cache)})
    prepare_environment()
    conf = spark_conf(settings, length="brief")
    # One that is there may be that of another Java.
    java = conf[_JAVA_OPTIONS].removesuffix(class_archive.options(cache))
    writing = f"{class_archive.option('ArchiveClassesAtExit', archive)} {class_archive.QUIET}"
    conf[_JAVA_OPTIONS] = f"{java} {writing if what == 'write' else class_archive.reading(archive)}"
    session = SparkSession.builder.config(map=conf).getOrCreate()
    check_downloaded(settings, session)
    if what == "write":
        _work(session, folder)
        # Sessions for longer work have Spark write code, which is other classes.
        session.conf.set("spark.sql.codegen.wholeStage", "true")
        session.conf.set("spark.sql.codegen.factoryMode", "FALLBACK")
    session.range(10).selectExpr("id % 2 AS a").groupBy("a").count().collect()
    gateway = session.sparkContext._gateway
    assert gateway is not None
    session.stop()
    gateway.shutdown()
    process = gateway.proc
    process.stdin.close()
    sys.exit(process.wait(_SECONDS))


def _work(session: SparkSession, folder: Path) -> None:
    """What steps ask of Spark and Delta, on a few rows."""
    import pandas as pd
    import pyarrow as pa

    def same(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches

    days = [pd.Timestamp("2024-01-01").date(), pd.Timestamp("2024-01-02").date()]
    frame = pd.DataFrame({"day": days * 2, "key": ["a", "b", "c", "d"], "n": [1, 2, 3, 4], "x": [0.5] * 4})
    rows = session.createDataFrame(pa.Table.from_pandas(frame, preserve_index=False))
    table = f"{folder}/table"
    rows.write.format("delta").partitionBy("day").save(table)
    condition = "day = '2024-01-01'"
    replaced = rows.where(condition).write.format("delta").mode("overwrite")
    replaced.option("replaceWhere", condition).save(table)
    held = session.read.format("delta").load(table)
    held.mapInArrow(same, held.schema).where("n > 1").toArrow()
    held.groupBy("day").agg({"n": "sum", "x": "max"}).join(held, "day").orderBy("key").toArrow()
    session.sql(f"DESCRIBE HISTORY delta.`{table}`").collect()


if __name__ == "__main__":
    _train(sys.argv[1], *(Path(word) for word in sys.argv[2:]))
