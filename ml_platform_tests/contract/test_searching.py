"""Several estimators and a search in a contract: what is accepted, what is said of what isn't."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_platform.contract.assets import CATALOGUE
from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.product import Product
from ml_platform.contract.searching import MAXIMUM_TRIALS, NOT_SEARCHED, Search, Space
from ml_platform_tests.small_platform import SHOP, shop

LOGISTIC = "sklearn.linear_model.LogisticRegression"
FOREST = "sklearn.ensemble.RandomForestClassifier"
C = {"low": 0.01, "high": 10, "log": True}


def searched(*, class_: str = LOGISTIC, **search: Any) -> dict[str, Any]:
    return {"class": class_, "search": search}


def several(*estimators: dict[str, Any], **model: Any) -> Product:
    content = json.loads(json.dumps(SHOP))
    del content["model"]["estimator"]
    content["model"] |= {"estimators": list(estimators), **model}
    return parse_product(content, "shop.yaml")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"C": {"low": 2, "high": 2}}, ["search.params.C", "2 is not less than 2"]),
        ({"C": {"low": 10, "high": 0.1}}, ["search.params.C", "low and high"]),
        ({"C": {"low": 0, "high": 1, "log": True}}, ["search.params.C", "low and log", "above 0"]),
        ({"C": {"low": -1, "high": 1}}, ["'C' parameter", "Got -1"]),
        ({"C": {"low": 1}}, ["search.params.C", "low and high, or choices"]),
        ({"C": {}}, ["search.params.C", "low and high, or choices"]),
        ({"C": {"low": "a", "high": 1}}, ["search.params.C.low", "'a' is no number"]),
        ({"C": {"low": True, "high": 2}}, ["search.params.C.low", "True is no number"]),
        ({"C": {"low": 1, "high": math.inf}}, ["search.params.C.high", "inf is no number"]),
        ({"C": {"low": 1, "high": 1e300}}, ["search.params.C.high", "1e+300"]),
        ({"C": {"lo": 1, "high": 2}}, ["search.params.C.lo", "accepted are low, high, log, choices"]),
        ({"C": {"choices": []}}, ["search.params.C.choices"]),
        ({"C": {"choices": [1.0, 1.0]}}, ["search.params.C", "1.0 is there twice"]),
        ({"C": {"choices": [1], "low": 1}}, ["search.params.C", "choices and low"]),
        ({"C": {"choices": [1], "log": True}}, ["search.params.C", "choices and log"]),
        ({"solver": {"choices": ["lbfgs", "quick"]}}, ["'solver' parameter", "quick"]),
        ({"solver": {"choices": ["lbfgs", {"a": 1}]}}, ["search.params.solver", "dict is not accepted"]),
        ({"max_iter": {"low": 1.5, "high": 9.5}}, ["'max_iter' parameter", "an int"]),
        ({"c": C}, ["search.params", "'c'"]),
        ({"n_jobs": {"low": 1, "high": 4}}, ["search.params.n_jobs", "can't be searched"]),
        ({"random_state": {"low": 1, "high": 4}}, ["search.params.random_state", "luck"]),
        ({}, ["search.params"]),
    ],
)
def test_a_range_that_can_not_be_searched_is_an_error_that_names_it(
    params: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ContractError) as error:
        shop(model__estimator=searched(params=params))
    assert all(part in str(error.value) for part in ["model.estimator", *said]), error.value


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"trials": 0}, "search.trials"),
        ({"trials": MAXIMUM_TRIALS + 1}, "search.trials"),
        ({"trials": 1.5}, "search.trials"),
        ({"seconds": 0}, "search.seconds"),
        ({"seconds": 86_401}, "search.seconds"),
        ({"sampler": "grid"}, "accepted are params, trials, seconds"),
    ],
)
def test_a_budget_that_is_none_is_an_error_that_names_it(search: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        shop(model__estimator=searched(params={"C": C}, **search))


def test_a_parameter_is_given_or_searched() -> None:
    both = {**searched(params={"C": C}), "params": {"C": 1.0}}
    with pytest.raises(ContractError, match=r"params\.C and search\.params\.C"):
        shop(model__estimator=both)


def test_one_estimator_or_several_and_each_once() -> None:
    with pytest.raises(ContractError, match="estimator and estimators: both are given"):
        several({"class": LOGISTIC}, estimator={"class": LOGISTIC})
    with pytest.raises(ContractError, match="estimator and estimators: neither is given"):
        several()
    with pytest.raises(ContractError, match=r"estimators\.1: it is the same as estimators\.0"):
        several({"class": LOGISTIC}, {"class": LOGISTIC})
    with pytest.raises(ContractError, match=r"model\.estimators\.1\.class, model\.task is binary"):
        several({"class": LOGISTIC}, {"class": "sklearn.linear_model.Ridge"})
    with pytest.raises(ContractError, match=r"model\.estimators\.0\.clas: unknown key; accepted are class"):
        several({"clas": LOGISTIC})
    with pytest.raises(ContractError, match=r"model\.estimators: Tuple should have at most 20"):
        several(*({"class": LOGISTIC, "params": {"C": number}} for number in range(1, 22)))


def test_trees_of_a_library_are_grown_at_the_ends_of_the_ranges() -> None:
    pytest.importorskip("lightgbm")
    path = "lightgbm.LGBMClassifier"
    assert shop(model__estimator=searched(class_=path, params={"num_leaves": {"low": 2, "high": 31}}))
    for params, said in (
        ({"num_leaves": {"low": 2.0, "high": 31.0}}, "num_leaves takes whole numbers"),
        ({"num_leaves": {"low": 0, "high": 31}}, "num_leaves"),
        ({"leaves": {"low": 2, "high": 31}}, r"search\.params\.leaves"),
        ({"objective": {"choices": ["binary", "regression"]}}, r"search\.params\.objective"),
    ):
        with pytest.raises(ContractError, match=said):
            shop(model__estimator=searched(class_=path, params=params))


def test_contracts_without_the_keys_keep_their_hashes() -> None:
    assert shop().hash_of("model") == "75cc857c8e9f602b637961aad7f1327e"
    assert "estimators" not in str(shop().content_of("model"))
    assert not shop().model.selects
    search = searched(params={"C": C})
    hashes = {
        product.hash_of("model")
        for product in (
            shop(),
            several({"class": LOGISTIC, "params": {"random_state": 1}}),
            shop(model__estimator=search),
            shop(model__estimator=searched(params={"C": C}, trials=21)),
            shop(model__estimator=searched(params={"C": C}, seconds=301)),
            several(search, {"class": FOREST}),
            several({"class": FOREST}, search),
        )
    }
    assert len(hashes) == 7


def test_check_says_what_is_tried() -> None:
    product = several(
        {"class": LOGISTIC},
        searched(
            class_=FOREST, params={"max_depth": {"low": 2, "high": 8}, "ccp_alpha": {"choices": [0.0, 0.1]}}
        ),
    )
    assert CATALOGUE["model"].in_words(product) == (
        "the best of 2 by f1 on folds of what is learned from: sklearn.linear_model.LogisticRegression; "
        "sklearn.ensemble.RandomForestClassifier (searched: max_depth whole numbers 2 to 8, ccp_alpha 0.0 or "
        "0.1, in 20 trials or 300 s); each on spend, pages, channel, learning from 2 months."
    )
    one = CATALOGUE["model"].in_words(shop(model__estimator=searched(params={"C": C}, trials=5)))
    assert one.startswith(f"{LOGISTIC} (searched: C 0.01 to 10 (log), in 5 trials or 300 s) on spend")


# -- whatever is written -------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, 1, 1.0, 0.0, -0.0, 2**53, 2**53 + 1, True, None, "1e-3", "x", []]),
)


@settings(max_examples=200)
@given(low=NUMBERS, high=NUMBERS, log=st.booleans())
def test_a_range_is_accepted_just_when_it_is_one(low: Any, high: Any, log: bool) -> None:
    def number(value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            found = float(value)
        except ValueError:
            return None
        return found if math.isfinite(found) and abs(found) <= 2**53 else None

    ends = (number(low), number(high))
    exact = [value if isinstance(value, int) else end for value, end in zip((low, high), ends, strict=True)]
    valid = (
        ends[0] is not None
        and ends[1] is not None
        and all(abs(value) <= 2**53 for value in exact)
        and exact[0] < exact[1]
        and (not log or exact[0] > 0)
    )
    content = {"low": low, "high": high, "log": log}
    if not valid:
        with pytest.raises(ValidationError):
            Space.model_validate(content)
        return
    space = Space.model_validate(content)
    assert all(space.holds(end) for end in space.ends)
    assert space.is_whole == (isinstance(low, int) and isinstance(high, int))
    assert {type(end) for end in space.ends} == {int if space.is_whole else float}


PLAIN = st.one_of(st.integers(-9, 9), st.booleans(), st.none(), st.text(max_size=3), st.floats(-9, 9))
SPACES = st.one_of(
    st.lists(PLAIN, min_size=1, max_size=5, unique_by=repr).map(lambda values: {"choices": values}),
    st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans()).map(
        lambda ends: {"low": ends[0], "high": ends[0] + ends[1], "log": ends[2]}
    ),
    st.tuples(st.floats(0.001, 50), st.floats(0.001, 50), st.booleans()).map(
        lambda ends: {"low": ends[0], "high": ends[0] + ends[1], "log": ends[2]}
    ),
)


@settings(max_examples=40)
@given(params=st.dictionaries(st.sampled_from("abcd"), SPACES, min_size=1))
def test_each_end_of_each_range_is_tried_when_the_contract_is_read(params: dict[str, Any]) -> None:
    search = Search.model_validate({"params": params})
    corners = search.corners
    for name, space in search.params.items():
        tried = [repr(corner[name]) for corner in corners]
        assert {repr(end) for end in space.ends} == set(tried)
        assert all(space.holds(corner[name]) for corner in corners)
    assert len(corners) == 1 + sum(len(space.ends) - 1 for space in search.params.values())
    assert not NOT_SEARCHED.keys() & search.params.keys()
