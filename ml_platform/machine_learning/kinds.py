"""The kinds of label by name, and which one a product has."""

from __future__ import annotations

from collections.abc import Mapping

from ml_platform.contract.product import Product
from ml_platform.contract.tasks import TaskName
from ml_platform.machine_learning.binary import Binary
from ml_platform.machine_learning.kind import Kind
from ml_platform.machine_learning.multiclass import Multiclass
from ml_platform.machine_learning.regression import Regression

KINDS: Mapping[TaskName, type[Kind]] = {"binary": Binary, "regression": Regression, "multiclass": Multiclass}


def kind_of(product: Product) -> Kind:
    """The kind of a product's label."""
    return KINDS[product.task.name](product)
