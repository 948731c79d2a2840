"""The sections of a contract that say what is checked: validation, drift, alerts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from ml_platform.contract.expressions import check_expression
from ml_platform.contract.fields import MAXIMUM_DAYS, Rows, Section, listed

Severity = Literal["error", "warning"]


DataSet = Literal["ards", "mrds"]


#: The rules that a day of data is checked by; each has a severity of its own.
Rule = Literal[
    "columns",
    "type",
    "minimum_rows",
    "unique",
    "not_null",
    "null_share",
    "allowed",
    "range",
    "aggregation",
    "rows_of_weekday",
    "quarantined_share",
    "superseded_share",
    "labelled_share",
    "dated_ahead",
    "nulls_of_history",
    "mean_of_history",
    "spread_of_history",
    "values_of_history",
    "shares_of_history",
]


#: What stands for a value of a sensitive column.
MASK = "•••"


#: Expectations of the library that can't be evaluated on a day of a Delta table, and why.
UNSUPPORTED_EXPECTATIONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "expect_column_values_to_match_like_pattern",
            "expect_column_values_to_match_like_pattern_list",
            "expect_column_values_to_not_match_like_pattern",
            "expect_column_values_to_not_match_like_pattern_list",
            "expect_query_results_to_match_comparison",
            "expect_table_row_count_to_equal_other_table",
            "unexpected_rows_expectation",
        ),
        "it works on SQL databases only",
    ),
    **dict.fromkeys(
        ("expect_column_values_to_be_increasing", "expect_column_values_to_be_decreasing"),
        "the rows of a table have no order",
    ),
    **dict.fromkeys(
        ("expect_column_type_to_be", "expect_column_values_to_be_of_type"),
        "the types are those of source.columns, and are always checked",
    ),
    "expect_column_values_to_be_dateutil_parseable": "declare the column as a date or timestamp",
}


class Limits(Section):
    """A least and a greatest value, both allowed; at least one is given."""

    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("minimum or maximum is needed")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class QuarantinedShare(Section):
    """From which share of unusable records a day is worth a warning, and from which it is an error."""

    warning: float = Field(default=0.05, ge=0, le=1)
    error: float = Field(default=0.25, ge=0, le=1)


class History(Section):
    """The anomaly checks of a day's columns, against the days before it.

    A figure deviates when it lies more than ``deviation`` robust standard deviations from the median of
    the last ``days`` days, of which at least ``minimum_days`` are there.
    """

    days: int = Field(default=28, ge=3, le=366)
    minimum_days: int = Field(default=7, ge=3)
    deviation: float = Field(default=6.0, gt=0)


class CustomExpectation(Section):
    """Any expectation of Great Expectations, by its name and arguments."""

    type: str
    kwargs: dict[str, Any] = {}
    on: DataSet = "ards"
    severity: Severity = "error"
    description: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        # A contract that adds none doesn't pay for the import, which takes seconds.
        from great_expectations.exceptions import ExpectationNotFoundError
        from great_expectations.expectations import registry

        if self.type in UNSUPPORTED_EXPECTATIONS:
            raise ValueError(
                f"type: {self.type!r} is not for this data: {UNSUPPORTED_EXPECTATIONS[self.type]}"
            )
        try:
            expectation = registry.get_expectation_impl(self.type)
        except ExpectationNotFoundError as error:
            known = sorted({*registry.list_registered_expectation_implementations()})
            near = difflib.get_close_matches(self.type, known, n=3, cutoff=0.5)
            raise ValueError(
                f"type: Great Expectations knows no {self.type!r}; "
                f"near it are {listed(near) or 'none; names look like expect_column_mean_to_be_between'}"
            ) from error
        for expression in _expressions(self.kwargs):
            check_expression(expression)
        try:
            expectation(**self.kwargs)
        except ValueError as error:  # the library's models are pydantic's, of the version before
            problems = [
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in getattr(error, "errors", list)()
            ]
            raise ValueError(f"kwargs of {self.type}: {'; '.join(problems) or error}") from error
        except Exception as error:  # whatever the library's own code raises of arguments it doesn't expect
            raise ValueError(f"kwargs of {self.type}: {type(error).__name__}: {error}") from error
        return self

    @property
    def columns(self) -> list[str]:
        """The columns that the arguments name."""
        named = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        listed = self.kwargs.get("column_list", ())
        return [str(name) for name in (*named, *(listed if isinstance(listed, list | tuple) else [listed]))]


def _expressions(kwargs: Mapping[str, Any]) -> list[str]:
    """The regular expressions among an expectation's arguments."""
    found: list[str] = []
    for name, value in kwargs.items():
        if "regex" in name:
            found += (
                [value]
                if isinstance(value, str)
                else [expression for expression in value or () if isinstance(expression, str)]
            )
    return found


class Validation(Section):
    """What every day of the data must fulfil."""

    minimum_rows: Rows = Field(default=1, ge=0)
    not_null: tuple[str, ...] = ()
    maximum_null_share: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    ranges: dict[str, Limits] = {}
    rows_of_weekday: Limits = Field(
        default=Limits(minimum=0.6, maximum=1.7),
        description="rows as a multiple of the median of the last four same weekdays",
    )
    quarantined_share: QuarantinedShare = QuarantinedShare()
    maximum_superseded_share: float = Field(default=0.2, ge=0, le=1)
    minimum_labelled_share: float = Field(default=0.5, ge=0, le=1)
    history: History = History()
    severity: dict[Rule, Severity] = {}
    expectations: tuple[CustomExpectation, ...] = ()


class Drift(Section):
    """When a column counts as drifted, and a month with it."""

    method: Literal["psi", "jensenshannon", "hellinger", "kl_div"] = "psi"
    threshold: float = Field(default=0.15, gt=0)
    thresholds: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, description="of single columns")
    against: tuple[Literal["month_before", "training"], ...] = ("month_before", "training")
    minimum_rows: Rows = Field(default=1000, ge=1, description="values of a column in each window")
    maximum_rows: Rows = Field(
        default=100_000, ge=1000, description="rows of a window that are compared; above it, a sample"
    )
    maximum_null_change: float = Field(default=0.05, ge=0, le=1)
    maximum_share: float = Field(default=0.0, ge=0, le=1, description="of drifted columns, that is no drift")
    severity: Severity = "warning"
    retrain: bool = Field(default=False, description="whether drift alone trains the model again")


class Alerts(Section):
    """What is reported to people, and when something counts as overdue."""

    severity: Severity = "warning"
    due_hour: int = Field(default=10, ge=0, le=23, description="by then a day's rows and labels are there")
    materialized_within_hours: float = Field(default=3.0, gt=0, le=24 * MAXIMUM_DAYS)
