"""Estimators are looked at by their names when the graph is drawn, and tried before they are believed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_platform.contract import estimators
from ml_platform.contract.loading import (
    ContractError,
    load_product,
    load_products,
    try_estimators,
)
from ml_platform_tests.small_platform import shop_contract

LOGISTIC = "sklearn.linear_model.LogisticRegression"


WRONG: dict[str, dict[str, Any]] = {
    "no such class": {"class": "sklearn.linear_model.Logistic"},
    "no such parameter": {"class": LOGISTIC, "params": {"depth": 3}},
    "a value that it can't learn with": {"class": LOGISTIC, "params": {"C": -1}},
    "a regressor": {"class": "sklearn.linear_model.LinearRegression"},
}


def modules_after(code: str) -> set[str]:
    """The packages that a fresh interpreter has imported after running some code."""
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*{{m.partition('.')[0] for m in sys.modules}})"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(found.stdout.split())


def test_the_graph_is_drawn_without_the_libraries_of_estimators() -> None:
    drawn = modules_after("import ml_platform.definitions as d; assert d.defs.resolve_asset_graph()")
    assert "dagster" in drawn
    assert not drawn & {"sklearn", "lightgbm", "xgboost", "catboost", "mlflow"}


@pytest.mark.parametrize("estimator", WRONG.values(), ids=WRONG)
def test_an_estimator_that_cannot_learn_is_drawn_and_refused_by_check_and_by_training(
    estimator: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(shop_contract(model__estimator=estimator)))
    products, errors = load_products([tmp_path])
    assert list(products) == ["shop"]
    assert errors == {}
    for refuses in (lambda: load_product(path), lambda: try_estimators(products["shop"])):
        with pytest.raises(ContractError, match=r"model\.estimator"):
            refuses()


@pytest.mark.parametrize("text", ["!!binary '//8='", "0x" + "f" * 5000, "!!set {a, b}"])
def test_a_parameter_that_no_other_process_can_be_told_is_not_drawn(text: str, tmp_path: Path) -> None:
    content = yaml.safe_dump(shop_contract(model__estimator={"class": LOGISTIC, "params": {"C": "odd"}}))
    (tmp_path / "shop.yaml").write_text(content.replace("odd", text))
    products, errors = load_products([tmp_path])
    assert products == {}
    assert "model.estimator.params: C: " in str(errors[tmp_path / "shop.yaml"])


def test_a_class_that_may_not_be_named_is_not_drawn(tmp_path: Path) -> None:
    for n, name in enumerate(("os.system", "LogisticRegression", "lightgbm.Booster", "a.b c")):
        content = shop_contract(name=f"p{n}", model__estimator={"class": name})
        (tmp_path / f"p{n}.yaml").write_text(yaml.safe_dump(content))
    products, errors = load_products([tmp_path])
    assert products == {}
    assert len(errors) == 4
    assert all("model.estimator.class" in str(error) for error in errors.values())


def test_what_was_read_by_names_is_tried_as_it_is_written(tmp_path: Path) -> None:
    """Keys that are numbers, dates and choices come through: nothing else than what is written is tried."""
    for n, params in enumerate(({"class_weight": {0: 1, 1: 3}}, {"C": 2, "max_iter": 50})):
        path = tmp_path / f"shop{n}.yaml"
        estimator = {"class": LOGISTIC, "params": params}
        path.write_text(yaml.safe_dump(shop_contract(name=f"shop{n}", model__estimator=estimator)))
        by_names, tried = load_product(path, try_estimators=False), load_product(path)
        assert by_names == tried
        try_estimators(by_names)


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("sklearn.linear_model.Logistic", {}, "can't be imported"),
        ("sklearn.cluster.KMeans", {}, "no classifier"),
        (LOGISTIC, {"depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_what_cannot_be_built_is_refused_every_time(path: str, params: dict[str, Any], message: str) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            estimators.check(path, params)
