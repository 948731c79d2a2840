"""Columns of the MRDS that are made of others: the expressions of a contract's features, a value a row."""

from __future__ import annotations

import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.data_engineering.expression_values import evaluate


def with_made_columns(product: Product, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of the MRDS with the columns that are made of others, in a schema.

    Args:
        rows: with all columns but these, and of an expression those that it names.
    """
    for name, expression in product.expressions.items():
        rows = rows.append_column(name, evaluate(expression, rows))
    return rows.select(schema.names).cast(schema)
