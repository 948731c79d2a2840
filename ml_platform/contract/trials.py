"""Made-up rows on which the estimator of a contract is tried before there are any deliveries.

Estimators look at their parameters when they learn, and some of them learn from no row of these kinds, or
predict something else than a label. So they learn a few rows that look as a model's would: numbers,
categories as whichever numbers the contract makes of them, and a label of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Rows of a trial: at least, and of each class.
ROWS, ROWS_OF_CLASS = 200, 8
#: How much of what an estimator itself says of an error is shown; it may hold a stack trace.
LONGEST_REASON = 300
#: Values that a made-up category has.
VALUES = 7


def count_of(labels: Sequence[Any] | None, at_least: int = ROWS) -> int:
    """How many rows a trial takes, so that there are some of each class."""
    return max(at_least, ROWS_OF_CLASS * len(labels or ()))


def numbers(rows: int, columns: int) -> NDArray[np.float64]:
    """Columns of numbers, rows by columns, each with a mean near 0 and a deviation near 1."""
    import numpy as np

    places = np.arange(rows)[:, None] * (np.arange(columns)[None, :] + 1)
    found: NDArray[np.float64] = np.sqrt(2.0) * np.sin(places)
    return found


def codes(rows: int, columns: int, values: int = VALUES) -> NDArray[np.int64]:
    """Columns of categories as whole numbers from 0 to ``values`` - 1."""
    import numpy as np

    return (np.arange(rows)[:, None] * 3 + np.arange(columns)[None, :]) % values


def classes(labels: Sequence[Any], rows: int) -> NDArray[Any]:
    """A label of each of the rows: the classes in turn."""
    import numpy as np

    return np.array(labels)[np.arange(rows) % len(labels)]


def check_predictions(path: str, said: Any, rows: int, labels: Sequence[Any] | None) -> None:
    """See that what an estimator predicts is a number, or the probabilities of the classes.

    Raises:
        ValueError: it isn't.
    """
    import numpy as np

    said = np.asarray(said)
    if labels is None and said.shape == (rows, 1):
        said = said.ravel()
    if said.shape != ((rows,) if labels is None else (rows, len(labels))):
        what = "a number" if labels is None else f"the probabilities of {len(labels)} classes"
        raise ValueError(f"params: what {path} predicts with them isn't {what}")
    if said.dtype.kind not in "fiu" or not np.isfinite(said).all():
        raise ValueError(f"params: {path} predicts with them what is no number")
    if labels is not None and not (np.all(said >= 0) and np.allclose(said.sum(axis=1), 1, atol=1e-3)):
        raise ValueError(f"params: what {path} predicts with them are no probabilities")


def refusal(path: str, error: BaseException) -> ValueError:
    """That an estimator can't learn with its parameters, given or not, with what it says itself."""
    reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
    return ValueError(f"params: {path} can't learn with them: {reason}")


#: Rows of a second trial, and values of its categories: what can't learn a few rows may want more neighbours,
#: more rows of each fold, or more columns.
_MANY_ROWS, _MANY_VALUES = 5_000, 50
#: Columns of categories up to which it has more values of each: a wide contract has columns enough.
_MANY_COLUMNS = 1_000
#: Rounds that an estimator of scikit-learn makes in a trial at most, of those that its parameters ask for.
_ROUNDS = 5
#: Parameters with a number of rounds: of trees, or of steps towards the best coefficients.
_COUNTS_OF_ROUNDS = ("n_estimators", "max_iter")


def check_values(path: str, made: Any) -> None:
    """See that an estimator of scikit-learn accepts each of its parameters by itself.

    Raises:
        ValueError: it doesn't.
    """
    validate = getattr(made, "_validate_params", None)
    try:
        if validate is not None:
            validate()
    except ValueError as error:
        raise refusal(path, error) from error


def fit_scikit_learn(
    path: str,
    made: Any,
    *,
    labels: Sequence[Any] | None,
    numeric: int,
    categorical: int,
    encoding: str,
) -> None:
    """Have an estimator of scikit-learn learn and predict as it will within a model's pipeline.

    Args:
        path: the full name of its class.
        made: it, unfitted, with the parameters of the contract.
        labels: the classes; None if the label is a number.
        numeric: how many features are numbers.
        categorical: how many are categories.
        encoding: how it is given categories.

    Raises:
        ValueError: it can't, or its predictions aren't what they should be.
    """
    check_values(path, made)  # as they are: a trial makes fewer rounds
    _try_both_sizes(path, made, labels, (numeric, categorical), encoding)


def _try_both_sizes(
    path: str,
    made: Any,
    labels: Sequence[Any] | None,
    counts: tuple[int, int],
    encoding: str,
    *,
    sparse: bool = False,
) -> None:
    try:
        _fit(path, made, labels, counts, encoding, count_of(labels), VALUES, sparse=sparse)
        return
    except ValueError:
        pass
    rows = count_of(labels, _MANY_ROWS)
    values = max(VALUES, min(_MANY_VALUES, _MANY_COLUMNS // (counts[1] or 1)))
    try:
        _fit(path, made, labels, counts, encoding, rows, values, sparse=sparse)
    except ValueError as error:
        # As scikit-learn calls the number of rows: only the real ones can tell whether they are enough.
        if "n_samples" not in str(error):
            raise


def learns_sparse(path: str, made: Any, labels: Sequence[Any] | None, counts: tuple[int, int]) -> bool:
    """Whether an estimator of scikit-learn also learns categories one-hot in a sparse matrix.

    Classes that take such ones may do so with some of their parameters only.

    Args:
        counts: how many features are numbers, and how many categories.
    """
    asked = (path, repr(sorted(made.get_params(deep=False).items())), tuple(labels or ()), counts)
    if asked not in _SPARSE:
        try:
            _try_both_sizes(path, made, labels, counts, "onehot", sparse=True)
            _SPARSE[asked] = True
        except ValueError:
            _SPARSE[asked] = False
    return _SPARSE[asked]


#: What has been found by :func:`learns_sparse`: a search asks for each of its trials and folds.
_SPARSE: dict[Any, bool] = {}


def _in_short(made: Any) -> dict[str, Any]:
    """Parameters of a trial that differ from those of a contract: it is short, and prints nothing."""
    known = made.get_params(deep=False)
    few: dict[str, Any] = {
        name: _ROUNDS for name in _COUNTS_OF_ROUNDS if type(known.get(name)) is int and known[name] > _ROUNDS
    }
    if known.get("max_iter") == -1:  # support vector machines go on until they are done, if ever
        few["max_iter"] = _MANY_ROWS
    if known.get("n_jobs") is not None:
        few["n_jobs"] = None
    if known.get("verbose"):
        few["verbose"] = 0
    return few | ({"random_state": 0} if "random_state" in known else {})


def _fit(
    path: str,
    made: Any,
    labels: Sequence[Any] | None,
    counts: tuple[int, int],
    encoding: str,
    rows: int,
    values: int,
    *,
    sparse: bool = False,
) -> None:
    import warnings

    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.base import clone
    from threadpoolctl import threadpool_limits

    estimator = clone(made).set_params(**_in_short(made))
    if encoding == "native":
        # As many categories as the pipeline makes of them at most.
        values = min(values, estimator.max_bins)
        estimator.set_params(categorical_features=list(range(counts[0], sum(counts))))
    if encoding == "target" and len(labels or ()) > 2:  # a column for each class
        counts = counts[0], counts[1] * len(labels or ())
    taken = _as_given(rows, counts, encoding, values)
    # A sum of columns without noise, above 0 as some want it.
    label = classes(labels, rows) if labels is not None else 10 + taken.mean(axis=1)
    # Rows that are far from all others, and of a category that was never seen.
    beyond = np.zeros((2, taken.shape[1]))
    beyond[:, : counts[0]] = [[_FAR], [-_FAR]]
    asked = np.vstack([taken, beyond])
    if sparse:
        taken, asked = csr_matrix(taken), csr_matrix(asked)
    try:
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore")
            estimator.fit(taken, label)
            said = estimator.predict(asked) if labels is None else estimator.predict_proba(asked)
            learned = None if labels is None else [str(name) for name in estimator.classes_]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # its code is not ours
        raise refusal(path, error) from error
    if labels is not None and learned is not None and sorted(learned) != sorted(map(str, labels)):
        raise ValueError(f"params: {path} learns other classes than those of the label")
    if len(said) == asked.shape[0] and not np.isfinite(said[rows:]).all():
        raise ValueError(
            f"params: {path} predicts with them what is no number, for rows far from those it has learned"
        )
    check_predictions(path, said, asked.shape[0], labels)


#: Deviations of a number that is far from all that was learned.
_FAR = 6.0


def _as_given(rows: int, counts: tuple[int, int], encoding: str, values: int) -> NDArray[np.float64]:
    """The columns that an estimator takes, rows by columns."""
    import numpy as np

    of_numbers, of_categories = numbers(rows, counts[0]), codes(rows, counts[1], values)
    if encoding == "onehot":
        known = (of_categories[:, :, None] == np.arange(values)).astype(float)
        return np.hstack([of_numbers, known.reshape(rows, -1)])
    if encoding == "native":
        return np.hstack([of_numbers, of_categories.astype(float)])
    return np.hstack([of_numbers, (of_categories - values // 2) / (values / 4)])
