"""What each channel has been told: what of the findings is news to it, and how that is kept between looks."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from ml_platform.contract.monitoring import Severity
from ml_platform.mlops.alerts.findings import Finding, day_in, source_of
from ml_platform.mlops.remedies import DELIVERY_OVERDUE

#: Minutes until a channel that took no message is tried again, doubled with each failure, and at most.
FIRST_RETRY_MINUTES, LAST_RETRY_MINUTES = 1, 60
#: A cursor that is longer is compressed.
_PLAIN_CHARACTERS = 4000


@dataclass(frozen=True)
class News:
    """What a channel has not been told yet: what is wrong now, and what is resolved."""

    wrong: tuple[Finding, ...] = ()
    well: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wrong or self.well)


@dataclass(frozen=True)
class Entry:
    """A finding as a cursor keeps it."""

    asset: str
    partition: str
    subject: str
    severity: Severity
    since: str

    @classmethod
    def of(cls, finding: Finding, since: str = "") -> Entry:
        return cls(
            finding.asset, finding.partition, finding.subject, finding.severity, since or finding.since
        )


@dataclass(frozen=True)
class ChannelState:
    """What one channel has been told, and how its last deliveries went.

    ``unsent`` are findings that were news when the channel took no message: should they be well before it
    takes one, it is told that they were wrong.
    """

    reported: Mapping[str, Entry] = field(default_factory=dict)
    unsent: Mapping[str, Entry] = field(default_factory=dict)
    failures: int = 0
    retry_at: str = ""

    def is_waiting(self, now: datetime) -> bool:
        """Whether it is too early to try the channel again."""
        return bool(self.retry_at) and now < datetime.fromisoformat(self.retry_at)

    def news(self, now: Sequence[Finding], well: Mapping[str, str]) -> News:
        """What of ``now`` is new or has become an error, and what was wrong and is well.

        Args:
            well: by key, why a finding is well; of those that aren't wrong any more. What is neither
                wrong nor well has moved out of sight, and is no news.
        """
        wrong = [
            finding
            for finding in now
            if finding.key not in self.reported
            or (finding.severity == "error" and self.reported[finding.key].severity == "warning")
        ]
        present = {finding.key for finding in now}
        resolved = [
            Finding(
                key=key,
                kind="check",
                asset=entry.asset,
                partition=entry.partition,
                severity=entry.severity,
                what=well[key],
                subject=entry.subject,
                since=entry.since,
            )
            for key, entry in {**self.unsent, **self.reported}.items()
            if key not in present and key in well
        ]
        return News(tuple(wrong), tuple(resolved))

    def sent(self, now: Sequence[Finding], unknown: Collection[str] = ()) -> ChannelState:
        """The state once the channel knows all of ``now``.

        Args:
            unknown: sources (:func:`source_of`) that could not be looked at; what was reported of them stays.
        """
        return ChannelState({**self._of(unknown), **self._entries(now)})

    def refused(
        self, news: News, now: Sequence[Finding], at: datetime, unknown: Collection[str] = ()
    ) -> ChannelState:
        """The state after the channel took no message; the next one is due later and later."""
        minutes = min(FIRST_RETRY_MINUTES * 2 ** min(self.failures, 16), LAST_RETRY_MINUTES)
        resolved = {finding.key for finding in news.well}
        known = {finding.key for finding in now} | resolved
        kept = {key: entry for key, entry in self.reported.items() if key in known} | self._of(unknown)
        waiting = {
            key: entry for key, entry in self.unsent.items() if key in known or source_of(key) in unknown
        }
        fresh = {finding.key: Entry.of(finding) for finding in news.wrong if finding.key not in waiting}
        retry = (at + timedelta(minutes=minutes)).isoformat(timespec="seconds")
        return ChannelState(kept, {**waiting, **fresh}, self.failures + 1, retry)

    def _of(self, sources: Collection[str]) -> dict[str, Entry]:
        return {
            key: entry
            for key, entry in self.reported.items()
            if source_of(key) in sources or ("clock" in sources and entry.subject == DELIVERY_OVERDUE)
        }

    def _entries(self, now: Sequence[Finding]) -> dict[str, Entry]:
        known = {**self.unsent, **self.reported}
        return {
            finding.key: Entry.of(finding, known[finding.key].since if finding.key in known else "")
            for finding in now
        }


def read_cursor(cursor: str | None) -> dict[str, ChannelState]:
    """The states of the channels, by name."""
    if not cursor:
        return {}
    if cursor.startswith("z"):
        cursor = zlib.decompress(base64.b85decode(cursor[1:])).decode()
    values = json.loads(cursor)
    if "channels" not in values:
        return {name: ChannelState(_of_earlier_version(told)) for name, told in values.items()}
    return {
        name: ChannelState(
            _unpacked(state["reported"]), _unpacked(state["unsent"]), state["failures"], state["retry_at"]
        )
        for name, state in values["channels"].items()
    }


def write_cursor(states: Mapping[str, ChannelState]) -> str:
    """The states as a cursor: days of one finding as ranges, and compressed where that is long."""
    channels = {
        name: {
            "reported": _packed(state.reported),
            "unsent": _packed(state.unsent),
            "failures": state.failures,
            "retry_at": state.retry_at,
        }
        for name, state in states.items()
    }
    text = json.dumps({"channels": channels}, separators=(",", ":"))
    if len(text) <= _PLAIN_CHARACTERS:
        return text
    return "z" + base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _of_earlier_version(told: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """The findings of a cursor that had one entry of plain fields each, and no outcome in its keys."""
    found = {}
    for key, values in told.items():
        entry = Entry(**values)
        found[key.removesuffix("outcome") + entry.subject if key.endswith("/outcome") else key] = entry
    return found


def _packed(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Entries by what they have in common: the days of each group as ranges; all others one by one."""
    groups: dict[tuple[str, str, Severity], list[date]] = {}
    others = []
    for key, entry in entries.items():
        day = day_in(entry.partition)
        if day and key == f"{entry.asset}/{day}/{entry.subject}" and entry.since == entry.partition:
            groups.setdefault((entry.asset, entry.subject, entry.severity), []).append(day)
        else:
            others.append([key, entry.asset, entry.partition, entry.subject, entry.severity, entry.since])
    return {"days": [[*group, _ranges(days)] for group, days in groups.items()], "others": others}


def _unpacked(packed: Mapping[str, Any]) -> dict[str, Entry]:
    entries = {}
    for asset, subject, severity, days in packed["days"]:
        for day in _days(days):
            entries[f"{asset}/{day}/{subject}"] = Entry(asset, str(day), subject, severity, str(day))
    for key, asset, partition, subject, severity, since in packed["others"]:
        entries[key] = Entry(asset, partition, subject, severity, since)
    return entries


def _ranges(days: Iterable[date]) -> list[list[int]]:
    """Days as [first, how many] with the first as an ordinal."""
    found: list[list[int]] = []
    for day in sorted({day.toordinal() for day in days}):
        if found and day == sum(found[-1]):
            found[-1][1] += 1
        else:
            found.append([day, 1])
    return found


def _days(ranges: Iterable[Sequence[int]]) -> Iterator[date]:
    for first, length in ranges:
        yield from (date.fromordinal(first + n) for n in range(length))
