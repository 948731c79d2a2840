"""Batch machine learning in production as one Dagster asset graph.

``ProductComponent`` is here for the ``defs.yaml`` of other projects; it is imported when it is asked for, and
Dagster with it.
"""

from importlib import import_module
from typing import Any

_LATER = {"ProductComponent": "ml_platform.component"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_LATER]
