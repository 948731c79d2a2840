"""Whether what a contract names is a classifier that can be built.

Importing scikit-learn takes longer than all else that drawing the graph needs, so what has been found of
one of its classes is kept in the user's cache, for each of its versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

_LIBRARY = "sklearn"


def build(path: str, params: Mapping[str, Any]) -> Any:
    """A new, unfitted estimator.

    Raises:
        ValueError: the class can't be imported, is no classifier, or doesn't take the parameters.
    """
    try:
        return _class(path)(**params)
    except TypeError as error:
        raise ValueError(f"params: {error}") from error


def check_class(path: str) -> str:
    """See that a class can be imported and is a classifier.

    Raises:
        ValueError: it can't, or isn't.
    """
    _once([path], path, lambda: _class(path))
    return path


def check(path: str, params: Mapping[str, Any]) -> None:
    """See that :func:`build` succeeds.

    Raises:
        ValueError: as :func:`build`.
    """
    _once([path, params], path, lambda: build(path, params))


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path!r} can't be imported ({error}); accepted is the full name of a scikit-learn "
            "classifier, like sklearn.linear_model.LogisticRegression"
        ) from error
    if not (hasattr(found, "fit") and hasattr(found, "predict_proba")):
        raise ValueError(f"{path!r} is no classifier with fit and predict_proba")
    return found


def _once(facts: Sequence[Any], path: str, look: Callable[[], object]) -> None:
    """Look, unless that has succeeded before."""
    known = _known(facts, path)
    if known is not None and known.exists():
        return
    look()
    if known is not None:
        with contextlib.suppress(OSError):  # without a cache it is found again the next time
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()


def _known(facts: Sequence[Any], path: str) -> Path | None:
    """The file that exists if looking has succeeded; None for a class that may change at any time."""
    if not path.startswith(f"{_LIBRARY}."):
        return None
    content = json.dumps([*facts, version("scikit-learn")], sort_keys=True, default=repr)
    name = hashlib.sha256(content.encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("ml_platform") / "estimators" / name
