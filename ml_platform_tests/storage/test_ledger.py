"""The newest record of a day counts, whoever wrote it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

DAY = date(2024, 1, 1)


def record(day: date = DAY, **values: object) -> DayRecord:
    facts = {"outcome": "written", "inputs": "i", "contract": "c", "code_version": "1", **values}
    return DayRecord(asset="ards", day=day, **facts)  # type: ignore[arg-type]


def test_a_ledger_that_was_never_written_knows_nothing(tmp_path: Path) -> None:
    assert Ledger(Tables(str(tmp_path)), "shop").latest("ards") == {}


def test_the_newest_record_of_each_day_counts(tmp_path: Path) -> None:
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    ledger.record([record(fingerprint="old"), record(date(2024, 1, 2), fingerprint="other")])
    ledger.record([record(outcome="blocked", reason="nulls", counts={"rows": 3}, details={"x": [1]})])
    found = ledger.latest("ards")
    assert [day.day for day in found] == [1, 2]
    assert (found[DAY].outcome, found[DAY].reason, found[DAY].counts) == ("blocked", "nulls", {"rows": 3})
    assert found[DAY].details == {"x": [1]}
    assert not found[DAY].usable
    assert ledger.latest("mrds") == {}
    assert list(ledger.latest("ards", {date(2024, 1, 2)})) == [date(2024, 1, 2)]


def test_many_writes_stay_few_files(tmp_path: Path) -> None:
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    for n in range(60):
        ledger.record([record(fingerprint=str(n))])
    assert ledger.latest("ards")[DAY].fingerprint == "59"
    from deltalake import DeltaTable

    assert len(DeltaTable(str(tmp_path / "shop" / "days")).file_uris()) < 50
