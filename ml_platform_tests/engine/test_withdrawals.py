"""Days that are withdrawn, and deliveries that replace what came before: nothing of what has gone stays."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable

from ml_platform.data_engineering import landing
from ml_platform.online_store.store import OnlineStore
from ml_platform.overview import history as overview
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
ALL = days("2024-01-18", "2024-02-05")
FEBRUARY = D("2024-02-01")
STEPS = (*DATA_STEPS, "predictions", "model_performance", "validation_report")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Platform:
    """Nineteen days with a model that serves from February on."""
    product = shop(evaluation__minimum_rows=1, drift={"minimum_rows": 500})
    platform = Platform(settings_in(tmp_path_factory.mktemp("withdrawals")), spark, product)
    deliver_visits(platform, ALL)
    for step in DATA_STEPS:
        platform.run(step, ALL)
    platform.run("model", [FEBRUARY])
    for step in STEPS:
        platform.run(step, ALL)
    return platform


def visits_in(platform: Platform) -> pd.DataFrame:
    """What lies in the landing folder, read by pandas."""
    folder = platform.settings.landing_path / "shop"
    return pd.concat([pd.read_csv(path) for path in sorted(folder.glob("*/*_visits.csv"))], ignore_index=True)


def check_agreement(platform: Platform) -> None:
    """Tables, store and ledger hold what is in the landing folder, and nothing else."""
    delivered = visits_in(platform)
    lying = sorted(D(day) for day in delivered["day"].unique())
    for asset in ("ards", "mrds", "online_features"):
        written = [day for day, one in platform.ledger.latest(asset).items() if one.outcome == "written"]
        assert written == lying, asset
    assert sorted(rows_of(platform, "ards")["visit"]) == sorted(delivered["visit"])
    entities = delivered[["customer", "day"]].drop_duplicates()
    expected = sorted(zip(entities["customer"], map(D, entities["day"]), strict=True))
    found = rows_of(platform, "mrds")
    assert sorted(zip(found["customer"], found["event_day"], strict=True)) == expected
    predictions = rows_of(platform, "predictions")
    of_february = [(who, day) for who, day in expected if day >= FEBRUARY]
    assert sorted(zip(predictions["customer"], predictions["event_day"], strict=True)) == of_february
    assert stored(platform) == entities.groupby("customer")["day"].max().to_dict()


def rows_of(platform: Platform, table: str) -> pd.DataFrame:
    """A whole table, without Spark."""
    frame: pd.DataFrame = DeltaTable(platform.tables.path("shop", table)).to_pyarrow_table().to_pandas()
    return frame


def stored(platform: Platform) -> Mapping[str, str]:
    """The day of each entity's features in the online store."""
    with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
        keys = [[f"c{n:04d}"] for n in range(400)]
        rows = store.get(platform.product, keys)
    return {str(row["customer"]): str(row["event_day"]) for row in rows if row is not None}


def test_what_was_made_of_a_withdrawn_day_goes_and_who_had_used_it_is_named(history: Platform) -> None:
    check_agreement(history)
    learned, newest, emptied, labels_left = map(D, ("2024-01-20", "2024-02-05", "2024-02-02", "2024-02-03"))
    gone = [learned, emptied, labels_left, newest]
    landed = history.settings.landing_path / "shop"
    kept = history.settings.home / "kept"
    for day in gone:
        shutil.copytree(landed / str(day), kept / str(day), copy_function=shutil.copy2)
    shutil.rmtree(landed / str(learned))
    shutil.rmtree(landed / str(newest))
    for path in (landed / str(emptied)).iterdir():
        path.unlink()
    (path,) = (landed / str(labels_left)).glob("*_visits.csv")
    path.unlink()
    before = history.fingerprints("ards", "mrds", "predictions")

    results = {step: history.run(step, ALL) for step in STEPS}
    check_agreement(history)
    for step in ("ards", "mrds", "online_features", "predictions"):
        outcomes = {day.day: day for day in results[step].days}
        assert [day for day in ALL if outcomes[day].outcome == "missing"] == gone, step
    metadata = {day.day: day.metadata for day in results["ards"].days}
    assert all(metadata[day]["withdrawn_rows"] == 150 for day in gone)
    used = metadata[learned]["no_longer_reproducible"]
    assert "the model as of 2024-02-01 (v1)" in used
    assert "validation_report of 17 from 2024-01-20 to 2024-02-05" in used
    after = history.fingerprints("ards", "mrds", "predictions")
    assert {key for key in after if after[key] != before.get(key) and key[1] not in gone} == set()

    (model,) = overview.models(history.product, history.settings)
    assert model.promoted
    assert "no longer reproducible: 2024-01-20" in model.reason
    assert "1 model that learned from 2024-01-20" in overview.not_reproducible(
        history.product, history.settings
    )

    history.sessions_asked_for = 0
    for step in DATA_STEPS:
        assert all(day.up_to_date for day in history.run(step, ALL).days)
    assert history.sessions_asked_for == 0

    # Asked for, the model is made of what there is now.
    history.run("model", [FEBRUARY])
    assert overview.not_reproducible(history.product, history.settings) == []
    assert "reproducible" not in overview.models(history.product, history.settings)[0].reason

    # What is delivered again is there again.
    for day in gone:
        shutil.rmtree(landed / str(day), ignore_errors=True)
        shutil.copytree(kept / str(day), landed / str(day), copy_function=shutil.copy2)
    for step in (*DATA_STEPS, "predictions"):
        history.run(step, ALL)
    check_agreement(history)
    assert history.fingerprints("ards", "mrds") == {k: v for k, v in before.items() if k[0] != "predictions"}


def test_a_landing_folder_that_is_not_there_withdraws_nothing(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-03")
    deliver_visits(platform, chosen, rows=5)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    folder = platform.settings.landing_path / "shop"
    folder.rename(folder.with_name("elsewhere"))
    found = platform.run("ards", chosen).days
    assert [day.outcome for day in found] == ["refused"] * 3
    assert "as if it weren't mounted" in found[0].reason
    assert [day.outcome for day in platform.run("mrds", chosen).days] == ["held_back"] * 3
    assert len(platform.rows("ards")) == 15
    folder.with_name("elsewhere").rename(folder)
    assert [day.outcome for day in platform.run("ards", chosen).days] == ["written"] * 3
    # One empty folder says that it is meant.
    for day in chosen:
        shutil.rmtree(folder / str(day))
    (folder / str(chosen[0])).mkdir()
    for step in ("ards", "mrds"):
        assert [day.outcome for day in platform.run(step, chosen).days] == ["missing"] * 3
        assert len(platform.rows(step)) == 0


def test_the_quarantine_of_a_withdrawn_day_goes_too(platform: Platform) -> None:
    for day in ("2024-01-01", "2024-01-02"):
        platform.deliver(day, "a.csv", HEADER + f"1,{day},ann,x,1,web\n2,{day},bob,1,1,web\n")
    platform.run("ards", ["2024-01-01", "2024-01-02"])
    assert len(platform.rows("quarantine")) == 2
    shutil.rmtree(platform.folder("2024-01-01"))
    platform.run("ards", "2024-01-01")
    assert [str(day) for day in platform.rows("quarantine")["event_day"]] == ["2024-01-02"]


# -- replacing ---------------------------------------------------------------------------------------

DAY = "2024-01-01"


def row(visit: int, customer: str, spend: float = 1) -> str:
    return f"{visit},{DAY},{customer},{spend},1,web\n"


def labels(**of: int) -> str:
    return "visit,day,bought\n" + "".join(f"{visit[1:]},{DAY},{value}\n" for visit, value in of.items())


@pytest.mark.slow
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_replacing_delivery_makes_the_day_what_it_says(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    carry_by(carrier, monkeypatch)
    platform.deliver(DAY, "2024-01-02T0600_a.csv", HEADER + row(1, "ann") + row(2, "bob") + "x,y\n")
    platform.deliver(DAY, "2024-01-02T0700_b.csv", HEADER + row(3, "cem") + row(1, "ann", 5))
    # Labels for a row that stays, one that goes, and one that never was.
    platform.deliver(DAY, "2024-01-03T0600_labels.csv", labels(v1=1, v2=0, v9=1))
    platform.deliver(DAY, "2024-01-04T0600_rows.csv", HEADER + row(1, "ann", 7) + row(4, "dan"))
    (plain,) = platform.run("ards", DAY).days
    assert (plain.metadata["rows"], plain.metadata["delivered"], plain.metadata["quarantined"]) == (4, 10, 2)

    platform.deliver(DAY, "2024-01-04T0600_rows.csv.manifest.yaml", "replaces: true\n")
    platform.deliver(DAY, "2024-01-05T0600_labels.csv", labels(v4=0, v8=1))
    (day,) = platform.run("ards", DAY).days
    assert day.outcome == "written"
    rows = platform.rows("ards", ["visit"])
    assert list(rows["visit"]) == [1, 4]
    assert list(rows["spend"]) == [7.0, 1.0]
    assert list(rows["bought"]) == [1, 0]
    assert [str(known) for known in rows["label_known_on"]] == ["2024-01-03", "2024-01-05"]
    counts = {name: day.metadata[name] for name in ("delivered", "rows", "labels_applied", "quarantined")}
    assert counts == {"delivered": 12, "rows": 2, "labels_applied": 2, "quarantined": 1}
    # Five records of replaced files, and the labels before it whose rows it took away.
    assert day.metadata["superseded"] == 7
    assert list(platform.rows("quarantine")["reason"]) == ["label without a row"]
    assert platform.rows("quarantine")["raw"][0].startswith("8,")

    assert platform.run("ards", DAY).days[0].up_to_date
    platform.deliver(DAY, "2024-01-04T0600_rows.csv.manifest.yaml", "replaces: false\n")
    (again,) = platform.run("ards", DAY).days
    assert (again.up_to_date, again.metadata["rows"]) == (False, 4)


def test_features_predictions_and_store_follow_a_replacing_delivery(platform: Platform) -> None:
    before, day = "2024-01-01", "2024-01-02"
    platform.deliver(before, "a.csv", HEADER + f"1,{before},ann,1,1,web\n")
    platform.deliver(
        day, "a.csv", HEADER + f"2,{day},ann,2,1,web\n3,{day},bob,3,1,web\n4,{day},cem,4,1,web\n"
    )
    for step in DATA_STEPS:
        platform.run(step, [before, day])
    platform.deliver(day, "b.csv", HEADER + f"4,{day},cem,9,1,web\n")
    platform.deliver(day, "b.csv.manifest.json", '{"replaces": true}')
    for step in DATA_STEPS:
        platform.run(step, [before, day])
    mrds = platform.rows("mrds", ["event_day", "customer"])
    assert list(zip(mrds["customer"], mrds["spend"], strict=True)) == [("ann", 1.0), ("cem", 9.0)]
    with contextlib.closing(OnlineStore(platform.settings.online_url)) as store:
        ann, bob, cem = store.get(platform.product, [["ann"], ["bob"], ["cem"]])
    assert ann is not None
    assert (str(ann["event_day"]), ann["spend"]) == (before, 1.0)
    assert bob is None
    assert cem is not None
    assert cem["spend"] == 9.0


def test_a_replaced_file_may_be_broken(platform: Platform) -> None:
    platform.deliver(DAY, "a.csv", "no;header\nof;this\n")
    platform.deliver(DAY, "b.csv", "")
    platform.deliver(DAY, "c.csv", HEADER + row(1, "ann"))
    assert platform.run("ards", DAY).days[0].outcome == "refused"
    platform.deliver(DAY, "c.csv.manifest.yml", "replaces: true")
    (day,) = platform.run("ards", DAY).days
    assert (day.outcome, day.metadata["delivered"]) == ("written", 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv.manifest.yaml", "replaces: perhaps", "accepted is one line: `replaces: true`"),
        ("a.csv.manifest.yaml", "replace: true", "accepted is one line"),
        ("a.csv.manifest.yaml", "", "accepted is one line"),
        ("a.csv.manifest.yaml", "replaces: [", "it is no YAML in UTF-8"),
        ("a.csv.manifest.yaml", "[" * 10_000, "it is no YAML in UTF-8"),
        ("a.csv.manifest.yaml", b"\xff\xfe\x00", "it is no YAML in UTF-8"),
        ("a.csv.manifest.yaml", "#" * 20_000, "more than 16,384 bytes"),
        ("a.csv.manifest.yaml", "replaces: true\nreplaces: false", "it is no YAML in UTF-8"),
        ("z.csv.manifest.yaml", "replaces: true", "there is no file z.csv beside it"),
        ("labels.csv.manifest.yaml", "replaces: true", "a file of labels can't replace a day's rows"),
    ],
)
def test_a_manifest_that_makes_no_sense_refuses_the_day(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    folder = tmp_path / "shop" / DAY
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text(HEADER + row(1, "ann"))
    (folder / "labels.csv").write_text(labels(v1=1))
    good = landing.scan(shop(), tmp_path, [D(DAY)])[D(DAY)]
    assert good.refusal is None
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = landing.scan(shop(), tmp_path, [D(DAY)])[D(DAY)]
    assert found.problem is not None
    assert name.partition(".manifest")[0] in found.problem
    assert reason in found.problem
    # Labels come the day after the rows.
    assert (found.unreadable is not None) == name.startswith("labels")
    assert found.stamp != good.stamp
    assert landing.stamp(shop(), tmp_path, D(DAY)) == found.stamp


def test_a_label_file_replaces_nothing_though_it_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / DAY
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text(labels(v1=1))
    (folder / "a.csv.manifest.yaml").write_text("replaces: true")
    (folder / "b.csv").write_text(HEADER + row(1, "ann"))
    found = landing.scan(shop(), tmp_path, [D(DAY)])[D(DAY)]
    assert found.problem is not None
    assert "a file of labels can't replace" in found.problem


def test_a_day_with_nothing_but_a_manifest_has_not_been_delivered(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / DAY
    folder.mkdir(parents=True)
    (folder / "a.csv.manifest.yaml").write_text("replaces: true")
    assert landing.scan(shop(), tmp_path, [D(DAY)]) == {}
