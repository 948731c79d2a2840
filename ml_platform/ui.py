"""Dagster's and MLflow's servers for a person at this machine, started and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_platform.settings import PACKAGE, Settings

HOST = "127.0.0.1"
_PATIENCE = 15.0


def serve(settings: Settings, port: int, mlflow_port: int) -> None:
    """Run both servers on loopback until one ends or this process is interrupted.

    Each server is the head of a process group, so that none of the processes it started outlives it.
    """
    environment = os.environ | {
        "ML_PLATFORM_MLFLOW_UI_URL": f"http://{HOST}:{mlflow_port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Of `dagster dev`, which names another tool, and of MLflow's web server: nothing of ours.
        "PYTHONWARNINGS": "ignore::FutureWarning:click.core,ignore::DeprecationWarning:mlflow.server",
    }
    workspace = PACKAGE.parent / "workspace.yaml"
    commands = [
        ["dagster", "dev", "-h", HOST, "-p", str(port), "-w", str(workspace)],
        [
            *("mlflow", "server", "--backend-store-uri", settings.tracking_uri),
            *("--host", HOST, "--port", str(mlflow_port)),
        ],
    ]
    folder = Path(sys.executable).parent
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            words = [str(folder / command[0]), *command[1:]]
            servers.append(subprocess.Popen(words, env=environment, start_new_session=True))  # noqa: S603
        while all(server.poll() is None for server in servers):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        _stop(servers)


def _stop(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every process of the groups to end, and end those that don't."""
    for server in servers:
        _signal_group(server, signal.SIGINT)
    deadline = time.monotonic() + _PATIENCE
    for server in servers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=max(deadline - time.monotonic(), 0.1))
        _signal_group(server, signal.SIGKILL)
        server.wait()


def _signal_group(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, number)
