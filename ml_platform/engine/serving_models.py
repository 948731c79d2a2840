"""The models that serve days: which of them can score under the present contract, and loading them."""

from __future__ import annotations

import logging
from typing import Any

from ml_platform.contract.faults import in_words
from ml_platform.contract.product import Product
from ml_platform.machine_learning import pipeline
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_history import ModelRecord
from ml_platform.machine_learning.predicted_rows import ServingModel
from ml_platform.machine_learning.registry import Registry


def mismatch(registry: Registry, product: Product, model: ModelRecord) -> str | None:
    """Why a model can't score under a contract; None if it can.

    A model whose record lacks its columns is loaded. One that can't be loaded is taken for one that can
    score: what was made with it stays as it is, and who needs it for new rows gets the error.
    """
    if model.threshold is None and product.task.has_positives and product.model.decision_highest is None:
        return "it has no threshold, since it was to decide for the highest of each day (decision_highest)"
    if model.columns is not None:
        return ModelColumns.read(model.columns).mismatch(product)
    try:
        features = pipeline.features_of(registry.load(product, model.version, model.fingerprint).pipeline)
    except Exception as error:
        logging.getLogger(__name__).warning(
            "version %s of %s can't be loaded: %s", model.version, product.name, in_words(error)
        )
        return None
    return ModelColumns.named(product, features).mismatch(product)


def serving_model(product: Product, model: ModelRecord, pipeline: Any) -> ServingModel:
    """A model that was loaded, as scoring takes it."""
    return ServingModel(
        pipeline=pipeline,
        threshold=model.threshold,
        name=product.name,
        version=model.version,
        as_of=model.as_of,
        fingerprint=model.fingerprint,
    )
