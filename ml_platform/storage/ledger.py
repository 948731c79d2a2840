"""The ledger: the result of every day of every asset, and from what it was made.

One row per asset, day and write; the newest row of a day counts. It is written after the data, so a
day without a row, or whose inputs have changed since, is simply done again. Rows that no query of
:class:`Ledger` can give any more leave it in maintenance (:meth:`Ledger.compact`): what is asked of it
besides the newest records has to be kept there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.storage.small_tables import COMMIT, ControlTable, in_order_of_commit
from ml_platform.storage.tables import Tables

Outcome = Literal["written", "empty", "missing", "refused", "blocked", "held_back", "no_model", "not_due"]

#: Outcomes of days that have no rows, since there is no delivery: none was due, or none is there (any more).
WITHOUT_ROWS: frozenset[Outcome] = frozenset({"missing", "not_due"})
#: Outcomes of days that have a settled content of their own.
SETTLED: frozenset[Outcome] = frozenset({"written", "empty"})
#: Outcomes of days that windows count: those for which no delivery is due are empty, and complete.
USABLE: frozenset[Outcome] = SETTLED | {"not_due"}
#: Outcomes that somebody has to do something about.
BAD: tuple[Outcome, ...] = ("refused", "blocked", "missing", "held_back")
#: Outcomes of which nobody may think that the day is done: the bad ones, and a day that no model has scored.
NOT_DONE: tuple[Outcome, ...] = (*BAD, "no_model")

DAYS = "days"
#: What :meth:`Ledger.outcomes` calls a day that a person has accepted.
ACCEPTED = "accepted"
#: In the details of a record without rows: how many rows the day had when it was withdrawn.
WITHDRAWN = "withdrawn"
#: In the details of a record: what the day held on mornings before later files changed it, as plain data.
#: Its ``versions`` are how many rows the table of such states has of the day.
HISTORY = "history"
#: What the details of a record hold where a check or an expectation has failed, as JSON.
_FAILED = '"passed": false'
#: Outcomes that nobody has to do anything about, and that nearly all records have.
_ORDINARY = ["written", "not_due"]
#: Steps read the days they are about; of a long history that is little.
SORT = ("asset", "day")
#: What reads choose by.
DESCRIBED = (*SORT, "outcome", COMMIT)
_SCHEMA = pa.schema(
    [
        ("asset", pa.string()),
        ("day", pa.date32()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("fingerprint", pa.string()),
        ("inputs", pa.string()),
        ("contract", pa.string()),
        ("code_version", pa.string()),
        ("counts", pa.string()),
        ("details", pa.string()),
        ("delta_version", pa.int64()),
        ("run_id", pa.string()),
        ("accepted_by", pa.string()),
        ("accepted_reason", pa.string()),
        ("recorded_at", pa.int64()),
        (COMMIT, pa.int64()),
        ("barred_from", pa.date32()),
        ("barred_to", pa.date32()),
    ]
)


@dataclass(frozen=True)
class DayRecord:
    """The result of one day (or as-of date) of one asset.

    ``inputs`` is the fingerprint of what it was made from, ``fingerprint`` that of what was made;
    ``counts`` and ``details`` are plain data that later runs and people read.
    """

    asset: str
    day: date
    outcome: Outcome
    inputs: str
    contract: str
    code_version: str
    reason: str = ""
    fingerprint: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    delta_version: int | None = None
    run_id: str = ""
    accepted_by: str | None = None
    accepted_reason: str | None = None
    recorded_at: int = 0
    commit: int | None = None
    """Orders the records of a table; None before it is recorded, and of records older than the numbers."""
    barred_from: date | None = None
    """The first as-of date on which the day couldn't be learned from, if it could before; see below."""
    barred_to: date | None = None
    """The as-of date from which it can be again; None if it can't, or always could."""

    @property
    def usable(self) -> bool:
        """Whether assets over a window may count this day."""
        return self.outcome in USABLE

    @property
    def barred(self) -> tuple[date | None, date | None]:
        """From which as-of date to which the day couldn't be learned from."""
        return self.barred_from, self.barred_to

    def usable_on(self, as_of: date) -> bool:
        """Whether a model as of a date may learn from the day, as far as was known then.

        A day that has been blocked by a later delivery was usable before that, and one that a person has
        accepted is usable since then.
        """
        if self.usable:
            began = self.barred_from is None or as_of >= self.barred_from
            return self.barred_to is None or not (began and as_of < self.barred_to)
        was_usable = self.outcome in ("held_back", "blocked")
        return was_usable and self.barred_from is not None and as_of < self.barred_from

    @property
    def order(self) -> tuple[int, int]:
        """Sorts records of one ledger by when they were committed."""
        return in_order_of_commit({COMMIT: self.commit, "recorded_at": self.recorded_at})

    @property
    def failed(self) -> bool:
        """Whether an exception ended the work on the day; needs the record's details."""
        return bool(self.details.get("failed"))

    def made_from(self, inputs: str, contract: str, code_version: str) -> bool:
        return (self.inputs, self.contract, self.code_version) == (inputs, contract, code_version)


@dataclass(frozen=True)
class Changes:
    """What a ledger has recorded after a commit.

    ``records`` are those with another outcome than rows, or a failed check; ``others`` are the assets and
    days of all others. ``inputs`` are the fingerprints of the inputs that days of the ARDS were made from.
    """

    records: list[DayRecord]
    others: set[tuple[str, date]]
    inputs: dict[date, str]
    commit: int | None


class Ledger:
    """The table ``days`` of one product."""

    def __init__(self, tables: Tables, product: str) -> None:
        self._table = ControlTable(tables, product, DAYS, _SCHEMA, sort=SORT, described=DESCRIBED)

    @property
    def address(self) -> str:
        """Where the table lies."""
        return self._table.address

    def stamp(self) -> str | None:
        """Changes with every record, and costs little; None before the first."""
        return self._table.stamp()

    def version(self) -> str | None:
        """Which table it is and its version; None before the first record."""
        return self._table.version()

    def identity(self) -> str | None:
        """Which table it is; None before the first record."""
        return self._table.identity()

    def changes(self, after: int | None = None, *, keep: Collection[str] = ()) -> Changes:
        """What has been recorded, of every asset: the newest record of each day, in little memory.

        Args:
            after: the number of a commit: only what was recorded after it.
            keep: words; records whose details hold one are given as well.
        """
        table = self._table.scan(None if after is None else pc.field(COMMIT) > after)
        order = pc.sort_indices(
            pa.table({"commit": pc.fill_null(table[COMMIT], -1), "at": table["recorded_at"]}),
            sort_keys=[("commit", "ascending"), ("at", "ascending")],
        )
        keys = (
            table.select(["asset", "day"])
            .take(order)
            .append_column("row", pa.array(range(len(order)), pa.int64()))
        )
        newest = keys.group_by(["asset", "day"], use_threads=False).aggregate([("row", "max")])
        table = table.take(order.take(newest["row_max"].combine_chunks()))
        chosen = pc.invert(pc.is_in(table["outcome"], pa.array(_ORDINARY)))
        for word in (_FAILED, *keep):
            chosen = pc.or_(chosen, pc.fill_null(pc.match_substring(table["details"], word), False))
        others = table.filter(pc.invert(chosen)).select(["asset", "day"])
        ards = table.filter(pc.equal(table["asset"], "ards"))
        return Changes(
            records=[_decode(row) for row in table.filter(chosen).to_pylist()],
            others=set(zip(others["asset"].to_pylist(), others["day"].to_pylist(), strict=True)),
            inputs=dict(zip(ards["day"].to_pylist(), ards["inputs"].to_pylist(), strict=True)),
            commit=pc.max(table[COMMIT]).as_py(),
        )

    def latest(
        self,
        asset: str,
        days: Collection[date] | None = None,
        *,
        outcomes: Collection[Outcome] | None = None,
        details: bool = True,
    ) -> dict[date, DayRecord]:
        """The newest record of each day of an asset, by day; only ``days`` if given.

        Args:
            outcomes: pass over records with others; a day that is held back now had been written before.
            details: without them, which are nearly all of a record's bytes, a record is to be looked at,
                never recorded again.
        """
        where = pc.field("asset") == asset
        if outcomes is not None:
            where = where & pc.field("outcome").isin(pa.array(sorted(outcomes)))
        if days is not None:
            if not days:
                return {}
            where = where & pc.field("day").isin(pa.array(sorted(set(days)), pa.date32()))
        return self._newest(where, details)

    def outcomes(self) -> dict[str, dict[date, str]]:
        """The newest outcome of each day, by asset; ``accepted`` of a day that a person has accepted.

        Ten years of a product take a few tens of milliseconds: nothing but outcomes is read.
        """
        chosen = ("asset", "day", "outcome", "accepted_by", "recorded_at", COMMIT)
        table = self._table.scan(without=[name for name in _SCHEMA.names if name not in chosen])
        order = pc.sort_indices(
            pa.table({"commit": pc.fill_null(table[COMMIT], -1), "at": table["recorded_at"]}),
            sort_keys=[("commit", "ascending"), ("at", "ascending")],
        )
        ordered = table.select(["asset", "day", "outcome", "accepted_by"]).take(order)
        found: dict[str, dict[date, str]] = {}
        columns = (ordered[name].to_pylist() for name in ("asset", "day", "outcome", "accepted_by"))
        for asset, day, outcome, accepted_by in zip(*columns, strict=True):
            found.setdefault(asset, {})[day] = ACCEPTED if accepted_by else outcome
        return found

    def withdrawals(self, asset: str) -> dict[date, DayRecord]:
        """By day, the newest record that tells of rows that were withdrawn, whatever came after it."""
        outcomes = pc.field("outcome").isin(pa.array(sorted(WITHOUT_ROWS)))
        table = self._table.scan((pc.field("asset") == asset) & outcomes)
        table = table.filter(_may_tell_of_withdrawal(table))
        found: dict[date, DayRecord] = {}
        for record in map(_decode, table.to_pylist()):
            known = found.get(record.day)
            if record.details.get(WITHDRAWN) and (known is None or record.order >= known.order):
                found[record.day] = record
        return found

    def compact(self, keep: timedelta) -> int | None:
        """Remove the records that no query gives any more, but for the newest ones; says how many.

        What stays is of each asset and day the newest record of each outcome, which is what ``outcomes`` of
        :meth:`latest` may ask for, and the newest that tells of a withdrawal. Numbers of commits stay, so
        that whoever follows the ledger by :meth:`changes` goes on.

        Args:
            keep: superseded records stay as long, for people; counted from the newest record, since clocks
                differ.

        Returns:
            None if another run has recorded something meanwhile: nothing has changed then.
        """
        return self._table.remove_rows(lambda table: _superseded(table, keep))

    def between(self, asset: str, first: date, last: date) -> dict[date, DayRecord]:
        """The newest record of each day of an asset from ``first`` to ``last``, by day."""
        day = pc.field("day")
        return self._newest((pc.field("asset") == asset) & (day >= first) & (day <= last))

    def _newest(self, where: pc.Expression, details: bool = True) -> dict[date, DayRecord]:
        table = self._table.scan(where, without=() if details else ("details",))
        newest: dict[date, int] = {}
        stamps = [
            in_order_of_commit({COMMIT: commit, "recorded_at": stamp})
            for commit, stamp in zip(
                table.column(COMMIT).to_pylist(), table.column("recorded_at").to_pylist(), strict=True
            )
        ]
        for row, day in enumerate(table.column("day").to_pylist()):
            known = newest.get(day)
            if known is None or stamps[row] >= stamps[known]:
                newest[day] = row
        rows = table.take(pa.array([newest[day] for day in sorted(newest)], pa.int64())).to_pylist()
        return {row["day"]: _decode(row) for row in rows}

    def record(self, records: Sequence[DayRecord]) -> int:
        """Append records, in one commit; returns its number, which orders them, or -1 without any.

        ``recorded_at``, nanoseconds by this machine's clock, is for people: machines' clocks differ.
        """
        stamp = time.time_ns()
        return self._table.append([_encode(replace(record, recorded_at=stamp)) for record in records])

    def record_since(self, records: Sequence[DayRecord], seen: Mapping[date, DayRecord]) -> set[date]:
        """Append records of an asset, but for days that another run has recorded since they were read.

        Where both have written the day since, the record of the later commit counts, as it tells what the
        table holds; an outcome or an acceptance that has come meanwhile is never passed over.

        Args:
            seen: the newest record of each day, when the work on it began.

        Returns:
            The days to be looked at again: those that were left out, and those of which an older record
            has come to stand above this one, where nothing is locked.
        """
        if not records:
            return set()
        asset, days = records[0].asset, {record.day for record in records}

        def is_overtaken(record: DayRecord, newest: DayRecord | None) -> bool:
            before = seen.get(record.day)
            if newest is None or (before is not None and _is_same(newest, before)):
                return False
            both_wrote = _version(newest) > (_version(before) if before else -1)
            return not (both_wrote and _version(record) > _version(newest))

        with self._table.lock():
            now = self.latest(asset, days, details=False)
            chosen = [record for record in records if not is_overtaken(record, now.get(record.day))]
            number = self.record(chosen)
            overtaken = days - {record.day for record in chosen}
            if not self._table.locks:
                now = self.latest(asset, days, details=False)
                overtaken |= {
                    record.day
                    for record in chosen
                    if now[record.day].commit != number and _version(now[record.day]) <= _version(record)
                }
        return overtaken


def _superseded(table: pa.Table, keep: timedelta) -> pa.Array:
    """Of each row of a ledger, whether :meth:`Ledger.compact` removes it."""
    rows = pa.array(range(len(table)), pa.int64())
    keys = pa.table(
        {
            "asset": table["asset"],
            "day": table["day"],
            "outcome": table["outcome"],
            "commit": pc.fill_null(table[COMMIT], -1),
            "at": table["recorded_at"],
            "row": rows,
        }
    )
    order = pc.sort_indices(
        keys, sort_keys=[("commit", "ascending"), ("at", "ascending"), ("row", "ascending")]
    )
    keys = keys.take(order).append_column("rank", rows)

    def newest(chosen: pa.Table, by: Sequence[str]) -> pa.Array:
        ranks = chosen.group_by(list(by), use_threads=False).aggregate([("rank", "max")])["rank_max"]
        return keys["row"].take(ranks).combine_chunks()

    telling = table.append_column("row", rows).filter(
        pc.and_(pc.is_in(table["outcome"], pa.array(sorted(WITHOUT_ROWS))), _may_tell_of_withdrawal(table))
    )
    telling_rows = [
        row["row"] for row in telling.select(["row", "details"]).to_pylist() if _tells_of_withdrawal(row)
    ]
    withdrawn = keys.filter(pc.is_in(keys["row"], pa.array(telling_rows, pa.int64())))
    needed = pa.concat_arrays(
        [newest(keys, ("asset", "day", "outcome")), newest(withdrawn, ("asset", "day"))]
    )
    youngest = pc.max(table["recorded_at"]).as_py() or 0
    old = pc.less(table["recorded_at"], youngest - int(keep.total_seconds() * 1e9))
    return pc.and_(pc.fill_null(old, True), pc.invert(pc.is_in(rows, needed)))


def _may_tell_of_withdrawal(table: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring(table["details"], f'"{WITHDRAWN}": '), False)


def _tells_of_withdrawal(row: Mapping[str, Any]) -> bool:
    return bool(json.loads(row["details"] or "{}").get(WITHDRAWN))


def _is_same(record: DayRecord, other: DayRecord) -> bool:
    return (record.commit, record.recorded_at) == (other.commit, other.recorded_at)


def _version(record: DayRecord) -> int:
    return -1 if record.delta_version is None else record.delta_version


def _encode(record: DayRecord) -> dict[str, Any]:
    row = asdict(record)
    row["counts"] = json.dumps(record.counts)
    row["details"] = json.dumps(record.details, default=str)
    return row


def _decode(row: dict[str, Any]) -> DayRecord:
    values = dict(row)
    values["counts"] = json.loads(row["counts"] or "{}")
    values["details"] = json.loads(row["details"] or "{}")
    return DayRecord(**values)
