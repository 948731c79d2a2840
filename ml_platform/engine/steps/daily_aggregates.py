"""The step ``daily_aggregates``: the ARDS to what is kept of each entity and day for trailing windows.

It makes no asset of its own: the step of the MRDS brings it up to date first. What is kept of a day is kept
whether the day can be used or not; windows ask that of the ARDS's own record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date

from ml_platform.contract.assets import (
    DAILY_AGGREGATES,
    DAILY_AGGREGATES_VERSIONS,
    KEPT_FOR_WINDOWS,
    Asset,
)
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.data_engineering import daily_aggregates, kept_days
from ml_platform.data_engineering.ards import ARDS
from ml_platform.engine import evolution, presence
from ml_platform.engine.inputs import content_of
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.usable_days import first_morning
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import HISTORY, WITHOUT_ROWS, DayRecord


class DailyAggregates(Step):
    """ARDS to what is kept for trailing windows."""

    asset = DAILY_AGGREGATES

    @property
    def spec(self) -> Asset:
        return KEPT_FOR_WINDOWS

    @property
    def contract(self) -> str:
        # Of the features only that counts what has to be kept for them: not the length of a window.
        product = self.context.product
        kept = [kept.plain for kept in daily_aggregates.parts(product)]
        bounds = dict(daily_aggregates.most_distinct(product))
        return fingerprint_of([product.hash_of(*self.spec.sections), kept, bounds])

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        lost = presence.lost_states(self.context, DAILY_AGGREGATES_VERSIONS, records)
        return lost | presence.lost_rows(self.context, DAILY_AGGREGATES, records)

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        versions = ContractVersions(self.context.tables, self.context.product).ards_like_now()
        known = self.context.ledger.latest(ARDS, set(days))
        return {day: self._inputs(known[day], versions) for day in days if day in known}

    def _inputs(self, record: DayRecord, versions: Collection[str]) -> Inputs:
        if record.outcome in WITHOUT_ROWS:
            return Inputs(record.inputs, record.outcome, record.reason, gone=True)
        if record.outcome not in presence.WITH_ROWS:
            return Inputs(record.inputs, "held_back", f"{ARDS} is {record.outcome}: {record.reason}")
        if record.contract not in versions:
            return Inputs(record.contract, "held_back", evolution.of_another_contract(self.context, record))
        return Inputs(content_of(record), found=record)

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        context = self.context
        records: dict[date, DayRecord] = {day: inputs.found for day, inputs in work.items()}
        done = kept_days.write(
            context.open_spark,
            context.product,
            context.tables,
            {day: first_morning(record) for day, record in records.items()},
            corrected=[day for day, record in records.items() if record.details.get(HISTORY)],
            run_id=context.request.run_id,
        )
        return {
            day: Written("refused", kept.refusal, delta_version=kept.delta_version)
            if kept.refusal
            else Written(
                "written" if kept.rows else "empty",
                fingerprint=kept.fingerprint,
                counts={"rows": kept.rows},
                delta_version=kept.delta_version,
                details={HISTORY: {"versions": kept.states}} if kept.states else {},
            )
            for day, kept in done.items()
        }
