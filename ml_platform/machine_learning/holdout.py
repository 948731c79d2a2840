"""On which rows two models are compared, and when: rows that neither of them has learned from.

Where entities are many, a tenth of them is held out from every training, and their newest labelled days
decide at once. Where they are few, there is nobody to hold out: models learn from all of them and are
compared forward in time. A challenger as of a date is scored beside the champion, without serving, on the
days from that date on; when their labels are known it is decided, once, and serves from then on. Days held
out by hash would leak through their neighbours, and two models trained without the last days would hide
what has changed since. Everything here is a pure function of the contract and a date.
"""

from __future__ import annotations

from datetime import date, timedelta

from ml_platform.contract.days import DayRange
from ml_platform.contract.learning import LEAST_DAYS_FORWARD, Holdout
from ml_platform.contract.product import Product
from ml_platform.machine_learning.bootstrap import MINIMUM_CLUSTERS

FEW_ENTITIES = 100
"""With fewer the held-out tenth has fewer than the ten clusters that an interval needs."""

DAYS_A_WEEK = 7
"""Rows of days near each other resemble each other: forward in time a bootstrap draws weeks, not entities."""

assert LEAST_DAYS_FORWARD >= DAYS_A_WEEK * MINIMUM_CLUSTERS


def by_entities(product: Product, as_of: date) -> DayRange:
    """The newest labelled days before an as-of date, on which held-out entities are compared."""
    last = product.last_labelled_day(as_of)
    return DayRange(last - timedelta(days=product.model.holdout_days - 1), last)


def days_forward(product: Product) -> int:
    """How many days a challenger is scored in shadow: the contract's, at least ten weeks."""
    return max(product.model.holdout_days, LEAST_DAYS_FORWARD)


def wait_forward(product: Product) -> timedelta:
    """From the as-of date of a challenger to the morning on which it can be decided."""
    return timedelta(days=days_forward(product) + product.label_takes)


def forward(product: Product, as_of: date) -> DayRange:
    """The event days on which a challenger is scored in shadow."""
    return DayRange(as_of, as_of + timedelta(days=days_forward(product) - 1))


def twin_as_of(product: Product, as_of: date) -> date:
    """As of when a first model's twin is trained: the labels of the days since are known by ``as_of``."""
    return as_of - wait_forward(product)


def mode_for(entities: int) -> Holdout:
    """How models are compared where the contract leaves it open, by the entities known at the first one."""
    return "time" if entities < FEW_ENTITIES else "entities"


def week(day: date) -> int:
    """The week of a day: what a bootstrap draws."""
    return day.toordinal() // DAYS_A_WEEK
