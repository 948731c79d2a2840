"""Reports on every kind of target: folders, a real Azurite, and volumes and DBFS of a stand-in workspace."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient

from ml_platform.engine.report_targets import report_store
from ml_platform.engine.step import PermanentError
from ml_platform.settings import Settings
from ml_platform.storage.reports import FolderTarget, ReportError, ReportStore
from ml_platform_tests.fake_workspace import TOKEN, FakeWorkspace, Fault
from ml_platform_tests.storage.azurite import KEY, Azurite

PATH = "shop/validation_report/2024-01-03"
FIRST = {"report.html": b"<p>one</p>", "report.json": b"{}", "quarantine.csv": b"file,line,reason\n"}
SECOND = {"report.html": b"<p>two</p>", "report.json": b'{"n": 2}'}


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    emulator = Azurite(tmp_path_factory.mktemp("azurite"))
    emulator.start()
    yield emulator
    emulator.kill()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkspace]:
    found = FakeWorkspace(tmp_path / "workspace")
    monkeypatch.setenv("DATABRICKS_HOST", found.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    yield found
    found.close()


def blob_settings(azurite: Azurite, *targets: str, key: str = KEY) -> Settings:
    return Settings(report_targets=targets, blob_account_url=azurite.account_url, blob_credential=key)


def blobs(azurite: Azurite, container: str) -> dict[str, tuple[bytes, str]]:
    """What a container holds: content and content type by name."""
    client = BlobServiceClient(azurite.account_url, KEY).get_container_client(container)
    found = {}
    for name in client.list_blob_names():
        download = client.download_blob(name)
        found[name] = (download.readall(), download.properties.content_settings.content_type)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


# -- folders -----------------------------------------------------------------------------------------


def test_without_a_setting_reports_lie_in_the_home(tmp_path: Path) -> None:
    links = report_store(Settings(home=tmp_path)).publish(PATH, FIRST)
    page = tmp_path / "reports" / PATH / "report.html"
    assert links == {"folder": page.as_uri()}
    assert files(page.parent) == FIRST


def test_a_rerun_leaves_exactly_the_new_report(tmp_path: Path) -> None:
    store = report_store(Settings(report_targets=(f"file://{tmp_path}/my%20reports",)))
    store.publish(PATH, FIRST)
    store.publish(PATH, SECOND)
    assert files(tmp_path / "my reports" / PATH) == SECOND


def test_a_reader_never_sees_half_a_page(tmp_path: Path) -> None:
    target = FolderTarget("folder", tmp_path)
    pages = [b"a" * 2_000_000, b"b" * 2_000_000]
    target.replace("r", {"report.html": pages[0]})
    done = threading.Event()
    seen = set()

    def read() -> None:
        while not done.is_set():
            content = (tmp_path / "r" / "report.html").read_bytes()
            seen.add((len(content), content[:1], content[-1:]))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(60):
        target.replace("r", {"report.html": pages[n % 2]})
    done.set()
    reader.join()
    assert seen <= {(2_000_000, b"a", b"a"), (2_000_000, b"b", b"b")}
    assert seen


# -- Azure Blob storage ------------------------------------------------------------------------------


def test_a_container_that_does_not_exist_is_made(azurite: Azurite) -> None:
    store = report_store(blob_settings(azurite, "azblob://fresh/team/a"))
    (link,) = store.publish(PATH, FIRST).values()
    assert link == f"{azurite.account_url}/fresh/team/a/{PATH}/report.html"
    assert blobs(azurite, "fresh") == {
        f"team/a/{PATH}/report.html": (FIRST["report.html"], "text/html; charset=utf-8"),
        f"team/a/{PATH}/report.json": (FIRST["report.json"], "application/json"),
        f"team/a/{PATH}/quarantine.csv": (FIRST["quarantine.csv"], "text/csv; charset=utf-8"),
    }


def test_a_remote_step_without_dagster_writes_to_a_container_as_well(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dagster_azure.blob", None)
    report_store(blob_settings(azurite, "azblob://remote")).publish(PATH, FIRST)
    assert set(blobs(azurite, "remote")) == {f"{PATH}/{name}" for name in FIRST}


def test_a_rerun_replaces_the_blobs_and_no_other_report(azurite: Azurite) -> None:
    store = report_store(blob_settings(azurite, "azblob://again"))
    store.publish_many({PATH: FIRST, f"{PATH}0": FIRST, "shop/validation_report/2024-01-04": FIRST})
    report_store(blob_settings(azurite, "azblob://again")).publish(PATH, SECOND)
    found = blobs(azurite, "again")
    assert {name: content for name, (content, _) in found.items() if name.startswith(f"{PATH}/")} == {
        f"{PATH}/{name}": content for name, content in SECOND.items()
    }
    assert len(found) == 2 + 3 + 3


def test_a_wrong_key_fails_at_once_and_the_other_targets_are_written(
    azurite: Azurite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = KEY[:-8] + "AAAAAA=="
    targets = ("azblob://private", f"file://{tmp_path}/reports")
    with pytest.raises(ReportError, match="azblob://private") as failure:
        report_store(blob_settings(azurite, *targets, key=wrong)).publish(PATH, FIRST)
    assert files(tmp_path / "reports" / PATH) == FIRST
    told = "".join(traceback.format_exception(failure.value)) + caplog.text
    assert wrong not in told
    assert wrong not in repr(blob_settings(azurite, *targets, key=wrong))
    assert caplog.text.count("Request URL") <= 1, "a wrong key was tried again"


@pytest.mark.slow
def test_an_emulator_that_dies_in_the_middle_and_comes_back(tmp_path: Path) -> None:
    emulator = Azurite(tmp_path / "azurite")
    emulator.start()
    try:
        targets = ("azblob://shaky", f"file://{tmp_path}/reports")
        store = report_store(blob_settings(emulator, *targets))
        days = [f"shop/validation_report/2024-01-{n:02d}" for n in range(1, 31)]
        reports: dict[str, dict[str, bytes]] = dict.fromkeys(days, FIRST)
        store.publish(days[0], FIRST)
        dying = _dies_after(store, emulator, uploads=4)
        with pytest.raises(ReportError, match="azblob://shaky"):
            store.publish_many(reports)
        assert dying() > 4
        assert all(files(tmp_path / "reports" / day) == FIRST for day in days)

        emulator.start()
        store.publish_many(reports)
        found = blobs(emulator, "shaky")
        assert set(found) == {f"{day}/{name}" for day in days for name in FIRST}
        assert all(content == FIRST[name.rpartition("/")[2]] for name, (content, _) in found.items())
    finally:
        emulator.kill()


def _dies_after(store: ReportStore, emulator: Azurite, *, uploads: int) -> Any:
    """Kill the emulator when so many uploads have begun; returns how many were tried in all."""
    container = store.targets[0]._client()  # type: ignore[attr-defined]
    upload, count, lock = container.upload_blob, [0], threading.Lock()

    def counted(*arguments: Any, **options: Any) -> Any:
        with lock:
            count[0] += 1
            if count[0] == uploads:
                emulator.kill()
        return upload(*arguments, **options)

    container.upload_blob = counted
    return lambda: count[0]


# -- Databricks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["/Volumes/main/reports/pages", "dbfs:/reports"])
def test_a_workspace_takes_reports(workspace: FakeWorkspace, root: str) -> None:
    store = report_store(Settings(report_targets=(root,)))
    store.publish(PATH, FIRST)
    (link,) = store.publish(PATH, SECOND).values()
    assert files(workspace.path(root.removeprefix("dbfs:")) / PATH) == SECOND
    assert (
        link
        == {
            "/Volumes/main/reports/pages": f"{workspace.url}/explore/data/volumes/main/reports/pages/{PATH}",
            "dbfs:/reports": f"dbfs:/reports/{PATH}/report.html",
        }[root]
    )


def test_a_workspace_that_fails_for_a_moment_is_asked_again(workspace: FakeWorkspace) -> None:
    workspace.inject(Fault(500, part="report.html"))
    report_store(Settings(report_targets=("/Volumes/main/reports/pages",))).publish(PATH, FIRST)
    assert files(workspace.path("/Volumes/main/reports/pages") / PATH) == FIRST


def test_a_wrong_token_is_not_tried_again(workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-wrong")
    with pytest.raises(ReportError, match="/Volumes/main") as failure:
        report_store(Settings(report_targets=("/Volumes/main/reports/pages",))).publish(PATH, FIRST)
    assert len(workspace.requests) == 1
    assert "dapi-wrong" not in "".join(traceback.format_exception(failure.value))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("ftp://somewhere/reports", "accepted are file:///folder"),
        ("azblob:///prefix", "names no container"),
        ("azblob://container", "ML_PLATFORM_BLOB_ACCOUNT_URL"),
    ],
)
def test_a_target_that_is_not_understood_says_what_is(target: str, told: str) -> None:
    with pytest.raises(PermanentError, match=told):
        report_store(Settings(report_targets=(target,)))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_who_may_read_a_report_is_for_the_umask_to_say(tmp_path: Path, umask: int, mode: int) -> None:
    store = report_store(Settings(report_targets=(str(tmp_path / "reports"),)))
    before = os.umask(umask)
    try:
        store.publish(PATH, FIRST)
        store.publish(PATH, SECOND)
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "reports" / PATH).iterdir()}
    assert found == dict.fromkeys(SECOND, mode)
