"""Days of the ARDS, made into something of their entities by tasks that write files; nothing is committed.

A day that fits a task is read there as a whole; of a larger one the rows are brought together by entity,
bucket by bucket. Either way whoever makes something of them gets of an entity all rows of the day, and of a
corrected day the states of these that there were. What is made is the caller's business: the MRDS, or what is
kept for trailing windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import pyarrow as pa

from ml_platform.contract.assets import ARDS, ARDS_VERSIONS
from ml_platform.contract.product import Product
from ml_platform.data_engineering import aggregation, buckets, row_versions
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.buckets import BucketFiles, Scattered
from ml_platform.data_engineering.day_statistics import CountedPart
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.spark.tasks import Session, each_in_a_task, in_tasks
from ml_platform.storage.day_files import DayFile, DayFiles, held
from ml_platform.storage.fingerprints import ContentSums
from ml_platform.storage.tables import Tables


@dataclass(frozen=True)
class Made:
    """The files that were made of a day, or of a bucket of it, and what they hold; or why the day is refused.

    Attributes:
        parts: what was counted of the files.
        files: of the day as it is now.
        states: of how it was.
        states_parts: the content of these.
        place: that of the refusal's column.
        is_too_large: the day was taken for smaller than it is, and nothing was done.
    """

    parts: list[CountedPart] = field(default_factory=list)
    files: list[DayFile] = field(default_factory=list)
    states: list[DayFile] = field(default_factory=list)
    states_parts: list[ContentSums] = field(default_factory=list)
    refusal: str | None = None
    place: int = -1
    is_too_large: bool = False


class Make(Protocol):
    """What is made of all of a day's rows of some entities. It travels to the tasks."""

    def __call__(self, day: date, rows: pa.Table, states: pa.Table | None, *, is_whole: bool) -> Made:
        """Write what the rows become.

        Args:
            states: of a corrected day, those of the rows that have had several.
            is_whole: whether these are all entities of the day.

        Raises:
            TooLargeError: a total is beyond its type; the day is refused.
        """


@dataclass(frozen=True)
class ArdsFiles:
    """The ARDS in a folder, at one version, and the states of its rows that have had several.

    ``states`` is None if no day has any.
    """

    rows: DayFiles
    rows_version: int
    states: DayFiles | None
    states_version: int

    @classmethod
    def of(cls, product: Product, tables: Tables, *, with_states: bool) -> ArdsFiles | None:
        """That of a product; None where tasks can't read files."""
        name = product.name
        rows = tables.day_files(name, ARDS)
        if rows is None:
            return None
        there = with_states and tables.exists(name, ARDS_VERSIONS)
        states = tables.day_files(name, ARDS_VERSIONS) if there else None
        states_version = tables.version(name, ARDS_VERSIONS) if there else -1
        return cls(rows, tables.version(name, ARDS), states, states_version)


@dataclass(frozen=True)
class EntityDays:
    """Days of the ARDS and what is made of them.

    Attributes:
        columns: those that are read.
        corrected: the days whose states are read as well.
        beside: the table in whose folder records wait on their way into buckets.
    """

    session: Session
    product: Product
    source: ArdsFiles
    columns: Sequence[str]
    corrected: frozenset[date]
    make: Make
    beside: DayFiles

    def write(self, days: Sequence[date]) -> dict[date, Made]:
        """One result a day with rows, or with rows that it once had."""
        sizes = self.source.rows.sizes(self.source.rows_version)
        width = len(self.columns)
        counts = {day: buckets.number_of(buckets.csv_bytes(sizes[day], width)) for day in days}
        small = [day for day in days if counts[day] == 1]
        here = buckets.one_task(small, buckets.csv_bytes(sum(sizes[day] for day in small), width))
        done = self._whole(small, here=here)
        for day in days:
            if counts[day] > 1 or (day in done and done[day].is_too_large):
                done[day] = self._in_buckets(day, counts[day])
        return done

    def _whole(self, days: Sequence[date], *, here: bool) -> dict[date, Made]:
        """Days of one bucket, each in one task, as far as they are as small as they seem."""
        source, at_most, write = self.source, buckets.HELD_BYTES, _writer(self.make)
        names, states_of, corrected = list(self.columns), self._states(), self.corrected

        def write_all(chosen: Sequence[date]) -> Iterator[tuple[date, Made]]:
            without_rows = {day for day in chosen if day in corrected}
            for day, rows, is_all in source.rows.read_at_most(source.rows_version, chosen, names, at_most):
                without_rows.discard(day)
                states, fits = states_of(day, at_most)
                if is_all and fits:
                    yield day, write(day, rows, states, is_whole=True)
                else:
                    yield day, Made(is_too_large=True)
            # A day that has lost all its rows was served from those that it had.
            for day in sorted(without_rows):
                states, fits = states_of(day, at_most)
                if states is not None and fits:
                    yield day, write(day, states.slice(0, 0).select(names), states, is_whole=True)

        return in_tasks(self.session, days, write_all, Made, here=here)

    def _in_buckets(self, day: date, count: int) -> Made:
        """A day that no task can hold: its rows are brought together by entity, bucket by bucket."""
        product, source, write = self.product, self.source, _writer(self.make)
        names, keys = list(self.columns), product.entity_of_day
        with_states = [*names, KNOWN_FROM, KNOWN_TO]
        at_most, nothing = buckets.HELD_BYTES, no_states(product, names)
        is_corrected = day in self.corrected
        with BucketFiles.beside(self.beside, count) as files:
            of_rows = buckets.scatter_day(
                self.session, files, source.rows, source.rows_version, day, names, keys
            )
            of_states: list[Scattered] = []
            if source.states is not None and is_corrected:
                of_states = buckets.scatter_day(
                    self.session, files, source.states, source.states_version, day, with_states, keys
                )
            shares = buckets.shares([*of_rows, *of_states], at_most)
            paths, state_paths = (
                [path for piece in pieces for path in piece.files] for pieces in (of_rows, of_states)
            )

            def aggregate(number: int) -> Made:
                rows, is_all = held(files.gather(paths, shares[number], keys), None, at_most)
                states = list(files.gather(state_paths, shares[number], keys))
                if is_all:
                    earlier = pa.Table.from_batches(states, nothing.schema) if is_corrected else None
                    return write(day, rows, earlier, is_whole=False)
                return refused(aggregation.too_many_rows(product, *aggregation.largest(product, day, rows)))

            return together(each_in_a_task(self.session, len(shares), aggregate, Made))

    def _states(self) -> Callable[[date, int], tuple[pa.Table | None, bool]]:
        """What reads the states of a day's rows that have had several, and says whether these are all."""
        source, corrected = self.source, self.corrected
        names = [*self.columns, KNOWN_FROM, KNOWN_TO]
        nothing = no_states(self.product, self.columns)

        def read(day: date, at_most: int) -> tuple[pa.Table | None, bool]:
            if day not in corrected:
                return None, True
            if source.states is None:
                return nothing, True
            found = source.states.read_at_most(source.states_version, [day], names, at_most)
            return next(((rows, is_all) for _, rows, is_all in found), (nothing, True))

        return read


def _writer(make: Make) -> Make:
    """The same, but for days that are refused."""

    def write(day: date, rows: pa.Table, states: pa.Table | None, *, is_whole: bool) -> Made:
        try:
            return make(day, rows, states, is_whole=is_whole)
        except TooLargeError as error:
            return refused(error)

    return write


def no_states(product: Product, columns: Sequence[str]) -> pa.Table:
    """No states of rows, in some columns of theirs: of a rejected day no row need have changed."""
    names = [*columns, KNOWN_FROM, KNOWN_TO]
    return row_versions.ards_schema(product).empty_table().select(names)


def refused(error: TooLargeError) -> Made:
    """A day that is refused for an error."""
    return Made(refusal=str(error), place=error.place)


def together(shares: Sequence[Made]) -> Made:
    """What the parts of a day make: its files, or the first of the reasons against it."""
    if against := [share for share in shares if share.refusal]:
        return min(against, key=lambda share: (share.place, share.refusal))
    return Made(
        parts=[part for share in shares for part in share.parts],
        files=[file for share in shares for file in share.files],
        states=[file for share in shares for file in share.states],
        states_parts=[part for share in shares for part in share.states_parts],
    )
