"""A stand-in for Spark where all days are small: its tasks run in this process, anything else is refused.

With it a step over tiny days takes a tenth of a second, so that half a year of mornings can be lived through.
What Spark itself does with the same functions is tested where they live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from ml_platform.engine.verdicts import Verdict
from ml_platform.mlops.quality import validation
from ml_platform.spark import tasks

Work = Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]]


@dataclass(frozen=True)
class TasksHere:
    """In place of a session."""

    def range(self, start: int, end: int, step: int, numPartitions: int) -> _Numbers:  # noqa: N803
        assert (start, step) == (0, 1)
        return _Numbers(end)


@dataclass(frozen=True)
class _Numbers:
    count: int

    def withColumnRenamed(self, _: str, new: str) -> _Numbers:
        assert new == "number"
        return self

    def mapInArrow(self, work: Work, schema: str) -> _Task:
        return _Task(work, self.count)


@dataclass(frozen=True)
class _Task:
    work: Work
    count: int

    def collect(self) -> list[dict[str, Any]]:
        numbers = pa.RecordBatch.from_pydict({"number": pa.array(range(self.count), pa.int64())})
        return [row for batch in self.work(iter([numbers])) for row in batch.to_pylist()]


def without_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every day pass: verdicts take most of a tiny day's time, and some need a real session."""

    def passed(_: Verdict, days: Sequence[date], *__: Any) -> dict[date, list[Any]]:
        return {day: [] for day in days}

    def no_facts(_: Mapping[date, Any]) -> dict[date, list[Any]]:
        return {}

    monkeypatch.setattr(Verdict, "_validate", passed)
    monkeypatch.setattr(validation, "judge_facts", no_facts)
    monkeypatch.setattr(tasks, "spare_next_task", lambda: None)
