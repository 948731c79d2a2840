"""A Databricks workspace over HTTP, in a folder: volumes, DBFS, secrets and jobs, with a token check.

It stands in for what can't be had here. What it is asked is in its log; faults are injected by the kind of
a request. Jobs really run (:mod:`.fake_jobs`). Where a request waits for something, it
is answered when that has happened, so that a client that asks again and again needs no pauses.
"""

from __future__ import annotations

import base64
import json
import threading
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ml_platform_tests.fake_jobs import FakeJobs, RefusedError

TOKEN = "dapi-of-the-tests"
USER = "someone@example.com"
CUT = 0


class Request(NamedTuple):
    """A line of the log: what was asked, and the status of the answer (0: the connection was cut)."""

    method: str
    path: str
    status: int


@dataclass
class Fault:
    """Requests of a kind that get an error.

    Args:
        status: of the answer; :data:`CUT` closes the connection without one.
        part: of the path of such a request.
        spared: how many of them pass before.
        times: how many requests are hit then; all that come with None.
        after: the request is carried out all the same.
    """

    status: int
    method: str = ""
    part: str = ""
    spared: int = 0
    times: int | None = 1
    after: bool = False
    hit: list[str] = field(default_factory=list)

    def strikes(self, method: str, path: str) -> bool:
        """Whether the request that has come is hit; to be asked once for each."""
        if self.times is not None and len(self.hit) >= self.times:
            return False
        if self.part not in path or not method.startswith(self.method):
            return False
        if self.spared:
            self.spared -= 1
            return False
        return True


class FakeWorkspace:
    """A workspace whose files lie under ``root``.

    Args:
        wheels: a folder where installed wheels are kept; workspaces may share it.

    ``requests`` is the log, ``secrets`` the values by scope and key, ``tables`` the full names of those of
    the catalog. ``cut_files`` names parts of paths of files that come cut in the middle, and how often.
    ``errors`` are the fake's own mistakes.
    """

    def __init__(self, root: Path, wheels: Path | None = None) -> None:
        self.root = root
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.cut_files: dict[str, int] = {}
        self.handles: dict[int, tuple[Path, bytes]] = {}
        self.secrets: dict[tuple[str, str], str] = {}
        self.tables: set[str] = set()
        self.errors: list[str] = []
        self.token = TOKEN
        self.lock = threading.Lock()
        workspace = self

        class Handler(_Handler):
            pass

        Handler.workspace = workspace
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        self.jobs = FakeJobs(self, wheels or root / "wheels")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def path(self, remote: str) -> Path:
        return self.root / remote.lstrip("/")

    def inject(self, *faults: Fault) -> None:
        self.faults += faults

    def asked(self, method: str, part: str) -> list[Request]:
        """The requests of a kind."""
        return [one for one in self.requests if one.method == method and part in one.path]

    def close(self) -> None:
        self.jobs.close()
        self._server.shutdown()
        self._server.server_close()
        assert not self.errors, "\n".join(self.errors)


class _Handler(BaseHTTPRequestHandler):
    workspace: FakeWorkspace
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self._body()
        address = urlsplit(self.path)
        path = unquote(address.path)
        with self.workspace.lock:
            position = len(self.workspace.requests)
            self.workspace.requests.append(Request(self.command, path, CUT))
            striking = (one for one in self.workspace.faults if one.strikes(self.command, path))
            fault = next(striking, None)
            if fault is not None:
                fault.hit.append(path)
        self._position = position
        if self.headers.get("Authorization") != f"Bearer {self.workspace.token}":
            return self._answer(403, _error("PERMISSION_DENIED", "invalid token"))
        if fault is None:
            return self._route(path, address.query, body)
        if fault.after:
            self._muted = True
            self._route(path, address.query, body)
            self._muted = False
        return self._fail(fault.status)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the base class's names
    _muted = False
    _position = 0

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _fail(self, status: int) -> None:
        if status == CUT:
            self.close_connection = True
            self.connection.close()
            return
        codes = {
            400: "INVALID_PARAMETER_VALUE",
            403: "PERMISSION_DENIED",
            404: "RESOURCE_DOES_NOT_EXIST",
            429: "REQUEST_LIMIT_EXCEEDED",
        }
        code = codes.get(status, "TEMPORARILY_UNAVAILABLE" if status == 503 else "INTERNAL_ERROR")
        self._answer(status, _error(code, "injected"))

    def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        if self._muted:
            return
        requests = self.workspace.requests
        requests[self._position] = requests[self._position]._replace(status=status)
        content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(0 if status == 204 else len(content)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(content)

    def _route(self, path: str, query: str, body: bytes) -> None:
        try:
            if path.startswith("/api/2.0/fs/"):
                return self._volume(path.removeprefix("/api/2.0/fs"), body)
            given = {name: values[0] for name, values in parse_qs(query).items()}
            if body:
                given |= json.loads(body)
            if path.startswith("/api/2.0/dbfs/"):
                return self._dbfs(path.removeprefix("/api/2.0/dbfs/"), given)
            if path.startswith("/api/2.2/jobs/runs/"):
                return self._answer(200, self.workspace.jobs.call(path.rpartition("/")[2], given))
            if path == "/api/2.0/secrets/get":
                return self._secret(given["scope"], given["key"])
            if path.startswith("/api/2.1/unity-catalog/tables/") and self.command == "DELETE":
                name = path.rpartition("/")[2]
                if name not in self.workspace.tables:
                    raise RefusedError(f"Table '{name}' does not exist.", 404, "TABLE_DOES_NOT_EXIST")
                self.workspace.tables.remove(name)
                return self._answer(200)
            if path == "/api/2.0/preview/scim/v2/Me":
                return self._answer(200, {"userName": USER})
        except RefusedError as refused:
            return self._answer(refused.status, _error(refused.code, str(refused)))
        except ConnectionError:
            raise
        except Exception:
            self.workspace.errors.append(traceback.format_exc())
            return self._answer(500, _error("INTERNAL_ERROR", "a mistake of the fake's own"))
        return self._answer(404, _error("RESOURCE_DOES_NOT_EXIST", path))

    def _secret(self, scope: str, key: str) -> None:
        value = self.workspace.secrets.get((scope, key))
        if value is None:
            return self._answer(404, _error("RESOURCE_DOES_NOT_EXIST", f"no secret {key} in {scope}"))
        return self._answer(200, {"key": key, "value": base64.b64encode(value.encode()).decode()})

    def _volume(self, path: str, body: bytes) -> None:
        kind, remote = path.lstrip("/").split("/", 1)
        target = self.workspace.path(remote)
        missing = _error("NOT_FOUND", f"/{remote} does not exist")
        match self.command, kind:
            case "PUT", "directories":
                target.mkdir(parents=True, exist_ok=True)
                return self._answer(204)
            case "PUT", "files":
                if not target.parent.is_dir():
                    return self._answer(404, missing)
                target.write_bytes(body)
                return self._answer(204)
        if not target.exists():
            return self._answer(404, missing)
        match self.command, kind:
            case "DELETE", "files":
                target.unlink()
                return self._answer(204)
            case "DELETE", "directories":
                if any(target.iterdir()):
                    return self._answer(400, _error("INVALID_PARAMETER_VALUE", "the directory is not empty"))
                target.rmdir()
                return self._answer(204)
            case "GET", "files":
                return self._answer(200, self._cut(remote, target.read_bytes()))
            case "GET", "directories":
                entries = [
                    {"name": one.name, "path": f"/{remote}/{one.name}", "is_directory": one.is_dir()}
                    for one in sorted(target.iterdir())
                ]
                return self._answer(200, {"contents": entries})
        return self._answer(200)

    def _cut(self, path: str, content: bytes) -> bytes:
        with self.workspace.lock:
            for part, times in self.workspace.cut_files.items():
                if part in path and times:
                    self.workspace.cut_files[part] = times - 1
                    return content[: len(content) // 2]
        return content

    def _dbfs(self, call: str, given: dict[str, Any]) -> None:
        missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such file"}
        target = self.workspace.path(given.get("path", ""))
        match call:
            case "mkdirs":
                target.mkdir(parents=True, exist_ok=True)
            case "create":
                number = len(self.workspace.handles) + 1
                self.workspace.handles[number] = (target, b"")
                return self._answer(200, {"handle": number})
            case "add-block":
                path, content = self.workspace.handles[given["handle"]]
                self.workspace.handles[given["handle"]] = (path, content + base64.b64decode(given["data"]))
            case "close":
                path, content = self.workspace.handles[given["handle"]]
                path.write_bytes(content)
            case "delete":
                if not target.exists():
                    return self._answer(404, missing)
                target.unlink()
            case "move":
                self.workspace.path(given["source_path"]).rename(
                    self.workspace.path(given["destination_path"])
                )
            case "get-status":
                if not target.exists():
                    return self._answer(404, missing)
                return self._answer(200, {"path": given["path"], "is_dir": target.is_dir()})
            case "list":
                entries = [
                    {"path": f"{given['path']}/{one.name}", "is_dir": one.is_dir(), "file_size": 1}
                    for one in sorted(target.iterdir())
                ]
                return self._answer(200, {"files": entries})
        return self._answer(200)


def _error(code: str, message: str) -> dict[str, str]:
    return {"error_code": code, "message": message}


def kinds(requests: Iterable[Request]) -> list[tuple[str, str]]:
    """The requests by method and what they ask for, without the names of files, folders and runs."""
    found = []
    for one in requests:
        parts = one.path.split("/")
        found.append((one.method, "/".join(parts[3:5] if "fs" in parts else parts[-2:])))
    return found
