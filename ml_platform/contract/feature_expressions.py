"""The expressions of a contract's features, read: the columns they name, their types, and in what order.

The language is that of :mod:`.scalar_sql`. An expression may name the columns of the MRDS that are known when
the day is scored, other expressions among them; a condition the columns of the deliveries but the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.scalar_sql import Expression, parse, parse_condition
from ml_platform.contract.source import EVENT_DAY

if TYPE_CHECKING:
    from ml_platform.contract.product import Product


def expressions(product: Product) -> dict[str, Expression]:
    """The expressions by the names of their features, each after those that it names.

    Raises:
        ValueError: one can't be read, or names itself by way of others.
    """
    known = _Columns(product)
    for name in product.mrds.made:
        known.read(name)
    return known.found


def conditions(product: Product) -> dict[str, Expression]:
    """The conditions by their text.

    Raises:
        ValueError: one can't be read.
    """
    source = product.source
    types = {name: column.type for name, column in source.columns.items() if name != source.label}
    found: dict[str, Expression] = {}
    for name, feature in product.mrds.over_days.items():
        if feature.where is not None and feature.where not in found:
            place = "mrds.label" if name in product.mrds.ahead else f"mrds.features.{name}"
            try:
                found[feature.where] = parse_condition(feature.where, types)
            except ValueError as error:
                raise ValueError(f"{place}.where: {error}") from error
    return found


class _Columns(Mapping[str, ColumnType]):
    """The types of the columns that an expression may name; of another expression it is found when asked."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.found: dict[str, Expression] = {}
        self._reading: list[str] = []
        mrds = product.mrds
        plain = [*mrds.entity, *mrds.aggregate, *mrds.trailing]
        self._types: dict[str, ColumnType] = {
            name: product.plain_type(name) for name in plain if name != product.label
        }
        self._types[EVENT_DAY] = "date"

    def read(self, name: str) -> Expression:
        """The expression of a feature.

        Raises:
            ValueError: it can't be read, or names itself by way of others.
        """
        if name in self.found:
            return self.found[name]
        place = f"mrds.features.{name}.expression"
        if name in self._reading:
            around = " → ".join([*self._reading[self._reading.index(name) :], name])
            raise _CycleError(f"{place}: it is made of itself: {around}")
        self._reading.append(name)
        try:
            self.found[name] = parse(self._product.mrds.features[name].expression or "", self)
        except _CycleError:
            raise
        except ValueError as error:
            message = str(error)
            # What is wrong with an expression that this one names is said of that one.
            raise ValueError(message if message.startswith("mrds.") else f"{place}: {message}") from error
        finally:
            self._reading.pop()
        return self.found[name]

    def __getitem__(self, name: str) -> ColumnType:
        return self._types[name] if name in self._types else self.read(name).type

    def __contains__(self, name: object) -> bool:
        return name in self._types or name in self._product.mrds.made

    def __iter__(self) -> Iterator[str]:
        yield from self._types
        yield from self._product.mrds.made

    def __len__(self) -> int:
        return len(self._types) + len(self._product.mrds.made)


class _CycleError(ValueError):
    """Expressions that name each other in a circle."""
