"""Predictions: each row of the MRDS scored with the model that served its day.

Where the tables lie in a folder tasks read, score and write whole days, or parts of large ones, and this
process does what a single task would do; elsewhere Spark reads and writes. Which model serves which day is
decided in :mod:`.promotion` and comes in as an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import RANK
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.buckets import BucketFiles
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.day_rows import mapped, subschema
from ml_platform.data_engineering.day_statistics import Counted, CountedPart, Counting
from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.data_engineering.row_versions import IS_SCORED
from ml_platform.data_engineering.served_rows import corrected_days
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.kind import Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.ranks import Ranks, keys_of, ties
from ml_platform.spark.tasks import Session, each_in_a_task, in_tasks, spare_next_task
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.fingerprints import hashes_of
from ml_platform.storage.tables import Tables, column

PREDICTIONS = "predictions"

#: Rows that are scored at once: what a pipeline makes of its features may be far wider than they are.
_ROWS_AT_ONCE = 10_000
_BUCKET = "_bucket"
_TIE, _TAKEN, _PLACE = "_tie", "_taken", "_place"


@dataclass(frozen=True)
class ServingModel:
    """A model that serves some days: the fitted pipeline and what its predictions carry along."""

    pipeline: Any
    threshold: float | None
    name: str
    version: str
    as_of: date
    fingerprint: str


@dataclass(frozen=True)
class ScoredDay:
    """One day of predictions: what it holds, and the version of the table that has it.

    ``models`` are those that have scored its rows, by fingerprint, with the numbers of their rows.
    """

    counted: Counted
    delta_version: int
    models: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        return self.counted.counts("rows", "positives")


def schema(product: Product) -> pa.Schema:
    """The schema of the predictions."""
    entity = [name for name in product.entity if name != EVENT_DAY]
    return pa.schema(
        [
            *[(name, ARROW_TYPES[product.mrds_type(name)]) for name in entity],
            (EVENT_DAY, pa.date32()),
            *[(output.name, ARROW_TYPES[output.type]) for output in product.task.outputs(product)],
            ("model_name", pa.string()),
            ("model_version", pa.string()),
            ("model_as_of", pa.date32()),
            ("model_fingerprint", pa.string()),
        ]
    )


def write(
    session: Session,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    *,
    run_id: str,
    keep: Sequence[date] = (),
    as_corrected: bool = False,
) -> dict[date, ScoredDay]:
    """Score and write the days of ``serving``, each with its model, in one commit.

    Args:
        serving: the model of each day.
        keep: days among these whose present predictions stay; only rows that have none are scored.
        as_corrected: score rows as they are now; otherwise as they were on the first morning on which their
            day could be scored.
    """
    days = sorted(serving)
    corrected = frozenset[date]() if as_corrected else corrected_days(session, product, tables, days)
    # A version number is a label: the same model may be registered under another one elsewhere.
    content = [name for name in schema(product).names if name != "model_version"]
    counting = Counting(kind_of(product).counted, content, has_positives=product.task.has_positives)
    kept = frozenset(keep) if tables.exists(product.name, PREDICTIONS) else frozenset()
    source, place = (tables.day_files(product.name, table) for table in (MRDS, PREDICTIONS))
    if source is None or place is None:
        spark = session()
        version = _by_spark(spark, product, tables, serving, kept, corrected, run_id)
        written = tables.read_days(spark, product.name, PREDICTIONS, days)
        counted = counting.of_frame(written, schema(product))
        models = _models_of(written)
        return {
            day: ScoredDay(counted.get(day) or counting.of_parts([]), version, models.get(day, {}))
            for day in days
        }
    kept_version = tables.version(product.name, PREDICTIONS) if kept else -1

    def of_table(table: str, files: DayFiles, chosen: Sequence[date]) -> dict[date, _Scored]:
        versions = (tables.version(product.name, table), kept_version)
        in_tasks = _InTasks(product, dict(serving), files, place, versions, kept, counting)
        return in_tasks.score(session, chosen) if chosen else {}

    done = of_table(MRDS, source, [day for day in days if day not in corrected])
    if corrected:
        as_served = tables.day_files(product.name, MRDS_SERVED)
        assert as_served is not None, "the tables of a product lie together"
        done |= of_table(MRDS_SERVED, replace(as_served, where=IS_SCORED), sorted(corrected))
    files = {day: scored.files for day, scored in done.items()}
    version = tables.replace_days_by(product.name, PREDICTIONS, schema(product), files, days, run_id=run_id)
    return {
        day: ScoredDay(counting.of_parts(done[day].parts), version, done[day].models)
        if day in done
        else ScoredDay(counting.of_parts([]), version, {})
        for day in days
    }


def _models_of(predictions: DataFrame) -> dict[date, dict[str, int]]:
    """The rows of each day and model."""
    found: dict[date, dict[str, int]] = {}
    for row in predictions.groupBy(EVENT_DAY, "model_fingerprint").count().collect():
        found.setdefault(row[EVENT_DAY], {})[row["model_fingerprint"]] = row["count"]
    return found


def remove(session: Session, product: Product, tables: Tables, days: Sequence[date], *, run_id: str) -> None:
    """Take the rows of some days away."""
    if tables.day_files(product.name, PREDICTIONS) is not None:
        tables.replace_days_by(product.name, PREDICTIONS, schema(product), {}, days, run_id=run_id)
        return
    spark = session()
    nothing = spark.createDataFrame([], from_arrow_schema(schema(product)))
    tables.replace_days(spark, product.name, PREDICTIONS, nothing, days, run_id=run_id)


# -- where tasks write files ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """The files of a day, or of a part of it, and what they hold; ``models`` as in :class:`ScoredDay`.

    ``is_too_large``: the day was taken for smaller than it is, and nothing was done.
    """

    parts: list[CountedPart] = field(default_factory=list)
    files: list[DayFile] = field(default_factory=list)
    models: dict[str, int] = field(default_factory=dict)
    is_too_large: bool = False

    def __add__(self, other: _Scored) -> _Scored:
        models = Counter(self.models) + Counter(other.models)
        return _Scored(self.parts + other.parts, self.files + other.files, dict(models))


@dataclass(frozen=True)
class _InTasks:
    """Days of the MRDS, scored in tasks that write files; nothing is committed yet. It travels to them.

    Args:
        versions: of the MRDS and the predictions; that of predictions only where some are kept.
        kept: days whose present predictions stay.
        at_most: bytes of rows that a task holds.
    """

    product: Product
    serving: Mapping[date, ServingModel]
    mrds: DayFiles
    predictions: DayFiles
    versions: tuple[int, int]
    kept: frozenset[date]
    counting: Counting
    at_most: int = field(default_factory=lambda: buckets.HELD_BYTES)

    @property
    def _features(self) -> list[str]:
        return list(dict.fromkeys(feature_columns(self.product)))

    def score(self, session: Session, days: Sequence[date]) -> dict[date, _Scored]:
        """One result a day with rows."""
        sizes = self.mrds.sizes(self.versions[0])
        counts = {day: buckets.number_of(buckets.csv_bytes(sizes[day], len(self._features))) for day in days}
        small = [day for day in days if counts[day] == 1]
        size = buckets.csv_bytes(sum(sizes[day] for day in small), len(self._features))
        here = buckets.one_task(small, size)
        done = in_tasks(session, small, self._whole, _Scored, here=here)
        for day in days:
            if counts[day] > 1 or (day in done and done[day].is_too_large):
                in_parts = self._in_buckets if day in self.kept else self._in_row_groups
                done[day] = in_parts(session, day, counts[day])
        return done

    def _whole(self, days: Sequence[date]) -> Iterator[tuple[date, _Scored]]:
        """Days of one bucket, each in one task, as far as they are as small as they seem."""
        # A day that has lost all its rows may still have predictions that stay.
        empty = {day for day in days if day in self.kept}
        for day, rows, is_all in self.mrds.read_at_most(self.versions[0], days, self._features, self.at_most):
            empty.discard(day)
            present, fits = self._present(day)
            if is_all and fits:
                yield day, self._written(day, rows, present, is_whole=True)
            else:
                yield day, _Scored(is_too_large=True)
        for day in sorted(empty):
            present, fits = self._present(day)
            yield day, self._written(day, self._no_rows(), present) if fits else _Scored(is_too_large=True)

    def _present(self, day: date) -> tuple[pa.Table | None, bool]:
        """The predictions of a day that stay, and whether a task can hold them."""
        if day not in self.kept:
            return None, True
        names = schema(self.product).names
        found = self.predictions.read_at_most(self.versions[1], [day], names, self.at_most)
        return next(((rows, is_all) for _, rows, is_all in found), (None, True))

    def _in_row_groups(self, session: Session, day: date, _: int) -> _Scored:
        """A day that no task can hold, a part of its files in each task: rows are scored one by one."""
        version, names, row_groups = (
            self.versions[0],
            self._features,
            self.mrds.row_groups(self.versions[0], day),
        )

        def pieces(number: int) -> Iterator[pa.Table]:
            batches = self.mrds.read_row_group(version, day, row_groups[number], names)
            return buckets.pieces(batches, buckets.PIECE_BYTES)

        def rank_group(number: int) -> Ranks:
            return Ranks.together(self.product, (self._ranks(day, rows, None) for rows in pieces(number)))

        ranks = self._ranks_of_parts(session, len(row_groups), rank_group)

        def score_group(number: int) -> _Scored:
            return sum((self._written(day, rows, None, ranks) for rows in pieces(number)), _Scored())

        return sum(each_in_a_task(session, len(row_groups), score_group, _Scored), _Scored())

    def _in_buckets(self, session: Session, day: date, count: int) -> _Scored:
        """Such a day some of whose predictions stay: these and its rows are brought together by entity."""
        keys = [name for name in self.product.entity if name != EVENT_DAY]
        with BucketFiles.beside(self.predictions, count) as files:
            rows, present = (
                buckets.scatter_day(session, files, table, version, day, names, keys)
                for table, version, names in (
                    (self.mrds, self.versions[0], self._features),
                    (self.predictions, self.versions[1], schema(self.product).names),
                )
            )
            shares = buckets.shares([*rows, *present], self.at_most)
            of_rows, of_present = (
                [path for piece in pieces for path in piece.files] for pieces in (rows, present)
            )

            def gathered(number: int) -> tuple[pa.Table, pa.Table | None]:
                new, old = (
                    list(files.gather(paths, shares[number], keys)) for paths in (of_rows, of_present)
                )
                return (
                    pa.Table.from_batches(new) if new else self._no_rows(),
                    pa.Table.from_batches(old) if old else None,
                )

            def rank_bucket(number: int) -> Ranks:
                return self._ranks(day, *gathered(number))

            ranks = self._ranks_of_parts(session, len(shares), rank_bucket)

            def score_bucket(number: int) -> _Scored:
                return self._written(day, *gathered(number), ranks)

            return sum(each_in_a_task(session, len(shares), score_bucket, _Scored), _Scored())

    def _ranks_of_parts(self, session: Session, parts: int, rank: Callable[[int], Ranks]) -> Ranks | None:
        """The ranks of a day that is scored in parts, each of which is scored once more for them."""
        if self.product.deepest_rank is None:
            return None
        return Ranks.together(self.product, each_in_a_task(session, parts, rank, Ranks))

    def _ranks(self, day: date, rows: pa.Table, present: pa.Table | None) -> Ranks:
        """What a part of a day has to do with its ranks."""
        return _ranks_of(self.product, _new(self.product, rows, present), self.serving[day], present)

    def _no_rows(self) -> pa.Table:
        return subschema(aggregation.schema(self.product), self._features).empty_table()

    def _written(
        self,
        day: date,
        rows: pa.Table,
        present: pa.Table | None,
        ranks: Ranks | None = None,
        *,
        is_whole: bool = False,
    ) -> _Scored:
        scored = score(self.product, day, rows, self.serving[day], present, ranks)
        models = pc.value_counts(scored["model_fingerprint"]).to_pylist()
        return _Scored(
            [self.counting.of_part(scored, is_whole=is_whole)],
            self.predictions.write(day, scored),
            {model["values"]: model["counts"] for model in models},
        )


# -- where only Spark writes ------------------------------------------------------------------------


def _by_spark(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    kept: Collection[date],
    corrected: Collection[date],
    run_id: str,
) -> int:
    """Score and write days in one commit; returns the version it made."""
    models, made = dict(serving), schema(product)
    given = subschema(aggregation.schema(product), feature_columns(product))
    days, new = sorted(serving), [day for day in serving if day not in kept]

    def rows_of(table: str, chosen: Sequence[date], columns: pa.Schema) -> DataFrame:
        rows = tables.read_days(spark, product.name, table, chosen)
        return rows.select(*[column(name) for name in columns.names])

    def to_score(chosen: Sequence[date]) -> DataFrame:
        rows = rows_of(MRDS, [day for day in chosen if day not in corrected], given)
        if not (served := [day for day in chosen if day in corrected]):
            return rows
        first = rows_of(MRDS_SERVED, served, given.append(pa.field(IS_SCORED, pa.bool_())))
        return rows.unionByName(first.where(column(IS_SCORED)).drop(IS_SCORED))

    ranked = product.deepest_rank is not None
    given_back = made.append(pa.field(_TIE, pa.int64())) if ranked else made

    def tied(scored: pa.Table, new: int) -> pa.Table:
        """Predictions, the last ``new`` of which are to be ranked, with what breaks ties among these."""
        if not ranked:
            return scored
        is_new = np.arange(len(scored)) >= len(scored) - new
        return scored.append_column(_TIE, pa.array(ties(product, scored), pa.int64(), mask=~is_new))

    def score_piece(piece: pa.Table) -> pa.Table:
        parts = [given_back.empty_table()]
        for day in pc.unique(piece[EVENT_DAY]).to_pylist():
            of_day = piece.filter(pc.equal(piece[EVENT_DAY], pa.scalar(day, pa.date32())))
            scored = predictions(product, day, of_day, models[day])
            parts.append(tied(scored, len(scored)))
        return pa.concat_tables(parts)

    def score_rest(rows: pa.Table, present: pa.Table) -> pa.Table:
        rows, present = rows.drop_columns(_BUCKET).cast(given), present.drop_columns(_BUCKET).cast(made)
        day = (rows if len(rows) else present)[EVENT_DAY][0].as_py()
        new = predictions(product, day, _new(product, rows, present), models[day])
        spare_next_task()
        return tied(pa.concat_tables([present, new]), len(new))

    scored = mapped(to_score(new), score_piece, given, given_back)
    if kept:
        rest = to_score(sorted(kept))
        largest = max((row["count"] for row in rest.groupBy(EVENT_DAY).count().collect()), default=0)
        keys = [name for name in product.entity if name != EVENT_DAY]
        bucket = buckets.in_spark(keys, buckets.number_of(buckets.csv_bytes(largest, len(given))))
        both = [rest, rows_of(PREDICTIONS, sorted(kept), made)]
        by_rows, by_present = (rows.withColumn(_BUCKET, bucket).groupBy(EVENT_DAY, _BUCKET) for rows in both)
        scored = scored.unionByName(
            by_rows.cogroup(by_present).applyInArrow(score_rest, from_arrow_schema(given_back))
        )
    if ranked:
        stays = rows_of(PREDICTIONS, sorted(kept), made) if kept else None
        scored = _ranked_by_spark(product, scored, stays)
    if len(days) > 1:
        scored = scored.repartition(EVENT_DAY)
    return tables.replace_days(spark, product.name, PREDICTIONS, scored, days, run_id=run_id)


def _ranked_by_spark(product: Product, scored: DataFrame, present: DataFrame | None) -> DataFrame:
    """Predictions with the ranks of those that have a tie breaker: what :class:`.ranks.Ranks` does.

    Each day's rows are sorted by one task, which writes what it can't hold to disk.

    Args:
        present: the predictions that stay.
    """
    is_new, place = F.col(_TIE).isNotNull(), F.col(_PLACE)
    order = Window.partitionBy(EVENT_DAY, is_new).orderBy(F.col("probability").desc(), F.col(_TIE))
    taken = F.lit(0).cast("long")
    if present is not None:
        counts = present.groupBy(EVENT_DAY).agg(F.count(F.lit(1)).alias(_TAKEN))
        scored = scored.join(F.broadcast(counts), EVENT_DAY, "left")
        taken = F.coalesce(F.col(_TAKEN), taken)
    scored = scored.withColumn(_PLACE, taken + F.row_number().over(order))
    rank = F.when(place <= product.deepest_rank, place)
    scored = scored.withColumn(RANK, F.when(is_new, rank).otherwise(F.col(RANK)))
    decided = product.model.decision_highest
    if decided is not None:
        decision = (place <= decided).cast("int")
        scored = scored.withColumn("decision", F.when(is_new, decision).otherwise(F.col("decision")))
    return scored.select(*[column(name) for name in schema(product).names])


# -- what is computed -------------------------------------------------------------------------------


def score(
    product: Product,
    day: date,
    rows: pa.Table,
    model: ServingModel,
    present: pa.Table | None = None,
    ranks: Ranks | None = None,
) -> pa.Table:
    """Predictions of a day's rows of the MRDS, or of a bucket of them, in :func:`schema`.

    Args:
        present: predictions of the same entities that stay; only rows without one are scored.
        ranks: of all the day's new rows, if these are not all of them, and if predictions are ranked.
    """
    scored = predictions(product, day, _new(product, rows, present), model)
    if product.deepest_rank is not None:
        if ranks is None:
            ranks = Ranks.of(
                product, scored, _probability(scored), len(present) if present is not None else 0
            )
        columns = ranks.columns(product, keys_of(product, scored, _probability(scored)))
        for name, values in columns.items():
            scored = scored.set_column(scored.schema.get_field_index(name), scored.schema.field(name), values)
    if present is None or not len(present):
        return scored
    return pa.concat_tables([present.cast(scored.schema), scored])


def _new(product: Product, rows: pa.Table, present: pa.Table | None) -> pa.Table:
    """The rows that have no prediction yet."""
    if present is None or not len(present):
        return rows
    known, asked = (_row_keys(product, table) for table in (present, rows))
    return rows.filter(pa.array(~asked.isin(known)))


def _ranks_of(product: Product, rows: pa.Table, model: ServingModel, present: pa.Table | None) -> Ranks:
    """The ranks among some new rows, with the number of those that have predictions already."""
    kind = kind_of(product)
    outputs = kind.stored(kind.together(_outputs(product, rows, model)), model.threshold)
    return Ranks.of(product, rows, outputs["probability"], len(present) if present is not None else 0)


def _outputs(product: Product, rows: pa.Table, model: ServingModel) -> list[Predictions]:
    kind = kind_of(product)
    return [
        kind.predict(model.pipeline, rows.slice(start, _ROWS_AT_ONCE).to_pandas())
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]


def _probability(scored: pa.Table) -> Floats:
    found: Floats = scored["probability"].to_numpy()
    return found


def _row_keys(product: Product, rows: pa.Table) -> pd.MultiIndex:
    """What tells rows apart: 128 bits of hashes of their keys, in which a missing value counts too."""
    values = [rows[name] for name in product.identity]
    hashes = hashes_of(("a", "b"), [*values, *(value.is_null() for value in values)])
    return pd.MultiIndex.from_arrays([*hashes])


def predictions(product: Product, day: date, rows: pa.Table, model: ServingModel) -> pa.Table:
    """Predictions for a day's rows of the MRDS, in :func:`schema` and their order; none of them is ranked."""
    kind = kind_of(product)
    outputs = kind.stored(kind.together(_outputs(product, rows, model)), model.threshold)
    found = {name: rows[name] for name in product.entity if name != EVENT_DAY} | dict(outputs)
    alike: dict[str, Any] = {
        EVENT_DAY: day,
        "model_name": model.name,
        "model_version": model.version,
        "model_as_of": model.as_of,
        "model_fingerprint": model.fingerprint,
    }
    ordered = schema(product)
    if product.deepest_rank is not None:
        alike[RANK] = None
    found |= {
        name: pa.repeat(pa.scalar(value, ordered.field(name).type), len(rows))
        for name, value in alike.items()
    }
    return pa.table({name: found[name] for name in ordered.names}).cast(ordered)
