"""Days in many buckets: what no task can hold, and what isn't as large as it seems or larger."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ml_platform.contract.product import Product
from ml_platform.data_engineering import ards, ards_in_tasks, buckets, landing
from ml_platform.data_engineering.ards_in_tasks import Places
from ml_platform.data_engineering.day_statistics import Counted, Counting
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.resolution import Account
from ml_platform.data_engineering.row_versions import DayHistory
from ml_platform.mlops.quality import profiles
from ml_platform.spark import tasks
from ml_platform.storage.day_files import DayFiles
from ml_platform_tests.small_platform import D, Platform, carry_by, shop
from ml_platform_tests.tasks_here import TasksHere

DAY = D("2024-01-02")
HEADER = "visit,day,customer,spend,pages,channel\n"


@dataclass(frozen=True)
class Made:
    """What tasks have made of a delivery."""

    account: Account
    counted: Counted
    rows: str
    quarantine: str
    versions: str
    history: DayHistory | None
    files: int


def made(delivery: Delivery, product: Product, home: Path) -> Made:
    places = Places(*(DayFiles(str(home / name)) for name in ("rows", "quarantine", "versions")))
    counting = Counting(
        product.label, ards.columns(product), statistics=profiles.ProfileStatistics(product, "ards")
    )
    here: Any = TasksHere
    done = ards_in_tasks.write(here, product, [delivery], places, counting)[delivery.day]
    assert done.refusal is None
    found = {}
    written = {"rows": done.rows, "quarantine": done.quarantine, "versions": done.versions}
    for name, files in written.items():
        tables = [pq.read_table(home / name / file.path, partitioning=None) for file in files]
        found[name] = sorted(map(repr, (row for table in tables for row in table.to_pylist())))
    assert not list((home / "rows").glob("_*")), "files on the way are gone"
    counted = counting.of_parts(done.parts)
    history = DayHistory.of(done.histories, counting)
    if history is not None:
        history = replace(history, earlier=tuple(plain(product, one) for one in history.earlier))
    texts = [str(found[name]) for name in written]
    return Made(done.account, plain(product, counted), *texts, history, len(done.rows))


def plain(product: Product, counted: Counted) -> Counted:
    """What was counted, with the figures that people see."""
    figures = profiles.profile(product, "ards", counted.rows, counted.statistics).plain()
    return replace(counted, statistics=figures)


def delivery_of(root: Path, product: Product, *, rows: int, keys: int, seed: int) -> Delivery:
    """Rows, corrections and labels of a day, in plain, quoted and packed files, some of them unusable."""
    draw = np.random.default_rng(seed)
    folder = root / product.name / str(DAY)
    folder.mkdir(parents=True)

    def lines(count: int, quote: str = "") -> str:
        found = []
        for _ in range(count):
            visit = "x" if draw.random() < 0.02 else draw.integers(0, keys)
            customer = f"{quote}c{draw.integers(0, 9)}{quote}"
            found.append(f"{visit},{DAY},{customer},{draw.normal():.4f},{draw.integers(1, 9)},web\n")
        return "".join(found)

    def labels(count: int) -> str:
        return "".join(
            f"{draw.integers(0, keys + keys // 5)},{DAY},{draw.choice(['', '0', '1'])}\n"
            for _ in range(count)
        )

    (folder / "2024-01-03T0600_a.csv").write_text(HEADER + lines(rows))
    (folder / "2024-01-03T0700_b.csv").write_text(HEADER + lines(rows // 3, '"'))
    (folder / "2024-01-04T0600_labels.csv").write_text("visit,day,bought\n" + labels(rows))
    (folder / "2024-01-05T0600_c.csv.gz").write_bytes(gzip.compress((HEADER + lines(rows // 3)).encode()))
    (folder / "2024-01-06T0600_labels.csv").write_text("visit,day,bought\n" + labels(rows))
    return landing.scan(product, root, [DAY])[DAY]


@pytest.mark.parametrize(("rows", "keys", "most"), [(150, 100, 5000), (200, 3, 60_000)])
def test_a_day_is_the_same_in_however_many_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, keys: int, most: int
) -> None:
    monkeypatch.setattr(tasks, "spare_next_task", lambda: None)
    product = shop()
    delivery = delivery_of(tmp_path / "landing", product, rows=rows, keys=keys, seed=rows)
    whole = made(delivery, product, tmp_path / "whole")
    assert whole.files == 1
    assert whole.account.quarantined > 3
    assert whole.account.labels_not_yet > 3
    assert whole.history is not None
    assert len(whole.history.earlier) == 1
    assert whole.history.versions > 2 * min(keys, 5) - 1
    counts = []
    # Buckets, bytes that a task holds, and bytes of a piece: also buckets that are divided once more, a day
    # that is larger than it seems, and many small buckets.
    for number, (bucket, held, piece) in enumerate(
        [(10_000, 1 << 30, 1000), (10_000, most, 1 << 20), (1 << 30, 2 * most, 500), (500, 1 << 30, 300)]
    ):
        monkeypatch.setattr(buckets, "BUCKET_BYTES", bucket)
        monkeypatch.setattr(buckets, "HELD_BYTES", held)
        monkeypatch.setattr(buckets, "PIECE_BYTES", piece)
        found = made(delivery, product, tmp_path / str(number))
        assert replace(found, files=1) == whole
        counts.append(found.files)
    assert counts[3] > 1
    assert keys < 10 or (counts[1] > counts[0] > 1 and counts[2] > 1)


def test_a_key_with_more_labels_than_a_task_holds_refuses_its_day_and_one_with_more_rows_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "spare_next_task", lambda: None)
    product = shop()
    folder = tmp_path / "landing" / "shop" / str(DAY)
    folder.mkdir(parents=True)
    (folder / "2024-01-03T0600_a.csv").write_text(HEADER + f"1,{DAY},ann,1,1,web\n")
    (folder / "2024-01-04T0600_labels.csv").write_text("visit,day,bought\n" + f"7,{DAY},1\n" * 3000)
    delivery = landing.scan(product, tmp_path / "landing", [DAY])[DAY]
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(buckets, "HELD_BYTES", 50_000)
    places = Places(*(DayFiles(str(tmp_path / name)) for name in ("rows", "quarantine", "versions")))
    here: Any = TasksHere
    done = ards_in_tasks.write(here, product, [delivery], places, Counting("bought", ards.columns(product)))
    refusal = done[DAY].refusal
    assert refusal is not None
    assert "more records of one key than a task can hold" in refusal.reason
    # Rows of one key take the room of one.
    (folder / "2024-01-03T0600_a.csv").write_text(HEADER + f"7,{DAY},ann,1,1,web\n" * 9000)
    (folder / "2024-01-04T0600_labels.csv").write_text("visit,day,bought\n" + f"7,{DAY},1\n" * 30)
    delivery = landing.scan(product, tmp_path / "landing", [DAY])[DAY]
    found = made(delivery, product, tmp_path / "again")
    assert found.counted.rows == 1
    assert found.account.delivered == 9030


@pytest.mark.parametrize(
    ("carrier", "sensitive"), [("buckets", False), ("buckets", True), ("buckets of Spark", False)]
)
def test_an_entity_that_no_task_can_hold_refuses_its_day_and_is_named(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, carrier: str, sensitive: bool
) -> None:
    product = shop(source__columns__customer={"type": "string", "sensitive": sensitive})
    beside = Platform(platform.settings, platform.spark, product)
    for day, heavy in ((D("2024-01-01"), 40), (DAY, 400)):
        customers = ["unknown"] * heavy + [f"c{n}" for n in range(30)]
        lines = [f"{n},{day},{customer},1.5,2,web\n" for n, customer in enumerate(customers)]
        beside.deliver(day, "a.csv", HEADER + "".join(lines))
    days = [D("2024-01-01"), DAY]
    beside.run("ards", days)
    carry_by(carrier, monkeypatch)
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1 << 10)
    monkeypatch.setattr(buckets, "HELD_BYTES", 10 << 10)
    good, bad = beside.run("mrds", days).days
    assert (good.outcome, bad.outcome) == ("written", "refused")
    assert "customer: at least " in bad.reason
    assert ("customer = •••" if sensitive else "customer = unknown") in bad.reason
    assert "mrds.entity" in bad.reason
    assert ("unknown" in bad.reason) is not sensitive
    rows = beside.rows("mrds")
    assert set(rows["event_day"]) == {days[0]}
    assert len(rows) == 31
    assert rows["visit"].max() == 40
