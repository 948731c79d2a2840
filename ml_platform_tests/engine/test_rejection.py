"""A person rejects a day: it counts from that morning on, whenever and in whatever order the day is made."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ml_platform.engine.acceptance import accept
from ml_platform.engine.earlier_verdicts import with_rejections
from ml_platform.engine.rejection import reject, take_back
from ml_platform.storage.ledger import HISTORY
from ml_platform.storage.rejections import Rejection, Rejections
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine.test_status_as_known import (
    ALL,
    AS_OF,
    DAY,
    PRODUCT,
    RULES,
    fingerprints,
    good,
    learned,
    outcomes,
    run,
)
from ml_platform_tests.small_platform import CARRIERS, D, Platform, carry_by, deliver_visits, shop, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REJECTED = D("2024-02-06")
FIXED = D("2024-02-08")


def delivered(home: Path, spark: SparkSession, product: object = PRODUCT) -> Platform:
    platform = Platform(settings_in(home), spark, product)  # type: ignore[arg-type]
    deliver_visits(platform, ALL, rows=80)
    return platform


def rejected(platform: Platform, on: date = REJECTED, day: date = DAY) -> None:
    reject(platform.tables, platform.product, day, reason="the tills were reset", by="ann", on=on)


def fix(platform: Platform) -> None:
    """Deliver the day again with other amounts: a correction that doesn't say that it replaces anything."""
    frame = visits(DAY, rows=80).drop(columns="bought")
    frame = frame.assign(spend=frame["spend"] + 1)
    platform.deliver(DAY, f"{FIXED}_fix.csv", frame.to_csv(index=False))


def spend_of(rows: pd.DataFrame) -> dict[str, float]:
    """What the day says of each customer."""
    of_day = rows[pd.to_datetime(rows["event_day"]).dt.date == DAY]
    return dict(zip(of_day["customer"], of_day["spend"], strict=True))


def spend_learned(platform: Platform, as_of: str) -> dict[str, float]:
    """What models as of a date learn of the day, of each customer who isn't held out."""
    from ml_platform.engine import training_plan
    from ml_platform.engine.compared_rows import UnseenRows
    from ml_platform.engine.local import context_for
    from ml_platform.engine.model_training import ModelTraining
    from ml_platform.engine.step import StepRequest

    request = StepRequest(step="model", product="shop", days=(), run_id="look")
    context = context_for(
        request, platform.product, platform.settings, lambda: platform.spark, lambda _: None
    )
    plan = training_plan.plans(context, [D(as_of)])[D(as_of)]
    training = ModelTraining(context, plan, "entities", UnseenRows(context))
    return spend_of(training.slice.collect())


@pytest.mark.slow
@pytest.mark.parametrize("changed_before", [False, True], ids=["rows that never changed", "corrected rows"])
def test_a_rejected_day_is_blocked_from_its_morning_on_and_leaves_what_was_learned_before(
    tmp_path: Path, spark: SparkSession, changed_before: bool
) -> None:
    live, replay = delivered(tmp_path / "live", spark), delivered(tmp_path / "replay", spark)
    for platform in (live, replay):
        if changed_before:
            good(platform, "2024-01-20_again.csv")
            few = visits(DAY, rows=80).drop(columns="bought")[:9].assign(spend=7.0)
            platform.deliver(DAY, "2024-01-21_few.csv", few.to_csv(index=False))
    run(live, ALL)
    (before,) = fingerprints(live)
    was, rows_before = spend_learned(live, "2024-02-05"), live.rows("mrds")
    assert len(was) > 10
    if not changed_before:
        assert was.items() <= spend_of(rows_before).items()
    rejected(live)
    assert outcomes(live) == ("blocked", "written"), "at once, and before anything is made again"
    run(live, [DAY])
    assert outcomes(live) == ("blocked", "held_back")
    assert fingerprints(live) == [before]
    assert live.run("model", AS_OF).days[0].up_to_date
    pd.testing.assert_frame_equal(live.rows("mrds"), rows_before)
    for step in ("ards", "mrds"):
        (again,) = live.run(step, DAY).days
        assert again.up_to_date, step
    (ards,) = live.run("ards", DAY).days
    assert ards.reason == "rejected by ann on 2024-02-06 (the tills were reset)"
    assert ards.checks[0].description.startswith(ards.reason)
    assert (ards.checks[0].passed, ards.checks[0].severity) == (False, "ERROR")
    assert ards.metadata["rejected_on"] == "2024-02-06"
    assert spend_learned(live, "2024-02-05") == was
    assert DAY not in learned(live, REJECTED)

    # Whoever makes the history once at the end, with what was rejected at hand, gets the same.
    (rejection,) = Rejections(live.tables, "shop").read()[DAY]
    Rejections(replay.tables, "shop").add(rejection)
    run(replay, ALL[::-1])
    assert outcomes(replay) == ("blocked", "held_back")
    assert fingerprints(replay) == [before]
    assert live.fingerprints("ards", "mrds") == replay.fingerprints("ards", "mrds")

    for platform in (live, replay):
        fix(platform)
        run(platform, [DAY])
        assert outcomes(platform) == ("written", "written")
        assert fingerprints(platform) == [before]
        assert spend_learned(platform, "2024-02-05") == was
        assert DAY not in learned(platform, "2024-02-07")
        repaired = spend_learned(platform, str(FIXED))
        assert repaired.keys() == was.keys()
        assert repaired.items() <= spend_of(platform.rows("mrds")).items(), "not as served"
        assert all(repaired[customer] > was[customer] for customer in was)
        assert platform.run("ards", DAY).days[0].metadata["rejected_on"] == "2024-02-06"
    assert live.fingerprints("ards", "mrds") == replay.fingerprints("ards", "mrds")


@pytest.mark.slow
def test_labels_that_come_and_rules_that_change_leave_a_rejection_as_it_is(
    tmp_path: Path, spark: SparkSession
) -> None:
    platform = delivered(tmp_path, spark)
    run(platform, ALL)
    rejected(platform)
    run(platform, [DAY])
    visit = int(platform.rows("ards").query("day == @DAY")["visit"].iloc[0])
    for number, of in enumerate((1, visit)):  # of no row, and of one
        labels = f"visit,day,bought\n{of},{DAY},1\n"
        platform.deliver(DAY, f"2024-02-09_labels{number}.csv", labels)
        run(platform, [DAY])
        assert outcomes(platform) == ("blocked", "held_back")
    platform.product = shop(validation__ranges={"spend": {"maximum": 900}}, **RULES)
    run(platform, ALL)
    assert outcomes(platform) == ("blocked", "held_back")
    assert DAY in learned(platform, "2024-02-05")
    assert DAY not in learned(platform, REJECTED)


@pytest.mark.slow
def test_a_rejection_that_is_taken_back_has_never_been(tmp_path: Path, spark: SparkSession) -> None:
    platform = delivered(tmp_path, spark)
    run(platform, ALL)
    before = platform.fingerprints("ards", "mrds")
    records = platform.ledger.latest("ards")[DAY].details
    rejected(platform)
    run(platform, [DAY])
    assert HISTORY in platform.ledger.latest("ards")[DAY].details
    with pytest.raises(LookupError, match=r"was rejected by ann .* ml-platform reject --undo"):
        accept(platform.ledger, DAY, reason="it was so", by="bob")
    assert take_back(platform.tables, platform.product, DAY) == 1
    run(platform, [DAY])
    assert outcomes(platform) == ("written", "written")
    assert platform.fingerprints("ards", "mrds") == before
    assert platform.ledger.latest("ards")[DAY].details == records
    assert DAY in learned(platform, REJECTED)
    with pytest.raises(LookupError, match="nothing of 2024-01-10 has been rejected"):
        take_back(platform.tables, platform.product, DAY)


@pytest.mark.slow
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_rejection_is_the_same_whatever_writes_the_day(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    here, there = delivered(tmp_path / "here", spark), delivered(tmp_path / "there", spark)
    for platform, by in ((here, None), (there, carrier)):
        if by is not None:
            carry_by(by, monkeypatch)
        run(platform, [DAY])
        rejected(platform)
        run(platform, [DAY])
        assert outcomes(platform) == ("blocked", "held_back")
    assert there.fingerprints("ards", "mrds") == here.fingerprints("ards", "mrds")
    names = ["customer", "spend", "known_from", "known_to", "is_scored"]
    served = [platform.rows("mrds_served", ["customer"])[names] for platform in (here, there)]
    pd.testing.assert_frame_equal(*served, check_dtype=False)
    assert len(served[0]) > 10


@pytest.mark.slow
def test_a_day_that_was_rejected_as_of_its_own_morning_was_never_used(
    tmp_path: Path, spark: SparkSession
) -> None:
    platform = delivered(tmp_path, spark)
    run(platform, ALL)
    rejected(platform, on=D("2024-01-11"))
    run(platform, [DAY])
    assert outcomes(platform) == ("blocked", "held_back")
    assert DAY not in learned(platform, "2024-02-05")


def test_only_rows_that_are_used_can_be_rejected_and_with_a_reason(
    tmp_path: Path, spark: SparkSession
) -> None:
    platform = Platform(settings_in(tmp_path), spark, PRODUCT)
    given = {"reason": "no", "by": "ann", "on": REJECTED}
    with pytest.raises(LookupError, match="nothing to reject on 2024-01-10: nothing has been materialized"):
        reject(platform.tables, PRODUCT, DAY, **given)  # type: ignore[arg-type]
    deliver_visits(platform, [DAY], rows=80)
    platform.run("ards", DAY)
    with pytest.raises(ValueError, match="needs a reason"):
        reject(platform.tables, PRODUCT, DAY, **{**given, "reason": " "})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from the morning after it on"):
        reject(platform.tables, PRODUCT, DAY, **{**given, "on": DAY})  # type: ignore[arg-type]
    assert Rejections(platform.tables, "shop").read() == {}
    reject(platform.tables, PRODUCT, DAY, **given)  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="nothing to reject on 2024-01-10: ards is blocked"):
        reject(platform.tables, PRODUCT, DAY, **given)  # type: ignore[arg-type]
    assert len(Rejections(platform.tables, "shop").read()[DAY]) == 1


def rejection(on: str) -> Rejection:
    return Rejection(DAY, D(on), "rows", "ann", "why")


@pytest.mark.parametrize(
    ("came", "on", "is_in_force", "expected"),
    [
        (["01-11"], ["02-06"], True, [("01-11", True), ("02-06", False)]),
        (["01-11"], ["01-11"], True, None),
        (["01-12"], ["01-11"], True, None),
        (["01-11"], ["02-06"], False, None),
        (["01-11", "02-08"], ["02-06"], False, [("01-11", True), ("02-06", False), ("02-08", True)]),
        (["01-11", "02-06"], ["02-06"], True, [("01-11", True), ("02-06", False)]),
        (["01-11", "02-06"], ["02-06"], False, [("01-11", True), ("02-06", True)]),
        (
            ["01-11", "02-08"],
            ["02-06", "02-10"],
            True,
            [("01-11", True), ("02-06", False), ("02-08", True), ("02-06", False)],
        ),
    ],
)
def test_each_rejection_is_a_morning_on_which_the_day_cannot_be_used(
    came: list[str], on: list[str], is_in_force: bool, expected: list[tuple[str, bool]] | None
) -> None:
    mornings = [[f"2024-{day}", False, True, f"content {day}"] for day in came]
    mornings[-1][3] = None
    history = {"versions": 3, "fingerprint": "f", "mornings": mornings} if len(came) > 1 else None
    found = [rejection(f"2024-{day}") for day in on]
    merged = with_rejections(history, D(f"2024-{came[0]}"), found, found[-1] if is_in_force else None)
    if expected is None:
        assert merged is None
        return
    assert merged is not None
    if on == ["02-06", "02-10"]:
        expected = [*expected[:-1], ("02-10", False)]
    assert [(day, is_usable) for day, _, is_usable, _ in merged["mornings"]] == [
        (f"2024-{day}", is_usable) for day, is_usable in expected
    ]
    assert merged["versions"] == (3 if history else 0)
    # Whatever comes on the morning of a rejection or later is read as repaired.
    begins = [day.removeprefix("2024-") for day, replaces, *_ in merged["mornings"] if replaces]
    assert begins == [day for day in on if f"2024-{day}" in [known[0] for known in merged["mornings"]]]
    assert begins
