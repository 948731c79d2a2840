"""The servers of Dagster, MLflow and the reports for a person here, started and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ml_platform.cli.mlflow_server import APP_NAME
from ml_platform.engine.report_targets import report_base
from ml_platform.settings import LOCAL_REPORTS, Settings

HOST = "127.0.0.1"
_PATIENCE = 15.0

#: Of `dagster dev`, which names another tool, and of MLflow's web server: nothing of ours.
_IGNORED_WARNINGS = "ignore::FutureWarning:click.core,ignore::UserWarning:mlflow.server.fastapi_app"

#: What people call the servers that are modules.
_NAMES = {"ml_platform.graph.webserver": "dagster", "ml_platform.cli.report_server": "the server of reports"}


class ServerError(Exception):
    """A server couldn't start, or ended by itself; the message says which, and what to do."""


def serve(settings: Settings, port: int, mlflow_port: int, reports_port: int) -> None:
    """Run the servers on loopback until this process is interrupted, or its terminal is closed.

    Each server is the head of a process group, so that none of the processes it started outlives it.

    Raises:
        ServerError: a server ended by itself; the others are stopped then.
    """
    from ml_platform.graph import timeline

    links = {} if "dagster_ui_url" in settings.model_fields_set else {"DAGSTER_UI_URL": port}
    links |= {} if settings.reports_url else {"REPORTS_URL": reports_port}
    if report_base(settings) != LOCAL_REPORTS:
        links.pop("REPORTS_URL", None)  # the reports are read where they lie
    environment = os.environ | {
        "ML_PLATFORM_MLFLOW_UI_URL": f"http://{HOST}:{mlflow_port}",
        **{f"ML_PLATFORM_{name}": f"http://{HOST}:{number}" for name, number in links.items()},
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Not as options: every user of the machine can read a command line.
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_STORE_URI": settings.registry_uri,
        # A person looks at runs: no queue of jobs, which would be seven more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), _IGNORED_WARNINGS])),
    }
    # Of a checkout; an installed package has none.
    modules = ["-m", timeline.MODULE, "-m", "ml_platform.graph.contract_errors"]
    locations = ["-w", str(timeline.WORKSPACE)] if timeline.WORKSPACE.exists() else modules
    commands = [
        ["python", "-m", "ml_platform.graph.webserver", "dev", "-h", HOST, "-p", str(port), *locations],
        [
            *("mlflow", "server", "--app-name", APP_NAME),
            # Of several workers a busy machine kills those that don't answer within five seconds.
            *("--host", HOST, "--port", str(mlflow_port), "--workers", "1"),
        ],
        ["python", "-m", "ml_platform.cli.report_server", str(reports_port)],
    ]
    folder = Path(sys.executable).parent
    servers: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        for command in commands:
            program = sys.executable if command[0] == "python" else str(folder / command[0])
            words = [program, *command[1:]]
            servers.append(subprocess.Popen(words, env=environment, start_new_session=True))  # noqa: S603
        while True:
            for command, server in zip(commands, servers, strict=True):
                if server.poll() is not None:
                    name = _NAMES.get(command[2], command[0])
                    raise ServerError(f"{name} has ended by itself; what it said last is above")
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        _stop(servers)


def require_free(port: int, option: str) -> None:
    """Make sure that nothing listens on a port yet.

    Raises:
        ServerError: something does.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"port {port} is in use, perhaps by another `ml-platform ui`; choose another with {option}"
            ) from error


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _stop(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every process of the groups to end, and end those that don't; a second Ctrl-C doesn't wait."""
    with contextlib.suppress(KeyboardInterrupt):
        for server in servers:
            _signal_group(server, signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE
        for server in servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=max(deadline - time.monotonic(), 0.1))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for server in servers:
        _signal_group(server, signal.SIGKILL)
        server.wait()


def _signal_group(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, number)
