"""The data-quality verdict of a day: Great Expectations over its rows, and over its facts.

Days of ordinary size are evaluated by the library's pandas engine, in tasks or in this process; a day too
large for that in parts (:mod:`.large_days`). Both give the same verdicts. What no row of many
days fails is found in one call of the library for all of them (:mod:`.great_expectations`). What is expected
comes from :mod:`.expectations` and :mod:`.anomalies`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

from ml_platform.contract.column_types import COLUMN_TYPES
from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import buckets
from ml_platform.mlops.quality import great_expectations as gx
from ml_platform.mlops.quality.anomalies import Fact
from ml_platform.mlops.quality.expectations import Expectation, number
from ml_platform.mlops.quality.large_days import LargeDay
from ml_platform.mlops.quality.results import Quality, Result
from ml_platform.spark.tasks import Session, in_tasks, spare_next_task
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.tables import on_days

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Tasks over which a range of days is spread; more days than that share tasks.
_TASKS = 8

#: Rows of whole days that a task evaluates in one call; a larger day is one by itself.
_ROWS_AT_ONCE = 200_000


_RESULTS = "day date, results string"


class DayReader(Protocol):
    """What reads whole days of a data set at one of its versions. It travels to the tasks."""

    def read(
        self, version: int, days: Sequence[date], columns: Sequence[str]
    ) -> Iterator[tuple[date, pa.Table]]:
        """Each day with its rows; a day without rows is left out."""


# -- rows --------------------------------------------------------------------------------------------


def validate(
    product: Product,
    data_set: DataSet,
    rows: Callable[[], DataFrame],
    types: Mapping[str, str],
    suites: Mapping[date, Sequence[Expectation]],
    sizes: Mapping[date, int],
    *,
    maximum_rows: int,
    session: Session,
    files: tuple[DayReader, int] | None = None,
) -> dict[date, list[Result]]:
    """Evaluate each day's suite on the day's rows.

    Args:
        rows: opens the data set, of which only the days of ``suites`` are read, where Spark has to.
        types: its columns, in order, each with its type as a contract names it.
        sizes: how many rows each of these days has.
        maximum_rows: the most rows of a day that are held in memory at once; a day with more is
            evaluated in parts.
        session: gives the Spark session, where one is needed.
        files: where tasks can read the data set's days themselves, and at which version.
    """
    key, sensitive = list(_key(product, data_set)), product.sensitive
    of_rows = {
        day: [expectation for expectation in suite if not expectation.of_schema and not expectation.of_size]
        for day, suite in suites.items()
    }
    small = {day: suite for day, suite in of_rows.items() if sizes[day] <= maximum_rows}
    judging = _Judging(small, list(types), key, sensitive)
    if files is None:
        found = judging.by_spark(rows) if small else {}
    else:
        total = sum(sizes[day] for day in small)
        here = buckets.one_task(list(small), buckets.csv_bytes(total, len(types)))
        found = judging.in_files(session, *files, here=here)
    # A day without rows is in no task, and its suite is evaluated all the same.
    if empty := [day for day in small if day not in found]:
        frame = gx.frame(_without_rows(types))
        found |= {day: gx.evaluate(small[day], frame, key, sensitive) for day in empty}
    in_parts = (files[0], files[1]) if files and isinstance(files[0], DayFiles) else None
    for day, suite in of_rows.items():
        if day not in found:
            large = LargeDay(day, suite, types, key, sensitive, sizes[day])
            found[day] = large.results(session, rows, in_parts)
    of_size = _by_size(suites, sizes)
    # The table has one schema, which all days share.
    of_schema: dict[str, Result] = {}
    for whole in suites.values():
        new = [
            expectation
            for expectation in whole
            if expectation.of_schema and expectation.words not in of_schema
        ]
        if new:
            results = _of_schema(new, types, sensitive)
            of_schema |= {expectation.words: result for expectation, result in zip(new, results, strict=True)}
    return {
        day: [
            *(of_schema[expectation.words] for expectation in suite if expectation.of_schema),
            *of_size[day],
            *found[day],
        ]
        for day, suite in suites.items()
    }


def _by_size(
    suites: Mapping[date, Sequence[Expectation]], sizes: Mapping[date, int]
) -> dict[date, list[Result]]:
    """The expectations about the number of rows, of all days at once: a table with a row for each day.

    Bounds that differ from day to day are columns of it.
    """
    import pandas as pd

    of_size = {
        day: [expectation for expectation in suite if expectation.of_size] for day, suite in suites.items()
    }
    columns: dict[str, list[float | None]] = {"rows": [float(sizes[day]) for day in suites]}
    for nth in range(max(map(len, of_size.values()))):
        bounds = [_bounds(suite[nth]) if nth < len(suite) else (None, None) for suite in of_size.values()]
        columns[f"least {nth}"], columns[f"most {nth}"] = map(list, zip(*bounds, strict=True))
    frame = pd.DataFrame(columns, dtype="Float64")
    frame[EVENT_DAY] = [day.isoformat() for day in suites]
    bounding = [name for name in columns if name != "rows" and frame[name].notna().any()]
    expectations = [
        _at_least("rows", name, position) if name.startswith("least") else _at_least(name, "rows", position)
        for position, name in enumerate(bounding)
    ]
    failed = gx.failing_days(frame, expectations, bounding)

    def passed(day: date, nth: int) -> bool:
        return not any(day.isoformat() in failed.get(f"{end} {nth}", ()) for end in ("least", "most"))

    return {
        day: [
            Result(
                expectation=one.words,
                problem=one.wrong,
                dimension=one.dimension,
                severity=one.severity,
                passed=passed(day, nth),
                observed=number(sizes[day]),
                expected=one.expected,
                value=float(sizes[day]),
            )
            for nth, one in enumerate(suite)
        ]
        for day, suite in of_size.items()
    }


def _bounds(expectation: Expectation) -> tuple[int | None, int | None]:
    """The least and the greatest number of rows that an expectation allows."""
    kwargs = expectation.kwargs
    if "value" in kwargs:
        return kwargs["value"], kwargs["value"]
    least, most = kwargs.get("min_value"), kwargs.get("max_value")
    if least is not None:
        least = math.floor(least) + 1 if kwargs.get("strict_min") else math.ceil(least)
    if most is not None:
        most = math.ceil(most) - 1 if kwargs.get("strict_max") else math.floor(most)
    return least, most


def _at_least(column: str, other: str, position: int) -> Any:
    """The library's expectation that a column's values are no less than another's, where there are both."""
    kwargs = {"column_A": column, "column_B": other, "or_equal": True}
    return gx.configured(
        "expect_column_pair_values_a_to_be_greater_than_b",
        {**kwargs, "ignore_row_if": "either_value_is_missing"},
        position,
    )


def _key(product: Product, data_set: DataSet) -> tuple[str, ...]:
    return product.ards_key if data_set == "ards" else (*product.entity, EVENT_DAY)


def _of_schema(
    suite: Sequence[Expectation], types: Mapping[str, str], sensitive: frozenset[str]
) -> list[Result]:
    """The expectations about a table's columns: of a row in which each column's value is its type's name."""
    import pandas as pd

    names = {column: _spark_class(type_) for column, type_ in types.items()}
    asked = [
        replace(
            expectation,
            type="expect_column_values_to_be_in_set",
            kwargs={
                "column": expectation.kwargs.get("column"),
                "value_set": _accepted(
                    names.get(str(expectation.kwargs.get("column")), ""), expectation.kwargs.get("type_list")
                ),
            },
        )
        if expectation.is_type
        else expectation
        for expectation in suite
    ]
    results = gx.evaluate(asked, pd.DataFrame([names], dtype="string"), [], sensitive)

    def of_type(expectation: Expectation, result: Result) -> Result:
        column = expectation.kwargs.get("column")
        if not expectation.is_type or column not in names:
            return result
        observed = expectation.expected if result.passed else names[column]
        return replace(result, observed=observed, failing_rows=0, examples=(), value=None)

    return [of_type(expectation, result) for expectation, result in zip(suite, results, strict=True)]


def _accepted(name: str, wanted: Sequence[str] | None) -> list[str]:
    """The names of types that an expectation accepts, and that of a column's type if one of them covers it.

    As with the library's Spark engine ``NumericType`` covers all numbers, and no list covers all types.
    """
    from pyspark.sql import types

    of_column = getattr(types, name, None)
    classes = [found for found in (getattr(types, str(one), None) for one in wanted or ()) if found]
    is_covered = of_column is not None and issubclass(of_column, tuple(classes))
    return [*map(str, wanted or ()), *([name] if is_covered or wanted is None else ())]


def _spark_class(type_: str) -> str:
    """The class of a type in Spark: what an expectation about a column's type names."""
    from pyspark.sql import types

    if type_ in COLUMN_TYPES:
        return COLUMN_TYPES[type_].spark  # type: ignore[index]
    known: dict[str, str] = {
        found.typeName(): found.__name__ for found in vars(types).values() if _is_type(found)
    }
    return known.get(type_.partition("(")[0], type_)


def _is_type(found: object) -> bool:
    from pyspark.sql.types import DataType

    return isinstance(found, type) and issubclass(found, DataType)


def _without_rows(types: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    arrow: Mapping[str, Any] = {type_: names.arrow_type for type_, names in COLUMN_TYPES.items()}
    return pa.schema([(name, arrow.get(type_, pa.string())) for name, type_ in types.items()]).empty_table()


@dataclass(frozen=True)
class _Judging:
    """Days of ordinary size that are evaluated by the library's pandas engine. It travels to the tasks."""

    suites: Mapping[date, Sequence[Expectation]]
    columns: Sequence[str]
    key: Sequence[str]
    sensitive: frozenset[str]

    def in_files(
        self, session: Session, place: DayReader, version: int, *, here: bool
    ) -> dict[date, list[Result]]:
        """The results of each day that has rows, which tasks read."""

        def judge(days: Sequence[date]) -> Iterator[tuple[date, str]]:
            read = (rows for _, rows in place.read(version, days, self.columns))
            yield from self._results(part for rows in read for part in rows.to_batches())

        days = sorted(self.suites)
        a_task = max(1, -(-len(days) // _TASKS))
        found = in_tasks(session, days, judge, str, here=here, days_a_task=a_task)
        return {day: _read(plain) for day, plain in found.items()}

    def by_spark(self, rows: Callable[[], DataFrame]) -> dict[date, list[Result]]:
        """The same of days that Spark brings to the tasks."""
        import pyarrow as pa

        def judge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for day, results in self._results(batches):
                yield pa.RecordBatch.from_pydict({"day": pa.array([day], pa.date32()), "results": [results]})
            spare_next_task()

        chosen = rows().where(on_days(self.suites)).repartition(min(len(self.suites), _TASKS), EVENT_DAY)
        found = chosen.sortWithinPartitions(EVENT_DAY).mapInArrow(judge, _RESULTS).collect()
        return {row["day"]: _read(row["results"]) for row in found}

    def _results(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[date, str]]:
        """The results of each day, as plain data, of rows that come in the order of their days."""
        for table in _whole_days(batches):
            for day, results in _evaluate_days(
                gx.frame(table), self.suites, self.key, self.sensitive
            ).items():
                yield day, json.dumps(Quality(tuple(results)).plain())


def _read(plain: str) -> list[Result]:
    return list(Quality.of(json.loads(plain)).results)


def _whole_days(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows that come in the order of their days, as tables of whole days."""
    import pyarrow as pa
    import pyarrow.compute as pc

    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        newest = batch.column(EVENT_DAY)[-1]
        if count <= _ROWS_AT_ONCE or waiting[0].column(EVENT_DAY)[0] == newest:
            continue
        table = pa.Table.from_batches(waiting)
        is_newest = pc.equal(table.column(EVENT_DAY), newest)
        yield table.filter(pc.invert(is_newest))
        waiting = table.filter(is_newest).to_batches()
        count = sum(map(len, waiting))
    if count:
        yield pa.Table.from_batches(waiting)


def _evaluate_days(
    rows: pd.DataFrame,
    suites: Mapping[date, Sequence[Expectation]],
    key: Sequence[str],
    sensitive: frozenset[str],
) -> dict[date, list[Result]]:
    """The results of each day of ``rows``; what no row of any day fails isn't looked for in each."""
    days = rows[EVENT_DAY]
    present = {day: list(suites[day]) for day in days.unique()}
    holding = _held_by_all(rows, present, key)
    found = {}
    for day, suite in present.items():
        rest = [expectation for position, expectation in enumerate(suite) if (day, position) not in holding]
        failing: Iterator[Result] = iter(())
        if rest:
            # Examples are the first failing rows in the order of the key.
            of_day = rows[days == day].sort_values(list(key), ignore_index=True)
            failing = iter(gx.evaluate(rest, of_day, key, sensitive))
        found[day] = [
            gx.holds(expectation) if (day, position) in holding else next(failing)
            for position, expectation in enumerate(suite)
        ]
    return found


def _held_by_all(
    rows: pd.DataFrame, suites: Mapping[date, Sequence[Expectation]], key: Sequence[str]
) -> set[tuple[date, int]]:
    """The expectations, by day and position, that no row of any of the days fails.

    Bounds that differ from day to day become columns beside the values.
    """
    import pandas as pd

    if len(suites) == 1:
        return set()
    alike: dict[str, list[tuple[date, int]]] = {}
    bounded: dict[tuple[str, int], list[tuple[date, int]]] = {}
    for day, suite in suites.items():
        before: Counter[str] = Counter()
        for position, one in enumerate(suite):
            place = (day, position)
            if _is_bounded(one):
                name = one.kwargs["column"]
                bounded.setdefault((name, before[name]), []).append(place)
                before[name] += 1
            else:
                alike.setdefault(json.dumps([one.type, one.kwargs], default=repr), []).append(place)

    def at(place: tuple[date, int]) -> Expectation:
        return suites[place[0]][place[1]]

    groups: list[list[tuple[date, int]]] = []
    expectations: list[Any] = []
    for places in alike.values():
        one = at(places[0])
        expectation = gx.configured(one.type, one.kwargs, len(groups))
        if _is_of_single_rows(expectation):
            groups.append(places)
            expectations.append(expectation)
    codes, days = pd.factorize(rows[EVENT_DAY])
    columns = {}
    for (name, nth), places in bounded.items():
        for bound in ("min_value", "max_value"):
            beside = f"{bound} {nth} of {name}"
            values = {day: at((day, position)).kwargs.get(bound) for day, position in places}
            of_days = pd.array([values.get(day) for day in days], dtype="Float64")
            columns[beside] = of_days.take(codes)
            pair = (beside, name) if bound == "max_value" else (name, beside)
            expectations.append(_at_least(*pair, len(groups)))
            groups.append(places)
    outcomes = gx.run(rows.assign(**columns), expectations, key, "BOOLEAN_ONLY")
    failed = {
        place for number, places in enumerate(groups) if not outcomes[number].success for place in places
    }
    return {place for places in groups for place in places} - failed


def _is_bounded(expectation: Expectation) -> bool:
    """Whether it bounds each value of a column by numbers, and says nothing else."""
    bounds = {name: value for name, value in expectation.kwargs.items() if name != "column"}
    return (
        expectation.type == "expect_column_values_to_be_between"
        and set(bounds) <= {"min_value", "max_value"}
        and all(gx.is_number(value) for value in bounds.values() if value is not None)
    )


def _is_of_single_rows(expectation: Any) -> bool:
    """Whether it holds for rows if it holds for more rows that include them."""
    return gx.counts_rows(expectation) and "z_score" not in expectation.expectation_type


# -- facts -------------------------------------------------------------------------------------------


def judge_facts(days: Mapping[date, Sequence[Fact]]) -> dict[date, list[Result]]:
    """Hold the facts of many days against their bounds, in one go: one result per day and fact.

    The days are rows of a table, with a column for each fact; a fact without a score isn't judged.
    """
    import pandas as pd

    if not days:
        return {}
    columns: dict[str, Fact] = {fact.name: fact for facts in days.values() for fact in facts}
    names = list(columns)
    scores = {day: {fact.name: fact.score for fact in facts} for day, facts in days.items()}
    frame = pd.DataFrame(
        [[scores[day].get(name) for name in names] for day in days], columns=names, dtype="float64"
    )
    frame[EVENT_DAY] = [day.isoformat() for day in days]
    expectations = []
    for position, name in enumerate(names):
        bounds = {"min_value": columns[name].minimum, "max_value": columns[name].maximum}
        kwargs = {"column": name} | {key: value for key, value in bounds.items() if value is not None}
        expectations.append(gx.configured("expect_column_values_to_be_between", kwargs, position))
    failed = gx.failing_days(frame, expectations, names)
    return {
        day: [_fact_result(fact, day.isoformat() not in failed[fact.name]) for fact in facts]
        for day, facts in days.items()
    }


def _fact_result(fact: Fact, passed: bool) -> Result:
    return Result(
        expectation=fact.words,
        problem=fact.wrong,
        dimension=fact.dimension,
        severity=fact.severity,
        passed=passed,
        observed=fact.observed,
        expected=fact.expected,
        value=fact.value,
    )
