"""The step ``mrds``: the ARDS to one row per entity and day."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.data_engineering import mrds, unity_catalog
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.engine import presence
from ml_platform.engine.earlier_verdicts import mornings_of, usable_in_mrds
from ml_platform.engine.inputs import from_same_day
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.verdicts import Content, Verdict
from ml_platform.mlops.quality import profiles
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import HISTORY, DayRecord

FEATURES_FINGERPRINT = "features_fingerprint"


class Mrds(Step):
    """ARDS to one row per entity and day."""

    asset = mrds.MRDS

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        lost = presence.lost_rows(self.context, mrds.MRDS, records)
        return presence.lost_states(self.context, MRDS_SERVED, records) | lost

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        versions = ContractVersions(self.context.tables, self.context.product).ards_like_now()

        def earlier(record: DayRecord) -> _Earlier | None:
            return _Earlier.of(record) if record.contract in versions else None

        return from_same_day(self.context, ARDS, days, contracts=versions, found=earlier)

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        earlier: dict[date, _Earlier] = {day: inputs.found for day, inputs in work.items()}
        histories = {day: found.mornings for day, found in earlier.items() if found.mornings is not None}
        written = Verdict(self.context, self.asset).of_contents(self._contents(list(work), histories))
        return {
            day: result if result.accepted else replace(result, barred=earlier[day].barred)
            for day, result in written.items()
        }

    def hold_back(self, days: Mapping[date, Inputs]) -> dict[date, Written]:
        """Of days that a later delivery has blocked, what was served before stays to be learned from."""
        found: dict[date, _Earlier] = {day: inputs.found for day, inputs in days.items() if inputs.found}
        histories = {day: earlier.mornings for day, earlier in found.items() if earlier.mornings}
        if not histories:
            return {}
        made = self._write(sorted(histories), histories, withheld=histories)
        return {
            day: Written(
                "held_back",
                days[day].reason,
                counts={"rows": made[day].served.rows},
                details={HISTORY: _served(made[day])},
                barred=(histories[day][-1].day, None),
            )
            for day in histories
            if not made[day].refusal and made[day].served.rows
        }

    def _contents(
        self, days: Sequence[date], histories: Mapping[date, Sequence[Morning]]
    ) -> dict[date, Content | Written]:
        """Write these days in one commit; a day that can't be aggregated comes back as its outcome."""
        product = self.context.product
        return {
            day: Written("refused", made.refusal)
            if made.refusal
            else Content(
                counts=made.counts,
                profile=profiles.profile(product, "mrds", made.counted.rows, made.counted.statistics),
                fingerprint=_fingerprint(made),
                delta_version=made.delta_version,
                metadata={FEATURES_FINGERPRINT: made.counted.features_fingerprint},
                history=_served(made),
            )
            for day, made in self._write(days, histories).items()
        }

    def _write(
        self,
        days: Sequence[date],
        histories: Mapping[date, Sequence[Morning]],
        *,
        withheld: Collection[date] = (),
    ) -> dict[date, mrds.MrdsDay]:
        context = self.context
        product = context.product
        unity_catalog.declare(context.open_spark, product, context.tables, "mrds")
        return mrds.write(
            context.open_spark,
            product,
            context.tables,
            days,
            run_id=context.request.run_id,
            statistics=profiles.ProfileStatistics(product, "mrds"),
            histories=usable_in_mrds(context, histories),
            withheld=withheld,
        )


@dataclass(frozen=True)
class _Earlier:
    """What is known of a day of the ARDS beside what it holds now.

    Attributes:
        mornings: those on which rows of it came; None if only one counts, or none can be used.
        barred: from which as-of date to which it couldn't be learned from, since it was accepted later.
    """

    mornings: list[Morning] | None
    barred: tuple[date | None, date | None]

    @classmethod
    def of(cls, record: DayRecord) -> _Earlier:
        """That of a day that can be used now, or can't."""
        return cls(mornings_of(record), record.barred)


def _fingerprint(made: mrds.MrdsDay) -> str:
    """What a day holds, and what was served of it."""
    if not made.served.rows:
        return made.counted.fingerprint
    return fingerprint_of([made.counted.fingerprint, made.served.fingerprint])


def _served(made: mrds.MrdsDay) -> dict[str, Any] | None:
    """What the ledger keeps of what was served of a day whose rows have changed since."""
    if not made.served.rows:
        return None
    return {"versions": made.served.rows, "fingerprint": made.served.fingerprint}
