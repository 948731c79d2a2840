from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ml_platform import products as products_package
from ml_platform.contract.days import add_months
from ml_platform.contract.loading import load_product
from ml_platform.machine_learning.retraining import (
    Attempt,
    PerformanceRow,
    back_off,
    decide,
    decide_on_drift,
    first_retrain,
)
from ml_platform_tests.small_platform import D, days, shop

# f1 below 0.70, on 1,000 rows and 50 positives at least; cooldown 7 days; first month 2013-02.
FLIGHTS = load_product(Path(products_package.__path__[0]) / "flights.yaml")

DAY = date(2013, 9, 12)
FAILED = PerformanceRow(
    event_day=DAY,
    fingerprint="e1",
    verdict="failed",
    champion_as_of=date(2013, 9, 1),
    champion_rows=3200,
    champion_positives=700,
    champion_metric=0.66,
)


def on(day):
    return replace(FAILED, event_day=day, champion_as_of=date(2013, 1, 1))


def decided(row=FAILED, attempts=(), landed=None, in_progress=False):
    as_ofs = [Attempt(day) for day in attempts]
    return decide(FLIGHTS, row, as_ofs, [row.event_day] if landed is None else landed, in_progress)


# -- one decision ----------------------------------------------------------------------------------


def test_a_failed_evaluation_asks_for_its_month_as_of_the_day_after():
    decision = decided(attempts=[date(2013, 8, 1), date(2013, 9, 1)])
    assert (decision.act, decision.day, decision.month) == (True, DAY, date(2013, 9, 1))
    assert decision.as_of == date(2013, 9, 13)
    assert decision.reason == (
        "2013-09-12: f1 0.660 of the champion as of 2013-09-01 is below 0.7 (3,200 labelled rows, "
        "700 positives); retrain 2013-09 as of 2013-09-13"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"champion_metric": 0.70}, "f1 0.700 of the champion as of 2013-09-01 is not below 0.7"),
        ({"champion_rows": 999}, "insufficient evidence of the champion as of 2013-09-01: 999 labelled rows"),
        ({"champion_positives": 49}, "49 positives of the 1,000 and 50 needed"),
        ({"champion_metric": None}, "f1 is undefined"),
        ({"champion_metric": float("nan")}, "f1 is undefined"),
        ({"champion_as_of": None}, "there is no champion yet"),
        ({"champion_metric": 0.75}, "the window's failure is that of earlier models"),
    ],
)
def test_only_enough_rows_of_the_champion_below_the_threshold_ask_for_a_retrain(changes, reason):
    decision = decided(replace(FAILED, **changes))
    assert not decision.act
    assert reason in decision.reason
    assert decision.reason.endswith("; no retrain")


def test_a_champion_below_the_threshold_is_retrained_though_the_window_passes():
    assert decided(replace(FAILED, verdict="passed")).act


def test_just_enough_evidence_is_enough():
    assert decided(replace(FAILED, champion_rows=1000, champion_positives=50, champion_metric=0.699)).act


@pytest.mark.parametrize(("age", "act"), [(0, True), (1, True), (2, True), (3, False), (100, False)])
def test_only_the_newest_three_landed_days_act(age, act):
    landed = [DAY + timedelta(days=age - n) for n in range(200)]
    decision = decided(landed=landed)
    assert decision.act == act
    if not act:
        assert "no retrain: the day is not among the newest 3 landed days" in decision.reason


def test_the_newest_landed_days_need_not_follow_each_other():
    assert decided(landed=[DAY, DAY + timedelta(days=4), DAY + timedelta(days=9)]).act


def test_nothing_landed_is_nothing_to_act_on():
    assert "landed days (none)" in decided(landed=[]).reason


@pytest.mark.parametrize(
    ("as_of", "reason"),
    [
        (date(2013, 9, 6), None),
        (date(2013, 9, 7), "the cooldown of 7 days after the training as of 2013-09-07"),
        (date(2013, 9, 12), "the cooldown of 7 days after the training as of 2013-09-12"),
        (date(2013, 9, 13), "a model was already trained as of 2013-09-13"),
        (date(2013, 10, 1), "a model was already trained as of 2013-10-01, after 2013-09-13"),
    ],
)
def test_a_training_within_the_cooldown_or_later_blocks(as_of, reason):
    decision = decided(attempts=[date(2013, 8, 1), as_of, date(2013, 2, 1)])
    assert decision.act == (reason is None)
    if reason:
        assert decision.reason.endswith(f"no retrain: {reason}")


def test_without_a_cooldown_one_evaluation_still_asks_only_once():
    product = FLIGHTS.model_copy(update={"retrain": FLIGHTS.retrain.model_copy(update={"cooldown_days": 0})})
    assert not decide(product, FAILED, [Attempt(date(2013, 9, 13))], [DAY]).act
    assert decide(product, FAILED, [Attempt(date(2013, 9, 12))], [DAY]).act


def test_nothing_happens_while_a_training_is_in_progress():
    decision = decided(in_progress=True)
    assert not decision.act
    assert decision.reason.endswith("no retrain: a training is in progress")


@pytest.mark.parametrize(
    ("day", "reason"),
    [
        (date(2013, 9, 30), "the model of 2013-10 is due as of the same day"),
        (date(2013, 1, 31), "the model of 2013-02 is due as of the same day"),
        (date(2013, 1, 20), "there is no model before 2013-02"),
        (date(2013, 2, 1), None),
        (date(2013, 9, 29), None),
    ],
)
def test_months_that_have_or_get_their_own_model_are_left_to_it(day, reason):
    decision = decided(on(day))
    assert decision.act == (reason is None)
    if reason:
        assert decision.reason.endswith(f"no retrain: {reason}")


# -- a replay --------------------------------------------------------------------------------------


def test_a_replay_finds_the_first_evaluation_that_acts():
    good = replace(FAILED, champion_metric=0.8)
    rows = [replace(good, event_day=date(2013, 9, 10)), on(date(2013, 9, 11)), on(DAY)]
    assert first_retrain(FLIGHTS, rows, []).day == date(2013, 9, 11)
    assert first_retrain(FLIGHTS, rows[:1], []) is None


def test_a_replay_does_not_know_later_trainings():
    assert first_retrain(FLIGHTS, [on(DAY)], [Attempt(date(2013, 10, 1))]).as_of == date(2013, 9, 13)
    assert first_retrain(FLIGHTS, [on(DAY)], [Attempt(date(2013, 9, 13))]) is None


def test_a_replay_that_asks_again_goes_on_after_the_cooldown():
    rows = [on(date(2013, 9, 1) + timedelta(days=n)) for n in range(29)]
    attempts = [Attempt(date(2013, 9, 1))]
    found = []
    while decision := first_retrain(FLIGHTS, rows, attempts):
        found.append(decision.as_of)
        attempts.append(Attempt(decision.as_of))
    assert found == [date(2013, 9, 8), date(2013, 9, 15), date(2013, 9, 22), date(2013, 9, 29)]


# -- a year of daily evaluations, with known truth -------------------------------------------------

YEAR = [date(2013, 2, 1) + timedelta(days=n) for n in range(365)]
ENTITIES, DAILY_ROWS, WINDOW = 4000, 700, 31  # like the aircraft of the flights
MONTHLY = [Attempt(add_months(date(2013, 2, 1), n)) for n in range(12)]
SOUND, DEGRADED = 0.8, 2.5  # noise of the model's scores; F1 in truth 0.71, 0.57


class World:
    """Rows of entities that come back, each with an effect on its labels and on the model's errors."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.effect = self.rng.normal(0, 1, ENTITIES)
        self.error = self.rng.normal(0, 1, ENTITIES)

    def counts(self, noise, rows=DAILY_ROWS):
        """tp, fp, fn of one day, or of many in one."""
        entity = self.rng.integers(ENTITIES, size=rows)
        logit = 2 * (self.effect[entity] + self.rng.normal(0, 1, rows)) - 1.5
        label = self.rng.random(rows) < 1 / (1 + np.exp(-logit))
        decision = logit + noise * (self.error[entity] + self.rng.normal(0, 1, rows)) > 0
        return np.array([(label & decision).sum(), (~label & decision).sum(), (label & ~decision).sum()])


def f1(counts):
    tp, fp, fn = counts
    return 2 * tp / (2 * tp + fp + fn)


def evaluation(day, window, champion_as_of):
    tp, _, fn = counts = np.sum(window, axis=0)
    return PerformanceRow(
        event_day=day,
        fingerprint=str(day),
        verdict="passed",
        champion_as_of=champion_as_of,
        champion_rows=DAILY_ROWS * len(window),
        champion_positives=int(tp + fn),
        champion_metric=float(f1(counts)),
    )


def with_threshold(threshold):
    evaluation = FLIGHTS.evaluation.model_copy(update={"threshold": float(threshold)})
    return FLIGHTS.model_copy(update={"evaluation": evaluation})


def retrains(product, days, new_champions=False):
    """What the sensor asks for over the year.

    Args:
        new_champions: each training's challenger, as good as the champion, replaces it, so that the
            window starts again; otherwise one champion stays.
    """
    champion_as_of, since = YEAR[0], 0
    attempts, acted = list(MONTHLY), []
    for n, day in enumerate(YEAR):
        if new_champions and Attempt(day) in attempts:
            champion_as_of, since = day, n
        row = evaluation(day, days[max(since, n + 1 - WINDOW) : n + 1], champion_as_of)
        known = [attempt for attempt in attempts if attempt.as_of <= day + timedelta(days=1)]
        decision = decide(product, row, known, YEAR[max(0, n - 2) : n + 1])
        if decision.act:
            acted.append(decision)
            attempts.append(Attempt(decision.as_of))
    return acted


@pytest.mark.parametrize("new_champions", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_a_year_without_drift_asks_for_at_most_one_retrain(seed, new_champions):
    world = World(seed)
    threshold = f1(world.counts(SOUND, rows=500_000)) - 0.03
    days = [world.counts(SOUND) for _ in YEAR]
    assert len(retrains(with_threshold(threshold), days, new_champions)) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_real_drop_asks_for_exactly_one_retrain_within_the_cooldown(seed):
    world = World(seed)
    threshold = f1(world.counts(SOUND, rows=500_000)) - 0.03
    shift = 200
    days = [world.counts(SOUND if n < shift else DEGRADED) for n in range(len(YEAR))]
    acted = retrains(with_threshold(threshold), days)
    first = acted[0].day
    assert YEAR[shift] <= first <= YEAR[shift + WINDOW]
    cooldown = timedelta(days=FLIGHTS.retrain.cooldown_days)
    assert [d.day for d in acted if d.day < first + cooldown] == [first]


# -- retrains that lose ----------------------------------------------------------------------------------


def lost(*as_ofs: str) -> list[Attempt]:
    return [Attempt(D(as_of), lost=True) for as_of in as_ofs]


@pytest.mark.parametrize(
    ("attempts", "days"),
    [
        ([], 7),
        (lost("2024-03-05"), 7),
        (lost("2024-03-05", "2024-03-12"), 7),
        (lost("2024-03-05", "2024-03-12", "2024-03-19"), 14),
        (lost("2024-03-05", "2024-03-12", "2024-03-19", "2024-04-02"), 28),
        # Months' models neither lose retrains nor make them wait.
        (lost("2024-03-01", "2024-04-01", "2024-05-01", "2024-06-01"), 7),
        (lost("2024-03-19", "2024-03-26", "2024-04-01", "2024-04-08"), 14),
        # A promotion ends the row, a month's as well.
        ([*lost("2024-03-05", "2024-03-12", "2024-03-19"), Attempt(D("2024-04-01"))], 7),
        ([*lost("2024-03-05", "2024-03-12"), Attempt(D("2024-03-19")), *lost("2024-03-26")], 7),
        # So does a time in which the threshold was met.
        (lost("2024-03-05", "2024-03-12", "2024-03-19", "2024-08-19"), 7),
    ],
)
def test_retrains_that_lost_in_a_row_double_the_cooldown(attempts: list[Attempt], days: int) -> None:
    assert back_off(shop(), reversed(attempts)).days == days


@pytest.mark.parametrize("cooldown", [0, 1, 7, 365])
@pytest.mark.parametrize("after", [1, 3, 50])
def test_a_threshold_that_cant_be_reached_is_tried_ever_more_rarely(cooldown: int, after: int) -> None:
    product = shop(retrain={"cooldown_days": cooldown, "back_off_after": after})
    attempts = [Attempt(D("2024-02-01"))]
    asked = []
    for day in days("2024-02-01", "2027-12-31"):
        if day.day == 1 and day > D("2024-02-01"):
            attempts.append(Attempt(day, lost=True))
        row = PerformanceRow(day, str(day), "failed", D("2024-02-01"), 1000, 500, 0.1)
        decision = decide(product, row, attempts, [day])
        if decision.act:
            asked.append(decision.as_of)
            attempts.append(Attempt(decision.as_of, lost=True))
    gaps = [(later - earlier).days for earlier, later in pairwise(asked)]
    assert all(gap >= cooldown for gap in gaps)
    assert len(asked) <= after + 12 + (12 if cooldown < 7 else 4)
    found = back_off(product, attempts)
    if found.lost > after:
        assert found.days == min(max(cooldown, 1) << min(found.lost - after + 1, 9), 365)


def test_a_retrain_that_waits_says_why_and_until_when() -> None:
    attempts = lost("2024-03-05", "2024-03-12", "2024-03-19")
    row = PerformanceRow(D("2024-03-27"), "e", "failed", D("2024-02-01"), 1000, 500, 0.1)
    decision = decide(shop(), row, attempts, [D("2024-03-27")])
    assert not decision.act
    assert decision.reason.endswith(
        "no retrain: 3 retrains in a row have lost, so the cooldown is 14 days; the next is possible as of "
        "2024-04-02"
    )
    later = replace(row, event_day=D("2024-04-01"))
    assert decide(shop(), later, attempts, [D("2024-04-01")]).act


# -- drift alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drifted", "attempts", "newest", "allowed", "told"),
    [
        (True, ["2024-03-01"], "2024-03-10", True, "retrain 2024-03 as of 2024-03-11"),
        (False, ["2024-03-01"], "2024-03-10", True, "2024-02 has not drifted; no retrain"),
        (True, ["2024-03-01"], "2024-03-10", False, "the contract doesn't retrain on drift alone"),
        (True, ["2024-03-01"], "2024-04-02", True, "the newest month whose labels were known by 2024-04-02"),
        (True, ["2024-03-01", "2024-03-05"], "2024-03-20", True, "trained since, as of 2024-03-05"),
        (
            True,
            ["2024-03-01"],
            "2024-03-05",
            True,
            "the cooldown of 7 days after the training as of 2024-03-01",
        ),
    ],
)
def test_drift_alone_retrains_once_and_only_if_the_contract_says_so(
    drifted: bool, attempts: list[str], newest: str, allowed: bool, told: str
) -> None:
    product = shop(drift={"retrain": allowed})
    known = [Attempt(D(as_of)) for as_of in attempts]
    decision = decide_on_drift(product, D("2024-02-01"), drifted, known, [D(newest)])
    assert told in decision.reason
    assert decision.act == decision.reason.endswith("as of 2024-03-11")


def test_only_a_retrain_that_waits_for_its_comparison_is_waited_for():
    months = Attempt(date(2013, 9, 1), decided_on=date(2013, 11, 12))
    assert decide(FLIGHTS, FAILED, [months], [DAY]).act
    retrain = Attempt(date(2013, 9, 3), decided_on=date(2013, 11, 14))
    decision = decide(FLIGHTS, FAILED, [months, retrain], [DAY])
    assert not decision.act
    assert decision.reason.endswith("the newest retrain is compared with the champion on 2013-11-14")
