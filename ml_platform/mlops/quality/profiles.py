"""A day's profile: how many rows, and the plain statistics of each column.

It is counted by the task that writes the day, or in the pass that reads back what Spark has written. Later
days are held against the profiles of the days before them (:mod:`.anomalies`), and the MRDS of a day
against that of its ARDS (:mod:`.expectations`). What a profile means for the day is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column

#: Stored figures keep as many digits: a mean over doubles depends on the order of the rows after that.
_DIGITS = 9
#: Of a column with at most so many allowed values the share of each is followed.
FOLLOWED_VALUES = 20


@dataclass(frozen=True)
class ColumnProfile:
    """The statistics of one column over a day; figures of numbers are over finite values.

    ``values`` is how many different ones a column that holds no numbers has, to 5 % for a day that doesn't
    fit in the memory of a task, and ``shares`` the share of each allowed value among those that aren't null.
    """

    nulls: int = 0
    mean: float | None = None
    stddev: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    values: int | None = None
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Profile:
    """The rows of a day, and its columns by name."""

    rows: int = 0
    columns: Mapping[str, ColumnProfile] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data, without what is unknown."""
        columns = {
            name: {key: value for key, value in asdict(one).items() if value is not None}
            for name, one in self.columns.items()
        }
        return {"rows": self.rows, "columns": columns}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The profile that :meth:`plain` made; an empty one of nothing."""
        columns = {name: ColumnProfile(**values) for name, values in plain.get("columns", {}).items()}
        return cls(plain.get("rows", 0), columns)


@dataclass(frozen=True)
class ProfileStatistics:
    """The figures that :func:`profile` reads, by name: counted by Spark, or of a day's rows in memory."""

    product: Product
    data_set: DataSet

    def in_spark(self) -> dict[str, Column]:
        """The aggregates over a day's rows; how many values there are is exact to 5 %."""
        from pyspark.sql import functions as F

        from ml_platform.storage.tables import column

        found: dict[str, Column] = {}
        for name, type_ in profiled(self.product, self.data_set).items():
            value = column(name)
            found[f"nulls {name}"] = F.sum(value.isNull().cast("bigint"))
            if type_ in NUMERIC_TYPES:
                number = value.cast("double")
                finite = F.when(~F.isnan(number) & (F.abs(number) != F.lit(math.inf)), number)
                found[f"mean {name}"] = F.avg(finite)
                found[f"stddev {name}"] = F.stddev_pop(finite)
                found[f"minimum {name}"] = F.min(finite)
                found[f"maximum {name}"] = F.max(finite)
            elif self.data_set == "ards":
                found[f"values {name}"] = F.approx_count_distinct(value)
                for position, one in enumerate(_allowed(self.product, name)):
                    found[f"share {position} {name}"] = F.avg((value == F.lit(one)).cast("double"))
        return found

    def of_rows(self, rows: pa.Table) -> dict[str, Any]:
        """The same of a day's rows; how many values there are is exact."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        found: dict[str, Any] = {}
        for name, type_ in profiled(self.product, self.data_set).items():
            column = rows[name]
            found[f"nulls {name}"] = column.null_count
            if type_ in NUMERIC_TYPES:
                numbers = column.drop_null().cast(pa.float64(), safe=False).to_numpy()
                finite = numbers[np.isfinite(numbers)]
                if len(finite):
                    with np.errstate(over="ignore", invalid="ignore"):
                        found[f"mean {name}"] = float(finite.mean())
                        found[f"stddev {name}"] = float(finite.std())
                    found[f"minimum {name}"] = float(finite.min())
                    found[f"maximum {name}"] = float(finite.max())
            elif self.data_set == "ards":
                known = column.drop_null()
                found[f"values {name}"] = pc.count_distinct(known).as_py()
                for position, one in enumerate(_allowed(self.product, name)):
                    if len(known):
                        found[f"share {position} {name}"] = pc.mean(pc.equal(known, one)).as_py()
        return found


def profile(product: Product, data_set: DataSet, rows: int, found: Mapping[str, Any]) -> Profile:
    """The profile of a day with ``rows`` rows, from the values of :class:`ProfileStatistics`."""
    columns = {}
    for name in profiled(product, data_set):
        figures = {
            key: _rounded(found.get(f"{key} {name}"))
            for key in ("mean", "stddev", "minimum", "maximum", "values")
        }
        if figures["stddev"] and found[f"minimum {name}"] == found[f"maximum {name}"]:
            # The mean is rounded, and the values differ from that.
            figures["stddev"] = 0.0
        shares = {
            str(one): _rounded(share)
            for position, one in enumerate(_allowed(product, name))
            if (share := found.get(f"share {position} {name}")) is not None
        }
        columns[name] = ColumnProfile(nulls=found.get(f"nulls {name}") or 0, shares=shares or None, **figures)
    return Profile(rows, columns)


def _allowed(product: Product, name: str) -> tuple[Any, ...]:
    """The allowed values of a column that are few enough to be followed one by one."""
    declared = product.source.columns.get(name)
    allowed = declared.allowed if declared is not None and declared.type == "string" else None
    return allowed if allowed is not None and len(allowed) <= FOLLOWED_VALUES else ()


def profiled(product: Product, data_set: DataSet) -> dict[str, str]:
    """The columns of a data set that tell something, with their types: no keys, and the label in the ARDS."""
    source = product.source
    if data_set == "ards":
        left_out = {*product.ards_key, *product.entity}
        return {name: one.type for name, one in source.columns.items() if name not in left_out}
    return {name: product.mrds_type(name) for name in product.features}


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    # The spread of the greatest numbers isn't one.
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
