"""The scikit-learn pipeline of a model: what it takes of rows of the MRDS, and how it is built.

What is learned, and how labels are predicted, depends on the kind of label (:mod:`.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract import boosting, estimators, trials
from ml_platform.contract.learning import Features
from ml_platform.contract.product import Product
from ml_platform.machine_learning.arrays import Floats

if TYPE_CHECKING:
    import pandas as pd

MISSING = "(missing)"
"""The category that stands for a missing one."""

#: How a label is transformed before it is learned, and back, by the contract's name. They rise, and are
#: ufuncs, which a model's file may hold.
TRANSFORMS: Mapping[str, tuple[Any, Any]] = {"log1p": (np.log1p, np.expm1)}


class TrainingError(Exception):
    """The labelled rows can't make a model; the message says what was found and what is needed."""


def features_of(pipeline: Any) -> Features:
    """The columns that a fitted pipeline takes, by kind; the contract may name others by now."""
    columns = {name: tuple(columns) for name, _, columns in pipeline.named_steps["features"].transformers_}
    return Features(numeric=columns.get("numeric", ()), categorical=columns.get("categorical", ()))


def fit_pipeline(
    product: Product, features: pd.DataFrame, label: NDArray[Any], classes: Sequence[Any] = ()
) -> Any:
    """A fitted :func:`build_pipeline`, of rows in a fixed order.

    Args:
        features: a :func:`feature_frame`.
        classes: those that the label has, where it is one of several that a contract names.
    """
    pipeline, extra = _unfitted(product, classes)
    estimator = product.model.one
    if estimator.class_ in boosting.HISTOGRAM and estimator.encoding != "onehot":
        # Scikit-learn's histogram trees can't make bins of a column without a value; of a constant one they
        # make no split.
        empty = [name for name in product.model.features.numeric if features[name].isna().all()]
        features = features.assign(**dict.fromkeys(empty, 0.0))
    return pipeline.fit(features, label, **extra)


def build_pipeline(product: Product) -> Any:
    """The unfitted scikit-learn pipeline: feature extraction and the contract's estimator.

    It takes a :func:`feature_frame`. A missing category is one of its own, and a category that training
    didn't see counts as none. Missing numbers become the median, unless the estimator can do without. An
    estimator without a seed gets one.
    """
    return _unfitted(product)[0]


def contracts_estimator(pipeline: Any) -> Any:
    """The fitted estimator that the contract names, within whatever holds it."""
    last_step = pipeline.named_steps["estimator"]
    # What learns a transformed label holds it, and so does what gives classes numbers.
    if hasattr(last_step, "regressor_"):
        return last_step.regressor_
    named = getattr(last_step, "named_estimators_", {})
    return named.get(_NUMBERED, last_step)


#: How the contract's estimator is called within what gives the classes of its label numbers.
_NUMBERED = "of_numbers"


def _unfitted(product: Product, classes: Sequence[Any] = ()) -> tuple[Any, dict[str, Any]]:
    """The pipeline, for rows of such classes, and what its ``fit`` has to be given besides the rows."""
    from sklearn.pipeline import Pipeline

    contract = product.model.one
    estimator = contract.build()
    if estimator.get_params().get("random_state", 0) is None:
        estimator.set_params(random_state=0)
    if classes:
        named = product.allowed_in(product.label) or ()
        boosting.suit_to_classes(contract.class_, estimator, named, classes)
    extraction = _extraction(product, estimator)
    features, extra = product.model.features, {}
    if _is_native(product):
        count = len(features.all)
        positions = range(len(features.numeric), count)
        extra = boosting.set_categories(contract.class_, estimator, positions, count)
    library = boosting.library_of(contract.class_)
    if library is not None and library.names_classes_by_number and product.task.names_classes:
        from sklearn.ensemble import VotingClassifier

        # The vote of one, by its probabilities, keeps the classes' names beside their numbers.
        estimator = VotingClassifier([(_NUMBERED, estimator)], voting="soft")
    if product.model.transform is not None:
        from sklearn.compose import TransformedTargetRegressor

        transform, inverse = TRANSFORMS[product.model.transform]
        estimator = TransformedTargetRegressor(
            regressor=estimator, func=transform, inverse_func=inverse, check_inverse=False
        )
    pipeline = Pipeline([("features", extraction), ("estimator", estimator)])
    return pipeline, {f"estimator__{name}": value for name, value in extra.items()}


def _is_native(product: Product) -> bool:
    return product.model.one.encoding == "native"


def _extraction(product: Product, estimator: Any) -> Any:
    """What makes the columns that an estimator takes of the features: numbers first, then categories."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    features, contract = product.model.features, product.model.one
    # Unless a contract asks for something else, scikit-learn's estimators get what they have always got:
    # other columns would be other models.
    as_ever = contract.encoding == "onehot" and boosting.library_of(contract.class_) is None
    scales = as_ever or not _grows_trees(contract.class_, estimator)
    steps: list[tuple[str, Any]] = []
    if as_ever or not _takes_missing(estimator):
        steps.append(("impute", SimpleImputer(strategy="median", keep_empty_features=True)))
    if scales:
        steps.append(("scale", StandardScaler()))
    constant = SimpleImputer(
        missing_values=None, strategy="constant", fill_value=MISSING, keep_empty_features=True
    )
    encoder = _encoder(product, estimator)
    encoded = [("impute", constant), *([("encode", encoder)] if encoder is not None else [])]
    if scales and contract.encoding in ("ordinal", "target"):
        encoded.append(("scale", StandardScaler()))
    kinds = [
        ("numeric", Pipeline(steps) if steps else "passthrough", list(features.numeric)),
        ("categorical", Pipeline(encoded), list(features.categorical)),
    ]
    sparse = contract.encoding == "onehot" and _takes_sparse(product, estimator)
    extraction = ColumnTransformer([kind for kind in kinds if kind[2]], sparse_threshold=0.3 if sparse else 0)
    if encoder is None:
        # Columns of numbers and of texts: in a frame, as only that holds both.
        extraction.set_output(transform="pandas").set_params(verbose_feature_names_out=False)
    return extraction


def _encoder(product: Product, estimator: Any) -> Any:
    """What turns categories into numbers; None where the estimator takes texts."""
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

    contract = product.model.one
    match contract.encoding:
        case "onehot":
            return OneHotEncoder(handle_unknown="ignore")
        case "ordinal":
            return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        case "target":
            # Said outright: whole numbers would be taken for classes.
            folds = KFold if product.task.is_number else StratifiedKFold
            kind = "continuous" if product.task.is_number else product.task.name
            return TargetEncoder(target_type=kind, cv=folds(shuffle=True, random_state=0))
    library = boosting.library_of(contract.class_)
    if library is not None and library.takes_texts:
        return None
    # Histogram trees have as many bins for categories as for numbers; the rarest share one.
    most = min(estimator.max_bins, _MOST_BINS) if library is None else None
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=most)


#: Bins that scikit-learn's histogram trees have at most.
_MOST_BINS = 255


def _grows_trees(path: str, estimator: Any) -> bool:
    """Whether an estimator is made of trees, to which the scale of a number is nothing."""
    if boosting.library_of(path) is not None:
        return getattr(estimator, "booster", None) != "gblinear"
    return path.startswith(("sklearn.tree.", "sklearn.ensemble."))


def _takes_missing(estimator: Any) -> bool:
    """Whether the estimator takes numbers that are missing as they are."""
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).input_tags.allow_nan)


def feature_frame(product: Product, frame: pd.DataFrame, features: Features | None = None) -> pd.DataFrame:
    """The model's features as the pipeline takes them, whatever types Arrow chose for this batch.

    Numbers are float64, NaN where missing, infinite or too large for a float of 32 bits; categories are
    strings, None where missing.

    Args:
        features: those of a model that was trained under another contract; the contract's without.
    """
    features = features or product.model.features
    columns: dict[str, Any] = {name: _numbers(frame[name]) for name in features.numeric}
    columns |= {name: _categories(frame[name], product.mrds_type(name)) for name in features.categorical}
    import pandas as pd

    return pd.DataFrame(columns, index=frame.index)


def halves(product: Product, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows are of one half of the entities, so that each half can be scored by a model of the other."""
    import pandas as pd

    entities = pd.util.hash_pandas_object(rows[list(product.entity)], index=False)
    second: NDArray[np.bool_] = entities.to_numpy() % 2 == 1
    return second


def _takes_sparse(product: Product, estimator: Any) -> bool:
    """Whether the estimator accepts sparse input; histogram gradient boosting, for one, does not."""
    from sklearn.utils import get_tags

    path, features = product.model.one.class_, product.model.features
    library = boosting.library_of(path)
    if library is not None and library.takes_zeros_for_missing:
        return False
    if not get_tags(estimator).input_tags.sparse:
        return False
    if path.partition(".")[0] not in estimators.LIBRARIES:
        return True
    labels = None if product.task.is_number else product.allowed_in(product.label)
    return trials.learns_sparse(path, estimator, labels, (len(features.numeric), len(features.categorical)))


#: The greatest number that a float of 32 bits holds: trees and boosting know no greater one.
LARGEST_FEATURE = float(np.finfo(np.float32).max)


def _numbers(values: pd.Series[Any]) -> Floats:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.abs(numbers) <= LARGEST_FEATURE, numbers, np.nan)


def _categories(values: pd.Series[Any], type_: str) -> pd.Series[Any]:
    import pandas as pd

    # Arrow makes integers with a null floats, in just the batches that have one: 1 must not become "1.0".
    if type_ in ("integer", "long"):
        values = values.astype("Int64")
    elif type_ == "boolean":
        values = values.astype("boolean")
    elif type_ == "timestamp" and isinstance(values.dtype, pd.DatetimeTZDtype):
        # Arrow's instants bear their time zone, Spark's are those of UTC and don't.
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    known = values.notna().to_numpy()
    texts = np.full(len(values), None, dtype=object)
    texts[known] = values[known] if type_ == "string" else [str(value) for value in values[known]]
    return pd.Series(texts, index=values.index, dtype=object)
