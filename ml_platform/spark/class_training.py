"""Makes the archive of the classes that Spark's JVM loads (:mod:`.class_archive`), with its own session."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.settings import Settings
from ml_platform.spark import class_archive
from ml_platform.spark.session import check_downloaded, prepare_environment, spark_conf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: Seconds that a JVM may take to end, with the archive to be written.
_END_SECONDS = 300
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"


class ArchiveError(Exception):
    """The archive couldn't be made; the message says why."""


def make(settings: Settings, cache: Path) -> Path:
    """Make the archive, from the classes that a session loads for little work; it takes a minute.

    Returns:
        Where it is.

    Raises:
        ArchiveError: there is no Java, or its JVM made none that it can read.
    """
    known, java = class_archive.key(), class_archive.java()
    if known is None or java is None:
        raise ArchiveError("no Java was found: install Java 17, or point JAVA_HOME at one")
    cache.mkdir(parents=True, exist_ok=True)
    # Written under another name, since a session would take one that is not whole.
    unfinished = cache / f"classes-{os.getpid()}.unfinished"
    try:
        with tempfile.TemporaryDirectory(prefix="ml_platform_") as folder:
            _run(
                [sys.executable, "-m", __name__, str(unfinished), folder, str(cache)],
                ML_PLATFORM_SPARK_DRIVER_MEMORY=settings.spark_driver_memory,
            )
        if not unfinished.exists():
            raise ArchiveError("Spark's JVM ended without writing an archive")
        options = shlex.split(class_archive.reading(unfinished))
        _run([str(java), *options, "-cp", f"{class_archive.jars()}/*", "-version"])
        path = cache / class_archive.name_of(known, unfinished.stat().st_size)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    for other in cache.glob("classes-*.jsa"):  # of a Java or a Spark that is gone
        if other != path:
            other.unlink(missing_ok=True)
    return path


def _run(words: list[str], **environment: str) -> None:
    done = subprocess.run(  # noqa: S603 - this interpreter, or the Java of Spark
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ArchiveError(f"Spark's JVM made no archive: {said[-1] if said else 'it says nothing'}")


def _train(unfinished: Path, folder: Path, cache: Path) -> None:
    """Start a session that writes its classes as it ends, and have it do a little of everything."""
    from pyspark.sql import SparkSession

    settings = Settings(home=folder, spark_conf={"spark.jars.ivy": str(cache)})
    prepare_environment()
    conf = spark_conf(settings, length="brief")
    # One that is there may be that of another Java.
    java = conf[_JAVA_OPTIONS].removesuffix(class_archive.options(cache))
    writing = class_archive.option("ArchiveClassesAtExit", unfinished)
    conf[_JAVA_OPTIONS] = f"{java} {writing} {class_archive.QUIET}"
    session = SparkSession.builder.config(map=conf).getOrCreate()
    check_downloaded(settings, session)
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
    sys.exit(process.wait(_END_SECONDS))


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
    one = "day = '2024-01-01'"
    rows.where(one).write.format("delta").mode("overwrite").option("replaceWhere", one).save(table)
    held = session.read.format("delta").load(table)
    held.mapInArrow(same, held.schema).where("n > 1").toArrow()
    held.groupBy("day").agg({"n": "sum", "x": "max"}).join(held, "day").orderBy("key").toArrow()
    session.sql(f"DESCRIBE HISTORY delta.`{table}`").collect()


if __name__ == "__main__":
    _train(*(Path(word) for word in sys.argv[1:]))
