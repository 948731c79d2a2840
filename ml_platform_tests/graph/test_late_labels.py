"""Half a year of mornings with labels that come late: what is looked at, due, evaluated and overdue on each.

Steps don't run here: the ledger says what they would have made of the files that lie there. The days on which
labels are used are held against those on which they were delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from ml_platform.contract.days import add_months, month_of
from ml_platform.contract.product import Product
from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering import landing
from ml_platform.engine.training_plan import training_days
from ml_platform.graph import alerts, deliveries
from ml_platform.graph.schedules import DRIFT_AFTER_DAYS, OVERDUE_ON, drifts_due, model_is_due
from ml_platform.machine_learning.holdout import by_entities
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, days, shop

DELAYS = [0, 1, 7, 30, 60, 90, 180]
START = D("2024-01-01")
HALF_A_YEAR = days("2024-01-02", "2024-07-01")


class World:
    """A product whose files come in the morning, and are made at once into what the ledger says."""

    def __init__(self, home: Path, delay: int) -> None:
        self.product: Product = shop(
            model__first_month=None,
            source__label_delay_days=delay,
            model__holdout_days=20,
            retrain={"training_days": 14},
        )
        self.settings = settings_in(home)
        self.ledger = Ledger(Tables.of(self.settings), "shop")
        self.delay = delay
        self.made: dict[date, str] = {}
        self.labelled: dict[date, date] = {}
        self.rows: set[date] = set()

    def deliver(self, day: date, name: str) -> None:
        folder = self.settings.landing_path / "shop" / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")

    def arrive(self, morning: date, *, labels: bool = True) -> None:
        day = morning - timedelta(days=1)
        self.rows.add(day)
        self.deliver(day, f"{morning}T0600_visits.csv")
        due = day - timedelta(days=self.delay)
        if due >= START and labels:
            self.deliver(due, f"{morning}T0600_labels.csv")
            self.labelled[due] = morning

    def tick(self) -> list[date]:
        """What the landing sensor finds, and has made at once."""
        pending = deliveries.pending(self.product, self.settings, self.made)
        for day in pending.states:
            stamp = landing.stamp(self.product, self.settings.landing_path, day)
            assert stamp is not None
            self.made[day] = stamp
        self.record("ards", list(pending.states))
        self.record("mrds", list(pending.states))
        return list(pending.states)

    def record(self, asset: str, chosen: list[date]) -> None:
        self.ledger.record(
            [
                DayRecord(
                    asset=asset,
                    day=day,
                    outcome="written",
                    inputs=self.made[day],
                    contract="c",
                    code_version="1",
                    # Of a twentieth the label comes at once, as that of a chargeback may.
                    counts={"rows": 100, "labelled": 100 if day in self.labelled else 5},
                )
                for day in chosen
            ]
        )

    def overdue(self, now: datetime) -> list[str]:
        """The event days whose labels are overdue, by the alert sensor."""
        expected = alerts._expected(self.product, self.settings, self.ledger, now)
        return [one.partition for one, late in expected if late and one.subject == "labels overdue"]


@pytest.fixture
def world_of(tmp_path: Path) -> Callable[[int], World]:
    return lambda delay: World(tmp_path, delay)


@pytest.mark.parametrize("delay", DELAYS)
def test_every_window_ends_with_the_newest_label_of_each_morning(delay: int) -> None:
    product = shop(model__first_month=None, source__label_delay_days=delay)
    first = product.first_month
    for morning in days("2024-01-02", "2024-12-31"):
        known = [
            day for day in days("2024-01-01", str(morning)) if day + timedelta(days=1 + delay) <= morning
        ]
        newest = known[-1] if known else START - timedelta(days=1)
        evaluated = days_evaluated(product, morning - timedelta(days=1))
        assert (evaluated.last, len(evaluated)) == (morning - timedelta(days=1 + delay), 10)
        if morning < first:
            continue
        kind = "monthly" if morning.day == 1 else "retrain"
        learned, compared = training_days(product, morning, kind), by_entities(product, morning)
        assert learned.last == compared.last == newest
        assert len(compared) == 20
        if kind == "retrain":
            assert len(learned) == min(14, len(known))
        else:
            two_months = pd.DateOffset(months=2)
            full = (pd.Timestamp(newest + timedelta(days=1)) - two_months).date()
            assert learned.first == max(START, full)


def live_through(world: World, mornings: list[date]) -> None:
    """Tick every morning, and hold what is found against what has come."""
    product, delay = world.product, world.delay
    trained: dict[date, date] = {}
    measured: dict[date, list[date]] = {}
    for morning in mornings:
        world.arrive(morning)
        found = world.tick()
        day = morning - timedelta(days=1)
        due = day - timedelta(days=delay)
        assert found == sorted({day, due} if due >= START else {day}), "what has come is seen on its morning"

        eight = datetime(morning.year, morning.month, morning.day, 8, tzinfo=UTC)
        assert world.overdue(eight + timedelta(hours=4)) == [], "labels that are in time are not overdue"

        window = days_evaluated(product, day)
        labelled = [one for one in window if one in world.labelled]
        assert labelled == [one for one in window if one >= START]
        assert due < START or window.last == due, "the labels of this morning are evaluated"

        is_due, reason = model_is_due(product, world.settings, morning)
        if morning.day == 1:
            assert is_due == (morning >= product.first_month), reason
        if is_due and month_of(morning) not in trained:
            trained[month_of(morning)] = morning
            learned = training_days(product, morning, "monthly")
            assert all(one in world.labelled for one in learned)
            world.ledger.record(
                [DayRecord("model", month_of(morning), "written", inputs="i", contract="c", code_version="1")]
            )
        for month in drifts_due(product, morning).values():
            measured.setdefault(month, []).append(morning)

    months = [month for month in (add_months(START, n) for n in range(1, 7)) if month >= product.first_month]
    assert trained == {month: month for month in months}, "each month's model is trained on its first day"
    for month in (add_months(START, n) for n in range(6)):
        rows = add_months(month, 1) + timedelta(days=DRIFT_AFTER_DAYS)
        labels = rows + timedelta(days=delay)
        at = [labels] if delay <= 7 else [rows, labels]
        assert measured.get(month, []) == [morning for morning in at if morning <= mornings[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [7, 60])
def test_half_a_year_with_labels_in_time(world_of: Callable[[int], World], delay: int) -> None:
    live_through(world_of(delay), HALF_A_YEAR)


@pytest.mark.parametrize("delay", DELAYS)
def test_labels_that_don_t_come_are_overdue_from_their_morning_on_for_a_week(
    world_of: Callable[[int], World], delay: int
) -> None:
    world = world_of(delay)
    missing = D("2024-01-03")
    due = missing + timedelta(days=1 + delay)
    for day in days("2024-01-01", "2024-01-06"):
        world.made[day] = "i"
        if day != missing:
            world.labelled[day] = due
    world.record("ards", list(world.made))
    at = datetime(due.year, due.month, due.day, world.product.alerts.due_hour, tzinfo=UTC)
    told = [n for n in range(-9, 12) if world.overdue(at + timedelta(days=n, minutes=1)) == [str(missing)]]
    assert told == list(range(alerts.OVERDUE_DAYS))
    assert world.overdue(at - timedelta(minutes=1)) == []


@pytest.mark.parametrize("delay", DELAYS)
def test_a_model_waits_for_the_labels_that_can_be_known_and_for_no_others(
    world_of: Callable[[int], World], delay: int
) -> None:
    world = world_of(delay)
    month = world.product.first_month
    last = world.product.last_labelled_day(month)
    chosen = days("2024-01-01", str(month - timedelta(days=1)))
    world.made = dict.fromkeys(chosen, "i")
    world.labelled = {day: month for day in chosen if day < last}
    world.record("mrds", chosen)
    # The newest day has early labels only.
    due, reason = model_is_due(world.product, world.settings, month)
    assert (due, reason) == (False, f"waiting for the labels of 1 days, the first is {last}")
    assert model_is_due(world.product, world.settings, month.replace(day=OVERDUE_ON))[0]
    world.labelled[last] = month
    world.record("mrds", [last])
    assert model_is_due(world.product, world.settings, month)[0]


@pytest.mark.parametrize("delay", DELAYS)
def test_each_month_s_drift_is_measured_when_its_rows_and_when_its_labels_have_come(delay: int) -> None:
    product = shop(model__first_month=None, source__label_delay_days=delay)
    measured: dict[date, list[date]] = {}
    keys: set[str] = set()
    for morning in days("2024-01-01", "2026-12-31"):
        for key, month in drifts_due(product, morning).items():
            measured.setdefault(month, []).append(morning)
            assert key not in keys
            keys.add(key)
    for month in (add_months(START, n) for n in range(24)):
        rows = add_months(month, 1) + timedelta(days=2)
        labels = rows + timedelta(days=delay)
        assert measured[month] == ([labels] if delay <= 7 else [rows, labels])
        last = add_months(month, 1) - timedelta(days=1)
        assert product.last_labelled_day(measured[month][-1]) >= last
