"""The commands ``ml-platform online …``: what people do with the online store from a shell."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ml_platform.console import ProductName, console, fail, product_named
from ml_platform.product import Product

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="The online store of features.")

Keys = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY...",
        help="Entities. The columns of a key are joined by commas; a value with a comma stands in double "
        "quotes.",
    ),
]


@app.command()
def forget(
    name: ProductName,
    keys: Keys,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the key.")],
) -> None:
    """Delete entities from the online store; no publication brings them back.

    The data sets keep what was delivered. `unforget` lets entities come back.

    Example: `ml-platform online forget flights N14228 N24211 --reason "request 4711"`
    """
    from ml_platform.storage.online import OnlineStore, OnlineStoreError

    settings, product = product_named(name)
    entities = _parsed(product, keys)
    try:
        deleted = OnlineStore(settings.online_url).forget(product, entities, reason=reason)
    except OnlineStoreError as error:
        fail(str(error))
    console.print(f"{len(entities):,} entities are to be forgotten; {deleted:,} of them had features.")


@app.command()
def unforget(name: ProductName, keys: Keys) -> None:
    """Let forgotten entities come back with the next publication of a day that has them.

    Example: `ml-platform online unforget flights N14228`
    """
    from ml_platform.storage.online import OnlineStore, OnlineStoreError

    settings, product = product_named(name)
    entities = _parsed(product, keys)
    try:
        known = OnlineStore(settings.online_url).unforget(product, entities)
    except OnlineStoreError as error:
        fail(str(error))
    console.print(
        f"{known:,} of {len(entities):,} entities were to be forgotten. To bring their features back now, "
        f"materialize days of {name}/online_features again with force."
    )


def _parsed(product: Product, keys: list[str]) -> list[tuple[Any, ...]]:
    from ml_platform.storage.keys import KeyFormatError, parse_key

    try:
        return [parse_key(product, key) for key in keys]
    except KeyFormatError as error:
        fail(str(error))
