"""How a model is kept: the name of its file, the tags of its version, and the types that may be in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from ml_platform.contract import boosting, estimators
from ml_platform.contract.faults import ends_the_run, in_words

#: The file of a version, and the tags that it has.
MODEL_FILE = "model.skops"
FINGERPRINT, THRESHOLD = "fingerprint", "threshold"
#: What the tag says of a model whose kind of label has no decisions.
NO_THRESHOLD = "none"
#: The tag with the packages that a version was made with.
LIBRARIES = "libraries"


_importing = Lock()
_LISTS = "skops.io._trusted_types"


#: What scikit-learn's histogram trees with categories hold besides classes: a check of an array, with its
#: arguments. What a partial calls is asked for by its own name.
_OF_HISTOGRAM_TREES = frozenset({"functools.partial", "sklearn.utils.validation.check_array"})
#: In which neighbours and support vector machines keep rows whose categories are one-hot.
_SPARSE_ROWS = frozenset({"scipy.sparse._csr.csr_matrix"})


class RegistryError(Exception):
    """A model can't be kept or loaded; the message says which and why."""


class UnloadableError(RegistryError):
    """A version is there and can't be loaded; the message says which and why."""


class MissingLibraryError(RegistryError):
    """A model needs a library that isn't installed here; the message says which, and what to do.

    To train it again would need it as well, or make another model.
    """


#: The packages whose objects a model's file holds: another major version may read them otherwise, or not.
_IN_FILES = ("scikit-learn", "numpy", "lightgbm", "xgboost", "xgboost-cpu", "catboost")


def incompatible(requirements: Iterable[str]) -> str | None:
    """Why a model that was made with some packages can't be loaded with those that are installed.

    What isn't installed at all is no reason: :func:`missing` says that.

    Args:
        requirements: as ``scikit-learn==1.9.1``; of packages whose objects aren't in the file nothing counts.
    """
    for name, version, installed in _in_file(requirements):
        if installed is not None and installed.partition(".")[0] != version.partition(".")[0]:
            return f"it was made with {name} {version}, and {installed} is installed"
    return None


def missing(requirements: Iterable[str]) -> str | None:
    """Which package isn't installed that a model needs, and what to do; None if all are.

    Args:
        requirements: as for :func:`incompatible`.
    """
    for name, version, installed in _in_file(requirements):
        if installed is None:
            library = boosting.library_named(name)
            what_to_do = library.remedy if library is not None else f"pip install {name}=={version}"
            return f"it was made with {name} {version}, which isn't installed here: {what_to_do}"
    return None


def _in_file(requirements: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """Those whose objects are in a model's file: the name, the version, and the one that is installed."""
    for requirement in requirements:
        name, _, version = requirement.strip().partition("==")
        if name in _IN_FILES and version:
            yield name, version, _installed(name)


def _installed(name: str) -> str | None:
    """The version of a package; xgboost is known by two names."""
    for known in (name, *(("xgboost", "xgboost-cpu") if name.startswith("xgboost") else ())):
        try:
            return installed_version(known)
        except PackageNotFoundError:
            continue
    return None


def _short_lists() -> ModuleType:
    """Stands for the module of skops that lists what it trusts by itself, with what is quickly listed."""
    numbers = {f"{kind.__module__}.{kind.__name__}" for kind in np.sctypeDict.values()}
    generators = {
        f"numpy.random.{name}"
        for name, kind in vars(np.random).items()
        if isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)
    }
    found = ModuleType(_LISTS)
    vars(found).update(
        PRIMITIVE_TYPE_NAMES=[f"builtins.{kind.__name__}" for kind in (int, float, str, bool)],
        CONTAINER_TYPE_NAMES=[f"builtins.{kind.__name__}" for kind in (list, set, map, tuple)],
        SKLEARN_ESTIMATOR_TYPE_NAMES=[],
        SKLEARN_INTERNAL_TYPE_NAMES=[],
        SCIPY_UFUNC_TYPE_NAMES=[],
        NUMPY_UFUNC_TYPE_NAMES=[],
        NUMPY_RANDOM_BIT_GENERATOR_TYPE_NAMES=sorted(generators - {"numpy.random.BitGenerator"}),
        NUMPY_DTYPE_TYPE_NAMES=sorted(name for name in numbers if name.startswith("numpy")),
    )
    return found


def skops_io() -> Any:
    """The reader and writer of models, imported without its long lists of types that need no permission.

    To make them, every module of scikit-learn is imported, and every module that is loaded is searched for
    each function of numpy and scipy: seconds. Whoever reads a file gives permission by :func:`trusted`. Who
    has imported skops before has the lists already.
    """
    with _importing:
        if "skops.io" in sys.modules:
            return import_module("skops.io")
        sys.modules[_LISTS] = _short_lists()
        try:
            return import_module("skops.io")
        finally:
            del sys.modules[_LISTS]


def read_pipeline(file: str, origin: str) -> Any:
    """The pipeline in a model's file.

    Args:
        origin: where the file is from, for the message.

    Raises:
        UnloadableError: it holds types that a pipeline may not have, or what it holds can't be made again:
            classes are gone or have become others, or the file is damaged.
        MissingLibraryError: it holds types of a library that isn't installed.
    """
    skops = skops_io()
    try:
        return skops.load(file, trusted=trusted(skops.get_untrusted_types(file=file), origin))
    except MissingLibraryError:
        raise
    except RegistryError as error:
        raise UnloadableError(str(error)) from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (library := _absent([error.name or ""])):
            raise MissingLibraryError(f"{origin} needs {library}") from error
        if ends_the_run(error) or isinstance(error, OSError | MemoryError):
            raise
        raise UnloadableError(f"{origin} can't be loaded: {in_words(error)}") from error


def trusted(types: list[str], origin: str) -> list[str]:
    """Of the types that skops doesn't know, those that a scikit-learn pipeline may hold: all, or it fails.

    MLflow's own loader would trust whatever types the model's own files name.
    """
    wrong = [name for name in types if name != "numpy.dtype" and not _is_accepted(name)]
    if library := _absent(wrong):
        raise MissingLibraryError(f"{origin} needs {library}")
    if wrong:
        raise RegistryError(
            f"{origin} holds {', '.join(wrong)}; accepted are only classes of scikit-learn and numpy, the "
            "models of LightGBM, XGBoost and CatBoost, and classes of modules that "
            "ML_PLATFORM_ESTIMATOR_MODULES names"
        )
    return types


def _absent(names: Iterable[str]) -> str | None:
    """The first package that isn't installed of those that modules or types are of, and what to do."""
    for name in names:
        package = name.partition(".")[0]
        if not package or package in sys.builtin_module_names or find_spec(package) is not None:
            continue
        library = boosting.library_named(package)
        if library is not None:
            return f"{package}, which isn't installed here: {library.remedy}"
        return (
            f"{package}, which isn't installed here: if ML_PLATFORM_ESTIMATOR_MODULES names it, install it "
            "on every machine that trains or scores"
        )
    return None


def _is_accepted(name: str) -> bool:
    """Whether a class is scikit-learn's own, or of a module that whoever runs the platform has named.

    Functions of numpy and scipy that work on each element are accepted as well, and of the libraries of
    boosted trees just the types that their models consist of. Those restore themselves from bytes or a text
    that the library's own reader takes, without pickle.
    """
    if name in boosting.TYPES or name in _OF_HISTOGRAM_TREES or name in _SPARSE_ROWS:
        return True
    module, _, attribute = name.rpartition(".")
    allowed = estimators.is_allowed(module)
    if not allowed and module.partition(".")[0] not in ("numpy", "scipy"):
        return False
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError:
        return False
    if isinstance(found, np.ufunc):
        return True
    # What these modules have imported from elsewhere doesn't count.
    return allowed and isinstance(found, type) and estimators.is_allowed(found.__module__)
