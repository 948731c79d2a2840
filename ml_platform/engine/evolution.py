"""A changed contract meets tables of an earlier one: before a step works, they get its columns and types.

Which days still count after a change is said here as well, for all steps. What a contract is, and how a table
is changed, is not.
"""

from __future__ import annotations

from ml_platform.contract.assets import CATALOGUE
from ml_platform.engine.context import StepContext
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import DayRecord


def remember(context: StepContext) -> None:
    """Keep what the present version of the contract says, so that a later one can be compared with it."""
    ContractVersions(context.tables, context.product).remember()


def align(context: StepContext) -> None:
    """Give the product's tables the columns and types of its contract, and remember the contract.

    To be called before a step reads or writes rows; cheap when nothing has changed.
    """
    product, tables = context.product, context.tables
    remember(context)
    for table in (table for asset in CATALOGUE.values() for table in asset.tables):
        schema = table.schema_of(product)
        if schema is None:
            continue
        aligned = tables.align(context.open_spark, product.name, table.name, schema, keys=table.key(product))
        if str(aligned):
            context.log(f"{product.name}/{table.name} follows the contract: {aligned}")


def of_another_contract(context: StepContext, record: DayRecord) -> str:
    """What to say of a day that an earlier contract made otherwise than today's would."""
    name, day = context.product.name, record.day
    return (
        f"{record.asset} of this day was made under an earlier version of the contract, which defined its "
        f"columns otherwise; first: ml-platform backfill {name} --from {day} --to {day} --select ards,mrds"
    )
