"""The days and months of a product, and how those of one asset map to those of another."""

from __future__ import annotations

from datetime import date, timedelta

import dagster as dg

from ml_platform.contract.assets import Asset, Window
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
    """From a partition to what of an input is drawn for it; None for its own day or month.

    A step reads windows of days, and knows them itself. Drawn is less: the days of a month for a month, and
    the same day for a day. How far a backfill from the UI reaches follows from what is drawn: with windows
    drawn as windows it would go on for months beyond the days that were asked for. The price: in a backfill
    of separate days, as of those that are missing or failed, a month may be trained beside the days before it
    that are done again; then a later run trains it once more.
    """
    match window:
        case "days_learned_from" | "month_of_day" | "month_and_the_one_before":
            # The days before the first month have no model, and a first or last month need not be whole.
            return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
        case _:
            return None


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of a run over the partitions from ``first`` to ``last``, as Dagster names them."""
    return {RANGE_TAGS[0]: first.isoformat(), RANGE_TAGS[1]: last.isoformat()}
