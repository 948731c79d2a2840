"""The ARDS against pandas on the same files, and the figures that account for every record."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import load_product
from ml_platform.samples import customers
from ml_platform.settings import PACKAGE
from ml_platform_tests.small_platform import CARRIERS, D, Platform, carry_by, days

HEADER = "visit,day,customer,spend,pages,channel\n"


def figures(platform: Platform, day: date) -> dict[str, int]:
    counts = platform.ledger.latest("ards")[day].counts
    parts = ("rows", "superseded", "labels_applied", "labels_not_yet", "quarantined")
    assert counts["delivered"] == sum(counts[name] for name in parts)
    return counts


def test_the_latest_row_of_a_key_wins_within_and_across_files(platform: Platform) -> None:
    platform.deliver("2024-01-01", "b.csv", HEADER + "1,2024-01-01,ann,5,1,app\n")
    platform.deliver(
        "2024-01-01",
        "a.csv",
        HEADER + "1,2024-01-01,ann,1,1,web\n2,2024-01-01,bob,2,1,web\n2,2024-01-01,bob,3,1,web\n",
    )
    platform.run("ards", "2024-01-01")
    rows = platform.rows("ards", ["visit"])
    assert list(rows["spend"]) == [5.0, 3.0]
    counts = figures(platform, D("2024-01-01"))
    assert (counts["delivered"], counts["rows"], counts["superseded"]) == (4, 2, 2)


def test_a_label_file_fills_labels_and_supersedes_nothing(platform: Platform) -> None:
    platform.deliver(
        "2024-01-01",
        "2024-01-02T06_rows.csv",
        HEADER + "1,2024-01-01,ann,1,1,web\n2,2024-01-01,bob,2,1,web\n",
    )
    platform.deliver(
        "2024-01-01", "2024-01-03T06_labels.csv", "visit,day,bought\n1,2024-01-01,0\n9,2024-01-01,1\n"
    )
    platform.deliver(
        "2024-01-01", "2024-01-05T06_labels.csv", "visit,day,bought\n1,2024-01-01,1\n2,2024-01-01,1\n"
    )
    platform.run("ards", "2024-01-01")
    rows = platform.rows("ards", ["visit"])
    assert list(rows["bought"]) == [1, 1]
    assert list(rows["label_known_on"]) == [D("2024-01-05"), D("2024-01-05")]
    assert list(rows["customer"]) == ["ann", "bob"]
    counts = figures(platform, D("2024-01-01"))
    assert (counts["labels_applied"], counts["superseded"], counts["quarantined"]) == (2, 1, 1)
    (orphan,) = platform.rows("quarantine").to_dict("records")
    assert (orphan["file"], orphan["line"], orphan["raw"], orphan["reason"]) == (
        "2024-01-03T06_labels.csv",
        3,
        "9,2024-01-01,1",
        "label without a row",
    )


@pytest.mark.parametrize("carrier", CARRIERS)
def test_labels_that_are_empty_yet_are_counted_and_block_nothing(
    platform: Platform, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_by(carrier, monkeypatch)
    day = D("2024-01-01")
    rows = "".join(f"{n},{day},c{n},1,1,web\n" for n in range(10))
    platform.deliver(day, "2024-01-02T06_rows.csv", HEADER + rows)
    # All keys, three labels known; one label file later has taken back none of them.
    first = "".join(f"{n},{day},{n % 2 if n < 3 else ''}\n" for n in range(10))
    platform.deliver(day, "2024-01-03T06_labels.csv", "visit,day,bought\n" + first + f"99,{day},\nx,{day},\n")
    platform.deliver(day, "2024-01-04T06_labels.csv", f"visit,day,bought\n0,{day},\n5,{day},1\n")
    (done,) = platform.run("ards", day).days
    counts = figures(platform, day)
    assert done.outcome == "written"
    assert (counts["delivered"], counts["rows"], counts["labelled"]) == (24, 10, 4)
    assert (counts["labels_applied"], counts["labels_not_yet"]) == (4, 9)
    assert list(platform.rows("quarantine")["reason"]) == ["unparseable value in visit: 'x' is not a long"]
    found = platform.rows("ards", ["visit"])
    assert [None if value != value else value for value in found["bought"]][:6] == [0, 1, 0, None, None, 1]


def test_a_label_delivered_again_stays_known_since_its_first_day(platform: Platform) -> None:
    platform.deliver("2024-01-01", "2024-01-02T06_rows.csv", HEADER + "1,2024-01-01,ann,1,1,web\n")
    for day in ("2024-01-03", "2024-01-09"):
        platform.deliver("2024-01-01", f"{day}T06_labels.csv", "visit,day,bought\n1,2024-01-01,1\n")
    platform.run("ards", "2024-01-01")
    assert list(platform.rows("ards")["label_known_on"]) == [D("2024-01-03")]


def test_a_correction_without_a_label_keeps_the_label(platform: Platform) -> None:
    header = HEADER.strip() + ",bought\n"
    platform.deliver("2024-01-01", "2024-01-03T06_rows.csv", header + "1,2024-01-01,ann,1,1,web,1\n")
    platform.deliver("2024-01-01", "2024-01-04T06_rows.csv", header + "1,2024-01-01,ann,7,1,web,\n")
    platform.run("ards", "2024-01-01")
    (row,) = platform.rows("ards").to_dict("records")
    assert (row["spend"], row["bought"], row["label_known_on"]) == (7.0, 1, D("2024-01-03"))


def test_a_mended_delivery_clears_the_quarantine(platform: Platform) -> None:
    platform.deliver("2024-01-01", "a.csv", HEADER + "x,2024-01-01,ann,1,1,web\n2,2024-01-01,bob,1,1,web\n")
    platform.run("ards", "2024-01-01")
    assert len(platform.rows("quarantine")) == 1
    platform.deliver("2024-01-01", "a.csv", HEADER + "1,2024-01-01,ann,1,1,web\n2,2024-01-01,bob,1,1,web\n")
    platform.run("ards", "2024-01-01")
    assert len(platform.rows("quarantine")) == 0
    assert len(platform.rows("ards")) == 2


@pytest.mark.slow
def test_a_file_that_breaks_off_refuses_its_day_and_keeps_the_tables(platform: Platform) -> None:
    import gzip

    good = HEADER + "1,2024-01-01,ann,1,1,web\n"
    platform.deliver("2024-01-01", "a.csv", good)
    platform.deliver("2024-01-02", "a.csv", good.replace("2024-01-01", "2024-01-02"))
    chosen = days("2024-01-01", "2024-01-02")
    platform.run("ards", chosen)
    draw = np.random.default_rng(1)
    lines = "".join(f"{n},2024-01-01,c{draw.integers(1 << 40)},1,1,web\n" for n in range(3000))
    platform.deliver("2024-01-01", "b.csv.gz", gzip.compress((HEADER + lines).encode())[:-500])
    platform.deliver("2024-01-02", "b.csv", HEADER + "2,2024-01-02,bob,1,1,web\n")
    first, second = platform.run("ards", chosen).days
    assert first.outcome == "refused"
    assert "b.csv.gz: can't be read to its end" in first.reason
    assert second.outcome == "written"
    assert platform.rows("ards").groupby("event_day").size().to_dict() == {chosen[0]: 1, chosen[1]: 2}


@pytest.mark.parametrize(
    ("seed", "carrier"), [(1, "tasks"), (1, "buckets"), (2, "buckets"), (1, "buckets of Spark"), (1, "Spark")]
)
def test_random_deliveries_give_what_pandas_gives(
    platform: Platform, seed: int, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_by(carrier, monkeypatch)
    draw = np.random.default_rng(seed)
    day = D("2024-01-05")
    frames, labels = [], []
    for n in range(3):
        rows = int(draw.integers(50, 150))
        frame = pd.DataFrame(
            {
                "visit": draw.integers(0, 120, rows),
                "day": str(day),
                "customer": [f"c{c}" for c in draw.integers(0, 30, rows)],
                "spend": draw.normal(10, 3, rows).round(2),
                "pages": draw.integers(1, 9, rows),
                "channel": draw.choice(["web", "app", "other"], rows),
            }
        )
        platform.deliver(day, f"2024-01-06T060{n}_rows.csv", frame.to_csv(index=False))
        frames.append(frame)
        label = pd.DataFrame({"visit": draw.choice(140, 60, replace=False), "day": str(day)})
        label["bought"] = draw.integers(0, 2, 60)
        platform.deliver(day, f"2024-01-0{7 + n}T0600_labels.csv", label.to_csv(index=False))
        labels.append(label.assign(known=day + timedelta(days=2 + n)))
    platform.run("ards", day)

    delivered = pd.concat(frames, ignore_index=True)
    expected = delivered.drop_duplicates("visit", keep="last").set_index("visit").sort_index()
    every = pd.concat(labels, ignore_index=True)
    last = every.drop_duplicates("visit", keep="last").set_index("visit")["bought"]
    known = every[every["bought"] == every["visit"].map(last)].groupby("visit")["known"].min()
    found = platform.rows("ards", ["visit"]).set_index("visit")
    assert list(found.index) == list(expected.index)
    for name in ("customer", "spend", "pages", "channel"):
        assert list(found[name]) == list(expected[name])
    assert found["bought"].astype("Int64").equals(last.reindex(found.index).astype("Int64"))
    assert [k for k in found["label_known_on"] if k is not None] == list(known.reindex(found.index).dropna())

    counts = figures(platform, day)
    with_row = every["visit"].isin(expected.index)
    assert counts["delivered"] == len(delivered) + len(every)
    assert counts["rows"] == len(expected)
    assert counts["labels_applied"] == every[with_row]["visit"].nunique()
    assert counts["quarantined"] == (~with_row).sum()
    assert len(platform.rows("quarantine")) == counts["quarantined"]


def test_a_sample_is_accounted_for_to_the_record(platform: Platform, spark: SparkSession) -> None:
    product = load_product(PACKAGE / "products" / "customers.yaml")
    sample = Platform(platform.settings, spark, product)
    chosen = DayRange(D("2022-03-01"), D("2022-03-03"))
    flaws = customers.Flaws(duplicates=0.05, corrections=0.05, late_labels=0.05, bad_rows=0.03)
    accounts = customers.land(product, sample.settings.landing_path, chosen, rows_per_day=400, flaws=flaws)
    sample.run("ards", chosen)
    sample.run("mrds", chosen)
    quarantine = sample.rows("quarantine")
    for account in accounts:
        counts = figures(sample, account.day)
        assert counts["delivered"] == account.delivered
        assert counts["rows"] == account.rows
        assert counts["superseded"] == account.superseded
        assert counts["labels_applied"] == account.labels
        assert counts["quarantined"] == account.bad.total()
        reasons = quarantine[quarantine["event_day"] == account.day]["reason"]
        for kind, count in account.bad.items():
            assert reasons.str.startswith(kind).sum() == count
        mrds = sample.ledger.latest("mrds")[account.day].counts
        assert (mrds["rows"], mrds["positives"]) == (account.customers, account.positives)
