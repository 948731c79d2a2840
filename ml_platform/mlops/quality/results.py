"""The verdict on a day: the result of each expectation, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_platform.contract.monitoring import Severity
from ml_platform.mlops.quality.expectations import Dimension

EXAMPLES = 20


DIMENSIONS: tuple[Dimension, ...] = (
    "schema",
    "completeness",
    "validity",
    "uniqueness",
    "volume",
    "timeliness",
)


@dataclass(frozen=True)
class Result:
    """The result of one expectation on a day.

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
    problem: str = ""

    @property
    def statement(self) -> str:
        """What holds, or what is wrong. Verdicts of old lack the words for the latter."""
        return self.expectation if self.passed else self.problem or f"not fulfilled: {self.expectation}"

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
            key=lambda result: (
                result.passed,
                not result.passed and result.severity == "warning",
                DIMENSIONS.index(result.dimension),
            ),
        )

    @property
    def errors(self) -> list[Result]:
        return [result for result in self.ordered if result.is_error]

    @property
    def warnings(self) -> list[Result]:
        return [result for result in self.ordered if not result.passed and result.severity == "warning"]

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
        for result in self.ordered:
            row = vars(result) | {"expectation": result.statement, "examples": "; ".join(result.examples)}
            del row["value"], row["problem"]
            rows.append(row)
        return rows

    def plain(self) -> list[dict[str, Any]]:
        """As plain data, in the order in which they were evaluated."""
        return [vars(result) | {"examples": list(result.examples)} for result in self.results]

    @classmethod
    def of(cls, plain: Sequence[Mapping[str, Any]]) -> Quality:
        """The verdict that :meth:`plain` made."""
        return cls(tuple(Result(**{**result, "examples": tuple(result["examples"])}) for result in plain))


def _listed(results: Sequence[Result]) -> str:
    return "; ".join(
        f"{result.statement}: {result.observed}, expected {result.expected}" for result in results
    )
