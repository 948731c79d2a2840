"""The libraries of boosted trees that are extras: what of them a contract may name, and how they are set.

Of each library it is written here which classes a contract may name, which parameters it may give them, which
types a model's file may hold (:mod:`ml_platform.machine_learning.model_files`), and how an estimator is given
categories. Their models are kept as the bytes or the text that the library itself writes and reads, within
the file of the pipeline, so that loading one runs no pickle.

Everything is set so that the same rows give the same model, that nothing is printed, and that no file is
written or read: parameters that would change that are refused.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

from ml_platform.contract import trials
from ml_platform.contract.fields import listed

#: Trees that are grown when a contract's parameters are tried.
TRIAL_TREES = 2

_FILES = "models neither read nor write files besides their own"
_QUIET = "models print nothing"
_NO_EVALUATION = "models learn from all of their rows, and stop early on none that are left out"
_CATEGORIES = "which columns are categories follows from model.features"
_PROCESSOR = "models are trained on the CPU, where the same rows give the same model"


class ParameterError(ValueError):
    """A contract gives a parameter that it can't give; the message names it."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class Library:
    """A library of boosted trees.

    Attributes:
        name: of its module, and of the extra that installs it.
        distributions: what it is called where it is installed; the first that is there counts.
        classes: what a contract may name.
        types: what the file of a model may hold, by the full name.
        seed: the parameter with the seed of random numbers.
        threads: the parameter with the number of threads.
        trees: the parameters with the number of trees, all of the same meaning.
        defaults: parameters that are set unless a contract gives them.
        further: parameters that the signatures of its classes don't show.
        refused: parameters that a contract can't give, and why.
        only: the one value that a parameter may have, and why.
        objectives: those that make a classifier's trees give probabilities, where it takes others as well.
        objectives_of_numbers: those that make a regressor's trees give numbers in the label's unit.
        objectives_of_many: those of a classifier that need three classes.
        objective: the parameters with the objective, all of the same meaning.
        by_position: parameters that tell features by their places, which those of categories that are
            encoded one-hot don't keep.
        names_classes_by_number: whether it knows classes only as numbers from 0 on.
        takes_zeros_for_missing: whether a zero that a sparse matrix doesn't hold is a missing value to it.
        takes_texts: whether it takes categories as texts; otherwise they are numbered.
    """

    name: str
    distributions: tuple[str, ...]
    classes: frozenset[str]
    types: frozenset[str]
    seed: str
    threads: str
    trees: tuple[str, ...]
    defaults: Mapping[str, Any]
    further: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    only: Mapping[str, tuple[Any, str]] = field(default_factory=lambda: MappingProxyType({}))
    objectives: frozenset[str] = frozenset()
    objectives_of_numbers: frozenset[str] = frozenset()
    objectives_of_many: frozenset[str] = frozenset()
    objective: tuple[str, ...] = ("objective",)
    by_position: frozenset[str] = frozenset()
    names_classes_by_number: bool = False
    takes_zeros_for_missing: bool = False
    takes_texts: bool = False

    @property
    def unsafe(self) -> frozenset[str]:
        """The parameters that may end the process if they are wrong: those that only its core looks at."""
        return self.by_position | self.further

    @property
    def remedy(self) -> str:
        """What to do where it is missing, to stand behind a sentence that says so."""
        return f"install the extra {self.name} (pip install 'ml-platform[{self.name}]')"

    @property
    def requirement(self) -> str | None:
        """The package that is installed of it, with its version; None if none is."""
        for name in self.distributions:
            try:
                return f"{name}=={version(name)}"
            except PackageNotFoundError:
                continue
        return None

    def checked(self, found: type, params: Mapping[str, Any]) -> dict[str, Any]:
        """A contract's parameters, with those that give the same model every time.

        Raises:
            ParameterError: a parameter is unknown, or can't be given; the message names it.
        """
        known = {name for name in _signature(found) if name not in self.refused} | self.further
        for name, value in params.items():
            if name in self.refused:
                raise ParameterError(f"params.{name}: it can't be given: {self.refused[name]}")
            if name not in known:
                raise ParameterError(
                    f"params.{name}: {found.__name__} has no such parameter, or has it by another name; "
                    f"accepted are {listed(sorted(known))}"
                )
            if name in self.only and value != self.only[name][0]:
                raise ParameterError(f"params.{name}: it must be {self.only[name][0]}: {self.only[name][1]}")
            if name == self.threads and (type(value) is not int or value < 1):
                raise ParameterError(
                    f"params.{name}: it must be a number of threads from 1 on, not {value!r}: the same "
                    "number on every machine gives the same model"
                )
            if name in self.trees and (type(value) is not int or value < 1):
                raise ParameterError(f"params.{name}: it must be a number of trees from 1 on, not {value!r}")
        makes_classes = hasattr(found, "predict_proba")
        accepted = self.objectives if makes_classes else self.objectives_of_numbers
        for name in self.objective:
            value = params.get(name)
            # Of CatBoost's, what follows a colon are parameters of the objective itself.
            if value is None or not accepted or {str(value), str(value).partition(":")[0]} & accepted:
                continue
            what = "probabilities of classes" if makes_classes else "number like the label"
            raise ParameterError(
                f"params.{name}: {value!r} gives no {what}; accepted are {listed(sorted(accepted))}"
            )
        given = {name: value for name, value in params.items() if name != self.seed or value is not None}
        return {**self.defaults, **given}


LIBRARIES: Mapping[str, Library] = {
    library.name: library
    for library in (
        Library(
            name="lightgbm",
            distributions=("lightgbm",),
            classes=frozenset({"lightgbm.LGBMClassifier", "lightgbm.LGBMRegressor"}),
            types=frozenset(
                {
                    "lightgbm.sklearn.LGBMClassifier",
                    "lightgbm.sklearn.LGBMRegressor",
                    "lightgbm.basic.Booster",
                    "collections.OrderedDict",
                }
            ),
            seed="random_state",
            threads="n_jobs",
            trees=("n_estimators",),
            # Sums by column are the same however many threads there are.
            defaults={
                "random_state": 0,
                "n_jobs": 1,
                "deterministic": True,
                "force_col_wise": True,
                "verbosity": -1,
            },
            # Of the core's parameters those that say how trees are grown, and neither files nor hosts.
            further=_names(
                "alpha bin_construct_sample_cnt boost_from_average cat_l2 cat_smooth "
                "data_sample_strategy drop_rate enable_bundle extra_trees fair_c "
                "feature_fraction_bynode interaction_constraints is_unbalance linear_lambda "
                "linear_tree max_bin max_bin_by_feature max_cat_threshold max_cat_to_onehot "
                "max_delta_step max_drop min_data_in_bin min_data_per_group monotone_constraints "
                "monotone_constraints_method monotone_penalty neg_bagging_fraction num_class "
                "other_rate path_smooth poisson_max_delta_step pos_bagging_fraction reg_sqrt "
                "scale_pos_weight sigmoid skip_drop top_rate tweedie_variance_power uniform_drop "
                "use_missing xgboost_dart_mode zero_as_missing"
            ),
            objectives=_names("binary cross_entropy multiclass softmax"),
            objectives_of_numbers=_names(
                "regression regression_l2 l2 mean_squared_error mse l2_root root_mean_squared_error rmse "
                "regression_l1 l1 mean_absolute_error mae huber fair poisson quantile mape "
                "mean_absolute_percentage_error gamma tweedie"
            ),
            objectives_of_many=_names("multiclass softmax"),
            by_position=frozenset({"interaction_constraints", "max_bin_by_feature", "monotone_constraints"}),
        ),
        Library(
            name="xgboost",
            distributions=("xgboost", "xgboost-cpu"),
            classes=frozenset(
                {
                    "xgboost.XGBClassifier",
                    "xgboost.XGBRegressor",
                    "xgboost.XGBRFClassifier",
                    "xgboost.XGBRFRegressor",
                }
            ),
            types=frozenset(
                {
                    "xgboost.sklearn.XGBClassifier",
                    "xgboost.sklearn.XGBRegressor",
                    "xgboost.sklearn.XGBRFClassifier",
                    "xgboost.sklearn.XGBRFRegressor",
                    "xgboost.core.Booster",
                }
            ),
            seed="random_state",
            threads="n_jobs",
            trees=("n_estimators",),
            defaults={"random_state": 0, "n_jobs": 1, "verbosity": 0},
            further=_names(
                "huber_slope normalize_type num_class one_drop quantile_alpha rate_drop "
                "sample_type skip_drop tweedie_variance_power"
            ),
            refused={
                "verbosity": _QUIET,
                "callbacks": _NO_EVALUATION,
                "early_stopping_rounds": _NO_EVALUATION,
                "eval_metric": _NO_EVALUATION,
                "enable_categorical": _CATEGORIES,
                "feature_types": _CATEGORIES,
            },
            only={"device": ("cpu", _PROCESSOR)},
            objectives=_names("binary:logistic multi:softprob multi:softmax"),
            objectives_of_numbers=_names(
                "reg:squarederror reg:squaredlogerror reg:pseudohubererror reg:absoluteerror "
                "reg:quantileerror reg:gamma reg:tweedie reg:linear count:poisson"
            ),
            objectives_of_many=_names("multi:softprob multi:softmax"),
            by_position=frozenset({"feature_weights", "interaction_constraints", "monotone_constraints"}),
            names_classes_by_number=True,
            takes_zeros_for_missing=True,
        ),
        Library(
            name="catboost",
            distributions=("catboost",),
            classes=frozenset({"catboost.CatBoostClassifier", "catboost.CatBoostRegressor"}),
            types=frozenset({"catboost.core.CatBoostClassifier", "catboost.core.CatBoostRegressor"}),
            seed="random_state",
            threads="thread_count",
            trees=("iterations", "n_estimators", "num_boost_round", "num_trees"),
            defaults={"thread_count": 1, "allow_writing_files": False, "verbose": False},
            refused={
                **dict.fromkeys(("logging_level", "silent", "verbose", "verbose_eval"), _QUIET),
                **dict.fromkeys(
                    _names(
                        "train_dir save_snapshot snapshot_file snapshot_interval input_borders "
                        "output_borders allow_writing_files name metadata metric_period"
                    ),
                    _FILES,
                ),
                **dict.fromkeys(
                    _names(
                        "callback early_stopping_rounds eval_fraction eval_metric custom_loss "
                        "custom_metric od_pval od_type od_wait use_best_model best_model_min_trees"
                    ),
                    _NO_EVALUATION,
                ),
                **dict.fromkeys(
                    _names(
                        "cat_features text_features embedding_features dictionaries tokenizers "
                        "feature_calcers text_processing"
                    ),
                    _CATEGORIES,
                ),
                **dict.fromkeys(("class_names", "classes_count"), "they follow from the label"),
                "params": "each parameter is written by its own name",
                **dict.fromkeys(
                    _names(
                        "devices device_config gpu_cat_features_storage gpu_ram_part pinned_memory_size "
                        "data_partition"
                    ),
                    _PROCESSOR,
                ),
            },
            only={"task_type": ("CPU", _PROCESSOR)},
            objectives_of_numbers=_names(
                "RMSE MultiRMSE MAE MAPE RMSPE Poisson Quantile Lq Huber Expectile Tweedie LogCosh"
            ),
            objective=("loss_function", "objective"),
            by_position=_names(
                "feature_weights first_feature_use_penalties ignored_features "
                "monotone_constraints per_feature_ctr per_float_feature_quantization "
                "per_object_feature_penalties"
            ),
            takes_texts=True,
        ),
    )
}


def library_of(path: str) -> Library | None:
    """The library of a class that a contract names; None if it isn't one that is accepted of these."""
    library = LIBRARIES.get(path.partition(".")[0])
    return library if library is not None and path in library.classes else None


def library_named(name: str) -> Library | None:
    """The library of a module, or of a package under any of its names."""
    return next(
        (library for library in LIBRARIES.values() if name == library.name or name in library.distributions),
        None,
    )


TYPES: frozenset[str] = frozenset().union(*(library.types for library in LIBRARIES.values()))
"""What the files of these libraries' models may hold."""


def takes_categories(path: str) -> bool:
    """Whether an estimator can be given categories as they are."""
    return library_of(path) is not None or path in HISTOGRAM


#: Parameters of scikit-learn's classes that tell features by their places.
BY_POSITION = _names("categorical_features interaction_cst monotonic_cst")

HISTOGRAM = frozenset(
    {
        "sklearn.ensemble.HistGradientBoostingClassifier",
        "sklearn.ensemble.HistGradientBoostingRegressor",
    }
)
"""Scikit-learn's own trees that take categories as they are."""


def set_categories(path: str, estimator: Any, positions: Sequence[int], columns: int) -> dict[str, Any]:
    """Have an estimator take some of its columns as categories.

    Args:
        positions: of those columns, of ``columns`` in all.

    Returns:
        What its ``fit`` has to be given besides the rows.
    """
    chosen = list(positions)
    if not chosen:
        return {}
    match path.partition(".")[0]:
        case "lightgbm":
            return {"categorical_feature": chosen}
        case "xgboost":
            kinds = ["c" if position in chosen else "q" for position in range(columns)]
            estimator.set_params(enable_categorical=True, feature_types=kinds)
        case "catboost":
            return {"cat_features": chosen}
        case _:
            estimator.set_params(categorical_features=chosen)
    return {}


def suit_to_classes(path: str, estimator: Any, classes: Sequence[Any], there: Sequence[Any]) -> None:
    """Set an estimator to the classes of its rows, where parameters of the contract are for others as well.

    Weights of classes that no row has are left out, as estimators refuse them; an objective for many classes
    is that for two where there are two.

    Args:
        path: the full name of its class, of scikit-learn too.
        classes: all of the contract.
        there: those that its rows have, as the estimator is given them.
    """
    params = estimator.get_params(deep=False)
    for name in ("class_weight", "class_weights"):
        weights = params.get(name)
        if isinstance(weights, Mapping):
            left = {
                given: weight
                for key, weight in weights.items()
                for given in there
                if key == given or (isinstance(given, str) and str(key) == given)
            }
            if left != weights:
                estimator.set_params(**{name: left or None})
        elif isinstance(weights, Sequence) and not isinstance(weights, str) and len(there) < len(classes):
            names = {str(label) for label in there}
            pairs = zip(_in_order(classes), weights, strict=True)
            estimator.set_params(**{name: [weight for key, weight in pairs if str(key) in names]})
    library = library_of(path)
    if library is None or len(there) == len(classes):
        return
    if len(there) == 2 and params.get("objective") in library.objectives_of_many:
        estimator.set_params(objective=None)
    if params.get("num_class") is not None:
        estimator.set_params(num_class=None)


def _in_order(classes: Sequence[Any]) -> list[Any]:
    """Classes as CatBoost orders them: by number if all are numbers, also those that are texts."""
    try:
        return sorted(classes, key=float)
    except ValueError:
        return sorted(classes)


def try_out(
    found: type,
    path: str,
    params: Mapping[str, Any],
    *,
    labels: Sequence[Any] | None,
    numbers: int,
    categories: int,
) -> None:
    """Grow two trees of made-up rows with a contract's parameters, which the libraries check only then.

    Some parameters end the process if they are wrong; those are tried in a process of their own.

    Args:
        params: of the contract.
        labels: the classes; None if the label is a number.
        numbers: how many columns the estimator takes as numbers.
        categories: how many as categories.

    Raises:
        ValueError: it can't be trained so, or its predictions aren't what they should be.
    """
    library = library_of(path)
    if library is None:
        raise ValueError(f"{path} is of none of these libraries")
    task = (path, dict(params), None if labels is None else list(labels), numbers, categories)
    if _IN_THIS_PROCESS not in os.environ and library.unsafe & params.keys():
        _try_elsewhere(task, library.unsafe)
    else:
        _grow(library, found, *task)


def check_positions(path: str, params: Mapping[str, Any], columns: int) -> None:
    """Refuse constraints on columns that there aren't.

    LightGBM reads beyond its memory for them, and may accept them by chance.

    Raises:
        ValueError: a number in them is that of no column.
    """
    named = map(int, re.findall(r"-?\d+", str(params.get("interaction_constraints"))))
    beyond = [number for number in named if not 0 <= number < columns]
    if beyond:
        raise ValueError(
            f"params.interaction_constraints: {path} gets {columns} columns, counted from 0, and one of "
            f"interaction_constraints is {beyond[0]}"
        )


#: In the environment of the process that tries parameters out, so that it starts no further one.
_IN_THIS_PROCESS = "ML_PLATFORM_TRIES_PARAMETERS"
#: Seconds that two trees of a few hundred rows may take, with the import of the library on a busy machine.
_TRIAL_SECONDS = 120
_REFUSED = 3
_TRIAL = f"""
import ast, sys
from ml_platform.contract import boosting, estimators
path, params, labels, numbers, categories = ast.literal_eval(sys.stdin.read())
try:
    boosting.try_out(
        estimators.imported(path), path, params, labels=labels, numbers=numbers, categories=categories
    )
except ValueError as error:
    print(error)
    sys.exit({_REFUSED})
"""


def _try_elsewhere(task: tuple[Any, ...], suspects: frozenset[str]) -> None:
    path = task[0]
    try:
        ast.literal_eval(repr(task))
    except (ValueError, SyntaxError):
        raise ValueError(
            f"params: {path} takes texts, finite numbers, and lists and mappings of them; one of these is "
            "none"
        ) from None
    try:
        tried = subprocess.run(  # noqa: S603 - this interpreter; the contract is on its standard input
            [sys.executable, "-c", _TRIAL],
            input=repr(task),
            env={**os.environ, _IN_THIS_PROCESS: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"params: {path} learns nothing with them in {_TRIAL_SECONDS} s") from None
    if tried.returncode == _REFUSED:
        raise ValueError(tried.stdout.strip())
    if tried.returncode:
        reason = " ".join((tried.stderr or tried.stdout).split())[-trials.LONGEST_REASON :]
        given = ", ".join(sorted(suspects & set(task[1])))
        raise ValueError(
            f"params: {path} can't learn with them, and ends the process (one of {given} is wrong)"
            f"{f': {reason}' if reason else ''}"
        )


def _grow(
    library: Library,
    found: type,
    path: str,
    params: Mapping[str, Any],
    labels: Sequence[Any] | None,
    numbers: int,
    categories: int,
) -> None:
    import numpy as np
    import pandas as pd

    few = {name: value for name, value in params.items() if name not in library.trees}
    estimator = found(**library.checked(found, {**few, library.trees[0]: TRIAL_TREES}))
    count = trials.count_of(labels)
    order = np.arange(count)
    of_numbers, codes = trials.numbers(count, numbers), trials.codes(count, categories)
    columns: dict[str, Any] = {
        f"n{place}": np.where((order + place) % 5, of_numbers[:, place], np.nan) for place in range(numbers)
    }
    for place in range(categories):
        columns[f"c{place}"] = codes[:, place].astype(str if library.takes_texts else float)
    rows = pd.DataFrame(columns)
    taken = rows if library.takes_texts else rows.to_numpy()
    extra = set_categories(path, estimator, range(numbers, numbers + categories), len(columns))
    if labels is None:
        label = 1.0 + (order * 7 % 13) / 13  # positive, as some objectives need it
    else:
        label = trials.classes(range(len(labels)) if library.names_classes_by_number else labels, count)
    try:
        estimator.fit(taken, label, **extra)
        said = np.ravel(estimator.predict(taken)) if labels is None else estimator.predict_proba(taken)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # its code is not ours
        raise trials.refusal(path, error) from error
    trials.check_predictions(path, said, count, labels)


def _signature(found: type) -> set[str]:
    """The parameters of a class and of those that it hands further ones to."""
    names: set[str] = set()
    for base in found.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= {
            each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        }
    return names - {"self"}
