"""The store keeps each entity's newest features, whatever is published when; the same on every database.

Nothing here knows which database it is: `make test-online URL=…` runs it against any.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ml_platform.contract.product import Product
from ml_platform.online_store.store import OnlineStore, OnlineStoreError, PublicationOvertakenError
from ml_platform_tests.online_store.rows import (
    MONDAY,
    THURSDAY,
    TUESDAY,
    WEDNESDAY,
    batches,
    publish,
    row,
    spends,
)
from ml_platform_tests.small_platform import shop, shop_contract

FRIDAY = THURSDAY + timedelta(days=1)


@pytest.fixture
def store(online_url: str) -> Iterator[OnlineStore]:
    store = OnlineStore(online_url, lock_timeout=30)
    yield store
    store.close()


def tables(url: str) -> set[str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return {name for name in sa.inspect(engine).get_table_names() if name.startswith("shop_features")}


# -- newer wins --------------------------------------------------------------------------------------


def test_an_older_day_never_overwrites_a_newer_one(store: OnlineStore) -> None:
    product = shop()
    first = publish(store, product, [row("a", TUESDAY, 2.0), row("b", MONDAY, 1.0)])
    assert (first.published, first.older, first.entities, first.newest_day) == (2, 0, 2, TUESDAY)
    second = publish(store, product, [row("a", MONDAY, 1.0), row("b", MONDAY, 1.0)])
    assert (second.published, second.older, second.entities, second.newest_day) == (1, 1, 2, TUESDAY)
    found = store.get(product, [["a"], ["b"], ["nobody"]])
    assert [one["spend"] if one else None for one in found] == [2.0, 1.0, None]


def test_of_one_day_the_newer_version_of_the_mrds_wins(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0)], version=3)
    publish(store, product, [row("a", MONDAY, None)], version=4)
    (found,) = store.get(product, [["a"]])
    assert found is not None
    assert found["spend"] is None
    assert found["mrds_version"] == 4
    assert abs(found["published_at"] - datetime.now(UTC).replace(tzinfo=None)) < timedelta(hours=1)
    with pytest.raises(PublicationOvertakenError, match="2024-01-01 is published from version 4"):
        publish(store, product, [row("a", MONDAY, 9.0)], version=3)
    assert spends(store, product) == [("a", MONDAY, None)]


def test_publishing_again_changes_nothing(store: OnlineStore) -> None:
    product = shop()
    rows = [row("a", MONDAY, 1.0), row("b", MONDAY, 2.0)]
    first = publish(store, product, rows, version=1)
    stored = spends(store, product)
    second = publish(store, product, rows, version=1)
    assert spends(store, product) == stored
    assert (first.published, second.published, second.older) == (2, 2, 0)


def test_days_in_any_order_give_the_same_store(store: OnlineStore, online_url: str) -> None:
    product = shop()
    publications = {
        MONDAY: [row("a", MONDAY, 1.0), row("b", MONDAY, 1.0)],
        TUESDAY: [row("b", TUESDAY, 2.0), row("c", TUESDAY, 2.0)],
        WEDNESDAY: [row("c", WEDNESDAY, 3.0), row("d", WEDNESDAY, 3.0)],
    }
    for order in itertools.permutations(publications):
        for day in order:
            publish(store, product, publications[day], version=1)
        assert spends(store, product) == [
            ("a", MONDAY, 1.0),
            ("b", TUESDAY, 2.0),
            ("c", WEDNESDAY, 3.0),
            ("d", WEDNESDAY, 3.0),
        ], order
        publish(store, product, [], version=1, days=list(publications))
        assert spends(store, product) == []


def test_an_entity_that_left_its_day_falls_back_or_goes(store: OnlineStore) -> None:
    product = shop()
    monday = [row("a", MONDAY, 1.0)]
    publish(store, product, monday, version=1)
    publish(store, product, [row(name, TUESDAY, 2.0) for name in "abc"], version=2)
    merged = publish(store, product, [row("b", TUESDAY, 3.0)], version=3, days=[TUESDAY], earlier=monday)
    assert (merged.withdrawn, merged.published, merged.entities) == (2, 2, 2)
    assert spends(store, product) == [("a", MONDAY, 1.0), ("b", TUESDAY, 3.0)]


def test_of_several_rows_to_fall_back_to_the_newest_counts(store: OnlineStore) -> None:
    """The range is Monday and Wednesday: Monday's row is staged with it, and Tuesday's is the newer one."""
    product = shop()
    days = [row("a", day, value) for day, value in ((MONDAY, 1.0), (TUESDAY, 2.0), (WEDNESDAY, 3.0))]
    for n, one in enumerate(days):
        publish(store, product, [one], version=n)
    merged = publish(store, product, days[:1], version=5, days=[MONDAY, WEDNESDAY], earlier=[days[1]])
    assert merged.withdrawn == 1
    assert spends(store, product) == [("a", TUESDAY, 2.0)]


def test_a_row_from_a_newer_version_is_not_withdrawn(store: OnlineStore) -> None:
    """Monday's row is there because a newer version of Tuesday let the entity fall back to it."""
    product = shop()
    publish(store, product, [row("a", TUESDAY, 2.0)], version=1)
    publish(store, product, [], version=6, days=[TUESDAY], earlier=[row("a", MONDAY, 1.0)])
    publish(store, product, [], version=5, days=[MONDAY])
    assert spends(store, product) == [("a", MONDAY, 1.0)]
    publish(store, product, [], version=7, days=[MONDAY])
    assert spends(store, product) == []


# -- all or nothing ----------------------------------------------------------------------------------


def test_a_publication_that_fails_leaves_nothing(store: OnlineStore, online_url: str) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0)])

    def publish_half() -> None:
        with store.publication(product, version=1, days=[TUESDAY]) as publication:
            publication.stage(batches([row("a", TUESDAY, 9.0)]))
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        publish_half()
    assert spends(store, product) == [("a", MONDAY, 1.0)]
    publish(store, product, [row("b", MONDAY, 1.0)], days=[TUESDAY])
    assert tables(online_url) == {"shop_features", "shop_features_days", "shop_features_forgotten"}


def test_readers_see_all_of_a_publication_or_nothing(store: OnlineStore, online_url: str) -> None:
    product = shop()
    names = [f"c{n:03d}" for n in range(300)]
    days = [MONDAY + timedelta(days=n) for n in range(8)]
    publish(store, product, [row(name, days[0], 0.0) for name in names])
    done, seen = threading.Event(), set()

    def read() -> None:
        reader = OnlineStore(online_url)
        while True:
            last = done.is_set()
            found = reader.get(product, [[name] for name in names])
            seen.add(frozenset(one["event_day"] if one else None for one in found))
            if last:
                return reader.close()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for n, day in enumerate(days[1:], 1):
            publish(store, product, [row(name, day, float(n)) for name in names])
        done.set()
        reading.result()
    assert seen <= {frozenset({day}) for day in days}
    assert frozenset({days[-1]}) in seen


def test_publications_in_parallel_lose_nothing(store: OnlineStore, online_url: str) -> None:
    """Eight days at once, each through a store of its own; every customer is on some of them."""
    product = shop()
    days = [MONDAY + timedelta(days=n) for n in range(8)]
    present = {
        day: [f"c{c:02d}" for c in range(60) if (c * 7 + n * 13) % 5 < 2] for n, day in enumerate(days)
    }
    together = threading.Barrier(len(days))

    def publish_day(day: date) -> None:
        one = OnlineStore(online_url, lock_timeout=60)
        together.wait()
        with one.publication(product, version=1, days=[day]) as publication:
            publication.stage(batches([row(name, day, float(day.day)) for name in present[day]]))
            assert list(publication.withdrawn()) == []
            merged = publication.merge()
        one.read_back(product, merged)
        one.close()

    with ThreadPoolExecutor(len(days)) as pool:
        for future in [pool.submit(publish_day, day) for day in days]:
            future.result()
    newest = {name: day for day in days for name in present[day]}
    assert spends(store, product) == [(name, day, float(day.day)) for name, day in sorted(newest.items())]


def test_of_two_publications_of_one_day_at_once_the_newer_version_stays(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0), row("b", MONDAY, 1.0)], version=1)
    with store.publication(product, version=2, days=[MONDAY]) as slow:
        slow.stage(batches([row("a", MONDAY, 2.0), row("b", MONDAY, 2.0)]))
        publish(store, product, [row("a", MONDAY, 3.0)], version=3)
        with pytest.raises(PublicationOvertakenError):
            slow.merge()
    assert spends(store, product) == [("a", MONDAY, 3.0)]


def test_a_row_that_came_while_rows_were_staged_is_not_deleted_unseen(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0)], version=1)
    with store.publication(product, version=2, days=[TUESDAY]) as slow:
        slow.stage(batches([row("a", TUESDAY, 2.0)]))
        assert list(slow.withdrawn()) == []
        publish(store, product, [row("b", TUESDAY, 1.0)], version=1)
        with pytest.raises(PublicationOvertakenError, match="came first"):
            slow.merge()
    assert spends(store, product) == [("a", MONDAY, 1.0), ("b", TUESDAY, 1.0)]


def test_reading_back_something_else_is_an_error(store: OnlineStore, online_url: str) -> None:
    product = shop()
    merged = publish(store, product, [row("a", MONDAY, 1.0), row("b", MONDAY, 2.0)])
    assert store.read_back(product, merged) == 2
    engine = sa.create_engine(online_url, poolclass=sa.NullPool)
    table = sa.Table("shop_features", sa.MetaData(), autoload_with=engine)
    for change, match in (
        (sa.update(table).values(spend=7.0), "other values of spend"),
        (sa.delete(table).where(table.c.customer == "a"), "1 entities to 2024-01-01, not 2 to 2024-01-01"),
    ):
        publish(store, product, [row("a", MONDAY, 1.0), row("b", MONDAY, 2.0)])
        merged = publish(store, product, [row("a", MONDAY, 1.0), row("b", MONDAY, 2.0)])
        with engine.begin() as connection:
            connection.execute(change)
        with pytest.raises(OnlineStoreError, match=match) as caught:
            store.read_back(product, merged)
        assert not caught.value.temporary


# -- what is stored ----------------------------------------------------------------------------------

ODD = 'spend "net" 100%'


def everything() -> Product:
    """A product with a column of every type, a composite entity and a name that needs quoting."""
    columns = {
        "visit": {"type": "long"},
        "day": {"type": "date"},
        "region": {"type": "string"},
        "number": {"type": "long"},
        ODD: {"type": "double", "nullable": True},
        "text": {"type": "string", "nullable": True},
        "small": {"type": "integer", "nullable": True},
        "big": {"type": "long", "nullable": True},
        "flag": {"type": "boolean", "nullable": True},
        "since": {"type": "date", "nullable": True},
        "at": {"type": "timestamp", "nullable": True},
        "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
    }
    values = ("text", "small", "big", "flag", "since", "at", "bought", ODD)
    return shop(
        source__columns=columns,
        mrds={"entity": ["region", "number"], "aggregate": dict.fromkeys(values, "max")},
        model__features={"numeric": ["small"], "categorical": []},
        validation={"minimum_rows": 1},
    )


def utc(text: str) -> datetime:
    """A time as the store gives it: UTC, without a zone."""
    return datetime.fromisoformat(text)


def test_every_value_comes_back_as_it_went(store: OnlineStore) -> None:
    product = everything()
    texts = ["", "null", r"\N", "\\.", "a\tb\nc\r\nd\\e", "\"quoted\", 'single'", "Zoë 🛫", "%s :x ?", None]
    numbers = [0.1 + 0.2, -1.5e300, 5e-324, 1 / 3, 0.0, None]
    longs = [2**63 - 1, -(2**63), 0, None]
    rows = [
        {
            "region": "Süd, 'x'",
            "number": n,
            "event_day": MONDAY,
            "text": texts[n % len(texts)],
            "small": (2**31 - 1, -(2**31), None)[n % 3],
            "big": longs[n % 4],
            "flag": (True, False, None)[n % 3],
            "since": (date(1970, 1, 1), date(9999, 12, 31), None)[n % 3],
            "at": (utc("2024-02-29T23:59:59.999999"), utc("1900-01-01"), None)[n % 3],
            ODD: numbers[n % 6],
        }
        for n in range(-18, 18)
    ]
    with store.publication(product, version=1, days=[MONDAY]) as publication:
        publication.stage([pa.RecordBatch.from_pylist(rows)])
        merged = publication.merge()
    store.read_back(product, merged)
    keys = [(one["region"], one["number"]) for one in rows]
    found = store.get(product, keys)
    assert [one and {name: one[name] for name in rows[0]} for one in found] == rows
    assert all(type(one["flag"]) in (bool, type(None)) for one in found if one)
    with_label = {name for one in found if one for name in one}
    assert with_label == {*rows[0], "mrds_version", "published_at"}
    assert store.get(product, [("Süd, 'x'", 99), ("süd, 'x'", 1)]) == [None, None]
    assert store.forget(product, [keys[0], ("nowhere", 1)], reason="asked") == 1
    assert store.get(product, keys[:2]) == [None, found[1]]


def test_nan_is_null_and_times_are_utc(store: OnlineStore) -> None:
    product = everything()
    at = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    one = dict.fromkeys(("text", "small", "big", "flag", "since"))
    batch = pa.Table.from_pylist(
        [{"region": "r", "number": 1, "event_day": MONDAY, **one, "at": at, ODD: float("nan")}]
    )
    with store.publication(product, version=1, days=[MONDAY]) as publication:
        publication.stage(batch.to_batches())
        store_back = publication.merge()
    assert store.read_back(product, store_back) == 1
    (found,) = store.get(product, [("r", 1)])
    assert found is not None
    assert found[ODD] is None
    assert found["at"] == utc("2024-01-01T10:00")


def test_many_keys_come_back_in_order(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row(f"c{n:05d}", MONDAY, float(n)) for n in range(2_000)])
    asked = [(n * 977) % 2_500 for n in range(3_000)]
    found = store.get(product, [[f"c{n:05d}"] for n in asked])
    assert [one["spend"] if one else None for one in found] == [n if n < 2_000 else None for n in asked]
    assert store.get(product, []) == []
    for act in (store.get, store.unforget):
        with pytest.raises(OnlineStoreError, match="a key is a sequence of customer, not 'c00001'"):
            act(product, ["c00001"])


# -- contracts change --------------------------------------------------------------------------------


def with_rules(**rules: str | None) -> Product:
    """The product with other aggregates; None takes a column out."""
    rules = {"spend": "sum", "pages": "max", "channel": "last", "visit": "count", "bought": "last", **rules}
    return shop(mrds__aggregate={name: rule for name, rule in rules.items() if rule})


def test_a_new_feature_adds_its_column(store: OnlineStore) -> None:
    publish(store, with_rules(visit=None), [row("a", MONDAY, 1.0), row("b", MONDAY, 1.0)])
    product = with_rules()
    (before,) = store.get(product, [["a"]])
    assert before is not None
    assert (before["spend"], before["visit"]) == (1.0, None)
    publish(store, product, [row("a", TUESDAY, 2.0)])
    found = store.get(product, [["a"], ["b"]])
    assert [one["visit"] if one else "gone" for one in found] == [1, None]


def test_rows_say_until_when_they_hold_once_the_contract_does(store: OnlineStore) -> None:
    """A column of its own, which is null of what was published before, and empties when it goes."""
    forever, for_days = shop(), shop(online={"expires_after_days": 2})
    publish(store, forever, [row("a", MONDAY, 1.0), row("b", MONDAY, 1.0)])
    assert [one["valid_until"] if one else "gone" for one in store.get(for_days, [["a"]])] == [None]
    publish(store, for_days, [row("a", TUESDAY, 2.0), row("c", WEDNESDAY, 3.0)], version=1)
    found = store.get(for_days, [["a"], ["b"], ["c"]])
    assert [one["valid_until"] if one else "gone" for one in found] == [THURSDAY, None, FRIDAY]
    publish(store, forever, [row("a", THURSDAY, 2.0)], version=2)
    (now,) = store.get(forever, [["a"]])
    assert now is not None
    assert "valid_until" not in now
    assert [one["valid_until"] for one in store.rows(for_days)] == [None, None, FRIDAY]
    # Another rule counts for what is published from then on.
    longer = shop(online={"expires_after_days": 3})
    publish(store, longer, [row("b", MONDAY, 1.0)], version=3, days=[MONDAY])
    assert [one["valid_until"] for one in store.rows(longer)] == [None, THURSDAY, FRIDAY]


def test_a_column_of_the_contract_is_not_taken_for_the_date(store: OnlineStore) -> None:
    def product(**changes: Any) -> Product:
        content = shop_contract()
        column = {"type": "date", "nullable": True}
        return shop(
            source__columns={**content["source"]["columns"], "valid_until": column},
            mrds__aggregate={**content["mrds"]["aggregate"], "valid_until": "max"},
            **changes,
        )

    one = row("a", MONDAY, 1.0) | {"valid_until": TUESDAY}
    publish(store, product(), [one])
    assert [found["valid_until"] for found in store.rows(product())] == [TUESDAY]
    with pytest.raises(OnlineStoreError, match="a column 'valid_until' of its own; rename the contract's"):
        publish(store, product(online={"expires_after_days": 2}), [one])


def test_a_feature_that_the_contract_drops_stays_unread_and_empties(store: OnlineStore) -> None:
    full, less = with_rules(), with_rules(visit=None)
    publish(store, full, [row("a", MONDAY, 1.0), row("b", MONDAY, 1.0)])
    publish(store, less, [row("a", TUESDAY, 2.0)])
    (found,) = store.get(less, [["a"]])
    assert found is not None
    assert "visit" not in found
    assert [one["visit"] for one in store.rows(full)] == [None, 1]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (lambda: with_rules(pages="mean"), "pages is INTEGER, the contract needs "),
        (
            lambda: shop(
                mrds__entity=["visit"],
                mrds__aggregate={
                    "spend": "sum",
                    "pages": "max",
                    "channel": "last",
                    "customer": "last",
                    "bought": "last",
                },
            ),
            "its entity is customer, the contract's is visit",
        ),
    ],
)
def test_a_contract_that_does_not_fit_is_refused_with_what_to_do(
    store: OnlineStore, changed: Any, problem: str
) -> None:
    publish(store, shop(), [row("a", MONDAY, 1.0)])
    with pytest.raises(OnlineStoreError) as caught, store.publication(changed(), version=1, days=[MONDAY]):
        pass
    assert problem in str(caught.value)
    assert "Drop the tables shop_features and shop_features_days" in str(caught.value)
    assert not caught.value.temporary
    assert spends(store, shop()) == [("a", MONDAY, 1.0)]


def test_tombstones_of_another_entity_are_not_lost_silently(store: OnlineStore, online_url: str) -> None:
    by_visit = shop(
        mrds__entity=["visit"],
        mrds__aggregate={"spend": "sum", "pages": "max", "channel": "last", "bought": "last"},
    )
    store.forget(shop(), [["a"]], reason="asked")
    engine = sa.create_engine(online_url, poolclass=sa.NullPool)

    def drop(*names: str) -> None:
        with engine.begin() as connection:
            for name in names:
                sa.Table(name, sa.MetaData()).drop(connection)

    drop("shop_features", "shop_features_days")
    with pytest.raises(OnlineStoreError, match="keeps entities to forget by customer, and"):
        store.forget(by_visit, [[1]], reason="asked")
    assert store.unforget(shop(), [["a"]]) == 1
    drop("shop_features", "shop_features_days")
    assert store.forget(by_visit, [[1]], reason="asked") == 0
    assert store.unforget(by_visit, [[1]]) == 1


def test_a_feature_with_a_name_of_the_stores_own_is_refused(store: OnlineStore) -> None:
    columns = {
        "visit": {"type": "long"},
        "day": {"type": "date"},
        "customer": {"type": "string"},
        "Published_At": {"type": "timestamp"},
        "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
    }
    product = shop(
        source__columns=columns,
        mrds={"entity": ["customer"], "aggregate": {"Published_At": "max", "bought": "max"}},
        model__features={"numeric": [], "categorical": ["customer"]},
        validation={"minimum_rows": 1},
    )
    with pytest.raises(OnlineStoreError, match="'Published_At' of its own; rename the contract's"):
        store.get(product, [["a"]])


def test_a_store_without_the_product_knows_nobody(store: OnlineStore) -> None:
    assert store.get(shop(), [["a"], ["b"]]) == [None, None]


# -- forgetting --------------------------------------------------------------------------------------


def test_a_forgotten_entity_stays_away_until_it_is_unforgotten(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", WEDNESDAY, 3.0), row("b", WEDNESDAY, 3.0)], version=1)
    assert store.forget(product, [["a"], ["nobody"]], reason="ticket 7") == 1
    assert store.forget(product, [["a"]], reason="again") == 0
    assert store.get(product, [["a"]]) == [None]
    for day in (MONDAY, THURSDAY, WEDNESDAY):
        merged = publish(
            store, product, [row("a", day, 1.0), row("nobody", day, 1.0), row("b", day, 1.0)], version=2
        )
        assert merged.forgotten == 2
    assert spends(store, product) == [("b", THURSDAY, 1.0)]
    assert store.unforget(product, [["a"], ["c"]]) == 1
    assert store.get(product, [["a"]]) == [None]
    publish(store, product, [row("a", MONDAY, 5.0)], version=3)
    assert spends(store, product) == [("a", MONDAY, 5.0), ("b", THURSDAY, 1.0)]


def test_an_entity_can_be_forgotten_before_it_comes(store: OnlineStore) -> None:
    product = shop()
    assert store.forget(product, [[f"c{n}"] for n in range(500)], reason="never asked to be here") == 0
    publish(store, product, [row("c1", MONDAY, 1.0), row("c500", MONDAY, 1.0)])
    assert spends(store, product) == [("c500", MONDAY, 1.0)]


def test_forgetting_while_a_publication_is_under_way_counts(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0)])
    with store.publication(product, version=1, days=[TUESDAY]) as publication:
        publication.stage(batches([row("a", TUESDAY, 2.0), row("b", TUESDAY, 2.0)]))
        assert store.forget(product, [["a"]], reason="now") == 1
        merged = publication.merge()
    store.read_back(product, merged)
    assert spends(store, product) == [("b", TUESDAY, 2.0)]


def test_forgetting_needs_a_reason(store: OnlineStore) -> None:
    with pytest.raises(OnlineStoreError, match="needs a reason"):
        store.forget(shop(), [["a"]], reason=" ")
