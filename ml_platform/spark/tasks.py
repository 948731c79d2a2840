"""What the Python tasks of Spark have in common."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar
from zipimport import zipimporter

from pydantic import TypeAdapter

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

#: Days that one task does; fewer would pay more for starting tasks, more would leave cores without any.
DAYS_A_TASK = 8

Key = TypeVar("Key")
Result = TypeVar("Result")
#: Gives the Spark session; called when it is first needed, since starting one takes seconds.
Session = Callable[[], "SparkSession"]

_imported = 0


def in_tasks(
    session: Session,
    days: Sequence[date],
    work: Callable[[Sequence[date]], Iterable[tuple[date, Result]]],
    result: type[Result],
    *,
    here: bool = False,
    days_a_task: int = DAYS_A_TASK,
) -> dict[date, Result]:
    """Have tasks do some days each, and hand back what they give for a day.

    Args:
        work: does some of the days, in their order. It travels to the tasks.
        result: a class that pydantic can write as JSON and read again.
        here: whether there is so little to do that this process does it, without Spark.
    """
    if here:
        return dict(_here(work(days), result))

    def do(chosen: Sequence[int]) -> Iterable[tuple[int, Result]]:
        numbered = {days[number]: number for number in chosen}
        return ((numbered[day], found) for day, found in work(list(numbered)))

    done = _in_tasks(session, len(days), do, result, days_a_task)
    return {days[number]: found for number, found in done}


def each_in_a_task(
    session: Session, count: int, work: Callable[[int], Result], result: type[Result], *, here: bool = False
) -> list[Result]:
    """Have ``work`` done with each of the numbers from 0 to ``count`` - 1, in a task each; their results.

    Args:
        work: travels to the tasks.
        result: a class that pydantic can write as JSON and read again.
        here: whether there is so little to do that this process does it, without Spark.
    """
    if here:
        return [found for _, found in _here(((number, work(number)) for number in range(count)), result)]
    found = dict(_in_tasks(session, count, lambda chosen: ((n, work(n)) for n in chosen), result, 1))
    return [found[number] for number in range(count)]


def _here(found: Iterable[tuple[Key, Result]], result: type[Result]) -> list[tuple[Key, Result]]:
    """What is found in this process, as what comes back from a task."""
    plain = TypeAdapter(result)
    try:
        return [(key, plain.validate_json(plain.dump_json(value))) for key, value in found]
    except SystemExit as error:  # in a task it would be an error of the task
        raise RuntimeError(f"it ends the process with sys.exit({error.code!r})") from error


def _in_tasks(
    session: Session,
    count: int,
    work: Callable[[Sequence[int]], Iterable[tuple[int, Result]]],
    result: type[Result],
    a_task: int,
) -> list[tuple[int, Result]]:
    if not count:
        return []

    def do(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        plain = TypeAdapter(result)
        for batch in batches:
            for number, found in work(batch.column("number").to_pylist()):
                columns = {
                    "number": pa.array([number], pa.int64()),
                    "done": [plain.dump_json(found).decode()],
                }
                yield pa.RecordBatch.from_pydict(columns)
        spare_next_task()

    rows = numbers(session(), count, a_task).mapInArrow(do, "number bigint, done string").collect()
    read = TypeAdapter(result).validate_json
    return [(row["number"], read(row["done"])) for row in rows]


def numbers(spark: SparkSession, count: int, a_task: int = DAYS_A_TASK) -> DataFrame:
    """The numbers from 0 to ``count`` - 1, as the column ``number``, so many for each task."""
    tasks = max(1, -(-count // a_task))
    return spark.range(0, count, 1, numPartitions=tasks).withColumnRenamed("id", "number")


def arrow_batches(rows: DataFrame) -> Iterator[pa.RecordBatch]:
    """The rows as Arrow batches, a partition at a time; works without a Spark context of one's own."""
    import pyarrow as pa

    def pack(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield pa.RecordBatch.from_arrays([pa.array([sink.getvalue().to_pybytes()])], names=["batch"])
        spare_next_task()

    for row in rows.mapInArrow(pack, "batch binary").toLocalIterator(prefetchPartitions=True):
        with pa.ipc.open_stream(row["batch"]) as reader:
            yield from reader


def spare_next_task() -> None:
    """Spare this process what Spark's workers do between two tasks, which takes longer than most of them.

    To be called at the end of a task. After each one the worker collects all garbage (``pyspark/daemon.py``):
    half a second with pandas and Great Expectations imported, so what is imported by now is left out of
    that. Before the next it has all importers look again (``worker_util.py``), and each of the twenty of
    ``pyspark.zip`` reads the directory of that file: a tenth of a second, so they are forgotten; an import
    makes those anew that it needs.
    """
    global _imported
    if len(sys.modules) != _imported:
        gc.collect()
        gc.freeze()
        _imported = len(sys.modules)
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]
