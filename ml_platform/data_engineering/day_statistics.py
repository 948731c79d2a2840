"""What is counted of the days of a data set: by the task that writes a day, or by Spark of what was written.

Both give the same figures, so that nothing downstream can tell how a day was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from ml_platform.contract.source import EVENT_DAY
from ml_platform.storage.fingerprints import EMPTY, content_hash, content_hash_of
from ml_platform.storage.tables import column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame


class Statistics(Protocol):
    """Figures over a day's rows, by name. They travel to the tasks."""

    def in_spark(self) -> Mapping[str, Column]:
        """The aggregates; they may be approximate where exact ones take memory that grows with a day."""

    def of_rows(self, rows: pa.Table) -> Mapping[str, Any]:
        """The figures of rows that are held in memory."""


@dataclass(frozen=True)
class Counted:
    """A day's rows, those with a label and with a positive one, and the hashes of their content."""

    rows: int = 0
    labelled: int = 0
    positives: int = 0
    fingerprint: str = EMPTY
    features_fingerprint: str = EMPTY
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counting:
    """What to count.

    Args:
        label: a column of 0, 1 and null.
        columns: of the data set.
        features: the columns of ``features_fingerprint``; it is that of no rows without any.
    """

    label: str
    columns: Sequence[str]
    features: Sequence[str] = ()
    statistics: Statistics | None = None

    def of_rows(self, rows: pa.Table) -> Counted:
        """The figures of one day's rows."""
        import pyarrow.compute as pc

        if not len(rows):
            return Counted()
        label = rows[self.label]
        return Counted(
            rows=len(rows),
            labelled=len(rows) - label.null_count,
            positives=pc.sum(label).as_py() or 0,
            fingerprint=content_hash_of(rows, self.columns),
            features_fingerprint=content_hash_of(rows, self.features) if self.features else EMPTY,
            statistics=self.statistics.of_rows(rows) if self.statistics else {},
        )

    def in_tasks(self, rows: DataFrame, schema: pa.Schema) -> dict[date, Counted]:
        """The figures of each day that has any rows, which must fit in the memory of a task."""
        plain = TypeAdapter(Counted)

        def count(of_day: pa.Table) -> pa.Table:
            import pyarrow as pa

            counted = self.of_rows(of_day.cast(schema))
            return pa.table({"day": of_day[EVENT_DAY][:1], "counted": [plain.dump_json(counted).decode()]})

        by_day = rows.select(*[column(name) for name in schema.names]).groupBy(EVENT_DAY)
        found = by_day.applyInArrow(count, "day date, counted string").collect()
        return {row["day"]: plain.validate_json(row["counted"]) for row in found}

    def in_spark(self, rows: DataFrame) -> dict[date, Counted]:
        """The figures of each day that has any rows, in one pass over them."""
        from pyspark.sql import functions as F

        statistics = self.statistics.in_spark() if self.statistics else {}
        label = column(self.label)
        counted = rows.groupBy(EVENT_DAY).agg(
            F.count(F.lit(1)).alias("_rows"),
            F.count(label).alias("_labelled"),
            F.sum(label).alias("_positives"),
            content_hash(self.columns).alias("_fingerprint"),
            (content_hash(self.features) if self.features else F.lit(EMPTY)).alias("_features_fingerprint"),
            *[aggregate.alias(name) for name, aggregate in statistics.items()],
        )
        return {
            row[EVENT_DAY]: Counted(
                rows=row["_rows"],
                labelled=row["_labelled"],
                positives=row["_positives"] or 0,
                fingerprint=row["_fingerprint"],
                features_fingerprint=row["_features_fingerprint"],
                statistics={name: row[name] for name in statistics},
            )
            for row in counted.collect()
        }
