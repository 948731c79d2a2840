"""What generated samples share: the days they can have, their random numbers, how days are replaced."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from pathlib import Path

import numpy as np

from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.data_engineering.splitting import publish


def check(product: Product, days: DayRange, rows_per_day: int, seed: int) -> None:
    """See that a sample can have these days and rows.

    Raises:
        ValueError: the days lie outside the product's, or there are no rows to write.
    """
    if days.first < product.start or (product.end is not None and days.last > product.end):
        raise ValueError(
            f"{days} goes beyond the days of {product.name}, {product.start} to {product.end or 'yesterday'}"
        )
    if rows_per_day < 1 or seed < 0:
        raise ValueError("rows_per_day must be 1 or more, and seed not negative")


def generator(seed: int, purpose: int, day: date | None, block: int = 0) -> np.random.Generator:
    """The random numbers for one purpose, day and block, independent of all others."""
    counter = [0, block, day.toordinal() if day else 0, 0]
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=counter))


def replace_day(prepared: Path, target: Path, names: Collection[str]) -> None:
    """Make the files of ``prepared`` those of a day, of which the sample may have files of these names."""
    for name in set(names) - {path.name for path in prepared.iterdir()}:
        (target / name).unlink(missing_ok=True)
    publish(prepared, target)
