"""Maintenance removes records from a ledger of which no query gives anything, beside runs that append."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args
from unittest.mock import patch

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.graph import ledger_views
from ml_platform.storage import small_tables
from ml_platform.storage.ledger import (
    DESCRIBED,
    SETTLED,
    SORT,
    WITHDRAWN,
    WITHOUT_ROWS,
    DayRecord,
    Ledger,
    Outcome,
)
from ml_platform.storage.path_locations import FolderLocation
from ml_platform.storage.tables import Tables

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ASSETS = ("ards", "model_performance")
DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(3)]
AT_ONCE = timedelta(0)

DETAILS = st.sampled_from(
    [
        {},
        {WITHDRAWN: 7},
        {WITHDRAWN: 0},
        {"profile": {WITHDRAWN: [1, 2]}},
        {"metadata": {"report": f'"{WITHDRAWN}": 5'}},
        {"checks": [{"name": "data_quality", "passed": False, "severity": "ERROR", "description": "no"}]},
        {"checks": [{"name": "performance_above_threshold", "passed": True, "severity": "ERROR"}]},
    ]
)
RECORDS = st.builds(
    DayRecord,
    asset=st.sampled_from(ASSETS),
    day=st.sampled_from(DAYS),
    outcome=st.sampled_from(OUTCOMES),
    inputs=st.sampled_from(["", "a", "b"]),
    contract=st.just("c"),
    code_version=st.just("1"),
    reason=st.text(max_size=3),
    counts=st.just({"rows": 3}),
    details=DETAILS,
    delta_version=st.none() | st.integers(0, 9),
    accepted_by=st.sampled_from([None, "ann"]),
)
#: Of each commit one record a day of an asset, as steps and people record them.
COMMITS = st.lists(
    st.lists(RECORDS, min_size=1, max_size=6, unique_by=lambda record: (record.asset, record.day)),
    min_size=1,
    max_size=9,
)


def ledger_in(folder: str | Path) -> Ledger:
    return Ledger(Tables(str(folder)), "shop")


def record(day: date = DAYS[0], **values: object) -> DayRecord:
    facts = {"outcome": "written", "inputs": "i", "contract": "c", "code_version": "1", **values}
    return DayRecord(asset="ards", day=day, **facts)  # type: ignore[arg-type]


def count(ledger: Ledger) -> int:
    return len(ledger._table.scan())


def answers(ledger: Ledger, commits: int) -> dict[Any, Any]:
    """What every query gives: by each outcome, so by any of them together, and after every other commit."""
    found: dict[Any, Any] = {}
    together: list[Collection[Outcome]] = [SETTLED | WITHOUT_ROWS, {"written", "blocked", *WITHOUT_ROWS}]
    choices = [None, *together, *([outcome] for outcome in OUTCOMES)]
    for asset in ASSETS:
        for number, choice in enumerate(choices):
            found["latest", asset, number] = ledger.latest(asset, outcomes=choice)
        found["without details", asset] = ledger.latest(asset, set(DAYS[:2]), details=False)
        found["between", asset] = ledger.between(asset, DAYS[1], DAYS[2])
        found["withdrawals", asset] = ledger.withdrawals(asset)
    for after in (None, *range(-1, commits + 1, 2)):
        changes = ledger.changes(after, keep=["performance_above_threshold"])
        records = {(one.asset, one.day): one for one in changes.records}
        found["changes", after] = (records, changes.others, changes.inputs, changes.commit)
    return found


@contextlib.contextmanager
def clock() -> Iterator[None]:
    """A machine whose clock goes on by a day with every commit."""
    ticks = itertools.count(1)
    with patch.object(time, "time_ns", lambda: next(ticks) * 86_400 * 10**9):
        yield


@pytest.mark.slow
@given(commits=COMMITS, keep=st.sampled_from([AT_ONCE, timedelta(days=2), timedelta(days=400)]))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_every_query_gives_the_same_before_and_after(commits: list[list[DayRecord]], keep: timedelta) -> None:
    with TemporaryDirectory() as folder, clock():
        ledger = ledger_in(folder)
        numbers = [ledger.record(records) for records in commits]
        before, rows = answers(ledger, max(numbers)), count(ledger)
        removed = ledger.compact(keep)
        assert answers(ledger, max(numbers)) == before
        assert count(ledger) == rows - (removed or 0)
        assert ledger.compact(keep) == 0
        # Independently: what Python finds to be superseded, and older than what is kept.
        flat = [(number, one) for number, records in enumerate(commits) for one in records]
        superseded = 0
        for position, (number, one) in enumerate(flat):
            later = [
                other for _, other in flat[position + 1 :] if (other.asset, other.day) == (one.asset, one.day)
            ]
            last_of_outcome = not any(other.outcome == one.outcome for other in later)
            tells = one.outcome in WITHOUT_ROWS and one.details.get(WITHDRAWN)
            last_withdrawal = tells and not any(
                other.outcome in WITHOUT_ROWS and other.details.get(WITHDRAWN) for other in later
            )
            old = timedelta(days=len(commits) - 1 - number) > keep
            superseded += old and not last_of_outcome and not last_withdrawal
        assert removed == superseded
        # And it goes on: records, files that are joined, another compaction.
        next_one = ledger.record(commits[0])
        assert next_one > max(numbers)
        assert ledger.latest(commits[0][0].asset)[commits[0][0].day].commit == next_one


@given(commits=COMMITS)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_whoever_follows_a_ledger_notices_nothing(commits: list[list[DayRecord]]) -> None:
    with TemporaryDirectory() as folder:
        ledger = ledger_in(folder)
        for position, records in enumerate(commits):
            ledger.record(records)
            if position % 3 == 0:
                ledger.compact(AT_ONCE)
            if position % 2 == 0:
                wrong, made_from = ledger_views.wrong(ledger), ledger_views.made_from(ledger)
                ledger_views._views.clear()
                assert sorted(map(str, wrong)) == sorted(map(str, ledger_views.wrong(ledger)))
                assert made_from == ledger_views.made_from(ledger)


def test_a_record_that_comes_while_a_ledger_is_compacted_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on an object store, where nothing is locked.
    monkeypatch.setattr(FolderLocation, "lock", lambda *_: contextlib.nullcontext())
    ledger = ledger_in(tmp_path)
    for n in range(4):
        ledger.record([record(fingerprint=str(n))])
    read = FolderLocation.datasets

    def with_a_record_in_between(self: FolderLocation, *args: Any) -> Iterator[ds.Dataset]:
        parts = list(read(self, *args))
        monkeypatch.setattr(FolderLocation, "datasets", read)
        ledger_in(tmp_path).record([record(DAYS[1], fingerprint="meanwhile")])
        yield from parts

    monkeypatch.setattr(FolderLocation, "datasets", with_a_record_in_between)
    assert ledger.compact(AT_ONCE) is None
    assert count(ledger) == 5
    assert ledger.latest("ards")[DAYS[1]].fingerprint == "meanwhile"
    assert ledger.compact(AT_ONCE) == 3
    assert {day: one.fingerprint for day, one in ledger.latest("ards").items()} == {
        DAYS[0]: "3",
        DAYS[1]: "meanwhile",
    }


@pytest.mark.parametrize("locked", [True, False])
def test_runs_record_beside_compactions_and_nothing_of_theirs_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    if not locked:
        monkeypatch.setattr(FolderLocation, "lock", lambda *_: contextlib.nullcontext())
    ledger_in(tmp_path).record([record()])

    def record_some(writer: int) -> None:
        for n in range(6):
            ledger_in(tmp_path).record([record(DAYS[writer], run_id=f"{writer}/{n}")])

    def compact(_: int) -> list[int | None]:
        return [ledger_in(tmp_path).compact(AT_ONCE) for _ in range(6)]

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(record_some, writer) for writer in range(3)]
        compacted = pool.submit(compact, 0)
        for writer in writers:
            writer.result()
        removed = sum(one or 0 for one in compacted.result())
    ledger = ledger_in(tmp_path)
    assert {one.run_id for one in ledger.latest("ards").values()} == {"0/5", "1/5", "2/5"}
    assert count(ledger) == 19 - removed
    ledger.compact(AT_ONCE)
    assert count(ledger) == 3


def test_a_ledger_from_before_there_were_numbers_is_compacted_too(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    assert ledger.compact(AT_ONCE) == 0, "there is none yet"
    schema = pa.schema([field for field in ledger._table.schema if field.name != "commit"])
    rows = [
        {**dict.fromkeys(schema.names), "asset": "ards", "day": DAYS[0], "outcome": outcome, "inputs": "i",
         "contract": "c", "code_version": "1", "reason": "", "run_id": run, "recorded_at": stamp}
        for run, outcome, stamp in (("b", "written", 9_000), ("a", "written", 8_000), ("c", "blocked", 7_000))
    ]  # fmt: skip
    write_deltalake(str(tmp_path / "shop" / "days"), pa.Table.from_pylist(rows, schema))
    assert ledger.compact(AT_ONCE) == 1
    assert ledger.latest("ards")[DAYS[0]].run_id == "b"
    assert ledger.latest("ards", outcomes=["blocked"])[DAYS[0]].run_id == "c"
    ledger.record([record(run_id="d")])
    assert ledger.compact(AT_ONCE) == 1
    assert ledger.latest("ards")[DAYS[0]].run_id == "d"


def test_what_a_later_version_has_added_to_the_table_stays(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.record([record(run_id="1")])
    ledger.record([record(run_id="2")])
    place = str(tmp_path / "shop" / "days")
    (row,) = ledger._table.scan().slice(0, 1).to_pylist()
    schema = ledger._table.schema.append(pa.field("since_then", pa.string()))
    newer = pa.Table.from_pylist([row | {"day": DAYS[1], "since_then": "kept"}], schema)
    write_deltalake(place, newer, mode="append", schema_mode="merge")
    assert ledger.compact(AT_ONCE) == 1
    assert "kept" in DeltaTable(place).to_pyarrow_table()["since_then"].to_pylist()


def test_details_are_not_read_for_outcomes(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    ledger.record([record(details={"text": "x" * 1_000_000})])
    (part,) = ledger._table.tables.control.datasets("shop", "days", None)
    before = pa.total_allocated_bytes()
    found = ledger._table.scan(without=("details",))
    assert pa.total_allocated_bytes() - before < 100_000 < part.to_table().nbytes
    assert found["details"].null_count == 1
    assert ledger.latest("ards", details=False)[DAYS[0]].outcome == "written"


def test_the_log_describes_only_what_reads_choose_by_and_older_ledgers_follow(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    place = str(tmp_path / "shop" / "days")
    rows = pa.Table.from_pylist([], ledger._table.schema)
    write_deltalake(place, rows)  # as it was created before
    for n in range(3):
        ledger.record([record(run_id=str(n))])
    before = answers(ledger, 3)

    def described() -> set[str]:
        names = pa.table(DeltaTable(place).get_add_actions(flatten=True)).column_names
        return {name.removeprefix("max.") for name in names if name.startswith("max.")}

    assert "details" in described()
    small_tables.maintain(
        ledger._table.tables, "shop", "days", timedelta(days=7), sort=SORT, described=DESCRIBED
    )
    assert described() == set(DESCRIBED)
    assert answers(ledger, 3) == before
    version = DeltaTable(place).version()
    ledger.record([record(run_id="newest")])
    assert ledger.latest("ards")[DAYS[0]].run_id == "newest"
    assert ledger.changes(version).inputs == {DAYS[0]: "i"}
    other = Ledger(ledger._table.tables, "other")
    other.record([record()])
    assert DeltaTable(str(tmp_path / "other" / "days")).metadata().configuration == other._table.properties
