"""What evaluations are made from, by what the ledger says of the days of their windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

from ml_platform.contract.assets import ARDS, MRDS, PREDICTIONS
from ml_platform.contract.product import Product
from ml_platform.data_engineering.trailing_windows import Interval, could_be_used
from ml_platform.engine.usable_days import intervals_of
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.promotion import Decision
from ml_platform.storage.ledger import DayRecord, Ledger


@dataclass(frozen=True)
class EvaluatedDays:
    """What is known of some days whose predictions are evaluated.

    Attributes:
        predictions: the records of the predictions; of a day that has some, the one that says which.
        labels: the records of the MRDS.
        usable: the mornings between which a day of the ARDS could be used.
    """

    predictions: Mapping[date, DayRecord]
    labels: Mapping[date, DayRecord]
    usable: Mapping[date, tuple[Interval, ...]]

    @classmethod
    def of(cls, ledger: Ledger, days: Collection[date]) -> EvaluatedDays:
        """That of the days of all windows."""
        needed = set(days)
        return cls(
            ledger.latest(PREDICTIONS, needed) | performance.scored_days(ledger, needed),
            ledger.latest(MRDS, needed, details=False),
            {day: intervals_of(record) for day, record in ledger.latest(ARDS, needed).items()},
        )

    def evaluated(self, product: Product, day: date, champion: Decision | None) -> performance.Evaluated:
        """What the evaluation of a day is made from.

        Args:
            champion: what promoted the model that serves the day.
        """
        return performance.evaluated(
            product,
            day,
            self.predictions,
            self.labels,
            champion.fingerprint if champion else None,
            lambda other, morning: other not in self.usable or could_be_used(self.usable[other], morning),
        )
