"""The HTTP service over a real server, on a real store."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import uvicorn

from ml_platform.contract.product import Product
from ml_platform.online_store import serving
from ml_platform.online_store.serving import LOOPBACK_NAMES, build_app
from ml_platform.online_store.serving_limits import BoundedProtocol, maximum_connections
from ml_platform.online_store.store import OnlineStore
from ml_platform_tests.online_store import rows as stored
from ml_platform_tests.small_platform import SHOP, shop

DAY = date(2024, 1, 3)


class Server:
    """An application on a port of its own."""

    def __init__(self, app: Any, protocol: Any = "auto") -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        # From here on requests wait for the server, and are not refused.
        self._socket.listen()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http=protocol))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def product() -> Product:
    return shop()


@pytest.fixture(scope="module")
def store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("online") / "features.db"


@pytest.fixture(scope="module")
def store(product: Product, store_file: Path) -> Iterator[OnlineStore]:
    store = OnlineStore(f"sqlite:///{store_file}")
    rows = pa.table(
        {
            "customer": ["ann", "bob, jr", "o'hara"],
            "event_day": pa.array([DAY] * 3, pa.date32()),
            "spend": [12.5, None, 0.1],
            "pages": pa.array([3, 4, None], pa.int32()),
            "channel": ["web", None, "app"],
            "visit": pa.array([1, 2, 3], pa.int64()),
        }
    )
    with store.publication(product, version=7, days=[DAY]) as publication:
        publication.stage(rows.to_batches())
        publication.merge()
    yield store
    store.close()


@pytest.fixture(scope="module")
def client(product: Product, store: OnlineStore) -> Iterator[httpx.Client]:
    server = Server(build_app({"shop": product}, store))
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
    server.close()


def test_one_key_gives_its_features(client: httpx.Client) -> None:
    answer = client.get("/shop/features", params={"customer": "ann"})
    assert answer.status_code == 200
    found = answer.json()
    assert found.pop("published_at")
    assert found == {
        "customer": "ann",
        "event_day": "2024-01-03",
        "spend": 12.5,
        "pages": 3,
        "channel": "web",
        "visit": 1,
        "mrds_version": 7,
    }


def test_features_are_served_as_long_as_they_hold(tmp_path: Path) -> None:
    """What is of a day holds for three days after it; then a caller is told, and gets no values."""
    product = shop(online={"expires_after_days": 3})
    now = [DAY]
    with contextlib.closing(OnlineStore(f"sqlite:///{tmp_path / 'features.db'}")) as store:
        stored.publish(store, shop(), [stored.row("old", DAY - timedelta(days=2), 1.0)])
        new = [stored.row("ann", DAY, 2.0), stored.row("bob", DAY - timedelta(days=1), 3.0)]
        stored.publish(store, product, new)
        server = Server(build_app({"shop": product}, store, today=lambda _: now[0]))
        with httpx.Client(base_url=server.url, timeout=30) as client:
            seen = []
            for ahead in range(5):
                now[0] = DAY + timedelta(days=ahead)
                keys = [{"customer": name} for name in ("nobody", "old", "bob", "ann")]
                many = client.post("/shop/features", json={"keys": keys}).json()
                single = [client.get("/shop/features", params=key).status_code for key in keys]
                there = [place for place, one in enumerate(many["rows"]) if one]
                assert single == [404, *(200 if place in there else 410 for place in (1, 2, 3))]
                assert sorted([*there, *many["expired"]]) == [1, 2, 3]
                seen.append(there)
            assert seen == [[1, 2, 3], [1, 2, 3], [2, 3], [3], []]
            answer = client.get("/shop/features", params={"customer": "old"}).json()
            assert answer["detail"] == (
                "shop has no features of this key that hold today: the newest are of 2024-01-01, and held "
                "until 2024-01-04"
            )
            now[0] = DAY
            found = client.get("/shop/features", params={"customer": "ann"}).json()
            assert (found["event_day"], found["valid_until"]) == ("2024-01-03", "2024-01-06")
            described = client.get("/openapi.json").json()
            assert "410" in described["paths"]["/shop/features"]["get"]["responses"]
        server.close()


def test_null_features_are_told_apart_from_an_unknown_key(client: httpx.Client) -> None:
    assert client.get("/shop/features", params={"customer": "bob, jr"}).json()["spend"] is None
    unknown = client.get("/shop/features", params={"customer": "nobody"})
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "shop has no features of this key"})
    asked = {"keys": [{"customer": "o'hara"}, {"customer": "nobody"}, {"customer": "bob, jr"}]}
    rows = client.post("/shop/features", json=asked).json()["rows"]
    assert [row and row["customer"] for row in rows] == ["o'hara", None, "bob, jr"]
    assert rows[2]["spend"] is None


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"keys": []},
        {"keys": [{"client": "ann"}]},
        {"keys": [{"customer": "ann", "other": 1}]},
        {"keys": [{"customer": ["ann"]}]},
        {"keys": [{"customer": "x"}] * (serving.MAXIMUM_KEYS + 1)},
    ],
)
def test_what_is_no_key_is_refused(client: httpx.Client, asked: Any) -> None:
    answer = client.post("/shop/features", json=asked)
    assert answer.status_code == 422
    assert client.get("/shop/features").status_code == 422


def test_keys_have_the_types_of_the_contract(tmp_path: Path) -> None:
    rules = {"spend": "sum", "pages": "max", "channel": "last", "bought": "last"}
    typed = shop(mrds__entity=["visit"], mrds__aggregate=rules)
    typed = typed.model_copy(update={"name": "typed"})
    store = OnlineStore(f"sqlite:///{tmp_path}/typed.db")
    server = Server(build_app({"typed": typed}, store))
    try:
        for wrong in ("seven", "1.5", str(2**63)):
            answer = httpx.get(f"{server.url}/typed/features", params={"visit": wrong})
            assert answer.status_code == 422
            assert answer.json()["detail"][0]["loc"][-1] == "visit"
    finally:
        server.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_is_too_large_is_refused(client: httpx.Client, streamed: bool) -> None:
    content = b'{"keys": [{"customer": "' + b"x" * serving.MAXIMUM_BYTES + b'"}]}'

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    body: Any = pieces() if streamed else content
    answer = client.post("/shop/features", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    small = client.post(
        "/shop/features",
        content=iter([b'{"keys": [', b'{"customer": "ann"}]}']),
        headers={"Content-Type": "application/json"},
    )
    assert small.json()["rows"][0]["customer"] == "ann"


def test_many_callers_at_once_get_their_own_rows(client: httpx.Client) -> None:
    names = ["ann", "bob, jr", "o'hara"] * 40
    with ThreadPoolExecutor(16) as pool:
        found = list(
            pool.map(lambda name: client.get("/shop/features", params={"customer": name}).json(), names)
        )
    assert [one["customer"] for one in found] == names


PATHS = (
    "/shop/features?customer=ann",
    "/healthz",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/static-offline-docs/swagger-ui.css",
    "/nowhere",
)


def test_with_a_token_nothing_is_answered_without_it(product: Product, store: OnlineStore) -> None:
    server = Server(build_app({"shop": product}, store, token="s3cret"))
    try:
        for path in PATHS:
            address = f"{server.url}{path}"
            sent = [
                None,
                "Bearer s3cre",
                "Bearer s3crets",
                "Bearer",
                "s3cret",
                "Basic s3cret",
                "Basic \u00e9",
            ]
            for wrong in sent:
                headers = {} if wrong is None else {"Authorization": wrong.encode()}
                answer = httpx.get(address, headers=headers)
                assert answer.status_code == 401, (path, wrong)
                assert "shop" not in answer.text
                assert "Basic" in answer.headers["WWW-Authenticate"]
            expected = 404 if path == "/nowhere" else 200
            right = httpx.get(address, headers={"Authorization": "Bearer s3cret"})
            assert right.status_code == expected
            assert httpx.get(address, auth=("anybody", "s3cret")).status_code == expected
            assert httpx.get(address, auth=("s3cret", "")).status_code == 401
        answer = httpx.post(f"{server.url}/shop/features", json={"keys": [{"customer": "ann"}]})
        assert answer.status_code == 401
    finally:
        server.close()


def test_a_store_that_is_away_is_a_503_that_says_nothing_of_it(
    product: Product, caplog: pytest.LogCaptureFixture
) -> None:
    store = OnlineStore("postgresql+psycopg://reader:hunter2@127.0.0.1:9/features")
    server = Server(build_app({"shop": product}, store))
    try:
        health = httpx.get(f"{server.url}/healthz", timeout=30)
        answer = httpx.get(f"{server.url}/shop/features", params={"customer": "ann"}, timeout=30)
        assert (health.status_code, answer.status_code) == (503, 503)
        assert answer.json() == {"detail": "the online store does not answer; try again later"}
        assert "hunter2" not in caplog.text
    finally:
        server.close()


def test_the_page_of_the_api_asks_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "https://" not in page
    assert client.get("/openapi.json").json()["paths"]["/shop/features"].keys() == {"get", "post"}
    for part in ("/static-offline-docs/swagger-ui-bundle.js", "/static-offline-docs/swagger-ui.css"):
        assert part in page
        assert client.get(part).status_code == 200


def publish(store: OnlineStore, product: Product, names: list[str]) -> None:
    count = len(names)
    rows = pa.table(
        {
            "customer": names,
            "event_day": pa.array([DAY] * count, pa.date32()),
            "spend": [1.0] * count,
            "pages": pa.array([1] * count, pa.int32()),
            "channel": ["web"] * count,
            "visit": pa.array([1] * count, pa.int64()),
        }
    )
    with store.publication(product, version=1, days=[DAY]) as publication:
        publication.stage(rows.to_batches())
        publication.merge()
    store.close()


# -- clients that do what they shouldn't ----------------------------------------------------------------


def bounded(**limits: Any) -> type[BoundedProtocol]:
    return type("Bounded", (BoundedProtocol,), limits)


def connect(server: Server, data: bytes = b"") -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=60)
    client.sendall(data)
    return client


def is_closed(client: socket.socket) -> bool:
    """Wait until the server closes a connection, or says something."""
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True
    finally:
        client.close()


HEAD = b"POST /shop/features HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:", HEAD])
def test_a_client_that_sends_no_whole_head_is_closed(
    product: Product, store: OnlineStore, sent: bytes
) -> None:
    server = Server(build_app({"shop": product}, store), bounded(header_seconds=0.2))
    try:
        assert is_closed(connect(server, sent))
    finally:
        server.close()


def test_a_client_that_becomes_slow_later_is_closed_too(product: Product, store: OnlineStore) -> None:
    server = Server(build_app({"shop": product}, store), bounded(header_seconds=0.2))
    try:
        client = connect(server, b"GET /shop/features?customer=ann HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /shop/feat")
        assert is_closed(client)
    finally:
        server.close()


def test_a_body_that_does_not_come_is_a_408(
    product: Product, store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.2)
    server = Server(build_app({"shop": product}, store), bounded())
    try:
        client = connect(server, HEAD + b'\r\n{"keys":')
        assert client.recv(10_000).startswith(b"HTTP/1.1 408")
        client.close()
    finally:
        server.close()


def test_an_exchange_that_takes_too_long_ends_with_its_connection(
    product: Product, store: OnlineStore
) -> None:
    server = Server(build_app({"shop": product}, store), bounded(answer_seconds=0.2))
    try:
        assert is_closed(connect(server, HEAD + b"\r\n{"))
    finally:
        server.close()


def test_many_slow_clients_keep_nobody_out_for_long(product: Product, store: OnlineStore) -> None:
    server = Server(build_app({"shop": product}, store), bounded(header_seconds=1.0, most=20))
    try:
        slow = [connect(server, b"GET /") for _ in range(60)]
        assert all(is_closed(client) for client in slow)
        answer = httpx.get(f"{server.url}/shop/features", params={"customer": "ann"}, timeout=60)
        assert answer.status_code == 200
    finally:
        server.close()


def test_handles_are_left_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for soft, most in ((256, 128), (1024, 896), (10**6, 1_000), (resource.RLIM_INFINITY, 1_000), (64, 8)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert maximum_connections() == most


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("features.example.com", 200),
        ("evil.example.com", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("localhost@evil.example.com", 421),
        ("", 421),
    ],
)
def test_on_loopback_only_names_of_it_are_answered(
    product: Product, store: OnlineStore, host: str, status: int
) -> None:
    names = {*LOOPBACK_NAMES, "features.example.com"}
    server = Server(build_app({"shop": product}, store, names=names))
    try:
        assert httpx.get(f"{server.url}/healthz", headers={"Host": host}).status_code == status
    finally:
        server.close()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "null", "[]", '{"a": NaN}'])
def test_a_key_that_is_no_value_is_a_422(client: httpx.Client, value: str) -> None:
    body = f'{{"keys": [{{"customer": {value}}}]}}'
    answer = client.post("/shop/features", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == "customer"


def test_a_key_of_any_type_is_no_nan(store: OnlineStore) -> None:
    for type_ in ("long", "integer", "double"):
        columns = {**SHOP["source"]["columns"], "customer": {"type": type_}}
        product = shop(source__columns=columns)
        server = Server(build_app({"shop": product}, store))
        try:
            for value in ("NaN", "Infinity"):
                answer = httpx.post(
                    f"{server.url}/shop/features",
                    content=f'{{"keys": [{{"customer": {value}}}]}}',
                    headers={"Content-Type": "application/json"},
                )
                assert answer.status_code == 422, (type_, value)
                asked = httpx.get(f"{server.url}/shop/features", params={"customer": value})
                assert asked.status_code == 422
        finally:
            server.close()


def test_a_store_whose_file_is_deleted_or_replaced_is_noticed(product: Product, tmp_path: Path) -> None:
    file, other = tmp_path / "features.db", tmp_path / "other.db"
    publish(OnlineStore(f"sqlite:///{file}"), product, ["ann", "bob"])
    publish(OnlineStore(f"sqlite:///{other}"), product, ["bob"])
    server = Server(build_app({"shop": product}, OnlineStore(f"sqlite:///{file}")))

    def status(name: str) -> int:
        return httpx.get(f"{server.url}/shop/features", params={"customer": name}, timeout=60).status_code

    try:
        assert (status("ann"), status("bob")) == (200, 200)
        for part in tmp_path.glob("features.db*"):
            part.unlink()
        assert (status("ann"), status("ann")) == (503, 503)
        assert httpx.get(f"{server.url}/healthz", timeout=60).status_code == 503
        assert not file.exists(), "a reader makes no empty store"
        other.rename(file)
        assert (status("ann"), status("bob")) == (404, 200)
    finally:
        server.close()
