"""Whether an exception concerns the days that were worked on, or everything around them, and what it says.

A day's own fault is isolated and recorded as that day's outcome. A full disk, a lost database or a dead JVM
would fail every other day as well, so the run ends with it and a later one continues.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from ml_platform.contract.days import counted, in_a_sentence, named

#: When so many days have failed one by one, and none has succeeded, the days are not to blame.
FAILING_DAYS = 20

#: Characters of a message that a reason quotes.
_QUOTED = 300

_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)
_NUMBERS = "|".join(str(number) for number in sorted(_ERRNOS))

#: What is around the days, by the class that is raised or one of its bases. By name, as most of these come
#: from libraries that a process may never import.
_AROUND = frozenset(
    {
        # this machine and its connections
        "builtins.ConnectionError",
        "builtins.TimeoutError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "urllib3.exceptions.MaxRetryError",
        "urllib3.exceptions.NewConnectionError",
        "azure.core.exceptions.AzureError",
        "grpc.RpcError",
        # the JVM
        "py4j.protocol.Py4JNetworkError",
        # databases: of MLflow, of Dagster
        "sqlalchemy.exc.OperationalError",
        "sqlalchemy.exc.InterfaceError",
        "sqlalchemy.exc.TimeoutError",
        "sqlite3.OperationalError",
        "psycopg.OperationalError",
        # a table's log: damaged, gone, or changed by others again and again
        "deltalake.exceptions.DeltaError",
        "_internal.DeltaError",  # the same, as it names itself
        "delta.exceptions.base.DeltaConcurrentModificationException",
        "pyspark.errors.exceptions.base.AnalysisException",
    }
)

#: The same where it only shows in a message that another process or language has written.
_AROUND_IN_TEXT = re.compile(
    rf"""^\s*(?:
        (?:Caused\ by:\ )?[\w.$]*(?:Error|Exception):\ \[Errno\ (?:{_NUMBERS})\]
      | [^\n]*\(os\ error\ (?:{_NUMBERS})\)\s*$
      | .*(?:Caused\ by:\ |:\ |^)java\.(?:io|nio)\.[\w.$]*Exception:[^\n]*
            (?:No\ space\ left\ on\ device|Disk\ quota\ exceeded|Read-only\ file\ system|Input/output\ error)
      | [^\n]*(?:java\.lang\.OutOfMemoryError | SparkContext\ was\ (?:shut\ down|stopped)
            | stopped\ SparkContext | SparkContext\ has\ been\ shutdown)
    )""",
    re.MULTILINE | re.VERBOSE,
)

#: The last line of a traceback that a worker of Spark has sent.
_FROM_WORKER = re.compile(
    r"^(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit)): ?(?P<message>.*)$"
)


class EndsTheRunError(Exception):
    """The base of this package's errors that no day is to blame for."""


class FailingDaysError(EndsTheRunError):
    """One day after the other has failed, and none was done."""


def ends_the_run(error: BaseException) -> bool:
    """Whether an exception concerns more than the days that were worked on."""
    return any(_is_around(cause) for cause in _chain(error))


def in_words(error: BaseException, *, quoting: bool = True) -> str:
    """The type and the first line of what an exception says; of Spark's wrappers, what a worker raised.

    Args:
        quoting: whether the message may be shown, which can quote values of rows.
    """
    kind, message = _cause(error)
    kind = kind.rpartition(".")[2]
    if not quoting:
        return f"{kind} (its message, which may quote sensitive values, is in the log of the run)"
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    if len(line) > _QUOTED:
        line = line[: _QUOTED - 1] + "…"
    return f"{kind}: {line}" if line else kind


@dataclass
class Isolation:
    """Works on days together, and where that fails in halves, until each day that fails is found.

    Args:
        blame: is called with each day that fails alone.
        log: says that days failed together.
        ends: whether no day is to blame for an exception.
        period: what the days are called: a month is given by its first day.
    """

    blame: Callable[[date, Exception], None]
    log: Callable[[str], None] = lambda _: None
    ends: Callable[[BaseException], bool] = ends_the_run
    period: str = "day"
    _failed: int = 0
    _succeeded: bool = False

    def work(self, days: Sequence[date], do: Callable[[Sequence[date]], None]) -> None:
        """Have all ``days`` done, but for those that are blamed.

        Args:
            do: does some days together; what it has done before it failed may be done again.

        Raises:
            FailingDaysError: so many days have failed that they can't be to blame.
            Exception: what no day is to blame for.
        """
        if not days:
            return
        try:
            do(days)
        except Exception as error:
            if self.ends(error):
                raise
            if len(days) > 1:
                self.log(
                    f"{in_a_sentence(self.period, days)} have failed together "
                    f"({type(error).__name__}); they are done in halves"
                )
                half = len(days) // 2
                self.work(days[:half], do)
                self.work(days[half:], do)
                return
            self.blame(days[0], error)
            self._failed += 1
            if self._failed >= FAILING_DAYS and not self._succeeded:
                raise FailingDaysError(
                    f"{counted(self._failed, self.period)} have failed one by one, up to "
                    f"{named(self.period, days[0])}, and none was done, so the {self.period}s are not to "
                    f"blame: {type(error).__name__}"
                ) from error
        else:
            self._succeeded = True


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _is_around(error: BaseException) -> bool:
    if isinstance(error, EndsTheRunError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if not names.isdisjoint(_AROUND):
        return True
    kind = type(error)
    if kind.__module__ == "py4j.protocol" and kind.__name__ == "Py4JError":
        return True  # there is no answer; an answer that is an exception has a class of its own
    return _is_foreign(error) and _AROUND_IN_TEXT.search(str(error)) is not None


def _is_foreign(error: BaseException) -> bool:
    """Whether the text of an exception is another process's, and not just about a value of a row."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("py4j", "pyspark", "pyarrow"))


def _cause(error: BaseException) -> tuple[str, str]:
    text = str(error)
    if _is_foreign(error):
        _, found, trace = text.partition("Traceback (most recent call last):")
        if found:
            lines = trace.partition("\n\tat ")[0].splitlines()
            for line in reversed(lines):
                if said := _FROM_WORKER.match(line):
                    return said["type"], said["message"]
    return type(error).__name__, text
