"""A real Spark Connect server with Delta on loopback, from the pyspark wheel: what serverless compute is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark

from ml_platform.spark.session import spark_conf
from ml_platform_tests.conftest import CHECKOUT, settings_in

SPARK_HOME = Path(pyspark.__file__).parent
LOOPBACK = "127.0.0.1"
SECONDS_TO_START = 120
SECONDS_TO_STOP = 20
_PR_SET_PDEATHSIG = 1
_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"


@contextlib.contextmanager
def spark_connect_server(folder: Path) -> Iterator[str]:
    """A server with an empty warehouse below ``folder``; yields the address for clients.

    It has the jars and the Delta settings of the embedded session, and its Python workers have this
    checkout as those of serverless compute have the wheel. It ends with all its processes.
    """
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    conf = spark_conf(settings_in(folder / "home"), length="brief") | {
        "spark.master": "local[2]",
        "spark.driver.memory": "2g",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.connect.grpc.binding.address": LOOPBACK,
        "spark.connect.grpc.binding.port": str(port),
    }
    words = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    environment = os.environ | {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": LOOPBACK,
        "SPARK_NO_DAEMONIZE": "1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(CHECKOUT),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SPARK_HOME / "bin" / "spark-submit"), "--class", _CLASS, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        _wait_until_listening(process, port, log)
        yield f"sc://{LOOPBACK}:{port}"
    finally:
        _end_group(process)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server has ended: {log.read_text(errors='replace')[-2000:]}"
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"the server doesn't listen; see {log}")


def end_with_parent() -> None:
    """Have Linux end a new process when this one is killed; a server's Python workers end with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_STOP)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port: int = free.getsockname()[1]
    return port
