"""Look-ups find what was asked for, whatever the type of the key and however many there are.

Nothing here knows which database it is, but for the last test: `make test-online URL=…` runs it against any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ml_platform.contract.product import Product
from ml_platform.online_store.dialects import Sqlite
from ml_platform.online_store.feature_tables import FeatureTables
from ml_platform.online_store.statements import Statements
from ml_platform.online_store.store import OnlineStore, OnlineStoreError
from ml_platform_tests.online_store.rows import MONDAY, publish, row
from ml_platform_tests.online_store.test_keys import TYPES, keyed_by
from ml_platform_tests.small_platform import shop


@pytest.fixture
def store(online_url: str) -> Iterator[OnlineStore]:
    store = OnlineStore(online_url, lock_timeout=30)
    yield store
    store.close()


def publish_keys(store: OnlineStore, product: Product, keys: Sequence[tuple[Any, ...]]) -> None:
    """A row of each key, whose ``pages`` is the key's place."""
    rows = [
        {**dict(zip(product.entity, key, strict=True)), "event_day": MONDAY, "pages": n}
        for n, key in enumerate(keys)
    ]
    with store.publication(product, version=1, days=[MONDAY]) as publication:
        publication.stage(pa.Table.from_pylist(rows).to_batches())
        publication.merge()


def pages(store: OnlineStore, product: Product, keys: Sequence[Sequence[Any]]) -> list[int | None]:
    return [one["pages"] if one else None for one in store.get(product, keys)]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


#: Of each type values that are stored, and others that are much like them.
KEYS: dict[str, tuple[list[Any], list[Any]]] = {
    "n": ([0, 1, 2**31 - 1, -(2**31)], [2, -1]),
    "id": ([0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)], [2**53 + 2, 2**63 - 2]),
    "name": (
        [
            "",
            "a",
            "A",
            " a",
            "ä",
            "a\N{COMBINING DIAERESIS}",
            "Straße",
            "Zoë 🛫",
            "%s :x ?",
            "1",
            "'x', \"y\"",
        ],
        ["Ä", "b", "STRASSE", "strasse", "01", "zoë 🛫"],
    ),
    "share": ([0.1, 0.1 + 0.2, 0.3, 1 / 3, -1.5e300, 5e-324, 0.0], [0.2, 1.0]),
    "flag": ([True], [False]),
    "on": ([date(1970, 1, 1), date(2024, 2, 29), date(9999, 12, 31)], [date(2024, 2, 28)]),
    "at": (
        [at("1900-01-01"), at("2024-02-29T12:00"), at("2024-02-29T12:00:00.000001")],
        [at("2024-02-29"), at("2024-02-29T12:00:00.000002")],
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_key_of_any_type_is_found_alone_and_among_others(store: OnlineStore, name: str) -> None:
    product = keyed_by(name)
    there, missing = KEYS[name]
    publish_keys(store, product, [(value,) for value in there])
    for n, value in enumerate(there):
        (found,) = store.get(product, [[value]])
        assert found is not None
        assert (found[name], type(found[name]), found["pages"]) == (value, type(value), n)
    assert [store.get(product, [[value]]) for value in missing] == [[None]] * len(missing)
    asked = [[value] for value in (*missing, *reversed(there))]
    assert pages(store, product, asked) == [*[None] * len(missing), *reversed(range(len(there)))]


def test_a_key_of_all_types_is_found_alone_and_among_others(store: OnlineStore) -> None:
    product = keyed_by(*TYPES)
    keys = [tuple(KEYS[name][0][n % len(KEYS[name][0])] for name in TYPES) for n in range(30)]
    keys = list(dict.fromkeys(keys))
    others = [(*key[:n], KEYS[name][1][0], *key[n + 1 :]) for key in keys[:3] for n, name in enumerate(TYPES)]
    publish_keys(store, product, keys)
    assert [pages(store, product, [key]) for key in keys] == [[n] for n in range(len(keys))]
    assert pages(store, product, others + keys) == [None] * len(others) + list(range(len(keys)))
    (found,) = store.get(product, keys[:1])
    assert found is not None
    assert tuple(found[name] for name in TYPES) == keys[0]


def test_a_time_with_a_zone_is_looked_up_in_utc(store: OnlineStore) -> None:
    product = keyed_by("at")
    publish_keys(store, product, [(at("2024-01-01T10:00"),)])
    noon = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert pages(store, product, [[noon]]) == [0]
    assert pages(store, product, [[noon], [noon.replace(tzinfo=UTC)]]) == [0, None]


@pytest.mark.parametrize("entity", [("id",), ("name", "id")])
def test_more_keys_than_a_statement_takes_come_back_in_order(
    store: OnlineStore, entity: tuple[str, ...]
) -> None:
    product = keyed_by(*entity)
    size = store._dialect.keys_at_once(len(entity))
    keys = [(f"c{n % 7}", n)[-len(entity) :] for n in range(2 * size + 3)]
    publish_keys(store, product, keys)
    places = [(n * 977) % len(keys) for n in range(len(keys))]
    places += places[:5]  # some are asked for twice
    assert pages(store, product, [keys[n] for n in places]) == places
    nobody = [(f"c{n % 7}", -n)[-len(entity) :] for n in range(1, size + 2)]
    assert pages(store, product, [*nobody, keys[-1]]) == [*[None] * len(nobody), len(keys) - 1]


def test_any_number_of_keys_is_looked_up(store: OnlineStore) -> None:
    product = keyed_by("name", "id")
    keys = [(f"c{n % 7}", n) for n in range(120)]
    publish_keys(store, product, keys)
    for count in (*range(6), 99, 100, 101, 120):
        assert pages(store, product, keys[:count]) == list(range(count))


def test_rows_of_a_table_without_a_new_column_are_found_alone_and_among_others(store: OnlineStore) -> None:
    publish(
        store,
        shop(mrds__aggregate={"spend": "sum", "pages": "max", "channel": "last", "bought": "last"}),
        [row("a", MONDAY, 1.0), row("b", MONDAY, 2.0)],
    )
    product = shop()
    for asked in ("a", "nab"):
        found = store.get(product, [[name] for name in asked])
        values = [(one["spend"], one["visit"], one["mrds_version"]) if one else None for one in found]
        stored = {"a": (1.0, None, 0), "b": (2.0, None, 0)}
        assert values == [stored.get(name) for name in asked]
        assert all(list(one) == list(found[-1] or ()) for one in found if one)


def test_a_table_that_is_not_there_has_no_rows(store: OnlineStore) -> None:
    assert store.get(shop(), [["a"]]) == [None]
    assert store.get(keyed_by("name", "id"), [("a", 1), ("b", 2)]) == [None, None]


def test_a_table_of_another_entity_has_no_rows(store: OnlineStore) -> None:
    publish_keys(store, keyed_by("id"), [(1,)])
    assert store.get(keyed_by("n"), [[1]]) == [None]
    assert store.get(keyed_by("n"), [[1], [2]]) == [None, None]


def test_threads_share_a_store(store: OnlineStore) -> None:
    product = keyed_by("name", "id")
    keys = [(f"c{n % 7}", n) for n in range(200)]
    publish_keys(store, product, keys)

    def look_up(start: int) -> list[int | None]:
        return [pages(store, product, [key])[0] for key in keys[start::8]] + pages(store, product, keys)

    with ThreadPoolExecutor(8) as pool:
        for start, found in enumerate(pool.map(look_up, range(8))):
            assert found == [*range(200)[start::8], *range(200)]


def test_a_key_of_another_type_is_refused_without_being_quoted(store: OnlineStore) -> None:
    product = keyed_by("flag")
    publish_keys(store, product, [(True,)])
    for keys in ([["Ann Miller"]], [["Ann Miller"], ["Bob"]]):
        with pytest.raises(OnlineStoreError, match="the database refuses the statement") as caught:
            store.get(product, keys)
        assert "Ann" not in str(caught.value)
        assert not caught.value.temporary


@pytest.mark.parametrize("entity", [("id",), ("name", "id")])
def test_sqlite_searches_its_index(tmp_path: Path, entity: tuple[str, ...]) -> None:
    url = f"sqlite:///{tmp_path / 'features.db'}"
    store, product = OnlineStore(url), keyed_by(*entity)
    publish_keys(store, product, [("a", 1)[-len(entity) :]])
    statements = Statements(FeatureTables(product, Sqlite(1)))
    keys = [("a", n)[-len(entity) :] for n in range(100)]
    for query, values in (
        (statements.row_of_key(), {f"key_{n}": value for n, value in enumerate(keys[0])}),
        (statements.rows_of_keys(keys), {}),
    ):
        compiled = query.params(values).compile(
            dialect=Sqlite.sql, compile_kwargs={"literal_binds": True, "render_postcompile": True}
        )
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
        steps = [step[-1] for step in plan if "shop_features" in step[-1]]
        assert steps
        assert all("USING PRIMARY KEY" in step for step in steps), steps
