"""What a contract may say of features: windows, conditions and expressions; and what it can't."""

from __future__ import annotations

import pickle
from datetime import date
from typing import Any

import pytest

from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform_tests.small_platform import shop

FEATURES: dict[str, Any] = {
    "spent_7": {"sum": "spend", "days": 7},
    "spent_28": {"sum": "spend", "days": 28, "until": "yesterday"},
    "trend": {"expression": "spent_7 / nullif(spent_28, 0)"},
    "rises": {"expression": "trend > 1.5 and days_7 = 7"},
    "weekday": {"expression": "extract(isodow from event_day)"},
    "visits": {"count": "visit", "days": "all"},
    "channel_before": {"last": "channel", "days": 30, "until": "yesterday", "where": "pages > 2"},
}


def product(features: dict[str, Any] = FEATURES, **changes: Any) -> Product:
    return shop(mrds__features=features, **changes)


def test_columns_and_types_follow_from_the_rules() -> None:
    found = product()
    names = [*FEATURES, "days_7", "days_28_until_yesterday", "days_30_until_yesterday", "days_all"]
    assert {name: found.mrds_type(name) for name in names} == {
        "spent_7": "double",
        "spent_28": "double",
        "trend": "double",
        "rises": "boolean",
        "weekday": "long",
        "visits": "long",
        "channel_before": "string",
        "days_7": "long",
        "days_28_until_yesterday": "long",
        "days_30_until_yesterday": "long",
        "days_all": "long",
    }
    assert {*names} < {*found.features}


def test_expressions_stand_after_those_that_they_name_and_travel() -> None:
    features = {"b": {"expression": "a + 1"}, "a": {"expression": "spend * 2"}}
    found = product(features)
    assert list(found.expressions) == ["a", "b"]
    assert list(pickle.loads(pickle.dumps(found)).expressions) == ["a", "b"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"x": {}}, "one rule is needed"),
        ({"x": {"sum": "spend", "max": "spend", "days": 3}}, "one rule is needed"),
        ({"x": {"sum": "spend"}}, "sum needs days"),
        ({"x": {"sum": "spend", "days": 0}}, "greater than or equal to 1"),
        ({"x": {"sum": "spend", "days": -7}}, "greater than or equal to 1"),
        ({"x": {"sum": "spend", "days": 36_601}}, "36600"),
        ({"x": {"sum": "spend", "days": "every"}}, "days"),
        ({"x": {"sum": "spend", "days": 1.5}}, "days"),
        ({"x": {"sum": "spend", "days": 3, "until": "tomorrow"}}, "until"),
        ({"x": {"sum": "channel", "days": 3}}, "sum needs a number, and 'channel' is a string"),
        ({"x": {"sum": "nothing", "days": 3}}, "'nothing' is not declared in source.columns"),
        ({"x": {"count": "bought", "days": 3}}, "is the label, which comes later"),
        ({"x": {"count": "day", "days": 3}}, "is the event day"),
        ({"x": {"distinct": "channel", "days": "all"}}, "distinct needs a number of days"),
        ({"x": {"distinct": "channel", "days": 3, "up_to": 1_001}}, "1000"),
        ({"x": {"sum": "spend", "days": 3, "up_to": 5}}, "up_to is for distinct"),
        ({"spend": {"sum": "spend", "days": 3}}, "is that of the column 'spend' of the deliveries"),
        ({"SPEND": {"sum": "spend", "days": 3}}, "is that of the column 'spend' of the deliveries"),
        ({"event_day": {"sum": "spend", "days": 3}}, "which is reserved"),
        ({"known_from": {"sum": "spend", "days": 3}}, "which is reserved"),
        ({"IS_SCORED": {"sum": "spend", "days": 3}}, "which is reserved"),
        ({"_x": {"sum": "spend", "days": 3}}, "begins with an underscore"),
        ({"days_3": {"sum": "spend", "days": 3}}, "counts the usable days of 3 days"),
        ({"days_3": {"sum": "spend", "days": 4}, "x": {"sum": "spend", "days": 3}}, "counts the usable days"),
        ({"probability": {"sum": "spend", "days": 3}, "rank": {"sum": "spend", "days": 3}}, "rank"),
        ({"x": {"sum": "spend", "days": 3, "where": "pages >"}}, "mrds.features.x.where: "),
        ({"x": {"sum": "spend", "days": 3, "where": "pages + 1"}}, "a condition is true or false"),
        ({"x": {"sum": "spend", "days": 3, "where": "bought = 1"}}, "no column is called 'bought'"),
        ({"x": {"expression": "spend + nothing"}}, "column 9"),
        ({"x": {"expression": "bought + 1"}}, "no column is called 'bought'"),
        ({"x": {"expression": "sum(spend)"}}, "mrds.features.x.expression"),
        ({"x": {"expression": "(select 1)"}}, "mrds.features.x.expression"),
        ({"x": {"expression": "channel + 1"}}, "mrds.features.x.expression"),
        ({"x": {"expression": "x + 1"}}, "it is made of itself: x → x"),
        ({"a": {"expression": "b"}, "b": {"expression": "c"}, "c": {"expression": "a"}}, "a → b → c → a"),
        ({"x": {"expression": "spend", "days": 3}}, "an expression stands alone"),
        ({"x": {"expression": ""}}, "mrds.features.x.expression"),
    ],
)
def test_what_is_no_feature_is_an_error_of_the_contract(features: dict[str, Any], message: str) -> None:
    changes: dict[str, Any] = {}
    if "rank" in features:
        changes = {"evaluation__metric": "precision_at_k", "evaluation__k": 5}
    with pytest.raises(ContractError, match=r"(?s).+") as caught:
        product(features, **changes)
    assert message in str(caught.value)


def test_an_entity_that_is_another_one_each_day_has_no_windows() -> None:
    with pytest.raises(ContractError, match=r"an entity is another one on each day"):
        product(mrds__entity=["customer", "day"])
    product({"twice": {"expression": "spend * 2"}}, mrds__entity=["customer", "day"])


def test_a_window_longer_than_the_history_is_refused() -> None:
    with pytest.raises(ContractError, match="a window of 40 days is longer than the history"):
        product({"x": {"sum": "spend", "days": 40}}, end="2024-02-08", model__first_month="2024-02")
    product({"x": {"sum": "spend", "days": 39}}, end="2024-02-08", model__first_month="2024-02")


def test_a_model_waits_for_full_windows_of_what_it_learns_from() -> None:
    features = {"numeric": ["trend"]}
    learning = product(model__features=features, model__first_month=None)
    assert learning.first_full_day == date(2024, 1, 29), "28 days before, of a history since 1 January"
    assert [learning.trainable(date(2024, 1, day)) for day in (28, 29)] == [False, True]
    assert learning.first_month == date(2024, 3, 1)
    assert product(model__first_month=None).first_full_day == date(2024, 1, 1), "it learns from none"
    partial = product(model__features=features, model__first_month=None, model__partial_windows=True)
    assert (partial.first_full_day, partial.first_month) == (date(2024, 1, 1), date(2024, 2, 1))


def test_what_is_made_of_a_sensitive_column_is_sensitive() -> None:
    columns = shop().source.model_dump(mode="json", exclude_defaults=True)["columns"]
    columns["spend"]["sensitive"] = True
    found = product(source__columns=columns)
    assert {"spend", "spent_7", "spent_28", "trend", "rises"} <= found.sensitive
    assert not {"visits", "channel_before", "weekday", "days_7"} & found.sensitive
    columns["spend"]["sensitive"], columns["pages"]["sensitive"] = False, True
    assert product(source__columns=columns).sensitive == {"pages", "channel_before"}
