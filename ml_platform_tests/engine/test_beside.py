"""Runs that work on the same days at once, each at the worst moment of the other."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake.exceptions import CommitFailedError

from ml_platform.data_engineering import ards, mrds
from ml_platform.engine import local
from ml_platform.engine.acceptance import accept
from ml_platform.engine.step import StepRequest
from ml_platform.engine.steps.ards import Ards
from ml_platform.engine.steps.online_features import OnlineFeatures
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.registry import Registry
from ml_platform.mlops.quality import validation
from ml_platform.storage import small_tables
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.path_locations import FolderLocation, PathLocation
from ml_platform.storage.tables import OvertakenError, Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, carry_by, days, deliver_visits, shop

CHOSEN = days("2024-01-01", "2024-01-04")
DAY = D("2024-01-02")
UNUSABLE = f"9999,{DAY},ann,1.0,many,web\n"


def deliver_without_labels(platform: Platform) -> None:
    deliver_visits(platform, CHOSEN, rows=20)
    for day in CHOSEN:
        (labels,) = platform.folder(day).glob("*labels.csv")
        labels.rename(labels.with_suffix(".later"))


def deliver_labels(platform: Platform) -> None:
    """The labels of all days come, and a record of one that can't be used."""
    for day in CHOSEN:
        for labels in platform.folder(day).glob("*.later"):
            labels.rename(labels.with_suffix(".csv"))
    header = "visit,day,customer,spend,pages,channel\n"
    platform.deliver(DAY, "2024-01-04T0700_more.csv", header + UNUSABLE)


def newer_run(platform: Platform) -> Callable[[], None]:
    """A run that comes when the labels have come, and knows them."""

    def run() -> None:
        deliver_labels(platform)
        platform.run("ards", CHOSEN, run_id="newer")

    return run


def before_the_first(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, other: Callable[[], object]
) -> None:
    """Have another run come just before the first call of a function, and go on then."""
    function, came = getattr(owner, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        if not came:
            came.append(True)
            other()
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


def everything(platform: Platform) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    return platform.fingerprints("ards"), platform.rows("ards"), platform.rows("quarantine")


def assert_as_alone(platform: Platform, tmp_path: Path) -> None:
    """Tables and ledger are what one run over the deliveries makes of them, and nothing is to be done."""
    alone = Platform(settings_in(tmp_path / "alone"), platform.spark)
    deliver_without_labels(alone)
    deliver_labels(alone)
    alone.run("ards", CHOSEN)
    (fingerprints, rows, unusable), (expected, *tables) = everything(platform), everything(alone)
    assert fingerprints == expected
    pd.testing.assert_frame_equal(rows, tables[0])
    pd.testing.assert_frame_equal(unusable, tables[1])
    assert rows["bought"].notna().all()
    assert len(unusable) == 1
    assert all(day.up_to_date for day in platform.run("ards", CHOSEN).days)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        # It has looked at the deliveries, and has not read them yet.
        (ards, "write"),
        # It has read them, and not committed yet.
        (PathLocation, "commit"),
        # It has committed, and not judged and recorded them yet.
        (validation, "validate"),
        (Ledger, "record_since"),
    ],
)
def test_a_run_that_knew_less_undoes_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: Any, name: str
) -> None:
    deliver_without_labels(platform)

    if name == "commit":
        # The lock is what keeps the other run out from here on, where there is one.
        monkeypatch.setattr(FolderLocation, "lock", unlocked)
    before_the_first(monkeypatch, owner, name, newer_run(platform))
    platform.run("ards", CHOSEN, run_id="older")
    assert_as_alone(platform, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("locked", [True, False])
def test_nor_does_one_whose_days_spark_writes(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, locked: bool
) -> None:
    deliver_without_labels(platform)
    carry_by("buckets of Spark", monkeypatch)

    if locked:
        before_the_first(monkeypatch, ards, "write", newer_run(platform))
    else:
        monkeypatch.setattr(FolderLocation, "lock", unlocked)
        before_the_first(monkeypatch, PathLocation, "replace", newer_run(platform))
    platform.run("ards", CHOSEN, run_id="older")
    assert_as_alone(platform, tmp_path)


@contextlib.contextmanager
def unlocked(*_: Any) -> Iterator[None]:
    yield


def test_one_that_is_killed_after_a_newer_one_has_undone_nothing_either(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deliver_without_labels(platform)

    refuse = Tables._refuse_overtaken

    def killed(*arguments: Any, **options: Any) -> None:
        try:
            refuse(*arguments, **options)
        except OvertakenError:
            raise KeyboardInterrupt from None

    with monkeypatch.context() as patched:
        before_the_first(patched, ards, "write", newer_run(platform))
        # As if the files had changed just after they were compared with those that were read.
        patched.setattr(Ards, "_changed", lambda *_: [])
        patched.setattr(Tables, "_refuse_overtaken", killed)
        with pytest.raises(KeyboardInterrupt):
            platform.run("ards", CHOSEN, run_id="older")
    assert_as_alone(platform, tmp_path)


@pytest.mark.slow
def test_maintenance_overtakes_nobody(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver_visits(platform, CHOSEN, rows=20)
    platform.run("ards", CHOSEN)
    before = platform.tables.version("shop", "ards")

    def maintain() -> None:
        platform.run("maintenance", [])

    before_the_first(monkeypatch, ards, "write", maintain)
    platform.run("ards", CHOSEN, force=True)
    commits = platform.tables.control.commits_after("shop", "ards", before)
    assert len([said for said in commits.values() if said and '"days"' in said]) == 1


def test_runs_that_never_let_each_other_finish_say_so(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*_: Any, **__: Any) -> None:
        raise OvertakenError("shop/ards: another run has written 2024-01-02")

    deliver_visits(platform, CHOSEN, rows=20)
    monkeypatch.setattr(ards, "write", overtaken)
    with pytest.raises(OvertakenError, match="run again when they are done"):
        platform.run("ards", CHOSEN)
    assert platform.ledger.latest("ards") == {}


@pytest.mark.parametrize("moment", [(mrds, "write"), (Ledger, "record_since")])
def test_a_day_that_is_held_back_meanwhile_stays_so(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, moment: tuple[Any, str]
) -> None:
    deliver_visits(platform, CHOSEN, rows=20)
    platform.run("ards", CHOSEN)

    def refuse() -> None:
        platform.deliver(DAY, "2024-01-03T0800_visits.csv", "no,header\n")
        for step in ("ards", "mrds"):
            platform.run(step, CHOSEN)

    before_the_first(monkeypatch, *moment, refuse)
    result = platform.run("mrds", CHOSEN)
    assert [day.outcome for day in result.days] == ["written", "held_back", "written", "written"]


def test_a_day_that_is_held_back_meanwhile_is_not_published(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_visits(platform, CHOSEN, rows=20)
    for step in ("ards", "mrds"):
        platform.run(step, CHOSEN)

    def refuse() -> None:
        platform.deliver(DAY, "2024-01-03T0800_visits.csv", "no,header\n")
        for step in ("ards", "mrds"):
            platform.run(step, CHOSEN)

    before_the_first(monkeypatch, OnlineFeatures, "write", refuse)
    result = platform.run("online_features", CHOSEN)
    assert [day.outcome for day in result.days] == ["written", "held_back", "written", "written"]


def test_an_acceptance_of_what_has_just_been_done_again_is_refused(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Platform(platform.settings, platform.spark, shop(validation={"minimum_rows": 100}))
    deliver_visits(strict, CHOSEN, rows=20)
    strict.run("ards", DAY)
    before_the_first(monkeypatch, Ledger, "record_since", lambda: strict.run("ards", DAY, force=True))
    with pytest.raises(LookupError, match="ards of 2024-01-02 has just been done again"):
        accept(strict.ledger, DAY, reason="a holiday", by="ann")
    assert strict.ledger.latest("ards")[DAY].outcome == "blocked"
    accept(strict.ledger, DAY, reason="a holiday", by="ann")
    assert strict.ledger.latest("ards")[DAY].outcome == "written"


def test_a_small_table_that_another_process_is_joining_takes_rows(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> int:
        raise CommitFailedError("another commit came first")

    deliver_visits(platform, CHOSEN, rows=20)
    monkeypatch.setattr(small_tables, "FILES_BEFORE_COMPACTION", 0)
    monkeypatch.setattr(small_tables, "_join", lost)
    platform.run("ards", CHOSEN)
    assert len(platform.ledger.latest("ards")) == 4


# -- models ------------------------------------------------------------------------------------------

MONTH = D("2024-02-01")
HISTORY = days("2024-01-01", "2024-02-10")


def with_data(platform: Platform) -> Platform:
    deliver_visits(platform, HISTORY, rows=60)
    for step in ("ards", "mrds"):
        platform.run(step, HISTORY)
    return platform


def is_pending(platform: Platform, step: str, *chosen: Any) -> bool:
    request = StepRequest(step=step, product="shop", days=chosen, run_id="look")  # type: ignore[arg-type]
    return local.is_pending(
        local.context_for(
            request, platform.product, platform.settings, lambda: platform.spark, lambda _: None
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["decide", "set_champion"])
def test_a_model_that_was_not_decided_before_a_kill_is_decided_by_the_next_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with_data(platform)
    with monkeypatch.context() as patched:
        patched.setattr(ModelHistory if killed_in == "decide" else Registry, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            platform.run("model", MONTH)
    assert is_pending(platform, "model", MONTH)
    (month,) = platform.run("model", MONTH).days
    assert month.metadata["promoted"] is True
    (decision,) = ModelHistory(platform.tables, platform.product).decisions()
    registry = Registry.of(platform.settings)
    decided = registry.find(platform.product, decision.fingerprint)
    champion = registry.tracking.client().get_model_version_by_alias(
        registry.name(platform.product), "champion"
    )
    assert decided is not None
    assert decided.version == str(champion.version)
    assert not is_pending(platform, "model", MONTH)


@pytest.mark.slow
def test_days_are_scored_while_the_model_of_their_month_is_made_anew(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_data(platform)
    platform.run("model", MONTH)
    served = ModelHistory(platform.tables, platform.product).decisions()[-1].fingerprint
    deliver_visits(platform, HISTORY[:3], rows=60, seed=5)
    for step in ("ards", "mrds"):
        platform.run(step, HISTORY)
    scored = []
    before_the_first(
        monkeypatch,
        ModelHistory,
        "decide",
        lambda: scored.extend(platform.run("predictions", MONTH).days),
    )
    platform.run("model", MONTH)
    assert [day.outcome for day in scored] == ["written"]
    assert set(platform.rows("predictions")["model_fingerprint"]) == {served}


@pytest.mark.slow
def test_a_model_that_has_learned_from_older_data_does_not_count(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its training began before a correction, and would have ended after that of the corrected one."""
    with_data(platform)

    def corrected() -> None:
        deliver_visits(platform, HISTORY[15:25], rows=60, seed=5)
        for step in ("ards", "mrds", "model"):
            platform.run(step, MONTH if step == "model" else HISTORY)

    before_the_first(monkeypatch, Registry, "log", corrected)
    platform.run("model", MONTH)
    assert not is_pending(platform, "model", MONTH)

    alone = Platform(settings_in(tmp_path / "alone"), platform.spark)
    shutil.copytree(platform.settings.landing_path, alone.settings.landing_path)
    for step in ("ards", "mrds", "model"):
        alone.run(step, MONTH if step == "model" else HISTORY)
    found, expected = (ModelHistory(one.tables, one.product).decisions() for one in (platform, alone))
    assert found == expected


@pytest.mark.slow
def test_predictions_of_a_day_that_was_held_back_for_a_while_stay(platform: Platform) -> None:
    with_data(platform)
    platform.run("model", MONTH)
    platform.run("predictions", MONTH)
    before = platform.rows("predictions")
    bad = platform.deliver(MONTH, "2024-02-02T0900_visits.csv", "no,header\n")
    for step in ("ards", "mrds", "predictions"):
        (day,) = platform.run(step, MONTH).days
    assert day.outcome == "held_back"
    # Meanwhile another model has come to serve the month.
    deliver_visits(platform, HISTORY[:5], rows=60, seed=5)
    bad.unlink()
    for step in ("ards", "mrds"):
        platform.run(step, HISTORY)
    platform.run("model", MONTH)
    assert len(ModelHistory(platform.tables, platform.product).by_fingerprint()) == 2
    (day,) = platform.run("predictions", MONTH).days
    assert day.outcome == "written"
    pd.testing.assert_frame_equal(platform.rows("predictions"), before)
