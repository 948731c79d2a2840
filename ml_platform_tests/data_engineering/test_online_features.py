"""The online store holds each entity's newest row of the MRDS, in whatever order days are published."""

from __future__ import annotations

from datetime import date
from typing import Any

from ml_platform.storage.online import OnlineStore
from ml_platform_tests.small_platform import DATA_STEPS, D, Platform, days, deliver_visits

HEADER = "visit,day,customer,spend,pages,channel\n"


def stored(platform: Platform) -> list[tuple[Any, ...]]:
    rows = OnlineStore(platform.settings.online_url).rows(platform.product)
    return [(row["customer"], row["event_day"], row["spend"]) for row in rows]


def newest(platform: Platform) -> list[tuple[Any, ...]]:
    mrds = platform.rows("mrds").sort_values(["customer", "event_day"])
    last = mrds.drop_duplicates("customer", keep="last")
    return [(row.customer, row.event_day, row.spend) for row in last.itertuples()]


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
    assert stored(platform) == expected


def test_days_in_any_order_give_the_same_store(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-05")
    deliver_visits(platform, chosen, rows=40, customers=30)
    for step in ("ards", "mrds"):
        platform.run(step, chosen)
    for day in (chosen[3], chosen[0], chosen[4], chosen[1], chosen[2]):
        platform.run("online_features", day)
    assert stored(platform) == newest(platform)


def test_an_entity_that_a_correction_takes_from_a_day_falls_back_or_goes(platform: Platform) -> None:
    def deliver(day: str, *customers: str) -> None:
        lines = [
            f"{n},{day},{name},{date.fromisoformat(day).day}.0,1,web\n" for n, name in enumerate(customers)
        ]
        platform.deliver(day, "a.csv", HEADER + "".join(lines))

    deliver("2024-01-01", "ann", "bob")
    deliver("2024-01-02", "ann", "bob", "eve")
    chosen = days("2024-01-01", "2024-01-02")
    for step in DATA_STEPS:
        platform.run(step, chosen)
    deliver("2024-01-02", "bob")
    for step in DATA_STEPS:
        result = platform.run(step, "2024-01-02")
    assert result.days[0].metadata["entities_withdrawn"] == 2
    assert stored(platform) == [("ann", D("2024-01-01"), 1.0), ("bob", D("2024-01-02"), 2.0)]


def test_labels_are_never_published(platform: Platform) -> None:
    deliver_visits(platform, [D("2024-01-01")], rows=5)
    for step in DATA_STEPS:
        platform.run(step, "2024-01-01")
    (row, *_) = OnlineStore(platform.settings.online_url).rows(platform.product)
    assert "bought" not in row
    assert row["mrds_version"] == 0
