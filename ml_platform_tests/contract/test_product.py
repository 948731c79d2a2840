"""A wrong contract is refused with file, key path and what is accepted; a right one says what follows."""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_platform.contract.days import DayRange, add_months
from ml_platform.contract.loading import (
    SAMPLE_CONTRACTS,
    ContractError,
    load_product,
    load_products,
    parse_product,
)
from ml_platform.contract.product import Product
from ml_platform_tests.small_platform import SHOP, shop


def broken(path: str, value: Any, *, delete: bool = False) -> str:
    """The error of ``shop`` with one value changed."""
    content = copy.deepcopy(SHOP)
    *sections, last = path.split(".")
    place = content
    for section in sections:
        place = place[section]
    if delete:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(ContractError) as caught:
        parse_product(content, "shop.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("colour", "red", ["shop.yaml", "colour", "unknown key", "accepted are name, description"]),
        ("source.delimeter", ";", ["source.delimeter", "unknown key", "delimiter"]),
        ("model.estimator.clas", "x", ["model.estimator.clas", "accepted are class, params"]),
        ("source.columns.pages.typ", "x", ["source.columns.pages.typ", "unknown key", "nullable"]),
        ("drift", {"thresholds": {"spnd": 0.3}}, ["drift.thresholds: there is no column 'spnd'", "pages"]),
        ("mrds.entity", ["client"], ["mrds.entity", "'client' is not declared", "customer"]),
        ("source.key", ["id"], ["source", "key names the column 'id'", "declared are visit, day"]),
        ("mrds.aggregate.channel", "sum", ["mrds.aggregate.channel", "sum needs a number", "first, last"]),
        ("mrds.aggregate.channel", "mode", ["mrds.aggregate.channel", "'min', 'max', 'sum'"]),
        ("model.features.numeric", ["bought"], ["model.features.numeric", "'bought' is the label"]),
        ("model.features.numeric", ["channel"], ["model.features.numeric", "list it under categorical"]),
        ("model.features.categorical", ["colour"], ["model.features.categorical", "no column of the MRDS"]),
        ("start", "soon", ["start", "date", "found 'soon'"]),
        ("end", "2023-12-31", ["end 2023-12-31 lies before start 2024-01-01"]),
        ("timezone", "Mars/Base", ["timezone", "'Mars/Base' is not a time zone"]),
        ("model.estimator.class", "sklearn.no.Such", ["model.estimator.class", "can't be imported"]),
        ("model.estimator.class", "sklearn.svm.LinearSVR", ["no classifier with fit and predict_proba"]),
        ("model.estimator.params", {"c": 1}, ["model.estimator", "params", "argument 'c'"]),
        ("model.first_month", "2024-01", ["model.first_month", "the first possible is 2024-02"]),
        ("source.columns.bought.type", "string", ["source.columns.bought", "'1'"]),
        ("source.columns.day.type", "string", ["event day 'day' must be of type date"]),
        ("source.columns.customer.format", "%Y", ["source.columns.customer", "format is for columns"]),
        ("source.columns.channel.fill_null", "tv", ["'tv' is not among the allowed"]),
        ("name", "My Shop", ["name", "lower-case letters"]),
        ("promotion", {"margin": 0.1}, ["promotion", "non_inferior"]),
        ("promotion", {"rule": "non_inferior"}, ["promotion", "needs a margin above 0"]),
        ("promotion", {"rule": "non_inferior", "margin": 0}, ["promotion", "needs a margin above 0"]),
        ("evaluation.metric", "f2", ["evaluation.metric", "'f1'"]),
        ("source.columns.bought.fill_null", 0, ["the label 'bought' can't have fill_null"]),
        ("source.columns._raw", {"type": "string"}, ["'_raw' begins with an underscore"]),
        ("validation.ranges", {"channel": {"minimum": 1}}, ["validation.ranges.channel", "not for a string"]),
        (
            "validation.ranges",
            {"spend": {"minimum": 2, "maximum": 1}},
            ["validation.ranges.spend", "above maximum"],
        ),
        ("validation.maximum_null_share", {"spent": 0.1}, ["validation.maximum_null_share", "'spent'"]),
        ("validation.severity", {"mean": "error"}, ["validation.severity", "'mean_of_history'"]),
        (
            "validation.expectations",
            [{"type": "expect_column_meen_to_be_between", "kwargs": {"column": "spend"}}],
            ["validation.expectations.0", "knows no", "near it are expect_column_mean_to_be_between"],
        ),
        (
            "validation.expectations",
            [{"type": "expect_column_mean_to_be_between", "kwargs": {"column": "spend", "max": 1}}],
            ["validation.expectations.0", "kwargs of expect_column_mean_to_be_between: max: extra fields"],
        ),
        (
            "validation.expectations",
            [{"type": "expect_column_mean_to_be_between", "kwargs": {"column": "spent", "max_value": 1}}],
            ["validation.expectations.0: 'spent' is no column of the ARDS"],
        ),
        (
            "validation.expectations",
            [{"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": "select 1"}}],
            ["validation.expectations.0", "works on SQL databases only"],
        ),
    ],
)
def test_an_error_names_the_key_and_what_is_accepted(path: str, value: Any, expected: list[str]) -> None:
    if path == "source.columns.bought.type":
        expected = expected[:1]
    message = broken(path, value)
    for part in expected:
        assert part in message


def test_a_missing_key_is_named() -> None:
    assert "source.label: this key is required" in broken("source.label", None, delete=True)


def test_all_errors_are_told_at_once() -> None:
    content = copy.deepcopy(SHOP)
    content["start"], content["evaluation"]["threshold"] = "soon", 7
    with pytest.raises(ContractError) as caught:
        parse_product(content, "shop.yaml")
    assert str(caught.value).count("shop.yaml: ") == 2


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(SHOP) + "\nname: other\n")
    with pytest.raises(ContractError, match="'name' is given twice"):
        load_product(path)


def test_only_true_and_false_are_booleans(tmp_path: Path) -> None:
    """YAML 1.1 would take the country NO, and the key of an expectation, for booleans."""
    changed = copy.deepcopy(SHOP)
    changed["source"]["columns"]["channel"]["allowed"] = ["NO", "yes", "on"]
    changed["source"]["columns"]["channel"]["fill_null"] = "NO"
    one = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "pages", "min_value": 0}}
    changed["validation"]["expectations"] = [{**one, "on": "mrds"}]
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(changed).replace("'", ""))
    assert "\n      - NO\n" in path.read_text()
    product = load_product(path)
    assert product.source.columns["channel"].allowed == ("NO", "yes", "on")
    assert product.source.columns["bought"].nullable is True
    assert product.validation.expectations[0].on == "mrds"


def test_what_is_no_yaml_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("name: [")
    with pytest.raises(ContractError, match=r"shop\.yaml: is not valid YAML"):
        load_product(path)


def test_a_broken_contract_takes_no_other_down(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(SHOP))
    (tmp_path / "broken.yaml").write_text("name: broken")
    products, errors = load_products([tmp_path])
    assert list(products) == ["shop"]
    assert [path.name for path in errors] == ["broken.yaml"]


def test_two_contracts_with_one_name_are_both_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(SHOP))
    products, errors = load_products([tmp_path])
    assert not products
    assert sorted(path.name for path in errors) == ["a.yaml", "b.yaml"]


def test_the_shipped_contracts_are_valid() -> None:
    products, errors = load_products([SAMPLE_CONTRACTS])
    assert not errors
    assert list(products) == ["customers", "flights", "shop"]
    # A sample without an end would have every day until today missing, and the newest ones overdue.
    assert all(product.end is not None for product in products.values())


@pytest.mark.parametrize("first", [True, False])
def test_a_sample_makes_way_for_a_contract_of_its_name(tmp_path: Path, first: bool) -> None:
    (tmp_path / "our_own.yaml").write_text(yaml.safe_dump(SHOP))
    folders = [SAMPLE_CONTRACTS, tmp_path]
    products, errors = load_products(folders if first else folders[::-1])
    assert not errors
    assert list(products) == ["customers", "flights", "shop"]
    assert products["shop"] == shop()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("our_own.yaml", yaml.safe_dump({**SHOP, "start": "soon"})),
        ("shop.yaml", "name: [\n"),
        ("shop.yml", "just words"),
    ],
)
def test_a_sample_makes_way_for_a_contract_of_its_name_that_is_not_valid(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    products, errors = load_products([SAMPLE_CONTRACTS, tmp_path])
    assert [path.name for path in errors] == [name]
    assert list(products) == ["customers", "flights"], "a sample must not be taken for the broken product"


def test_two_contracts_of_a_sample_s_name_are_both_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(SHOP))
    products, errors = load_products([SAMPLE_CONTRACTS, tmp_path])
    assert sorted(path.name for path in errors) == ["a.yaml", "b.yaml"]
    assert list(products) == ["customers", "flights"]


def test_types_follow_the_aggregation() -> None:
    product = shop()
    assert product.mrds_type("visit") == "long"  # a count
    assert product.mrds_type("spend") == "double"
    assert product.mrds_type("channel") == "string"


def test_the_hash_of_a_section_ignores_the_others() -> None:
    product, other = shop(), shop(evaluation__threshold=0.5)
    assert product.hash_of("source", "mrds") == other.hash_of("source", "mrds")
    assert product.hash_of("evaluation") != other.hash_of("evaluation")


def test_what_a_column_is_said_to_mean_makes_nothing_out_of_date() -> None:
    columns = copy.deepcopy(SHOP["source"]["columns"])
    columns["spend"]["description"] = "in euros, without tax"
    product = shop(source__columns=columns)
    assert product.source.columns["spend"].description == "in euros, without tax"
    assert product.hash_of("source", "mrds") == shop().hash_of("source", "mrds")


def test_the_first_model_has_a_whole_month_before_it() -> None:
    product: Product = shop(model__first_month=None)
    assert product.first_month == date(2024, 2, 1)
    assert shop(model__first_month=None, start="2024-01-02").first_month == date(2024, 3, 1)


@pytest.mark.parametrize(
    ("delay", "first_month", "labelled"),
    [
        (0, date(2024, 2, 1), 31),
        (1, date(2024, 2, 1), 30),
        (4, date(2024, 2, 1), 27),
        (5, date(2024, 3, 1), 55),
        (7, date(2024, 3, 1), 53),
        (30, date(2024, 3, 1), 30),
        (60, date(2024, 4, 1), 31),
        (90, date(2024, 5, 1), 31),
        (180, date(2024, 8, 1), 33),
    ],
)
def test_before_the_first_model_the_labels_of_a_month_can_be_known(
    delay: int, first_month: date, labelled: int
) -> None:
    product = shop(model__first_month=None, source__label_delay_days=delay)
    assert product.first_month == first_month
    assert len(DayRange(product.start, product.last_labelled_day(first_month))) == labelled


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(
    ("start", "first_month"), [("2023-02-01", "2023-03-01"), ("2023-01-31", "2023-03-01")]
)
def test_labels_of_a_day_or_none_move_no_first_model(delay: int, start: str, first_month: str) -> None:
    product = shop(model__first_month=None, start=start, source__label_delay_days=delay)
    assert str(product.first_month) == first_month


def test_a_first_month_on_which_no_label_is_known_is_refused_with_the_first_possible_one() -> None:
    assert shop(source__label_delay_days=30).last_labelled_day(date(2024, 2, 1)) == date(2024, 1, 1)
    with pytest.raises(ContractError) as caught:
        shop(source__label_delay_days=31)
    assert "model.first_month: no label is known on 2024-02-01" in str(caught.value)
    assert "come 31 days after it; the first possible is 2024-03" in str(caught.value)
    assert shop(source__label_delay_days=31, model__first_month="2024-03").first_month == date(2024, 3, 1)


def test_a_history_that_ends_before_a_first_model_can_exist_is_refused() -> None:
    for end in ("2024-03-31", "2024-04-30"):
        with pytest.raises(ContractError, match=r"end: the history ends on .* that of 2024-06"):
            shop(source__label_delay_days=120, model__first_month=None, end=end)
    shop(source__label_delay_days=120, model__first_month=None, end="2024-05-01")


def test_days_and_months_count_across_years() -> None:
    assert add_months(date(2024, 1, 31), -1) == date(2023, 12, 1)
    assert add_months(date(2024, 11, 1), 14) == date(2026, 1, 1)
    assert len(DayRange(date(2024, 2, 28), date(2024, 3, 1))) == 3
    with pytest.raises(ValueError, match="lies before"):
        DayRange(date(2024, 1, 2), date(2024, 1, 1))
