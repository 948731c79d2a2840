"""A classifier that a contract can name and that takes no time to import, for steps that don't train."""

from __future__ import annotations

from typing import Any


class LightClassifier:
    """Has what a contract asks of a classifier."""

    def fit(self, *_: Any) -> None:
        raise NotImplementedError

    def predict_proba(self, *_: Any) -> None:
        raise NotImplementedError
