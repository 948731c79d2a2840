"""A real S3 API on a port of its own: moto's server, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

BUCKET = "deliveries"


@dataclass
class S3:
    """A server with a bucket; ``endpoint`` is its address."""

    server: ThreadedMotoServer
    endpoint: str

    @property
    def options(self) -> dict[str, str]:
        """What settings need to reach it."""
        return {
            "aws_endpoint": self.endpoint,
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
            "aws_region": "us-east-1",
            "allow_http": "true",
        }

    def client(self) -> S3Store:
        """A client of the bucket that is not the platform's."""
        config = {name: value for name, value in self.options.items() if name != "allow_http"}
        return S3Store(BUCKET, config=config, client_options={"allow_http": True})  # type: ignore[arg-type]


@contextmanager
def s3() -> Iterator[S3]:
    """A server that runs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = S3(server, f"http://{host}:{port}")
    try:
        import urllib.request

        request = urllib.request.Request(f"{found.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request).close()
        yield found
    finally:
        server.stop()


def put(client: S3Store, key: str, content: bytes) -> None:
    """Write a file."""
    obstore.put(client, key, content)
