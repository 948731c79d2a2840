"""How long what the online store holds of an entity counts, by the contract alone."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ml_platform.contract.days import counted
from ml_platform.contract.fields import Days, Section

if TYPE_CHECKING:
    from ml_platform.contract.product import Product

#: A business that scores on some weekday does so again within these days, whatever its holidays.
_LONGEST_BREAK_DAYS = 366


class Online(Section):
    """How long an entity's features hold in the online store when no newer ones come."""

    expires_after_days: Annotated[Days, Field(ge=1)] | None = Field(
        default=None, description="days after the event day for which its features hold"
    )
    grace_days: Annotated[Days, Field(ge=0)] = Field(
        default=3, description="days that the next day of a population may be late"
    )


def rule(product: Product) -> list[Any] | None:
    """What of the contract decides how long features hold; None if they do until others come."""
    if product.online.expires_after_days is not None:
        return ["days", product.online.expires_after_days]
    population = product.mrds.population
    if population is not None:
        delivery = product.delivery.model_dump(mode="json", exclude_defaults=True)
        return ["next", [*population.weekdays], product.online.grace_days, delivery]
    windows = [window.days for window in product.mrds.windows if window.days is not None]
    return ["days", min(windows)] if windows else None


def valid_until(product: Product, day: date) -> date | None:
    """The last date on which an entity's features of an event day hold; None without such a date.

    Where a population is scored, the rows of its next day have come by then, and ``online.grace_days`` more
    have passed. Elsewhere the shortest window that ends with the event day has passed it by then.
    """
    match rule(product):
        case ["next", *_]:
            arrival = product.rows_expected_on(_next_scored(product, day))
            return arrival + timedelta(days=product.online.grace_days)
        case ["days", days]:
            return day + timedelta(days=days)
        case _:
            return None


def has_expired(product: Product, day: date, until: date | None, today: date) -> bool:
    """Whether an entity's features of an event day don't hold any more.

    Args:
        until: what the store says of them; None of what was published before it said so.
        today: the date where the product is. A history that has an end stays as it was on the day after it.
    """
    until = until or valid_until(product, day)
    if product.end is not None:
        today = min(today, product.end + timedelta(days=1))
    return until is not None and today > until


def in_words(product: Product) -> str | None:
    """How long features hold; None if they do until others come."""
    match rule(product):
        case ["next", _, grace, _]:
            return f"until the next day that is scored may be {counted(grace, 'day')} late"
        case ["days", days]:
            return f"for {counted(days, 'day')} after their event day"
        case _:
            return None


def _next_scored(product: Product, day: date) -> date:
    later = (day + timedelta(days=n) for n in range(1, _LONGEST_BREAK_DAYS + 1))
    scored = (other for other in later if product.due(other) and product.why_not_scored(other) is None)
    return next(scored, day + timedelta(days=_LONGEST_BREAK_DAYS))
