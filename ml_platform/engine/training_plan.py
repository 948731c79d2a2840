"""What a model is trained on: as of when, from which days, and what says that nothing of it has changed.

A month's model is trained as of the month's first day; a retrain comes with a later as-of date within the
month and learns from the recent past only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pandas as pd

from ml_platform.contract.days import DayRange, add_months, days_between, month_of
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning.model_history import Kind, ModelRecord
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import WITHOUT_ROWS, DayRecord


@dataclass(frozen=True)
class TrainingPlan:
    """One model to be trained: as of when, from which days.

    ``outdated`` are the days that an earlier version of the contract made, with other definitions of what the
    model reads, ``untrainable`` those before the ``since`` of a required feature; it learns from neither.
    """

    month: date
    as_of: date
    kind: Kind
    days: DayRange
    records: dict[date, DayRecord]
    outdated: frozenset[date]
    untrainable: frozenset[date]
    inputs: str

    @property
    def usable(self) -> list[date]:
        """The days to learn from: none that an earlier contract made otherwise than today's would, and none
        before the features that must have values had any.
        """
        skipped = self.outdated | self.untrainable
        return [
            day for day, record in self.records.items() if record.usable_on(self.as_of) and day not in skipped
        ]


def training_days(product: Product, as_of: date, kind: Kind) -> DayRange:
    """The event days a model as of a date may learn from: the months, or a retrain's recent past.

    They end with the last day whose labels can be known, and have their full length before it. Days after
    it don't count, although some of their labels may have come: those that come early aren't like the others.

    Raises:
        PermanentError: no label can be known by then.
    """
    last = product.last_labelled_day(as_of)
    if last < product.start:
        raise PermanentError(
            f"as of {as_of} no label is known: those of the first day, {product.start}, come "
            f"{product.label_takes} days after it; the first possible as-of is "
            f"{product.first_as_of(1)}"
        )
    if kind == "retrain" and product.retrain.training_days is not None:
        first = last - timedelta(days=product.retrain.training_days - 1)
    else:
        rules = product.model if kind == "monthly" else product.retrain
        months = pd.DateOffset(months=rules.training_months)
        first = (pd.Timestamp(last + timedelta(days=1)) - months).date()
    return DayRange(max(first, product.start), last)


def as_ofs(context: StepContext) -> list[date]:
    """The as-of dates of the models that a request asks for, ascending.

    Raises:
        PermanentError: an as-of date for more than one month, outside its month, or in the future.
    """
    request = context.request
    months = sorted(month_of(day) for day in request.days)
    if request.as_of is None:
        return months
    if len(months) > 1:
        raise PermanentError(
            f"an as-of date is for one month at once; asked for were {len(months)}. "
            "Materialize the one partition that the retrain is for."
        )
    if not months[0] <= request.as_of < add_months(months[0], 1):
        raise PermanentError(
            f"as-of {request.as_of} doesn't lie in the month {months[0]:%Y-%m}; "
            f"accepted is {months[0]} to {add_months(months[0], 1) - timedelta(days=1)}"
        )
    _require_landed(context, request.as_of)
    return [request.as_of]


def plans(context: StepContext, as_ofs: Iterable[date]) -> dict[date, TrainingPlan]:
    """The plans of the models as of some dates. Needs no Spark.

    Raises:
        PermanentError: no label can be known by one of the dates.
    """
    known = context.ledger.latest(MRDS, details=False)
    contracts = readable_contracts(context)
    return {as_of: _plan(context.product, as_of, known, contracts) for as_of in as_ofs}


def as_it_was(context: StepContext, model: ModelRecord) -> TrainingPlan:
    """The plan that a model was trained by, of the days as they are now.

    Args:
        context: with the product that it is a model of, which may have been trained on fewer months since.
    """
    known = context.ledger.latest(MRDS, details=False)
    days = DayRange(model.first_day, model.last_day)
    return _plan(context.product, model.as_of, known, readable_contracts(context), days)


def not_yet(product: Product, as_of: date, newest: date | None) -> str | None:
    """Why a model can't be trained as of a date yet: a delivery that is due before it may still come.

    The clock is the newest delivered day: what was due before it and isn't there is overdue.

    Args:
        newest: what :func:`newest_delivered` gives.
    """
    if newest is None:
        return "no day has been delivered yet"
    last = as_of - timedelta(days=1)
    due = product.due_days(days_between(newest + timedelta(days=1), min(last, product.end or last)))
    if not due:
        return None
    return f"the newest delivered day is {newest}, and {due[0]} is due before {as_of}"


def newest_delivered(context: StepContext) -> date | None:
    """The newest day that has had a delivery; None before the first."""
    records = context.ledger.latest(ARDS, details=False)
    return max((day for day, record in records.items() if record.outcome not in WITHOUT_ROWS), default=None)


def latest_as_of(product: Product, newest: date) -> date:
    """The latest date that a model can be as of when ``newest`` is the newest day that there is.

    It is the morning after it, within the months that the product has.
    """
    after = newest + timedelta(days=1)
    if product.end is None:
        return after
    return min(after, add_months(month_of(product.end), 1) - timedelta(days=1))


def _require_landed(context: StepContext, as_of: date) -> None:
    """Refuse an as-of date that lies after the morning after the newest landed day.

    A model of the future would know no more than one of that morning, and all retrains would wait for it.
    """
    records = context.ledger.latest(ARDS, details=False)
    newest = max((day for day, record in records.items() if record.outcome != "missing"), default=None)
    if newest is None:
        raise PermanentError(f"as-of {as_of} lies in the future: no day has been delivered yet")
    latest = latest_as_of(context.product, newest)
    if as_of > newest + timedelta(days=1):
        raise PermanentError(
            f"as-of {as_of} lies in the future: the newest day that has been delivered and materialized is "
            f"{newest}; the latest as-of is {latest}"
        )
    if as_of > latest:
        raise PermanentError(
            f"as-of {as_of} lies after the last month of the product, which ends on {context.product.end}; "
            f"the latest as-of is {latest}"
        )


def readable_contracts(context: StepContext) -> frozenset[str]:
    """The versions of the contract whose days hold what today's would, in all that the model reads."""
    product = context.product
    return ContractVersions(context.tables, product).mrds_like_now(product.model.features.all)


def _plan(
    product: Product,
    as_of: date,
    known: Mapping[date, DayRecord],
    contracts: Collection[str],
    days: DayRange | None = None,
) -> TrainingPlan:
    month = month_of(as_of)
    kind: Kind = "monthly" if as_of == month else "retrain"
    days = days or training_days(product, as_of, kind)
    records = {day: known[day] for day in days if day in known}
    outdated = frozenset(
        day
        for day, record in records.items()
        if record.outcome == "written" and record.contract not in contracts
    )
    untrainable = frozenset(day for day in records if not product.trainable(day)) - outdated
    content = [as_of, content_of(days, known, as_of), *([sorted(outdated)] if outdated else [])]
    return TrainingPlan(month, as_of, kind, days, records, outdated, untrainable, fingerprint_of(content))


def content_of(days: Iterable[date], known: Mapping[date, DayRecord], as_of: date) -> list[Any]:
    """What a window holds as of a date, by what the ledger says of its days."""

    def of(record: DayRecord) -> tuple[str, str | None]:
        if record.usable and not record.usable_on(as_of):
            return "held_back", None  # as before it was accepted
        return record.outcome, record.fingerprint

    return [(day, *of(record)) for day in days if (record := known.get(day)) is not None]
