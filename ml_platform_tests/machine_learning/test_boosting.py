"""LightGBM, XGBoost, CatBoost, and how categories are given to them and to scikit-learn's estimators."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator

from ml_platform.contract import boosting
from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.product import Product
from ml_platform.machine_learning import model_plots
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_card import DataUsed, requirements
from ml_platform.machine_learning.model_files import RegistryError, skops_io, trusted
from ml_platform.machine_learning.pipeline import (
    TrainingError,
    contracts_estimator,
    feature_frame,
    features_of,
    fit_pipeline,
)
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.training import TrainedModel, train
from ml_platform_tests.contract.test_kinds import NUMBER
from ml_platform_tests.machine_learning.test_multiclass import CLASS, CLASSES
from ml_platform_tests.small_platform import D, shop

pytest.importorskip("catboost")
pytest.importorskip("xgboost")

TREES = {"lightgbm": "LGBM", "xgboost": "XGB", "catboost": "CatBoost"}
KINDS = ("binary", "regression", "multiclass")
HISTOGRAM = "sklearn.ensemble.HistGradientBoosting"


def estimator(library: str, kind: str, **params: Any) -> dict[str, Any]:
    what = "Regressor" if kind == "regression" else "Classifier"
    name = f"{library}.{TREES[library]}{what}" if library in TREES else f"{library}{what}"
    trees = "max_iter" if library == HISTOGRAM else "n_estimators"
    return {"class": name, "params": {trees: 8, **params}}


def product_of(library: str, kind: str, **changes: Any) -> Product:
    base = {"binary": {}, "regression": NUMBER, "multiclass": CLASS}[kind]
    return shop(**{**base, "model__estimator": estimator(library, kind), **changes})


def rows(kind: str, count: int = 600, seed: int = 0) -> pd.DataFrame:
    """Rows of the MRDS whose label follows the channel and what was spent, with nulls in both."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(np.array(["web", "app", "post", None], dtype=object), count)
    spend = np.where(rng.random(count) < 0.2, np.nan, rng.gamma(2, 10, count))
    score = np.nan_to_num(spend, nan=50) / 20 + np.isin(channel.astype(str), ["web", "None"]) * 2
    score = score + rng.normal(0, 0.3, count)
    place = np.clip(score, 0, 2).astype(int)
    label = {
        "binary": ("bought", (score > 2).astype("int32")),
        "regression": ("paid", score),
        "multiclass": ("paid", np.array(CLASSES, dtype=object)[place]),
    }[kind]
    return pd.DataFrame(
        {
            "customer": [f"c{number % 90}" for number in range(count)],
            "event_day": [date(2024, 1, 1 + number // 90) for number in range(count)],
            "spend": spend,
            "pages": rng.integers(1, 9, count),
            "channel": channel,
            "visit": 1,
            label[0]: label[1],
        }
    )


def said(product: Product, pipeline: Any, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    return np.column_stack(kind_of(product).predict(pipeline, frame))


def written(pipeline: Any) -> bytes:
    content: bytes = skops_io().dumps(pipeline)
    return content


LOAD = """
import sys, numpy as np, pandas as pd
from ml_platform.machine_learning.model_files import skops_io, trusted
skops = skops_io()
file = sys.argv[1]
pipeline = skops.load(file, trusted=trusted(skops.get_untrusted_types(file=file), file))
frame = pd.read_pickle(sys.argv[2])
find = getattr(pipeline, "predict_proba", None) or pipeline.predict
np.save(sys.argv[3], find(frame))
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", TREES)
def test_what_check_accepts_learns_and_scores_the_same_when_loaded_and_when_rebuilt(
    library: str, kind: str
) -> None:
    product, learned = product_of(library, kind), rows(kind)
    model = train(product, learned)
    again = train(product, learned.sample(frac=1, random_state=3))
    new = rows(kind, 200, seed=1)
    content = written(model.pipeline)
    skops = skops_io()
    loaded = skops.loads(content, trusted=trusted(skops.get_untrusted_types(data=content), "the file"))

    expected = said(product, model.pipeline, new)
    np.testing.assert_array_equal(said(product, again.pipeline, new), expected)
    np.testing.assert_array_equal(said(product, loaded, new), expected)
    assert model.threshold == again.threshold
    label = kind_of(product).labels(new[product.label])
    if kind == "regression":
        assert np.sqrt(np.mean((expected[:, 0] - label) ** 2)) < np.std(label)
    elif kind == "multiclass":
        assert np.mean(np.argmax(expected, axis=1) == label) > 0.55
        np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)
    else:
        assert expected[label == 1].mean() > expected[label == 0].mean() + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("library", TREES)
def test_a_model_scores_the_same_in_another_process_which_has_seen_no_contract(
    library: str, tmp_path: Path
) -> None:
    product = product_of(library, "multiclass")
    pipeline = train(product, rows("multiclass")).pipeline
    frame = feature_frame(product, rows("multiclass", 50, seed=1))
    (tmp_path / "model.skops").write_bytes(written(pipeline))
    frame.to_pickle(tmp_path / "frame")
    subprocess.run(
        [
            sys.executable,
            "-c",
            LOAD,
            *(str(tmp_path / name) for name in ("model.skops", "frame", "said.npy")),
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    np.testing.assert_array_equal(np.load(tmp_path / "said.npy"), pipeline.predict_proba(frame))


@pytest.mark.parametrize("library", TREES)
def test_the_number_of_threads_changes_nothing(library: str) -> None:
    threads = boosting.LIBRARIES[library].threads
    learned, new = rows("binary", 2_000), rows("binary", 300, seed=1)
    found = []
    for number in (1, 2):
        product = product_of(
            library, "binary", model__estimator=estimator(library, "binary", **{threads: number})
        )
        found.append(said(product, train(product, learned).pipeline, new))
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("library", TREES)
def test_learning_prints_nothing_and_leaves_no_file(library: str, tmp_path: Path) -> None:
    code = (
        "from ml_platform_tests.machine_learning.test_boosting import *; "
        f"train(product_of({library!r}, 'binary'), rows('binary'))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", TREES)
def test_a_transformed_label_is_learned_and_undone(library: str) -> None:
    product = product_of(library, "regression", model__transform="log1p")
    model = train(product, rows("regression").assign(paid=lambda frame: frame["paid"].clip(lower=0)))
    assert type(contracts_estimator(model.pipeline)).__name__ == f"{TREES[library]}Regressor"
    content = written(model.pipeline)
    trusted(skops_io().get_untrusted_types(data=content), "the file")


@pytest.mark.parametrize("library", TREES)
def test_a_class_without_rows_has_no_probability_whatever_numbers_the_library_gives(library: str) -> None:
    product = product_of(library, "multiclass")
    learned = rows("multiclass")
    model = train(product, learned[learned["paid"] != CLASSES[1]])
    found = said(product, model.pipeline, rows("multiclass", seed=1))
    assert (found[:, [1, 3]] == 0).all()
    assert found[:, 2].max() > 0.5


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        ("lightgbm.LGBMClassifier", {"objective": "multiclass"}),
        ("lightgbm.LGBMClassifier", {"objective": "softmax", "num_class": 4}),
        ("lightgbm.LGBMClassifier", {"class_weight": {"card": 2, "cash": 3}}),
        ("lightgbm.LGBMClassifier", {"class_weight": {"never seen": 2}}),
        ("xgboost.XGBClassifier", {"objective": "multi:softprob"}),
        ("xgboost.XGBClassifier", {"num_class": 4}),
        ("catboost.CatBoostClassifier", {"class_weights": [2, 1, 3, 4]}),
        ("catboost.CatBoostClassifier", {"class_weights": dict(zip(CLASSES, (1, 2, 3, 4), strict=True))}),
        ("sklearn.linear_model.LogisticRegression", {"class_weight": {"card": 2, "cash": 3}}),
        ("sklearn.tree.DecisionTreeClassifier", {"class_weight": {"never seen": 2}}),
    ],
)
@pytest.mark.parametrize("there", [("cash", "later"), ("cash", "card", "later")])
def test_parameters_for_all_classes_learn_from_months_without_some(
    class_: str, params: dict[str, Any], there: tuple[str, ...]
) -> None:
    few = {} if class_.startswith("sklearn") else {"n_estimators": 8}
    product = shop(**{**CLASS, "model__estimator": {"class": class_, "params": {**params, **few}}})
    learned = rows("multiclass")
    learned = learned[learned["paid"].isin(there)]
    pipeline = train(product, learned).pipeline
    assert sorted(pipeline.classes_) == sorted(there)
    found = said(product, pipeline, learned)
    assert np.mean(np.argmax(found, axis=1) == kind_of(product).labels(learned["paid"])) > 0.6


def test_weights_of_classes_are_those_of_the_classes_that_are_there() -> None:
    weights = {"cash": 1.0, "card": 2.0, "later": 30.0, "never seen": 4.0}
    learned = rows("multiclass")
    for name, params in {
        "lightgbm": {"class_weight": weights},
        "catboost": {"class_weights": [2, 1, 30, 4]},  # in the order of the names
    }.items():
        product = product_of(name, "multiclass", model__estimator=estimator(name, "multiclass", **params))
        alike = product_of(name, "multiclass")
        plain = said(alike, train(alike, learned).pipeline, learned)
        weighted = said(product, train(product, learned).pipeline, learned)
        assert weighted[:, 2].mean() > plain[:, 2].mean() + 0.02, name


@pytest.mark.parametrize(
    ("given", "classes", "there", "expected"),
    [
        ({1: 5, 2: 1, 3: 1}, [1, 2, 3], [1, 2], {1: 5, 2: 1}),
        ({1.0: 5, 3.0: 1}, [1, 2, 3], [1, 2], {1: 5}),
        ({3: 5}, [1, 2, 3], [1, 2], None),
        # Numbers that are learned as texts, as CatBoost can't tell them apart.
        ({20_000_000: 5}, [20_000_000, 20_000_001], ["20000000", "20000001"], {"20000000": 5}),
        # CatBoost orders texts by number if all are numbers.
        ([1, 2, 9, 10], ["10", "9", "2", "1"], ["1", "2", "9"], [1, 2, 9]),
        (["a weight of b", "of c", "of d"], ["d", "c", "b"], ["b", "d"], ["a weight of b", "of d"]),
        ("balanced", [1, 2, 3], [1, 2], "balanced"),
    ],
)
def test_weights_follow_the_classes_that_are_there(
    given: Any, classes: list[Any], there: list[Any], expected: Any
) -> None:
    class Weighted(BaseEstimator):
        def __init__(self, class_weight: Any = None) -> None:
            self.class_weight = class_weight

    weighted = Weighted(given)
    boosting.suit_to_classes("an.Estimator", weighted, classes, there)
    assert weighted.class_weight == expected
    whole = Weighted(given)
    boosting.suit_to_classes("an.Estimator", whole, classes, classes)
    assert whole.class_weight is given, "nothing is absent"


@pytest.mark.parametrize("library", TREES)
def test_classes_beyond_the_numbers_that_floats_hold_are_told_apart(library: str) -> None:
    names = [16_777_217, 20_240_101, 20_240_102]
    label = {"type": "integer", "nullable": True, "allowed": names}
    product = product_of(library, "multiclass", source__columns__paid=label, model__task="multiclass")
    learned = rows("multiclass")
    learned["paid"] = learned["paid"].map(dict(zip(CLASSES, names, strict=False)))
    found = said(product, train(product, learned).pipeline, learned)
    assert np.mean(np.argmax(found, axis=1) == kind_of(product).labels(learned["paid"])) > 0.8


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost", HISTOGRAM])
def test_a_number_that_no_tree_can_hold_is_missing(library: str) -> None:
    product, learned = product_of(library, "binary"), rows("binary")
    huge = learned.assign(spend=learned["spend"].where(learned.index > 2, 1.7e308))
    gone = learned.assign(spend=learned["spend"].where(learned.index > 2, np.nan))
    model = train(product, huge)
    np.testing.assert_array_equal(
        said(product, model.pipeline, huge), said(product, train(product, gone).pipeline, gone)
    )


# -- the registry ----------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.slow
@pytest.mark.parametrize("library", TREES)
def test_a_model_is_registered_with_the_version_of_its_library(library: str, registry: Registry) -> None:
    import mlflow

    product, learned = product_of(library, "binary"), rows("binary")
    trained = train(product, learned)
    registry.tracking.prepare(product.name)
    data = DataUsed("1", D("2024-01-01"), D("2024-01-07"), 600, 600, "/tables/mrds")
    made = registry.log(
        product,
        trained,
        as_of=D("2024-02-01"),
        fingerprint="f" * 8,
        holdout=rows("binary", seed=1),
        data=data,
        tags={},
    )
    loaded = registry.load(product, made.version, made.fingerprint)
    new = rows("binary", 100, seed=2)
    np.testing.assert_array_equal(said(product, loaded.pipeline, new), said(product, trained.pipeline, new))
    needed = mlflow.pyfunc.get_model_dependencies(made.model_uri)
    requirement = boosting.LIBRARIES[library].requirement
    assert requirement is not None
    assert requirement in Path(needed).read_text().split()
    assert requirement in requirements(product)
    assert not [each for each in requirements(shop()) if each == requirement]
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(made.run_id, "plots")}
    assert "plots/importances.png" in names


@pytest.mark.slow
def test_a_model_that_its_library_can_not_read_back_is_not_registered(registry: Registry) -> None:
    """CatBoost writes numbers beyond 2^53 as texts that it takes for none."""
    product, learned = product_of("catboost", "regression"), rows("regression")
    learned = learned.assign(paid=np.round(learned["paid"] * 2.0**58))
    registry.tracking.prepare(product.name)
    with pytest.raises(TrainingError, match=r"can't be stored: read back, .*Not a double"):
        registry.log(
            product,
            train(product, learned),
            as_of=D("2024-02-01"),
            fingerprint="f" * 8,
            holdout=None,
            data=DataUsed("1", D("2024-01-01"), D("2024-01-07"), 600, 600, "/tables/mrds"),
            tags={},
        )
    assert registry.find(product, "f" * 8) is None


# -- what a file may hold --------------------------------------------------------------------------


def without_pickle(content: bytes) -> Iterator[dict[str, Any]]:
    """The nodes of a file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        waiting: list[Any] = [json.loads(archive.read("schema.json"))]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if "__loader__" in found:
                yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


@pytest.mark.parametrize("library", TREES)
def test_a_file_holds_no_type_of_the_library_that_is_not_listed(library: str) -> None:
    content = written(train(product_of(library, "binary"), rows("binary")).pipeline)
    held = {f"{node['__module__']}.{node['__class__']}" for node in without_pickle(content)}
    assert {name for name in held if name.startswith(library)} <= boosting.TYPES
    assert not {node["__loader__"] for node in without_pickle(content)} & {"FunctionNode", "MethodNode"}


@pytest.mark.parametrize(
    "name",
    [
        "lightgbm.basic.Dataset",
        "lightgbm.basic.Booster.save_model",
        "lightgbm.engine.train",
        "xgboost.dask.DaskXGBClassifier",
        "xgboost.core.Booster.save_model",
        "xgboost.core.DMatrix",
        "catboost.core.CatBoost",
        "catboost.core.CatBoostClassifier.save_model",
        "catboost.core.Pool",
        "collections.Counter",
        "os.system",
        "sklearn.utils.validation.check_is_fitted",
        "functools.reduce",
    ],
)
def test_other_types_of_the_libraries_are_refused(name: str) -> None:
    with pytest.raises(RegistryError, match=f"holds {name}; accepted are only"):
        trusted([name], "a file")


# -- what check refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_", "params", "expected"),
    [
        ("lightgbm.LGBMClassifier", {"n_estimatorz": 3}, "params.n_estimatorz: LGBMClassifier has no such"),
        ("lightgbm.LGBMClassifier", {"n_jobs": -1}, "params.n_jobs: it must be a number of threads"),
        ("lightgbm.LGBMClassifier", {"device": "gpu"}, "params.device"),
        ("lightgbm.LGBMClassifier", {"machines": "10.0.0.1:80"}, "params.machines"),
        ("lightgbm.LGBMClassifier", {"forcedsplits_filename": "/etc/passwd"}, "params.forcedsplits_filename"),
        ("lightgbm.LGBMClassifier", {"early_stopping_round": 3}, "params.early_stopping_round"),
        ("lightgbm.LGBMClassifier", {"num_leaves": 0}, "can't learn with them"),
        ("lightgbm.LGBMClassifier", {"objective": "regression"}, "params.objective: 'regression' gives no"),
        ("lightgbm.LGBMClassifier", {"monotone_constraints": [1]}, "can't learn with them"),
        ("lightgbm.LGBMClassifier", {"interaction_constraints": [[0, 99]]}, "one of interaction_constraints"),
        ("lightgbm.LGBMClassifier", {"alpha": float("inf")}, "finite numbers"),
        ("lightgbm.LGBMClassifier", {"n_estimators": "many"}, "params.n_estimators: it must be a number"),
        ("catboost.CatBoostClassifier", {"iterations": 0}, "params.iterations: it must be a number"),
        ("xgboost.XGBClassifier", {"device": "cuda"}, "params.device: it must be cpu"),
        ("xgboost.XGBClassifier", {"early_stopping_rounds": 3}, "params.early_stopping_rounds: it can't"),
        ("xgboost.XGBClassifier", {"max_depth": -4}, "can't learn with them"),
        ("xgboost.XGBClassifier", {"tree_method": "exact"}, "can't learn with them"),
        ("xgboost.XGBClassifier", {"foo": 1}, "params.foo: XGBClassifier has no such parameter"),
        ("catboost.CatBoostClassifier", {"allow_writing_files": True}, "params.allow_writing_files"),
        ("catboost.CatBoostClassifier", {"task_type": "GPU"}, "params.task_type: it must be CPU"),
        ("catboost.CatBoostClassifier", {"verbose": True}, "params.verbose: it can't be given"),
        ("catboost.CatBoostClassifier", {"nan_mode": "Forbidden"}, "can't learn with them"),
        ("catboost.CatBoostClassifier", {"foo": 1}, "params.foo: CatBoostClassifier has no such parameter"),
        ("lightgbm.LGBMRanker", {}, "accepted of lightgbm are lightgbm.LGBMClassifier and"),
        ("xgboost.dask.DaskXGBClassifier", {}, "accepted of xgboost are"),
        ("lightgbm.LGBMClassifier", {"objective": "ova"}, "gives no probabilities of classes"),
        ("lightgbm.LGBMRegressor", {}, "no classifier with fit and predict_proba"),
    ],
)
def test_what_would_not_train_or_not_the_same_twice_is_an_error_of_the_contract(
    class_: str, params: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ContractError, match=expected):
        shop(model__estimator={"class": class_, "params": params})


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        ("lightgbm.LGBMRegressor", {"objective": "binary"}),
        ("xgboost.XGBRegressor", {"objective": "survival:cox"}),
        ("xgboost.XGBRegressor", {"objective": "rank:pairwise"}),
        ("catboost.CatBoostRegressor", {"loss_function": "Cox"}),
        ("catboost.CatBoostRegressor", {"loss_function": "LogLinQuantile"}),  # it predicts the logarithm
        ("catboost.CatBoostRegressor", {"objective": "Logloss"}),
    ],
)
def test_an_objective_that_gives_something_else_than_the_number_is_refused(
    class_: str, params: dict[str, Any]
) -> None:
    with pytest.raises(ContractError, match=r"gives no number like the label; accepted are \w"):
        shop(**{**NUMBER, "model__estimator": {"class": class_, "params": params}})


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        ("lightgbm.LGBMRegressor", {"objective": "quantile", "alpha": 0.5}),
        ("xgboost.XGBRegressor", {"objective": "reg:quantileerror", "quantile_alpha": 0.5}),
        ("catboost.CatBoostRegressor", {"loss_function": "Quantile:alpha=0.5"}),
    ],
)
def test_a_regressor_of_quantiles_predicts_the_median(class_: str, params: dict[str, Any]) -> None:
    estimator = {"class": class_, "params": {**params, "n_estimators": 60}}
    product = shop(**{**NUMBER, "model__estimator": estimator})
    learned = rows("regression")
    below = learned["paid"].to_numpy() < said(product, train(product, learned).pipeline, learned)[:, 0]
    assert 0.35 < below.mean() < 0.65


@pytest.mark.parametrize(
    ("class_", "params"),
    [
        ("lightgbm.LGBMClassifier", {"monotone_constraints": [1, 0, 0], "class_weight": {0: 1, 1: 5}}),
        ("lightgbm.LGBMClassifier", {"boosting_type": "dart", "random_state": None, "n_jobs": 2}),
        ("xgboost.XGBClassifier", {"monotone_constraints": "(1,0,0)", "device": "cpu"}),
        ("xgboost.XGBRFClassifier", {"n_estimators": 5}),
        ("catboost.CatBoostClassifier", {"iterations": 5, "random_seed": 7, "task_type": "CPU"}),
        ("catboost.CatBoostClassifier", {"num_trees": 5, "random_state": None}),
    ],
)
def test_parameters_that_learn_are_accepted(class_: str, params: dict[str, Any]) -> None:
    product = shop(model__estimator={"class": class_, "params": params})
    first, again = (train(product, rows("binary")) for _ in range(2))
    np.testing.assert_array_equal(
        said(product, first.pipeline, rows("binary")), said(product, again.pipeline, rows("binary"))
    )


def test_places_of_columns_do_not_go_with_categories_that_become_many_columns() -> None:
    params = {"monotone_constraints": [1, 0, 0]}
    with pytest.raises(ContractError, match=r"monotone_constraints and categorical: it tells columns by"):
        shop(
            model__estimator={
                "class": "lightgbm.LGBMClassifier",
                "params": params,
                "categorical": "onehot",
            }
        )


@pytest.mark.parametrize("library", TREES)
def test_a_library_that_is_missing_is_named_with_the_extra_that_installs_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = product_of(library, "binary").model_dump(by_alias=True, exclude_unset=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # type: ignore[arg-type]
    monkeypatch.setattr(boosting, "version", _nothing_installed)
    # By its name alone too, as the graph is drawn; what was found while it was there doesn't count.
    for tried in (True, False):
        with pytest.raises(ContractError, match=rf"pip install 'ml-platform\[{library}\]'"):
            parse_product(content, "shop", try_estimators=tried)


def _nothing_installed(name: str) -> str:
    raise boosting.PackageNotFoundError(name)


# -- categories and missing values -----------------------------------------------------------------

NATIVE = (*TREES, HISTOGRAM)
ENCODINGS = ("native", "onehot", "ordinal", "target")
LINEAR = "sklearn.linear_model.LogisticRegression"


def encoded(library: str, kind: str, encoding: str) -> Product:
    chosen = estimator(library, kind) | {"categorical": encoding}
    return product_of(library, kind, model__estimator=chosen)


def test_the_default_is_native_for_the_libraries_and_one_hot_for_scikit_learn() -> None:
    found = {name: product_of(name, "binary").model.estimator.encoding for name in NATIVE}
    assert found == {"lightgbm": "native", "xgboost": "native", "catboost": "native", HISTOGRAM: "onehot"}
    assert shop().model.estimator.encoding == "onehot"


def test_leaving_the_key_out_is_the_same_contract_and_the_same_model_as_before() -> None:
    plain, named = product_of(HISTOGRAM, "binary"), encoded(HISTOGRAM, "binary", "onehot")
    steps = train(plain, rows("binary")).pipeline.named_steps["features"].transformers_
    assert [list(transformer.named_steps) for _, transformer, _ in steps] == [
        ["impute", "scale"],
        ["impute", "encode"],
    ]
    learned, new = rows("binary"), rows("binary", seed=1)
    np.testing.assert_array_equal(
        said(plain, train(plain, learned).pipeline, new), said(named, train(named, learned).pipeline, new)
    )
    assert "categorical" not in str(plain.content_of("model.estimator"))


def test_native_takes_classes_that_can() -> None:
    with pytest.raises(
        ContractError, match=r"categorical and class: sklearn.linear_model.LogisticReg.* onehot"
    ):
        shop(model__estimator={"class": LINEAR, "categorical": "native"})
    chosen = estimator(HISTOGRAM, "binary", categorical_features=[0])
    with pytest.raises(ContractError, match=r"categorical and params.categorical_features"):
        shop(model__estimator=chosen | {"categorical": "native"})


def test_numbers_are_scaled_and_imputed_only_where_it_matters() -> None:
    def steps(class_: str, encoding: str) -> list[str]:
        product = shop(model__estimator={"class": class_, "categorical": encoding})
        pipeline = train(product, rows("binary")).pipeline
        numeric = pipeline.named_steps["features"].named_transformers_["numeric"]
        return list(getattr(numeric, "named_steps", []))

    assert steps("sklearn.ensemble.RandomForestClassifier", "ordinal") == []
    assert steps("sklearn.ensemble.GradientBoostingClassifier", "target") == ["impute"]
    assert steps(LINEAR, "target") == ["impute", "scale"]
    assert steps("sklearn.neighbors.KNeighborsClassifier", "ordinal") == ["impute", "scale"]
    assert steps(f"{HISTOGRAM}Classifier", "native") == []
    assert steps("lightgbm.LGBMClassifier", "onehot") == []


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("library", NATIVE)
@pytest.mark.parametrize("kind", KINDS)
def test_what_training_did_not_see_is_scored_and_the_same_by_row_and_by_batch(
    library: str, encoding: str, kind: str
) -> None:
    product = encoded(library, kind, encoding)
    learned = rows(kind)
    pipeline = train(product, learned).pipeline
    assert features_of(pipeline) == product.model.features
    strange = rows(kind, 60, seed=4)
    strange.loc[:19, "channel"] = "never seen"
    strange.loc[20:39, "channel"] = None
    strange.loc[30:, ["spend", "pages"]] = np.nan
    found = said(product, pipeline, strange)
    assert np.isfinite(found).all()
    one_by_one = np.concatenate([said(product, pipeline, strange.iloc[[n]]) for n in range(0, 60, 7)])
    np.testing.assert_allclose(one_by_one, found[::7], atol=1e-6)
    plots = model_plots.of_weights(pipeline)
    assert (library == HISTOGRAM) or "importances" in plots


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("library", NATIVE)
def test_features_without_any_value_in_training_are_learned_and_scored(library: str, encoding: str) -> None:
    product = encoded(library, "binary", encoding)
    learned = rows("binary").assign(spend=np.nan, channel=None)
    content = written(train(product, learned).pipeline)
    skops = skops_io()
    pipeline = skops.loads(content, trusted=trusted(skops.get_untrusted_types(data=content), "the file"))
    found = said(product, pipeline, rows("binary", 50, seed=5))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", HISTOGRAM])
def test_a_native_category_is_what_the_library_gets_of_numbered_ones(library: str) -> None:
    """Against the library alone, without this platform's pipeline."""
    product, learned = encoded(library, "binary", "native"), rows("binary")
    frame = feature_frame(product, learned)
    label = learned["bought"].to_numpy()
    pipeline = fit_pipeline(product, frame, label)
    names = sorted(frame["channel"].fillna("(missing)").unique())
    codes = frame["channel"].fillna("(missing)").map({name: code for code, name in enumerate(names)})
    given_ = frame.assign(channel=codes)
    if library == "lightgbm":
        import lightgbm

        alone = lightgbm.LGBMClassifier(
            n_estimators=8, random_state=0, n_jobs=1, deterministic=True, force_col_wise=True, verbosity=-1
        ).fit(given_.to_numpy(float), label, categorical_feature=[2])
    elif library == "xgboost":
        import xgboost

        alone = xgboost.XGBClassifier(
            n_estimators=8, random_state=0, n_jobs=1, enable_categorical=True, feature_types=["q", "q", "c"]
        ).fit(given_.to_numpy(float), label)
    else:
        from sklearn.ensemble import HistGradientBoostingClassifier

        alone = HistGradientBoostingClassifier(max_iter=8, random_state=0, categorical_features=[2])
        alone.fit(given_.to_numpy(float), label)
    np.testing.assert_array_equal(pipeline.predict_proba(frame), alone.predict_proba(given_.to_numpy(float)))


def test_catboost_gets_texts_and_the_same_as_alone() -> None:
    import catboost

    product, learned = encoded("catboost", "binary", "native"), rows("binary")
    frame, label = feature_frame(product, learned), learned["bought"].to_numpy()
    pipeline = fit_pipeline(product, frame, label)
    given_ = frame.assign(channel=frame["channel"].fillna("(missing)"))
    alone = catboost.CatBoostClassifier(
        n_estimators=8, thread_count=1, allow_writing_files=False, verbose=False, cat_features=["channel"]
    ).fit(given_, label)
    np.testing.assert_array_equal(pipeline.predict_proba(frame), alone.predict_proba(given_))


@pytest.mark.parametrize("features", [{"numeric": ["spend"]}, {"categorical": ["channel", "customer"]}])
@pytest.mark.parametrize("library", NATIVE)
def test_numbers_alone_and_categories_alone_are_features(library: str, features: dict[str, Any]) -> None:
    chosen = estimator(library, "binary") | {"categorical": "native"}
    product = product_of(library, "binary", model__estimator=chosen, model__features=features)
    model = train(product, rows("binary"))
    content = written(model.pipeline)
    trusted(skops_io().get_untrusted_types(data=content), "the file")
    assert np.isfinite(said(product, model.pipeline, rows("binary", seed=2))).all()


def test_more_categories_than_a_histogram_has_bins_are_learned() -> None:
    product = encoded(HISTOGRAM, "binary", "native")
    learned = rows("binary", 2_000)
    learned["channel"] = [f"k{number % 700}" for number in range(len(learned))]
    found = said(product, train(product, learned).pipeline, learned.assign(channel="new"))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_encoding_is_that_of_the_label_as_its_kind_says(kind: str) -> None:
    class_ = "sklearn.linear_model." + ("Ridge" if kind == "regression" else "LogisticRegression")
    product = product_of(
        "lightgbm", kind, model__estimator={"class": class_, "params": {}, "categorical": "target"}
    )
    learned = rows(kind)
    if kind == "regression":
        learned["paid"] = learned["paid"].round()  # whole numbers are no classes
    fitted = train(product, learned).pipeline.named_steps["features"].named_transformers_["categorical"]
    encoder = fitted.named_steps["encode"]
    assert encoder.target_type_ == {"regression": "continuous"}.get(kind, kind)
    if kind != "multiclass":
        by_channel = learned.groupby(learned["channel"].fillna("(missing)"))[product.label].mean()
        found = pd.Series(encoder.encodings_[0], index=encoder.categories_[0])
        pd.testing.assert_series_equal(
            found.sort_index(), by_channel.sort_index(), check_names=False, check_dtype=False, atol=0.05
        )


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    channels=st.lists(st.sampled_from(["a", "b", "", "(missing)", None, "ü"]), min_size=60, max_size=60),
    library=st.sampled_from(NATIVE),
)
def test_any_mix_of_categories_is_learned_and_scored(channels: list[str | None], library: str) -> None:
    product = encoded(library, "binary", "native")
    learned = rows("binary", 60).assign(channel=channels)
    learned["bought"] = np.arange(60) % 2
    model: TrainedModel = train(product, learned)
    assert np.isfinite(said(product, model.pipeline, rows("binary", 30, seed=9))).all()
