"""Days whose deliveries were archived stay as they are, whatever is trained or repaired."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from deltalake import DeltaTable

from ml_platform.cli.backfill import Backfill, BackfillError, apart
from ml_platform.cli.check_up import check_up
from ml_platform.cli.console import instance_of
from ml_platform.cli.findings import Finding
from ml_platform.contract.assets import StepName
from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.graph.resources import LocalStepRunner
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests import tasks_here
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits, shop

SPAN = DayRange(D("2024-01-16"), D("2024-02-03"))
EARLIER, NOW = shop(), shop(mrds__aggregate__pages="min")
#: Made under the earlier contract, and under the present one.
OLD, NEW = days("2024-01-16", "2024-01-25"), days("2024-01-26", "2024-02-03")
ARCHIVED = [D("2024-01-17"), D("2024-01-20"), D("2024-01-21")]
UNREACHABLE = "postgresql+psycopg://nobody:nothing@127.0.0.1:1/none"


@dataclass
class History:
    """A product whose contract has changed on the way, and of which some deliveries were archived."""

    home: Path
    said: list[str]

    def backfill(self, product: Product, *select: StepName, settings: Settings | None = None) -> None:
        with self.working(product, *select, settings=settings) as work:
            work.run(SPAN)

    def working(self, product: Product, *select: StepName, settings: Settings | None = None) -> _Working:
        return _Working(self, product, select, settings or Settings())

    def doctor(self, *, repair: bool = False) -> list[Finding]:
        settings = Settings()
        return check_up(NOW, settings, lambda: instance_of(settings), repair=repair, say=self.said.append)

    def made(self, chosen: Iterable[date]) -> dict[tuple[str, date], tuple[str, str | None]]:
        """The contract and the content of days of the ARDS and the MRDS, as recorded."""
        ledger, wanted = Ledger(Tables.of(Settings()), "shop"), set(chosen)
        return {
            (asset, day): (record.contract, record.fingerprint)
            for asset in ("ards", "mrds")
            for day, record in ledger.latest(asset, wanted).items()
        }

    def rows(self, table: str) -> dict[date, int]:
        """The rows of each day, counted in the table itself."""
        counted = DeltaTable(str(self.home / "tables" / "shop" / table)).to_pyarrow_table()
        frame = counted.select(["event_day"]).to_pandas()
        return {day: int(number) for day, number in frame["event_day"].value_counts().items()}


class _Working:
    def __init__(
        self, history: History, product: Product, select: tuple[StepName, ...], settings: Settings
    ) -> None:
        self._instance = instance_of(settings)
        self._options = {"select": select} if select else {}
        self._history, self._product, self._settings = history, product, settings

    def __enter__(self) -> Backfill:
        instance = self._instance.__enter__()
        return Backfill(
            self._product,
            self._settings,
            instance,
            progress=self._history.said.append,
            **self._options,
        )

    def __exit__(self, *raised: object) -> None:
        self._instance.__exit__(*raised)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    folder = tmp_path_factory.mktemp("archived")
    with pytest.MonkeyPatch.context() as patch:
        tasks_here.without_verdicts(patch)
        patch.setattr(LocalStepRunner, "session", lambda *_, **__: tasks_here.TasksHere())
        patch.setenv("ML_PLATFORM_HOME", str(folder / "home"))
        patch.setenv("DAGSTER_HOME", str(folder / "home" / "dagster"))
        (folder / "home" / "dagster").mkdir(parents=True)
        made = History(folder / "home", [])
        deliver_visits(Platform(Settings(), tasks_here.TasksHere()), SPAN)  # type: ignore[arg-type]
        made.backfill(EARLIER)
        with made.working(NOW, "ards", "mrds", "online_features") as work:
            work.run(DayRange(NEW[0], NEW[-1]))
        for day in ARCHIVED:
            shutil.move(folder / "home" / "landing" / "shop" / str(day), folder / str(day))
        yield made


pytestmark = pytest.mark.slow


def test_the_repair_of_a_lost_model_does_no_day_again(history: History) -> None:
    before, rows = history.made(SPAN), history.rows("mrds")
    shutil.rmtree(history.home / "mlflow" / "artifacts")
    assert "model" in {finding.part for finding in history.doctor()}
    left = history.doctor(repair=True)
    assert "model" not in {finding.part for finding in left}
    assert [finding.days for finding in left if finding.part == "landing"] == [tuple(ARCHIVED)]
    assert history.made(SPAN) == before
    assert history.rows("mrds") == rows
    assert min(rows[day] for day in ARCHIVED) > 0


def test_lost_versions_of_the_contract_are_found_and_the_present_one_is_put_back(history: History) -> None:
    table, aside = history.home / "tables" / "shop" / "contracts", history.home / "contracts-aside"
    old = [day for (asset, day), (made, _) in history.made(SPAN).items() if _is_old(asset, made)]
    shutil.move(table, aside)
    try:
        found = [finding for finding in history.doctor() if finding.part == "contracts"]
        assert [finding.repairable for finding in found] == [True, False]
        assert found[1].days == tuple(sorted(set(old)))
        assert f"--from {min(old)} --to {max(old)} --select ards,mrds" in found[1].command
        gone = [day for day in ARCHIVED if day in old]
        assert bool(gone) == ("deliveries" in found[1].command)
        left = [finding for finding in history.doctor(repair=True) if finding.part == "contracts"]
        assert left == found[1:]
        assert table.exists()
    finally:
        shutil.rmtree(table, ignore_errors=True)
        shutil.move(aside, table)
    assert "contracts" not in {finding.part for finding in history.doctor()}


def _is_old(asset: str, contract: str) -> bool:
    sections = ("source",) if asset == "ards" else ("source", "mrds")
    return contract != NOW.hash_of(*sections)


def test_a_store_that_is_away_stops_nothing_else(history: History) -> None:
    shutil.rmtree(history.home / "tables" / "shop" / "predictions")
    settings = Settings(online_store_url=UNREACHABLE)
    history.said.clear()
    chosen: tuple[StepName, ...] = ("online_features", "validation_report", "predictions")
    with (
        history.working(NOW, *chosen, settings=settings) as work,
        pytest.raises(BackfillError, match=r"shop__online_features: .*can't be reached") as raised,
    ):
        work.run(SPAN)
    assert "127.0.0.1" in str(raised.value)
    assert "nothing@" not in str(raised.value)
    assert [(report.assets, report.success) for report in work.reports] == [
        (("online_features", "validation_report"), False),
        (("predictions",), True),
    ]
    assert len(history.rows("predictions")) > 0


def test_training_learns_from_no_archived_day_and_removes_none(history: History) -> None:
    before, rows = history.made(ARCHIVED), history.rows("mrds")
    history.said.clear()
    with history.working(NOW) as work:
        assert work.train(D("2024-02-03")) == D("2024-02-03")
    assert any("2 days from 2024-01-20 to 2024-01-21" in said for said in history.said)
    assert history.made(ARCHIVED) == before
    assert {day: history.rows("mrds").get(day) for day in ARCHIVED} == {day: rows[day] for day in ARCHIVED}
    again = {day for (asset, day), (made, _) in history.made(OLD).items() if not _is_old("mrds", made)}
    assert again == {D("2024-01-19"), *days("2024-01-22", "2024-01-25")}


def test_events_that_dagster_has_lost_are_made_again_without_withdrawing_days(history: History) -> None:
    rows = history.rows("ards")
    shutil.rmtree(history.home / "dagster")
    (history.home / "dagster").mkdir()
    history.doctor(repair=True)
    assert history.rows("ards") == rows
    assert {day: history.rows("mrds").get(day, 0) > 0 for day in ARCHIVED} == dict.fromkeys(ARCHIVED, True)


def test_a_range_of_days_is_parted_at_barriers_only() -> None:
    first = D("2024-01-01")
    numbers = [date.fromordinal(first.toordinal() + n) for n in (0, 1, 4, 6, 9)]
    barrier = D("2024-01-06")
    assert apart(numbers, [barrier]) == [
        DayRange(D("2024-01-01"), D("2024-01-05")),
        DayRange(D("2024-01-07"), D("2024-01-10")),
    ]
    assert apart(numbers, []) == [DayRange(numbers[0], numbers[-1])]
    assert apart([], [barrier]) == []
