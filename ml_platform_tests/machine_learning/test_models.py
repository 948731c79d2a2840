"""The history of models is in the order of its commits, whatever the clocks of the machines say."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import pytest

from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.promotion import Comparison, Decision
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import shop

AS_OF = date(2024, 3, 1)


def model(fingerprint: str) -> ModelRecord:
    return ModelRecord(
        as_of=AS_OF, month=AS_OF, kind="monthly", fingerprint=fingerprint, version="1", mlflow_run_id="m",
        threshold=0.5, rows=1, rows_available=1, first_day=AS_OF, last_day=AS_OF, run_id="r",
    )  # fmt: skip


def test_the_model_that_was_recorded_last_counts_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = ModelHistory(Tables(str(tmp_path)), shop())
    for fingerprint, clock in (("older", 2_000), ("newer", 1_000)):
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        history.add(model(fingerprint))
        decision = Decision(AS_OF, fingerprint, None, None, True, False, "", AS_OF)
        history.take_back(decision, reason=fingerprint, by="ann")
    (counts,) = history.models()
    assert counts.fingerprint == "newer"
    assert [row["reason"] for row in history.rollbacks()] == ["older", "newer"]


def test_a_comparison_that_fails_promotes_nothing_and_is_made_again(tmp_path: Path) -> None:
    history = ModelHistory(Tables(str(tmp_path)), shop())
    history.add(model("first"))
    asked = []

    def fail(challenger: ModelRecord, before: ModelRecord | None, day: date) -> Comparison:
        asked.append(challenger.fingerprint)
        raise ValueError("injected")

    for n in (1, 2):
        (decision,) = history.decide(lambda *_: "key", fail)
        assert not decision.promoted
        assert decision.reason == "the comparison failed: ValueError: injected"
        assert asked == ["first"] * n  # a failed comparison is not kept

    better = Comparison("f1", 0.9, None, "", 0.1, 0.2, 100, 50, 20, {}, True, "better")
    (decision,) = history.decide(lambda *_: "key", lambda *_: better)
    assert decision.promoted
