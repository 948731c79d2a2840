"""Whether what a contract names is a classifier or a regressor that can be built.

A contract is data: it may name classes of scikit-learn, those of LightGBM, XGBoost and CatBoost that
:mod:`.boosting` lists, and classes of modules that whoever runs the platform has named in a setting. Anything
else is refused before it is imported, since importing runs its code.

Importing scikit-learn takes longer than all else that drawing the graph needs. So a contract is read in two
ways: by names alone where the graph is drawn, and with its estimators tried (:data:`TRY`) where a person
asks whether it is right, and before a model is trained.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationInfo

from ml_platform.contract import boosting, trials

Method = Literal["any", "predict_proba", "predict"]

#: The libraries whose models can be registered and loaded again without pickle.
LIBRARIES = ("sklearn",)
#: Longer than any class's full name; it stands in messages.
_LONGEST_NAME = 200
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")

#: The context of a validation in which estimators are imported, built, and learn made-up rows.
TRY = {"estimators": "tried"}

_allowed: set[str] = set()
#: What has been tried in this process, and succeeded.
_tried: set[str] = set()


def are_tried(info: ValidationInfo) -> bool:
    """Whether a contract is read with its estimators tried, and not by their names alone."""
    return bool(info.context) and info.context == TRY


def allow(modules: Iterable[str]) -> None:
    """Accept classes of these modules, and of modules within them, from now on in this process."""
    _allowed.update(modules)


def is_allowed(module: str) -> bool:
    """Whether classes of a module may be imported because a contract or a model names them."""
    return module.partition(".")[0] in LIBRARIES or any(
        module == name or module.startswith(f"{name}.") for name in _allowed
    )


def build(path: str, params: Mapping[str, Any]) -> Any:
    """A new, unfitted estimator.

    Raises:
        ValueError: the class may not or can't be imported, predicts nothing, or doesn't take the parameters.
    """
    found, library = _class(path), boosting.library_of(path)
    try:
        return found(**(library.checked(found, params) if library else params))
    except boosting.ParameterError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # its code is not ours
        raise ValueError(f"params: {_reason(error)}") from error


def check_named_class(path: str, info: ValidationInfo) -> str:
    """See that a class may be imported and, where estimators are tried, as :func:`check_class`.

    Raises:
        ValueError: it may not, can't, or isn't.
    """
    _refuse(path)
    library = boosting.library_of(path)
    if library is not None and library.requirement is None:
        raise ValueError(_missing(path, library))
    return check_class(path) if are_tried(info) else path


def check_class(path: str, needs: Method = "any", place: str = "") -> str:
    """See that a class can be imported, and is a classifier or a regressor.

    Args:
        needs: ``predict_proba`` for a classifier, ``predict`` for a regressor.
        place: what in the contract asks for that, for the message.

    Raises:
        ValueError: it can't, or isn't.
    """
    _once([path, needs], path, lambda: _class(path, needs, place))
    return path


def imported(path: str) -> Any:
    """The class that a contract names.

    Raises:
        ValueError: as :func:`check_class`.
    """
    return _class(path)


def check_kind(path: str, params: Mapping[str, Any], *, is_number: bool, columns: int) -> None:
    """See that what an estimator learns is a label of the contract's kind, as it says itself.

    Args:
        is_number: whether the label is a number, and no class.
        columns: how many features it learns from.

    Raises:
        ValueError: it isn't.
    """
    if boosting.library_of(path) is None:
        facts = ["kind", path, params, is_number, columns == 1]
        _once(facts, path, lambda: _check_kind(path, params, is_number=is_number, columns=columns))


def _check_kind(path: str, params: Mapping[str, Any], *, is_number: bool, columns: int) -> None:
    made = build(path, params)
    if not is_number:
        try:
            _ = made.predict_proba
        except Exception as error:
            why = _reason(error.__cause__ or error)
            raise ValueError(
                f"params: {path} has no predict_proba with these, which model.task needs: {why}"
            ) from error
    if path.partition(".")[0] not in LIBRARIES:
        return
    from sklearn.utils import get_tags

    try:
        tags = get_tags(made)
    except Exception as error:  # of what it is made of, which a contract can't name
        raise trials.refusal(path, error) from error
    if is_number and not tags.target_tags.single_output:
        raise ValueError(f"class: {path} learns several numbers at once, and the label of model.task is one")
    if not tags.input_tags.two_d_array and columns > 1:
        raise ValueError(f"class: {path} learns from one column, and model.features has {columns}")


def check_learning(
    path: str,
    params: Mapping[str, Any],
    *,
    labels: Sequence[Any] | None,
    numeric: int,
    categorical: int,
    encoding: str,
) -> None:
    """See that an estimator learns with a contract's parameters, as far as that can be known without data.

    Most estimators look at parameters only when they learn, so they learn made-up rows. Classes of modules
    that a setting names don't: what they do with rows is unknown.

    Args:
        labels: the classes; None if the label is a number.
        numeric: how many features are numbers.
        categorical: how many are categories.
        encoding: how the estimator is given these.

    Raises:
        ValueError: it doesn't.
    """
    known = [*labels] if labels is not None else None
    facts = ["learns", path, params, known, numeric, categorical, encoding]
    if boosting.library_of(path) is not None:
        # Their own trial knows categories that are encoded as numbers: of many classes a target has several.
        of_target = len(known or ()) if encoding == "target" and len(known or ()) > 2 else 1
        encoded = 0 if encoding == "native" else categorical * of_target
        boosting.check_positions(path, params, numeric + categorical)
        shape = {"numbers": numeric + encoded, "categories": categorical if encoding == "native" else 0}
        _once(facts, path, lambda: boosting.try_out(_class(path), path, params, labels=known, **shape))
    elif path.partition(".")[0] in LIBRARIES:
        shape = {"numeric": numeric, "categorical": categorical}
        made = functools.partial(build, path, params)
        _once(
            facts,
            path,
            lambda: trials.fit_scikit_learn(path, made(), labels=known, encoding=encoding, **shape),
        )


def check(path: str, params: Mapping[str, Any]) -> None:
    """See that :func:`build` succeeds.

    Raises:
        ValueError: as :func:`build`.
    """
    _once([path, params], path, lambda: build(path, params))


def check_values(path: str, params: Mapping[str, Any]) -> None:
    """See that a class of scikit-learn accepts each value by itself, as it does before it learns.

    Values that a search may find needn't go together: of those that don't a trial fails, and no model.

    Raises:
        ValueError: it doesn't; the message names the parameter.
    """
    if path.partition(".")[0] in LIBRARIES:
        _once(["values", path, params], path, lambda: trials.check_values(path, build(path, params)))


def check_takes_fractions(path: str, name: str, place: str) -> None:
    """See that a parameter of a library of boosted trees doesn't have a whole number as its default.

    Raises:
        ValueError: it has, so that a range of it is one of whole numbers.
    """
    parameter = inspect.signature(_class(path)).parameters.get(name)
    if parameter is not None and type(parameter.default) is int:
        raise ValueError(f"{place}: {name} takes whole numbers; write low and high without a decimal point")


def _class(path: str, needs: Method = "any", place: str = "") -> Any:
    _refuse(path)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, or end the process
        library = boosting.library_of(path)
        if library is not None and library.requirement is None:
            raise ValueError(_missing(path, library)) from error
        raise ValueError(
            f"{path!r} can't be imported ({_reason(error)}); accepted is the full name of a scikit-learn "
            "classifier or regressor, like sklearn.linear_model.LogisticRegression"
        ) from error
    is_classifier = hasattr(found, "fit") and hasattr(found, "predict_proba")
    is_regressor = hasattr(found, "fit") and hasattr(found, "predict") and not _is_of_classes(found)
    before = f"{place}: " if place else ""
    if needs == "predict_proba" and not is_classifier:
        raise ValueError(f"{before}{path!r} is no classifier with fit and predict_proba")
    if needs == "predict" and not is_regressor:
        raise ValueError(f"{before}{path!r} is no regressor with fit and predict")
    if not (is_classifier or is_regressor):
        raise ValueError(
            f"{path!r} is no classifier with fit and predict_proba, nor a regressor with fit and predict"
        )
    return found


def _missing(path: str, library: boosting.Library) -> str:
    return f"{path!r} needs {library.name}, which isn't installed here: {library.remedy}"


def _is_of_classes(found: Any) -> bool:
    """Whether what a class predicts are classes, clusters or outliers, and no numbers."""
    from sklearn.base import ClassifierMixin, ClusterMixin, OutlierMixin

    others = (ClassifierMixin, ClusterMixin, OutlierMixin)
    return hasattr(found, "predict_proba") or (isinstance(found, type) and issubclass(found, others))


def _refuse(path: str) -> None:
    """Refuse a class by its name alone, before anything is imported.

    Raises:
        ValueError: it is no full name, or of a module that is not accepted.
    """
    if len(path) > _LONGEST_NAME or not _FULL_NAME.fullmatch(path):
        raise ValueError(
            f"{path[:_LONGEST_NAME]!r} can't be imported: it is not the full name of a class, like "
            "sklearn.linear_model.LogisticRegression"
        )
    if is_allowed(path.rpartition(".")[0]) or boosting.library_of(path) is not None:
        return
    library = boosting.LIBRARIES.get(path.partition(".")[0])
    if library is not None:
        raise ValueError(
            f"{path!r} is not accepted, and was not imported: accepted of {library.name} are "
            f"{' and '.join(sorted(library.classes))}"
        )
    raise ValueError(
        f"{path!r} is not accepted, and was not imported: accepted are classes of scikit-learn, the "
        "classifiers and regressors of LightGBM, XGBoost and CatBoost, and classes of "
        f"modules that ML_PLATFORM_ESTIMATOR_MODULES names ({', '.join(sorted(_allowed)) or 'none now'})"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the process with sys.exit({error.code!r})"
    return str(error) or type(error).__name__


def _once(facts: Sequence[Any], path: str, look: Callable[[], object]) -> None:
    """Look, unless that has succeeded before in this process; a class of somebody's own module may change."""
    # As Python writes it: to JSON, 1 and "1" are the same key of a mapping.
    known = repr(facts)
    if known in _tried:
        return
    look()
    if path.partition(".")[0] in LIBRARIES or boosting.library_of(path) is not None:
        _tried.add(known)
