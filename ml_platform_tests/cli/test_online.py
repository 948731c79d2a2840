"""`ml-platform online …` on an embedded store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ml_platform.online_store.store import OnlineStore
from ml_platform.settings import Settings
from ml_platform_tests.cli.test_cli import home, run
from ml_platform_tests.online_store.rows import MONDAY, TUESDAY, publish, row, spends
from ml_platform_tests.small_platform import shop, shop_contract

__all__ = ["home"]


@pytest.fixture
def store(home: Path) -> OnlineStore:
    store = OnlineStore(Settings().online_url)
    publish(store, shop(), [row(name, MONDAY, 1.0) for name in ("ann", "Miller, Bob", "eve")])
    return store


def test_get_says_which_features_do_not_hold_any_more(home: Path, store: OnlineStore) -> None:
    products = home / "contracts"
    content = shop_contract(online={"expires_after_days": 30_000})
    (products / "shop.yaml").write_text(yaml.safe_dump(content))
    code, lines = run("online", "get", "shop", "ann", "nobody", "--json")
    assert code == 0
    found = [json.loads(line) for line in lines.splitlines() if line.startswith(("{", "null"))]
    assert [one and one["expired"] for one in found] == [False, None]
    content["online"]["expires_after_days"] = 2
    (products / "shop.yaml").write_text(yaml.safe_dump(content))
    code, output = run("online", "get", "shop", "ann", "eve")
    assert code == 0
    assert "Not served any more, since newer ones should have come: the features of ann, eve" in " ".join(
        output.split()
    )
    assert json.loads(run("online", "get", "shop", "ann", "--json")[1])["expired"] is True


def test_forget_deletes_entities_until_they_are_unforgotten(store: OnlineStore) -> None:
    product = shop()
    code, output = run("online", "forget", "shop", "ann", '"Miller, Bob"', "nobody", "--reason", "request 7")
    assert code == 0
    assert "3 keys forgotten; 2 of them had features." in output
    tuesday = [row(name, TUESDAY, 2.0) for name in ("ann", "Miller, Bob", "eve")]
    publish(store, product, tuesday, version=1)
    assert spends(store, product) == [("eve", TUESDAY, 2.0)]
    code, output = run("online", "unforget", "shop", "ann", "eve")
    assert code == 0
    assert "1 of 2 keys had been forgotten" in output
    publish(store, product, tuesday, version=1)
    assert spends(store, product) == [("ann", TUESDAY, 2.0), ("eve", TUESDAY, 2.0)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("shop", "a,b", "--reason", "x"), "'a,b' is no key of shop: accepted is customer"),
        (("shoe", "a", "--reason", "x"), "unknown product 'shoe'"),
        (("shop", "a", "--reason", " "), "forgetting needs a reason"),
    ],
)
def test_a_wrong_request_says_what_is_accepted(home: Path, arguments: tuple[str, ...], expected: str) -> None:
    code, output = run("online", "forget", *arguments)
    assert code == 1
    assert expected in output.replace("\n", " ")


def test_a_store_that_is_away_is_an_error_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:geheim@127.0.0.1:1/features"
    monkeypatch.setenv("ML_PLATFORM_ONLINE_STORE_URL", url)
    code, output = run("online", "forget", "shop", "a", "--reason", "x")
    assert code == 1
    assert "the store can't be reached" in output.replace("\n", " ")
    assert "geheim" not in output
