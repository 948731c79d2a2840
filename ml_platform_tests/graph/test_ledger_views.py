"""What ticks know of a ledger is what it says; nothing of it is read while it stays as it is."""

from __future__ import annotations

import random
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_platform.graph import ledger_views
from ml_platform.mlops.alerts.findings import Finding, of_records
from ml_platform.storage import datasets
from ml_platform.storage.ledger import DayRecord, Ledger, Outcome
from ml_platform.storage.path_locations import FolderLocation
from ml_platform.storage.small_tables import ControlTable
from ml_platform.storage.tables import Tables

ASSETS = ("ards", "mrds", "model_performance", "predictions")
OUTCOMES: tuple[Outcome, ...] = ("written", "empty", "missing", "refused", "blocked", "held_back", "no_model")


def ledger_in(folder: Path) -> Ledger:
    return Ledger(Tables(str(folder)), "shop")


def drawn(draw: random.Random, asset: str, day: date) -> DayRecord:
    outcome = draw.choice(OUTCOMES)
    checks: list[dict[str, Any]] = []
    if outcome in ("written", "blocked"):
        name = "performance_above_threshold" if asset == "model_performance" else "data_quality"
        checks = [
            {
                "name": name,
                "passed": draw.random() < 0.6,
                "severity": draw.choice(["ERROR", "WARN"]),
                "description": f"observed {draw.random():.3f}",
            }
        ]
    return DayRecord(
        asset,
        day,
        outcome,
        inputs=draw.choice(["", "a", "b/refused"]),
        contract="c",
        code_version="1",
        reason="because",
        details={"checks": checks, "metadata": {}},
        accepted_by=draw.choice([None, None, "ann"]),
    )


def read_whole(ledger: Ledger) -> tuple[list[Finding], dict[date, str]]:
    records = {asset: ledger.latest(asset) for asset in ASSETS}
    return of_records(records), {day: record.inputs for day, record in records["ards"].items()}


@pytest.mark.parametrize("seed", range(4))
def test_following_a_ledger_finds_what_reading_it_whole_does(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    ledger = ledger_in(tmp_path)
    for _ in range(6):
        asset = draw.choice(ASSETS)
        chosen = draw.sample(range(12), 4)
        ledger.record([drawn(draw, asset, date(2024, 1, 1) + timedelta(days=n)) for n in chosen])
        if draw.random() < 0.7:
            wrong, made_from = read_whole(ledger)
            key = lambda finding: finding.key  # noqa: E731
            assert sorted(ledger_views.wrong(ledger), key=key) == sorted(wrong, key=key)
            assert ledger_views.made_from(ledger) == made_from


def refused(day: str, reason: str = "a.csv") -> DayRecord:
    return DayRecord(
        "ards", date.fromisoformat(day), "refused", inputs="i", contract="c", code_version="1", reason=reason
    )


def test_nothing_is_read_while_the_ledger_stays_and_only_what_is_new_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledger_in(tmp_path)
    ledger.record([refused(f"2024-01-{day:02}") for day in range(1, 29)])
    rows: list[int] = []
    scan = ControlTable.scan

    def counted(self: ControlTable, *args: Any, **options: Any) -> Any:
        table = scan(self, *args, **options)
        rows.append(len(table))
        return table

    monkeypatch.setattr(ControlTable, "scan", counted)
    for _ in range(3):
        assert len(ledger_views.wrong(ledger)) == len(ledger_views.made_from(ledger)) == 28
    assert rows == [28]
    ledger.record([refused("2024-02-01")])
    assert len(ledger_views.wrong(ledger)) == 29
    assert rows == [28, 1]


def test_a_ledger_is_opened_once_however_often_it_is_asked_while_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, opened = ledger_in(tmp_path), []
    open_it = FolderLocation.open

    def counted(self: FolderLocation, product: str, table: str) -> Any:
        opened.append(table)
        return open_it(self, product, table)

    monkeypatch.setattr(FolderLocation, "open", counted)
    for day in range(1, 4):
        ledger.record([refused(f"2024-01-0{day}")])
        opened.clear()
        for other in (ledger, ledger_in(tmp_path)):
            assert len(other.latest("ards")) == len(other.changes().inputs) == day
            assert len(ledger_views.wrong(other)) == day
            assert other.version() == f"{other.identity()}/{day - 1}"
        assert opened == ["days"]


def test_few_tables_are_kept_open(tmp_path: Path) -> None:
    ledgers = [Ledger(Tables(str(tmp_path)), f"shop{n}") for n in range(datasets._KEPT_OPEN)]
    for ledger in ledgers:
        ledger.record([refused("2024-01-01")])
    for ledger in ledgers:
        assert len(ledger.latest("ards")) == 1
    assert len(datasets._kept) == datasets._KEPT_OPEN


def test_a_ledger_that_was_made_anew_is_read_whole(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.record([refused("2024-01-01")])
    assert [one.partition for one in ledger_views.wrong(ledger)] == ["2024-01-01"]
    shutil.rmtree(tmp_path / "shop")
    assert ledger_views.wrong(ledger) == []
    ledger.record([refused("2024-01-02")])
    assert [one.partition for one in ledger_views.wrong(ledger)] == ["2024-01-02"]
    assert list(ledger_views.made_from(ledger)) == [date(2024, 1, 2)]


def test_a_ledger_that_cannot_be_read_is_read_whole_when_it_can(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.record([refused("2024-01-01")])
    ledger_views.wrong(ledger)
    ledger.record([refused("2024-01-02")])
    newest = max((tmp_path / "shop" / "days" / "_delta_log").glob("*.json"))
    content = newest.read_bytes()
    newest.write_bytes(b"no json")
    with pytest.raises(Exception, match=r"(?i)json|log|commit"):
        ledger_views.wrong(ledger)
    newest.write_bytes(content)
    assert len(ledger_views.wrong(ledger)) == 2


def test_what_depends_on_a_table_is_computed_again_when_the_table_or_the_argument_changes(
    tmp_path: Path,
) -> None:
    ledger = ledger_in(tmp_path)
    computed: list[int] = []

    def value(argument: int) -> int:
        def compute() -> int:
            computed.append(argument)
            return len(computed)

        return ledger_views.of_version(ledger, "value", compute, argument=argument)

    assert [value(1), value(1), value(2), value(2)] == [1, 1, 2, 2]
    ledger.record([refused("2024-01-01")])
    assert [value(2), value(2)] == [3, 3]
