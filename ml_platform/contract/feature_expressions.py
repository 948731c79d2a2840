"""The expressions of a contract, read: the columns they name, their types, and in what order.

The language is that of :mod:`.scalar_sql`. An expression of a feature may name the columns of the MRDS that
are known when the day is scored, other expressions among them; one that derives a column of the ARDS, and a
condition, the columns of its row but the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.scalar_sql import Expression, parse, parse_condition
from ml_platform.contract.source import EVENT_DAY, Source

if TYPE_CHECKING:
    from ml_platform.contract.product import Product


def expressions(product: Product) -> dict[str, Expression]:
    """The expressions by the names of their features, each after those that it names.

    Raises:
        ValueError: one can't be read, or names itself by way of others.
    """
    mrds = product.mrds
    plain = [*mrds.entity, *mrds.aggregate, *mrds.trailing]
    types: dict[str, ColumnType] = {name: product.plain_type(name) for name in plain if name != product.label}
    texts = {name: mrds.features[name].expression or "" for name in mrds.made}
    return _Columns(types | {EVENT_DAY: "date"}, texts, "mrds.features.{}.expression").read_all()


def derived(source: Source) -> dict[str, Expression]:
    """The columns that are made of the others of a row, each after those that it names.

    Raises:
        ValueError: an expression can't be read, or names itself by way of others.
    """
    types: dict[str, ColumnType] = {
        name: column.type for name, column in source.columns.items() if name != source.label
    }
    texts = {name: column.expression for name, column in source.derive.items()}
    return _Columns(types, texts, "source.derive.{}").read_all()


def conditions(product: Product) -> dict[str, Expression]:
    """The conditions by their text.

    Raises:
        ValueError: one can't be read.
    """
    types = {name: column.type for name, column in product.columns.items() if name != product.source.label}
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

    def __init__(self, types: Mapping[str, ColumnType], texts: Mapping[str, str], place: str) -> None:
        """Take the columns that are there, and the expressions with their names.

        Args:
            place: where an expression stands in the contract, with {} for its name.
        """
        self._types, self._texts, self._place = types, texts, place
        self.found: dict[str, Expression] = {}
        self._reading: list[str] = []

    def read(self, name: str) -> Expression:
        """One of the expressions.

        Raises:
            ValueError: it can't be read, or names itself by way of others.
        """
        if name in self.found:
            return self.found[name]
        place = self._place.format(name)
        if name in self._reading:
            around = " → ".join([*self._reading[self._reading.index(name) :], name])
            raise _ReadError(f"{place}: it is made of itself: {around}")
        self._reading.append(name)
        try:
            self.found[name] = parse(self._texts[name], self)
        except _ReadError:
            raise  # what is wrong with an expression that this one names is said of that one
        except ValueError as error:
            raise _ReadError(f"{place}: {error}") from error
        finally:
            self._reading.pop()
        return self.found[name]

    def read_all(self) -> dict[str, Expression]:
        """All expressions, each after those that it names."""
        for name in self._texts:
            self.read(name)
        return self.found

    def __getitem__(self, name: str) -> ColumnType:
        return self._types[name] if name in self._types else self.read(name).type

    def __contains__(self, name: object) -> bool:
        return name in self._types or name in self._texts

    def __iter__(self) -> Iterator[str]:
        yield from self._types
        yield from self._texts

    def __len__(self) -> int:
        return len(self._types) + len(self._texts)


class _ReadError(ValueError):
    """An expression that can't be read, with its place in the contract."""
