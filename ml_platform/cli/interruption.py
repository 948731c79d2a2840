"""What a signal that asks the process to end does: one line, and no process left behind.

Imports nothing but the standard library, so that it can be set up before anything else is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

#: Seconds in which what is under way may end by itself, a run be recorded as cancelled for instance.
GRACE = 20.0
#: Seconds in which a JVM removes its temporary files.
_JVM_GRACE = 5.0
#: Seconds within which the thread that watches for signals has seen one.
_MOMENT = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LINE = "Interrupted: what was done stays, and the same command goes on from there.\n"


class Interruption:
    """Handles the first signal that asks this process to end."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._expected = False
        self._grace: float | None = None
        self._line = _LINE
        self._noticed = threading.Event()

    def install(self) -> None:
        """Take care of the signals from now on."""
        reading, writing = os.pipe()
        for end in (reading, writing):
            os.set_blocking(end, end == reading)
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        # Libraries put handlers of their own in place of these, Dagster while a run is at work; and no
        # handler runs while the main thread is in a library's native code.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()

    def expect(self) -> None:
        """An interruption is how this command is ended as a rule; it ends by itself, and well."""
        self._expected = True

    def clean_up(self, seconds: float, line: str) -> None:
        """From now on an interruption leaves so many seconds to remove things; ``line`` is said first.

        A second interruption reaches the command as the first one does.
        """
        self._grace, self._line = seconds, line

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._notice(number)
        raise KeyboardInterrupt

    def _watch(self, reading: int) -> None:
        while True:
            for number in os.read(reading, 64):
                if number not in _SIGNALS or self._expected:
                    continue
                self._notice(number)
                threading.Thread(target=self._end_after_grace, name="deadline", daemon=True).start()

    def _end_after_grace(self) -> None:
        time.sleep(GRACE if self._grace is None else self._grace)
        self.end()

    def _notice(self, number: int) -> None:
        if self._expected or self.number is not None:
            return
        self.number = number
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, self._line.encode())
        # What libraries say of an interruption is of no use to anybody.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2) if self._grace is None else (2,):
            os.dup2(nowhere, stream)
        self._noticed.set()

    def noticed(self) -> bool:
        """Whether a signal has come, which a library may have turned into an error of its own just now."""
        return self._noticed.wait(_MOMENT)

    def end(self) -> NoReturn:
        """End the process as its signal asks for, with all that it has started."""
        end_children()
        os._exit(128 + (self.number or signal.SIGINT))


def end_children() -> None:
    """End all processes that this one has started, and that they have: Spark's JVM and its workers."""
    import psutil

    for ask in (psutil.Process.terminate, psutil.Process.kill):
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                ask(child)
        _, alive = psutil.wait_procs(children, timeout=_JVM_GRACE)
        if not alive and not psutil.Process().children():
            return


interruption = Interruption()
