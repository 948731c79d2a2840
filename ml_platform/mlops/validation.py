"""The data-quality verdict of a day: Great Expectations over its rows, and over its facts.

Days of ordinary size are evaluated by the library's pandas engine where Spark has their rows, many days
at once; a day too large for that by its Spark engine, without being collected. Both give the same
verdicts. What is expected comes from :mod:`.expectations` and :mod:`.history`.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ml_platform.mlops.expectations import MASK, Dimension, Expectation, number
from ml_platform.mlops.history import Fact
from ml_platform.product import EVENT_DAY, DataSet, Product, Severity
from ml_platform.storage.tables import column, on_days

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
_TASKS = 16


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
    of_rows = {day: [one for one in suite if not one.of_schema] for day, suite in suites.items()}
    small = {day: suite for day, suite in of_rows.items() if sizes[day] <= maximum_rows}
    found = _in_tasks(rows, small, key, sensitive)
    for day, suite in of_rows.items():
        if day not in found:
            found[day] = _by_spark(rows.where(on_days([day])), suite, key, sensitive)
    # The table has one schema, which all days share.
    of_schema: dict[str, Result] = {}
    for whole in suites.values():
        new = [one for one in whole if one.of_schema and one.words not in of_schema]
        if new:
            results = evaluate(new, rows, key, sensitive)
            of_schema |= {one.words: result for one, result in zip(new, results, strict=True)}
    return {
        day: [*(of_schema[one.words] for one in suite if one.of_schema), *found[day]]
        for day, suite in suites.items()
    }


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

    def evaluate_day(table: pa.Table) -> pa.Table:
        day = table.column(EVENT_DAY)[0].as_py()
        results = evaluate(suites[day], _frame(table, key), key, sensitive)
        plain = json.dumps(Quality(tuple(results)).plain())
        return pa.table({"day": pa.array([day], pa.date32()), "results": [plain]})

    chosen = rows.where(on_days(suites)).repartition(min(len(suites), _TASKS), EVENT_DAY)
    found = chosen.groupBy(EVENT_DAY).applyInArrow(evaluate_day, "day date, results string").collect()
    results = {row["day"]: list(Quality.of(json.loads(row["results"])).results) for row in found}
    # A day without rows is in no task, and is held against its suite all the same.
    empty = [day for day in suites if day not in results]
    if empty:
        nothing = _frame(rows.limit(0).toArrow(), key)
        results |= {day: evaluate(suites[day], nothing, key, sensitive) for day in empty}
    return results


def _frame(table: pa.Table, key: Sequence[str]) -> pd.DataFrame:
    """A day as pandas has it with types that know null, in the order of its key."""
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
    return frame.sort_values(list(key), ignore_index=True) if len(frame) else frame


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
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    expectations = {
        position: ExpectationConfiguration(
            type=one.type, kwargs=dict(one.kwargs), meta={"position": position}
        ).to_domain_obj()
        for position, one in enumerate(suite)
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
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

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
        configuration = ExpectationConfiguration(
            type="expect_column_values_to_be_between", kwargs=kwargs, meta={"position": position}
        )
        expectations.append(configuration.to_domain_obj())
    found = _run(frame, expectations, [EVENT_DAY], "COMPLETE")
    failed = {
        name: {entry[EVENT_DAY] for entry in found[position].result.get("unexpected_index_list") or []}
        for position, name in enumerate(names)
    }
    for position, name in enumerate(names):
        if "unexpected_count" not in found[position].result:
            raise RuntimeError(f"{name} could not be evaluated: {_why(found[position].exception_info)}")
    return {
        day: [_fact_result(fact, day.isoformat() not in failed[fact.name]) for fact in facts]
        for day, facts in days.items()
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
