"""The validation report of a day: the verdicts over its ARDS and MRDS, as a page for people.

Everything in it comes from the ledger and the quarantine, so it needs no Spark, and there is one for
every day that was attempted: a blocked or refused day is when it is read.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from ml_platform.contract.assets import REPORT_DAYS, VALIDATION_REPORT, validated
from ml_platform.contract.days import days_between
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.engine import presence
from ml_platform.engine.report_targets import report_links, report_store
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Inputs, Written, quality_of
from ml_platform.mlops.links import Around, Links
from ml_platform.mlops.quality import quarantine, validation_report
from ml_platform.mlops.quality.validation_report import DataSetDay
from ml_platform.storage.ledger import WITHOUT_ROWS, DayRecord
from ml_platform.storage.rejections import REJECTED

#: Causes that are shown beside a link to the page; all stand on it.
CAUSES = 5


class ValidationReport(Step):
    """Verdicts to an HTML page and its JSON, in the report store."""

    asset = VALIDATION_REPORT

    @property
    def code_version(self) -> str:
        targets = fingerprint_of([target.shown for target in self.context.settings.report_targets])
        return f"{super().code_version}/{targets}"

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        known = self._known(days)
        found = {}
        for day in days:
            if day not in known["ards"]:
                reason = "ards has not been materialized for this day"
                found[day] = Inputs("", "missing", reason)
                continue
            if known["ards"][day].outcome in WITHOUT_ROWS:
                found[day] = Inputs("", known["ards"][day].outcome, known["ards"][day].reason, gone=True)
                continue
            shown = [
                [asset, str(past), *_judgement(record)]
                for asset in validated()
                for past in _history(day)
                if (record := known[asset].get(past)) is not None
            ]
            delivered = known["ards"][day]
            if delivered.counts.get("quarantined"):
                # The page lists them, and nothing that is judged tells which they are.
                shown.append([delivered.inputs])
            found[day] = Inputs(fingerprint_of(shown))
        return found

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        return presence.lost_reports(
            self.context, records, report_store(self.context.settings), validation_report.HTML
        )

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        return self._publish(list(work))

    def withdraw(self, days: Sequence[date]) -> dict[date, Written]:
        """Replace the pages of days that were withdrawn, which show values of their rows."""
        published = self.context.ledger.latest(self.asset, set(days), outcomes=["written"], details=False)
        if published:
            self._publish(sorted(published))
        return {day: Written("missing") for day in days}

    def _publish(self, days: Sequence[date]) -> dict[date, Written]:
        """Publish the pages of some days, and again those before them, which link to them."""
        product = self.context.product
        around = self._around(days)
        made = days
        days = sorted({*days, *(days_around.before for days_around in around.values() if days_around.before)})
        around |= self._around([day for day in days if day not in around], also=made)
        known = self._known(days)
        by_day = {
            asset: {day: _shown(asset, day, record) for day, record in known[asset].items()}
            for asset in validated()
        }
        unusable = quarantine.of_days(self.context.tables, product, days)
        pages = {}
        for day in days:
            try:
                pages[day] = validation_report.build(
                    product,
                    day,
                    [_known_days(by_day[asset], day) for asset in validated()],
                    unusable.get(day),
                    around[day],
                )
            except Exception as error:
                if day in made:
                    raise
                # Its page is there, and only lacks the link to the day after it.
                self.context.failure(f"{self.asset}: the link from {day} to the next day", error)
        links = report_store(self.context.settings).publish_many(
            {f"{product.name}/{self.asset}/{day}": page.files for day, page in pages.items()}
        )
        return {
            day: Written(
                "written",
                fingerprint=_fingerprint(page),
                metadata=_metadata(page, self._links(day, links)),
            )
            for day, page in pages.items()
            if day in set(made)
        }

    def _around(self, days: Sequence[date], also: Sequence[date] = ()) -> dict[date, Around]:
        """The neighbours of days, of those that have a page or are about to get one."""
        if not days:
            return {}
        far = timedelta(days=REPORT_DAYS)
        first, last = min(days) - far, max(days) + far
        there = self.context.ledger.latest(
            self.asset, days_between(first, last), outcomes=["written"], details=False
        )
        known = sorted({*there, *days, *also})
        links = Links(self.context.settings.dagster_ui_url)
        found = {}
        for day in days:
            place = bisect.bisect_left(known, day)
            before = known[place - 1] if place else None
            after = known[place + 1] if place + 1 < len(known) else None
            found[day] = Around(links, before, after)
        return found

    def _links(self, day: date, written: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        path = f"{self.context.product.name}/{self.asset}/{day}"
        return report_links(self.context.settings, path, written[path])

    def _known(self, days: Sequence[date]) -> dict[str, dict[date, DayRecord]]:
        if not days:
            return {asset: {} for asset in validated()}
        first = min(days) - timedelta(days=REPORT_DAYS - 1)
        return {asset: self.context.ledger.between(asset, first, max(days)) for asset in validated()}


def _known_days(shown: Mapping[date, DataSetDay], day: date) -> list[DataSetDay]:
    return [shown[past] for past in _history(day) if past in shown]


def _judgement(record: DayRecord) -> list[Any]:
    """What of a day's record a report shows, in short."""
    return [
        record.outcome,
        record.reason,
        record.fingerprint,
        record.details.get("judged"),
        record.accepted_by,
        record.accepted_reason,
    ]


def _history(day: date) -> list[date]:
    return days_between(day - timedelta(days=REPORT_DAYS - 1), day)


def _shown(asset: str, day: date, record: DayRecord) -> DataSetDay:
    return DataSetDay(
        asset=asset,
        day=day,
        outcome=record.outcome,
        reason=record.reason,
        counts=record.counts,
        quality=quality_of(record),
        accepted=(record.accepted_by, record.accepted_reason or "") if record.accepted_by else None,
        is_rejected=REJECTED in record.details,
    )


def _fingerprint(page: validation_report.Page) -> str:
    """A hash of what the page says, whatever the order of the contract's columns."""
    content = json.loads(page.files[validation_report.JSON])
    for data_set in content["data_sets"]:
        data_set["expectations"].sort(key=lambda expectation: expectation["expectation"])
    return fingerprint_of(content)


def _metadata(page: validation_report.Page, links: Mapping[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"verdict": page.verdict}
    if page.causes:
        metadata["causes"] = "; ".join(page.causes[:CAUSES])
    return metadata | {**links, **page.figures}
