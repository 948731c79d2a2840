"""A day's profile: how many rows, and the plain statistics of each column.

It is counted of the parts in which a day is written, which add up. Later days are compared with the profiles
of the days before them (:mod:`.anomalies`), and the MRDS of a day against that of its ARDS
(:mod:`.expectations`). What a profile means for the day is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product
from ml_platform.mlops.quality import distinct_values

if TYPE_CHECKING:
    import pyarrow as pa

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
            name: {key: value for key, value in asdict(column).items() if value is not None}
            for name, column in self.columns.items()
        }
        return {"rows": self.rows, "columns": columns}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """The profile that :meth:`plain` made; an empty one of nothing."""
        columns = {name: ColumnProfile(**values) for name, values in plain.get("columns", {}).items()}
        return cls(plain.get("rows", 0), columns)


@dataclass(frozen=True)
class ProfileStatistics:
    """The figures that :func:`profile` reads, by name; those of a day's parts add up to the day's."""

    product: Product
    data_set: DataSet

    def of_part(self, rows: pa.Table, *, is_whole: bool) -> dict[str, Any]:
        """The figures of some rows, as plain data; those of a whole day need no sketches of its values."""
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
                found[f"finite {name}"] = len(finite)
                if len(finite):
                    with np.errstate(over="ignore", invalid="ignore"):
                        found[f"mean {name}"] = _plain(finite.mean())
                        found[f"stddev {name}"] = _plain(finite.std())
                    found[f"minimum {name}"] = float(finite.min())
                    found[f"maximum {name}"] = float(finite.max())
            elif self.data_set == "ards":
                known = column.drop_null()
                found[f"known {name}"] = len(known)
                if is_whole:
                    found[f"values {name}"] = pc.count_distinct(known).as_py()
                else:
                    found[f"sketch {name}"] = distinct_values.sketch_of(known)
                for position, value in enumerate(_allowed(self.product, name)):
                    found[f"equal {position} {name}"] = pc.sum(pc.equal(known, value)).as_py() or 0
        return found

    def of_parts(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The figures of the rows of all parts."""
        found: dict[str, Any] = {}
        for name, type_ in profiled(self.product, self.data_set).items():
            found[f"nulls {name}"] = sum(part[f"nulls {name}"] for part in parts)
            if type_ in NUMERIC_TYPES:
                found |= {f"{key} {name}": value for key, value in _of_numbers(parts, name).items()}
            elif self.data_set == "ards":
                known = sum(part[f"known {name}"] for part in parts)
                if len(parts) == 1 and f"values {name}" in parts[0]:
                    found[f"values {name}"] = parts[0][f"values {name}"]
                else:
                    sketches = [part[f"sketch {name}"] for part in parts]
                    found[f"values {name}"] = distinct_values.count(sketches)
                for position, _ in enumerate(_allowed(self.product, name)):
                    if known:
                        equal = sum(part[f"equal {position} {name}"] for part in parts)
                        found[f"share {position} {name}"] = equal / known
        return found


def _of_numbers(parts: Sequence[Mapping[str, Any]], name: str) -> dict[str, float | None]:
    """Mean, spread and ends of the finite numbers of a column; nothing without any."""
    filled = [part for part in parts if part[f"finite {name}"]]
    if not filled:
        return {}
    total = sum(part[f"finite {name}"] for part in filled)
    shares = [part[f"finite {name}"] / total for part in filled]
    means, spreads = ([part[f"{key} {name}"] for part in filled] for key in ("mean", "stddev"))
    mean: float | None = means[0]
    stddev: float | None = spreads[0]
    if len(filled) > 1:
        mean = stddev = None
        if None not in means:
            mean = math.fsum(share * value for share, value in zip(shares, means, strict=True))
        if mean is not None and None not in spreads:
            # The greatest numbers have no squares; `*` gives an infinite one where `**` raises.
            squares = [
                spread * spread + (value - mean) * (value - mean)
                for spread, value in zip(spreads, means, strict=True)
            ]
            stddev = math.sqrt(sum(share * square for share, square in zip(shares, squares, strict=True)))
    return {
        "mean": mean,
        "stddev": stddev,
        "minimum": min(part[f"minimum {name}"] for part in filled),
        "maximum": max(part[f"maximum {name}"] for part in filled),
    }


def _plain(value: Any) -> float | None:
    """A number as JSON has it, which knows no infinite ones: the sum of the greatest is none."""
    return float(value) if math.isfinite(value) else None


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
            str(value): _rounded(share)
            for position, value in enumerate(_allowed(product, name))
            if (share := found.get(f"share {position} {name}")) is not None
        }
        columns[name] = ColumnProfile(nulls=found.get(f"nulls {name}") or 0, shares=shares or None, **figures)
    return Profile(rows, columns)


def _allowed(product: Product, name: str) -> tuple[Any, ...]:
    """The allowed values of a column that are few enough to be followed one by one."""
    declared = product.columns.get(name)
    allowed = declared.allowed if declared is not None and declared.type == "string" else None
    return allowed if allowed is not None and len(allowed) <= FOLLOWED_VALUES else ()


def profiled(product: Product, data_set: DataSet) -> dict[str, str]:
    """The columns of a data set that tell something, with their types: no keys, and the label in the ARDS."""
    if data_set == "ards":
        left_out = {*product.ards_key, *product.entity}
        return {name: column.type for name, column in product.columns.items() if name not in left_out}
    return {name: product.mrds_type(name) for name in product.features}


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    # The spread of the greatest numbers isn't one.
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
