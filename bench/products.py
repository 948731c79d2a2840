"""What many products cost: to load their graph in a fresh process, a minute of all their ticks, and a ledger.

Every product has years of deliveries, made and recorded as a real history is. Prints CPU seconds, and ratios
of what was measured in one run: of loading to `import dagster`, of ticks to decoding the whole ledger instead
of following it, of reading outcomes to reading all, and of a ledger before maintenance to one after it.

Run: `make bench-products`, or `python bench/products.py --products 10 --years 2`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ml_platform.settings import PACKAGE, Settings

ASSETS = ("ards", "mrds", "online_features", "predictions", "model_performance", "validation_report")
#: Days that a backfill records in one commit.
CHUNK = 128
#: An address that nobody listens on: nothing is sent, since nothing is wrong.
CHANNEL = "json://127.0.0.1:9/none"


def settings_of(folder: Path) -> Settings:
    return Settings(
        home=folder,
        products=(folder / "contracts",),
        own_products=False,
        alert_urls=CHANNEL,  # type: ignore[arg-type]
    )


def prepare(folder: Path, products: int, years: int) -> list[str]:
    """Contracts, deliveries and ledgers; one product's, of which the others have links."""
    from ml_platform.contract.loading import load_product
    from ml_platform.data_engineering import landing
    from ml_platform.storage.ledger import DayRecord, Ledger
    from ml_platform.storage.tables import Tables

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "contracts").mkdir(parents=True)
    (folder / "landing").mkdir()
    last = datetime.now(tz=UTC).date() - timedelta(days=2)
    days = [last - timedelta(days=n) for n in range(365 * years)][::-1]
    contract = (PACKAGE / "products" / "customers.yaml").read_text()
    contract = re.sub(r"^start: .*$", f"start: {days[0]}", contract, flags=re.M)
    contract = re.sub(r"^end: .*\n", "", contract, flags=re.M)
    # A first model months after the start, whatever that is.
    month = (days[0] + timedelta(days=200)).replace(day=1)
    contract = re.sub(r"first_month: .*$", f"first_month: {month:%Y-%m}", contract, flags=re.M)
    names = [f"product{n:03}" for n in range(products)]
    for name in names:
        text = re.sub(r"^name: .*$", f"name: {name}", contract, flags=re.M)
        (folder / "contracts" / f"{name}.yaml").write_text(text)
    first = names[0]
    for day in days:
        (folder / "landing" / first / str(day)).mkdir(parents=True)
        (folder / "landing" / first / str(day) / "rows.csv").write_text("")
    settings = settings_of(folder)
    product = load_product(folder / "contracts" / f"{first}.yaml")
    ledger = Ledger(Tables.of(settings), first)
    for start in range(0, len(days), CHUNK):
        chunk = days[start : start + CHUNK]
        for asset in ASSETS:
            ledger.record(
                [
                    DayRecord(
                        asset,
                        day,
                        "written",
                        inputs=landing.stamp(product, settings.landing_path, day) or "",
                        contract="c" * 32,
                        code_version="1",
                        fingerprint=f"{day}{asset}",
                        counts={"rows": 20_000, "labelled": 20_000},
                        details=details(asset),
                    )
                    for day in chunk
                ]
            )
    for name in names[1:]:
        (folder / "landing" / name).symlink_to(folder / "landing" / first)
        shutil.copytree(folder / "tables" / first, folder / "tables" / name, copy_function=os.link)
    return names


def details(asset: str) -> dict[str, Any]:
    """As much as a day of the sample product has: 25 expectations, ten profiled columns."""
    check = {"name": "data_quality", "passed": True, "severity": "ERROR", "description": "25 hold"}
    found: dict[str, Any] = {"metadata": {"report": "file:///reports/x.html"}, "checks": []}
    if asset in ("ards", "mrds"):
        found["checks"] = [check]
        found["quality"] = [[f"column_{n}_not_null", "0 of 20,000", "none", True, "error"] for n in range(25)]
        found["profile"] = {f"c{n}": [20_000, 0, *[n / (k + 1) for k in range(12)]] for n in range(10)}
    return found


def loading(folder: Path) -> dict[str, float]:
    """CPU seconds of a fresh interpreter that builds the repository of all products; the least of three."""
    statement = (
        "import json, time, pathlib, sys; times = [time.process_time()];"
        "mark = lambda: times.append(time.process_time());"
        "import dagster; mark();"
        "sys.path.insert(0, sys.argv[2]); from products import settings_of;"
        "from ml_platform.build import build_definitions;"
        "from ml_platform.contract.loading import load_products; mark();"
        "settings = settings_of(pathlib.Path(sys.argv[1]));"
        "products, errors = load_products(settings.product_folders); assert products and not errors; mark();"
        "repository = build_definitions(settings, products=products).get_repository_def();"
        "assert repository.sensor_defs; mark();"
        "print(json.dumps([after - before for before, after in zip(times, times[1:])]))"
    )
    found = []
    for _ in range(3):
        command = [sys.executable, "-c", statement, str(folder), str(Path(__file__).parent)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    dagster, ours, contracts, graph = min(found, key=sum)
    return {
        "import of Dagster, CPU s": round(dagster, 2),
        "other imports, CPU s": round(ours, 2),
        "contracts, CPU s": round(contracts, 2),
        "graph, CPU s": round(graph, 2),
        "loading altogether, CPU s": round(dagster + ours + contracts + graph, 2),
        "ratio of that to the import of Dagster": round(1 + (ours + contracts + graph) / dagster, 1),
    }


def reading(folder: Path, name: str) -> dict[str, float | int]:
    """What outcomes cost beside all of a ledger, and one whose days were all recorded four times over."""
    from ml_platform.storage.ledger import Ledger
    from ml_platform.storage.tables import Tables

    tables = Tables.of(settings_of(folder))
    ledger = Ledger(tables, name)

    def cpu(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        return min(times)

    def arrow(**options: Any) -> int:
        return int(ledger._table.scan(**options).nbytes)

    whole = cpu(lambda: [ledger.latest(asset) for asset in ASSETS])
    outcomes = cpu(lambda: [ledger.latest(asset, details=False) for asset in ASSETS])
    wanted = ("asset", "day", "details")
    others = tuple(name for name in ledger._table.schema.names if name not in wanted)
    projected = cpu(lambda: ledger._table.scan(without=others))
    decoded = cpu(
        lambda: [json.loads(one) for one in ledger._table.scan(without=others)["details"].to_pylist()]
    )
    shutil.copytree(folder / "tables" / name, folder / "tables" / "superseded")
    grown = Ledger(tables, "superseded")
    for asset in ASSETS:
        records = list(grown.latest(asset).values())
        for _ in range(3):
            grown.record(records)
    before = cpu(grown.changes)
    recorded = len(grown._table.scan(without=others))
    began = time.process_time()
    removed = grown.compact(timedelta(0))
    compaction = time.process_time() - began
    after = cpu(grown.changes)
    expected = recorded - sum(len(ledger.latest(asset, details=False)) for asset in ASSETS)
    assert removed == expected, f"{removed} of {expected} superseded records removed"
    return {
        "a ledger with details, CPU s": round(whole, 2),
        "the same without, CPU s": round(outcomes, 2),
        "ratio of these": round(whole / outcomes, 1),
        "details as a projection, in Arrow, CPU s": round(projected, 3),
        "details as a projection, decoded, CPU s": round(decoded, 2),
        "a ledger with details, MB in memory": round(arrow() / 1e6, 1),
        "the same without, MB in memory": round(arrow(without=("details",)) / 1e6, 1),
        "a first look at four records a day, CPU s": round(before, 2),
        "removing the superseded ones, CPU s": round(compaction, 2),
        "a first look afterwards, CPU s": round(after, 2),
        "ratio of the looks": round(before / after, 1),
    }


def ticks(folder: Path, names: list[str]) -> dict[str, float | int]:
    """CPU seconds of one tick of every sensor, when nothing has changed and when each ledger has."""
    import dagster as dg

    from ml_platform.build import build_definitions
    from ml_platform.storage.ledger import Ledger
    from ml_platform.storage.tables import Tables

    settings = settings_of(folder)
    repository = build_definitions(settings).get_repository_def()
    cursors: dict[str, str | None] = {}
    with dg.DagsterInstance.ephemeral() as instance:

        def minute() -> float:
            began = time.process_time()
            for sensor in repository.sensor_defs:
                cursor = cursors.get(sensor.name)
                with dg.build_sensor_context(
                    instance=instance, cursor=cursor, repository_def=repository
                ) as context:
                    found = sensor.evaluate_tick(context)
                # Evaluations may be asked for, as the ledger has none; no day is to be made again.
                made = all(request.asset_selection for request in found.run_requests or ())
                assert made, f"{sensor.name} requested days that have been made"
                cursors[sensor.name] = found.cursor
            return time.process_time() - began

        first = minute()
        still = min(minute() for _ in range(3))
        for name in names:
            ledger = Ledger(Tables.of(settings), name)
            newest = max(ledger.latest("mrds", details=False))
            for asset in ASSETS:
                # Made of the same files, or the landing sensor would ask for the day.
                ledger.record(list(ledger.between(asset, newest, newest).values()))
        changed = minute()
    began = time.process_time()
    ledger = Ledger(Tables.of(settings), names[0])
    for asset in ASSETS:
        ledger.latest(asset)
    whole = (time.process_time() - began) * len(names)
    return {
        "the first minute of a process, CPU s": round(first, 2),
        "a minute in which nothing changes, CPU s": round(still, 2),
        "a minute in which a day of every product was done, CPU s": round(changed, 2),
        "decoding every ledger once, CPU s": round(whole, 2),
        "ratio of that to a still minute": round(whole / still, 1),
        "longest cursor, characters": max(len(cursor or "") for cursor in cursors.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=100)
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=PACKAGE.parent / "var" / "bench" / "products")
    given = parser.parse_args()
    names = prepare(given.folder, given.products, given.years)
    for part in (
        lambda: loading(given.folder),
        lambda: ticks(given.folder, names),
        lambda: reading(given.folder, names[0]),
    ):
        for title, value in part().items():
            print(f"{title}: {value}", flush=True)
    shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
