"""Days scored in tasks that read and write files: whole days, or parts of those that no task can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.buckets import BucketFiles
from ml_platform.data_engineering.day_rows import subschema
from ml_platform.data_engineering.day_statistics import CountedPart, Counting
from ml_platform.data_engineering.mrds import feature_columns
from ml_platform.machine_learning.predicted_rows import ServingModel, new_rows, ranks_of, schema, score
from ml_platform.machine_learning.ranks import Ranks
from ml_platform.spark.tasks import Session, each_in_a_task, in_tasks
from ml_platform.storage.day_files import DayFile, DayFiles


@dataclass(frozen=True)
class Scored:
    """The files of a day, or of a part of it, and what they hold.

    ``models`` as in :class:`.scoring.ScoredDay`; ``is_too_large``: the day was taken for smaller than it is,
    and nothing was done.
    """

    parts: list[CountedPart] = field(default_factory=list)
    files: list[DayFile] = field(default_factory=list)
    models: dict[str, int] = field(default_factory=dict)
    is_too_large: bool = False

    def __add__(self, other: Scored) -> Scored:
        models = Counter(self.models) + Counter(other.models)
        return Scored(self.parts + other.parts, self.files + other.files, dict(models))


@dataclass(frozen=True)
class InTasks:
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

    def score(self, session: Session, days: Sequence[date]) -> dict[date, Scored]:
        """One result a day with rows."""
        sizes = self.mrds.sizes(self.versions[0])
        counts = {day: buckets.number_of(buckets.csv_bytes(sizes[day], len(self._features))) for day in days}
        small = [day for day in days if counts[day] == 1]
        size = buckets.csv_bytes(sum(sizes[day] for day in small), len(self._features))
        here = buckets.one_task(small, size)
        done = in_tasks(session, small, self._whole, Scored, here=here)
        for day in days:
            if counts[day] > 1 or (day in done and done[day].is_too_large):
                in_parts = self._in_buckets if day in self.kept else self._in_row_groups
                done[day] = in_parts(session, day, counts[day])
        return done

    def _whole(self, days: Sequence[date]) -> Iterator[tuple[date, Scored]]:
        """Days of one bucket, each in one task, as far as they are as small as they seem."""
        # A day that has lost all its rows may still have predictions that stay.
        empty = {day for day in days if day in self.kept}
        for day, rows, is_all in self.mrds.read_at_most(self.versions[0], days, self._features, self.at_most):
            empty.discard(day)
            present, fits = self._present(day)
            if is_all and fits:
                yield day, self._written(day, rows, present, is_whole=True)
            else:
                yield day, Scored(is_too_large=True)
        for day in sorted(empty):
            present, fits = self._present(day)
            yield day, self._written(day, self._no_rows(), present) if fits else Scored(is_too_large=True)

    def _present(self, day: date) -> tuple[pa.Table | None, bool]:
        """The predictions of a day that stay, and whether a task can hold them."""
        if day not in self.kept:
            return None, True
        names = schema(self.product).names
        found = self.predictions.read_at_most(self.versions[1], [day], names, self.at_most)
        return next(((rows, is_all) for _, rows, is_all in found), (None, True))

    def _in_row_groups(self, session: Session, day: date, _: int) -> Scored:
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

        def score_group(number: int) -> Scored:
            return sum((self._written(day, rows, None, ranks) for rows in pieces(number)), Scored())

        return sum(each_in_a_task(session, len(row_groups), score_group, Scored), Scored())

    def _in_buckets(self, session: Session, day: date, count: int) -> Scored:
        """Such a day some of whose predictions stay: these and its rows are brought together by entity."""
        keys = self.product.entity_of_day
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

            def score_bucket(number: int) -> Scored:
                return self._written(day, *gathered(number), ranks)

            return sum(each_in_a_task(session, len(shares), score_bucket, Scored), Scored())

    def _ranks_of_parts(self, session: Session, parts: int, rank: Callable[[int], Ranks]) -> Ranks | None:
        """The ranks of a day that is scored in parts, each of which is scored once more for them."""
        if self.product.deepest_rank is None:
            return None
        return Ranks.together(self.product, each_in_a_task(session, parts, rank, Ranks))

    def _ranks(self, day: date, rows: pa.Table, present: pa.Table | None) -> Ranks:
        """What a part of a day has to do with its ranks."""
        return ranks_of(self.product, new_rows(self.product, rows, present), self.serving[day], present)

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
    ) -> Scored:
        scored = score(self.product, day, rows, self.serving[day], present, ranks)
        models = pc.value_counts(scored["model_fingerprint"]).to_pylist()
        return Scored(
            [self.counting.of_part(scored, is_whole=is_whole)],
            self.predictions.write(day, scored),
            {model["values"]: model["counts"] for model in models},
        )
