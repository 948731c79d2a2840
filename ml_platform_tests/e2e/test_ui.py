"""A person materializes a day or a history of the graph in the UI, by clicking, and sees what came of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Locator, Page, expect, sync_playwright

from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.small_platform import SHOP, days, visits

pytestmark = [pytest.mark.slow, pytest.mark.browser]

expect.set_options(timeout=60_000)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DAY = "2024-01-03"
FIRST, MISSING, LAST = "2024-01-01", "2024-01-20", "2024-02-09"  # 40 days


@dataclass
class Servers:
    dagster: str
    mlflow: str
    process: subprocess.Popen[str]
    log: Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def graphql(base: str, query: str) -> Any:
    """What Dagster's web server answers to a query."""
    request = urllib.request.Request(
        f"{base}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["data"]


def locations(base: str) -> dict[str, str]:
    """The code locations and what they loaded as, once the server answers."""
    entry = "name locationOrLoadError { __typename }"
    query = f"{{ workspaceOrError {{ ... on Workspace {{ locationEntries {{ {entry} }} }} }} }}"
    try:
        entries = graphql(base, query)["workspaceOrError"]["locationEntries"]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return {}
    return {e["name"]: e["locationOrLoadError"]["__typename"] for e in entries if e["locationOrLoadError"]}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """The UI over a platform of its own, in which all days of ``shop`` but one have been delivered."""
    home, contracts = tmp_path / "home", tmp_path / "contracts"
    contracts.mkdir()
    # A history that has ended shows all its days; of one that goes on the UI offers the last ninety.
    contract = {**SHOP, "end": "2024-02-10"}
    (contracts / "shop.yaml").write_text(yaml.safe_dump(contract, sort_keys=False))
    landing = settings_in(home).landing_path / "shop"
    for day in days(FIRST, LAST):
        if str(day) == MISSING:
            continue
        (landing / str(day)).mkdir(parents=True)
        frame = visits(day, rows=40)
        frame.drop(columns="bought").to_csv(landing / str(day) / "rows.csv", index=False)
        frame[["visit", "day", "bought"]].to_csv(landing / str(day) / "z_labels.csv", index=False)
    environment = os.environ | {
        "ML_PLATFORM_HOME": str(home),
        "ML_PLATFORM_PRODUCTS": str(contracts),
        "ML_PLATFORM_SPARK_DRIVER_MEMORY": "1g",
        "ML_PLATFORM_SPARK_CONF": json.dumps({"spark.jars.ivy": str(CHECKOUT / "var" / "ivy")}),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
    }
    (tmp_path / "dagster").mkdir()
    port, mlflow_port = free_port(), free_port()
    command = [str(Path(sys.executable).parent / "ml-platform"), "ui"]
    command += ["--port", str(port), "--mlflow-port", str(mlflow_port)]
    log = tmp_path / "ui.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True)
    found = Servers(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{mlflow_port}", process, log)
    try:
        deadline = time.monotonic() + 120
        while locations(found.dagster).keys() != {"ml_platform", "contracts"}:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    if not CHROMIUM.exists():
        pytest.skip("the browser test needs Debian's package chromium: scripts/install_chromium.sh")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        page.screenshot(path=str(tmp_path / "last.png"))
        browser.close()


def launch(page: Page, button: Locator) -> None:
    """Click, and wait for the server's answer: to leave the page before takes the launch back."""
    with page.expect_response(
        lambda answer: "mutation Launch" in (answer.request.post_data or "")
    ) as launched:
        button.click()
    (said,) = launched.value.json()["data"].values()
    assert said["__typename"] in {"LaunchRunSuccess", "LaunchBackfillSuccess"}, said


def test_one_day_is_materialized_by_clicking(servers: Servers, page: Page) -> None:
    assert set(locations(servers.dagster).values()) == {"RepositoryLocation"}

    for asset in ("predictions", "model_performance"):
        page.goto(f"{servers.dagster}/assets/shop/{asset}")
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    page.goto(f"{servers.dagster}/locations/ml_platform/jobs/shop_daily")
    page.get_by_text("data_engineering", exact=True).first.click()
    for asset in ("ards", "mrds", "online_features"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()

    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Materialize all").click()
    # Dagster asks whether to go on without the model, which the first days don't have.
    page.get_by_role("button", name="Confirm").click()
    partitions = page.get_by_placeholder(re.compile("^ex: 2024-01-01"))
    partitions.fill(DAY)
    partitions.press("Enter")
    expect(page.get_by_text("1 partition", exact=True)).to_be_visible()
    launch(page, page.get_by_role("button", name=re.compile("^Launch")))

    page.goto(f"{servers.dagster}/runs")
    # All is made but the predictions: no model serves this day.
    expect(page.get_by_text("Failure", exact=True).first).to_be_visible(timeout=400_000)

    page.goto(f"{servers.dagster}/assets/shop/ards?view=partitions&partition={DAY}")
    for name, value in {
        "outcome": "written",
        "delivered": "80",
        "rows": "40",
        "labels_applied": "40",
    }.items():
        row = page.get_by_role("row").filter(has_text=re.compile(f"^{name}"))
        expect(row.first).to_contain_text(value)
    page.goto(f"{servers.dagster}/assets/shop/ards?view=checks")
    expect(page.get_by_text("data_quality").first).to_be_visible()
    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()

    with urllib.request.urlopen(servers.mlflow, timeout=30) as answer:
        assert b"MLflow" in answer.read()

    servers.process.send_signal(signal.SIGTERM)
    servers.process.wait(timeout=60)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(servers.dagster, timeout=5)
    log = servers.log.read_text()
    for line in log.splitlines():
        assert "Warning" not in line or "/site-packages/" in line, line


def runs_of(base: str) -> list[tuple[str, set[str]]]:
    """Status and assets of each run, in the order in which they were launched."""
    query = "{ runsOrError { ... on Runs { results { status assetSelection { path } } } } }"
    runs = graphql(base, query)["runsOrError"]["results"]
    return [(run["status"], {key["path"][-1] for key in run["assetSelection"]}) for run in reversed(runs)]


def end_of_backfill(base: str) -> str:
    """Wait until the only backfill has ended; its status."""
    query = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { status } } } }"
    while True:
        (backfill,) = graphql(base, query)["partitionBackfillsOrError"]["results"]
        if backfill["status"] not in ("REQUESTED", "FAILING"):
            return str(backfill["status"])
        time.sleep(0.5)


@pytest.mark.timeout(900)
def test_a_history_is_backfilled_by_clicking(servers: Servers, page: Page) -> None:
    page.goto(f"{servers.dagster}/asset-groups")
    page.locator(".CodeMirror").first.click()
    page.keyboard.type('key:"shop/*"')
    page.keyboard.press("Enter")
    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Materialize all (8)").click()
    partitions = page.get_by_placeholder(re.compile(f"^ex: {FIRST}"))
    partitions.fill(f"[{FIRST}...{LAST}]")
    partitions.press("Enter")
    page.get_by_text("Preview", exact=True).click()
    preview = page.get_by_role("dialog").filter(has_text="Backfill preview")
    for asset, chosen in {
        "ards": f"{FIRST}...{LAST}",
        "model": "2024-02-01...2024-02-01",
        "drift_report": "2024-01-01...2024-01-01",
        "model_performance": f"{FIRST}...{LAST}",
    }.items():
        row = re.compile(rf"shop / {asset}Backfills all partitions in a single run((?!shop).)*{chosen}")
        expect(preview).to_contain_text(row)
    page.get_by_role("button", name="OK", exact=True).click()
    launch(page, page.get_by_role("button", name="Launch backfill"))

    page.goto(f"{servers.dagster}/runs?view=BACKFILLS")
    page.get_by_role("link", name="View", exact=True).click()
    # A day is missing, and no model serves the first ones.
    assert end_of_backfill(servers.dagster) == "COMPLETED_FAILED"
    runs = runs_of(servers.dagster)
    assert {status for status, _ in runs} == {"SUCCESS", "FAILURE"}
    assert len(runs) <= 6, runs
    assert runs[0][1] == {"ards", "mrds", "online_features", "validation_report"}

    page.goto(f"{servers.dagster}/assets/shop/mrds?view=partitions&partition={MISSING}")
    expect(page.get_by_role("row").filter(has_text=re.compile("^outcome")).first).to_contain_text("missing")
    page.goto(f"{servers.dagster}/assets/shop/predictions?view=partitions&partition=2024-02-05")
    expect(page.get_by_role("row").filter(has_text=re.compile("^outcome")).first).to_contain_text("written")
