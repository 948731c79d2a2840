"""A real standalone Spark cluster on loopback, from the pyspark wheel: one master and its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyspark

from ml_platform.spark.session import JVM_FOR_LITTLE_WORK

SPARK_HOME = Path(pyspark.__file__).parent
LOOPBACK = "127.0.0.1"
SECONDS_TO_START = 120
SECONDS_TO_NOTICE = 60


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs. ``folder`` holds the logs of master, workers and executors."""

    url: str
    state_url: str
    folder: Path

    def state(self) -> dict[str, Any]:
        """What the master says of its workers and applications."""
        with urlopen(self.state_url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def applications(self) -> list[dict[str, Any]]:
        """The applications that ended, once the master has noticed that all have."""
        deadline = time.monotonic() + SECONDS_TO_NOTICE
        while (state := self.state())["activeapps"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"an application still runs; see the logs in {self.folder}")
            time.sleep(0.1)
        ended: list[dict[str, Any]] = state["completedapps"]
        return ended

    def executors(self) -> list[Path]:
        """The folders of all executors that ran, each below its worker's."""
        return sorted(self.folder.glob("worker-*/app-*/*"))


@contextlib.contextmanager
def standalone_cluster(folder: Path, *, workers: int) -> Iterator[Cluster]:
    """A master with workers of one core and 1 GB each; all are stopped at the end, whatever happens."""
    port, ui_port = _free_port(), _free_port()
    url = f"spark://{LOOPBACK}:{port}"
    cluster = Cluster(url, f"http://{LOOPBACK}:{ui_port}/json/", folder)
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        words = ["--host", LOOPBACK, "--port", str(port), "--webui-port", str(ui_port)]
        master = stack.enter_context(_daemon(folder, "master", "master.Master", *words))
        _wait_for_workers(cluster, 0, [master])
        processes = [master]
        for number in range(workers):
            words = ["--host", LOOPBACK, "--port", "0", "--webui-port", "0", "--cores", "1", "--memory", "1g"]
            words += ["--work-dir", str(folder / f"worker-{number}"), url]
            processes.append(
                stack.enter_context(_daemon(folder, f"worker-{number}", "worker.Worker", *words))
            )
        _wait_for_workers(cluster, workers, processes)
        yield cluster


@contextlib.contextmanager
def _daemon(folder: Path, name: str, class_: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """One JVM of the cluster in a process group of its own, so that its executors end with it."""
    environment = os.environ | {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": LOOPBACK,
        "SPARK_DAEMON_MEMORY": "256m",
        "JAVA_TOOL_OPTIONS": JVM_FOR_LITTLE_WORK,
    }
    command = [str(SPARK_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{class_}", *words]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_workers(cluster: Cluster, count: int, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), f"see the logs in {cluster.folder}"
        with contextlib.suppress(OSError):
            if cluster.state()["aliveworkers"] == count:
                return
        time.sleep(0.1)
    raise TimeoutError(f"the cluster has no {count} workers; see the logs in {cluster.folder}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port: int = free.getsockname()[1]
    return port
