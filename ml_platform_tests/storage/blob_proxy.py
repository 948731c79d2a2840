"""What Azure's Blob storage does and Azurite leaves undone, between a client and the emulator.

``deltalake`` lists a table's log from a version on (``startFrom``). Azurite takes that parameter and ignores
it, so that a log looks as if it began anew and every third commit fails. Everything else passes unchanged.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@contextmanager
def listing_from(emulator_port: int) -> Iterator[int]:
    """A proxy of the emulator that honours ``startFrom``; gives its port.

    It is a process of its own, since ``deltalake`` keeps this one's interpreter while it waits for answers.
    """
    command = [sys.executable, __file__, str(emulator_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def serve(emulator_port: int) -> None:
    """Serve until killed; the port is printed."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _pass(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            emulator = http.client.HTTPConnection("127.0.0.1", emulator_port, timeout=60)
            emulator.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                emulator.putheader(name, value)
            emulator.endheaders(content)
            answer = emulator.getresponse()
            body = answer.read()
            start = parse_qs(urlsplit(self.path).query).get("startFrom")
            if start and answer.status == 200:
                body = _from(body, start[0])
            self.send_response(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)
            emulator.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    print(server.server_port, flush=True)
    server.serve_forever()


def _from(listing: bytes, start: str) -> bytes:
    """A listing without the blobs before ``start``."""
    tree = ElementTree.fromstring(listing)
    blobs = tree.find("Blobs")
    assert blobs is not None
    for blob in blobs.findall("Blob"):
        if (blob.findtext("Name") or "") < start:
            blobs.remove(blob)
    return ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
