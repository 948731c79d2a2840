"""A whole graph succeeds with every secret in use, and none of them is anywhere that people can look."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import yaml
from psycopg import sql

from ml_platform_tests import postgres
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.mlops.receivers import WebReceiver
from ml_platform_tests.small_platform import SHOP, Platform, days, deliver_visits
from ml_platform_tests.storage.azurite import ACCOUNT, Azurite

SPAN = days("2024-01-16", "2024-02-02")
MARKER = "s3cr3t/m@rker"
QUOTED = quote(MARKER, safe="")
#: A key of a storage account, which must be base64.
KEY = base64.b64encode(f"{MARKER}, a key of a storage account".encode() * 2).decode()
CREDENTIALS = base64.b64encode(f"ann:{MARKER}".encode()).decode()
FORMS = tuple(form.encode() for form in (MARKER, QUOTED, KEY, quote(KEY, safe=""), CREDENTIALS))


def leaks(content: bytes) -> bool:
    return any(form in content for form in FORMS)


class Watch:
    """Sees the command lines of all processes while it is at work."""

    def __init__(self) -> None:
        self.lines: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.lines.add(path.read_bytes())
                except OSError:  # it has ended
                    continue


@contextmanager
def guarded(port: int) -> Iterator[tuple[int, list[int]]]:
    """A door before a server on a port, that only opens for ann; yields its port and the answers' codes."""
    answers: list[int] = []

    class Door(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length) if length else None
            if self.headers.get("Authorization") != f"Basic {CREDENTIALS}":
                self._answer(401, [], b"who are you?")
                return
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "authorization")}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{self.path}", content, kept, method=self.command
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    self._answer(answer.status, answer.headers.items(), answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.headers.items(), error.read())

        def _answer(self, code: int, headers: object, content: bytes) -> None:
            answers.append(code)
            self.send_response(code)
            for name, value in headers:  # type: ignore[attr-defined]
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A tracking server that also stores artifacts; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder.mkdir()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    words += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: answers(port) or process.poll() is not None)
            assert process.poll() is None, (folder / "log").read_text()
            yield port
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_whole_graph_that_uses_every_secret_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts, home = tmp_path / "contracts", tmp_path / "home"
    contracts.mkdir()
    (contracts / "shop.yaml").write_text(yaml.safe_dump(SHOP, sort_keys=False))
    settings = settings_in(home)
    deliver_visits(Platform(settings, None), SPAN)  # type: ignore[arg-type]
    monkeypatch.setenv("AZURITE_ACCOUNTS", f"{ACCOUNT}:{KEY}")
    azurite, receiver = Azurite(tmp_path / "azurite"), WebReceiver()
    azurite.start()
    try:
        with (
            postgres.postgresql() as database,
            mlflow_server(tmp_path / "mlflow") as tracking,
            guarded(tracking) as (door, codes),
            Watch() as watch,
        ):
            make_user(database)
            inner = receiver.url.rpartition("@")[2]
            environment = {
                **os.environ,
                "DAGSTER_HOME": str(home / "dagster"),
                "ML_PLATFORM_HOME": str(home),
                "ML_PLATFORM_PRODUCTS": str(contracts),
                "ML_PLATFORM_OWN_PRODUCTS": "false",
                "ML_PLATFORM_SPARK_CONF": json.dumps(
                    {**settings.spark_options, "spark.hadoop.fs.azure.account.key.a": MARKER}
                ),
                "ML_PLATFORM_STORAGE_OPTIONS": json.dumps({"azure_storage_account_key": MARKER}),
                "ML_PLATFORM_MLFLOW_TRACKING_URI": f"http://ann:{QUOTED}@127.0.0.1:{door}",
                "ML_PLATFORM_ONLINE_STORE_URL": f"postgresql+psycopg://ann:{QUOTED}@127.0.0.1:{database}/shop",
                "ML_PLATFORM_ONLINE_TOKEN": MARKER,
                "ML_PLATFORM_ALERT_URLS": f"json://ann:{QUOTED}@{inner}",
                "ML_PLATFORM_REPORT_TARGETS": "azblob://reports",
                "ML_PLATFORM_BLOB_ACCOUNT_URL": azurite.account_url,
                "ML_PLATFORM_BLOB_CREDENTIAL": KEY,
            }
            (home / "dagster").mkdir(parents=True)
            span = ("--from", str(SPAN[0]), "--to", str(SPAN[-1]))
            said = [
                run(environment, *words)
                for words in (
                    ("backfill", "shop", *span),
                    ("backfill", "shop", *span, "--select", "validation_report", "--force"),
                    ("summary", "shop"),
                    ("summary", "shop", "--json"),
                    ("history", "shop"),
                    ("doctor", "shop"),
                    ("online", "get", "shop", "c0001"),
                    ("alerts", "show", "shop"),
                    ("alerts", "show", "shop", "--json"),
                    ("today", "shop", "--json"),
                    ("alerts", "test", "shop"),
                )
            ]
            with closing(connect(database, "ann", MARKER, "shop")) as connection:
                stored = connection.execute("SELECT count(*) FROM shop_features").fetchone()
    finally:
        azurite.kill()
        receiver.close()
    # All of them were needed and used.
    assert stored is not None
    assert stored[0] > 0
    assert codes.count(200) > 10
    assert len(receiver.received) == 1
    assert [path for path in (tmp_path / "azurite").rglob("*") if path.is_file()]
    assert "promoted" in said[3].decode()
    assert any(b"SparkSubmit" in line for line in watch.lines)
    # And nobody sees them.
    assert not [line for line in watch.lines if leaks(line)]
    assert not [text for text in said if leaks(text)]
    shown = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(shown) > 100
    assert not [path for path in shown if leaks(path.read_bytes())]
    assert not leaks(json.dumps(receiver.received).encode())


def run(environment: dict[str, str], *words: str) -> bytes:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "ml_platform.cli.entry", *words],
        env=environment,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout.decode()}"
    return done.stdout


def connect(port: int, user: str, password: str, database: str) -> psycopg.Connection:
    return psycopg.connect(
        host="127.0.0.1", port=port, user=user, password=password, dbname=database, autocommit=True
    )


def make_user(port: int) -> None:
    with closing(connect(port, postgres.USER, postgres.PASSWORD, "postgres")) as connection:
        connection.execute(sql.SQL("CREATE ROLE ann LOGIN PASSWORD {}").format(sql.Literal(MARKER)))
        connection.execute("CREATE DATABASE shop OWNER ann")
