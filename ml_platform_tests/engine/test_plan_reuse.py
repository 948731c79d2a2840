"""A range is planned once, and anew as soon as what its plan was made from has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data_engineering import landing
from ml_platform.engine import local, run_partitions
from ml_platform.engine.context import StepContext
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Inputs, StepRequest, Written
from ml_platform.engine.steps.ards import Ards
from ml_platform.engine.steps.predictions import Predictions
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord, _encode
from ml_platform.machine_learning.promotion import Decision
from ml_platform.storage.ledger import DayRecord
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days

HEADER = "visit,day,customer,spend,pages,channel\n"
CHOSEN = days("2024-02-10", "2024-02-13")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A platform whose steps do one day after another, without Spark."""
    return Platform(settings_in(tmp_path, chunk_days=1), None)  # type: ignore[arg-type]


def context(platform: Platform, step: str) -> StepContext:
    request = StepRequest(step=step, product="shop", days=tuple(CHOSEN), run_id="run")
    return local.context_for(request, platform.product, platform.settings, lambda: None, lambda _: None)  # type: ignore[arg-type, return-value]


def without_work(base: type[Step], meanwhile: Callable[[], None]) -> tuple[type[Step], list[Any], list[date]]:
    """A step that writes nothing, the plans it is asked for, and the days it withdraws.

    Args:
        meanwhile: what happens during its first chunk.
    """
    plans: list[Any] = []
    withdrawn: list[date] = []

    class Idle(base):  # type: ignore[valid-type, misc]
        def lost(self, records: Any) -> dict[date, str]:
            return {}

        def prepare(self) -> None:
            pass

        def plan(self, days: Any, lost: Any = ()) -> dict[date, Inputs]:
            plans.append(list(days))
            return super().plan(days, lost)  # type: ignore[no-any-return]

        def write(self, work: Mapping[date, Inputs], tries: Any) -> dict[date, Written]:
            if CHOSEN[0] in work:
                meanwhile()
            return {
                day: Written(
                    "written",
                    fingerprint="f",
                    counts={"rows": 1},
                    details={"model": getattr(getattr(inputs.found, "model", None), "fingerprint", None)},
                )
                for day, inputs in work.items()
            }

        def withdraw(self, days: Any) -> dict[date, Written]:
            withdrawn.extend(days)
            return {day: Written("missing") for day in days}

    return Idle, plans, withdrawn


def deliver(platform: Platform, day: date) -> None:
    platform.deliver(day, "a.csv", f"{HEADER}1,{day},ann,1,1,web\n")


def test_a_range_is_planned_once_while_nothing_else_is_recorded(platform: Platform) -> None:
    for day in CHOSEN:
        deliver(platform, day)
    idle, plans, _ = without_work(Ards, lambda: None)
    run_partitions.bring_up_to_date(idle(context(platform, "ards")), CHOSEN)
    assert plans == [CHOSEN]


def test_another_record_has_the_rest_planned_anew(platform: Platform) -> None:
    for day in CHOSEN:
        deliver(platform, day)
    other = DayRecord(asset="mrds", day=CHOSEN[0], outcome="empty", inputs="", contract="", code_version="")
    idle, plans, _ = without_work(Ards, lambda: platform.ledger.record([other]))
    run_partitions.bring_up_to_date(idle(context(platform, "ards")), CHOSEN)
    assert plans[0] == CHOSEN
    assert [[day] for day in CHOSEN[1:]] == plans[1:]


def test_days_that_arrive_or_are_fixed_after_the_plan_are_made_and_none_is_withdrawn(
    platform: Platform, tmp_path: Path
) -> None:
    first, back, fixed, late = CHOSEN
    for day in (first, back, fixed):
        deliver(platform, day)
    step = Ards(context(platform, "ards"))
    platform.ledger.record(
        [
            DayRecord(
                asset="ards",
                day=back,
                outcome="written",
                inputs="another",
                contract=step.contract,
                code_version=step.code_version,
                fingerprint="f",
                counts={"rows": 1},
            )
        ]
    )
    shutil.move(platform.folder(back), tmp_path / "away")
    platform.deliver(fixed, "a.csv", "x;y\n")

    def arrive() -> None:
        shutil.move(tmp_path / "away", platform.settings.landing_path / "shop" / str(back))
        deliver(platform, fixed)
        deliver(platform, late)

    idle, _, withdrawn = without_work(Ards, arrive)
    run_partitions.bring_up_to_date(idle(context(platform, "ards")), CHOSEN)
    records = platform.ledger.latest("ards")
    assert {records[day].outcome for day in CHOSEN} == {"written"}
    assert withdrawn == []


def decision(as_of: str, fingerprint: str, before: str | None, *, taken_back: bool = False) -> Decision:
    return Decision(
        as_of=D(as_of),
        fingerprint=fingerprint,
        champion_before=before,
        promoted=not taken_back,
        taken_back=taken_back,
        reason="",
        comparison=None,
        decided_on=D(as_of),
        waiting=False,
    )


def model(as_of: str, fingerprint: str) -> ModelRecord:
    return ModelRecord(
        as_of=D(as_of),
        month=D("2024-02-01"),
        kind="monthly",
        fingerprint=fingerprint,
        version="1",
        mlflow_run_id="1",
        threshold=0.5,
        rows=1,
        rows_available=1,
        first_day=D("2024-01-01"),
        last_day=D("2024-01-31"),
        run_id="r",
        holdout="entities",
    )


def test_a_rollback_during_a_run_counts_for_the_days_that_are_not_scored_yet(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"outcome": "written", "inputs": "x", "contract": "c", "code_version": "1", "fingerprint": "f"}
    platform.ledger.record(
        [DayRecord(asset="mrds", day=day, counts={"rows": 10}, **written) for day in CHOSEN]  # type: ignore[arg-type]
    )
    history = ModelHistory(platform.tables, platform.product)
    history.add(model("2024-02-01", "A"))
    history.add(model("2024-02-05", "B"))
    first, second = decision("2024-02-01", "A", None), decision("2024-02-05", "B", "A")
    history._decisions.overwrite([_encode(first), _encode(second)])
    monkeypatch.setattr(Predictions, "_obstacles", lambda *_: {})

    def roll_back() -> None:
        history.take_back(second, reason="bad", by="me")
        taken_back = decision("2024-02-05", "B", "A", taken_back=True)
        history._decisions.overwrite([_encode(first), _encode(taken_back)])

    idle, _, _ = without_work(Predictions, roll_back)
    run_partitions.bring_up_to_date(idle(context(platform, "predictions")), CHOSEN)
    records = platform.ledger.latest("predictions")
    assert [records[day].details["model"] for day in CHOSEN] == ["B", "A", "A", "A"]


def test_no_header_is_read_of_a_day_that_is_up_to_date(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [D("2024-01-01"), D("2024-01-02"), D("2024-01-03")]
    for day in chosen:
        platform.deliver(day, "rows.csv", f"{HEADER}1,{day},ann,1,1,web\n")
    platform.run("ards", chosen)
    platform.deliver(chosen[1], "more.csv", f"{HEADER}2,{chosen[1]},bob,1,1,web\n")
    read: list[str] = []
    read_head = landing.read_head

    def reading(path: str, *arguments: Any) -> tuple[tuple[str, ...], int]:
        read.append(f"{Path(path).parent.name}/{Path(path).name}")
        return read_head(path, *arguments)

    monkeypatch.setattr(landing, "read_head", reading)
    result = platform.run("ards", chosen)
    assert [day.up_to_date for day in result.days] == [True, False, True]
    assert sorted(read) == [f"{chosen[1]}/more.csv", f"{chosen[1]}/rows.csv"]
    read.clear()
    platform.run("ards", chosen, force=True)
    assert len(read) == 4
