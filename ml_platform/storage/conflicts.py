"""Commits that another writer's commit has forestalled: told from all other errors, and tried again.

The same conflict has other classes on an embedded session, over Spark Connect (where it is an unknown error
whose text names it, unless ``delta.connect`` has been imported) and on Databricks, whose runtime has a Delta
of its own. So it is known by its name and its error condition, and nothing of Delta is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: How often a commit is tried, of which each must lose against another writer.
ATTEMPTS = 10

_CLASSES = (
    "ConcurrentAppendException",
    "ConcurrentDeleteDeleteException",
    "ConcurrentDeleteReadException",
    "ConcurrentTransactionException",
    "ConcurrentWriteException",
    "DeltaConcurrentModificationException",
    "MetadataChangedException",
    "ProtocolChangedException",
)
#: The class with its package, or the condition in brackets: words of a message's own text are neither.
_TEXT = re.compile(
    rf"\b(io\.delta\.exceptions|com\.databricks\.sql\.transaction\.tahoe)\.({'|'.join(_CLASSES)})\b"
    r"|\[DELTA_(CONCURRENT_(APPEND|DELETE_DELETE|DELETE_READ|TRANSACTION|WRITE)|METADATA_CHANGED|PROTOCOL_CHANGED)\b"
)


def is_conflict(error: BaseException) -> bool:
    """Whether Spark could not commit since another commit to the table came first; it may be tried again."""
    kinds = type(error).__mro__
    if any(kind.__name__ in _CLASSES and kind.__module__.startswith("delta.") for kind in kinds):
        return True
    is_sparks = any(kind.__module__.startswith(("pyspark.", "py4j.")) for kind in kinds)
    return is_sparks and _TEXT.search(str(error)) is not None


def committed(save: Callable[[], None]) -> None:
    """Save, again if another writer's commit came first and touched the same days."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    attempts = Retrying(
        retry=retry_if_exception(is_conflict),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        reraise=True,
    )
    attempts(save)
