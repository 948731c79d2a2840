"""What is counted of the days of a data set: of parts of a day, which add up to the day's figures.

The tasks that write a day count what they write; of what Spark has written each task counts its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from ml_platform.contract.source import EVENT_DAY
from ml_platform.spark.tasks import spare_next_task
from ml_platform.storage.fingerprints import EMPTY, ContentSums
from ml_platform.storage.tables import column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Rows that a task counts at once of what Spark hands it in smaller batches.
_ROWS_AT_ONCE = 100_000


class Statistics(Protocol):
    """Figures over a day's rows, by name. They travel to the tasks."""

    def of_part(self, rows: pa.Table, *, is_whole: bool) -> Mapping[str, Any]:
        """The figures of a part of a day's rows, as plain data; of the whole day if ``is_whole``."""

    def of_parts(self, parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The figures of the day that the parts make up."""


@dataclass(frozen=True)
class Counted:
    """A day's rows, those with a label and with a positive one, and the hashes of their content.

    ``positives`` is None where labels aren't positive or negative.
    """

    rows: int = 0
    labelled: int = 0
    positives: int | None = 0
    fingerprint: str = EMPTY
    features_fingerprint: str = EMPTY
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def counts(self, *names: str) -> dict[str, int]:
        """Some of the numbers by name, as far as they mean something of this kind of label."""
        found = {name: getattr(self, name) for name in names}
        return {name: count for name, count in found.items() if count is not None}


@dataclass(frozen=True)
class CountedPart:
    """The same of a part of a day's rows, in figures that add up."""

    rows: int
    labelled: int
    positives: int
    content: ContentSums
    features: ContentSums
    statistics: Mapping[str, Any]


@dataclass(frozen=True)
class Counting:
    """What to count.

    Args:
        label: the column whose values are counted; of 0, 1 and null if there are positives. None without any.
        columns: of the data set.
        features: the columns of ``features_fingerprint``; it is that of no rows without any.
    """

    label: str | None
    columns: Sequence[str]
    features: Sequence[str] = ()
    statistics: Statistics | None = None
    has_positives: bool = True

    def of_rows(self, rows: pa.Table) -> Counted:
        """The figures of one day's rows."""
        return self.of_parts([self.of_part(rows, is_whole=True)])

    def of_part(self, rows: pa.Table, *, is_whole: bool = False) -> CountedPart:
        """The figures of a part of a day's rows; of the whole day, some are exact only then."""
        import pyarrow as pa
        import pyarrow.compute as pc

        label = rows[self.label] if self.label is not None else pa.nulls(len(rows), pa.int32())
        statistics = self.statistics if len(rows) else None
        return CountedPart(
            rows=len(rows),
            labelled=len(rows) - label.null_count,
            positives=(pc.sum(label).as_py() or 0) if self.has_positives else 0,
            content=ContentSums.of(rows, self.columns),
            features=ContentSums.of(rows, self.features) if self.features else ContentSums(),
            statistics=statistics.of_part(rows, is_whole=is_whole) if statistics else {},
        )

    def of_parts(self, parts: Sequence[CountedPart]) -> Counted:
        """The figures of the day that the parts make up."""
        filled = [part for part in parts if part.rows]
        content = sum((part.content for part in filled), ContentSums())
        features = sum((part.features for part in filled), ContentSums())
        statistics = [part.statistics for part in filled]
        return Counted(
            rows=content.rows,
            labelled=sum(part.labelled for part in filled),
            positives=sum(part.positives for part in filled) if self.has_positives else None,
            fingerprint=content.fingerprint(self.columns),
            features_fingerprint=features.fingerprint(self.features),
            statistics=self.statistics.of_parts(statistics) if self.statistics and filled else {},
        )

    def of_frame(self, rows: DataFrame, schema: pa.Schema) -> dict[date, Counted]:
        """The figures of each day that has any rows, in one pass over them, in which nothing is shuffled.

        Args:
            schema: of the data set.
        """
        plain = TypeAdapter(CountedPart)

        def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import pyarrow as pa
            import pyarrow.compute as pc

            for part in _gathered(batches):
                for day in pc.unique(part[EVENT_DAY]).to_pylist():
                    of_day = part.filter(pc.equal(part[EVENT_DAY], pa.scalar(day, pa.date32())))
                    counted = plain.dump_json(self.of_part(of_day.cast(schema))).decode()
                    columns = {"day": pa.array([day], pa.date32()), "counted": [counted]}
                    yield pa.RecordBatch.from_pydict(columns)
            spare_next_task()

        chosen = rows.select(*[column(name) for name in schema.names])
        parts: dict[date, list[CountedPart]] = {}
        for row in chosen.mapInArrow(count, "day date, counted string").collect():
            parts.setdefault(row["day"], []).append(plain.validate_json(row["counted"]))
        return {day: self.of_parts(of_day) for day, of_day in parts.items()}


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of many batches, so many at once as are worth to be counted together."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= _ROWS_AT_ONCE:
            yield pa.Table.from_batches(waiting)
            waiting, count = [], 0
    if count:
        yield pa.Table.from_batches(waiting)
