"""Backfills that are killed, and backfills beside each other, end as if nothing had happened."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import filelock
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from pyspark.sql import SparkSession

from ml_platform.cli.check_up import check_up
from ml_platform.cli.console import instance_of
from ml_platform.cli.findings import Finding
from ml_platform.contract.source import EVENT_DAY
from ml_platform.graph.bad_days import only_bad_days
from ml_platform.storage.fingerprints import ContentSums
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import DATA_STEPS, SHOP, Platform, days, deliver_visits

FIRST, LAST = "2024-01-01", "2024-02-05"
CHOSEN = days(FIRST, LAST)
BEFORE_MODELS = ("ards", "mrds", "online_features", "validation_report")
AFTER_MODELS = ("predictions", "model_performance")
ASSETS = (*BEFORE_MODELS, "model", *AFTER_MODELS, "drift_report")
TABLES = ("ards", "quarantine", "mrds", "predictions")

#: How many runs are killed at some line of what they say; more find what is rare, in half a minute each.
KILLS = int(os.environ.get("ML_PLATFORM_TEST_KILLS", "3"))
#: How many more runs are killed in their first second, while all is imported and databases are made.
EARLY_KILLS = int(os.environ.get("ML_PLATFORM_TEST_EARLY_KILLS", "2"))
SEED = 6
#: A killed run is one that is killed when it has said so many lines, and so many seconds after.
MOST_LINES, MOST_SECONDS = 24, 2.0

Fingerprints = Mapping[tuple[str, date], str | None]


@dataclass
class Expected:
    """What is there when nothing happens: by the ledger, and by the rows themselves."""

    landing: Path
    fingerprints: Fingerprints
    rows: Mapping[str, Mapping[date, str]]


def rows_by_day(platform: Platform) -> dict[str, dict[date, str]]:
    """A hash of the rows of each day of each table, without what names runs and versions."""
    found = {}
    for table in TABLES:
        rows = platform.tables.read(platform.spark, "shop", table)
        named = [name for name in rows.columns if name != "model_version"]
        held = rows.toArrow()
        days = held[EVENT_DAY].unique().to_pylist()
        found[table] = {
            day: ContentSums.of(held.filter(pc.equal(held[EVENT_DAY], pa.scalar(day))), named).fingerprint(
                named
            )
            for day in days
        }
    return found


@pytest.fixture(scope="module")
def expected(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    platform = Platform(settings_in(tmp_path_factory.mktemp("undisturbed")), spark)
    deliver_visits(platform, CHOSEN)
    # A record that can't be read, so that there is something in the quarantine.
    platform.deliver(
        "2024-01-10", "2024-01-11T0700_visits.csv", "visit,day,customer,spend,pages,channel\nx\n"
    )
    for step in BEFORE_MODELS:
        platform.run(step, CHOSEN)
    platform.run("model", "2024-02-01")
    for step in AFTER_MODELS:
        platform.run(step, CHOSEN)
    platform.run("drift_report", FIRST)
    return Expected(platform.settings.landing_path, platform.fingerprints(*ASSETS), rows_by_day(platform))


@dataclass
class Shop:
    """A platform that processes of their own work on."""

    platform: Platform
    folder: Path

    def start(self, *options: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "ML_PLATFORM_HOME": str(self.platform.settings.home),
            "ML_PLATFORM_LANDING": str(self.platform.settings.landing_path),
            "ML_PLATFORM_PRODUCTS": str(self.folder / "contracts"),
            "ML_PLATFORM_CHUNK_DAYS": "10",
            "ML_PLATFORM_SPARK_DRIVER_MEMORY": "1g",
            "ML_PLATFORM_SPARK_CONF": json.dumps(dict(self.platform.settings.spark_options)),
            "DAGSTER_HOME": str(self.folder / "dagster"),
        }
        command = [str(Path(sys.executable).parent / "ml-platform"), "backfill", "shop", *options]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def doctor(self) -> list[Finding]:
        """What isn't as the ledger says."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(self.folder / "dagster"))
            return check_up(self.platform.product, self.platform.settings, self._instance)

    def statuses(self, *, but_for_bad_days: bool = False) -> list[str]:
        """How runs have ended; those that have failed just to show bad days may be taken for successes."""
        with self._instance() as instance:
            return sorted(
                {
                    "SUCCESS"
                    if but_for_bad_days and only_bad_days(instance, run.run_id)
                    else run.status.value
                    for run in instance.get_runs()
                }
            )

    @contextmanager
    def _instance(self) -> Iterator[dg.DagsterInstance]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(self.folder / "dagster"))
            with instance_of(self.platform.settings) as instance:
                yield instance


@pytest.fixture
def processes(expected: Expected, spark: SparkSession, tmp_path: Path) -> Shop:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "shop.yaml").write_text(yaml.safe_dump(SHOP, sort_keys=False))
    settings = settings_in(tmp_path / "home", landing=expected.landing)
    return Shop(Platform(settings, spark), tmp_path)


def expected_of(assets: Sequence[str], expected: Expected) -> Fingerprints:
    return {key: value for key, value in expected.fingerprints.items() if key[0] in assets}


def told(process: subprocess.Popen[str]) -> str:
    """What a process says until its end, which must be a good one."""
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def span(first: str = FIRST, last: str = LAST) -> tuple[str, ...]:
    return ("--from", first, "--to", last)


@contextmanager
def stopped(process: subprocess.Popen[str], locks: Path) -> Iterator[None]:
    """Have a process and all it has started stand still, at a moment in which it holds no table."""
    os.killpg(process.pid, signal.SIGSTOP)
    while not all(is_free(path) for path in locks.iterdir()):
        os.killpg(process.pid, signal.SIGCONT)
        os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def is_free(path: Path) -> bool:
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(path, timeout=0):
        return True
    return False


def kill_after(process: subprocess.Popen[str], lines: int, seconds: float) -> bool:
    """Kill a process and all it has started, when it has said so much; False if it ended before."""
    assert process.stdout is not None
    for _ in range(lines):
        if not process.stdout.readline():
            assert process.wait() == 0
            return False
    time.sleep(seconds)  # A random moment is what is tested.
    ended = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):  # it has ended, and started nothing that is still there
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return not ended


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_runs_are_repaired_by_the_next(processes: Shop, expected: Expected) -> None:
    draw = random.Random(SEED)
    killed, force = 0, False
    for _ in range(EARLY_KILLS):
        assert kill_after(processes.start(*span()), 0, draw.uniform(0, 1.0))
    while killed < KILLS:
        process = processes.start(*span(), *(["--force"] if force else []))
        if kill_after(process, draw.randint(1, MOST_LINES), draw.uniform(0, MOST_SECONDS)):
            killed += 1
        else:
            force = True  # All is done: from now on it is done again.

    told(processes.start(*span()))
    assert processes.platform.fingerprints(*ASSETS) == expected.fingerprints
    assert rows_by_day(processes.platform) == expected.rows
    assert set(processes.statuses()) == {"FAILURE", "SUCCESS"}
    assert processes.doctor() == []
    assert told(processes.start(*span())).strip().endswith("nothing to do")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_labels_that_come_while_a_backfill_runs_are_not_undone_by_it(
    processes: Shop, expected: Expected, tmp_path: Path
) -> None:
    """The daily run that they set off is beside a backfill that has looked at the days before."""
    landing = tmp_path / "landing"
    late = [path.relative_to(expected.landing) for path in expected.landing.rglob("*labels.csv")]
    shutil.copytree(expected.landing, landing, ignore=lambda _, names: fnmatch.filter(names, "*labels.csv"))
    shop = replace(processes, platform=Platform(settings_in(tmp_path / "home", landing=landing), None))  # type: ignore[arg-type]
    before_models = ("--select", ",".join(BEFORE_MODELS))
    backfill = shop.start(*span(), *before_models)
    assert backfill.stdout is not None
    for line in backfill.stdout:
        if "ards: 10 of" in line:  # a first chunk of its days is done
            break
    with stopped(backfill, shop.platform.settings.home / "tables" / ".locks"):
        for path in late:
            shutil.copy2(expected.landing / path, landing / path)
        told(shop.start(*span(), *before_models))
    told(backfill)
    assert shop.platform.fingerprints(*DATA_STEPS) == expected_of(DATA_STEPS, expected)
    # What a day is held against from the days before it, and so its report, a later run brings up to date.
    told(shop.start(*span(), *before_models))
    assert shop.platform.fingerprints(*BEFORE_MODELS) == expected_of(BEFORE_MODELS, expected)
    assert set(shop.statuses()) == {"SUCCESS"}
    assert told(shop.start(*span(), *before_models)).strip().endswith("nothing to do")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_backfills_beside_each_other_lose_and_double_nothing(processes: Shop, expected: Expected) -> None:
    beside: list[Any] = [
        processes.start(*span(FIRST, "2024-02-03")),
        processes.start(*span("2024-01-06", LAST)),
        processes.start(*span("2024-02-02", "2024-02-02"), "--select", "ards,mrds"),
    ]
    for process in beside:
        told(process)
    told(processes.start(*span()))
    # Days before the first model show in the runs that have made their predictions.
    assert processes.statuses(but_for_bad_days=True) == ["SUCCESS"]
    assert processes.platform.fingerprints(*ASSETS) == expected.fingerprints
    assert rows_by_day(processes.platform) == expected.rows
