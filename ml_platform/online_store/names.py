"""What the tables of the online store are called; importing this costs nothing."""

from __future__ import annotations

from ml_platform.contract.product import Product

#: The table that people read: each entity's newest features.
FEATURES = "features"
#: Its column of the last date on which a row holds, where the contract gives rows one.
VALID_UNTIL = "valid_until"


def table_name(product: Product, table: str) -> str:
    """The name of one of a product's tables in the database."""
    return f"{product.name}_{table}"
