"""What a model's run in MLflow shows: the model itself, its parameters, its data and metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

import pandas as pd

from ml_platform.contract import boosting
from ml_platform.contract.faults import ends_the_run, in_words
from ml_platform.contract.product import Product
from ml_platform.contract.tasks import AT_K
from ml_platform.machine_learning import model_plots
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.kind import Kind, Predictions
from ml_platform.machine_learning.mlflow_store import mlflow_module
from ml_platform.machine_learning.model_files import skops_io, trusted
from ml_platform.machine_learning.pipeline import TrainingError, contracts_estimator, feature_frame
from ml_platform.machine_learning.training import TrainedModel

_log = logging.getLogger(__name__)

REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops")


@dataclass(frozen=True)
class DataUsed:
    """The rows a model was trained on, and where they are.

    The days are those asked for; ``rows`` of the ``rows_available`` labelled ones were taken.
    """

    delta_version: str
    first_day: date
    last_day: date
    rows: int
    rows_available: int
    table_path: str


# -- what a run shows ------------------------------------------------------------------------------


def log_model(kind: Kind, trained: TrainedModel, facts: Mapping[str, str]) -> Any:
    """Log a pipeline to the present run, as a file that loads without pickle.

    Raises:
        TrainingError: what the pipeline has learned can't be read back by the library that has learned it.
    """
    from mlflow import sklearn
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    inputs = [
        ColSpec("double" if dtype.kind == "f" else "string", name, required=False)
        for name, dtype in trained.example.dtypes.items()
    ]
    return sklearn.log_model(
        trained.pipeline,
        name="model",
        serialization_format=sklearn.SERIALIZATION_FORMAT_SKOPS,
        skops_trusted_types=_types_in(trained.pipeline, quoting=not kind.product.sensitive),
        pyfunc_predict_fn=kind.predict_method,
        signature=ModelSignature(inputs=Schema(inputs), outputs=Schema([kind.output_spec()])),
        input_example=trained.example,
        pip_requirements=requirements(kind.product),
        tags=dict(facts),
    )


def _types_in(pipeline: Any, *, quoting: bool) -> list[str]:
    """The types that a pipeline's file holds beside those that skops trusts; the file can be read."""
    skops = skops_io()
    content = skops.dumps(pipeline)
    types = trusted(skops.get_untrusted_types(data=content), "the pipeline")
    try:
        skops.loads(content, trusted=types)
    except Exception as error:
        if ends_the_run(error):
            raise
        why = in_words(error, quoting=quoting)
        raise TrainingError(f"what it has learned can't be stored: read back, it ends in {why}") from error
    return types


#: What is said of a model that learns from rows as later deliveries have corrected them.
CORRECTED = "corrected: rows as they are today, which nobody knew as of its date"


def requirements(product: Product) -> list[str]:
    """The packages that a model of a product needs to be loaded, with their versions."""
    needed = [f"{name}=={_version_of(name)}" for name in REQUIREMENTS]
    library = boosting.library_of(product.model.one.class_)
    if library is not None and library.requirement is not None:
        needed.append(library.requirement)
    return needed


def _version_of(name: str) -> str:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        if name != "mlflow":
            raise
        # Where only the client is installed, it has the version of the whole.
        return installed_version("mlflow-skinny")


def params_of(product: Product, trained: TrainedModel, data: DataUsed) -> dict[str, Any]:
    """The parameters of a run."""
    model = product.model
    estimator = contracts_estimator(trained.pipeline).get_params(deep=False)
    params = {
        "estimator": model.one.class_,
        **{f"estimator.{name}": value for name, value in estimator.items()},
        "numeric_features": ", ".join(model.features.numeric),
        "categorical_features": ", ".join(model.features.categorical),
        "first_day": data.first_day,
        "last_day": data.last_day,
        "training_days": trained.days,
    }
    if model.learns_from == "corrected":
        params["learns_from"] = CORRECTED
    if model.decision_highest is not None:
        params["decision_highest"] = model.decision_highest
    if product.highest is not None and product.evaluation.metric in AT_K:
        params["k"] = product.highest
    if trained.threshold is not None:
        params["decision_threshold"] = trained.threshold
        params["decision_threshold_rule"] = "tuned" if model.decision_threshold == "tuned" else "fixed"
    if model.features.categorical:
        params["categorical"] = model.one.encoding
    given = {"transform": model.transform, "interval": model.interval}
    return params | {name: value for name, value in given.items() if value is not None}


def dataset_of(product: Product, data: DataUsed, fingerprint: str) -> Any:
    """The data of a run, as MLflow names it."""
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    # The version is a string, since MLflow drops the integer 0.
    place = {"path": data.table_path}
    if data.table_path.startswith("`"):  # a name in a catalog, which MLflow wants without quotes
        place = {"delta_table_name": data.table_path.replace("`", "")}
    source = DeltaDatasetSource(**place, delta_table_version=data.delta_version)
    return MetaDataset(source, name=f"{product.name}/mrds", digest=fingerprint[:32])


def days_and_rows(data: DataUsed) -> dict[str, str]:
    """What the data was, as tags."""
    return {
        "delta_version": data.delta_version,
        "first_day": str(data.first_day),
        "last_day": str(data.last_day),
        "rows": str(data.rows),
        "rows_available": str(data.rows_available),
    }


def holdout_metrics(kind: Kind, label: Floats, predictions: Predictions) -> dict[str, float]:
    """The metrics on the held-out rows."""
    figures = dict(kind.summary(label, predictions))
    figures[kind.product.evaluation.metric] = kind.score(label, predictions)
    return {f"holdout_{name}": value for name, value in figures.items() if value is not None}


def log_figures(kind: Kind, trained: TrainedModel, model_id: str, holdout: pd.DataFrame | None) -> None:
    """Log the metrics of a model to the present run, and what can be drawn of it.

    Args:
        model_id: MLflow's own name of the logged model.
        holdout: labelled rows of held-out entities.
    """
    figures: dict[str, float] = {"training_rows": trained.rows}
    if kind.product.task.has_positives:
        figures["training_positives"] = trained.positives
    unseen = None
    if holdout is not None:
        label = kind.labels(holdout[kind.product.label])
        outputs = kind.in_days(kind.predict(trained.pipeline, holdout), holdout)
        predictions = kind.decided(outputs, trained.threshold)
        figures |= holdout_metrics(kind, label, predictions)
        unseen = (holdout, label, predictions)
    _log_plots(kind, trained, unseen)
    mlflow_module().log_metrics(figures, model_id=model_id)


def _log_plots(
    kind: Kind, trained: TrainedModel, unseen: tuple[pd.DataFrame, Floats, Predictions] | None
) -> None:
    """Log what can be drawn of a model to the present run; nothing depends on it.

    Args:
        unseen: held-out rows, their labels, and what the model predicts for them.
    """
    mlflow, product = mlflow_module(), kind.product
    try:
        plots = model_plots.of_weights(trained.pipeline, product.sensitive)
        if unseen is not None:
            holdout, label, predictions = unseen
            plots |= kind.plots(label, predictions, trained.threshold)
            if "coefficients" not in plots:
                features = feature_frame(product, holdout)
                plots |= model_plots.of_shuffling(trained.pipeline, features, kind.as_learned(label))
        for name, figure in plots.items():
            mlflow.log_figure(figure, f"plots/{name}.png")
    except (ValueError, ArithmeticError, TypeError, KeyError, IndexError):
        _log.warning("a model of %s could not be drawn", product.name, exc_info=True)
