"""The newest record of a day counts, whoever wrote it."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from ml_platform.storage.ledger import SETTLED, DayRecord, Ledger
from ml_platform.storage.path_locations import FolderLocation
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


def at(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Set this machine's clock."""
    monkeypatch.setattr(time, "time_ns", lambda: seconds * 10**9)


def test_the_record_that_was_committed_last_counts_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, slow = Ledger(Tables(str(tmp_path)), "shop"), Ledger(Tables(str(tmp_path)), "shop")
    at(monkeypatch, 2_000)
    fast.record([record(outcome="missing")])
    at(monkeypatch, 1_000)
    slow.record([record(fingerprint="late")])
    assert slow.latest("ards")[DAY].fingerprint == "late"
    seen = slow.latest("ards")
    at(monkeypatch, 500)
    assert slow.record_since([record(outcome="blocked")], seen) == set()
    assert slow.latest("ards")[DAY].outcome == "blocked"
    for n in range(60):  # files are joined in between
        at(monkeypatch, 400 - n)
        slow.record([record(fingerprint=str(n))])
    assert slow.latest("ards")[DAY].fingerprint == "59"


def test_a_stopped_clock_hides_no_record_of_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, 1_000)
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    ledger.record([record(delta_version=4)])
    seen = ledger.latest("ards")
    ledger.record([record(outcome="blocked")])
    assert ledger.record_since([record(delta_version=5)], seen) == {DAY}
    assert ledger.latest("ards")[DAY].outcome == "blocked"


def test_records_from_before_there_were_numbers_come_before_those_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    numbered = ledger._table.schema
    old = pa.schema([field for field in numbered if field.name != "commit"])
    rows = [
        {**dict.fromkeys(old.names), "asset": "ards", "day": DAY, "outcome": "written", "inputs": "i",
         "contract": "c", "code_version": "1", "reason": reason, "run_id": "", "recorded_at": stamp}
        for reason, stamp in (("second", 9_000), ("first", 8_000))
    ]  # fmt: skip
    write_deltalake(str(tmp_path / "shop" / "days"), pa.Table.from_pylist(rows, old))
    assert ledger.latest("ards")[DAY].reason == "second"
    at(monkeypatch, 1)
    ledger.record([record(reason="third")])
    assert ledger.latest("ards")[DAY].reason == "third"


def test_numbers_go_on_in_a_table_that_was_copied(tmp_path: Path) -> None:
    ledger = Ledger(Tables(str(tmp_path / "here")), "shop")
    for n in range(4):
        ledger.record([record(fingerprint=str(n))])
    copy = Ledger(Tables(str(tmp_path / "there")), "shop")
    write_deltalake(str(tmp_path / "there" / "shop" / "days"), ledger._table.scan())
    copy.record([record(fingerprint="newest")])
    assert copy.latest("ards")[DAY].fingerprint == "newest"


def test_processes_that_record_at_once_get_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on an object store: no lock keeps them apart, only that a commit can be made once.
    monkeypatch.setattr(FolderLocation, "lock", lambda *_: contextlib.nullcontext())

    def record_some(writer: int) -> list[int]:
        ledger = Ledger(Tables(str(tmp_path)), "shop")
        return [ledger.record([record(run_id=f"{writer}/{n}")]) for n in range(4)]

    with ThreadPoolExecutor(4) as pool:
        numbers = [number for found in pool.map(record_some, range(4)) for number in found]
    assert sorted(numbers) == list(range(16))
    (newest,) = Ledger(Tables(str(tmp_path)), "shop").latest("ards").values()
    assert newest.commit == 15


def test_records_with_other_outcomes_can_be_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    ledger.record([record(fingerprint="rows")])
    ledger.record([record(outcome="held_back")])
    assert ledger.latest("ards")[DAY].outcome == "held_back"
    assert ledger.latest("ards", {DAY}, outcomes=SETTLED)[DAY].fingerprint == "rows"


@pytest.mark.parametrize(
    ("before", "meanwhile", "mine", "stands"),
    [
        (None, None, {"delta_version": 5}, True),
        ({"delta_version": 4}, None, {"outcome": "missing"}, True),
        # The table was made anew, and its versions began again.
        ({"delta_version": 9}, None, {"delta_version": 0}, True),
        # The later commit is what the table holds.
        ({"delta_version": 4}, {"delta_version": 5}, {"delta_version": 6}, True),
        ({"delta_version": 4}, {"delta_version": 6}, {"delta_version": 5}, False),
        (None, {"delta_version": 0}, {"delta_version": 1}, True),
        # What isn't of a commit can't be told to be older.
        ({"delta_version": 4}, {"outcome": "held_back"}, {"delta_version": 5}, False),
        ({"delta_version": 4}, {"delta_version": 4, "accepted_by": "ann"}, {"delta_version": 5}, False),
        (None, {"fingerprint": "theirs"}, {"fingerprint": "mine"}, False),
    ],
)
@pytest.mark.parametrize("locked", [True, False])
def test_what_another_run_has_recorded_meanwhile_is_passed_over_for_a_later_commit_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, object] | None,
    meanwhile: dict[str, object] | None,
    mine: dict[str, object],
    stands: bool,
    locked: bool,
) -> None:
    monkeypatch.setattr(FolderLocation, "locks", locked)
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    if before is not None:
        ledger.record([record(**before)])
    seen = ledger.latest("ards")
    if meanwhile is not None:
        ledger.record([record(**meanwhile)])
    left_out = ledger.record_since([record(run_id="mine", **mine), record(date(2024, 1, 2))], seen)
    assert left_out == (set() if stands else {DAY})
    assert (ledger.latest("ards")[DAY].run_id == "mine") == stands
    assert date(2024, 1, 2) in ledger.latest("ards")


def test_where_nothing_is_locked_a_record_that_comes_in_between_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderLocation, "locks", False)
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    record_them = ledger.record

    def older_comes_after(records: list[DayRecord]) -> int:
        number = record_them(records)
        record_them([record(delta_version=5)])
        return number

    monkeypatch.setattr(ledger, "record", older_comes_after)
    assert ledger.record_since([record(delta_version=6)], {}) == {DAY}
    assert ledger.record_since([record(delta_version=4)], ledger.latest("ards")) == set()


def test_many_writes_stay_few_files(tmp_path: Path) -> None:
    ledger = Ledger(Tables(str(tmp_path)), "shop")
    for n in range(60):
        ledger.record([record(fingerprint=str(n))])
    assert ledger.latest("ards")[DAY].fingerprint == "59"
    from deltalake import DeltaTable

    assert len(DeltaTable(str(tmp_path / "shop" / "days")).file_uris()) < 50
