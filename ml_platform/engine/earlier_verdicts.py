"""Whether a day could be used on the mornings before its rows became what they are.

A verdict is given once for each content. That of an earlier morning was given then, if the platform ran then:
it stands. Otherwise the rows are judged as they were known, by the rules of now, against the days before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ml_platform.contract.assets import ARDS
from ml_platform.data_engineering.day_statistics import Counted
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.resolution import Account
from ml_platform.data_engineering.row_versions import DayHistory, Morning
from ml_platform.data_engineering.rows_as_known import RowsAsKnown
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import Written
from ml_platform.engine.verdicts import Content, Verdict
from ml_platform.mlops.quality import profiles, validation
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.results import Result
from ml_platform.storage.ledger import DayRecord

HISTORY = "history"


@dataclass(frozen=True)
class Corrected:
    """A day whose rows have changed since its first morning, as it was delivered and counted."""

    history: DayHistory
    delivery: Delivery
    of_files: Mapping[int, Account]

    def counts(self, place: int) -> dict[str, int]:
        """What had been delivered by one of the earlier mornings, as far as rows are concerned."""
        morning, counted = self.history.mornings[place].day, self.history.earlier[place]
        files = [file for file in self.delivery.files if not file.labels_only]
        chosen = [file.number for file in files if file.rows_known_on <= morning]
        account = sum((self.of_files.get(number, Account()) for number in chosen), Account())
        return {
            "delivered": account.delivered,
            "rows": counted.rows,
            "superseded": max(account.delivered - counted.rows - account.quarantined, 0),
            "labels_applied": 0,
            "labels_not_yet": 0,
            "quarantined": account.quarantined,
            "labelled": counted.labelled,
        }


def histories(context: StepContext, days: Mapping[date, Corrected]) -> dict[date, dict[str, Any]]:
    """What the ledger keeps of corrected days, as plain data: see :func:`mornings_of`."""
    known = context.ledger.latest(ARDS, set(days))
    given = {day: _given(known.get(day)) for day in days}
    longest = max((len(day.history.earlier) for day in days.values()), default=0)
    for place in range(longest):
        asked = {
            day: corrected
            for day, corrected in days.items()
            if place < len(corrected.history.earlier)
            and corrected.history.earlier[place].fingerprint not in given[day]
        }
        for day, is_usable in _judged(context, asked, place).items():
            given[day][days[day].history.earlier[place].fingerprint] = is_usable
    return {day: _plain(corrected.history, given[day]) for day, corrected in days.items()}


def mornings_of(record: DayRecord) -> list[Morning] | None:
    """The mornings on which rows of a day came, and whether it was usable then; None if only one counts."""
    history = record.details.get(HISTORY)
    if not history:
        return None
    return [
        Morning(date.fromisoformat(day), replaces, is_usable)
        for day, replaces, is_usable, _ in history["mornings"]
    ]


def _plain(history: DayHistory, given: Mapping[str, bool]) -> dict[str, Any]:
    contents: list[Counted | None] = [*history.earlier, None]
    return {
        "versions": history.versions,
        "fingerprint": history.fingerprint,
        "mornings": [
            [
                morning.day.isoformat(),
                morning.replaces,
                content is None or given[content.fingerprint],
                content.fingerprint if content is not None else None,
            ]
            for morning, content in zip(history.mornings, contents, strict=True)
        ],
    }


def _given(record: DayRecord | None) -> dict[str, bool]:
    """The verdicts that a day's earlier contents have been given, by their fingerprints."""
    if record is None:
        return {}
    found = {
        fingerprint: is_usable
        for _, _, is_usable, fingerprint in record.details.get(HISTORY, {}).get("mornings", ())
        if fingerprint is not None
    }
    if record.fingerprint and record.outcome in ("written", "empty", "blocked"):
        found[record.fingerprint] = record.usable
    return found


def _judged(context: StepContext, days: Mapping[date, Corrected], place: int) -> dict[date, bool]:
    """Whether each day was usable on one of its earlier mornings, by the rules of now."""
    if not days:
        return {}
    mornings = {day: corrected.history.mornings[place].day for day, corrected in days.items()}
    contents: dict[date, Content | Written] = {
        day: _content(context, corrected, place) for day, corrected in days.items()
    }
    judged = _EarlierVerdict(context, mornings).of_contents(contents)
    return {day: written.outcome in ("written", "empty") for day, written in judged.items()}


def _content(context: StepContext, corrected: Corrected, place: int) -> Content:
    counted = corrected.history.earlier[place]
    return Content(
        counts=corrected.counts(place),
        profile=profiles.profile(context.product, "ards", counted.rows, counted.statistics),
        fingerprint=counted.fingerprint,
        delta_version=None,
    )


class _EarlierVerdict(Verdict):
    """The verdicts on days as they were known on earlier mornings."""

    def __init__(self, context: StepContext, mornings: Mapping[date, date]) -> None:
        super().__init__(context, ARDS)
        self.mornings = mornings

    def _validate(
        self, days: Sequence[date], held: Mapping[date, Any], contents: Mapping[date, Content]
    ) -> dict[date, list[Result]]:
        context, product = self.context, self.context.product
        suites: dict[date, list[Expectation]] = {day: held[day].suite for day in days}
        types = context.tables.column_types(product.name, ARDS)
        own = set(product.data_set_columns("ards"))
        rows = RowsAsKnown(product, context.tables, {day: self.mornings[day] for day in days})
        reader = rows.reader()
        return validation.validate(
            product,
            "ards",
            lambda: rows.frame(context.spark),
            {name: type_ for name, type_ in types.items() if name in own},
            suites,
            {day: contents[day].rows for day in days},
            maximum_rows=context.settings.validation_rows_in_memory,
            session=context.open_spark,
            files=(reader, -1) if reader is not None else None,
        )
