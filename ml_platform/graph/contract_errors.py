"""The code location that shows the errors of contracts, so that they take no product down with them.

It is empty while every contract is valid, and fails to load, with all the errors, while one is not.
"""

import dagster as dg

from ml_platform.contract.loading import ContractError, load_products
from ml_platform.settings import Settings


def check_contracts(settings: Settings) -> dg.Definitions:
    """No definitions, if every contract is valid.

    Raises:
        ContractError: all that is wrong with any contract.
    """
    _, errors = load_products(settings.product_folders)
    if errors:
        raise ContractError("\n".join(str(error) for error in errors.values()))
    return dg.Definitions()


defs = check_contracts(Settings())
