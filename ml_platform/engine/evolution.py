"""A changed contract meets tables of an earlier one: before a step works, they get its columns and types.

Which days still count after a change is said here as well, for all steps. What a contract is, and how a table
is changed, is not.
"""

from __future__ import annotations

from ml_platform.contract.assets import ARDS, CATALOGUE, KEPT_FOR_WINDOWS
from ml_platform.contract.product import Product
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import PermanentError
from ml_platform.storage import column_changes
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables


def remember(context: StepContext) -> None:
    """Keep what the present version of the contract says, so that a later one can be compared with it.

    Raises:
        PermanentError: the product has a history with labels of another kind; nothing is written.
    """
    change = change_of_label(context.tables, context.product)
    if change is not None:
        raise PermanentError(change)
    ContractVersions(context.tables, context.product).remember()


def change_of_label(tables: Tables, product: Product) -> str | None:
    """Why a contract can't go on with its product's history, and what to do; None if it can.

    Models, predictions and evaluations of one kind of label mean nothing of another, and stand in the same
    tables.
    """
    change = ContractVersions(tables, product).change_of_label()
    if change is None or not any(
        record.outcome == "written"
        for record in Ledger(tables, product.name).latest(ARDS, details=False).values()
    ):
        return None
    return (
        f"{change}: the history of {product.name} is one of other labels. Give the product another name, "
        "which starts a history of its own, or go back to what it was. To start this one afresh, stop its "
        f"jobs and delete its tables and its registered model ({product.name}) first"
    )


def align(context: StepContext) -> None:
    """Give the product's tables the columns and types of its contract, and remember the contract.

    To be called before a step reads or writes rows; cheap when nothing has changed.

    Raises:
        PermanentError: as for :func:`remember`.
    """
    product, tables = context.product, context.tables
    remember(context)
    for table in (table for asset in (*CATALOGUE.values(), KEPT_FOR_WINDOWS) for table in asset.tables):
        schema = table.schema_of(product)
        if schema is None:
            continue
        aligned = column_changes.align(
            tables, context.open_spark, product.name, table.name, schema, keys=table.key(product)
        )
        if str(aligned):
            context.log(f"{product.name}/{table.name} follows the contract: {aligned}")


def of_another_contract(context: StepContext, record: DayRecord) -> str:
    """What to say of a day that an earlier contract made otherwise than today's would."""
    name, day = context.product.name, record.day
    return (
        f"{record.asset} of this day was made under an earlier version of the contract, which defined its "
        f"columns otherwise; first: ml-platform backfill {name} --from {day} --to {day} --select ards,mrds"
    )
