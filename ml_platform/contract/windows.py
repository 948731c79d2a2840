"""Which days of an input a partition reads, by the names of the catalogue."""

from __future__ import annotations

from datetime import date, timedelta

from ml_platform.contract.assets import REPORT_DAYS, Asset, Window
from ml_platform.contract.days import DayRange, add_months, last_day_of, months_between, whole_months_between
from ml_platform.contract.product import Product

#: What holds days beside a partition's own, and can be worked out without a look at what was made.
_WINDOWS: frozenset[Window] = frozenset({"days_of_report", "days_evaluated", "month_and_the_one_before"})


def days_evaluated(product: Product, day: date) -> DayRange:
    """The event days that the evaluation of a day looks at: the newest whose labels can be known by then."""
    last = product.last_labelled_day(day + timedelta(days=1))
    return DayRange(last - timedelta(days=product.evaluation.window_days - 1), last)


def reads_window(asset: Asset) -> bool:
    """Whether a partition is made of other days than its own as well."""
    return any(reads.over in _WINDOWS for reads in asset.reads)


def partitions_between(product: Product, asset: Asset, days: DayRange) -> list[date]:
    """The partitions of an asset that a range of days is about: the days, or months by their first days.

    Of months these are the ones that are over, or for the model all from its first.
    """
    if asset.period == "day":
        return list(days)
    if not asset.with_current_month:
        return whole_months_between(days.first, days.last)
    return [month for month in months_between(days.first, days.last) if month >= product.first_month]


def days_read(product: Product, over: Window, partition: date) -> DayRange:
    """The days of an input that a partition (a month by its first day) reads.

    Raises:
        ValueError: these days can't be told by the partition alone.
    """
    match over:
        case "same":
            return DayRange(partition, partition)
        case "days_of_report":
            return DayRange(partition - timedelta(days=REPORT_DAYS - 1), partition)
        case "days_evaluated":
            return days_evaluated(product, partition)
        case "month_and_the_one_before":
            return DayRange(add_months(partition, -1), last_day_of(partition))
        case _:
            raise ValueError(f"{over} is no window of days that a partition tells by itself")
