"""What a rollback says it will do is what the fold over all models then does."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Mapping
from datetime import date, timedelta

import pytest

from ml_platform.machine_learning.promotion import Candidate, Comparison, Decision, fold, serving
from ml_platform.machine_learning.rollback import days_served, plan
from ml_platform_tests.small_platform import D, days

A, B, C, E = (D(f"2024-0{month}-01") for month in (2, 3, 4, 5))


def decided(scores: Mapping[date, float], taken_back: Collection[date] = ()) -> list[Decision]:
    """Models decided by their scores alone: each is compared with the champion before it."""

    def compare(challenger: Candidate, champion: Candidate | None, _: date) -> Comparison:
        better = champion is None or scores[challenger.as_of] > scores[champion.as_of]
        nothing = Comparison.that_failed("f1", "")
        return dataclasses.replace(nothing, verdict=better, reason="", failed=False)

    return fold([Candidate(as_of, str(as_of)) for as_of in scores], compare, taken_back)


def applied(scores: Mapping[date, float], to: date | None = None) -> list[Decision]:
    planned = plan(decided(scores), to)
    return decided(scores, {one.as_of for one in (*planned.taken_back, *planned.passed_over)})


def as_of(decision: Decision | None) -> date | None:
    return decision.as_of if decision else None


def test_the_champion_before_serves_again_although_another_would_win_against_it() -> None:
    scores = {A: 0.5, B: 0.8, C: 0.7}
    planned = plan(decided(scores))
    assert [one.as_of for one in planned.taken_back] == [B]
    assert [one.as_of for one in planned.passed_over] == [C]
    assert as_of(planned.champion) == A
    assert [(one.first, one.last, one.now.as_of, as_of(one.then)) for one in planned.changes] == [
        (B, None, B, A)
    ]
    assert as_of(serving(decided(scores, {B}), date.max)) == C, "the fold alone would promote it"
    assert as_of(serving(applied(scores), date.max)) == A


def test_a_model_that_is_named_serves_again_on_all_days_after_it() -> None:
    scores = {A: 0.5, B: 0.6, C: 0.7, E: 0.8}
    planned = plan(decided(scores), A)
    assert [one.as_of for one in planned.taken_back] == [E, C, B]
    assert [(one.first, one.last, as_of(one.then)) for one in planned.changes] == [
        (B, C - timedelta(days=1), A),
        (C, E - timedelta(days=1), A),
        (E, None, A),
    ]
    assert as_of(serving(applied(scores, A), date.max)) == A


def test_without_a_champion_before_no_model_serves() -> None:
    planned = plan(decided({A: 0.5}))
    assert planned.champion is None
    assert serving(applied({A: 0.5}), date.max) is None


def test_a_model_that_has_never_served_is_refused_with_those_that_have() -> None:
    with pytest.raises(LookupError, match=r"no model as of 2024-04-01 has served .* 2024-02-01$"):
        plan(decided({A: 0.5, B: 0.8, C: 0.7}), C)
    with pytest.raises(LookupError, match="no promotion"):
        plan([])


def test_what_is_said_is_what_happens_whatever_the_history() -> None:
    draw = random.Random(7)
    months = [date(2024, month, 1) for month in range(1, 9)]
    for _ in range(300):
        scores = {as_of_: draw.random() for as_of_ in draw.sample(months, draw.randint(1, 8))}
        before = decided(scores)
        served = [one.decision.as_of for one in days_served(before)]
        to = draw.choice([None, *served[:-1]])
        planned, after = plan(before, to), applied(scores, to)
        assert as_of(serving(after, date.max)) == as_of(planned.champion)
        changed = {
            day: as_of(change.then)
            for change in planned.changes
            for day in days(str(change.first), str(change.last or date(2024, 9, 1)))
        }
        for day in days("2024-01-01", "2024-09-01"):
            expected = changed.get(day, as_of(serving(before, day)))
            assert as_of(serving(after, day)) == expected
