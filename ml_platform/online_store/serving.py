"""The online features over HTTP, read-only: what an application calls.

Each product has typed look-ups, made from its contract; the OpenAPI page needs no other host. Errors say
what the caller can do, and nothing of the store: its address stays in the log, without credentials.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from datetime import date, datetime
from typing import Annotated, Any, Protocol
from zoneinfo import ZoneInfo

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, create_model

from ml_platform.contract import online
from ml_platform.contract.column_types import COLUMN_TYPES, INTEGER_BOUNDS, ColumnType
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.failures import OnlineStoreError
from ml_platform.online_store.names import VALID_UNTIL

#: Keys of one request, and bytes of its body.
MAXIMUM_KEYS = 1_000
MAXIMUM_BYTES = 1_000_000
#: Seconds for a request's body; a megabyte comes in far less over any network that look-ups are worth.
BODY_SECONDS = 10.0
#: What a service on loopback may be called.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_OTHER_NAME = "this service answers on loopback only; start it with --name for another name"

#: What a value of a type must be besides of its class.
_BOUNDS: dict[ColumnType, Any] = {
    "integer": Field(ge=INTEGER_BOUNDS["integer"][0], le=INTEGER_BOUNDS["integer"][1]),
    "long": Field(ge=INTEGER_BOUNDS["long"][0], le=INTEGER_BOUNDS["long"][1]),
    "double": Field(allow_inf_nan=False),
}
_log = logging.getLogger(__name__)


class Store(Protocol):
    """What is read."""

    def get(self, product: Product, keys: Any) -> list[dict[str, Any] | None]: ...


def today_of(product: Product) -> date:
    """The date where a product is."""
    return datetime.now(ZoneInfo(product.timezone)).date()


class _Model(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")


def build_app(
    products: Mapping[str, Product],
    store: Store,
    *,
    token: str | None = None,
    names: Collection[str] | None = None,
    today: Callable[[Product], date] = today_of,
) -> Any:
    """The application.

    Args:
        today: gives the date where a product is, by which its features expire.
        names: of the host, by which callers may address the service; any without them.
        token: what callers must send as a bearer token; without one, anybody who reaches it may read.
    """
    app: FastAPI = FastAPIOffline(
        title="Online features",
        description="The newest features of each entity, for look-ups.",
        # The guard stands before everything; this tells the page of the API what callers send.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if token else [],
    )
    app.add_middleware(_BoundedBody)
    if token:
        app.add_middleware(_Guard, token=token)
    if names is not None:
        app.add_middleware(KnownHost, names=names)
    app.add_exception_handler(OnlineStoreError, _unavailable)
    app.add_exception_handler(RequestValidationError, _unprocessable)

    @app.get("/healthz", tags=["service"], summary="Whether the store answers")
    def health() -> dict[str, str]:
        for product in products.values():
            store.get(product, [_probe(product)])
        return {"status": "ok"}

    for product in products.values():
        _add_product(app, product, store, today)
    return app


def _probe(product: Product) -> tuple[Any, ...]:
    """A key that needs not exist; looking it up shows that the store answers."""
    return tuple(COLUMN_TYPES[product.mrds_type(name)].example for name in product.entity)


def _add_product(app: FastAPI, product: Product, store: Store, today: Callable[[Product], date]) -> None:
    expires = online.rule(product) is not None
    key_model = _model(product, "Key", {name: (product.mrds_type(name), True) for name in product.entity})
    columns: dict[str, tuple[ColumnType, bool]] = {
        **{name: (product.mrds_type(name), True) for name in product.entity},
        EVENT_DAY: ("date", True),
        **{name: (product.mrds_type(name), False) for name in product.features},
        **({VALID_UNTIL: ("date", False)} if expires else {}),
        "mrds_version": ("long", True),
        "published_at": ("timestamp", True),
    }
    row_model = _model(product, "Features", columns)
    found: dict[str, Any] = {"rows": (list[row_model | None], ...)}  # type: ignore[valid-type]
    if expires:
        described = "which of the keys, counted from 0, have features that don't hold any more; null in rows"
        found["expired"] = (list[int], Field(description=described))
    found_model = create_model(f"{product.name.title()}Found", **found)
    asked_model = create_model(
        f"{product.name.title()}Keys",
        __base__=_Model,
        keys=(Annotated[list[key_model], Field(min_length=1, max_length=MAXIMUM_KEYS)], ...),  # type: ignore[valid-type]
    )

    def has_expired(row: Mapping[str, Any] | None) -> bool:
        return (
            expires
            and row is not None
            and online.has_expired(product, row[EVENT_DAY], row[VALID_UNTIL], today(product))
        )

    def look_up(key: Any) -> Any:
        (row,) = store.get(product, [_values(key)])
        if row is None:
            raise HTTPException(404, f"{product.name} has no features of this key")
        if has_expired(row):
            until = row[VALID_UNTIL] or online.valid_until(product, row[EVENT_DAY])
            raise HTTPException(
                410,
                f"{product.name} has no features of this key that hold today: the newest are of "
                f"{row[EVENT_DAY]}, and held until {until}",
            )
        return row_model(**row)

    look_up.__annotations__["key"] = Annotated[key_model, Query()]
    app.get(
        f"/{product.name}/features",
        response_model=row_model,
        tags=[product.name],
        summary=f"One {', '.join(product.entity)}",
        responses={
            404: {"description": "no features of this key"},
            **({410: {"description": "the features of this key don't hold any more"}} if expires else {}),
            503: {"description": "the store is away"},
        },
    )(look_up)

    def look_up_many(asked: Any) -> Any:
        rows = store.get(product, [_values(key) for key in asked.keys])
        expired = [place for place, row in enumerate(rows) if has_expired(row)]
        for place in expired:
            rows[place] = None
        answer = [None if row is None else row_model(**row) for row in rows]
        return found_model(rows=answer, expired=expired) if expires else found_model(rows=answer)

    look_up_many.__annotations__["asked"] = asked_model
    app.post(
        f"/{product.name}/features",
        response_model=found_model,
        tags=[product.name],
        summary=f"Up to {MAXIMUM_KEYS:,} keys at once; null where a key has no features",
        responses={
            413: {"description": "the request is too large"},
            503: {"description": "the store is away"},
        },
    )(look_up_many)


def _model(product: Product, kind: str, columns: Mapping[str, tuple[ColumnType, bool]]) -> Any:
    """A model with the contract's names, whatever characters they have; not required may be null."""
    fields: dict[str, Any] = {}
    for position, (name, (type_, required)) in enumerate(columns.items()):
        value = _value_of(type_)
        annotation = value if required else (value | None)
        declared = product.columns.get(name)
        described = declared.description if declared and declared.description else None
        fields[f"column_{position}"] = (annotation, Field(alias=name, description=described))
    return create_model(f"{product.name.title()}{kind}", __base__=_Model, **fields)


def _value_of(type_: ColumnType) -> Any:
    """What a value of a type is annotated with."""
    python = COLUMN_TYPES[type_].python
    return Annotated[python, _BOUNDS[type_]] if type_ in _BOUNDS else python


def _values(key: BaseModel) -> tuple[Any, ...]:
    return tuple(getattr(key, name) for name in type(key).model_fields)


# -- who may ask, how much, and what if the store is away --------------------------------------------


class KnownHost:
    """Answers only who addresses the service by one of its names.

    Otherwise a page of any site, whose name is made to lead to this machine, could read from a browser here.
    """

    def __init__(self, app: Any, names: Collection[str], detail: str = _OTHER_NAME) -> None:
        self.app = app
        self.names = {name.casefold() for name in names}
        self.detail = detail

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            sent = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = sent[1:].partition("]")[0] if sent.startswith("[") else sent.partition(":")[0]
            if name.casefold() not in self.names:
                await JSONResponse({"detail": self.detail}, 421)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _Guard:
    """Answers nobody without the token: no look-up, no page, and not what the service's products are.

    A browser can't send a bearer token with the address of a page, but asks for a password where Basic is
    offered; the token is one, with any name.
    """

    def __init__(self, app: Any, token: str) -> None:
        self.app = app
        self.token = token.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or self._is_known(dict(scope["headers"]).get(b"authorization", b"")):
            await self.app(scope, receive, send)
            return
        asks = {"WWW-Authenticate": 'Bearer, Basic realm="the token as the password"'}
        answer = JSONResponse({"detail": "a valid bearer token is needed"}, 401, asks)
        await answer(scope, receive, send)

    def _is_known(self, header: bytes) -> bool:
        kind, _, sent = header.partition(b" ")
        given = sent.strip()
        if kind.lower() == b"basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif kind.lower() != b"bearer":
            return False
        return hmac.compare_digest(given, self.token)


async def _unavailable(_: Request, error: Exception) -> JSONResponse:
    _log.error("the online store failed: %s", error)  # the store's errors hold no credentials
    return JSONResponse({"detail": "the online store does not answer; try again later"}, 503)


async def _unprocessable(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without the values sent: JSON has no NaN that could be sent back."""
    assert isinstance(error, RequestValidationError)
    problems = [{name: problem[name] for name in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": problems}, 422)


class _BoundedBody:
    """Refuses a body above the bound before it is read to its end, and one that comes too slowly."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAXIMUM_BYTES:
            await _too_large(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            await _refused(408, "the request's body came too slowly")(scope, receive, send)
            return
        if body is None:
            await _too_large(scope, receive, send)
            return
        await self.app(scope, _replayed(body, receive), send)


async def _body(receive: Any) -> bytes | None:
    """The whole body; None above the bound."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAXIMUM_BYTES:
            return None
    return body


def _refused(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"Connection": "close"})


def _replayed(body: bytes, receive: Any) -> Callable[[], Awaitable[Any]]:
    """A body that was read already, then whatever else comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return messages.pop() if messages else await receive()

    return replay


async def _too_large(scope: Any, receive: Any, send: Any) -> None:
    detail = f"the request is larger than {MAXIMUM_BYTES:,} bytes; send fewer keys"
    await _refused(413, detail)(scope, receive, send)
