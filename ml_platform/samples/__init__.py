"""Sample data: the real flights of 2013, and customers and a shop that are generated.

``SAMPLES`` has, for each product with a sample, the function that lands it: called with the product, the
landing folder and the days, and with ``progress`` and the sample's own options by name. What a sample
needs is imported only when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import SAMPLE_CONTRACTS, load_product
from ml_platform.contract.product import Product


def _flights(product: Product, landing: Path, days: DayRange, **options: Any) -> object:
    from ml_platform.samples import flights

    return flights.land(product, landing, days, **options)


def _customers(product: Product, landing: Path, days: DayRange, **options: Any) -> object:
    from ml_platform.samples import customers

    return customers.land(product, landing, days, **options)


def _shop(product: Product, landing: Path, days: DayRange, **options: Any) -> object:
    from ml_platform.samples import shop

    return shop.land(product, landing, days, **options)


SAMPLES: dict[str, Callable[..., object]] = {"flights": _flights, "customers": _customers, "shop": _shop}
#: The samples whose days can have any size.
GENERATED: frozenset[str] = frozenset({"customers", "shop"})


def contract_of_sample(name: str) -> Product:
    """The contract that a sample's files are written by."""
    return load_product(SAMPLE_CONTRACTS / f"{name}.yaml", try_estimators=False)
