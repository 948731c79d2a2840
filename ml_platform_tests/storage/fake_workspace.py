"""The files of a Databricks workspace over HTTP, in a folder: volumes and DBFS, with a token check.

It stands in for what can't be had here. Faults are injected by path: so many answers of a status first.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "dapi-of-the-tests"


class FakeWorkspace:
    """A workspace whose files lie under ``root``. ``requests`` is the log of what was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, list[int]] = {}
        self.handles: dict[int, tuple[Path, bytes]] = {}
        workspace = self

        class Handler(_Handler):
            files = workspace

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def path(self, remote: str) -> Path:
        return self.root / remote.lstrip("/")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    files: FakeWorkspace

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.files.requests.append((self.command, path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(403, {"error_code": "PERMISSION_DENIED", "message": "invalid token"})
        for part, statuses in self.files.faults.items():
            if part in path and statuses:
                return self._answer(statuses.pop(0), {"error_code": "INTERNAL_ERROR", "message": "injected"})
        if path.startswith("/api/2.0/fs/"):
            return self._volume(path.removeprefix("/api/2.0/fs"), body)
        if path.startswith("/api/2.0/dbfs/"):
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            return self._dbfs(path.removeprefix("/api/2.0/dbfs/"), query | (json.loads(body) if body else {}))
        return self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": path})

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the base class's names

    def _volume(self, path: str, body: bytes) -> None:
        kind, remote = path.lstrip("/").split("/", 1)
        target = self.files.path(remote)
        match self.command, kind:
            case "PUT", "directories":
                target.mkdir(parents=True, exist_ok=True)
            case "PUT", "files":
                target.write_bytes(body)
                return self._answer(204)
            case "DELETE", "files":
                target.unlink()
                return self._answer(204)
            case "GET", "directories":
                entries = [
                    {"name": one.name, "path": f"/{remote}/{one.name}", "is_directory": one.is_dir()}
                    for one in sorted(target.iterdir())
                ]
                return self._answer(200, {"contents": entries})
        return self._answer(200)

    def _dbfs(self, call: str, given: dict[str, Any]) -> None:
        missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such file"}
        target = self.files.path(given.get("path", ""))
        match call:
            case "mkdirs":
                target.mkdir(parents=True, exist_ok=True)
            case "create":
                number = len(self.files.handles) + 1
                self.files.handles[number] = (target, b"")
                return self._answer(200, {"handle": number})
            case "add-block":
                path, content = self.files.handles[given["handle"]]
                self.files.handles[given["handle"]] = (path, content + base64.b64decode(given["data"]))
            case "close":
                path, content = self.files.handles[given["handle"]]
                path.write_bytes(content)
            case "delete":
                if not target.exists():
                    return self._answer(404, missing)
                target.unlink()
            case "move":
                self.files.path(given["source_path"]).rename(self.files.path(given["destination_path"]))
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
