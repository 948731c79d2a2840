"""The scikit-learn pipeline of a model: what it takes of rows of the MRDS, and how it is built.

What is learned, and how labels are predicted, depends on the kind of label (:mod:`.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


def build_pipeline(product: Product) -> Any:
    """The unfitted scikit-learn pipeline: feature extraction and the contract's estimator.

    It takes a :func:`feature_frame`. Missing numbers become the median, missing categories one of their
    own, and a category that training didn't see counts as none. An estimator without a seed gets one.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    features, estimator = product.model.features, product.model.estimator.build()
    if estimator.get_params().get("random_state", 0) is None:
        estimator.set_params(random_state=0)
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    constant = SimpleImputer(
        missing_values=None, strategy="constant", fill_value=MISSING, keep_empty_features=True
    )
    numeric = Pipeline([("impute", median), ("scale", StandardScaler())])
    categorical = Pipeline([("impute", constant), ("encode", OneHotEncoder(handle_unknown="ignore"))])
    kinds = [
        ("numeric", numeric, list(features.numeric)),
        ("categorical", categorical, list(features.categorical)),
    ]
    extraction = ColumnTransformer(
        [kind for kind in kinds if kind[2]],
        sparse_threshold=0.3 if _takes_sparse(estimator) else 0,
    )
    if product.model.transform is not None:
        from sklearn.compose import TransformedTargetRegressor

        transform, inverse = TRANSFORMS[product.model.transform]
        estimator = TransformedTargetRegressor(
            regressor=estimator, func=transform, inverse_func=inverse, check_inverse=False
        )
    return Pipeline([("features", extraction), ("estimator", estimator)])


def feature_frame(product: Product, frame: pd.DataFrame, features: Features | None = None) -> pd.DataFrame:
    """The model's features as the pipeline takes them, whatever types Arrow chose for this batch.

    Numbers are float64, NaN where missing or infinite; categories are strings, None where missing.

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


def _takes_sparse(estimator: Any) -> bool:
    """Whether the estimator accepts sparse input; histogram gradient boosting, for one, does not."""
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).input_tags.sparse)


def _numbers(values: pd.Series[Any]) -> Floats:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


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
