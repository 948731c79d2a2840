"""Days in many buckets: what no task can hold, and what isn't as large as it seems or larger."""

from __future__ import annotations

import pytest

from ml_platform.data_engineering import buckets
from ml_platform_tests.small_platform import D, Platform, carry_by, shop

DAY = D("2024-01-02")
HEADER = "visit,day,customer,spend,pages,channel\n"


@pytest.mark.parametrize("sensitive", [False, True])
@pytest.mark.parametrize("carrier", ["buckets", "buckets of Spark"])
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
