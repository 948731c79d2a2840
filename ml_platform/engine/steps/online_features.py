"""The step ``online_features``: the MRDS to the online store."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

from ml_platform.contract import online
from ml_platform.contract.assets import ONLINE_FEATURES
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.data_engineering import mrds
from ml_platform.engine import presence
from ml_platform.engine.inputs import content_of, from_same_day
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Inputs, PermanentError, Written
from ml_platform.engine.steps.mrds import FEATURES_FINGERPRINT
from ml_platform.online_store import publish
from ml_platform.online_store.store import OnlineStore, OnlineStoreError
from ml_platform.storage.ledger import DayRecord

#: Seconds that a publication waits for another one's merge, which takes a minute for millions of entities.
LOCK_TIMEOUT = 300.0


class PublicationError(Exception):
    """The online store is well, but refuses rows of these days; the message says why."""


class OnlineFeatures(Step):
    """MRDS to the online store."""

    asset = ONLINE_FEATURES

    @property
    def contract(self) -> str:
        own, rule = super().contract, online.rule(self.context.product)
        return own if rule is None else fingerprint_of([own, rule])

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        context, product = self.context, self.context.product
        published = [day for day, record in records.items() if record.usable and record.counts.get("rows")]
        if not published or presence.is_elsewhere(context, records):
            return {}
        try:
            with contextlib.closing(OnlineStore(context.settings.online_url)) as store:
                versions = store.published_versions(product)
        except OnlineStoreError as error:
            if error.temporary:
                raise
            raise PermanentError(str(error)) from error
        exists = context.tables.exists(product.name, mrds.MRDS)
        newest = context.tables.version(product.name, mrds.MRDS) if exists else -1
        lost = {}
        for day in published:
            if day not in versions:
                lost[day] = "the online store doesn't have the day"
            elif versions[day] > newest:
                lost[day] = "the online store has the day from an MRDS that isn't there any more"
        return lost

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        return from_same_day(self.context, mrds.MRDS, days, fingerprint=FEATURES_FINGERPRINT)

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        records = {
            day: record
            for day, record in self.context.usable(mrds.MRDS, set(work)).items()
            if content_of(record, FEATURES_FINGERPRINT) == work[day].fingerprint
        }
        days = [day for day in work if day in records]  # the others have changed just now
        if not days:
            return {}
        metadata = self._publish(days, sum(records[day].counts["rows"] for day in days))
        return {
            day: Written(
                records[day].outcome,
                records[day].reason,
                fingerprint=records[day].details.get("metadata", {}).get(FEATURES_FINGERPRINT),
                counts={"rows": records[day].counts["rows"]},
                metadata=_of_last(days, day, metadata),
            )
            for day in days
        }

    def withdraw(self, days: Sequence[date]) -> dict[date, Written]:
        """Publish days that the MRDS has no rows of: their entities fall back to earlier days, or go.

        Where the store holds the population of its newest day, that of the one before is there again.
        """
        context = self.context
        if not context.tables.exists(context.product.name, mrds.MRDS):
            return super().withdraw(days)
        before: dict[date, int] = {}
        if context.product.mrds.population is not None:
            known = context.ledger.latest(mrds.MRDS, details=False)
            rows = {day: record.counts.get("rows", 0) for day, record in known.items() if record.usable}
            newest = max((day for day in rows if rows[day] and day not in days), default=date.max)
            before = {newest: rows[newest]} if newest < max(days) else {}
        metadata = self._publish([*days, *before], sum(before.values()))
        return {day: Written("missing", metadata=_of_last(days, day, metadata)) for day in days}

    def _publish(self, days: Sequence[date], rows: int) -> dict[str, Any]:
        """Bring the store up to date with some days of the MRDS, and say what that did."""
        context = self.context
        known = context.ledger.latest("mrds", details=False)
        usable = [day for day, record in known.items() if record.usable]
        url = context.settings.online_url
        try:
            with contextlib.closing(OnlineStore(url, lock_timeout=LOCK_TIMEOUT)) as store:
                done = publish.publish(
                    context.open_spark,
                    context.product,
                    context.tables,
                    store,
                    days,
                    usable,
                    rows=rows,
                    log=context.log,
                )
        except OnlineStoreError as error:
            if error.temporary:
                raise
            if error.of_rows:
                raise PublicationError(str(error)) from None
            raise PermanentError(str(error)) from error
        merged = done.merged
        return {
            "entities_published": merged.published,
            "entities_older_and_kept": merged.older,
            "entities_withdrawn": merged.withdrawn,
            "entities_left": merged.left,
            "entities_forgotten": merged.forgotten,
            "entities_in_store": merged.entities,
            "newest_day": str(merged.newest_day),
            "rows_per_second": round(done.rows_per_second),
            "rows_compared": done.compared,
        }


def _of_last(days: Sequence[date], day: date, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a publication of several days, on the last of them: on each they would count again."""
    return figures if day == max(days) else {}
