"""The online store holds each entity's newest row of the MRDS, in whatever order days are published."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tenacity

from ml_platform.data_engineering import buckets
from ml_platform.online_store import publish
from ml_platform.online_store.store import OnlineStore
from ml_platform.spark.tasks import arrow_batches
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import DATA_STEPS, D, Platform, days, deliver_visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEADER = "visit,day,customer,spend,pages,channel\n"


@pytest.fixture
def platform(tmp_path: Path, spark: SparkSession, online_url: str) -> Platform:
    """An empty platform for each kind of online store."""
    return Platform(settings_in(tmp_path / "home", online_store_url=online_url), spark)


def stored(platform: Platform) -> list[tuple[Any, ...]]:
    rows = OnlineStore(platform.settings.online_url).rows(platform.product)
    return [(row["customer"], row["event_day"], row["spend"]) for row in rows]


def newest(platform: Platform) -> list[tuple[Any, ...]]:
    mrds = platform.rows("mrds").sort_values(["customer", "event_day"])
    last = mrds.drop_duplicates("customer", keep="last")
    return [(row.customer, row.event_day, row.spend) for row in last.itertuples()]


def deliver(platform: Platform, day: str, *customers: str) -> None:
    lines = [f"{n},{day},{name},{date.fromisoformat(day).day}.0,1,web\n" for n, name in enumerate(customers)]
    platform.deliver(day, "a.csv", HEADER + "".join(lines))


def test_backfilling_an_old_day_keeps_newer_features(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-05")
    deliver_visits(platform, chosen, rows=40, customers=30)
    for step in DATA_STEPS:
        platform.run(step, chosen)
    expected = newest(platform)
    assert stored(platform) == expected
    for day in (chosen[0], chosen[2]):
        (done,) = platform.run("online_features", day, force=True).days
        assert done.metadata["entities_older_and_kept"] > 0
        assert done.metadata["entities_in_store"] == len(expected)
        assert done.metadata["newest_day"] == "2024-01-05"
    assert stored(platform) == expected


@pytest.mark.slow
def test_days_in_any_order_give_the_same_store(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 500)
    chosen = days("2024-01-01", "2024-01-05")
    deliver_visits(platform, chosen, rows=40, customers=30)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    for day in (chosen[3], chosen[0], chosen[4], chosen[1], chosen[2]):
        platform.run("online_features", day)
    assert stored(platform) == newest(platform)


@pytest.mark.parametrize("by_spark", [False, True])
def test_a_range_publishes_each_entity_once_and_reads_rows_back(
    platform: Platform, by_spark: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_spark:
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 1500)
    chosen = days("2024-01-01", "2024-01-05")
    deliver_visits(platform, chosen, rows=40, customers=30)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    *before, done = platform.run("online_features", chosen).days
    assert not any("entities_published" in day.metadata for day in before), "it is one publication"
    entities = len(newest(platform))
    assert stored(platform) == newest(platform)
    assert done.metadata["entities_published"] == entities
    assert done.metadata["entities_older_and_kept"] == 0
    assert 0 < done.metadata["rows_compared"] <= entities
    assert done.metadata["rows_per_second"] > 0


@pytest.mark.slow
def test_an_entity_that_a_correction_takes_from_a_day_falls_back_or_goes(platform: Platform) -> None:
    deliver(platform, "2024-01-01", "ann", "bob")
    deliver(platform, "2024-01-02", "ann", "bob", "eve")
    chosen = days("2024-01-01", "2024-01-02")
    for step in DATA_STEPS:
        platform.run(step, chosen)
    deliver(platform, "2024-01-02", "bob")
    for step in DATA_STEPS:
        result = platform.run(step, "2024-01-02")
    assert result.days[0].metadata["entities_withdrawn"] == 2
    assert stored(platform) == [("ann", D("2024-01-01"), 1.0), ("bob", D("2024-01-02"), 2.0)]


def test_a_forgotten_entity_is_not_published_again(platform: Platform) -> None:
    deliver(platform, "2024-01-01", "ann", "bob")
    for step in DATA_STEPS:
        platform.run(step, "2024-01-01")
    store = OnlineStore(platform.settings.online_url)
    assert store.forget(platform.product, [["ann"]], reason="asked") == 1
    (done,) = platform.run("online_features", "2024-01-01", force=True).days
    assert done.metadata["entities_forgotten"] == 1
    assert stored(platform) == [("bob", D("2024-01-01"), 1.0)]


def test_labels_are_never_published(platform: Platform) -> None:
    deliver_visits(platform, [D("2024-01-01")], rows=5)
    for step in DATA_STEPS:
        platform.run(step, "2024-01-01")
    (row, *_) = OnlineStore(platform.settings.online_url).rows(platform.product)
    assert "bought" not in row
    assert row["mrds_version"] == 0


def test_rows_come_in_arrow_batches_whatever_the_partitions(platform: Platform) -> None:
    frame = platform.spark.range(25_000, numPartitions=3).withColumnRenamed("id", "a")
    batches = list(arrow_batches(frame))
    assert max(batch.num_rows for batch in batches) <= 10_000
    assert sorted(value for batch in batches for value in batch.column("a").to_pylist()) == list(
        range(25_000)
    )


def test_an_mrds_that_was_made_anew_is_refused_with_what_to_do(platform: Platform) -> None:
    deliver(platform, "2024-01-01", "ann")
    for step in DATA_STEPS:
        platform.run(step, "2024-01-01")
    store = OnlineStore(platform.settings.online_url)
    with store.publication(platform.product, version=9, days=[D("2024-01-01")]) as publication:
        publication.merge()
    seen: list[str] = []
    with pytest.raises(Exception, match="If the MRDS was made anew, drop the tables shop_features"):
        published(platform, seen)
    assert len(seen) == publish.ATTEMPTS - 1


def published(platform: Platform, log: list[str]) -> publish.Published:
    """Publish 2024-01-01 without waiting between attempts."""
    return publish.publish(
        lambda: platform.spark,
        platform.product,
        platform.tables,
        OnlineStore(platform.settings.online_url),
        [D("2024-01-01")],
        [D("2024-01-01")],
        rows=2,
        log=log.append,
        wait=tenacity.wait_none(),
    )
