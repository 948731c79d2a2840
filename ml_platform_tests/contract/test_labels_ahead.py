"""What a contract may say of a label that looks ahead; and what it can't."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from ml_platform.cli.contracts import in_words
from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.product import Product
from ml_platform_tests.small_platform import shop, shop_contract


def contract(label: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    content = shop_contract(**changes)
    del content["source"]["label"], content["source"]["columns"]["bought"]
    content["source"].pop("label_delay_days", None)
    del content["mrds"]["aggregate"]["bought"]
    if label is not None:
        content["mrds"]["label"] = label
    return content


def product(label: dict[str, Any], **changes: Any) -> Product:
    return parse_product(contract(label, **changes), "shop.yaml")


def test_the_label_is_a_column_of_its_own_and_known_when_its_days_are_over() -> None:
    found = product({"any": "visit", "within_days": 5, "name": "comes_back"}, model__first_month=None)
    assert (found.label, found.task_name, found.mrds_type(found.label)) == ("comes_back", "binary", "integer")
    assert "comes_back" not in found.features
    assert found.last_labelled_day(date(2024, 3, 1)) == date(2024, 2, 24)
    assert found.first_month == date(2024, 3, 1)
    assert found.label_file_columns == frozenset()


def test_a_changed_label_is_another_mrds_and_the_same_ards() -> None:
    one, other = (product({"any": "visit", "within_days": days}) for days in (5, 6))
    assert one.hash_of("source") == other.hash_of("source")
    assert one.hash_of("mrds") != other.hash_of("mrds")


def test_a_label_of_a_sensitive_column_is_sensitive() -> None:
    content = contract({"any": "visit", "within_days": 5, "where": "channel = 'web'"})
    content["source"]["columns"]["channel"]["sensitive"] = True
    assert "label" in parse_product(content, "shop.yaml").sensitive


def test_check_says_what_it_is() -> None:
    lines = "\n".join(in_words(product({"none": "visit", "within_days": 1, "where": "pages > 2"})))
    assert "no label comes with them" in lines
    assert "Its label label is 1 if an entity has no visit in the next day, where pages > 2" in lines


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"within_days": 3}, "one rule is needed"),
        ({"any": "visit", "none": "visit", "within_days": 3}, "one rule is needed"),
        ({"any": "visit"}, "within_days"),
        ({"any": "visit", "within_days": 0}, "greater than or equal to 1"),
        ({"any": "visit", "within_days": 40_000}, "36600"),
        ({"any": "visit", "within_days": 3, "patience_days": -1}, "greater than or equal to 0"),
        ({"any": "visit", "within_days": 3, "at_least": 2}, "sum and at_least go together"),
        ({"sum": "spend", "within_days": 3}, "sum and at_least go together"),
        ({"sum": "spend", "within_days": 3, "at_least": 0}, "must be above 0"),
        ({"sum": "channel", "within_days": 3, "at_least": 1}, "a sum needs a number"),
        ({"any": "nothing", "within_days": 3}, "'nothing' is not declared in source.columns"),
        ({"any": "day", "within_days": 3}, "is the event day"),
        ({"any": "visit", "within_days": 3, "name": "spend"}, "is the name of the column 'spend'"),
        ({"any": "visit", "within_days": 3, "name": "Spend"}, "mrds.label.name"),
        ({"any": "visit", "within_days": 3, "name": "event_day"}, "reserved"),
        ({"any": "visit", "within_days": 3, "where": "nothing = 1"}, "mrds.label.where"),
        ({"any": "visit", "within_days": 3, "where": "pages + 1"}, "mrds.label.where"),
    ],
)
def test_what_it_cant_say(label: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        product(label)


def test_there_is_one_label() -> None:
    with pytest.raises(ContractError, match=r"source.label: this key is required"):
        parse_product(contract(None), "shop.yaml")
    with pytest.raises(ContractError, match=r"source.label and mrds.label"):
        shop(mrds__label={"any": "visit", "within_days": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source__label_delay_days": 3}, "label_delay_days: it is of a label that is delivered"),
        ({"validation__not_null": ["label"]}, "null until its days are over"),
        ({"model__task": "regression"}, "a label that looks ahead"),
        ({"end": "2024-01-04"}, "within_days"),
    ],
)
def test_what_doesnt_go_with_it(changes: dict[str, Any], message: str) -> None:
    content = contract({"any": "visit", "within_days": 5})
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    with pytest.raises(ContractError, match=message):
        parse_product(content, "shop.yaml")


def test_the_label_is_no_feature() -> None:
    with pytest.raises(ContractError, match="is the label"):
        product({"any": "visit", "within_days": 5}, model__features={"numeric": ["label"]})
    with pytest.raises(ContractError, match="no column is called 'label'"):
        product({"any": "visit", "within_days": 5}, mrds__features={"x": {"expression": "label + 1"}})


def test_who_is_scored_beside_those_with_rows_of_the_day() -> None:
    found = product({"any": "visit", "within_days": 5}, mrds__population={"active_within_days": 90})
    assert "those are scored that had any in the 90 days up to it" in "\n".join(in_words(found))
    with pytest.raises(ContractError, match=r"mrds.population: .*mrds.label"):
        shop(mrds__population={"active_within_days": 90})
    for wrong in (0, -1, 40_000, None, "all"):
        with pytest.raises(ContractError, match="active_within_days"):
            product({"any": "visit", "within_days": 5}, mrds__population={"active_within_days": wrong})
    with pytest.raises(ContractError, match="active_within_days"):
        product({"any": "visit", "within_days": 5}, mrds__population={})
