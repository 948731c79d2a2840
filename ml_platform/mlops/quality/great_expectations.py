"""Great Expectations in use: a suite over rows in pandas or in Spark, and its results as the platform's.

A call of the library costs more than a look at twenty thousand rows, so it is asked for as much as possible
at once, and which rows fail is only looked for where some do.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_platform.contract.monitoring import MASK
from ml_platform.contract.source import EVENT_DAY
from ml_platform.mlops.quality.expectations import Expectation, number
from ml_platform.mlops.quality.results import EXAMPLES, Result

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame


def evaluate(
    suite: Sequence[Expectation],
    rows: pd.DataFrame | DataFrame,
    key: Sequence[str],
    sensitive: frozenset[str],
) -> list[Result]:
    """One result per expectation, in order, of a day's rows in pandas or in Spark."""
    expectations = {
        position: configured(expectation.type, expectation.kwargs, position)
        for position, expectation in enumerate(suite)
    }
    # Which rows fail takes a search of its own for each expectation: only for those that have any.
    strict = [expectation for expectation in expectations.values() if counts_rows(expectation)]
    holding = {
        position for position, outcome in run(rows, strict, key, "BOOLEAN_ONLY").items() if outcome.success
    }
    rest = [expectation for position, expectation in expectations.items() if position not in holding]
    found = run(rows, rest, key, "SUMMARY")
    return [
        holds(expectation) if position in holding else _result(expectation, found[position], key, sensitive)
        for position, expectation in enumerate(suite)
    ]


def configured(type_: str, kwargs: Mapping[str, Any], position: int) -> Any:
    """The library's own expectation; its result is found by ``position``."""
    _library()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(
        type=type_, kwargs=dict(kwargs), meta={"position": position}
    ).to_domain_obj()


def counts_rows(expectation: Any) -> bool:
    """Whether it holds just if no row fails it."""
    _library()
    from great_expectations.expectations import expectation as library

    of_rows = (
        library.ColumnMapExpectation,
        library.ColumnPairMapExpectation,
        library.MulticolumnMapExpectation,
    )
    return isinstance(expectation, of_rows) and expectation.mostly == 1


def run(rows: Any, expectations: Sequence[Any], key: Sequence[str], detail: str) -> dict[int, Any]:
    """The library's results by the position of the expectation."""
    if not expectations:
        return {}
    gx = _library()
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
    return {result.expectation_config.meta["position"]: result for result in outcome.results}


def frame(table: pa.Table) -> pd.DataFrame:
    """Rows as the library's pandas engine gets them, in types that know null."""
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


def _is_pandas(rows: Any) -> bool:
    return type(rows).__module__.startswith("pandas")


def _library() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    return gx


@functools.cache
def _batch_definition(engine: str) -> Any:
    """The library's way to a data frame; one a process."""
    library = _library()
    from great_expectations.execution_engine import pandas_execution_engine

    # A hash of all rows, which nobody reads and which takes a quarter of the time.
    pandas_execution_engine.HASH_THRESHOLD = 0
    context = library.get_context(mode="ephemeral")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context.variables.progress_bars = {"globally": False}
    source: Any = (
        context.data_sources.add_pandas(engine)
        if engine == "pandas"
        else context.data_sources.add_spark(engine, persist=False)
    )
    return source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("day")


def holds(expectation: Expectation) -> Result:
    """The result of an expectation that no row fails."""
    return Result(
        expectation=expectation.words,
        problem=expectation.wrong,
        dimension=expectation.dimension,
        severity=expectation.severity,
        passed=True,
        observed=expectation.expected if expectation.is_type else "none",
        expected=expectation.expected,
        value=None if expectation.is_type else 0.0,
    )


def counted(
    suite: Sequence[Expectation], rows: pa.Table, key: Sequence[str], sensitive: frozenset[str]
) -> list[str]:
    """How many of some rows of a day fail each expectation about each row by itself, for :func:`added_up`."""
    expectations = [configured(one.type, one.kwargs, place) for place, one in enumerate(suite)]
    ordered = frame(rows).sort_values(list(key), ignore_index=True)
    found = run(ordered, expectations, key, "SUMMARY")
    parts = []
    for place, expectation in enumerate(suite):
        details = found[place].result or {}
        masked = not sensitive.isdisjoint(expectation.columns)
        parts.append(
            {"rows": int(details["element_count"]), "failing": int(details["unexpected_count"])}
            | {"examples": list(_examples(details, key, sensitive))}
            if "unexpected_count" in details
            else {"problem": _observed(details, found[place].exception_info, masked)}
        )
    return [json.dumps(part) for part in parts]


def added_up(expectation: Expectation, parts: Sequence[str]) -> Result:
    """The result of an expectation that some rows of a day fail, from :func:`counted` of its parts."""
    known = [json.loads(part) for part in parts]
    problem = next((part["problem"] for part in known if "problem" in part), None)
    failing = 0 if problem else sum(part["failing"] for part in known)
    observed = problem or f"{failing:,} of {sum(part['rows'] for part in known):,} rows"
    examples = [] if problem else [example for part in known for example in part["examples"]]
    return Result(
        expectation=expectation.words,
        problem=expectation.wrong,
        dimension=expectation.dimension,
        severity=expectation.severity,
        passed=False,
        observed=observed,
        expected=expectation.expected,
        failing_rows=failing,
        examples=tuple(examples[:EXAMPLES]),
        value=None if problem else float(failing),
    )


def _result(expectation: Expectation, found: Any, key: Sequence[str], sensitive: frozenset[str]) -> Result:
    details = found.result or {}
    failing = int(details.get("unexpected_count") or 0)
    masked = not sensitive.isdisjoint(expectation.columns)
    observed = _observed(details, found.exception_info, masked)
    return Result(
        expectation=expectation.words,
        problem=expectation.wrong,
        dimension=expectation.dimension,
        severity=expectation.severity,
        passed=bool(found.success),
        observed=expectation.expected if expectation.is_type and found.success else observed,
        expected=expectation.expected,
        failing_rows=failing,
        examples=() if found.success else tuple(_examples(details, key, sensitive)),
        value=None
        if expectation.is_type or (masked and "observed_value" in details)
        else _value(details, failing),
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
        return number(value) if is_number(value) else str(value)
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
    return float(observed) if observed is not None and is_number(observed) else None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _examples(details: Mapping[str, Any], key: Sequence[str], sensitive: frozenset[str]) -> Iterator[str]:
    import pandas as pd

    def shown(name: str, value: Any) -> str:
        return f"{name} = {'null' if pd.isna(value) else MASK if name in sensitive else value}"

    if not key:  # then the library numbers the rows
        return
    for entry in (details.get("partial_unexpected_index_list") or [])[:EXAMPLES]:
        others = [name for name in entry if name not in key]
        place = ", ".join(shown(name, entry[name]) for name in key if name in entry)
        values = ", ".join(shown(name, entry[name]) for name in others)
        yield f"{place}: {values}" if values else place


def failing_days(
    frame: pd.DataFrame, expectations: Sequence[Any], names: Sequence[str]
) -> dict[str, set[str]]:
    """Of a table with a row for each day, the days that fail each expectation, by its name.

    Raises:
        RuntimeError: the library could not evaluate one.
    """
    found = run(frame, expectations, [EVENT_DAY], "COMPLETE")
    for position, name in enumerate(names):
        if "unexpected_count" not in found[position].result:
            raise RuntimeError(f"{name} could not be evaluated: {_why(found[position].exception_info)}")
    return {
        name: {entry[EVENT_DAY] for entry in found[position].result.get("unexpected_index_list") or []}
        for position, name in enumerate(names)
    }
