"""Whether what a contract names is a classifier that can be built.

Importing scikit-learn takes longer than all else that drawing the graph needs, so what has been found of
one of its classes is kept in the user's cache, for each of its versions.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
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
    try:
        return found(**params)
    except TypeError as error:
        raise ValueError(f"params: {error}") from error


def check(path: str, params: Mapping[str, Any]) -> None:
    """See that :func:`build` succeeds; known classes of scikit-learn are not imported again.

    Raises:
        ValueError: as :func:`build`.
    """
    known = _known(path, params)
    if known is not None and known.exists():
        return
    build(path, params)
    if known is not None:
        try:
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()
        except OSError:
            pass  # without a cache it is found again the next time


def _known(path: str, params: Mapping[str, Any]) -> Path | None:
    """The file that exists if the class has been built; None for one that may change at any time."""
    if not path.startswith(f"{_LIBRARY}."):
        return None
    facts = json.dumps([path, params, version("scikit-learn")], sort_keys=True, default=repr)
    name = hashlib.sha256(facts.encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("ml_platform") / "estimators" / name
