"""What can go wrong with the online store's database, worded for the person who must act.

Every error of a driver becomes an :class:`OnlineStoreError` that says whether trying again can help, and
that shows neither credentials nor the values of a statement. When to try again is the caller's business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote, quote_plus

import sqlalchemy as sa

from ml_platform.contract.faults import EndsTheRunError

Kind = Literal["away", "credentials", "file", "busy", "locked", "full", "cut", "missing", "other"]

_ADVICE: dict[Kind, str] = {
    "away": "the store can't be reached; see that it runs and that the address is right",
    "credentials": "the store refuses these credentials; correct them in ML_PLATFORM_ONLINE_STORE_URL",
    "file": "the file can't be used; see its path, its permissions, and whether it is a SQLite database",
    "busy": "all connections are in use",
    "locked": "another session holds the table; end it, or publish again when it is done",
    "full": "the store has no room left; make room, then publish again",
    "cut": "the connection broke; nothing of the publication is visible, publish again",
    "missing": "the table or a column of it is not there; publish the product first",
    "other": "the database refuses the statement",
}
_NO_VALUE = "a value is not of its column's type, or beyond it"
_TEMPORARY: frozenset[Kind] = frozenset({"away", "busy", "locked", "cut"})
_SECRET_PARAMETERS = ("password", "passwd", "pwd", "secret", "token", "key")


class OnlineStoreError(EndsTheRunError):
    """The store can't take or give the features; the message says what to do.

    ``temporary`` errors may be gone when the same thing is tried again; the others stay until somebody acts.
    ``of_rows`` says that the database is well and refuses what it was given.
    """

    def __init__(self, message: str, *, temporary: bool = False, of_rows: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary
        self.of_rows = of_rows


class PublicationOvertakenError(OnlineStoreError):
    """A newer publication of the same days came first; publishing again from the newest MRDS resolves it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, temporary=True)


class Address:
    """A store's URL, and what of it may be shown."""

    def __init__(self, url: str) -> None:
        try:
            self.url = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError):
            # The parser's own message can quote a part of the password.
            raise OnlineStoreError(
                "ML_PLATFORM_ONLINE_STORE_URL is not an address of a database; accepted are "
                "sqlite:///<file>, postgresql+psycopg://<user>:<password>@<host>/<database> and "
                "mssql+mssqlpython://<user>:<password>@<host>/<database>, with special characters "
                "of the password percent-encoded"
            ) from None

    def __str__(self) -> str:
        url = self.url
        return sa.URL.create(
            url.drivername, host=url.host, port=url.port, database=url.database
        ).render_as_string()

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def scrub(self, text: str) -> str:
        """``text`` without the address's secrets, in whatever way they are written."""
        for secret in self._secrets():
            forms = {quote(secret, safe=""), quote(secret), quote(secret, safe=" +"), quote_plus(secret)}
            for written in {secret} | forms:
                text = text.replace(written, "***")
        return text

    def _secrets(self) -> list[str]:
        found = [str(self.url.password or "")]
        for name, value in self.url.query.items():
            if any(part in name.lower() for part in _SECRET_PARAMETERS):
                found += [value] if isinstance(value, str) else list(value)
        return sorted(filter(None, found), key=len, reverse=True)


@contextlib.contextmanager
def translated(engine: sa.Engine, address: Address) -> Iterator[None]:
    """Raise what the database's driver raises as :class:`OnlineStoreError`."""
    try:
        yield
    except (OverflowError, UnicodeError):
        raise OnlineStoreError(f"the online store {address}: {_NO_VALUE}", of_rows=True) from None
    except (sa.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        # Without its cause: a driver's error may quote the address and the statement's values.
        raise online_store_error(error, engine.dialect.name, address) from None


def online_store_error(error: Exception, dialect: str, address: Address) -> OnlineStoreError:
    """What ``error`` of a driver means for people."""
    cause = getattr(error, "orig", None) or error
    kind = "busy" if isinstance(error, sa.exc.TimeoutError) else _KINDS[dialect](cause)
    if kind == "other" and getattr(error, "connection_invalidated", False):
        kind = "cut"
    if isinstance(cause, (TypeError, ValueError)) or str(getattr(cause, "sqlstate", "")).startswith("22"):
        said = _NO_VALUE  # SQLAlchemy and PostgreSQL quote it
    else:
        # PostgreSQL's further lines quote the values of rows.
        said = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    message = address.scrub(" ".join(said.split()))
    return OnlineStoreError(
        f"the online store {address}: {_ADVICE[kind]} ({type(cause).__name__}: {message})",
        temporary=kind in _TEMPORARY,
        of_rows=kind == "other",
    )


def is_missing(error: Exception, dialect: str) -> bool:
    """Whether a statement failed because its table, or a column of it, isn't there (yet)."""
    return _KINDS[dialect](getattr(error, "orig", None) or error) == "missing"


def _of_sqlite(error: BaseException) -> Kind:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "locked"
    if code == "SQLITE_FULL":
        return "full"
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "file"
    if code == "SQLITE_ERROR" and str(error).startswith(("no such table", "no such column")):
        return "missing"
    return "other"


#: PostgreSQL's messages for a refused connection; libpq gives no SQLSTATE for them.
_REFUSED = ("authentication failed", "no password supplied", "pg_hba.conf", "does not exist", "not permitted")


def _of_postgresql(error: BaseException) -> Kind:
    state = getattr(error, "sqlstate", None)
    if state is None:
        if type(error).__name__ not in ("OperationalError", "ConnectionTimeout"):
            return "other"
        if any(sign in str(error) for sign in _REFUSED):
            return "credentials"
        return "away" if "connection failed" in str(error) or "resolve" in str(error) else "cut"
    if state in ("42P01", "42703"):
        return "missing"
    if state in ("53100", "53200"):
        return "full"
    if state in ("55P03", "40001", "40P01"):
        return "locked"
    if state in ("57P03", "53300"):
        return "away"
    if state[:2] == "28" or state == "3D000":
        return "credentials"
    return "cut" if state[:2] in ("08", "57") else "other"


#: SQL Server's error numbers and SQLSTATEs, as the driver's messages carry them.
_SQL_SERVER: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("credentials", ("Login failed", "Cannot open database")),
    ("missing", ("Invalid object name", "Invalid column name", "Base table or view not found")),
    ("locked", ("Lock request time out", "deadlock")),
    ("full", ("could not allocate", "transaction log for database", "reached its size quota")),
    ("cut", ("Communication link failure", "connection was forcibly closed", "Connection not open")),
    (
        "away",
        (
            "unable to establish connection",
            "is not currently available",
            "Login timeout",
            "Connection timeout",
            "service is currently busy",
            "not enough resources",
            "error processing your request",
        ),
    ),
)


def _of_sql_server(error: BaseException) -> Kind:
    message = str(error).lower()
    for kind, signs in _SQL_SERVER:
        if any(sign.lower() in message for sign in signs):
            return kind
    return "other"


_KINDS = {"sqlite": _of_sqlite, "postgresql": _of_postgresql, "mssql": _of_sql_server}
