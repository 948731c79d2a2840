"""What a contract may say of derived columns; and what it can't."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.product import Product
from ml_platform_tests.small_platform import shop, shop_contract

DERIVE: dict[str, Any] = {
    "is_much": "worth > 100",
    "worth": {"expression": "spend * pages", "description": "of a visit"},
    "kind": "upper(channel)",
}


def product(derive: dict[str, Any], **changes: Any) -> Product:
    return shop(source__derive=derive, **changes)


def test_their_types_follow_from_the_expressions_in_whatever_order_they_stand() -> None:
    found = product(DERIVE)
    assert {name: found.columns[name].type for name in DERIVE} == {
        "is_much": "boolean",
        "worth": "double",
        "kind": "string",
    }
    assert list(found.derived) == ["worth", "is_much", "kind"]
    assert list(pickle.loads(pickle.dumps(found)).derived) == list(found.derived)
    assert "of a visit" in found.meanings["worth"]
    assert set(DERIVE) <= {*found.data_set_columns("ards")}
    assert not set(DERIVE) & {*found.source.header_names.values()}


def test_what_is_made_of_a_sensitive_column_is_sensitive() -> None:
    content = shop_contract(source__derive=DERIVE | {"plain": {"expression": "pages + 1", "sensitive": True}})
    content["source"]["columns"]["spend"]["sensitive"] = True
    assert parse_product(content, "shop.yaml").sensitive == {"spend", "worth", "is_much", "plain"}


def test_another_expression_is_another_ards_and_other_words_are_not() -> None:
    one, other = product({"worth": "spend * pages"}), product({"worth": "spend + pages"})
    assert one.hash_of("source") != other.hash_of("source")
    described = product({"worth": {"expression": "spend * pages", "sensitive": True, "description": "so"}})
    assert described.hash_of("source") == one.hash_of("source")
    assert shop().hash_of("source") == product({}).hash_of("source")


def test_a_column_of_the_mrds_is_another_one_by_another_expression() -> None:
    def definitions(text: str) -> set[str | None]:
        found = product(
            {"base": text, "worth": "base * 2"},
            mrds__aggregate={**shop_contract()["mrds"]["aggregate"], "worth": "sum"},
            mrds__features={"worth_7": {"sum": "worth", "days": 7}, "twice": {"expression": "worth * 2"}},
        )
        return {found.definition_of(name) for name in ("worth", "worth_7", "twice")}

    assert definitions("spend").isdisjoint(definitions("spend + 1"))


@pytest.mark.parametrize(
    ("derive", "message"),
    [
        ({"x": "spend + nothing"}, r"source.derive.x: .*nothing"),
        ({"x": "bought + 1"}, r"source.derive.x: .*no column is called 'bought'"),
        ({"x": "sum(spend)"}, r"source.derive.x"),
        ({"x": "(select 1)"}, r"source.derive.x"),
        ({"x": "channel * 2"}, r"source.derive.x"),
        ({"x": ""}, "derive"),
        ({"x": 3}, "derive"),
        ({"x": {"description": "none"}}, "expression"),
        ({"a": "b + 1", "b": "a + 1"}, "made of itself: a → b → a"),
        ({"a": "a + 1"}, "made of itself: a → a"),
        ({"spend": "pages + 1"}, "'spend' is declared twice"),
        ({"Spend": "pages + 1"}, "is declared twice"),
        ({"event_day": "pages + 1"}, "reserved"),
        ({"label_known_on": "pages + 1"}, "reserved"),
        ({"_x": "pages + 1"}, "begins with an underscore"),
    ],
)
def test_what_they_cant_say(derive: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        product(derive)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mrds__entity": ["kind"]}, "mrds.entity: 'kind' is derived"),
        ({"source__key": ["kind"]}, "kind"),
        ({"mrds__aggregate": {"kind": "sum", "bought": "last"}}, "sum needs a number"),
        ({"mrds__features": {"worth": {"sum": "spend", "days": 3}}}, "the column 'worth' of source.derive"),
        ({"mrds__features": {"x": {"sum": "kind", "days": 3}}}, "sum needs a number"),
        ({"validation__ranges": {"kind": {"minimum": 1}}}, "a range is for numbers"),
    ],
)
def test_what_doesnt_go_with_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        product(DERIVE, **changes)
