"""Secrets by name, over the real client of Azure Key Vault against a vault on loopback."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.keyvault.secrets import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ml_platform.contract.secrets import SecretError, resolve
from ml_platform.settings import Settings

SECRETS = {"store-url": "postgresql+psycopg://app:hunter2@db/features", "blank": ""}


class Token:
    """A credential with a fixed token."""

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("the-token", int(dt.datetime.now(tz=dt.UTC).timestamp()) + 3600)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.split("/")[2]
        if self.headers.get("Authorization") != "Bearer the-token":
            challenge = (
                'Bearer authorization="https://login.example/tenant", resource="https://vault.azure.net"'
            )
            self._answer(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge})
        elif name == "forbidden":
            self._answer(403, {"error": {"code": "Forbidden", "message": "no permission to get"}})
        elif name not in SECRETS:
            self._answer(404, {"error": {"code": "SecretNotFound", "message": "not found"}})
        else:
            address = f"https://{self.headers['Host']}/secrets/{name}/1"
            self._answer(200, {"value": SECRETS[name], "id": address, "attributes": {"enabled": True}})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine's loopback, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(tz=dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "vault.pem", folder / "vault.key"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, private


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[tuple[str, Callable[[str], SecretClient]]]:
    pem, private = certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def client(address: str) -> SecretClient:
        return SecretClient(
            address, Token(), verify_challenge_resource=False, connection_verify=str(pem), retry_total=0
        )

    yield f"127.0.0.1:{server.server_port}", client
    server.shutdown()
    server.server_close()


def test_a_plain_value_is_itself() -> None:
    assert resolve("sqlite:///features.db") == "sqlite:///features.db"


def test_a_name_stands_for_the_secret_of_the_vault(vault: tuple[str, Callable[[str], SecretClient]]) -> None:
    host, client = vault
    assert resolve(f"keyvault://{host}/store-url", client=client) == SECRETS["store-url"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent", "has no secret 'absent'"),
        ("forbidden", "doesn't give the secret 'forbidden'"),
        ("blank", "'blank' of the key vault .* is empty"),
        ("a/b", "names no secret; accepted is keyvault://<vault>/<name>"),
        ("", "names no secret"),
    ],
)
def test_a_secret_that_cannot_be_had_is_named(
    vault: tuple[str, Callable[[str], SecretClient]], name: str, told: str
) -> None:
    host, client = vault
    with pytest.raises(SecretError, match=told):
        resolve(f"keyvault://{host}/{name}", client=client)


def test_settings_never_show_what_they_hold() -> None:
    settings = Settings(
        online_store_url="postgresql+psycopg://app:hunter2@db/features",
        online_token="hunter3",
        blob_credential="hunter4",
        alert_urls="mailto://app:hunter5@example.com",
        alert_channels=[{"name": "oncall", "url": "slack://hunter6"}],
    )
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert "hunter" not in shown
    assert settings.online_url == "postgresql+psycopg://app:hunter2@db/features"
