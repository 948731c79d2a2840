"""The models that serve days: which of them can score under the present contract, and loading them."""

from __future__ import annotations

from ml_platform.machine_learning import scoring, training
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.models import ModelRecord
from ml_platform.machine_learning.registry import Registry
from ml_platform.product import Product


def mismatch(registry: Registry, product: Product, model: ModelRecord) -> str | None:
    """Why a model can't score under a contract; None if it can.

    A model whose record lacks its columns is loaded.
    """
    if model.columns is not None:
        return ModelColumns.read(model.columns).mismatch(product)
    features = training.features_of(registry.load(product, model.version).pipeline)
    return ModelColumns.named(product, features).mismatch(product)


def load(registry: Registry, product: Product, model: ModelRecord) -> scoring.ServingModel:
    """A model, ready to score."""
    loaded = registry.load(product, model.version)
    return scoring.ServingModel(
        pipeline=loaded.pipeline,
        threshold=model.threshold,
        name=product.name,
        version=model.version,
        as_of=model.as_of,
        fingerprint=model.fingerprint,
    )
