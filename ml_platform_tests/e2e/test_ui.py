"""A person materializes a day or a history of the graph in the UI, by clicking, and sees what came of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Locator, Page, expect, sync_playwright

from ml_platform.contract.assets import CATALOGUE
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.mlops.receivers import WebReceiver
from ml_platform_tests.small_platform import SHOP, days, shop, visits

pytestmark = [pytest.mark.slow, pytest.mark.browser]

expect.set_options(timeout=60_000)

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DAY = "2024-01-03"
FIRST, LAST = "2024-01-01", "2024-02-29"
MISSING, REFUSED, BLOCKED = "2024-02-11", "2024-02-13", "2024-02-20"


@dataclass
class Servers:
    dagster: str
    mlflow: str
    reports: str
    process: subprocess.Popen[str]
    log: Path
    home: Path
    environment: dict[str, str]
    alerts: WebReceiver


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
    contract = {**SHOP, "end": "2024-03-01"}
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
    alerts = WebReceiver()
    environment["ML_PLATFORM_ALERT_URLS"] = alerts.url
    port, mlflow_port, reports_port = free_port(), free_port(), free_port()
    # What `ml-platform ui` tells its servers, for the commands of the same morning.
    environment["ML_PLATFORM_DAGSTER_UI_URL"] = f"http://127.0.0.1:{port}"
    environment["ML_PLATFORM_REPORTS_URL"] = f"http://127.0.0.1:{reports_port}"
    command = [str(Path(sys.executable).parent / "ml-platform"), "ui"]
    command += ["--port", str(port), "--mlflow-port", str(mlflow_port), "--reports-port", str(reports_port)]
    log = tmp_path / "ui.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True)
    addresses = (f"http://127.0.0.1:{number}" for number in (port, mlflow_port, reports_port))
    found = Servers(*addresses, process, log, home, environment, alerts)
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
        alerts.close()


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


def red(base: str, asset: str) -> set[str]:
    """The failed partitions of an asset, as its page shows them."""
    ranges = "... on TimePartitionStatuses { ranges { status startKey endKey } }"
    query = f"""{{ assetNodeOrError(assetKey: {{path: ["shop", "{asset}"]}}) {{
        ... on AssetNode {{ assetPartitionStatuses {{ {ranges} }} }} }} }}"""
    statuses = graphql(base, query)["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
    return {
        str(day)
        for found in statuses
        if found["status"] == "FAILED"
        for day in days(found["startKey"][:10], found["endKey"][:10])
    }


def made(home: Path) -> dict[str, Counter[str]]:
    """What there is of each asset, from the ledger: its partitions by outcome; and the registry's models."""
    settings = settings_in(home)
    ledger = Ledger(Tables.of(settings), "shop")
    found = {
        asset: Counter(record.outcome for record in ledger.latest(asset).values()) for asset in CATALOGUE
    }
    pages = (settings.reports_path / "shop").glob("*/*/report.html")
    found["reports"] = Counter(page.parts[-3] for page in pages)
    found["models"] = Counter(model.kind for model in ModelHistory(Tables.of(settings), shop()).models())
    return found


def start_sensor(base: str, name: str) -> None:
    repository = 'repositoryName: "__repository__", repositoryLocationName: "ml_platform"'
    started = graphql(
        base,
        f"""mutation {{ startSensor(sensorSelector: {{{repository}, sensorName: "{name}"}}) {{
            __typename ... on Sensor {{ sensorState {{ status }} }} }} }}""",
    )["startSensor"]
    assert started["sensorState"]["status"] == "RUNNING", started


def opens(page: Page, name: str, address: str) -> None:
    """Follow a link to a page that has what the link's name promises."""
    answer = page.goto(address)
    assert answer is not None
    assert answer.ok, address
    day = re.search(r"\d{4}-\d{2}-\d{2}", address)
    match name:
        case "report":
            assert day is not None
            expect(page.get_by_role("heading", level=1)).to_contain_text(day[0])
        case "Today":
            expect(page.get_by_role("heading", level=1)).to_have_text("shop")
        case "day":
            assert day is not None
            outcome = page.get_by_role("row").filter(has_text=re.compile("^outcome")).first
            expect(outcome).to_contain_text(re.compile("missing|refused|blocked"))
        case "check":
            expect(page.get_by_text("data_quality").first).to_be_visible()
        case "run":
            expect(page.get_by_text("Failure", exact=True).first).to_be_visible()
        case _:
            expect(page.get_by_role("button", name=re.compile("Materialize all"))).to_be_visible()


def months_with_figures(base: str, asset: str) -> set[str]:
    """The partitions of an asset whose newest materialization has figures, which its plots are made of."""
    query = f"""{{ assetOrError(assetKey: {{path: ["shop", "{asset}"]}}) {{ ... on Asset {{
        assetMaterializations {{ partition metadataEntries {{ __typename }} }} }} }} }}"""
    made = graphql(base, query)["assetOrError"]["assetMaterializations"]
    numbers = {"IntMetadataEntry", "FloatMetadataEntry"}
    return {
        event["partition"]
        for event in made
        if numbers & {entry["__typename"] for entry in event["metadataEntries"]}
    }


def run(program: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would."""
    words = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def texts(page: Page, selector: str) -> list[str]:
    return [found.inner_text() for found in page.locator(selector).all()]


@pytest.mark.timeout(1200)
def test_a_morning_after_a_backfill_by_clicking(servers: Servers, page: Page, tmp_path: Path) -> None:
    """Two months with a missing, a refused and a blocked day: seen, corrected, accepted."""
    landing = settings_in(servers.home).landing_path / "shop"
    refused = landing / REFUSED / "rows.csv"
    good = refused.read_text()
    refused.write_text("no,header\n")
    blocked = landing / BLOCKED / "rows.csv"
    blocked.write_text(blocked.read_text().replace(",app", ",fax"))
    commanded = tmp_path / "commanded"
    shutil.copytree(landing, settings_in(commanded).landing_path / "shop")

    # The backfill of everything, by clicking.
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
        "drift_report": "2024-01-01...2024-02-01",
        "model_performance": f"{FIRST}...{LAST}",
    }.items():
        row = re.compile(rf"shop / {asset}Backfills all partitions in a single run((?!shop).)*{chosen}")
        expect(preview).to_contain_text(row)
    page.get_by_role("button", name="OK", exact=True).click()
    launch(page, page.get_by_role("button", name="Launch backfill"))

    page.goto(f"{servers.dagster}/runs?view=BACKFILLS")
    page.get_by_role("link", name="View", exact=True).click()
    # Three days are bad, and no model serves the first ones.
    assert end_of_backfill(servers.dagster) == "COMPLETED_FAILED"
    runs = runs_of(servers.dagster)
    assert {status for status, _ in runs} == {"SUCCESS", "FAILURE"}
    # January needs no model: its predictions may go ahead of those that wait for one.
    assert len(runs) <= 10, runs
    assert runs[0][1] == {"ards", "mrds", "online_features", "validation_report"}
    assert red(servers.dagster, "ards") == {MISSING, REFUSED, BLOCKED}

    # The command makes of the same days the same.
    environment = servers.environment | {"ML_PLATFORM_HOME": str(commanded)}
    del environment["DAGSTER_HOME"]
    ended = run("ml-platform", "backfill", "shop", "--from", FIRST, "--to", LAST, environment=environment)
    assert ended.returncode == 1, ended.stderr
    assert made(servers.home) == made(commanded)

    # From the first page it takes one click to what is wrong, why, and the commands.
    page.goto(f"{servers.reports}/_today/index.html")
    page.get_by_role("link", name="shop", exact=True).click()
    facts = texts(page, "article.fact")
    for day, cause in {
        MISSING: "no rows have been delivered",
        REFUSED: "no column of the contract is in the first line 'no,header'",
        BLOCKED: "value not allowed in channel: ",
    }.items():
        told = [fact for fact in facts if day in fact and "ml-platform backfill shop" in fact]
        assert any(cause in fact for fact in told), (day, facts)
    (accept,) = {line for line in texts(page, "code") if f"accept shop {BLOCKED}" in line}
    (again,) = {line for line in texts(page, "code") if f"--from {REFUSED}" in line}
    page.screenshot(path=str(tmp_path / "today.png"), full_page=True)

    # The alert says the same; each of its links opens what it promises.
    start_sensor(servers.dagster, "shop_alert_sensor")
    while not servers.alerts.received:
        assert servers.process.poll() is None, servers.log.read_text()
        time.sleep(0.5)
    alert = servers.alerts.received[0]["message"]
    assert all(day in alert for day in (MISSING, REFUSED, BLOCKED))
    links = re.findall(r"^ *([^:\n]+): (http\S+)$", alert, re.MULTILINE)
    assert {name for name, _ in links} >= {"report", "day", "check", "Today", "All of shop"}
    for name, address in dict.fromkeys(links):
        opens(page, name, address)

    # A partition's own link opens its report, which can be read on a phone.
    page.goto(f"{servers.dagster}/assets/shop/validation_report?view=partitions&partition={BLOCKED}")
    address = page.get_by_role("link", name=re.compile("report.html$")).first.get_attribute("href")
    assert address is not None
    page.set_viewport_size({"width": 390, "height": 844})
    opens(page, "report", address)
    page.screenshot(path=str(tmp_path / "phone.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for label in ("Observed", "Expected"):
        box = page.locator(f'td[data-label="{label}"]').first.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= 390
    page.set_viewport_size({"width": 1600, "height": 1000})
    page.get_by_role("link", name="In Dagster").click()
    expect(page.get_by_text(BLOCKED).first).to_be_visible()

    # What Dagster plots has a point for each month.
    assert months_with_figures(servers.dagster, "drift_report") == {"2024-01-01", "2024-02-01"}

    # One day is corrected and one is accepted, by the commands that the page has.
    refused.write_text(good)
    for line in (again, accept.replace("…", "a campaign by fax")):
        for command in line.split(" && "):
            ended = run(*shlex.split(command), environment=servers.environment)
            assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    assert red(servers.dagster, "ards") == red(servers.dagster, "mrds") == {MISSING}
    page.reload()
    facts = texts(page, "article.fact")
    assert not [fact for fact in facts if REFUSED in fact or BLOCKED in fact], facts
    page.goto(f"{servers.dagster}/assets/shop/ards?view=partitions&partition={BLOCKED}")
    expect(page.get_by_role("row").filter(has_text=re.compile("^outcome")).first).to_contain_text("written")
    expect(page.get_by_text("a campaign by fax").first).to_be_visible()
