"""A later file of a day that can't be read: the day can't be used from then on; what came before stays."""

from __future__ import annotations

import gzip
import json
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ml_platform.engine.acceptance import accept
from ml_platform.engine.rejection import reject
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import (
    CARRIERS,
    D,
    Platform,
    carry_by,
    days,
    deliver_visits,
    shop,
    visits,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

DAY = timedelta(days=1)
JANUARY = days("2024-01-01", "2024-01-31")
MONTH = D("2024-02-01")
#: The day that gets the file, and the morning on which it comes.
MENDED, CAME = D("2024-01-10"), D("2024-02-20")


def fix() -> str:
    text: str = visits(MENDED).drop(columns="bought").head(20).assign(spend=7.5).to_csv(index=False)
    return text


def cut() -> bytes:
    return gzip.compress(fix().encode())[:-20]


UNREADABLE: dict[str, tuple[str, str | bytes, str]] = {
    "another header": ("fix.csv", "no,header\n1,2\n", "no column of the contract is in the first line"),
    "labels without a key": ("labels.csv", "visit,bought\n1,1\n", "missing columns"),
    "cut off": ("fix.csv.gz", cut(), "fix.csv.gz"),
    "a header that is not of its encoding": ("fix.csv", b"\xff\xfe" + fix().encode(), "fix.csv"),
    "a manifest of nothing": ("none.csv.manifest.yaml", "replaces: true\n", "there is no file none.csv"),
}


def make(platform: Platform, *steps: str, of: list[date] | None = None) -> dict[str, dict[date, Any]]:
    """Run steps; the outcomes of the days."""
    chosen = of or JANUARY
    return {
        step: {day.day: day.outcome for day in platform.run(step, chosen).days}
        for step in steps or ("ards", "mrds")
    }


def add(platform: Platform, name: str, content: str | bytes, came: date = CAME) -> Path:
    return platform.deliver(MENDED, f"{came}T0600_{name}", content)


def contents(platform: Platform, *assets: str) -> dict[str, Any]:
    return {
        f"{asset} {day}": (record.outcome, record.reason, record.fingerprint, record.details.get("history"))
        for asset in assets or ("ards", "mrds")
        for day, record in platform.ledger.latest(asset).items()
    }


@pytest.mark.parametrize("kind", [kind for kind in UNREADABLE if "manifest" not in kind])
def test_a_model_of_before_stays_and_the_day_waits_for_the_file(
    kind: str, tmp_path: Path, spark: SparkSession
) -> None:
    name, content, says = UNREADABLE[kind]
    platform = Platform(settings_in(tmp_path / "live"), spark)
    deliver_visits(platform, JANUARY)
    make(platform)
    (model,) = platform.run("model", MONTH).days
    before = contents(platform)

    path = add(platform, name, content)
    outcomes = make(platform)
    assert outcomes["ards"] == dict.fromkeys(JANUARY, "written") | {MENDED: "blocked"}
    assert outcomes["mrds"][MENDED] == "held_back"
    (day,) = platform.run("ards", MENDED).days
    assert says in day.reason
    assert day.reason.endswith("it is known since 2024-02-20, and the day holds what was delivered before it")
    assert day.up_to_date
    assert day.failure is not None
    assert "Now: deliver that file again, or take it out of the day's folder" in day.failure
    assert not day.checks[0].passed
    with pytest.raises(LookupError, match="take it out of the day's folder"):
        accept(platform.ledger, MENDED, reason="it is fine", by="ann")

    (again,) = platform.run("model", MONTH).days
    assert again.fingerprint == model.fingerprint
    replay = Platform(settings_in(tmp_path / "replay"), spark)
    deliver_visits(replay, JANUARY)
    add(replay, name, content)
    make(replay)
    (trained,) = replay.run("model", MONTH).days
    assert trained.fingerprint == model.fingerprint
    assert contents(replay) == contents(platform)

    path.unlink()
    assert set(make(platform)["mrds"].values()) == {"written"}
    assert contents(platform) == before
    assert platform.run("model", MONTH).days[0].fingerprint == model.fingerprint
    assert len(ModelHistory(platform.tables, platform.product).models()) == 1


def test_what_can_be_read_of_no_morning_is_refused(platform: Platform) -> None:
    """Of the first morning all files have to be readable; so does one that comes with them."""
    platform.deliver(MENDED, "2024-01-11T0600_visits.csv", "no,header\n")
    assert make(platform, "ards", of=[MENDED])["ards"] == {MENDED: "refused"}
    deliver_visits(platform, [MENDED])  # of the same name
    assert make(platform, "ards", of=[MENDED])["ards"] == {MENDED: "written"}
    platform.deliver(MENDED, "2024-01-11T0700_more.csv", "no,header\n")
    assert make(platform, "ards", of=[MENDED])["ards"] == {MENDED: "refused"}
    kept = platform.rows("ards")
    assert len(kept) == 150


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", ["another header", "cut off"])
def test_however_days_are_written_what_came_before_is_kept(
    kind: str, carrier: str, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mornings can't be read; the rows are those of before the first, with an earlier correction."""
    name, content, _ = UNREADABLE[kind]
    carry_by(carrier, monkeypatch)
    platforms = []
    for with_bad in (False, True):
        platform = Platform(settings_in(tmp_path / str(with_bad)), spark)
        deliver_visits(platform, [MENDED], rows=12)
        few = visits(MENDED, rows=12).drop(columns="bought").head(3)
        add(platform, "fix.csv", few.to_csv(index=False), MENDED + 5 * DAY)
        if with_bad:
            add(platform, name, content)
            add(platform, f"again_{name}", content, CAME + DAY)
            add(platform, "later.csv", fix(), CAME + 2 * DAY)
        make(platform, of=[MENDED])
        platforms.append(platform)
    good, bad = platforms
    assert bad.rows("ards").equals(good.rows("ards"))
    record = bad.ledger.latest("ards")[MENDED]
    assert record.outcome == "blocked"
    assert [tuple(known[:3]) for known in record.details["history"]["mornings"]][-1] == (
        "2024-02-20",
        False,
        False,
    )
    assert record.counts["rows"] == good.ledger.latest("ards")[MENDED].counts["rows"]


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_delivery_that_replaces_the_day_ends_it(kind: str, tmp_path: Path, spark: SparkSession) -> None:
    """In between the day can't be used, whether the platform ran then or not."""
    name, content, _ = UNREADABLE[kind]
    end = CAME + 3 * DAY
    platforms = []
    for is_live in (True, False):
        platform = Platform(settings_in(tmp_path / str(is_live)), spark)
        deliver_visits(platform, [MENDED])
        if is_live:
            make(platform, of=[MENDED])
        path = add(platform, name, content)
        if is_live:
            outcomes = make(platform, of=[MENDED])
            assert outcomes == {"ards": {MENDED: "blocked"}, "mrds": {MENDED: "held_back"}}, kind
        if "manifest" in kind:
            path.unlink()  # there is no way to replace that
        add(platform, "again.csv", fix(), end)
        add(platform, "again.csv.manifest.yaml", "replaces: true\n", end)
        labels = kind == "labels without a key"
        if labels:
            path.unlink()
        outcomes = make(platform, of=[MENDED])
        platforms.append(platform)
        history = platform.ledger.latest("ards")[MENDED].details["history"]
        mornings = {known[0]: known[2] for known in history["mornings"]}
        if "manifest" not in kind and not labels:
            assert mornings == {"2024-01-11": True, "2024-02-20": False, str(end): True}, json.dumps(history)
    live, replay = platforms
    assert contents(live) == contents(replay)


# -- beside what people decide ---------------------------------------------------------------------------

LIMIT = {"spend": {"maximum": 1000}}
OF_MRDS = [
    {
        "on": "mrds",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": column, "max_value": most},
    }
    for column, most in (("spend", 1000), ("pages", 500))
]
NO_HEADER = "no,header\n1,2\n"


def few(count: int) -> str:
    rows = visits(MENDED, rows=12).drop(columns="bought").head(count)
    text: str = rows.assign(spend=7.5).to_csv(index=False)
    return text


def cut_in_the_middle() -> bytes:
    """Its head can be read, and its end can't."""
    header, rows = few(5).split("\n", 1)
    return gzip.compress(f"{header}\n{rows * 20000}".encode())[:-20]


def begin(platform: Platform, spend: float | None = None) -> None:
    frame = visits(MENDED, rows=12)
    rows = frame.drop(columns="bought")
    if spend is not None:
        rows = rows.assign(spend=spend)
    platform.deliver(MENDED, "2024-01-11T0600_visits.csv", rows.to_csv(index=False))
    labels = frame[["visit", "day", "bought"]]
    platform.deliver(MENDED, "2024-01-12T0600_labels.csv", labels.to_csv(index=False))
    make(platform, of=[MENDED])


def replace_on(platform: Platform, on: str = "2024-01-25") -> None:
    add(platform, "again.csv", few(6), D(on))
    add(platform, "again.csv.manifest.yaml", "replaces: true\n", D(on))
    make(platform, of=[MENDED])


def mornings(platform: Platform) -> str:
    """By day of January, whether the day could be used from that morning on."""
    history = platform.ledger.latest("ards")[MENDED].details["history"]
    return " ".join(f"{known[0][8:]}{'T' if known[2] else 'F'}" for known in history["mornings"])


def served(platform: Platform) -> int:
    """How many rows are kept of what was served before."""
    history = platform.ledger.latest("mrds")[MENDED].details.get("history") or {}
    return int(history.get("versions", 0))


@pytest.mark.parametrize("what", ["another one", "replaced", "taken away"])
def test_what_a_person_accepted_before_stays_accepted(platform: Platform, what: str) -> None:
    platform.product = shop(validation__ranges=LIMIT)
    begin(platform, spend=2000)
    accept(platform.ledger, MENDED, reason="so it was", by="ann", on=D("2024-01-15"))
    make(platform, of=[MENDED])
    before = contents(platform)
    path = add(platform, "a.csv", NO_HEADER, D("2024-01-20"))
    make(platform, of=[MENDED])
    assert (mornings(platform), served(platform)) == ("11F 15T 20F", 12)
    match what:
        case "another one":
            add(platform, "b.csv", NO_HEADER, D("2024-01-22"))
            make(platform, of=[MENDED])
            assert (mornings(platform), served(platform)) == ("11F 15T 20F", 12)
            replace_on(platform)
            assert mornings(platform) == "11F 15T 20F 22F 25T"
        case "replaced":
            replace_on(platform)
            assert mornings(platform) == "11F 15T 20F 25T"
        case _:
            path.unlink()
            make(platform, of=[MENDED])
            assert contents(platform) == before


@pytest.mark.parametrize("came", ["2024-01-20", "2024-01-13"])
def test_what_was_served_before_a_rejection_stays(platform: Platform, came: str) -> None:
    begin(platform)
    reject(platform.tables, platform.product, MENDED, reason="x", by="bob", on=D("2024-01-15"))
    make(platform, of=[MENDED])
    add(platform, "a.csv", NO_HEADER, D(came))
    make(platform, of=[MENDED])
    wanted = {"2024-01-20": "11T 15F 20F", "2024-01-13": "11T 13F 15F"}[came]
    assert (mornings(platform), served(platform)) == (wanted, 12)
    replace_on(platform)
    assert mornings(platform) == f"{wanted} 25T"
    assert served(platform) == 12 + 6


def test_one_that_was_to_be_replaced_in_vain_counts_since_it_came(platform: Platform) -> None:
    begin(platform)
    add(platform, "a.csv", NO_HEADER, D("2024-01-15"))
    make(platform, of=[MENDED])
    assert mornings(platform) == "11T 15F"
    add(platform, "b.csv.gz", cut_in_the_middle(), D("2024-01-20"))
    add(platform, "b.csv.gz.manifest.yaml", "replaces: true\n", D("2024-01-20"))
    make(platform, of=[MENDED])
    assert mornings(platform) == "11T 15F"
    replace_on(platform)
    assert mornings(platform) == "11T 15F 20F 25T"


def test_a_rule_that_goes_counts_for_what_came_before(platform: Platform) -> None:
    platform.product = shop(validation__ranges=LIMIT)
    begin(platform, spend=2000)
    add(platform, "a.csv", NO_HEADER, D("2024-01-20"))
    make(platform, of=[MENDED])
    assert (mornings(platform), served(platform)) == ("11F 20F", 0)
    platform.product = shop()
    make(platform, of=[MENDED])
    assert (mornings(platform), served(platform)) == ("11T 20F", 12)


@pytest.mark.parametrize("what", ["another rule", "held back"])
def test_what_a_person_accepted_in_the_mrds_is_remembered(platform: Platform, what: str) -> None:
    platform.product = shop(validation__expectations=OF_MRDS[:1])
    begin(platform, spend=2000)
    accept(platform.ledger, MENDED, reason="so it was", by="ann", on=D("2024-01-15"))
    make(platform, of=[MENDED])
    if what == "another rule":
        platform.product = shop(validation__expectations=OF_MRDS)
        make(platform, of=[MENDED])
    else:
        add(platform, "a.csv", NO_HEADER, D("2024-01-20"))
        make(platform, of=[MENDED])
        assert served(platform) == 12
    replace_on(platform)
    assert served(platform) == 12 + 6
    replace_on(platform, "2024-01-30")
    assert served(platform) >= 12 + 6 + 6
