"""What a model needs of the MRDS: its columns, their kinds, and how the contract of its day defined them.

A model outlives the contract it was trained under. Whether it can still score, or be compared with another
model, is decided here from what was recorded with it, without loading it. The pipeline itself is the business
of :mod:`.training`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from ml_platform.contract.column_types import NUMERIC_TYPES, ColumnType
from ml_platform.contract.learning import Features
from ml_platform.contract.product import Product

Kind = Literal["numeric", "categorical"]

#: How a column of the entity is "aggregated": it is kept as it is.
ENTITY_COLUMN = "entity"


@dataclass(frozen=True)
class Feature:
    """A column that a model sees: its kind there, its type, and by what rule the MRDS has it."""

    name: str
    kind: Kind
    type: ColumnType
    aggregation: str

    def mismatch(self, product: Product) -> str | None:
        """Why the MRDS of a contract does not have this column, or not with this meaning; None if it does."""
        if self.name not in (*product.mrds.entity, *product.mrds.columns):
            return f"{self.name}, which the MRDS no longer has"
        aggregation = product.definition_of(self.name) or ENTITY_COLUMN
        if aggregation != self.aggregation:
            return f"{self.name} aggregated by {self.aggregation}, and the contract says {aggregation}"
        type_ = product.mrds_type(self.name)
        if _is_alike(self.kind, self.type, type_):
            return None
        return f"{self.name} as {self.type}, and the contract says {type_}"


@dataclass(frozen=True)
class ModelColumns:
    """All that a model needs of the MRDS. Plain data, kept with the model's record."""

    entity: tuple[str, ...]
    label: str
    features: tuple[Feature, ...]

    @classmethod
    def of(cls, product: Product) -> ModelColumns:
        """What a model needs that is trained under this contract."""
        return cls.named(product, product.model.features)

    @classmethod
    def named(cls, product: Product, features: Features) -> ModelColumns:
        """What a model needs of which only the names are known, as far as a contract has them."""
        known = (*product.mrds.entity, *product.mrds.columns)
        return cls(
            entity=product.entity,
            label=product.label,
            features=tuple(
                Feature(
                    name,
                    kind,
                    product.mrds_type(name) if name in known else "string",
                    product.definition_of(name) or ENTITY_COLUMN,
                )
                for kind, names in _kinds(features)
                for name in names
            ),
        )

    @classmethod
    def read(cls, text: str) -> ModelColumns:
        """What :attr:`plain` has written."""
        return _PLAIN.validate_json(text)

    @property
    def plain(self) -> str:
        return _PLAIN.dump_json(self).decode()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def mismatch(self, product: Product) -> str | None:
        """Why a model with these columns can't score under a contract; None if it can.

        Of another entity its rows would be other things; of another label its probabilities.
        """
        if set(self.entity) != set(product.entity):
            return (
                f"it scores each {', '.join(self.entity)}, and the contract's entity is "
                f"{', '.join(product.entity)}"
            )
        if self.label != product.label:
            return f"it predicts {self.label}, and the contract's label is {product.label}"
        problems = [problem for feature in self.features if (problem := feature.mismatch(product))]
        return f"it needs {'; '.join(problems)}" if problems else None


_PLAIN = TypeAdapter(ModelColumns)


def _kinds(features: Features) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
    return ("numeric", features.numeric), ("categorical", features.categorical)


def _is_alike(kind: Kind, before: ColumnType, now: ColumnType) -> bool:
    """Whether a pipeline sees the same values: all numbers are doubles to it, all categories texts."""
    if kind == "numeric":
        return now in NUMERIC_TYPES
    whole: frozenset[ColumnType] = frozenset({"integer", "long"})
    return before == now or {before, now} <= whole
