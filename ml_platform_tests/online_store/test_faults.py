"""Stores that are away, locked, full, cut, wrong or killed: what is said, and what is left."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from ml_platform.online_store.store import OnlineStore, OnlineStoreError
from ml_platform_tests import postgres
from ml_platform_tests.conftest import CHECKOUT, drop_tables
from ml_platform_tests.online_store.rows import MONDAY, TUESDAY, publish, row, spends
from ml_platform_tests.small_platform import shop

SECRETS = (postgres.PASSWORD, quote(postgres.PASSWORD, safe=" +"), quote(postgres.PASSWORD, safe=""))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'features.db'}"


@pytest.fixture
def pg(postgresql_url: str) -> str:
    drop_tables(postgresql_url)
    return postgresql_url


def execute(url: str, *statements: str) -> list[sa.Row[tuple[object, ...]]]:
    """Run statements as another program would; the rows of the last."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    rows: list[sa.Row[tuple[object, ...]]] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = list(result.all()) if result.returns_rows else []
    return rows


CUT_ONCE = (
    "CREATE SEQUENCE IF NOT EXISTS cuts",
    "ALTER SEQUENCE cuts RESTART",
    """CREATE OR REPLACE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF nextval('cuts') = 2 THEN
           PERFORM pg_terminate_backend(pg_backend_pid());
           PERFORM pg_sleep(60);
         END IF;
         RETURN NEW;
       END $$""",
    "CREATE TRIGGER cut BEFORE INSERT ON shop_features FOR EACH ROW EXECUTE FUNCTION cut()",
)


def test_a_connection_cut_in_the_middle_of_the_merge_leaves_nothing(pg: str) -> None:
    store, product = OnlineStore(pg), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    execute(pg, *CUT_ONCE)
    tuesday = [row(name, TUESDAY, 2.0) for name in "abc"]
    with pytest.raises(OnlineStoreError, match="the connection broke") as caught:
        publish(store, product, tuesday)
    assert caught.value.temporary
    assert spends(store, product) == [("a", MONDAY, 1.0)]
    publish(store, product, tuesday)
    assert spends(store, product) == [(name, TUESDAY, 2.0) for name in "abc"]


def test_connections_that_broke_in_the_pool_are_replaced(pg: str) -> None:
    store, product = OnlineStore(pg), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    assert store.get(product, [["a"]])[0] is not None
    (others,) = execute(
        pg,
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND usename = current_user AND datname IS NOT NULL",
    )
    assert others[0] >= 1
    assert store.get(product, [["a"]])[0] is not None


def test_all_connections_of_the_pool_may_have_broken(pg: str) -> None:
    store, product = OnlineStore(pg), shop()
    publish(store, product, [row("a", MONDAY, 1.0), row("b", MONDAY, 2.0)])
    held = [store._reader.connect() for _ in range(4)]
    backends = [backend(connection) for connection in held]
    for connection in held:
        connection.close()
    execute(pg, *[f"SELECT pg_terminate_backend({pid}, 10000)" for pid in backends])
    for keys in ([["a"]], [["a"], ["b"]]):
        assert None not in store.get(product, keys)


def backend(connection: sa.Connection) -> int:
    """The process of the server that serves the connection."""
    driver = connection.connection.driver_connection
    pid: int = driver.info.backend_pid  # type: ignore[union-attr]
    return pid


@pytest.mark.parametrize("keys", [[["a"]], [["a"], ["b"]]])
def test_a_look_up_whose_second_connection_breaks_too_fails(pg: str, keys: list[list[str]]) -> None:
    store, product = OnlineStore(pg), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    assert store.get(product, keys)[0] is not None
    broken = []

    def cut(connection: sa.Connection, *_: object) -> None:
        broken.append(backend(connection))
        execute(pg, f"SELECT pg_terminate_backend({broken[-1]}, 10000)")

    sa.event.listen(store._reader, "before_cursor_execute", cut)
    with pytest.raises(OnlineStoreError, match="the connection broke") as caught:
        store.get(product, keys)
    assert caught.value.temporary
    assert len(set(broken)) == len(broken) == 2
    sa.event.remove(store._reader, "before_cursor_execute", cut)
    assert store.get(product, keys)[0] is not None


def test_a_look_up_that_the_database_refuses_is_not_tried_again(pg: str) -> None:
    store, product = OnlineStore(pg), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    asked = []
    sa.event.listen(store._reader, "before_cursor_execute", lambda *_: asked.append(1))
    with pytest.raises(OnlineStoreError, match="the database refuses the statement") as caught:
        store.get(product, [["Ann\0Miller"]])
    assert not caught.value.temporary
    assert "Ann" not in str(caught.value)
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_publication_leaves_no_staging(kind: str, sqlite_url: str, pg: str) -> None:
    url = sqlite_url if kind == "sqlite" else pg
    program = (
        "import sys\n"
        "from ml_platform_tests.online_store.rows import *\n"
        "from ml_platform_tests.small_platform import shop\n"
        "with OnlineStore(sys.argv[1]).publication(shop(), version=1, days=[MONDAY]) as publication:\n"
        "    publication.stage(batches([row('a', MONDAY, 1.0)]))\n"
        "    print('staged', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", program, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    with victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "staged\n"
        victim.kill()
    store = OnlineStore(url, lock_timeout=30)
    publish(store, shop(), [row("b", MONDAY, 2.0)])
    assert spends(store, shop()) == [("b", MONDAY, 2.0)]
    names = sa.inspect(sa.create_engine(url, poolclass=sa.NullPool)).get_table_names()
    # Other tests keep tables of other kinds in the same server.
    of_product = sorted(name for name in names if "shop" in name)
    assert of_product == ["shop_features", "shop_features_days", "shop_features_forgotten"]


def test_a_locked_file_is_waited_for_and_then_reported(sqlite_url: str) -> None:
    store, product = OnlineStore(sqlite_url, lock_timeout=0.05), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    other = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OnlineStoreError, match="another session holds the table") as caught:
            publish(store, product, [row("a", TUESDAY, 2.0)])
        assert caught.value.temporary
        assert spends(store, product) == [("a", MONDAY, 1.0)]
    publish(store, product, [row("a", TUESDAY, 2.0)])
    assert spends(store, product) == [("a", TUESDAY, 2.0)]


def test_a_locked_table_is_waited_for_and_then_reported(pg: str) -> None:
    store, product = OnlineStore(pg, lock_timeout=0.05), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    with sa.create_engine(pg, poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("LOCK TABLE shop_features IN SHARE MODE")
        with pytest.raises(OnlineStoreError, match="another session holds the table") as caught:
            publish(store, product, [row("a", TUESDAY, 2.0)])
        assert caught.value.temporary
    assert spends(store, product) == [("a", MONDAY, 1.0)]


def test_a_full_disk_is_an_error_to_act_on(sqlite_url: str) -> None:
    store, product = OnlineStore(sqlite_url), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])

    def leave_no_room(connection: object, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 12")  # type: ignore[attr-defined]

    sa.event.listen(store._writer, "connect", leave_no_room)
    with pytest.raises(OnlineStoreError, match="make room, then publish again") as caught:
        publish(store, product, [row(f"c{n}", TUESDAY, 2.0) for n in range(5_000)])
    assert not caught.value.temporary
    assert spends(store, product) == [("a", MONDAY, 1.0)]


def test_rows_that_do_not_arrive_are_noticed_before_anyone_sees_the_others(sqlite_url: str) -> None:
    store, product = OnlineStore(sqlite_url), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    execute(
        sqlite_url,
        "CREATE TRIGGER lose BEFORE INSERT ON shop_features WHEN NEW.customer = 'c' "
        "BEGIN SELECT RAISE(IGNORE); END",
    )
    with pytest.raises(OnlineStoreError, match="of 3 published entities the online store holds 2"):
        publish(store, product, [row(name, TUESDAY, 2.0) for name in "abc"])
    assert spends(store, product) == [("a", MONDAY, 1.0)]


@pytest.mark.parametrize("content", [b"this is a letter, not a database\n" * 50, None])
def test_a_file_that_is_no_database_is_an_error_to_act_on(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "features.db"
    path.mkdir() if content is None else path.write_bytes(content)
    store = OnlineStore(f"sqlite:///{path}")
    for act in (lambda: store.get(shop(), [["a"]]), lambda: publish(store, shop(), [row("a", MONDAY, 1.0)])):
        with pytest.raises(OnlineStoreError, match="whether it is a SQLite database") as caught:
            act()
        assert not caught.value.temporary


# -- credentials -------------------------------------------------------------------------------------


def wrong(url: str, **changes: object) -> str:
    return sa.make_url(url).set(**changes).render_as_string(hide_password=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fault", ["password", "user", "database", "port", "host", "driver", "scheme", "query"]
)
def test_a_failing_connection_shows_no_secret(
    fault: str, pg: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "geheim+wort/42"
    url = wrong(pg, password=secret)
    url = {
        "password": url,
        "user": wrong(pg, username=secret, password=secret),
        "database": wrong(pg, database="nowhere"),
        "port": wrong(url, port=1),
        "host": wrong(url, host="nowhere.invalid"),
        "driver": wrong(url, drivername="postgresql+psycopg3"),
        "scheme": f"postgresql+psycopg://me:{secret}:x@host:{secret}/db",
        "query": wrong(pg, username=None, password=None).partition("?")[0] + "?user=me&password=" + secret,
    }[fault]
    said, temporary = [], None
    for act in (
        lambda store: store.get(shop(), [["a"]]),
        lambda store: publish(store, shop(), [row("a", MONDAY, 1.0)]),
    ):
        with pytest.raises(OnlineStoreError) as caught:
            act(OnlineStore(url))
        temporary = caught.value.temporary
        said += ["".join(traceback.format_exception(caught.value)), str(caught.value), repr(caught.value)]
    if fault not in ("scheme", "driver"):
        said.append(repr(OnlineStore(url)))
    said += [caplog.text, *capfd.readouterr()]
    everything = "\n".join(said)
    assert "online store" in everything or "ML_PLATFORM_ONLINE_STORE_URL" in everything
    for hidden in (secret, "geheim%2Bwort%2F42", "geheim", *SECRETS):
        assert hidden not in everything
    assert temporary == (fault in ("port", "host"))


@pytest.mark.parametrize("url", ["oracle://me:secret@db/features", "sqlite://", "sqlite:///:memory:"])
def test_another_kind_of_store_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(OnlineStoreError, match="accepted are sqlite:///<file>") as caught:
        OnlineStore(url)
    assert "secret" not in str(caught.value)


def test_an_error_does_not_quote_the_rows(pg: str) -> None:
    store, product = OnlineStore(pg), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    execute(pg, "ALTER TABLE shop_features ADD CHECK (spend < 1000)")
    with pytest.raises(OnlineStoreError, match="violates check constraint") as caught:
        publish(store, product, [row("Ann Miller", TUESDAY, 917364.0)])
    assert "Ann" not in str(caught.value)
    assert "917364" not in str(caught.value)
    assert not caught.value.temporary


def test_more_readers_than_connections_are_told_apart_from_a_broken_store(sqlite_url: str) -> None:
    store, product = OnlineStore(sqlite_url, pool_size=1), shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    pool = store._reader.pool
    pool._timeout = 0.01  # type: ignore[attr-defined]
    held = [store._reader.connect() for _ in range(40)]
    with pytest.raises(OnlineStoreError, match="all connections are in use") as caught:
        store.get(product, [["a"]])
    assert caught.value.temporary
    for connection in held:
        connection.close()
    assert store.get(product, [["a"]])[0] is not None
