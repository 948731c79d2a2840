"""Records on their way into buckets where Spark carries them: those of a bucket in one value.

Spark would make a row of each record, sort the rows, and make columns of them again, which takes three times
as long as all that is computed of them. Of a parcel it sees the day and the bucket; what is in it, a piece of
a table as it is in memory, is its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.data_engineering import buckets
from ml_platform.spark.tasks import spare_next_task

DAY, BUCKET, SOURCE, PIECE, RECORDS, FACTS = "day", "bucket", "source", "piece", "records", "facts"
#: A parcel has a piece of a source's records, in the order of both, or what is known of the source.
SCHEMA = pa.schema(
    [
        (DAY, pa.date32()),
        (BUCKET, pa.int32()),
        (SOURCE, pa.int32()),
        (PIECE, pa.int32()),
        (RECORDS, pa.binary()),
        (FACTS, pa.string()),
    ]
)


def of_facts(day: date, source: int, facts: str) -> pa.Table:
    """A parcel for the first bucket of a day, with what is known of a source as text."""
    return _parcel(day, 0, source, -1, None, facts)


def of_records(
    day: date, records: pa.Table, numbers: buckets.Numbers, count: int, *, source: int = 0, piece: int = 0
) -> Iterator[pa.Table]:
    """A parcel for each of the ``count`` buckets that has any of the records.

    Args:
        numbers: what :func:`.buckets.assigned` gives for each record.
    """
    for bucket, batch in enumerate(buckets.divided(records, numbers, count)):
        if len(batch):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield _parcel(day, bucket, source, piece, bytes(sink.getvalue()), None)


def records(parcels: pa.Table) -> list[pa.Table]:
    """The records of parcels, in the order of their sources and pieces: a shuffle doesn't keep it."""
    ordered = parcels.sort_by([(SOURCE, "ascending"), (PIECE, "ascending")])
    return [pa.ipc.open_stream(packed.as_buffer()).read_all() for packed in ordered[RECORDS].drop_null()]


def by_bucket(
    rows: DataFrame,
    day: str,
    keys: Sequence[str],
    counts: Mapping[date, int],
    make: Callable[[pa.Table], pa.Table],
    schema: pa.Schema,
) -> DataFrame:
    """What is made of each bucket of each day that has any rows, in the columns of ``schema``.

    Args:
        day: the column with a row's day.
        keys: the columns of the keys whose rows are in one bucket.
        counts: how many buckets each day has, if more than one.
        make: is given all rows of a bucket, in any order.
    """
    piece_bytes = buckets.PIECE_BYTES

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for piece in buckets.pieces(batches, piece_bytes):
            for day_ in piece[day].unique().to_pylist():
                of_day = piece.filter(pc.equal(piece[day], pa.scalar(day_, pa.date32())))
                numbers = buckets.assigned([of_day[key] for key in keys], len(of_day))
                for parcel in of_records(day_, of_day, numbers, counts.get(day_, 1)):
                    yield from parcel.to_batches()
        spare_next_task()

    def receive(parcels: pa.Table) -> pa.Table:
        made = make(pa.concat_tables(records(parcels)))
        spare_next_task()
        return made

    sent = rows.mapInArrow(send, from_arrow_schema(SCHEMA))
    return sent.groupBy(DAY, BUCKET).applyInArrow(receive, from_arrow_schema(schema))


def by_share(
    frames: Sequence[DataFrame],
    schemas: Sequence[pa.Schema],
    day: date,
    keys: Sequence[str],
    count: int,
    make: Callable[[Sequence[pa.Table]], pa.Table],
    schema: pa.Schema,
) -> DataFrame:
    """What is made of each of ``count`` shares of the keys that have any rows, in the columns of ``schema``.

    Args:
        schemas: of the frames, which all have the columns of the keys.
        day: any; parcels have one.
        make: is given a share's rows of each frame, in any order.
    """

    def sent(frame: DataFrame, source: int) -> DataFrame:
        given, piece_bytes = schemas[source], buckets.PIECE_BYTES

        def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for piece in buckets.pieces(batches, piece_bytes):
                rows = piece.cast(given)
                numbers = buckets.assigned([rows[key] for key in keys], len(rows))
                for parcel in of_records(day, rows, numbers, count, source=source):
                    yield from parcel.to_batches()
            spare_next_task()

        return frame.mapInArrow(send, from_arrow_schema(SCHEMA))

    def receive(parcels: pa.Table) -> pa.Table:
        tables = []
        for source, given in enumerate(schemas):
            chosen = parcels.filter(pc.equal(parcels[SOURCE], source))
            tables.append(pa.concat_tables([given.empty_table(), *records(chosen)]))
        made = make(tables)
        spare_next_task()
        return made

    together, *others = [sent(frame, source) for source, frame in enumerate(frames)]
    for other in others:
        together = together.union(other)
    return together.groupBy(DAY, BUCKET).applyInArrow(receive, from_arrow_schema(schema))


def _parcel(
    day: date, bucket: int, source: int, piece: int, records: bytes | None, facts: str | None
) -> pa.Table:
    return pa.table([[value] for value in (day, bucket, source, piece, records, facts)], schema=SCHEMA)
