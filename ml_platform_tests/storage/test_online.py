"""The store keeps each entity's newest features, whatever is published when."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml_platform.product import Product
from ml_platform.storage.online import OnlineStore, OnlineStoreError
from ml_platform_tests.small_platform import shop

MONDAY, TUESDAY = date(2024, 1, 1), date(2024, 1, 2)


def row(customer: str, day: date, spend: float | None) -> dict[str, Any]:
    return {"customer": customer, "event_day": day, "spend": spend, "pages": 1, "channel": "web", "visit": 1}


@pytest.fixture
def store(tmp_path: Path) -> OnlineStore:
    return OnlineStore(f"sqlite:///{tmp_path / 'online' / 'features.db'}")


def publish(store: OnlineStore, product: Product, rows: list[dict[str, Any]], version: int = 0) -> int:
    with store.publication(product) as publication:
        publication.stage(rows, version)
        return publication.merge()


def test_an_older_day_never_overwrites_a_newer_one(store: OnlineStore) -> None:
    product = shop()
    assert publish(store, product, [row("a", TUESDAY, 2.0), row("b", MONDAY, 1.0)]) == 2
    assert publish(store, product, [row("a", MONDAY, 1.0)]) == 0
    found = store.get(product, [["a"], ["b"], ["nobody"]])
    assert [one["spend"] if one else None for one in found] == [2.0, 1.0, None]
    assert store.newest_day(product) == TUESDAY


def test_a_day_published_again_brings_its_corrections(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0)], version=3)
    publish(store, product, [row("a", MONDAY, None)], version=4)
    (found,) = store.get(product, [["a"]])
    assert found is not None
    assert found["spend"] is None
    assert found["mrds_version"] == 4
    assert found["published_at"] is not None


def test_an_entity_that_left_its_day_is_withdrawn(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", TUESDAY, 2.0), row("b", TUESDAY, 2.0)])
    with store.publication(product) as publication:
        publication.stage([row("b", TUESDAY, 3.0)], 1)
        assert publication.withdraw([TUESDAY]) == [("a",)]
        publication.stage([row("a", MONDAY, 1.0)], 1)
        publication.merge()
    assert [(r["customer"], r["event_day"], r["spend"]) for r in store.rows(product)] == [
        ("a", MONDAY, 1.0),
        ("b", TUESDAY, 3.0),
    ]


def test_a_publication_that_fails_leaves_nothing(store: OnlineStore) -> None:
    product = shop()
    publish(store, product, [row("a", MONDAY, 1.0)])

    def publish_half() -> None:
        with store.publication(product) as publication:
            publication.stage([row("a", TUESDAY, 9.0)], 1)
            publication.merge()
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        publish_half()
    assert store.newest_day(product) == MONDAY


def test_a_table_with_other_columns_is_refused(store: OnlineStore) -> None:
    publish(store, shop(), [row("a", MONDAY, 1.0)])
    other = shop(
        mrds__aggregate={"spend": "sum", "pages": "max", "channel": "last", "bought": "last"},
    )
    with pytest.raises(OnlineStoreError, match="only there: \\['visit'\\]"), store.publication(other):
        pass


def test_another_kind_of_store_is_refused_without_its_password() -> None:
    with pytest.raises(OnlineStoreError) as caught:
        OnlineStore("postgresql://me:secret@db/features")
    assert "secret" not in str(caught.value)
