"""The data-quality verdict of a day of the ARDS or the MRDS.

What is expected follows from the contract: enough rows, no nulls where the contract wants none, only
allowed values. The counts come from the pass that reads back what was written, so a year of verdicts
costs no Spark job of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ml_platform.product import Product

if TYPE_CHECKING:
    from pyspark.sql import Column

CHECK = "data_quality"
DataSet = Literal["ards", "mrds"]


@dataclass(frozen=True)
class Quality:
    """A verdict with its expectations, failed ones first."""

    passed: bool
    expectations: list[dict[str, Any]]

    @property
    def summary(self) -> str:
        failed = [e for e in self.expectations if not e["passed"]]
        if not failed:
            return f"all {len(self.expectations)} expectations hold"
        return "; ".join(f"{e['expectation']}: {e['observed']}, expected {e['expected']}" for e in failed)


def aggregates(product: Product, data_set: DataSet) -> dict[str, Column]:
    """Counts of failing rows of a day, by the name of the expectation."""
    from pyspark.sql import functions as F

    from ml_platform.storage.tables import column

    counts = {}
    for name, allowed in _expected_columns(product, data_set).items():
        value = column(name)
        if name in product.validation.not_null:
            counts[f"null {name}"] = F.sum(value.isNull().cast("bigint"))
        if allowed:
            counts[f"not allowed {name}"] = F.sum((~value.isin(*allowed)).cast("bigint"))
    return counts


def judge(product: Product, data_set: DataSet, rows: int, failing: Mapping[str, int]) -> Quality:
    """The verdict over a day with ``rows`` rows, of which ``failing`` fail an expectation."""
    minimum = (
        product.validation.minimum_rows if data_set == "ards" else min(1, product.validation.minimum_rows)
    )
    found = [_expectation("volume", "rows", rows >= minimum, f"{rows:,}", f"at least {minimum:,}", 0)]
    for name, allowed in _expected_columns(product, data_set).items():
        if name in product.validation.not_null:
            count = failing.get(f"null {name}", 0)
            found.append(
                _expectation(
                    "completeness", f"{name} is not null", count == 0, f"{count:,} nulls", "none", count
                )
            )
        if allowed:
            count = failing.get(f"not allowed {name}", 0)
            values = ", ".join(str(value) for value in allowed)
            found.append(
                _expectation("validity", f"{name} is allowed", count == 0, f"{count:,} others", values, count)
            )
    found.sort(key=lambda expectation: expectation["passed"])
    return Quality(all(expectation["passed"] for expectation in found), found)


def _expected_columns(product: Product, data_set: DataSet) -> dict[str, tuple[Any, ...]]:
    """The columns of a data set whose values are those of the source, with the allowed ones."""
    columns = product.source.columns
    if data_set == "ards":
        return {name: declared.allowed or () for name, declared in columns.items()}
    kept = {name for name, rule in product.mrds.aggregate.items() if rule in ("min", "max", "first", "last")}
    names = [*product.entity, *[name for name in product.mrds.aggregate if name in kept]]
    return {name: columns[name].allowed or () for name in names}


def _expectation(
    dimension: str, name: str, passed: bool, observed: str, expected: str, failing: int
) -> dict[str, Any]:
    return {
        "dimension": dimension,
        "expectation": name,
        "severity": "error",
        "passed": passed,
        "observed": observed,
        "expected": expected,
        "failing_rows": failing,
    }
