"""How a model is kept: the name of its file, the tags of its version, and the types that may be in it."""

from __future__ import annotations

import sys
from importlib import import_module
from threading import Lock
from typing import Any

from ml_platform.contract import estimators

#: The file of a version, and the tags that it has.
MODEL_FILE = "model.skops"
FINGERPRINT, THRESHOLD = "fingerprint", "threshold"


_importing = Lock()


class RegistryError(Exception):
    """A model can't be kept or loaded; the message says which and why."""


def skops_io() -> Any:
    """The reader and writer of models, imported without its list of all estimators.

    To make it, every module of scikit-learn is imported and searched. It only spares the known ones
    permission, which :func:`trusted` gives here. Whoever has imported skops before has the list already.
    """
    from sklearn import utils

    with _importing:
        if "skops.io" in sys.modules:
            return import_module("skops.io")
        every = utils.all_estimators
        utils.all_estimators = list
        try:
            return import_module("skops.io")
        finally:
            utils.all_estimators = every


def trusted(types: list[str], origin: str) -> list[str]:
    """Of the types that skops doesn't know, those that a scikit-learn pipeline may hold: all, or it fails.

    MLflow's own loader would trust whatever types the model's own files name.
    """
    wrong = [name for name in types if name != "numpy.dtype" and not _is_accepted(name)]
    if wrong:
        raise RegistryError(
            f"{origin} holds {', '.join(wrong)}; accepted are only classes of scikit-learn and numpy, and of "
            "modules that ML_PLATFORM_ESTIMATOR_MODULES names"
        )
    return types


def _is_accepted(name: str) -> bool:
    """Whether a class is scikit-learn's own, or of a module that whoever runs the platform has named."""
    module, _, attribute = name.rpartition(".")
    if not estimators.is_allowed(module):
        return False
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError:
        return False
    # What these modules have imported from elsewhere doesn't count.
    return isinstance(found, type) and estimators.is_allowed(found.__module__)
