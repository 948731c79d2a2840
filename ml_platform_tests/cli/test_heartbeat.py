"""Lines of a command that is at work for long."""

from __future__ import annotations

import threading

import pytest

from ml_platform.cli import heartbeat
from ml_platform.cli.heartbeat import Heartbeat, tasks_of_spark


def test_while_a_step_is_silent_it_is_said_that_it_is_at_work() -> None:
    lines: list[str] = []
    three = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) >= 4:
            three.set()

    with Heartbeat(say, detail=lambda: "Spark: 3 of 8 tasks", seconds=0.01) as beat:
        beat.say("run: ards")
        assert three.wait(60), "nothing moves"
    assert lines[0] == "run: ards"
    assert all(line.startswith("still at work, ") for line in lines[1:])
    assert all(line.endswith(" s since: run: ards (Spark: 3 of 8 tasks)") for line in lines[1:])


def test_before_anything_is_begun_and_after_the_end_nothing_is_said() -> None:
    lines: list[str] = []
    asked = threading.Event()

    def detail() -> str:
        asked.set()
        return ""

    with Heartbeat(lines.append, detail=detail, seconds=0.01) as beat:
        assert asked.wait(60)
    beat._thread.join(60)
    assert not beat._thread.is_alive()
    assert lines == []


def test_a_line_comes_at_least_every_ten_seconds() -> None:
    assert heartbeat.SECONDS <= 9


def test_without_spark_there_is_no_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark import SparkContext

    monkeypatch.setattr(SparkContext, "_active_spark_context", None)
    assert tasks_of_spark() == ""
