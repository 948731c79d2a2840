"""The rows that models learn from, and those that they are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from ml_platform.contract.days import DayRange
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.engine.context import StepContext
from ml_platform.engine.training_plan import content_of, readable_contracts
from ml_platform.machine_learning import holdout, training_data
from ml_platform.machine_learning.kind import LAST_LABEL, ROWS_OF_DAY
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.storage.ledger import DayRecord


def training_rows(
    context: StepContext, days: Sequence[date], as_of: date, mode: Holdout, columns: Sequence[str] = ()
) -> training_data.Slice:
    """The rows that a model learns from: of all entities but those that are held out.

    Args:
        columns: those by which rows are told apart, and that are read; by default those of the contract.
    """
    return training_data.labelled(
        context.open_spark,
        context.product,
        context.tables,
        days,
        as_of,
        held_out=False if mode == "entities" else None,
        maximum_rows=context.product.model.maximum_rows,
        names=columns,
    )


def seed_of(fingerprint: str) -> int:
    """The seed of what is drawn at random while the model with a training fingerprint is trained."""
    return int(fingerprint[:8], 16)


def collected(product: Product, slice_: training_data.Slice, mode: Holdout) -> pd.DataFrame:
    """The rows that a model learns from, with about how many their whole days have, if it matters.

    That is worked out of the rows themselves: what is learned must follow from them alone.
    """
    frame = slice_.collect()
    if frame.empty or not kind_of(product).uses_rows_of_day:
        return frame
    share = slice_.taken / slice_.available * (1 - 1 / training_data.HELD_OUT if mode == "entities" else 1)
    rows = frame.groupby(EVENT_DAY)[EVENT_DAY].transform("size") / share
    return frame.assign(**{ROWS_OF_DAY: rows})


class UnseenRows:
    """Rows that models are compared on; those that were read last are kept for the next who asks."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.contracts = readable_contracts(context)
        self._compared: tuple[str, pd.DataFrame] | None = None

    def can_count(self, day: date, known: Mapping[date, DayRecord], as_of: date) -> bool:
        """Whether a day can be learned from or compared on as of a date, under the present contract."""
        record = known.get(day)
        usable = record is not None and record.usable_on(as_of) and record.contract in self.contracts
        return usable and self.context.product.trainable(day)

    def by_entities(self, as_of: date, known: Mapping[date, DayRecord]) -> pd.DataFrame:
        """The labelled rows of the held-out entities, of the last labelled days before the as-of date.

        Args:
            known: what the ledger says of the MRDS.
        """
        return self._unseen(holdout.by_entities(self.context.product, as_of), as_of, known, held_out=True)

    def forward(self, as_of: date, day: date, known: Mapping[date, DayRecord]) -> pd.DataFrame:
        """The rows of all entities on the days from an as-of date on, labelled by the morning of ``day``.

        What a bootstrap draws are their weeks.
        """
        rows = self._unseen(holdout.forward(self.context.product, as_of), day, known, held_out=None)
        return rows.assign(_cluster=[holdout.week(_date(row)) for row in rows[EVENT_DAY]])

    def _unseen(
        self, days: DayRange, day: date, known: Mapping[date, DayRecord], *, held_out: bool | None
    ) -> pd.DataFrame:
        """Labelled rows to compare models on, at most ``evaluation.maximum_rows``; the last are kept."""
        context, product = self.context, self.context.product
        read = with_days_before(product, days)
        key = fingerprint_of([day, held_out, content_of(read, known, day)])
        if self._compared is not None and self._compared[0] == key:
            return self._compared[1]
        frame = training_data.labelled(
            context.open_spark,
            product,
            context.tables,
            [candidate for candidate in read if self.can_count(candidate, known, day)],
            day,
            held_out=held_out,
            maximum_rows=product.evaluation.maximum_rows,
        ).collect()
        if kind_of(product).uses_last_label:
            frame = training_data.with_last_labels(product, frame, days.first, LAST_LABEL)
        if kind_of(product).uses_rows_of_day:
            rows = {day: record.counts.get("rows", 0) for day in read if (record := known.get(day))}
            frame = frame.assign(**{ROWS_OF_DAY: [rows[_date(value)] for value in frame[EVENT_DAY]]})
        self._compared = (key, frame)
        return frame


def with_days_before(product: Product, days: DayRange) -> DayRange:
    """Some days and, if a baseline is an entity's last label, the days before in which that may lie."""
    if not kind_of(product).uses_last_label:
        return days
    back = training_data.LAST_LABEL_DAYS + product.label_takes
    return DayRange(days.first - timedelta(days=back), days.last)


def _date(value: Any) -> date:
    """A day as pandas may hold it."""
    return pd.Timestamp(value).date()
