"""What of a day's delivery could not be used, for people: how many records for which reason, and which.

The raw text of a record stays in the table, and so do the values that a reason quotes from a sensitive
column. Reads the quarantine in this process, a batch at a time: what is kept is bounded, whatever it holds.
"""

from __future__ import annotations

import bisect
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from ml_platform.contract.monitoring import MASK
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.ards import QUARANTINE
from ml_platform.storage.tables import Tables

#: Records of a day that are listed; all are counted.
LISTED = 1000
#: Different reasons of a day that are counted apart; what goes beyond is counted together.
REASONS = 50
OTHER_REASONS = "other reasons"


@dataclass
class Unusable:
    """The quarantined records of a day: counts by reason, and the first of them as (file, line, reason)."""

    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    records: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, file: str, line: int, reason: str) -> None:
        self.count += 1
        kind = _kind(reason)
        if kind not in self.reasons and len(self.reasons) >= REASONS:
            kind = OTHER_REASONS
        self.reasons[kind] += 1
        bisect.insort(self.records, (file, line, reason))
        del self.records[LISTED:]

    def as_csv(self) -> bytes:
        """The listed records, in the order of files and lines."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["file", "line", "reason"])
        writer.writerows((_as_text(file), line, _as_text(reason)) for file, line, reason in self.records)
        return text.getvalue().encode()


def _as_text(value: str) -> str:
    """A value that no spreadsheet takes for a formula, whoever named the file."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value


def of_days(tables: Tables, product: Product, days: Sequence[date]) -> dict[date, Unusable]:
    """The quarantine of each of ``days`` that has one."""
    columns = [EVENT_DAY, "file", "line", "reason"]
    found: dict[date, Unusable] = {}
    for batch in tables.batches(product.name, QUARANTINE, columns, days):
        for row in batch.to_pylist():
            reason = _masked(row["reason"], product)
            found.setdefault(row[EVENT_DAY], Unusable()).add(row["file"], row["line"], reason)
    return found


def _kind(reason: str) -> str:
    """A reason without the value that it quotes, so that equal ones can be counted together."""
    quotes = reason.startswith(("unparseable value", "value not allowed", "date outside"))
    return reason.partition(": ")[0] if quotes else reason


def _masked(reason: str, product: Product) -> str:
    """A reason without the values that it quotes from sensitive columns.

    A record may be wrong in several columns; what comes after such a value is left out with it, since where
    a value ends nobody can tell.
    """
    places = [
        place + len(quoting)
        for column in product.sensitive
        for quoting in (f"unparseable value in {column}: ", f"value not allowed in {column}: ")
        if (place := reason.find(quoting)) >= 0
    ]
    return f"{reason[: min(places)]}{MASK}" if places else reason
