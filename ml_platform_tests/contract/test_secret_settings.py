"""A marker stands in every setting that can hold a secret, and is looked for wherever people can see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import pytest
from pydantic import ValidationError

from ml_platform.build import build_definitions
from ml_platform.cli import servers
from ml_platform.contract.secrets import Secret, SecretAddress, scrub
from ml_platform.graph.assets import asset_key
from ml_platform.graph.resources import without_secrets
from ml_platform.settings import AlertChannel, Settings
from ml_platform.spark.session import secrets_apart
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.small_platform import SHOP, shop

MARKER = "s3cr3t/m@rker"
QUOTED = "s3cr3t%2Fm%40rker"
ADDRESS = f"http://ann:{QUOTED}@127.0.0.1:9/"
#: A value of every setting that can hold a secret.
VALUES: dict[str, Any] = {
    "storage_options": {"azure_storage_account_key": MARKER},
    "mlflow_tracking_uri": ADDRESS,
    "mlflow_registry_uri": ADDRESS,
    "online_store_url": f"postgresql+psycopg://ann:{QUOTED}@127.0.0.1:9/x",
    "online_token": MARKER,
    "alert_urls": f"json://ann:{QUOTED}@127.0.0.1:9",
    "alert_channels": ({"name": "a", "url": f"json://ann:{QUOTED}@127.0.0.1:9"},),
    "report_targets": (f"azblob://reports?sig={QUOTED}",),
    "blob_credential": MARKER,
    "spark_conf": {"spark.hadoop.fs.azure.account.key.a.dfs.core.windows.net": MARKER},
}


def is_secret(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, Secret | AlertChannel)
    return any(is_secret(part) for part in get_args(annotation))


def leaks(text: str | bytes) -> bool:
    content = text if isinstance(text, bytes) else text.encode()
    return MARKER.encode() in content or QUOTED.encode() in content


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", **VALUES)


def test_every_setting_of_the_type_gets_a_marker_here() -> None:
    assert {name for name, field in Settings.model_fields.items() if is_secret(field.annotation)} == set(
        VALUES
    )


def test_settings_never_show_a_secret(settings: Settings) -> None:
    for name in VALUES:
        value = getattr(settings, name)
        assert not leaks(f"{value} {value!r} {json.dumps(value, default=str)}"), name
    assert not leaks(f"{settings!r} {settings}")
    assert not leaks(settings.model_dump_json())
    assert {MARKER, QUOTED} <= settings.secrets


@pytest.mark.parametrize(
    "name", ["tables", "control_tables", "blob_account_url", "dagster_ui_url", "mlflow_ui_url"]
)
def test_a_setting_that_is_shown_takes_no_secret(name: str) -> None:
    for address in (ADDRESS, f"https://a.example.com/x?sig={QUOTED}", f"https://{QUOTED}@example.com"):
        with pytest.raises(ValidationError) as caught:
            Settings(**{name: address})  # type: ignore[arg-type]
        assert not leaks(str(caught.value))
    Settings(**{name: "abfss://container@account.dfs.core.windows.net/path"})  # type: ignore[arg-type]


def test_a_setting_that_is_wrong_is_an_error_without_its_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(databricks_secrets={"A": MARKER + "/x/y"}, chunk_days=0)  # type: ignore[arg-type]
    assert "chunk_days" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown", "client"),
    [
        ("http://ann:a@b/c@host:5000/x", "http://ann:***@host:5000/x", "http://host:5000/x"),
        ("https://token@host/x", "https://***@host/x", "https://host/x"),
        ("postgresql://ann:pass@h/db", "postgresql://ann:***@h/db", "postgresql://ann:pass@h/db"),
        ("https://host/x?sig=a%2F&b=c#d", "https://host/x?sig=***&b=***#d", "https://host/x?sig=a%2F&b=c#d"),
        ("abfss://box@account/p", "abfss://box@account/p", "abfss://box@account/p"),
        ("/Volumes/a/b=c", "/Volumes/a/b=c", "/Volumes/a/b=c"),
        ("databricks", "databricks", "databricks"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("", "", ""),
    ],
)
def test_an_address_is_shown_without_what_is_secret(address: str, shown: str, client: str) -> None:
    value = SecretAddress(address)
    assert (value.shown, str(value), value.without_credentials) == (shown, shown, client)
    assert "pass@" not in scrub(address, set(value.secrets()))


def test_no_secret_is_on_a_command_line_of_the_servers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Mapping[str, str]]] = []

    def popen(words: list[str], env: Mapping[str, str], **_: Any) -> Any:
        started.append((words, env))
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    store = f"postgresql://ann:{QUOTED}@127.0.0.1:9/mlflow"
    chosen = settings.model_copy(update={"mlflow_tracking_uri": SecretAddress(store)})
    servers.serve(chosen, 3000, 5000, 3001)
    ((words, environment),) = started
    assert not leaks(" ".join(words))
    assert environment["MLFLOW_BACKEND_STORE_URI"] == store


@contextmanager
def refusing_server() -> Iterator[tuple[str, list[str]]]:
    """A tracking server that refuses everybody; yields its address and the credentials it was sent."""
    sent: list[str] = []

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization", ""))
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b"not for you")

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_failed_run_leaves_no_secret_in_the_instance(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "replaced")
    with refusing_server() as (host, sent):
        address = SecretAddress(f"http://ann:{QUOTED}@{host}")
        chosen = settings.model_copy(
            update={"mlflow_tracking_uri": address, "mlflow_registry_uri": None, "report_targets": ()}
        )
        definitions = build_definitions(chosen, products={"shop": shop()})
        (tmp_path / "dagster").mkdir()
        with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:
            result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                asset_selection=[asset_key(shop(), "model")],
                partition_key="2024-02-01",
                instance=instance,
                raise_on_error=False,
            )
            events = "".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert not result.success
    assert "403" in events
    # The server was sent the password itself, and nobody else.
    assert set(sent) == {"Basic YW5uOnMzY3IzdC9tQHJrZXI="}
    assert not leaks(events)
    captured = capfd.readouterr()
    assert not leaks(captured.out + captured.err)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if leaks(path.read_bytes())]


def test_an_error_that_quotes_a_secret_is_replaced(settings: Settings) -> None:
    def connect() -> None:
        try:
            raise ValueError(f"no host in {ADDRESS}")
        except ValueError as error:
            raise ConnectionError("can't connect") from error

    with (
        pytest.raises(Exception, match="ConnectionError: can't connect") as caught,
        without_secrets(settings),
    ):
        connect()
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    with pytest.raises(KeyError), without_secrets(settings):
        raise KeyError("other errors stay what they are")


def test_the_summary_and_failing_commands_print_no_secret(tmp_path: Path) -> None:
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "shop.yaml").write_text(json.dumps(SHOP))
    environment = {
        **os.environ,
        "ML_PLATFORM_HOME": str(tmp_path / "home"),
        "ML_PLATFORM_PRODUCTS": str(contracts),
        "ML_PLATFORM_OWN_PRODUCTS": "false",
        "ML_PLATFORM_MLFLOW_TRACKING_URI": ADDRESS,
        "ML_PLATFORM_ONLINE_STORE_URL": f"postgresql+psycopg://ann:{QUOTED}@127.0.0.1:9/x",
        "ML_PLATFORM_REPORT_TARGETS": f"azblob://reports?sig={QUOTED}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    cli = [sys.executable, "-m", "ml_platform.cli.main"]
    script = "from ml_platform.cli.main import app; app()"
    for words, code in ((["summary", "shop"], 0), (["online", "get", "shop", "ann"], 1)):
        done = subprocess.run(
            [cli[0], "-c", script, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert not leaks(done.stdout + done.stderr)
        if words[0] == "summary":
            assert "http://ann:***@127.0.0.1:9/" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and leaks(path.read_bytes())]


def test_a_new_jvm_reads_secrets_from_a_file_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark import SparkContext

    monkeypatch.setattr(SparkContext, "_gateway", None)
    monkeypatch.delenv("PYSPARK_SUBMIT_ARGS", raising=False)
    with secrets_apart({"spark.app.name": "x", "fs.azure.account.key.a": "ü =\n" + MARKER}) as rest:
        assert rest["spark.app.name"] == "x"
        assert not leaks(str(rest))
        _, name, *_ = os.environ["PYSPARK_SUBMIT_ARGS"].split()
        file = Path(name)
        assert file.stat().st_mode & 0o077 == 0
        line = file.read_text()
        assert line.encode().decode("unicode_escape") == f"fs.azure.account.key.a=ü =\n{MARKER}\n"
    assert not file.exists()
    assert "PYSPARK_SUBMIT_ARGS" not in os.environ


LOOK = """
import json, sys
from pathlib import Path
from ml_platform.graph.resources import LocalStepRunner
from ml_platform.settings import Settings
key = "spark.hadoop.fs.azure.account.key.a.dfs.core.windows.net"
session = LocalStepRunner(Settings()).session()
lines = []
for path in Path("/proc").glob("[0-9]*/cmdline"):
    try:
        lines.append(path.read_bytes().decode(errors="replace"))
    except OSError:
        pass
known = session.sparkContext._jsc.hadoopConfiguration().get(key.removeprefix("spark.hadoop."))
print(json.dumps([known, lines]))
session.stop()
"""


@pytest.mark.slow
def test_no_process_has_a_secret_of_spark_on_its_command_line(tmp_path: Path) -> None:
    conf = {**settings_in(tmp_path).spark_options, **VALUES["spark_conf"]}
    environment = {
        **os.environ,
        "ML_PLATFORM_HOME": str(tmp_path),
        "ML_PLATFORM_SPARK_CONF": json.dumps(conf),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    known, lines = json.loads(done.stdout.splitlines()[-1])
    assert known == MARKER
    assert any("SparkSubmit" in line for line in lines)
    assert not [line for line in lines if leaks(line)]
    assert not leaks(done.stderr)
