"""An entity's key as people write it: its columns in the contract's order, joined by commas.

One key is one line of CSV, so that a value with a comma stands in double quotes. Values become the
contract's types here; whether an entity exists is the store's business.
"""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime
from typing import Any

from ml_platform.contract.column_types import COLUMN_TYPES, INTEGER_BOUNDS, ColumnType
from ml_platform.contract.product import Product


class KeyFormatError(ValueError):
    """A key isn't one of the product's; the message says what is accepted."""


def parse_key(product: Product, text: str) -> tuple[Any, ...]:
    """The values of one key, for instance ``N14228`` or ``"Miller, Ann",7``.

    Raises:
        KeyFormatError: another number of values than the entity has columns, or a value that isn't of
            its column's type.
    """
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        parts = []
    if len(parts) != len(product.entity):
        raise KeyFormatError(
            f"{text!r} is no key of {product.name}: accepted is {','.join(product.entity)}, "
            "joined by commas, a value with a comma in double quotes"
        )
    return tuple(_value(product, name, part) for name, part in zip(product.entity, parts, strict=True))


def _value(product: Product, name: str, text: str) -> Any:
    type_ = product.mrds_type(name)
    try:
        return _parse(type_, text)
    except ValueError:
        raise KeyFormatError(f"{name}: {text!r} is not {COLUMN_TYPES[type_].form}") from None


def _parse(type_: ColumnType, text: str) -> Any:
    match type_:
        case "string":
            return text
        case "integer" | "long":
            value = int(text)
            least, greatest = INTEGER_BOUNDS[type_]
            if not least <= value <= greatest:
                raise ValueError
            return value
        case "double":
            return float(text)
        case "boolean":
            return ("false", "true").index(text.lower()) == 1
        case "date":
            return date.fromisoformat(text)
        case "timestamp":
            when = datetime.fromisoformat(text)
            return when if when.tzinfo is None else when.astimezone(UTC).replace(tzinfo=None)
