"""Whole platforms that ran every morning, and ones that replay their history: models, scores, evaluations.

Each morning brings rows, labels, corrections, repairs and decisions of people. What was trained, scored and
evaluated on it stays what it was, and a platform that is given everything at once, in any order, makes the
same.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform.engine.acceptance import accept
from ml_platform.engine.rejection import reject
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine.test_trailing_histories import HISTORIES, deliver
from ml_platform_tests.small_platform import D, Platform, days, shop, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = timedelta(days=1)
DAYS = days("2024-01-18", "2024-02-09")
AS_OF, RETRAIN = D("2024-02-01"), D("2024-02-06")
ROWS, CUSTOMERS = 60, 150
#: Of what is spent in a visit, and by a customer on a day: more blocks a day of the ARDS, or of the MRDS.
LIMIT, LIMIT_OF_DAY = 1000, 700


def product() -> Product:
    """The product ``shop``, with models that are compared by entities though there are few."""
    return shop(
        start=str(DAYS[0]),
        model__holdout="entities",
        model__holdout_days=10,
        model__minimum_rows=20,
        promotion={"rule": "non_inferior", "margin": 0.5},
        evaluation__metric="roc_auc",
        evaluation__minimum_rows=5,
        evaluation__minimum_positives=1,
        evaluation__window_days=6,
        validation__ranges={"spend": {"maximum": LIMIT}},
        validation__expectations=[
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "spend", "max_value": LIMIT_OF_DAY},
                "on": "mrds",
            }
        ],
    )


# -- what comes on which morning -----------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file of a delivery, and the morning on which it comes."""

    day: date
    morning: date
    name: str
    text: str | bytes
    replaces: bool = False


@dataclass(frozen=True)
class Decided:
    """What a person says of a day on a morning, if there is anything to say."""

    day: date
    morning: date
    what: str


@dataclass(frozen=True)
class History:
    """All that comes."""

    files: tuple[File, ...]
    decided: tuple[Decided, ...] = ()

    @property
    def mornings(self) -> list[date]:
        came = {one.morning for one in (*self.files, *self.decided)}
        return sorted(came | {AS_OF, RETRAIN, DAYS[-1] + 4 * DAY})


def csv(frame: pd.DataFrame) -> str:
    text: str = frame.to_csv(index=False)
    return text


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Most days are as they should be; some come late, are bad at first, are corrected, or are rejected."""
    files: list[File] = []
    decided: list[Decided] = []
    for day in DAYS:
        # No model can be trained as of a date whose days haven't come.
        is_awaited = day + DAY in (AS_OF, RETRAIN)
        kind = draw(st.sampled_from([*["fine"] * 8, "late", "bad", "rows late", "missing"]))
        kind = "fine" if is_awaited else kind
        if kind == "missing":
            continue
        frame = visits(day, rows=ROWS, customers=CUSTOMERS)
        rows, labels = frame.drop(columns="bought"), frame[["visit", "day", "bought"]]
        first = day + (draw(st.integers(2, 4)) if kind == "late" else 1) * DAY
        name = f"{first}T0100_visits.csv"
        if kind == "bad":
            files.append(File(day, first, name, csv(rows.assign(spend=rows["spend"] + LIMIT))))
        elif kind == "rows late":
            files.append(File(day, first, name, csv(rows[10:])))
        else:
            files.append(File(day, first, name, csv(rows)))
        if kind in ("bad", "rows late"):
            mended = first + draw(st.integers(1, 5)) * DAY
            what = draw(st.sampled_from(["mended", "replaced", "accepted", "left"]))
            # Labels of rows that were replaced by fewer would be unusable, and block the day when they come.
            what = "mended" if kind == "rows late" else what
            if what in ("mended", "replaced"):
                chosen = rows[:10] if kind == "rows late" else rows
                files.append(
                    File(day, mended, f"{mended}T0200_visits.csv", csv(chosen), replaces=what == "replaced")
                )
            elif what == "accepted":
                decided.append(Decided(day, mended, "accept"))
        known = day + draw(st.sampled_from([2, 2, 2, 2, 5])) * DAY
        files.append(File(day, known, f"{known}T0300_labels.csv", csv(labels)))
        for number in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            later = first + draw(st.integers(1, 8)) * DAY
            begin, count = draw(st.integers(0, ROWS - 1)), draw(st.integers(1, 30))
            chosen = slice(begin, begin + count)
            wrong = ["garbage", "too much", "replace", "reject", "no header", "cut"]
            match draw(st.sampled_from(["spend", "labels", "customer", *wrong])):
                case "spend":
                    fixed = csv(rows.assign(spend=(80 - rows["spend"]).round(2))[chosen])
                case "labels":
                    fixed = csv(labels.assign(bought=1 - labels["bought"])[chosen])
                case "customer":
                    moved = [f"c{(int(name[1:]) + 7) % CUSTOMERS:04d}" for name in rows["customer"]]
                    fixed = csv(rows.assign(customer=moved)[chosen])
                case "garbage":
                    fixed = csv(rows.assign(spend=2 * LIMIT)[chosen])
                case "too much":
                    fixed = csv(rows.assign(spend=LIMIT_OF_DAY + 1)[chosen])
                case "no header":
                    fixed = "nothing of the contract\n"
                case "cut":
                    packed = gzip.compress(csv(rows[chosen]).encode())
                    files.append(File(day, later, f"{later}T05{number}0_fix.csv.gz", packed[:-12]))
                    continue
                case "replace":
                    fixed = csv(rows[5:])
                    files.append(File(day, later, f"{later}T04{number}0_again.csv", fixed, replaces=True))
                    continue
                case _:
                    decided.append(Decided(day, later, "reject"))
                    continue
            files.append(File(day, later, f"{later}T05{number}0_fix.csv", fixed))
            if draw(st.sampled_from([False] * 5 + [True])):  # where there is anything to accept
                decided.append(Decided(day, later + draw(st.integers(0, 3)) * DAY, "accept"))
    once = {(one.day, one.morning): one for one in decided}
    return History(tuple(files), tuple(once.values()))


# -- what a platform makes of it -----------------------------------------------------------------------


@dataclass
class Kept:
    """What was found when it was first made: it has to stay."""

    scored: dict[tuple[date, str], Any] = field(default_factory=dict)
    evaluated: dict[date, Any] = field(default_factory=dict)
    models: dict[date, str] = field(default_factory=dict)
    decided: dict[date, bool] = field(default_factory=dict)


def found(platform: Platform) -> Kept:
    """What a platform has made."""
    kept = Kept()
    if platform.tables.exists("shop", "predictions"):
        for row in DeltaTable(platform.tables.path("shop", "predictions")).to_pandas().itertuples():
            kept.scored[row.event_day, row.customer] = (row.probability, row.model_fingerprint)
    for day, row in performance.evaluations(platform.tables, platform.product).items():
        kept.evaluated[day] = {
            name: value for name, value in row.items() if name not in ("fingerprint", "sampled")
        }
    history = ModelHistory(platform.tables, platform.product)
    for model in history.models():
        kept.models[model.as_of] = model.fingerprint
    for decision in history.decisions():
        kept.decided[decision.as_of] = decision.promoted
    return kept


def decide(platform: Platform, decided: Iterable[Decided]) -> list[Decided]:
    """Have people say what they say; returns what there was something to say of."""
    done = []
    for one in decided:
        try:
            if one.what == "accept":
                accept(platform.ledger, one.day, reason="so it was", by="ann", on=one.morning)
            else:
                reject(platform.tables, platform.product, one.day, reason="garbage", by="ann", on=one.morning)
        except LookupError:
            continue
        done.append(one)
    return done


def run(platform: Platform, step: str, chosen: Iterable[date], **options: Any) -> None:
    if wanted := sorted(chosen):
        platform.run(step, wanted, **options)
        failed = {day: one.reason for day, one in platform.ledger.latest(step).items() if one.failed}
        assert failed == {}, step


def of_morning(platform: Platform, came: list[File], decided: list[Decided]) -> list[Decided]:
    """Make the days of which files come on a morning, and then those that people decide about."""
    deliver(platform, came)
    for step in ("ards", "mrds"):
        run(platform, step, {file.day for file in came})
    said = decide(platform, decided)
    for step in ("ards", "mrds"):
        run(platform, step, {one.day for one in said})
    return said


def every_morning(platform: Platform, history: History) -> tuple[Kept, list[Decided]]:
    """Run a platform on each morning on which anything comes; returns what it first made, and was told."""
    first, done = Kept(), []
    for morning in history.mornings:
        came = [file for file in history.files if file.morning == morning]
        done += of_morning(platform, came, [one for one in history.decided if one.morning == morning])
        if morning >= AS_OF:
            run(platform, "model", [AS_OF])
        if morning >= RETRAIN:
            run(platform, "model", [AS_OF], as_of=RETRAIN)
        if morning >= AS_OF:
            over = [day for day in DAYS if AS_OF <= day < morning]
            run(platform, "predictions", over)
            run(platform, "model_performance", over)
            now = found(platform)
            for name in ("scored", "evaluated", "models", "decided"):
                for key, value in getattr(now, name).items():
                    getattr(first, name).setdefault(key, value)
    return first, done


def at_once(platform: Platform, history: History, done: Iterable[Decided], draw: random.Random) -> None:
    """Give a platform all at once, and have it make its days in any order.

    Of days that people have decided about the files come one after another: they decide about what is there.
    """
    told = {one.day for one in done}
    deliver(platform, [file for file in history.files if file.day not in told])
    order = [day for day in DAYS if any(file.day == day for file in history.files)]
    draw.shuffle(order)
    at = 0
    while at < len(order):
        some = order[at : at + draw.randint(1, len(order))]
        at += len(some)
        run(platform, "ards", [day for day in some if day not in told])
    for morning in history.mornings:
        came = [file for file in history.files if file.day in told and file.morning == morning]
        of_morning(platform, came, [one for one in done if one.morning == morning])
    run(platform, "mrds", order)
    run(platform, "model", [AS_OF])
    run(platform, "model", [AS_OF], as_of=RETRAIN)
    over = [day for day in DAYS if day >= AS_OF]
    draw.shuffle(over)
    for step in ("predictions", "model_performance"):
        half = len(over) // 2
        for some in (over[:half], over[half:]):
            run(platform, step, some)


def differences(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: (one.get(key), other.get(key)) for key in {**one, **other} if one.get(key) != other.get(key)}


def check(history: History, draw: random.Random, folder: Path, spark: SparkSession) -> None:
    live = Platform(settings_in(folder / "live"), spark, product())
    first, done = every_morning(live, history)
    in_the_end = found(live)
    for name in ("models", "decided", "scored", "evaluated"):
        kept = differences(getattr(first, name), getattr(in_the_end, name))
        assert kept == {}, f"{name}: what was first made hasn't stayed"
    replay = Platform(settings_in(folder / "replay"), spark, product())
    at_once(replay, history, done, draw)
    made = found(replay)
    for name in ("models", "decided", "scored", "evaluated"):
        assert differences(getattr(made, name), getattr(in_the_end, name)) == {}, f"{name} of a replay"


@pytest.mark.slow
@pytest.mark.timeout(2400)  # a history takes half a minute, beside other work three times that
@settings(HISTORIES, max_examples=5)
@given(history=histories(), draw=st.randoms(use_true_random=False))
def test_a_platform_that_ran_every_morning_and_one_that_replays_it_have_made_the_same(
    history: History, draw: random.Random, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> None:
    check(history, draw, tmp_path_factory.mktemp("history"), spark)
