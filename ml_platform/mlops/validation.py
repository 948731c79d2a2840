"""The data-quality verdict of a day: Great Expectations over its rows, and over its facts.

Days of ordinary size are evaluated by the library's pandas engine where Spark has their rows; a day too
large for that by its Spark engine, without being collected. Both give the same verdicts. A call of the
library costs more than a look at twenty thousand rows, so what no row of many days fails is found in one
call for all of them. What is expected comes from :mod:`.expectations` and :mod:`.history`.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ml_platform.mlops.expectations import MASK, Dimension, Expectation, number
from ml_platform.mlops.history import Fact
from ml_platform.product import EVENT_DAY, DataSet, Product, Severity
from ml_platform.storage.tables import column, on_days
from ml_platform.tasks import leave_imports_uncollected

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame

CHECK = "data_quality"
CODE_VERSION = "2"
EXAMPLES = 20
DIMENSIONS: tuple[Dimension, ...] = (
    "schema",
    "completeness",
    "validity",
    "uniqueness",
    "volume",
    "timeliness",
)
#: Tasks over which a range of days is spread; more days than that share tasks.
_TASKS = 8
#: Rows of whole days that a task evaluates in one call; a larger day is one by itself.
_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Result:
    """What became of one expectation on a day.

    ``value`` is the figure behind ``observed`` that people plot: failing rows, or an observed number.
    ``examples`` name up to 20 failing rows by key and value, sensitive ones masked.
    """

    expectation: str
    dimension: Dimension
    severity: Severity
    passed: bool
    observed: str
    expected: str
    failing_rows: int = 0
    examples: tuple[str, ...] = ()
    value: float | None = None

    @property
    def is_error(self) -> bool:
        return not self.passed and self.severity == "error"


@dataclass(frozen=True)
class Quality:
    """The verdict over a day, from the results of all its expectations."""

    results: tuple[Result, ...]

    @property
    def ordered(self) -> list[Result]:
        """The results by dimension; before all others the failed ones, errors first."""
        return sorted(
            self.results,
            key=lambda one: (
                one.passed,
                not one.passed and one.severity == "warning",
                DIMENSIONS.index(one.dimension),
            ),
        )

    @property
    def errors(self) -> list[Result]:
        return [one for one in self.ordered if one.is_error]

    @property
    def warnings(self) -> list[Result]:
        return [one for one in self.ordered if not one.passed and one.severity == "warning"]

    @property
    def passed(self) -> bool:
        """Whether the day may be used; warnings don't stop it."""
        return not self.errors

    @property
    def summary(self) -> str:
        failed = [*self.errors, *self.warnings]
        return _listed(failed) if failed else f"all {len(self.results)} expectations hold"

    @property
    def reason(self) -> str:
        """Why the day is blocked, if it is."""
        return _listed(self.errors)

    @property
    def table(self) -> list[dict[str, Any]]:
        """One plain row per expectation, in order, for people to read."""
        rows = []
        for one in self.ordered:
            row = asdict(one)
            del row["value"]
            rows.append(row | {"examples": "; ".join(one.examples)})
        return rows

    def plain(self) -> list[dict[str, Any]]:
        """As plain data, in the order in which they were evaluated."""
        return [asdict(one) | {"examples": list(one.examples)} for one in self.results]

    @classmethod
    def of(cls, plain: Sequence[Mapping[str, Any]]) -> Quality:
        """The verdict that :meth:`plain` made."""
        return cls(tuple(Result(**{**one, "examples": tuple(one["examples"])}) for one in plain))


def _listed(results: Sequence[Result]) -> str:
    return "; ".join(f"{one.expectation}: {one.observed}, expected {one.expected}" for one in results)


# -- rows --------------------------------------------------------------------------------------------


def validate(
    product: Product,
    data_set: DataSet,
    rows: DataFrame,
    suites: Mapping[date, Sequence[Expectation]],
    sizes: Mapping[date, int],
    *,
    maximum_rows: int,
) -> dict[date, list[Result]]:
    """Evaluate each day's suite on the day's rows.

    Args:
        rows: the data set, of which only the days of ``suites`` are read.
        sizes: how many rows each of these days has.
        maximum_rows: the most rows of a day that are held in memory at once; a day with more is
            evaluated by Spark.
    """
    key, sensitive = list(_key(product, data_set)), product.sensitive
    of_rows = {
        day: [one for one in suite if not one.of_schema and not one.of_size] for day, suite in suites.items()
    }
    small = {day: suite for day, suite in of_rows.items() if sizes[day] <= maximum_rows}
    found = _in_tasks(rows, small, key, sensitive)
    for day, suite in of_rows.items():
        if day not in found:
            found[day] = _by_spark(rows.where(on_days([day])), suite, key, sensitive)
    of_size = _by_size(suites, sizes)
    # The table has one schema, which all days share.
    of_schema: dict[str, Result] = {}
    for whole in suites.values():
        new = [one for one in whole if one.of_schema and one.words not in of_schema]
        if new:
            results = evaluate(new, rows, key, sensitive)
            of_schema |= {one.words: result for one, result in zip(new, results, strict=True)}
    return {
        day: [*(of_schema[one.words] for one in suite if one.of_schema), *of_size[day], *found[day]]
        for day, suite in suites.items()
    }


def _by_size(
    suites: Mapping[date, Sequence[Expectation]], sizes: Mapping[date, int]
) -> dict[date, list[Result]]:
    """The expectations about the number of rows, of all days at once: a table with a row for each day."""
    import pandas as pd

    of_size = {day: [one for one in suite if one.of_size] for day, suite in suites.items()}
    bounds: dict[tuple[Any, ...], str] = {}
    for suite in of_size.values():
        for one in suite:
            bounds.setdefault(_bounds(one), f"rows {len(bounds)}")
    frame = pd.DataFrame({name: [float(sizes[day]) for day in suites] for name in bounds.values()})
    frame[EVENT_DAY] = [day.isoformat() for day in suites]
    expectations = [
        _configured(
            "expect_column_values_to_be_between",
            {"column": name} | {key: value for key, value in bound if value is not None},
            position,
        )
        for position, (bound, name) in enumerate(bounds.items())
    ]
    failed = _failing_days(frame, expectations, list(bounds.values()))
    return {
        day: [
            Result(
                expectation=one.words,
                dimension=one.dimension,
                severity=one.severity,
                passed=day.isoformat() not in failed[bounds[_bounds(one)]],
                observed=number(sizes[day]),
                expected=one.expected,
                value=float(sizes[day]),
            )
            for one in suite
        ]
        for day, suite in of_size.items()
    }


def _bounds(one: Expectation) -> tuple[tuple[str, Any], ...]:
    """The least and the greatest number of rows that an expectation allows."""
    if "value" in one.kwargs:
        return (("min_value", one.kwargs["value"]), ("max_value", one.kwargs["value"]))
    names = ("min_value", "max_value", "strict_min", "strict_max")
    return tuple((name, one.kwargs.get(name)) for name in names)


def _key(product: Product, data_set: DataSet) -> tuple[str, ...]:
    return product.ards_key if data_set == "ards" else (*product.entity, EVENT_DAY)


def _in_tasks(
    rows: DataFrame,
    suites: Mapping[date, Sequence[Expectation]],
    key: Sequence[str],
    sensitive: frozenset[str],
) -> dict[date, list[Result]]:
    import pyarrow as pa

    if not suites:
        return {}

    def evaluate_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _whole_days(batches):
            found = _evaluate_days(_frame(table), suites, key, sensitive)
            plain = [json.dumps(Quality(tuple(results)).plain()) for results in found.values()]
            yield pa.RecordBatch.from_pydict({"day": pa.array(found, pa.date32()), "results": plain})
        leave_imports_uncollected()

    chosen = rows.where(on_days(suites)).repartition(min(len(suites), _TASKS), EVENT_DAY)
    found = chosen.sortWithinPartitions(EVENT_DAY).mapInArrow(evaluate_all, "day date, results string")
    results = {row["day"]: list(Quality.of(json.loads(row["results"])).results) for row in found.collect()}
    # A day without rows is in no task, and is held against its suite all the same.
    empty = [day for day in suites if day not in results]
    if empty:
        nothing = _frame(rows.limit(0).toArrow())
        results |= {day: evaluate(suites[day], nothing, key, sensitive) for day in empty}
    return results


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


def _frame(table: pa.Table) -> pd.DataFrame:
    """Rows as pandas has them with types that know null."""
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
        pa.large_string(): pd.StringDtype(),
    }
    # The library doesn't know timestamps with a time zone; Spark's are instants, here those of UTC.
    naive = [
        pa.field(field.name, pa.timestamp("us")) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    frame: pd.DataFrame = table.cast(pa.schema(naive)).to_pandas(types_mapper=types.get)
    return frame


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
        rest = [one for position, one in enumerate(suite) if (day, position) not in holding]
        failing: Iterator[Result] = iter(())
        if rest:
            # Examples are the first failing rows in the order of the key.
            of_day = rows[days == day].sort_values(list(key), ignore_index=True)
            failing = iter(evaluate(rest, of_day, key, sensitive))
        found[day] = [
            _holds(one) if (day, position) in holding else next(failing) for position, one in enumerate(suite)
        ]
    return found


def _held_by_all(
    rows: pd.DataFrame, suites: Mapping[date, Sequence[Expectation]], key: Sequence[str]
) -> set[tuple[date, int]]:
    """The expectations, by day and position, that no row of any of the days fails.

    Bounds that differ from day to day become columns beside the values.
    """
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
        expectation = _configured(one.type, one.kwargs, len(groups))
        if _is_of_single_rows(expectation):
            groups.append(places)
            expectations.append(expectation)
    columns = {}
    for (name, nth), places in bounded.items():
        for bound, greater in (("min_value", False), ("max_value", True)):
            beside = f"{bound} {nth} of {name}"
            values = {place[0]: at(place).kwargs.get(bound) for place in places}
            columns[beside] = rows[EVENT_DAY].map(values).astype("Float64")
            pair = (
                {"column_A": beside, "column_B": name} if greater else {"column_A": name, "column_B": beside}
            )
            expectations.append(
                _configured(
                    "expect_column_pair_values_a_to_be_greater_than_b",
                    {**pair, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
                    len(groups),
                )
            )
            groups.append(places)
    outcomes = _run(rows.assign(**columns), expectations, key, "BOOLEAN_ONLY")
    failed = {
        place for number, places in enumerate(groups) if not outcomes[number].success for place in places
    }
    return {place for places in groups for place in places} - failed


def _is_bounded(one: Expectation) -> bool:
    """Whether it bounds each value of a column by numbers, and says nothing else."""
    bounds = {name: value for name, value in one.kwargs.items() if name != "column"}
    return (
        one.type == "expect_column_values_to_be_between"
        and set(bounds) <= {"min_value", "max_value"}
        and all(_is_number(value) for value in bounds.values() if value is not None)
    )


def _is_of_single_rows(expectation: Any) -> bool:
    """Whether it holds for rows if it holds for more rows that include them."""
    return _counts_rows(expectation) and "z_score" not in expectation.expectation_type


def _by_spark(
    rows: DataFrame, suite: Sequence[Expectation], key: Sequence[str], sensitive: frozenset[str]
) -> list[Result]:
    from pyspark.sql import functions as F

    # The library's Spark engine takes NaN for a value, its pandas engine doesn't.
    doubles = {name for name, type_ in rows.dtypes if type_ in ("double", "float")}
    cleaned = rows.select(
        *[
            F.when(~F.isnan(column(name)), column(name)).alias(name) if name in doubles else column(name)
            for name in rows.columns
        ]
    )
    return evaluate(suite, cleaned, key, sensitive)


def evaluate(
    suite: Sequence[Expectation],
    rows: pd.DataFrame | DataFrame,
    key: Sequence[str],
    sensitive: frozenset[str],
) -> list[Result]:
    """One result per expectation, in order, of a day's rows in pandas or in Spark."""
    expectations = {
        position: _configured(one.type, one.kwargs, position) for position, one in enumerate(suite)
    }
    # Which rows fail takes a search of its own for each expectation: only for those that have any.
    strict = [one for one in expectations.values() if _counts_rows(one)]
    holding = {position for position, one in _run(rows, strict, key, "BOOLEAN_ONLY").items() if one.success}
    rest = [one for position, one in expectations.items() if position not in holding]
    found = _run(rows, rest, key, "SUMMARY")
    return [
        _holds(one) if position in holding else _result(one, found[position], key, sensitive)
        for position, one in enumerate(suite)
    ]


def _configured(type_: str, kwargs: Mapping[str, Any], position: int) -> Any:
    """The library's own expectation; its result is found by ``position``."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(
        type=type_, kwargs=dict(kwargs), meta={"position": position}
    ).to_domain_obj()


def _counts_rows(expectation: Any) -> bool:
    """Whether it holds just if no row fails it."""
    from great_expectations.expectations import expectation as library

    of_rows = (
        library.ColumnMapExpectation,
        library.ColumnPairMapExpectation,
        library.MulticolumnMapExpectation,
    )
    return isinstance(expectation, of_rows) and expectation.mostly == 1


def _run(rows: Any, expectations: Sequence[Any], key: Sequence[str], detail: str) -> dict[int, Any]:
    """The library's results by the position of the expectation."""
    import great_expectations as gx

    if not expectations:
        return {}
    batch = _batch_definition("pandas" if _is_pandas(rows) else "spark").get_batch(
        batch_parameters={"dataframe": rows}
    )
    outcome = batch.validate(
        gx.ExpectationSuite(name="day", expectations=list(expectations)),
        result_format={
            "result_format": detail,
            "partial_unexpected_count": EXAMPLES,
            "unexpected_index_column_names": list(key),
        },
    )
    return {one.expectation_config.meta["position"]: one for one in outcome.results}


def _is_pandas(rows: Any) -> bool:
    return type(rows).__module__.startswith("pandas")


@functools.cache
def _batch_definition(engine: str) -> Any:
    """The library's way to a data frame; one a process."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source: Any = (
        context.data_sources.add_pandas(engine)
        if engine == "pandas"
        else context.data_sources.add_spark(engine, persist=False)
    )
    return source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("day")


def _holds(one: Expectation) -> Result:
    """The result of an expectation that no row fails."""
    return Result(
        expectation=one.words,
        dimension=one.dimension,
        severity=one.severity,
        passed=True,
        observed=one.expected if one.is_type else "none",
        expected=one.expected,
        value=None if one.is_type else 0.0,
    )


def _result(one: Expectation, found: Any, key: Sequence[str], sensitive: frozenset[str]) -> Result:
    details = found.result or {}
    failing = int(details.get("unexpected_count") or 0)
    masked = not sensitive.isdisjoint(one.columns)
    observed = _observed(details, found.exception_info, masked)
    return Result(
        expectation=one.words,
        dimension=one.dimension,
        severity=one.severity,
        passed=bool(found.success),
        observed=one.expected if one.is_type and found.success else observed,
        expected=one.expected,
        failing_rows=failing,
        examples=() if found.success else tuple(_examples(details, key, sensitive)),
        value=None if one.is_type or (masked and "observed_value" in details) else _value(details, failing),
    )


def _observed(details: Mapping[str, Any], problem: Any, masked: bool) -> str:
    if "unexpected_count" in details:
        count, rows = details["unexpected_count"], details.get("element_count", 0)
        return f"{count:,} of {rows:,} rows" if count else "none"
    if "observed_value" in details:
        value = details["observed_value"]
        missing = details.get("details", {}).get("mismatched") if isinstance(value, list) else None
        if missing:
            return "; ".join(f"{kind}: {', '.join(map(str, names))}" for kind, names in missing.items())
        if isinstance(value, list):
            return f"{len(value)} columns" if not masked else MASK
        if masked:
            return MASK
        return number(value) if _is_number(value) else str(value)
    return f"could not be evaluated: {MASK if masked else _why(problem)}"


def _why(problem: Any) -> str:
    """The first line of what the library says went wrong."""
    causes = [problem] if "exception_message" in (problem or {}) else list((problem or {}).values())
    messages = [str(cause.get("exception_message") or "") for cause in causes if isinstance(cause, dict)]
    lines = [line for message in messages for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason was given"


def _value(details: Mapping[str, Any], failing: int) -> float | None:
    observed = details.get("observed_value")
    if "unexpected_count" in details:
        return float(failing)
    return float(observed) if observed is not None and _is_number(observed) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _examples(details: Mapping[str, Any], key: Sequence[str], sensitive: frozenset[str]) -> Iterator[str]:
    import pandas as pd

    def shown(name: str, value: Any) -> str:
        return f"{name} = {'null' if pd.isna(value) else MASK if name in sensitive else value}"

    for entry in (details.get("partial_unexpected_index_list") or [])[:EXAMPLES]:
        others = [name for name in entry if name not in key]
        place = ", ".join(shown(name, entry[name]) for name in key if name in entry)
        values = ", ".join(shown(name, entry[name]) for name in others)
        yield f"{place}: {values}" if values else place


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
        expectations.append(_configured("expect_column_values_to_be_between", kwargs, position))
    failed = _failing_days(frame, expectations, names)
    return {
        day: [_fact_result(fact, day.isoformat() not in failed[fact.name]) for fact in facts]
        for day, facts in days.items()
    }


def _failing_days(
    frame: pd.DataFrame, expectations: Sequence[Any], names: Sequence[str]
) -> dict[str, set[str]]:
    """Of a table with a row for each day, the days that fail each expectation, by its name.

    Raises:
        RuntimeError: the library could not evaluate one.
    """
    found = _run(frame, expectations, [EVENT_DAY], "COMPLETE")
    for position, name in enumerate(names):
        if "unexpected_count" not in found[position].result:
            raise RuntimeError(f"{name} could not be evaluated: {_why(found[position].exception_info)}")
    return {
        name: {entry[EVENT_DAY] for entry in found[position].result.get("unexpected_index_list") or []}
        for position, name in enumerate(names)
    }


def _fact_result(fact: Fact, passed: bool) -> Result:
    return Result(
        expectation=fact.words,
        dimension=fact.dimension,
        severity=fact.severity,
        passed=passed,
        observed=fact.observed,
        expected=fact.expected,
        value=fact.value,
    )
