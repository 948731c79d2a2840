"""Lines while a command works: what its steps say, and in between that it is still at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

#: Seconds without a line after which one is printed: with the time it takes to find out what Spark does,
#: something moves every ten seconds.
SECONDS = 8.0


class Heartbeat:
    """Passes lines on to ``say``, and repeats what is being done whenever there has been none for a while.

    Args:
        say: prints a line.
        detail: what else is known of the work, as how far Spark is; asked in a thread of its own.
    """

    def __init__(
        self, say: Callable[[str], None], *, detail: Callable[[], str] = lambda: "", seconds: float = SECONDS
    ) -> None:
        self._say = say
        self._detail = detail
        self._seconds = seconds
        self._last = ""
        self._since = time.monotonic()
        self._said = threading.Event()
        self._lock = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def say(self, message: str) -> None:
        """Print a line of what is being done, or has been done."""
        with self._lock:
            self._last, self._since = message, time.monotonic()
            self._say(message)
        self._said.set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._said.set()

    def _beat(self) -> None:
        while not self._is_over:
            self._said.clear()
            if self._said.wait(self._seconds) or self._is_over:
                continue
            detail = self._detail()
            with self._lock:
                if not self._is_over and self._last:
                    since = time.monotonic() - self._since
                    self._say(f"still at work, {since:.0f} s since: {self._last}{detail and f' ({detail})'}")


def tasks_of_spark() -> str:
    """How far Spark is with what it does just now; empty if it does nothing, or can't be asked."""
    try:
        from pyspark import SparkContext

        context = SparkContext._active_spark_context
        if context is None:
            return ""
        tracker = context.statusTracker()
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        done = sum(stage.numCompletedTasks for stage in stages if stage)
        total = sum(stage.numTasks for stage in stages if stage)
    except Exception:
        return ""
    return f"Spark: {done:,} of {total:,} tasks" if total else ""
