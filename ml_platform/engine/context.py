"""The context of a step: the product, where its data lies, and a Spark session if it needs one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_platform.contract.assets import CATALOGUE
from ml_platform.contract.faults import Isolation, ends_the_run, in_words
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import scrub
from ml_platform.engine.passing_errors import is_passing
from ml_platform.engine.step import StepRequest
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass
class StepContext:
    """One step's surroundings. ``session`` is called when Spark is first needed, and not before."""

    product: Product
    settings: Settings
    request: StepRequest
    session: Callable[[], SparkSession]
    log: Callable[[str], None]
    #: What was loaded of a model's fingerprint and version, or the error; asked for once a run.
    loaded_models: dict[tuple[str, str], Any] = field(default_factory=dict)

    def open_spark(self) -> SparkSession:
        """The Spark session, to be passed on to whatever may need one."""
        return self.spark

    @cached_property
    def spark(self) -> SparkSession:
        return self.session()

    @cached_property
    def tables(self) -> Tables:
        return Tables.of(self.settings, self.open_spark)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.tables, self.product.name)

    def isolation(self, blame: Callable[[date, Exception], None]) -> Isolation:
        """Finds the days that fail; what may pass, or concerns more than days, ends the step."""
        row = CATALOGUE.get(self.request.step)
        return Isolation(
            blame,
            self.log,
            lambda error: ends_the_run(error) or is_passing(error),
            period=row.period if row else "day",
        )

    def failure(self, what: str, error: Exception) -> str:
        """An exception in words, for a reason; its traceback goes to the log. Neither shows a secret."""
        trace = "".join(traceback.format_exception(error))
        self.log(scrub(f"{what} has failed, others go on\n{trace}", self.settings.secrets))
        return scrub(in_words(error, quoting=not self.product.sensitive), self.settings.secrets)

    def usable(self, asset: str, days: Collection[date]) -> dict[date, DayRecord]:
        """The days of an asset that a window may count."""
        return {day: record for day, record in self.ledger.latest(asset, days).items() if record.usable}


def left_out(records: dict[date, DayRecord], as_of: date | None = None) -> list[str]:
    """The days of a window that are not counted, each with its outcome.

    Args:
        as_of: count them as was known on a date; without it as they are.
    """
    return [
        f"{day} ({'accepted later' if record.usable else record.outcome})"
        for day, record in records.items()
        if not (record.usable if as_of is None else record.usable_on(as_of))
    ]
