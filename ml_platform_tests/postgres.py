"""A PostgreSQL server of the tests' own: on a private port, in a folder of its own, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "features", "correct horse/battery:staple@%"
_UNPRIVILEGED = ("postgres", "nobody")


@contextmanager
def postgresql() -> Iterator[int]:
    """Start a server that asks ``USER`` for ``PASSWORD`` on the loopback port it yields, and stop it."""
    port = _free_port()
    # PostgreSQL's server refuses to run as root, and its socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="ml-pg-", dir="/tmp") as name:
        folder = Path(name)
        password = folder / "password"
        password.write_text(PASSWORD)
        as_user = _as_user()
        if as_user:
            for path in (folder, password):
                shutil.chown(path, as_user[2])
        data, log = str(folder / "data"), str(folder / "log")
        options = f"-p {port} -k {name} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=32MB"
        _run(as_user, "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password))
        _run(as_user, "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield port
        finally:
            _run(as_user, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def _run(as_user: Sequence[str], program: str, *arguments: str) -> None:
    command = [*as_user, _program(program), *arguments]
    done = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{program}: {done.stdout}"


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    known = Path("/etc/passwd").read_text().splitlines()
    names = {line.partition(":")[0] for line in known}
    return ["runuser", "-u", next(name for name in _UNPRIVILEGED if name in names), "--"]


def _program(name: str) -> str:
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default="")
    assert found, f"{name} is missing; scripts/install_postgresql.sh installs it"
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
