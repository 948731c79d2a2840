"""Days and their outcomes: what is done, skipped, held back, mended, and what the ledger says of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data_engineering import landing
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import (
    CARRIERS,
    DATA_STEPS,
    D,
    Platform,
    carry_by,
    days,
    deliver_visits,
    shop,
)

HEADER = "visit,day,customer,spend,pages,channel\n"


def outcomes(platform: Platform, asset: str) -> dict[str, str]:
    return {str(day): record.outcome for day, record in platform.ledger.latest(asset).items()}


@pytest.mark.slow
def test_one_bad_day_of_sixty_leaves_the_others_whole(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-02-29")
    frames = deliver_visits(platform, chosen, rows=20)
    bad = D("2024-01-20")
    (platform.folder(bad) / "2024-01-21T0600_visits.csv").write_text("visit;day;customer\n1;2;3\n")

    for step in DATA_STEPS:
        result = platform.run(step, chosen)
        assert len(result.days) == 60
    for asset in ("mrds", "online_features"):
        found = outcomes(platform, asset)
        assert found.pop("2024-01-20") == "held_back"
        assert set(found.values()) == {"written"}
        assert len(found) == 59
    record = platform.ledger.latest("ards")[bad]
    assert record.outcome == "refused"
    assert "2024-01-21T0600_visits.csv" in record.reason
    assert "delimiter" in record.reason
    assert len(platform.rows("ards")) == 59 * 20
    assert "ards is refused" in platform.ledger.latest("mrds")[bad].reason

    # Mending it takes one run over that day, and every other day stays as it is.
    deliver_visits(platform, [bad], rows=20)
    before = platform.fingerprints("ards", "mrds")
    for step in DATA_STEPS:
        (mended,) = platform.run(step, bad).days
        assert mended.outcome == "written"
    after = platform.fingerprints("ards", "mrds")
    assert {key for key in after if after[key] != before.get(key)} == {("ards", bad), ("mrds", bad)}
    assert len(platform.rows("ards")) == sum(len(frame) for frame in frames.values())


def test_each_outcome_has_its_reason(platform: Platform) -> None:
    platform.deliver("2024-01-01", "a.csv", HEADER + "1,2024-01-01,ann,1,1,web\n")
    platform.deliver("2024-01-02", "a.csv", HEADER)
    platform.deliver("2024-01-03", "a.csv", "")
    platform.deliver("2024-01-05", "labels.csv", "visit,day,bought\n1,2024-01-05,1\n")
    chosen = days("2024-01-01", "2024-01-05")
    found = {str(day.day): (day.outcome, day.reason) for day in platform.run("ards", chosen).days}
    assert found["2024-01-01"] == ("written", "")
    assert found["2024-01-02"][0] == "empty"
    assert found["2024-01-03"][0] == "refused"
    assert "a.csv" in found["2024-01-03"][1]
    assert found["2024-01-04"][0] == "missing"
    assert found["2024-01-05"][0] == "missing"  # labels alone are no delivery of the day's rows
    mrds = {str(day.day): day.outcome for day in platform.run("mrds", chosen).days}
    assert list(mrds.values()) == ["written", "empty", "held_back", "missing", "missing"]


def following_links(platform: Platform) -> Platform:
    """The platform with deliveries that may lie elsewhere."""
    settings = platform.settings.model_copy(update={"delivery_links": "anywhere"})
    return Platform(settings, platform.spark, platform.product)


def test_what_the_machine_does_not_give_stops_no_other_day_and_is_tried_again(platform: Platform) -> None:
    platform = following_links(platform)
    chosen = days("2024-01-01", "2024-01-04")
    deliver_visits(platform, [chosen[0]], rows=20)
    beyond = platform.settings.home / "not mounted yet.csv"
    (platform.folder(chosen[1]) / "a.csv").symlink_to(beyond)
    (platform.settings.landing_path / "shop" / str(chosen[2])).write_text("a file, not a folder")
    (platform.folder(chosen[3]) / "a.csv").mkdir()
    assert [day.outcome for day in platform.run("ards", chosen).days] == ["written", *["refused"] * 3]
    reasons = {day: record.reason for day, record in platform.ledger.latest("ards").items()}
    assert "a.csv: can't be read: No such file or directory" in reasons[chosen[1]]
    assert f"{chosen[2]}: can't be read: Not a directory" in reasons[chosen[2]]
    assert reasons[chosen[3]].startswith("a.csv: is no regular file (a folder, pipe, socket or device)")
    beyond.write_text(HEADER + f"1,{chosen[1]},ann,1,1,web\n")
    assert platform.run("ards", chosen[1]).days[0].outcome == "written"


@pytest.mark.slow
@pytest.mark.parametrize("carrier", CARRIERS)
def test_files_that_tasks_could_not_reach_are_read_by_the_next_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    """As on a machine where the deliveries aren't mounted; they themselves stay as they are."""
    carry_by(carrier, monkeypatch)
    platform = following_links(platform)
    chosen = days("2024-01-01", "2024-01-02")
    deliver_visits(platform, chosen, rows=20)
    scan = landing.scan

    def elsewhere(*arguments: Any) -> dict[date, landing.Delivery]:
        return {
            day: replace(one, files=tuple(replace(f, path=f"/elsewhere{f.path}") for f in one.files))
            for day, one in scan(*arguments).items()
        }

    with monkeypatch.context() as patched:
        patched.setattr(landing, "scan", elsewhere)
        result = platform.run("ards", chosen)
    assert [(day.outcome, day.reason) for day in result.days] == [
        ("refused", f"{day + timedelta(days=1)}T0600_visits.csv: can't be read: No such file or directory")
        for day in chosen
    ]
    assert [day.outcome for day in platform.run("ards", chosen).days] == ["written", "written"]
    assert all(day.up_to_date for day in platform.run("ards", chosen).days)


@pytest.mark.parametrize("outcome", ["missing", "refused", "empty"])
def test_a_run_of_just_a_bad_day_says_why_it_failed(platform: Platform, outcome: str) -> None:
    if outcome != "missing":
        platform.deliver("2024-01-01", "a.csv", HEADER if outcome == "empty" else "x,y\n")
    (day,) = platform.run("ards", "2024-01-01").days
    assert day.failure is not None
    assert outcome in day.failure
    assert "Now:" in day.failure


def test_a_day_that_fails_its_quality_is_blocked_in_later_runs_too(platform: Platform) -> None:
    strict = Platform(platform.settings, platform.spark, shop(validation={"minimum_rows": 2, "not_null": []}))
    strict.deliver("2024-01-01", "a.csv", HEADER + "1,2024-01-01,ann,1,1,web\n")
    (blocked,) = strict.run("ards", "2024-01-01").days
    assert blocked.outcome == "blocked"
    assert blocked.checks[0].description == "there are too few rows: 1, expected at least 2"
    assert len(strict.rows("ards")) == 1  # it was written, so that people can look at it
    (again,) = strict.run("ards", "2024-01-01").days
    assert (again.outcome, again.up_to_date) == ("blocked", True)
    (held,) = strict.run("mrds", "2024-01-01").days
    assert held.outcome == "held_back"
    strict.deliver("2024-01-01", "b.csv", HEADER + "2,2024-01-01,bob,1,1,web\n")
    assert strict.run("ards", "2024-01-01").days[0].outcome == "written"
    assert strict.run("mrds", "2024-01-01").days[0].outcome == "written"


def test_a_delivery_that_disappears_takes_its_rows_with_it(platform: Platform) -> None:
    path = platform.deliver("2024-01-01", "a.csv", HEADER + "1,2024-01-01,ann,1,1,web\n")
    platform.run("ards", "2024-01-01")
    path.rename(path.with_suffix(".gone"))
    (day,) = platform.run("ards", "2024-01-01").days
    assert day.outcome == "missing"
    assert len(platform.rows("ards")) == 0


def test_what_is_up_to_date_needs_no_spark(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-03")
    deliver_visits(platform, chosen, rows=5)
    for step in DATA_STEPS:
        platform.run(step, chosen)
    platform.sessions_asked_for = 0
    for step in DATA_STEPS:
        result = platform.run(step, chosen)
        assert all(day.up_to_date for day in result.days)
        assert [day.outcome for day in result.days] == ["written"] * 3
        assert all(day.metadata["rows"] for day in result.days)
    assert platform.sessions_asked_for == 0


def test_only_the_days_that_changed_are_done_again(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-04")
    deliver_visits(platform, chosen, rows=5)
    for step in DATA_STEPS:
        platform.run(step, chosen)
    version = platform.tables.version("shop", "ards")
    platform.deliver("2024-01-02", "z.csv", HEADER + "99,2024-01-02,zoe,1,1,web\n")
    result = platform.run("ards", chosen)
    assert [day.up_to_date for day in result.days] == [True, False, True, False]
    # The last day is held against the labels of the second, so it was judged again, and not written.
    assert result.metadata == {"days_done": 1, "days_up_to_date": 3, "days_judged_again": 1}
    assert platform.tables.version("shop", "ards") == version + 1


def test_a_change_of_the_contract_does_its_own_assets_again(platform: Platform) -> None:
    deliver_visits(platform, [D("2024-01-01")], rows=5)
    for step in DATA_STEPS:
        platform.run(step, "2024-01-01")
    changed = Platform(platform.settings, platform.spark, shop(mrds__aggregate__pages="min"))
    assert changed.run("ards", "2024-01-01").days[0].up_to_date
    assert not changed.run("mrds", "2024-01-01").days[0].up_to_date


def test_a_range_is_committed_in_chunks_that_are_recorded_as_they_end(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-07")
    deliver_visits(platform, chosen, rows=5)
    small = Platform(platform.settings.model_copy(update={"chunk_days": 3}), platform.spark)
    small.run("ards", chosen)
    assert platform.tables.version("shop", "ards") == 2  # three commits for seven days
    assert len(platform.ledger.latest("ards")) == 7


def test_the_commit_carries_the_run(platform: Platform) -> None:
    deliver_visits(platform, [D("2024-01-01")], rows=5)
    platform.run("ards", "2024-01-01", run_id="dagster-run-7")
    path = platform.tables.path("shop", "ards")
    (commit,) = platform.spark.sql(f"DESCRIBE HISTORY delta.`{path}`").select("userMetadata").collect()
    assert '"run_id": "dagster-run-7"' in commit[0]


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["buckets", "Spark", "buckets of Spark"])
def test_whatever_carries_the_records_the_days_are_the_same(
    platform: Platform, tmp_path: Path, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = days("2024-01-01", "2024-01-03")
    deliver_visits(platform, chosen, rows=30)
    platform.deliver("2024-01-02", "2024-01-03T0700_visits.csv", f"{HEADER}x,y\n")
    landing = platform.settings.landing_path
    other = Platform(settings_in(tmp_path / "other", landing=landing), platform.spark)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    carry_by(carrier, monkeypatch)
    for step in ("ards", "mrds"):
        other.run(step, chosen)
        ours, theirs = platform.ledger.latest(step), other.ledger.latest(step)
        for day in chosen:
            assert theirs[day].counts == ours[day].counts
            assert theirs[day].details["profile"] == ours[day].details["profile"]
    assert other.fingerprints("ards", "mrds") == platform.fingerprints("ards", "mrds")
    assert len(platform.rows("quarantine")) == 1
    for table in ("ards", "quarantine", "mrds"):
        assert other.rows(table).equals(platform.rows(table))


@pytest.mark.parametrize("order", ["alone", "backwards", "one range", "twice"])
def test_any_order_gives_the_same_tables(
    platform: Platform, order: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chosen = days("2024-01-01", "2024-01-04")
    deliver_visits(platform, chosen, rows=30)
    runs: list[list[date]] = {
        "alone": [[day] for day in chosen],
        "backwards": [[day] for day in reversed(chosen)],
        "one range": [chosen],
        "twice": [chosen[2:], chosen[:3], chosen],
    }[order]
    for run in runs:
        for step in DATA_STEPS:
            platform.run(step, run, force=order == "twice")
    expected = _REFERENCE.setdefault("fingerprints", platform.fingerprints(*DATA_STEPS))
    assert platform.fingerprints(*DATA_STEPS) == expected
    assert len(expected) == 12


_REFERENCE: dict[str, object] = {}


def test_other_splits_of_files_and_tasks_give_the_same_tables(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-02")
    frames = deliver_visits(platform, chosen, rows=60)
    for step in DATA_STEPS:
        platform.run(step, chosen)
    expected = platform.fingerprints(*DATA_STEPS)

    partitions = platform.spark.conf.get("spark.sql.shuffle.partitions")
    platform.spark.conf.set("spark.sql.shuffle.partitions", "7")
    try:
        for day, frame in frames.items():
            whole = platform.folder(day) / f"{date.fromordinal(day.toordinal() + 1)}T0600_visits.csv"
            whole.unlink()
            shuffled = frame.drop(columns="bought").sample(frac=1, random_state=1)
            for n in range(3):
                platform.deliver(day, f"{whole.stem}_{n}.csv", shuffled.iloc[n::3].to_csv(index=False))
        for step in DATA_STEPS:
            assert not any(day.up_to_date for day in platform.run(step, chosen, force=True).days)
    finally:
        platform.spark.conf.set("spark.sql.shuffle.partitions", partitions)
    assert platform.fingerprints(*DATA_STEPS) == expected
