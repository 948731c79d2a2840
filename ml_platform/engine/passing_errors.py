"""Which errors may be gone when the same step is done again: of the network, of a store, of a busy service.

Steps are idempotent, so a repetition costs time only. Errors of data, contracts, settings and code come again
and are not among these; when and how often something is repeated is the graph's business.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator

from ml_platform.data_engineering.object_store import StoreAwayError
from ml_platform.engine.step import PermanentError
from ml_platform.storage.conflicts import is_conflict
from ml_platform.storage.locks import LockedError
from ml_platform.storage.tables import OvertakenError

#: What the operating system says of connections, and of files on a network that are away for a while.
_ERRNOS = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
#: Answers of services that are busy or away.
_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Libraries' errors by name, of which importing the classes would cost seconds: of connections that failed,
#: and of commits that another writer was quicker with.
_NAMES = frozenset(
    {
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.RetryError",
        "requests.exceptions.Timeout",
        "urllib3.exceptions.MaxRetryError",
        "urllib3.exceptions.ProtocolError",
        "urllib3.exceptions.TimeoutError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "azure.core.exceptions.IncompleteReadError",
        "databricks.sdk.errors.platform.DeadlineExceeded",
        "databricks.sdk.errors.platform.InternalError",
        "databricks.sdk.errors.platform.ResourceExhausted",
        "databricks.sdk.errors.platform.TemporarilyUnavailable",
        "databricks.sdk.errors.platform.TooManyRequests",
        "_internal.CommitFailedError",
        "deltalake.exceptions.CommitFailedError",
    }
)
#: Errors whose text alone says what was the matter: of Java, of Rust's object store, of MLflow's client.
_TEXT_ONLY = ("py4j.", "pyspark.", "_internal.", "deltalake.", "mlflow.", "sqlalchemy.")
_TEXT = re.compile(
    r"java\.net\.(Connect|SocketTimeout|NoRouteToHost|UnknownHost|Socket)Exception|Connection reset|"
    r"Connection refused|ExecutorLostFailure|FetchFailed|ServerBusy|OperationTimedOut|"
    r"error sending request|operation timed out|error trying to connect|"
    r"(status|error) code:? (429|502|503|504)|Max retries exceeded|"
    r"could not connect to server|server closed the connection|database is locked",
    re.IGNORECASE,
)


def is_passing(error: BaseException) -> bool:
    """Whether an error, or what caused it, may be gone when the same is tried again."""
    # Who raises such an error has imported it. Nobody else needs SQLAlchemy, which most remote steps lack.
    failures = sys.modules.get("ml_platform.online_store.failures")
    for cause in _causes(error):
        if isinstance(cause, PermanentError):
            return False
        if isinstance(cause, StoreAwayError):
            return True
        if failures is not None and isinstance(cause, failures.OnlineStoreError):
            return bool(cause.temporary)
        if _is_passing(cause):
            return True
    return False


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, LockedError | OvertakenError | ConnectionError | TimeoutError) or is_conflict(error):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if not _NAMES.isdisjoint(names):
        return True
    if getattr(error, "status_code", None) in _STATUSES and names[0].startswith(("azure.", "databricks.")):
        return True
    return any(name.startswith(_TEXT_ONLY) for name in names) and _TEXT.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from or during, each once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
