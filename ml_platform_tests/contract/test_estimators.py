"""Classifiers are checked when a contract is loaded, and scikit-learn's are imported for it only once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml_platform.contract import estimators

LOGISTIC = "sklearn.linear_model.LogisticRegression"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def imported_by_check(path: str, params: dict[str, Any]) -> bool:
    """Whether a fresh interpreter imports scikit-learn to check a class."""
    code = f"import sys; from ml_platform.contract import estimators; estimators.check({path!r}, {params!r})"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; print('sklearn' in sys.modules)"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip() == "True"


def test_a_known_class_is_not_imported_again() -> None:
    assert imported_by_check(LOGISTIC, {"C": 1.0})
    assert not imported_by_check(LOGISTIC, {"C": 1.0})
    assert imported_by_check(LOGISTIC, {"C": 2.0})


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("sklearn.linear_model.Logistic", {}, "can't be imported"),
        ("sklearn.cluster.KMeans", {}, "no classifier"),
        (LOGISTIC, {"depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_what_cannot_be_built_is_refused_every_time(path: str, params: dict[str, Any], message: str) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            estimators.check(path, params)
