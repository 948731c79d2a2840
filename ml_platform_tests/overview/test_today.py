"""The page of today: what it says of a history that a ledger tells of, without Spark, whatever is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform.contract.assets import daily
from ml_platform.contract.product import Product
from ml_platform.graph.today import Pages, look_at, publish, today_sensor
from ml_platform.machine_learning import performance
from ml_platform.mlops.html import plots
from ml_platform.overview import pages
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger, Outcome
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import D, days, shop

FIRST, LAST = "2024-01-01", "2024-03-10"
NOW = datetime(2024, 6, 1, 6, 0, tzinfo=UTC)  # long after the end: nothing is overdue


@pytest.fixture
def product() -> Product:
    return shop(end=LAST)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def record(settings: Settings, *records: DayRecord) -> None:
    Ledger(Tables.of(settings), "shop").record(records)


def made(asset: str, day: date | str, outcome: Outcome = "written", **more: Any) -> DayRecord:
    when = D(day) if isinstance(day, str) else day
    return DayRecord(asset, when, outcome, inputs="i", contract="c", code_version="1", **more)


def make(settings: Settings, product: Product, bad: Mapping[str, tuple[Outcome, str]] | None = None) -> None:
    """A history in which all is done, but for the bad days; what is below these is held back."""
    records = []
    for day in days(FIRST, LAST):
        outcome, reason = (bad or {}).get(str(day), ("written", ""))
        for asset in daily():
            below: Outcome = (
                "held_back" if outcome != "written" and asset != "validation_report" else "written"
            )
            records.append(made(asset, day, outcome if asset == "ards" else below, reason=reason))
    record(settings, *records)


def look(settings: Settings, product: Product, now: datetime = NOW) -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        return look_at(product, settings, instance, lambda _: now)


def page(settings: Settings, product: Product) -> str:
    with dg.DagsterInstance.ephemeral() as instance:
        return Pages({"shop": product}, settings, instance, lambda _: NOW).of_product("shop")


class Addresses(HTMLParser):
    """All that a page would load, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href", "srcset", "data", "action") or name.startswith("on"):
                self.loads.append(f"{tag} {name}={value}")


def test_a_history_in_which_nothing_is_wrong_is_done(settings: Settings, product: Product) -> None:
    make(settings, product)
    found = look(settings, product)
    assert (found.status, found.headline, list(found.facts)) == ("done", "All is done", [])
    assert found.newest == D(LAST)
    assert set(found.days.values()) == {"written"}
    assert "The history is complete." in page(settings, product)


def test_what_is_wrong_is_said_with_its_cause_and_the_commands(settings: Settings, product: Product) -> None:
    make(settings, product, {"2024-02-05": ("refused", "a.csv: missing columns: pages")})
    found = look(settings, product)
    (fact,) = found.facts
    assert found.status == "error"
    assert fact.title == "Mon 2024-02-05, ards refused"
    assert fact.causes == ("a.csv: missing columns: pages",)
    assert fact.holds_back == "mrds, online_features, predictions of the day"
    assert fact.remedies[0].command == "ml-platform backfill shop --from 2024-02-05 --to 2024-02-05"
    shown = page(settings, product)
    assert "ml-platform backfill shop --from 2024-02-05 --to 2024-02-05" in shown
    assert "../validation_report/2024-02-05/report.html" in shown


def test_a_day_is_as_its_worst_asset_and_days_that_were_never_made_are_seen(
    settings: Settings, product: Product
) -> None:
    make(settings, product, {"2024-01-10": ("missing", "no files"), "2024-01-12": ("blocked", "3 nulls")})
    record(settings, made("ards", "2024-01-12", accepted_by="ann", accepted_reason="fine"))
    record(settings, made("ards", "2024-03-15"))
    found = look(settings, product)
    assert found.days[D("2024-01-10")] == "missing"
    assert found.days[D("2024-01-12")] == "held_back", "it was accepted, and isn't made yet"
    assert found.days[D("2024-03-12")] == "not_made"
    assert found.days[D("2024-03-15")] == "not_made"
    assert {line.name: line.behind for line in found.assets if line.behind} == dict.fromkeys(
        [asset for asset in daily() if asset != "ards"], 5
    )


def test_many_bad_days_are_a_few_entries_that_name_the_newest(settings: Settings, product: Product) -> None:
    bad = {str(day): ("refused", f"reason of {day}") for day in days("2024-02-01", "2024-02-20")}
    make(settings, product, bad)  # type: ignore[arg-type]
    found = look(settings, product)
    assert [fact.title for fact in found.facts] == [
        "Tue 2024-02-20, ards refused",
        "Mon 2024-02-19, ards refused",
        "Sun 2024-02-18, ards refused",
        "2024-02-01 to 2024-02-17, ards refused",
    ]
    assert found.facts[-1].causes == ("17 days; the newest: reason of 2024-02-17",)
    assert (
        found.facts[-1].remedies[0].command == "ml-platform backfill shop --from 2024-02-01 --to 2024-02-17"
    )


def test_a_product_without_a_day_and_a_directory_without_a_table_have_a_page(
    settings: Settings, product: Product
) -> None:
    shown = page(settings, product)
    assert "Nothing has been made yet" in shown
    assert "No model serves yet" in shown


HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>\'"&'


def test_nothing_of_the_contract_or_the_data_becomes_part_of_the_page(settings: Settings) -> None:
    product = shop(end=LAST, description=HOSTILE)
    make(settings, product, {"2024-02-05": ("refused", HOSTILE)})
    scores = {f"{HOSTILE} vs training": 0.5, "drifted": 1, "measured": 1}
    record(settings, made("drift_report", "2024-02-01", details={"metadata": scores, "checks": []}))
    with dg.DagsterInstance.ephemeral() as instance:
        made_ = Pages({"shop": product}, settings, instance, lambda _: NOW, {HOSTILE: HOSTILE})
        for shown in (made_.of_product("shop"), made_.of_all()):
            parsed = Addresses(shown)
            assert not {"script", "img", "iframe", "link", "form", "object"} & parsed.tags
            assert parsed.loads == []
            assert "alert(" in shown
            assert all(link.startswith(("../", "http://127.0.0.1:")) for link in parsed.links)


def test_its_metric_drift_and_champion_are_shown_over_time(settings: Settings, product: Product) -> None:
    make(settings, product)
    rows = []
    for day in days("2024-02-10", LAST):
        row: dict[str, Any] = dict.fromkeys(performance._SCHEMA.names)
        value = 0.55 if day == D("2024-02-20") else 0.7
        row |= {"event_day": day, "value": value, "lower": value - 0.02, "upper": value + 0.02}
        rows.append(row | {"verdict": "failed" if value < 0.6 else "passed", "fingerprint": "f"})
    performance.replace(Tables.of(settings), product, [row["event_day"] for row in rows], rows)
    for month, score in (("2024-01-01", 0.05), ("2024-02-01", 0.31)):
        metadata = {"spend vs training": score, "spend vs month before": 0.01, "drifted": 1, "measured": 2}
        record(settings, made("drift_report", month, details={"metadata": metadata, "checks": []}))
    found = look(settings, product)
    assert [one.day for one in found.evaluated if one.failed] == [D("2024-02-20")]
    assert [(str(one.month), one.scores) for one in found.drift] == [
        ("2024-01-01", {"spend": 0.05}),
        ("2024-02-01", {"spend": 0.31}),
    ]
    shown = page(settings, product)
    assert "2024-02-20: 0.5500" in shown
    assert re.search(r'<td class="h0">0\.05</td><td class="h3">0\.31</td>', shown)


def test_ten_years_of_days_are_each_there_and_good_old_ones_are_no_links(
    settings: Settings, product: Product
) -> None:
    records = [made(asset, D("2014-01-01") + timedelta(days=n)) for n in range(3650) for asset in daily()]
    record(settings, *records)
    shown = page(settings, product)
    assert shown.count("<rect") == 3650
    assert 360 < shown.count("../validation_report/") < 370
    assert len(shown) < 600_000


def test_a_line_of_many_points_keeps_the_least_of_them() -> None:
    points = [plots.Point(D("2014-01-01") + timedelta(days=n), 0.8) for n in range(3650)]
    points[1234] = plots.Point(points[1234].day, 0.2, failed=True)
    drawn = plots.timeline(points, 0.6, [], "f1")
    assert f"{points[1234].day}: 0.2000" in drawn
    assert drawn.count(",") < 2000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_value_that_is_none_interrupts_a_line_and_breaks_nothing(value: float | None) -> None:
    points = [plots.Point(D("2024-01-01"), 0.5), plots.Point(D("2024-01-02"), value)]
    assert plots.timeline(points, 0.6, [], "f1").startswith("<svg")
    assert plots.timeline(points[1:], 0.6, [], "f1") == ""


def test_one_product_that_cannot_be_read_hides_no_other(settings: Settings, product: Product) -> None:
    make(settings, product)
    broken = shop(name="broken", end=LAST)
    place = settings.home / "tables" / "broken" / "days"
    (place / "_delta_log").mkdir(parents=True)
    (place / "_delta_log" / "00000000000000000000.json").write_text("no JSON")
    with dg.DagsterInstance.ephemeral() as instance:
        shown = Pages({"broken": broken, "shop": product}, settings, instance, lambda _: NOW).of_all()
    assert "shop/_today/index.html" in shown
    assert "1 of 2 need attention" in shown
    assert "broken" in shown


def test_the_pages_are_files_beside_the_reports_and_replace_none(
    settings: Settings, product: Product
) -> None:
    make(settings, product)
    report = settings.reports_path / "shop" / "validation_report" / "2024-01-03" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("a report")
    with dg.DagsterInstance.ephemeral() as instance:
        links = publish(Pages({"shop": product}, settings, instance, lambda _: NOW))
    assert links == {
        "shop": "http://127.0.0.1:3001/shop/_today/index.html",
        "": "http://127.0.0.1:3001/_today/index.html",
    }
    assert "All is done" in (settings.reports_path / "shop" / "_today" / "index.html").read_text()
    assert 'href="../shop/_today/index.html"' in (settings.reports_path / "_today/index.html").read_text()
    assert report.read_text() == "a report"


def test_the_sensor_writes_a_page_when_something_has_changed_and_once_an_hour(
    settings: Settings, product: Product
) -> None:
    make(settings, product)
    now = [NOW]
    sensor = today_sensor({"shop": product}, settings, clock=lambda _: now[0])
    place = settings.reports_path / "shop" / "_today" / "index.html"

    def tick(instance: dg.DagsterInstance) -> str | None:
        found = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
        return found.skip_message

    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(instance) == "written: shop"
        assert tick(instance) == "nothing has changed"
        record(settings, made("ards", "2024-02-05", "refused", reason="a.csv is no CSV"))
        assert tick(instance) == "written: shop"
        assert "a.csv is no CSV" in place.read_text()
        now[0] += timedelta(hours=1)
        assert tick(instance) == "written: shop"


def test_no_page_needs_spark() -> None:
    code = "import sys, ml_platform.graph.today; print('pyspark' in sys.modules, 'mlflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_every_outcome_has_a_word_and_a_colour() -> None:
    style = (Path(pages.__file__).parents[1] / "mlops/html/templates/today.css").read_text()
    for outcome in pages.WORST_FIRST:
        assert outcome in pages.WORDS
        assert f".kind-{outcome} {{ --kind" in style or f".kind-{outcome}, " in style
