"""A real HTTP receiver and a real SMTP server on loopback, for messages that must arrive."""

from __future__ import annotations

import json
import socket
import threading
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import AsyncMessage


class WebReceiver:
    """Takes apprise's ``json://`` messages; answers with ``status``."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.received.append(json.loads(content))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://user:hunter2@127.0.0.1:{self._server.server_port}/secret-path"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MailServer:
    """Takes mail; keeps subject and text of each."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []
        server = self

        class Handler(AsyncMessage):
            def prepare_message(self, session: Any, envelope: Any) -> Any:
                return message_from_bytes(envelope.content, policy=policy.default)

            async def handle_message(self, message: Any) -> None:
                body = message.get_body(("plain", "html"))
                server.received.append((str(message["subject"]), body.get_content()))

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self._controller = Controller(Handler(), hostname="127.0.0.1", port=self._port)
        self._controller.start()

    @property
    def url(self) -> str:
        return (
            f"mailto://127.0.0.1:{self._port}?from=platform@example.com&to=oncall@example.com&mode=insecure"
        )

    def close(self) -> None:
        self._controller.stop()
