"""An asset is added by a row of the catalogue and a step: the two blocks of docs/architecture.md."""

from __future__ import annotations

import re
import shutil
import sys
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from ml_platform.build import build_definitions
from ml_platform.cli.backfill import Backfill
from ml_platform.contract import assets
from ml_platform.contract.assets import CATALOGUE, Asset
from ml_platform.contract.days import DayRange
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST, LAST = D("2024-01-01"), D("2024-01-04")
NAME = "day_totals"
SELECT = ("ards", "mrds", NAME)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Asset:
    """The asset of the documentation, in the catalogue before the model."""
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    row, step = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    asset = eval(row, vars(assets))
    module = ModuleType(asset.step.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(step, module.__name__, "exec"), vars(module))
    rows = dict(CATALOGUE)
    for name in list(rows):
        monkeypatch.delitem(CATALOGUE, name)
    for name, known in rows.items():
        if name == "model":
            monkeypatch.setitem(CATALOGUE, NAME, asset)
        CATALOGUE[name] = known
    return asset


def totals(platform: Platform) -> dict[date, tuple[int, int]]:
    rows = platform.tables.read(platform.spark, "shop", NAME).collect()
    return {row["event_day"]: (row["entities"], row["positives"]) for row in rows}


def expected(platform: Platform, chosen: list[date]) -> dict[date, tuple[int, int]]:
    """The same from the MRDS, by pandas."""
    rows = platform.tables.read_days(platform.spark, "shop", "mrds", chosen).toPandas()
    by_day = rows.groupby("event_day")
    return {day: (len(of_day), int(of_day["bought"].sum())) for day, of_day in by_day}


@pytest.mark.slow
def test_a_new_asset_is_drawn_made_withdrawn_looked_after_and_tidied_up(
    spark: SparkSession, tmp_path: Path, added: Asset
) -> None:
    platform = Platform(settings_in(tmp_path), spark)
    chosen = days(str(FIRST), str(LAST))
    deliver_visits(platform, chosen)

    drawn = build_definitions(platform.settings, products={"shop": platform.product})
    node = drawn.resolve_asset_graph().get(dg.AssetKey(["shop", NAME]))
    assert {key.path[-1] for key in node.parent_keys} == {"mrds"}
    assert NAME in assets.daily()

    with dg.DagsterInstance.ephemeral() as instance:
        Backfill(platform.product, platform.settings, instance, select=SELECT).run(DayRange(FIRST, LAST))
        known = platform.ledger.latest(NAME)
        assert {day: record.outcome for day, record in known.items()} == dict.fromkeys(chosen, "written")
        assert totals(platform) == expected(platform, chosen)
        assert len(totals(platform)) == len(chosen)

        shutil.rmtree(platform.folder(LAST))
        report = Backfill(platform.product, platform.settings, instance, select=SELECT)
        report.run(DayRange(FIRST, LAST))
        assert platform.ledger.latest(NAME)[LAST].outcome == "missing"
        assert totals(platform) == expected(platform, chosen[:-1])

    assert NAME in platform.run("maintenance", ()).metadata
    shutil.rmtree(platform.tables.path("shop", NAME))
    again = platform.run(NAME, chosen)
    assert [day.up_to_date for day in again.days] == [False, False, False, True]
    assert totals(platform) == expected(platform, chosen[:-1])
