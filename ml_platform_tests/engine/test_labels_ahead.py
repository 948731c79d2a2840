"""Labels that look ahead: given morning by morning, and at once, in any order, beside plain Python."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering.trailing_windows import Interval
from ml_platform.engine import local, reproduction
from ml_platform.engine.step import StepRequest
from ml_platform.engine.usable_days import intervals_of
from ml_platform.graph import trailing_days
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine.test_trailing_histories import (
    CUSTOMERS,
    HISTORIES,
    LAST,
    START,
    File,
    contents,
    deliver,
    deliveries,
    failures,
    rows,
)
from ml_platform_tests.small_platform import D, Platform, days, shop_contract

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = timedelta(days=1)

Labels = dict[tuple[date, str], int]

ANY = {"any": "spend", "within_days": 2, "patience_days": 2}
LABELS: list[dict[str, Any]] = [
    ANY,
    {"none": "visit", "within_days": 3, "patience_days": 0, "where": "channel = 'web'"},
    {"sum": "spend", "at_least": 0.3, "within_days": 1, "patience_days": 4},
    {"any": "visit", "within_days": 4, "patience_days": 1, "name": "comes_back"},
]


def product(label: Mapping[str, Any], features: Mapping[str, Any] | None = None, **changes: Any) -> Product:
    """The product ``shop`` without a label in its deliveries; a row without pages blocks its day."""
    return parse_product(contract(label, features, **changes), "shop.yaml")


def contract(
    label: Mapping[str, Any], features: Mapping[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Its contract."""
    content = shop_contract(**changes)
    del content["source"]["label"], content["source"]["columns"]["bought"]
    content["source"].pop("label_delay_days", None)
    del content["mrds"]["aggregate"]["bought"]
    content["mrds"]["label"] = dict(label)
    content["mrds"]["features"] = dict(features or {})
    return content


# -- the labels by plain Python: of the files, and of which days could be used when ------------------------


@dataclass(frozen=True)
class Oracle:
    """What labels have to be."""

    label: Mapping[str, Any]
    files: list[File]
    usable: Mapping[date, tuple[Interval, ...]]

    @classmethod
    def of(cls, label: Mapping[str, Any], files: list[File], platform: Platform) -> Oracle:
        """That of a platform's verdicts on its days."""
        records = platform.ledger.latest("ards")
        return cls(label, files, {day: intervals_of(record) for day, record in records.items()})

    def could_be_used(self, day: date, morning: date) -> bool:
        return any(
            start is not None and start <= morning and (end is None or morning < end)
            for start, end in self.usable.get(day, ())
        )

    def rows(self, day: date, morning: date) -> list[tuple[str, Any, str, str]]:
        """The rows of a day as known on a morning; one without pages is none."""
        found: dict[int, tuple[str, Any, str, str]] = {}
        known = [file for file in self.files if file.day == day and file.morning <= morning]
        for file in sorted(known, key=lambda file: (file.morning, file.name)):
            found = {} if file.replaces else found
            found |= {visit: row for visit, row in file.rows.items() if row[2] != ""}
        return list(found.values())

    def given_on(self, day: date) -> date | None:
        """The morning on which the labels of a day are given, if ever."""
        inside = self.inside(day)
        over = inside[-1] + DAY
        latest = over + DAY * self.label["patience_days"]
        morning = over
        while morning <= latest:
            if all(self.could_be_used(other, morning) for other in inside):
                return morning
            morning += DAY
        newer = [file.morning for file in self.files if file.day + DAY >= latest]
        if not newer:
            return None
        usable = sum(self.could_be_used(other, min(newer)) for other in inside)
        return min(newer) if usable >= 0.9 * len(inside) else None

    def inside(self, day: date) -> list[date]:
        return [day + DAY * n for n in range(1, self.label["within_days"] + 1)]

    def labels(self, morning: date) -> Labels:
        """The labels that are known on a morning, of the days that can be used then."""
        found: Labels = {}
        for day in {file.day for file in self.files}:
            given = self.given_on(day)
            if given is None or given > morning or not self.could_be_used(day, morning):
                continue
            ahead = [
                row
                for other in self.inside(day)
                if self.could_be_used(other, morning)
                for row in self.rows(other, morning)
            ]
            for customer in {row[0] for row in self.rows(day, morning)}:
                found[day, customer] = self.is_one([row for row in ahead if row[0] == customer])
        return found

    def is_one(self, own: list[tuple[str, Any, str, str]]) -> int:
        """The label by a customer's rows on the days ahead."""
        if "where" in self.label:
            own = [row for row in own if row[3] == "web"]
        spent = [Fraction(spend) for _, spend, _, _ in own if spend is not None]
        if "none" in self.label:
            return int(not own)
        if "sum" in self.label:
            return int(float(sum(spent, Fraction(0))) >= self.label["at_least"])
        return int(bool(spent if self.label["any"] == "spend" else own))


# -- the same by a platform ----------------------------------------------------------------------------


def learned(platform: Platform, morning: date) -> Labels:
    """The labels that a model as of a morning learns from."""
    name = platform.product.label
    served = rows(platform, "mrds_served")
    with_states = {row["event_day"] for row in served}
    records = platform.ledger.latest("mrds")
    found = [
        row
        for row in rows(platform, "mrds")
        if row["event_day"] not in with_states and records[row["event_day"]].usable_on(morning)
    ]
    found += [
        row
        for row in served
        if row["known_from"] <= morning and (row["known_to"] is None or morning < row["known_to"])
    ]
    keys = [(row["event_day"], row["customer"]) for row in found]
    assert len(set(keys)) == len(keys)
    return {
        (row["event_day"], row["customer"]): row[name]
        for row in found
        if row["label_known_on"] is not None and row["label_known_on"] <= morning
    }


def check(
    label: Mapping[str, Any],
    features: Mapping[str, Any],
    files: list[File],
    draw: random.Random,
    folder: Path,
    spark: SparkSession,
) -> None:
    """A platform that runs every morning and a replay agree with each other, and with plain Python."""
    live = Platform(settings_in(folder / "live"), spark, product(label, features))
    morning = START + DAY
    while morning <= LAST:
        deliver(live, [file for file in files if file.morning == morning])
        if came := sorted({file.day for file in files if file.morning == morning}):
            made = sorted({file.day for file in files if file.morning <= morning})
            live.run("ards", came)
            live.run("mrds", made if draw.random() < 0.5 else came)
            ask_again(live)
            assert not failures(live)
        morning += DAY
    delivered = sorted({file.day for file in files})

    replay = Platform(settings_in(folder / "replay"), spark, product(label, features))
    deliver(replay, files)
    order = list(delivered)
    draw.shuffle(order)
    while order:
        some, order = order[:2], order[2:]
        replay.run("ards", some)
        replay.run("mrds", some)
    replay.run("mrds", delivered)

    assert contents(replay) == contents(live)
    oracle = Oracle.of(label, files, replay)
    morning = START + DAY
    while morning <= LAST:
        assert learned(replay, morning) == oracle.labels(morning), morning
        morning += DAY


def ask_again(platform: Platform) -> None:
    """What the landing sensor asks for: days whose windows have changed."""
    outdated = trailing_days.outdated(platform.product, platform.settings, platform.ledger)
    if outdated:
        platform.run("mrds", sorted(outdated))


FEATURES: list[dict[str, Any]] = [{}, {"spent_3": {"sum": "spend", "days": 3}}]
HISTORY = {
    "label": st.sampled_from(LABELS),
    "features": st.sampled_from(FEATURES),
    "files": deliveries(),
    "draw": st.randoms(use_true_random=False),
}


@settings(HISTORIES, max_examples=2)
@given(**HISTORY)
def test_labels_ahead_are_those_of_plain_python_on_every_morning(
    label: Mapping[str, Any],
    features: Mapping[str, Any],
    files: list[File],
    draw: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
    spark: SparkSession,
) -> None:
    if files:
        check(label, features, files, draw, tmp_path_factory.mktemp("history"), spark)


@pytest.mark.slow
@settings(HISTORIES, max_examples=12)
@given(**HISTORY)
def test_labels_ahead_of_many_histories_are_those_of_plain_python(
    label: Mapping[str, Any],
    features: Mapping[str, Any],
    files: list[File],
    draw: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
    spark: SparkSession,
) -> None:
    if files:
        check(label, features, files, draw, tmp_path_factory.mktemp("history"), spark)


def file_of(day: date, morning: date, customers: Iterable[str], **changes: Any) -> File:
    visits = {100 * day.toordinal() + n: (name, 1.0, "1", "web") for n, name in enumerate(customers)}
    return File(day, morning, f"{morning}T0100_rows.csv", visits, **changes)


def plain_history(count: int) -> list[File]:
    """A file a day, of one customer or another."""
    chosen = [START + DAY * n for n in range(count)]
    return [
        file_of(day, day + DAY, [CUSTOMERS[n % 2], CUSTOMERS[2]][: 1 + n % 3]) for n, day in enumerate(chosen)
    ]


def test_one_morning_gives_the_label_of_the_day_whose_days_ahead_are_over(platform: Platform) -> None:
    platform.product = product(ANY)
    files = plain_history(6)
    for file in files:
        deliver(platform, [file])
        platform.run("ards", file.day)
        platform.run("mrds", file.day)
        assert learned(platform, file.morning) == Oracle.of(ANY, files, platform).labels(file.morning)

    assert learned(platform, LAST) != {}
    assert {row["event_day"] for row in rows(platform, "mrds") if row["label"] is None} == {
        file.day for file in files[-2:]
    }


@pytest.mark.parametrize("begins", ["with a backfill", "every morning"])
def test_a_day_that_stays_missing_is_waited_for_and_then_done_without(
    begins: str, platform: Platform
) -> None:
    """Nobody asks for the days that waited: a newer day's own run gives their labels."""
    label = {"any": "spend", "within_days": 10, "patience_days": 2}
    platform.product = product(label)
    missing = START + DAY * 14
    files = [file for file in plain_history(26) if file.day != missing]
    by_then = [file for file in files if file.day < START + DAY * 20] if begins == "with a backfill" else []
    deliver(platform, by_then)
    for step in ("ards", "mrds") if by_then else ():
        platform.run(step, [file.day for file in by_then])
    for file in files[len(by_then) :]:
        deliver(platform, [file])
        if file.day == START + DAY * 17:  # rows of a day whose label waits are corrected meanwhile
            late = file_of(START + DAY * 5, file.morning, ["bob"])
            files.append(late)
            deliver(platform, [late])
            platform.run("ards", late.day)
            platform.run("mrds", late.day)
        platform.run("ards", file.day)
        platform.run("mrds", file.day)
        oracle = Oracle.of(label, files, platform)
        assert learned(platform, file.morning) == oracle.labels(file.morning)
    known = {row["event_day"]: row["label_known_on"] for row in rows(platform, "mrds")}
    assert known[missing - DAY * 10] == missing + DAY * 3
    assert known[missing - DAY * 11] == missing


def test_a_day_that_comes_when_nobody_waits_for_it_any_more_gives_no_label(platform: Platform) -> None:
    """Also where nothing newer has come that would have told that the time was over."""
    label = {"any": "visit", "within_days": 4, "patience_days": 1}
    platform.product = product(label)
    chosen = [START + DAY * n for n in range(6)]
    mornings = {day: day + DAY for day in chosen} | {chosen[5]: chosen[5] + DAY * 3}
    files = [file_of(day, mornings[day], ["ann"]) for day in chosen]
    deliver(platform, files)
    platform.run("ards", chosen)
    platform.run("mrds", chosen)
    known = {row["event_day"]: row["label_known_on"] for row in rows(platform, "mrds")}
    assert known == {chosen[0]: chosen[5], **dict.fromkeys(chosen[1:], None)}
    assert learned(platform, LAST) == Oracle.of(label, files, platform).labels(LAST)


def test_no_label_is_given_before_its_days_are_over(platform: Platform) -> None:
    """On a Saturday morning nobody knows yet that nothing comes on the weekend."""
    content = contract(ANY)
    content["delivery"] = {"weekdays": ["mon", "tue", "wed", "thu", "fri"]}
    platform.product = parse_product(content, "shop.yaml")
    thursday, friday, monday = (START + DAY * n for n in (3, 4, 7))
    found = {}
    for day in (thursday, friday, monday):
        deliver(platform, [file_of(day, day + DAY, ["ann"])])
        platform.run("ards", day)
        platform.run("mrds", day)
        found[day] = {
            row["event_day"]: (row["label"], row["label_known_on"]) for row in rows(platform, "mrds")
        }
    assert found[friday] == {thursday: (None, None), friday: (None, None)}
    tuesday = monday + DAY
    assert found[monday] == {thursday: (1, tuesday), friday: (0, tuesday), monday: (None, None)}


def test_days_of_another_label_population_or_column_of_it_are_not_like_those_of_now(
    platform: Platform,
) -> None:
    """Also where nothing is aggregated that a model reads."""
    features = {"visits_3": {"count": "visit", "days": 3}}
    label = {"sum": "spend", "at_least": 1, "within_days": 2}

    def alike(**changes: Any) -> tuple[bool, bool]:
        """Whether the ARDS and the MRDS of the first contract are like those of a changed one."""
        content = contract(label, features)
        content["mrds"].pop("aggregate")
        content["model"]["features"] = {"numeric": ["visits_3"]}
        content["validation"] = {"minimum_rows": 1}
        before = parse_product(content, "shop.yaml")
        ContractVersions(platform.tables, before).remember()
        for path, value in changes.items():
            *sections, last = path.split("__")
            place = content
            for section in sections:
                place = place[section]
            place[last] = value
        now = ContractVersions(platform.tables, parse_product(content, "shop.yaml"))
        return (
            before.hash_of("source") in now.ards_like_now(),
            before.hash_of("source", "mrds") in now.mrds_like_now(["visits_3"]),
        )

    assert alike(description="changed") == (True, True)
    assert alike(mrds__label={**label, "within_days": 3}) == (True, False)
    assert alike(mrds__population={"active_within_days": 9}) == (True, False)
    assert alike(mrds__features={"visits_3": {"count": "visit", "days": 4}}) == (True, False)
    assert alike(source__columns__spend={"type": "double", "fill_null": 1.0}) == (False, False)


def test_a_model_learns_from_labels_ahead_and_is_evaluated_by_them(platform: Platform) -> None:
    """Customers who have come lately come again; whoever is scored is looked up by pandas afterwards."""
    label = {"any": "visit", "within_days": 3, "name": "comes_back"}
    features = {"visits_7": {"count": "visit", "days": 7}, "since": {"days_since": "visit"}}
    platform.product = product(
        label,
        features,
        model__features={"numeric": ["visits_7", "since", "spend"]},
        model__minimum_rows=50,
        evaluation__window_days=10,
        evaluation__metric="roc_auc",
    )
    chosen = days("2024-01-01", "2024-02-20")
    visits = regulars_and_others(chosen)
    for day in chosen:
        own = visits[visits["day"] == day.isoformat()]
        platform.deliver(day, f"{day + DAY}T0600_visits.csv", own.to_csv(index=False))
    platform.run("ards", chosen)
    platform.run("mrds", chosen)

    (model,) = platform.run("model", D("2024-02-01")).days
    assert model.outcome == "written", model.reason
    late = [day for day in chosen if day >= D("2024-02-01")]
    for step, asked in {"predictions": late, "model_performance": late[5:], "online_features": late}.items():
        outcomes = {day.outcome for day in platform.run(step, asked).days}
        assert outcomes == {"written"}, (step, outcomes)
    assert {day.outcome for day in platform.run("validation_report", chosen[-5:]).days} == {"written"}
    assert {day.outcome for day in platform.run("drift_report", D("2024-01-01")).days} == {"written"}

    found = platform.rows("predictions")
    came = {(row.customer, date.fromisoformat(row.day)) for row in visits.itertuples()}
    found = found[found["event_day"] <= chosen[-1] - 3 * DAY]
    truth = [
        int(any((row.customer, row.event_day + DAY * n) in came for n in (1, 2, 3)))
        for row in found.itertuples()
    ]
    assert roc_auc_score(truth, found["probability"]) > 0.75
    labelled = platform.rows("mrds", ["event_day"]).dropna(subset=["comes_back"])
    assert labelled["event_day"].max() == chosen[-1] - 3 * DAY
    newest = platform.ledger.latest("model_performance")[late[-1]]
    assert newest.outcome == "written", newest.reason


@pytest.mark.slow
def test_a_model_is_made_again_from_the_deliveries_before_and_after_the_days_it_learned_from(
    platform: Platform,
) -> None:
    """Its windows reach back before these, and its labels ahead of them."""
    platform.product = product(
        {"any": "visit", "within_days": 3},
        {"visits_7": {"count": "visit", "days": 7}, "since": {"days_since": "visit", "days": 20}},
        model__features={"numeric": ["visits_7", "since", "spend"]},
        model__training_months=1,
        evaluation__metric="roc_auc",
    )
    chosen = days("2024-01-01", "2024-03-04")
    visits = regulars_and_others(chosen)
    for day in chosen:
        own = visits[visits["day"] == day.isoformat()]
        platform.deliver(day, f"{day + DAY}T0600_visits.csv", own.to_csv(index=False))
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    (made,) = platform.run("model", D("2024-03-01")).days
    assert made.outcome == "written", made.reason
    (model,) = ModelHistory(platform.tables, platform.product).models()
    assert model.first_day > chosen[20]
    assert model.last_day == D("2024-02-26")

    said: list[str] = []
    request = StepRequest(step="model", product="shop", days=(), run_id="reproduce")
    context = local.context_for(
        request, platform.product, platform.settings, lambda: platform.spark, said.append
    )
    (found,) = reproduction.reproduce(context, [model], from_deliveries=True)
    assert found.is_same, found.compared
    assert not any("give another result" in line for line in said), said


def regulars_and_others(chosen: Iterable[date]) -> pd.DataFrame:
    """Visits of customers of whom each comes with a chance of its own, the same every day."""
    draw = np.random.default_rng(5)
    chance = draw.beta(0.5, 2.0, 400)
    found = []
    for day in chosen:
        (came,) = np.nonzero(draw.random(400) < chance)
        found.append(
            pd.DataFrame(
                {
                    "visit": day.toordinal() * 1_000 + np.arange(len(came)),
                    "day": day.isoformat(),
                    "customer": [f"c{n:03d}" for n in came],
                    "spend": draw.gamma(2.0, 20.0, len(came)).round(2),
                    "pages": 1,
                    "channel": "web",
                }
            )
        )
    return pd.concat(found)
