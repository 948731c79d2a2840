"""What becomes of a delivery's records: rows of the ARDS, records in quarantine, and an account of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from pyspark.sql import DataFrame

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON

ORPHAN = "label without a row"

#: The kinds of parsed records that tell why a file can't be used, and whether another try may find otherwise.
REFUSALS = {"unreadable": False, "unreachable": True}


@dataclass(frozen=True)
class Refusal:
    """Why a day's delivery can't be read; ``may_pass`` if its files need not be changed for that to end."""

    reason: str
    may_pass: bool

    @classmethod
    def of(cls, kind: str, reason: str) -> Refusal:
        """That of a parsed record of one of the kinds in ``REFUSALS``."""
        return cls(reason, REFUSALS[kind])


@dataclass(frozen=True)
class Account:
    """How many records of a day came, gave a row its label, could not be used, and had no label yet."""

    delivered: int
    labels_applied: int
    quarantined: int
    labels_not_yet: int


@dataclass(frozen=True)
class Resolution:
    """Some days, resolved but not written.

    ``rows`` has the columns of the ARDS and ``quarantine`` those of :func:`quarantine_schema`; the days in
    ``refusals`` have a file that can't be read to its end, and none of their records is in either.
    ``release`` gives up what Spark holds in memory for them.
    """

    rows: DataFrame
    quarantine: DataFrame
    accounts: Mapping[date, Account]
    refusals: Mapping[date, Refusal]
    release: Callable[[], object]


def ards_columns(product: Product) -> list[str]:
    """The columns of the ARDS, in order."""
    own = list(product.source.columns)
    return [*own, *([] if EVENT_DAY in own else [EVENT_DAY]), LABEL_KNOWN_ON]


def quarantine_schema() -> pa.Schema:
    """A record that can't be used, where it stands, and why."""
    return pa.schema(
        [
            ("product", pa.string()),
            (EVENT_DAY, pa.date32()),
            ("file", pa.string()),
            ("line", pa.int64()),
            ("raw", pa.string()),
            ("reason", pa.string()),
        ]
    )
