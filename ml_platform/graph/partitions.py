"""The days and months of a product, and how those of one asset map to those of another."""

from __future__ import annotations

import math
from datetime import date, timedelta

import dagster as dg

from ml_platform.contract.assets import REPORT_DAYS, Asset, Window
from ml_platform.contract.days import add_months, days_between, month_of, months_between
from ml_platform.contract.product import Product

SINGLE_RUN = dg.BackfillPolicy.single_run()
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def daily(product: Product) -> dg.DailyPartitionsDefinition:
    """The product's event days; all its daily assets share this definition."""
    return dg.DailyPartitionsDefinition(
        start_date=product.start.isoformat(),
        end_date=(product.end + timedelta(days=1)).isoformat() if product.end else None,
        timezone=product.timezone,
    )


def monthly_models(product: Product) -> dg.MonthlyPartitionsDefinition:
    """The months that get a model, the current month included: it is trained on the months before."""
    return dg.MonthlyPartitionsDefinition(
        start_date=product.first_month.isoformat(),
        end_date=add_months(month_of(product.end), 1).isoformat() if product.end else None,
        timezone=product.timezone,
        end_offset=1,
    )


def monthly_drift(product: Product) -> dg.MonthlyPartitionsDefinition:
    """The whole months of the product's history; a month can be measured when it is over."""
    whole = month_of(product.start) if product.start.day == 1 else add_months(product.start, 1)
    end = month_of(product.end + timedelta(days=1)) if product.end else None
    return dg.MonthlyPartitionsDefinition(
        start_date=whole.isoformat(),
        end_date=end.isoformat() if end else None,
        timezone=product.timezone,
    )


def this_and_the_month_before() -> dg.TimeWindowPartitionMapping:
    """From a month to its days and those of the month before."""
    return dg.TimeWindowPartitionMapping(start_offset=-1, allow_nonexistent_upstream_partitions=True)


def months_before(product: Product) -> dg.TimeWindowPartitionMapping:
    """From a month to the days that a model learns from and is compared on, in whole months.

    They end as many days before the month as labels take to come.
    """
    rules, shortest = product.model, 28
    length = max(rules.training_months, math.ceil(rules.holdout_days / shortest))
    return dg.TimeWindowPartitionMapping(
        start_offset=-length - math.ceil(product.source.label_delay_days / shortest),
        end_offset=-1,
        allow_nonexistent_upstream_partitions=True,
    )


def month_of_day() -> dg.TimeWindowPartitionMapping:
    """From a day to its month; the days before the first month have no model."""
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


def evaluation_window(product: Product) -> dg.TimeWindowPartitionMapping:
    """From a day to the days evaluated on it, and itself, so that a backfill never starts with it."""
    days = product.evaluation.window_days - 1 + product.source.label_delay_days
    return dg.TimeWindowPartitionMapping(start_offset=-days, allow_nonexistent_upstream_partitions=True)


def report_window() -> dg.TimeWindowPartitionMapping:
    """From a day to the days its validation report shows."""
    return dg.TimeWindowPartitionMapping(
        start_offset=1 - REPORT_DAYS, allow_nonexistent_upstream_partitions=True
    )


def of(product: Product, asset: Asset) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of an asset."""
    if asset.period == "day":
        return daily(product)
    return monthly_models(product) if asset.with_current_month else monthly_drift(product)


def asked_for(asset: Asset, keys: dg.PartitionKeyRange) -> tuple[date, ...]:
    """The days, or the months by their first days, of a range of an asset's partitions."""
    first, last = date.fromisoformat(keys.start), date.fromisoformat(keys.end)
    return tuple(days_between(first, last) if asset.period == "day" else months_between(first, last))


def mapping(product: Product, window: Window) -> dg.TimeWindowPartitionMapping | None:
    """From a partition to what it reads of an input; None for its own day or month."""
    match window:
        case "days_of_report":
            return report_window()
        case "days_evaluated":
            return evaluation_window(product)
        case "days_learned_from":
            return months_before(product)
        case "month_of_day":
            return month_of_day()
        case "month_and_the_one_before":
            return this_and_the_month_before()
        case _:
            return None


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of a run over the partitions from ``first`` to ``last``, as Dagster names them."""
    return {RANGE_TAGS[0]: first.isoformat(), RANGE_TAGS[1]: last.isoformat()}
