"""Ledger, tables, store and registry never contradict each other, whatever is done in whatever order.

Hypothesis makes the sequences; after each step what the ledger says is held against what is there, read with
pyarrow and hashed again.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

from ml_platform.cli.findings import Examination
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import ards, mrds
from ml_platform.engine import deciding, local
from ml_platform.engine.acceptance import accept
from ml_platform.engine.step import StepRequest
from ml_platform.engine.verdicts import Verdict
from ml_platform.machine_learning import performance, predicted_rows
from ml_platform.machine_learning.model_history import ModelHistory, champion
from ml_platform.machine_learning.registry import Registry
from ml_platform.mlops.quality.results import Result
from ml_platform.online_store.store import OnlineStore
from ml_platform.storage.fingerprints import EMPTY, ContentSums
from ml_platform.storage.ledger import DayRecord, Outcome
from ml_platform_tests import tasks_here
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop, visits

DAYS = days("2024-01-18", "2024-02-06")
MONTH = D("2024-02-01")
DAILY = ("ards", "mrds", "online_features")
BEHIND = ("predictions", "model_performance")
ROWS = 150
_HEADER = "visit,day,customer,spend,pages,channel\n"
MUCH = 1_000_000
#: Outcomes that say what the table holds of a day; with any other the day's rows stay as they are.
TELLING: Final[frozenset[Outcome]] = frozenset(
    {"written", "empty", "blocked", "missing", "not_due", "no_model"}
)
MILLION = Result("nobody spends a million", "validity", "error", True, "", "")
some_day = st.sampled_from(DAYS)


class Agreement(RuleBasedStateMachine):
    """One product's life. Each example has a product of its own, in a home that all share."""

    home: Path
    spark: SparkSession
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.numbers)
        self.deliveries = itertools.count(1)
        product = shop(name=f"shop_{self.number}", model__holdout_days=10, evaluation__minimum_rows=20)
        self.platform = Platform(settings_in(self.home), self.spark, product)
        self.done = False

    @initialize()
    def begin(self) -> None:
        deliver_visits(self.platform, DAYS, rows=ROWS)
        self.backfill(DAYS[0], DAYS[-1], False)
        self.done = True

    # -- what is done ------------------------------------------------------------------------------------

    @rule(one=some_day, other=some_day, rescore=st.booleans())
    def backfill(self, one: date, other: date, rescore: bool) -> None:
        chosen = [day for day in DAYS if min(one, other) <= day <= max(one, other)]
        for step in DAILY:
            self.platform.run(step, chosen)
        if chosen[-1] >= MONTH:
            self.platform.run("model", MONTH)
        self.platform.run("predictions", chosen, rescore=rescore)
        self.platform.run("model_performance", chosen)

    @rule(day=some_day, seed=st.integers(1, 3))
    def correct(self, day: date, seed: int) -> None:
        rows = visits(day, seed=seed, rows=ROWS // 2).drop(columns="bought").to_csv(index=False)
        self._deliver(day, rows)

    @rule(day=some_day)
    def block(self, day: date) -> None:
        rows = [f"{day:%m%d}{n},{day},c{n:04d},{2 * MUCH},1,web\n" for n in range(5)]
        self._deliver(day, _HEADER + "".join(rows))

    @rule(day=some_day)
    def spoil(self, day: date) -> None:
        self._deliver(day, "no,header\n")

    @rule(day=some_day)
    def withdraw(self, day: date) -> None:
        shutil.rmtree(self.platform.folder(day))

    @rule(day=some_day)
    def deliver_anew(self, day: date) -> None:
        shutil.rmtree(self.platform.folder(day))
        deliver_visits(self.platform, [day], rows=ROWS)

    @rule()
    def roll_back(self) -> None:
        platform = self.platform
        request = StepRequest(step="model", product=platform.product.name, days=(), run_id="rollback")
        context = local.context_for(
            request, platform.product, platform.settings, lambda: self.spark, lambda _: None
        )
        if champion(self._history.decisions()) is not None:
            deciding.take_back(context, reason="a test", by="a person")

    @rule(data=st.data())
    def accept_a_blocked_day(self, data: st.DataObject) -> None:
        blocked = [
            day for day, one in self.platform.ledger.latest("ards").items() if one.outcome == "blocked"
        ]
        if blocked:
            day = data.draw(st.sampled_from(blocked))
            accept(self.platform.ledger, day, reason="a test", by="a person")

    @rule(entity=st.integers(0, 400))
    def forget(self, entity: int) -> None:
        with closing(OnlineStore(self.platform.settings.online_url)) as store:
            store.forget(self.platform.product, [(f"c{entity:04d}",)], reason="a test")

    @rule(table=st.sampled_from(("ards", "mrds", "predictions", "models", "model_performance")))
    def lose_a_table_and_make_it_again(self, table: str) -> None:
        shutil.rmtree(self.platform.tables.path(self.platform.product.name, table))
        self.backfill(DAYS[0], DAYS[-1], False)

    @rule(c=st.sampled_from((0.1, 1.0)), threshold=st.sampled_from((0.3, 0.6)))
    def change_the_contract(self, c: float, threshold: float) -> None:
        estimator = {
            "class": "sklearn.linear_model.LogisticRegression",
            "params": {"random_state": 1, "C": c},
        }
        self.platform.product = shop(
            name=self.platform.product.name,
            model__holdout_days=10,
            model__estimator=estimator,
            evaluation__minimum_rows=20,
            evaluation__threshold=threshold,
        )

    def _deliver(self, day: date, text: str) -> None:
        self.platform.deliver(day, f"{day}_{next(self.deliveries):04d}.csv", text)

    # -- what must hold ----------------------------------------------------------------------------------

    @property
    def _history(self) -> ModelHistory:
        return ModelHistory(self.platform.tables, self.platform.product)

    @invariant()
    def tables_hold_what_the_ledger_says(self) -> None:
        if not self.done:
            return
        product = self.platform.product
        content = {
            "ards": ards.columns(product),
            "mrds": mrds.columns(product),
            "predictions": [name for name in predicted_rows.schema(product).names if name != "model_version"],
        }
        for table, columns in content.items():
            held, said = self._held(table, columns), self._said(table)
            newest = self.platform.ledger.latest(table)
            for day in {*held, *said}:
                # The rows of a day that can't be used stay; once lost, nothing can make them again.
                unusable = newest[day].outcome not in TELLING and day not in held
                assert held.get(day) == said.get(day) or unusable, (table, day, newest[day].outcome)

    def _held(self, table: str, columns: list[str]) -> dict[date, tuple[int, str]]:
        path = self.platform.tables.path(self.platform.product.name, table)
        if not DeltaTable.is_deltatable(path):
            return {}
        rows = DeltaTable(path).to_pyarrow_table()
        held = {}
        for day in pc.unique(rows[EVENT_DAY]).to_pylist():
            of_day = rows.filter(pc.equal(rows[EVENT_DAY], day))
            held[day] = (len(of_day), ContentSums.of(of_day, columns).fingerprint(columns))
        return held

    def _said(self, asset: str) -> dict[date, tuple[int, str]]:
        return {
            day: (record.counts["rows"], record.fingerprint or EMPTY)
            for day, record in self._telling(asset).items()
            if record.counts.get("rows")
        }

    def _telling(self, asset: str) -> dict[date, DayRecord]:
        return self.platform.ledger.latest(asset, outcomes=TELLING)

    @invariant()
    def predictions_are_of_models_that_history_knows(self) -> None:
        known, decisions = set(self._history.by_fingerprint()), self._history.decisions()
        path = self.platform.tables.path(self.platform.product.name, "predictions")
        if self.done and DeltaTable.is_deltatable(path):
            rows = DeltaTable(path).to_pyarrow_table()
            assert set(pc.unique(rows["model_fingerprint"]).to_pylist()) <= known
        assert {one.fingerprint for one in decisions} <= known

    @invariant()
    def evaluations_are_those_of_the_ledger(self) -> None:
        rows = performance.evaluations(self.platform.tables, self.platform.product)
        written = {
            day: record.fingerprint
            for day, record in self.platform.ledger.latest("model_performance").items()
            if record.outcome == "written"
        }
        assert {day: row["fingerprint"] for day, row in rows.items() if day in written} == written
        assert not set(rows) - set(self.platform.ledger.latest("model_performance"))

    @invariant()
    def the_champion_is_the_registrys(self) -> None:
        if not self.done:
            return
        product = self.platform.product
        now = champion(self._history.decisions())
        client = Registry.of(self.platform.settings).tracking.client()
        aliases = client.get_registered_model(product.name).aliases if self._history.models() else {}
        versions = {name: str(version) for name, version in aliases.items()}
        assert versions.get("champion") == (
            self._history.by_fingerprint()[now.fingerprint].version if now else None
        )

    @invariant()
    def the_store_has_the_newest_rows(self) -> None:
        if not self.done:
            return
        product = self.platform.product
        published = {
            day for day, record in self._telling("online_features").items() if record.counts.get("rows")
        }
        with closing(OnlineStore(self.platform.settings.online_url)) as store:
            rows = store.rows(product)
        assert {row[EVENT_DAY] for row in rows} <= published

    @invariant()
    def the_doctor_finds_nothing_else(self) -> None:
        if self.done:
            found = Examination(self.platform.product, self.platform.settings).examine([])
            assert [finding for finding in found if finding.part != "landing"] == []


class Session(tasks_here.TasksHere):
    """Tasks run in this process; for all else a Spark session is started."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        object.__setattr__(self, "_request", request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request.getfixturevalue("spark"), name)


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tasks_here.without_verdicts(monkeypatch)

    def validate(step: Verdict, chosen: Sequence[date], *_: Any) -> dict[date, list[Result]]:
        """One rule: nobody spends a million."""
        files = step.context.tables.day_files(step.context.product.name, step.asset)
        assert files is not None
        version = step.context.tables.version(step.context.product.name, step.asset)
        most = {
            day: pc.max(rows["spend"]).as_py() or 0 for day, rows in files.read(version, chosen, ["spend"])
        }
        return {day: [replace(MILLION, passed=most.get(day, 0) < MUCH)] for day in chosen}

    monkeypatch.setattr(Verdict, "_validate", validate)
    Agreement.home, Agreement.spark = tmp_path / "home", Session(request)  # type: ignore[assignment]
    return Agreement.home


def check(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Agreement,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_ledger_tables_store_and_registry_agree_after_every_step() -> None:
    check(examples=1, steps=8)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("home")
def test_ledger_tables_store_and_registry_agree_after_every_step_of_many_lives() -> None:
    check(examples=int(os.environ.get("ML_PLATFORM_TEST_LIVES", "2")), steps=16)


@pytest.mark.usefixtures("home")
def test_predictions_stay_in_the_ledger_when_the_only_promotion_is_taken_back() -> None:
    """They once turned into days without a model while their rows stayed."""
    life = Agreement()
    life.begin()
    before = life.platform.ledger.latest("predictions")
    served = {day for day, record in before.items() if record.outcome == "written"}
    assert served == {day for day in DAYS if day >= MONTH}
    life.roll_back()
    life.backfill(DAYS[0], DAYS[-1], False)
    after = life.platform.ledger.latest("predictions")
    assert {day for day, record in after.items() if record.outcome == "written"} == served
    for day in served:
        assert after[day].fingerprint == before[day].fingerprint
    life.tables_hold_what_the_ledger_says()
    life.evaluations_are_those_of_the_ledger()
    life.backfill(DAYS[0], DAYS[-1], True)  # to score days again that no model serves is to take them out
    after = life.platform.ledger.latest("predictions")
    assert {day for day, record in after.items() if record.outcome == "no_model"} == set(DAYS)
    life.tables_hold_what_the_ledger_says()
    life.evaluations_are_those_of_the_ledger()
    request = StepRequest(step="predictions", product=life.platform.product.name, days=tuple(DAYS), run_id="")
    context = local.context_for(
        request, life.platform.product, life.platform.settings, lambda: life.spark, lambda _: None
    )
    assert not local.is_pending(context)
