"""The Spark session of a step: the cluster's own, the embedded one, or one on a standalone cluster.

The embedded one gets Delta Lake from Maven Central on its first start, and is sized to a small machine. On
a standalone cluster (``spark://host:port``) the driver stays in this process, executors are given where to
reach it and which code to run, and what was sized to this machine is left to Spark.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import socket
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from ml_platform.contract.faults import EndsTheRunError
from ml_platform.settings import PACKAGE, SECRET_NAMES, Settings
from ml_platform.spark import class_archive

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DELTA = "io.delta:delta-spark_4.1_2.13:4.4.0"
#: Delta's jars with the SHA-256 of what Maven Central has; whoever raises the version writes them anew.
_JARS = {
    "delta-spark_4.1_2.13": "75a9400986853c061f5109f012547de2545a5759e5e752e5ef633dabe16a4f10",
    "delta-storage": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
    "delta-kernel-api": "ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11",
    "delta-kernel-defaults": "225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b",
}
_SUBMIT = "PYSPARK_SUBMIT_ARGS"
_LOGGING = Path(__file__).with_name("log4j2.properties")

#: Delta's dependencies that Spark ships already; resolving them again fails on a half-filled Maven cache.
_SHIPPED_WITH_SPARK = (
    "org.slf4j:*",
    "org.apache.logging.log4j:*",
    "com.google.code.findbugs:*",
    "org.apache.hadoop:*",
    "org.apache.parquet:*",
    "com.fasterxml.jackson.core:*",
    "com.fasterxml.jackson.datatype:*",
    "org.roaringbitmap:*",
    "javax.annotation:*",
    "org.locationtech.jts:*",
    "org.xerial.snappy:*",
    "io.airlift:*",
    "commons-pool:*",
    "com.github.luben:*",
    "commons-logging:*",
    "io.unitycatalog:*",
    "io.delta:delta-kernel-unitycatalog",
)


Length = Literal["brief", "short", "long"]


class JarError(Exception):
    """A jar of Delta is not the one that was published; it must not be used."""


class UnknownCatalogError(EndsTheRunError):
    """The tables are in a catalog that no session of this machine knows."""


def _require_catalog(settings: Settings) -> None:
    """See that a session of open-source Spark can know the catalog of the tables.

    Raises:
        UnknownCatalogError: it can't; says what to set.
    """
    place = settings.tables_root
    catalog = place.removeprefix("uc:").partition(".")[0]
    key = f"spark.sql.catalog.{catalog}"
    if place.startswith("uc:") and catalog != "spark_catalog" and key not in settings.spark_options:
        raise UnknownCatalogError(
            f"ML_PLATFORM_TABLES is {place}, and the Spark of `engine: local` doesn't know the catalog "
            f"{catalog}: let the contract or ML_PLATFORM_ENGINE say databricks, keep the tables in a folder "
            f"or an object store, or name the catalog's implementation in ML_PLATFORM_SPARK_CONF ({key})"
        )


def spark_conf(settings: Settings, *, length: Length = "long") -> dict[str, str]:
    """The configuration of the session; ``settings.spark_options`` has the last word.

    Args:
        length: of the work it is for. An embedded session leaves out what only pays off later: one for
            ``short`` work the second compiler of the JVM, which takes the processors from the tasks for
            half a minute, and collecting garbage in threads beside them; one for ``brief`` work, few
            small days, Spark's generated code as well.

    Raises:
        JarError: a jar in the cache is not the one that was published.
        UnknownCatalogError: the tables are in a catalog that the session wouldn't know.
    """
    _require_catalog(settings)
    embedded = settings.spark_master.startswith("local")
    java = f"-Dlog4j2.configurationFile={_LOGGING.as_uri()}"
    if embedded and length != "long":
        java += f" {JVM_FOR_LITTLE_WORK}"
    if embedded and (archive := class_archive.options(jar_cache(settings))):
        java += f" {archive}"
    return {
        "spark.master": settings.spark_master,
        "spark.app.name": "ml_platform",
        **_delta_jars(jar_cache(settings)),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.databricks.delta.vacuum.logging.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
        **_MICROSECONDS,
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.driver.memory": settings.spark_driver_memory,
        "spark.driver.extraJavaOptions": java,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": str(settings.home / "spark-warehouse"),
        **(_embedded() if embedded else _on_cluster(settings)),
        **(_WITHOUT_GENERATED_CODE if embedded and length == "brief" else {}),
        **settings.spark_options,
    }


#: One compiler, and the collector of one thread, which the JVM takes where it isn't to act as on a server. A
#: collector that the user's own options name stays: beside a second one no JVM starts.
JVM_FOR_LITTLE_WORK = "-XX:TieredStopAtLevel=1 -XX:+NeverActAsServerClassMachine"

#: Spark's own default are the 96 bits of old Parquet, which other readers take for nanoseconds: to 2262 only.
_MICROSECONDS = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}

_WITHOUT_GENERATED_CODE = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def _embedded() -> dict[str, str]:
    """Nothing outside this machine takes part."""
    partitions = str(2 * (os.cpu_count() or 2))
    return {
        "spark.sql.shuffle.partitions": partitions,
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": partitions,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }


def _on_cluster(settings: Settings) -> dict[str, str]:
    """Executors call back to the driver, and must run the driver's code, not what they have installed."""
    address = _address_towards(settings.spark_master)
    return {
        "spark.driver.host": address,
        "spark.driver.bindAddress": address,
        "spark.submit.pyFiles": str(_packed_code(settings.home / "code")),
    }


def _address_towards(master: str) -> str:
    """The address of this machine that the machine of the master sees."""
    first = urlsplit(master.partition(",")[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        probe.connect((first.hostname or "127.0.0.1", first.port or 7077))
        return str(probe.getsockname()[0])


def _packed_code(folder: Path) -> Path:
    """The package as a file that Spark sends to the executors, named by its content.

    An executor that had another version installed would compute something else without a word.
    """
    sources = {path.relative_to(PACKAGE.parent): path.read_bytes() for path in PACKAGE.rglob("*.py")}
    content = hashlib.sha256(b"".join(str(path).encode() + sources[path] for path in sorted(sources)))
    packed = folder / f"ml_platform-{content.hexdigest()[:16]}.zip"
    if not packed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = packed.with_suffix(f".{os.getpid()}")
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(sources):
                file.writestr(zipfile.ZipInfo(str(path)), sources[path])
        unfinished.replace(packed)
    return packed


def jar_cache(settings: Settings) -> Path:
    """The folder with what sessions of this machine share: Delta's jars, and the classes of the JVM."""
    return Path(settings.spark_options.get("spark.jars.ivy", settings.ivy_cache))


def _jars(cache: Path) -> dict[Path, str]:
    """Delta's jars in the cache, each with the SHA-256 that it must have."""
    version = DELTA.rpartition(":")[2]
    return {cache / "jars" / f"io.delta_{name}-{version}.jar": expected for name, expected in _JARS.items()}


def check_jars(cache: Path) -> None:
    """See that the jars in the cache are those that were published; ones that are missing don't matter.

    Raises:
        JarError: one is not.
    """
    for jar, expected in _jars(cache).items():
        if not jar.exists():
            continue
        with jar.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise JarError(
                f"{jar} is not the jar that Delta has published: its SHA-256 is {found}, expected is "
                f"{expected}. It was damaged or tampered with, and is not used. Delete the folder {cache}; "
                "the next start gets it again"
            )


def _delta_jars(cache: Path) -> dict[str, str]:
    """Delta's jars: those of the cache, or on the very first start from Maven Central into it."""
    jars = _jars(cache)
    check_jars(cache)
    if all(jar.exists() for jar in jars):
        return {"spark.jars": ",".join(str(jar) for jar in jars)}
    return {
        "spark.jars.packages": DELTA,
        "spark.jars.excludes": ",".join(_SHIPPED_WITH_SPARK),
        "spark.jars.ivy": str(cache),
    }


#: What results depend on, and a cluster may have otherwise.
_SEMANTICS = {"spark.sql.session.timeZone": "UTC", "spark.sql.ansi.enabled": "true"}


def session_here(settings: Settings) -> SparkSession:
    """The session of the process: Databricks' on its compute, one that is active, or the embedded one."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is None and "DATABRICKS_RUNTIME_VERSION" in os.environ:
        session = SparkSession.builder.getOrCreate()
    if session is not None:
        for name, value in _SEMANTICS.items():
            session.conf.set(name, value)
        write_microseconds(session)
        return session
    prepare_environment()
    with secrets_apart(spark_conf(settings)) as configuration:
        session = SparkSession.builder.config(map=dict(configuration)).getOrCreate()
    check_downloaded(settings, session)
    return session


def check_downloaded(settings: Settings, session: SparkSession) -> None:
    """See that what a session has downloaded is what was published, before it is given anything to do.

    Raises:
        JarError: it is not; the session is stopped.
    """
    try:
        check_jars(jar_cache(settings))
    except JarError:
        session.stop()
        raise


@contextlib.contextmanager
def secrets_apart(configuration: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Give a new JVM the secrets of a configuration in a file for its user alone; yields what is left of it.

    PySpark puts every setting on the JVM's command line, which all users of the machine can read. The JVM has
    read the file when its session is there.
    """
    secret = {name: value for name, value in configuration.items() if SECRET_NAMES.search(name)}
    rest = {name: value for name, value in configuration.items() if name not in secret}
    rest.setdefault("spark.redaction.regex", SECRET_NAMES.pattern)
    from pyspark import SparkContext

    if not secret or SparkContext._gateway is not None:  # a JVM that runs already gets no command line
        yield {**rest, **secret}
        return
    before = os.environ.get(_SUBMIT)
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:  # of mode 0600
        file.writelines(f"{_escaped(name)}={_escaped(value)}\n" for name, value in secret.items())
        file.flush()
        os.environ[_SUBMIT] = f"--properties-file {shlex.quote(file.name)} {before or 'pyspark-shell'}"
        try:
            yield rest
        finally:
            if before is None:
                del os.environ[_SUBMIT]
            else:
                os.environ[_SUBMIT] = before


def _escaped(text: str) -> str:
    """A text as files of Java's properties have it."""
    units = memoryview(text.encode("utf-16")[2:]).cast("H")
    return "".join(f"\\u{unit:04x}" for unit in units)


def write_microseconds(session: SparkSession) -> None:
    """Have a session write timestamps that every reader opens, where it lets itself be told that.

    Serverless compute takes few settings, and refuses this one.
    """
    for name, value in _MICROSECONDS.items():
        with contextlib.suppress(Exception):
            session.conf.set(name, value)


def prepare_environment() -> None:
    """Make Spark's Python workers this interpreter, and keep the JVM's start-up quiet.

    On a cluster the interpreter must be at the same path on every machine, with the environment of
    ``requirements.lock``; ``PYSPARK_PYTHON`` names another one.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
