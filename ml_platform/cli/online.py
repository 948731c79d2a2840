"""The commands ``ml-platform online …``: what people do with the online store from a shell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.markup import escape

from ml_platform.cli.console import ProductName, console, fail, product_named
from ml_platform.cli.layout import Row, print_table, say, say_command
from ml_platform.contract.days import counted
from ml_platform.contract.online import has_expired
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.names import VALID_UNTIL
from ml_platform.settings import Settings

if TYPE_CHECKING:
    from ml_platform.online_store.store import OnlineStore

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
def get(
    name: ProductName,
    keys: Keys,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, null for an unknown key.")
    ] = False,
) -> None:
    """Print the newest features of entities.

    Example: `ml-platform online get flights N14228 N24211`
    """
    settings, product = product_named(name)
    with _opened(settings) as store:
        rows = store.get(product, _parsed(product, keys))
    expired = [_has_expired(product, row) for row in rows]
    if as_json:
        for row, is_over in zip(rows, expired, strict=True):
            if row is not None and VALID_UNTIL in row:
                row["expired"] = is_over
            print(json.dumps(row, default=str))
        return
    known = [row for row in rows if row is not None]
    if known:
        lines = [Row(["" if value is None else str(value) for value in row.values()]) for row in known]
        print_table("", list(known[0]), lines)
    if over := [key for key, is_over in zip(keys, expired, strict=True) if is_over]:
        console.print(
            f"[yellow]Not served any more, since newer ones should have come:[/yellow] the features of "
            f"{escape(', '.join(over))}; see {VALID_UNTIL}"
        )
    unknown = [key for key, row in zip(keys, rows, strict=True) if row is None]
    if unknown:
        fail(f"the online store has no features of {', '.join(unknown)}")


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond loopback a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which callers address the service, if it is behind a proxy on this machine."
        ),
    ] = None,
) -> None:
    """Serve the online features over HTTP, read-only, until interrupted.

    The page of the API is at `/docs`. Callers send `ML_PLATFORM_ONLINE_TOKEN`, if set, as a bearer token.

    Example: `ml-platform online serve --port 8000`
    """
    import ipaddress

    import uvicorn

    from ml_platform.contract.loading import load_products
    from ml_platform.online_store.serving import LOOPBACK_NAMES, build_app
    from ml_platform.online_store.serving_limits import BoundedProtocol

    settings = Settings()
    token = settings.online_token.get_secret_value() if settings.online_token else None
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and not token:
        fail(
            f"{host} is not loopback: set ML_PLATFORM_ONLINE_TOKEN, which callers then send as a bearer token"
        )
    products, errors = load_products(settings.product_folders)
    for error in errors.values():
        console.print(f"[yellow]Left out:[/yellow] {escape(str(error))}")
    with _opened(settings) as store:
        # A page in a browser may reach loopback under a name of its own; nobody else can.
        names = {*LOOPBACK_NAMES, host, *(name or ())} if is_local else None
        service = build_app(products, store, token=token, names=names)
    console.print(
        f"The features of {', '.join(products)} are served on http://{host}:{port}, described at /docs there"
    )
    uvicorn.run(service, host=host, port=port, log_level="warning", http=BoundedProtocol)


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
    settings, product = product_named(name)
    entities = _parsed(product, keys)
    with _opened(settings) as store:
        deleted = store.forget(product, entities, reason=reason)
    console.print(f"{counted(len(entities), 'key')} forgotten; {deleted:,} of them had features.")


@app.command()
def unforget(name: ProductName, keys: Keys) -> None:
    """Let forgotten entities come back with the next publication of a day that has them.

    Example: `ml-platform online unforget flights N14228`
    """
    settings, product = product_named(name)
    entities = _parsed(product, keys)
    with _opened(settings) as store:
        known = store.unforget(product, entities)
    say(
        f"{known:,} of {counted(len(entities), 'key')} had been forgotten and may come back, with the next "
        "publication of a day that has them. To publish now:"
    )
    say_command(f"ml-platform backfill {name} --from DAY --to DAY --select online_features --force")


def _has_expired(product: Product, row: Mapping[str, Any] | None) -> bool:
    """Whether features that were found don't hold any more."""
    if row is None or VALID_UNTIL not in row:
        return False
    today = datetime.now(ZoneInfo(product.timezone)).date()
    return has_expired(product, row[EVENT_DAY], row[VALID_UNTIL], today)


@contextmanager
def _opened(settings: Settings) -> Iterator[OnlineStore]:
    """The online store; ends the command where it can't be used, or its secret can't be had."""
    from ml_platform.contract.secrets import SecretError
    from ml_platform.online_store.store import OnlineStore, OnlineStoreError

    try:
        yield OnlineStore(settings.online_url)
    except (OnlineStoreError, SecretError) as error:
        fail(str(error))


def _parsed(product: Product, keys: list[str]) -> list[tuple[Any, ...]]:
    from ml_platform.online_store.keys import KeyFormatError, parse_key

    try:
        return [parse_key(product, key) for key in keys]
    except KeyFormatError as error:
        fail(str(error))
