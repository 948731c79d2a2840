"""What a client of the HTTP service may hold: a connection for some seconds, and one of a bounded number.

uvicorn waits for a request without end, and accepts as many connections as come, until the process has no
file handle left for anybody. Here are only time and number; what may be asked is :mod:`.serving`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

#: A request's head comes in one packet, over any network within seconds.
HEADER_SECONDS = 10.0
#: From a request's head to the last byte of its answer; a look-up of 1,000 keys takes less than a second.
ANSWER_SECONDS = 60.0
#: Idle and busy connections of all clients together.
MAXIMUM_CONNECTIONS = 1_000
#: File handles that the process needs besides: files, the store's connections, the interpreter's own.
_OTHER_HANDLES = 128


def maximum_connections() -> int:
    """How many connections may be open at once, so that handles are left for everything else."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return max(8, min(MAXIMUM_CONNECTIONS, soft - _OTHER_HANDLES))
    return MAXIMUM_CONNECTIONS


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 whose connections end when a client is too slow, and are refused when there are too many."""

    header_seconds: ClassVar[float] = HEADER_SECONDS
    answer_seconds: ClassVar[float] = ANSWER_SECONDS
    most: ClassVar[int | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._phase = "head"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        most = type(self).most or maximum_connections()
        if len(self.connections) >= most:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._enter("head")

    def data_received(self, data: bytes) -> None:
        if self._phase == "idle":
            self._enter("head")
        super().data_received(data)
        self._notice_request()

    def on_response_complete(self) -> None:
        # What has been answered may still wait for a client that doesn't read.
        self._enter("idle")
        super().on_response_complete()
        self._notice_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _notice_request(self) -> None:
        if self._phase != "answer" and self.cycle is not None and not self.cycle.response_complete:
            self._enter("answer")

    def _enter(self, phase: str) -> None:
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
        seconds = self.header_seconds if phase == "head" else self.answer_seconds
        self._timer = self.loop.call_later(seconds, self.transport.abort)
