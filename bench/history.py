"""What a history costs: the data sets beside DuckDB, a range beside single days, a day beside a long past.

Each part prints ratios of what was measured in this run, after it has seen that both sides made the same
rows. Everything runs in a folder of its own, on generated customers and the real flights.

Run: `make bench`, or parts of it: `python bench/history.py data-sets days --days 180`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psutil

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.settings import PACKAGE, Settings

CHECKOUT = PACKAGE.parent
BIN = Path(sys.executable).parent
START = date(2022, 1, 1)
THREADS = os.cpu_count() or 2

#: What both sides must agree on, of the rows of a data set; sums are exact to six decimals only.
_ARDS = '"ID", "CustomerNumber", "CustomerState", "Feature1", "Feature2", "Feature3", "Feature4"'
_MRDS = '"CustomerNumber", "CustomerState", "Feature1", "Feature2", round("Feature3", 6), "Feature4"'
_CHECK = """
SELECT count(*), count("Target"),
       bit_xor(hash({columns}, "Target"::INTEGER, event_day::DATE, label_known_on::DATE)),
       sum(hash({columns}, "Target"::INTEGER, event_day::DATE, label_known_on::DATE)::HUGEINT)
FROM {source}
"""


@dataclass(frozen=True)
class Bench:
    """A folder with a platform in it."""

    folder: Path

    @property
    def settings(self) -> Settings:
        jars = {"spark.jars.ivy": str(CHECKOUT / "var" / "ivy")}
        return Settings(home=self.folder, spark_conf=jars)

    @property
    def contracts(self) -> Path:
        """The samples' contracts, that of `customers` without an end: its history can be of any length."""
        folder = self.folder / "contracts"
        if not folder.exists():
            folder.mkdir(parents=True)
            for path in (PACKAGE / "products").glob("*.yaml"):
                text = path.read_text()
                if path.stem == "customers":
                    text = re.sub(r"^end: .*\n", "", text, flags=re.M)
                (folder / path.name).write_text(text)
        return folder

    def product(self, name: str) -> Product:
        return load_product(self.contracts / f"{name}.yaml")

    def land(self, days: int, rows: int, *, first: date = START) -> DayRange:
        """Deliveries of `customers`, each day's rows and later its labels."""
        from ml_platform.samples import customers

        chosen = DayRange(first, first + timedelta(days=days - 1))
        customers.land(self.product("customers"), self.settings.landing_path, chosen, rows_per_day=rows)
        return chosen

    def landing_folders(self) -> list[Path]:
        """The folders of the delivered days."""
        return sorted((self.settings.landing_path / "customers").iterdir())

    def clear(self) -> None:
        """Forget what was made; deliveries stay."""
        for name in ("tables", "mlflow", "online", "dagster", "reports"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def cli(self, *arguments: str) -> float:
        """Seconds of a command, process and JVM included."""
        environment = os.environ | {
            "ML_PLATFORM_HOME": str(self.folder),
            "ML_PLATFORM_PRODUCTS": str(self.contracts),
            "ML_PLATFORM_OWN_PRODUCTS": "false",
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "ML_PLATFORM_SPARK_CONF": json.dumps(self.settings.spark_options),
        }
        (self.folder / "dagster").mkdir(exist_ok=True)
        with timed() as seconds:
            _run([BIN / "ml-platform", *arguments], env=environment)
        return seconds()

    def backfill(self, days: DayRange, *options: str, product: str = "customers") -> float:
        return self.cli("backfill", product, "--from", str(days.first), "--to", str(days.last), *options)


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    start = time.perf_counter()
    end: list[float] = []
    yield lambda: (end[0] if end else time.perf_counter()) - start
    end.append(time.perf_counter())


# -- ARDS and MRDS beside DuckDB -------------------------------------------------------------------


def data_sets(bench: Bench, days: int, rows: int) -> dict[str, Any]:
    """ARDS and MRDS of a range: the tables alone, and with ledger and verdicts, beside DuckDB."""
    bench.land(days, rows)
    found = {}
    for what in ("tables", "steps"):
        bench.clear()
        output = _in_process(bench, "data-sets", what, str(days))
        found[what] = output["seconds"]
    landing = bench.settings.landing_path / "customers"
    peer = bench.folder / "duckdb"
    shutil.rmtree(peer, ignore_errors=True)
    with timed() as seconds:
        _run([sys.executable, CHECKOUT / "bench" / "history_peer.py", landing, peer, str(THREADS)])
    _compare(bench, peer)
    return {
        "days": days,
        "rows a day": rows,
        "DuckDB, s": round(seconds(), 1),
        "tables, s": round(found["tables"], 1),
        "tables / DuckDB": round(found["tables"] / seconds(), 1),
        "with ledger and verdicts, s": round(found["steps"], 1),
        "with ledger and verdicts / DuckDB": round(found["steps"] / seconds(), 1),
    }


def _compare(bench: Bench, peer: Path, folders: Mapping[str, Path] | None = None) -> None:
    """Both sides hold the same rows, or there is nothing to compare."""
    from deltalake import DeltaTable

    for table, columns in (("ards", _ARDS), ("mrds", _MRDS)):
        folder = folders[table] if folders else bench.folder / "tables" / "customers" / table
        files = DeltaTable(str(folder)).file_uris()
        sources = (
            f"read_parquet({files!r}, hive_partitioning = true)",
            f"read_parquet('{peer / table}/**/*.parquet', hive_partitioning = true)",
        )
        ours, theirs = (
            duckdb.sql(_CHECK.format(columns=columns, source=source)).fetchall() for source in sources
        )
        if ours != theirs:
            raise SystemExit(f"{table}: {ours} is not {theirs}; nothing was compared")


def _work_data_sets(bench: Bench, what: str, days: int) -> dict[str, Any]:
    from ml_platform.data_engineering import ards, landing, mrds
    from ml_platform.engine import local
    from ml_platform.engine.step import StepRequest
    from ml_platform.spark.session import session_here
    from ml_platform.storage.tables import Tables

    product, settings = bench.product("customers"), bench.settings
    chosen = tuple(START + timedelta(days=n) for n in range(days))
    spark = session_here(settings)
    spark.range(1).count()
    with timed() as seconds, _peak() as memory:
        if what == "tables":
            tables = Tables.of(settings)
            for start in range(0, days, settings.chunk_days):
                part = chosen[start : start + settings.chunk_days]
                deliveries = list(landing.scan(product, settings.landing_path, part).values())
                ards.write(lambda: spark, product, tables, deliveries, run_id="bench")
                mrds.write(lambda: spark, product, tables, part, run_id="bench")
        else:
            for step in ("ards", "mrds"):
                request = StepRequest(step=step, product=product.name, days=chosen, run_id="bench")
                local.run_step(local.context_for(request, product, settings, lambda: spark, lambda _: None))
    return {"seconds": seconds(), "megabytes": memory[0]}


# -- a range beside single days --------------------------------------------------------------------


def days(bench: Bench, count: int, rows: int) -> dict[str, Any]:
    """A range in one go, beside single days as daily jobs would do them, each a process of its own.

    Of both it is the least of three times: the first process after a pause reads its libraries from the disk.
    """
    chosen = bench.land(count, rows)
    options = ("--select", "ards,mrds")
    times = []
    for _ in range(3):
        bench.clear()
        times.append(bench.backfill(chosen, *options))
    together = min(times) / count
    whole = _fingerprints(bench)
    bench.clear()
    singles = [DayRange(day, day) for day in list(chosen)[:3]]
    alone = min(bench.backfill(day, *options) for day in singles)
    known = _fingerprints(bench)
    if any(whole[key] != value for key, value in known.items()):
        raise SystemExit("single days and the range made different rows")
    return {
        "days": count,
        "rows a day": rows,
        "a day of the range, s": round(together, 2),
        "a day alone, s": round(alone, 1),
        "faster": round(alone / together, 1),
    }


def _fingerprints(bench: Bench) -> dict[tuple[str, date], str | None]:
    from ml_platform.storage.ledger import Ledger
    from ml_platform.storage.tables import Tables

    ledger = Ledger(Tables.of(bench.settings), "customers")
    return {
        (asset, day): record.fingerprint
        for asset in ("ards", "mrds")
        for day, record in ledger.latest(asset).items()
    }


# -- a daily cycle, and the past behind it ---------------------------------------------------------


def cycle(bench: Bench, history: Sequence[int], rows: int) -> dict[str, Any]:
    """Everything a landed day sets off, in one process, after a short and after a long history.

    The days lie within a month that has a model, so that each is scored and evaluated, and none trains.
    """
    found: dict[str, Any] = {"rows a day": rows}
    seconds = {}
    for length in history:
        shutil.rmtree(bench.folder, ignore_errors=True)
        bench.folder.mkdir(parents=True)
        landed = bench.land(length + 3, rows, first=START + timedelta(days=9))
        past = DayRange(landed.first, landed.first + timedelta(days=length - 1))
        bench.backfill(past)
        daily = [past.last + timedelta(days=n) for n in (1, 2, 3)]
        times = [bench.backfill(DayRange(day, day)) for day in daily]
        seconds[length] = min(times)
        found[f"a day after {length} days, s"] = round(seconds[length], 1)
    short, long = min(history), max(history)
    found["long / short"] = round(seconds[long] / seconds[short], 2)
    return found


# -- the whole graph -------------------------------------------------------------------------------


def graph(bench: Bench) -> dict[str, Any]:
    """A year of real flights through every asset, cold; what isn't spent in steps is orchestration."""
    bench.cli("sample", "flights", "--from", "2013-01-01", "--to", "2013-12-31")
    output = _in_process(bench, "graph")
    whole = output["seconds"]
    return {
        "s": round(whole, 1),
        **{f"{step}, s": round(value, 1) for step, value in output["steps"].items()},
        "orchestration, s": round(whole - sum(output["steps"].values()), 1),
        "orchestration / all": round(1 - sum(output["steps"].values()) / whole, 2),
    }


def _work_graph(bench: Bench) -> dict[str, Any]:
    from ml_platform.cli.backfill import Backfill
    from ml_platform.cli.console import instance_of
    from ml_platform.graph.resources import LocalStepRunner

    product = bench.product("flights")
    steps: dict[str, float] = {}
    run = LocalStepRunner.run

    def timed_run(self: LocalStepRunner, request: Any, *rest: Any) -> Any:
        with timed() as seconds:
            result = run(self, request, *rest)
        steps[request.step] = steps.get(request.step, 0) + seconds()
        return result

    LocalStepRunner.run = timed_run  # type: ignore[method-assign]
    with timed() as seconds, instance_of(bench.settings) as instance:
        Backfill(product, bench.settings, instance).run(DayRange(date(2013, 1, 1), date(2013, 12, 31)))
    return {"seconds": seconds(), "steps": steps}


# -- ten times the rows ----------------------------------------------------------------------------


def rows(bench: Bench, days: int, rows: int) -> dict[str, Any]:
    """Ten times the rows: time, and memory of the driver, its JVM included."""
    measured = []
    for size in (rows, 10 * rows):
        shutil.rmtree(bench.folder, ignore_errors=True)
        bench.folder.mkdir(parents=True)
        bench.land(days, size)
        measured.append(_in_process(bench, "data-sets", "steps", str(days)))
    once, tenfold = measured
    return {
        "days": days,
        "rows a day": rows,
        "s": round(once["seconds"], 1),
        "ten times the rows, s": round(tenfold["seconds"], 1),
        "time": round(tenfold["seconds"] / once["seconds"], 1),
        "driver, MB": once["megabytes"],
        "ten times the rows, MB": tenfold["megabytes"],
        "memory": round(tenfold["megabytes"] / once["megabytes"], 2),
    }


# -- corrections -----------------------------------------------------------------------------------


def corrections(bench: Bench, count: int, rows: int) -> dict[str, Any]:
    """A history of which a hundredth of all rows was corrected a week later, beside one without corrections.

    From the deliveries to evaluated predictions, process and JVM included; of both the least of two times.
    """
    chosen = bench.land(count, rows)
    options = ("--select", "ards,mrds,model,predictions,model_performance")

    def measured() -> float:
        times = []
        for _ in range(2):
            bench.clear()
            times.append(bench.backfill(chosen, *options))
        return min(times)

    plain = measured()
    corrected = sum(_correct(folder) for folder in bench.landing_folders())
    late = measured()
    return {
        "days": count,
        "rows a day": rows,
        "corrected rows": corrected,
        "without corrections, s": round(plain, 1),
        "with corrections, s": round(late, 1),
        "ratio": round(late / plain, 2),
    }


def _correct(folder: Path) -> int:
    """Deliver every hundredth row of a day again, a week later, with another figure; how many there are."""
    day = date.fromisoformat(folder.name)
    (delivered,) = folder.glob("*_interactions.csv")
    header, *lines = delivered.read_text().splitlines()
    separator = header.removeprefix("ID").removesuffix("Feature4").partition("Date")[0]
    place = header.split(separator).index("Feature1")
    again = []
    for line in lines[::100]:
        values = line.split(separator)
        again.append(separator.join([*values[:place], "0.5", *values[place + 1 :]]))
    name = f"{day + timedelta(days=8)}T0600_interactions.csv"
    (folder / name).write_text("\n".join([header, *again]) + "\n")
    return len(again)


# -- trailing windows ------------------------------------------------------------------------------

_WINDOWS = (7, 28, 90)


def windows(bench: Bench, count: int, rows: int) -> dict[str, Any]:
    """The MRDS with three windows over four columns, process and verdicts included, beside DuckDB.

    Both read the same ARDS, and write their rows by day.
    """
    text = (bench.contracts / "customers.yaml").read_text()
    features = [
        f"    {rule}_{column}_{n}: {{{rule}: {column}, days: {n}}}"
        for n in _WINDOWS
        for rule, column in (("sum", "Feature1"), ("sum", "Feature3"), ("max", "Feature2"), ("count", "ID"))
    ]
    text = text.replace("\nmodel:", "\n  features:\n" + "\n".join(features) + "\n\nmodel:")
    (bench.contracts / "customers.yaml").write_text(text)
    chosen = bench.land(count, rows)
    bench.backfill(chosen, "--select", "ards")
    ours = bench.backfill(chosen, "--select", "mrds")
    with timed() as seconds:
        _run([sys.executable, CHECKOUT / "bench" / "windows_peer.py", bench.folder, str(THREADS)])
    theirs = seconds()
    _compare_windows(bench)
    newest = DayRange(chosen.last, chosen.last)
    return {
        "days": count,
        "rows a day": rows,
        "MRDS with windows, s": round(ours, 1),
        "DuckDB, s": round(theirs, 1),
        "ratio": round(ours / theirs, 2),
        "the newest day again, s": round(bench.backfill(newest, "--select", "mrds", "--force"), 1),
    }


def _compare_windows(bench: Bench) -> None:
    """See that both sides made the same rows."""
    columns = ", ".join(
        f"sum(round(sum_Feature1_{n}, 4)), sum(round(sum_Feature3_{n}, 4)), "
        f"bit_xor(hash(max_Feature2_{n}, count_ID_{n}::BIGINT, event_day::DATE))"
        for n in _WINDOWS
    )
    connection = duckdb.connect()
    found = []
    for source in (_parquet_of(bench, "mrds"), f"read_parquet('{bench.folder}/duckdb/*/*.parquet')"):
        values = connection.execute(f"SELECT count(*), {columns} FROM {source}").fetchone() or ()
        found.append([round(float(value), 0) if isinstance(value, float) else value for value in values])
    if found[0] != found[1]:
        raise SystemExit(f"the windows differ: {found}")


def _parquet_of(bench: Bench, table: str) -> str:
    """The files of a table, for DuckDB."""
    from deltalake import DeltaTable

    files = DeltaTable(str(bench.folder / "tables" / "customers" / table)).file_uris()
    return f"read_parquet({[str(file) for file in files]}, hive_partitioning = true)"


# -- one large day ---------------------------------------------------------------------------------


def large_day(bench: Bench, rows: int) -> dict[str, Any]:
    """One day of many rows as a person has it done, process, JVM and verdicts included, beside DuckDB.

    Memory is the driver's, its JVM included, and beside it that of a tenth of the rows.
    """
    found: dict[str, Any] = {"rows": rows}
    megabytes = []
    for size in (rows // 10, rows):
        shutil.rmtree(bench.folder, ignore_errors=True)
        bench.folder.mkdir(parents=True)
        day = bench.land(1, size)
        megabytes.append(_in_process(bench, "data-sets", "steps", "1")["megabytes"])
        bench.clear()
    landing = bench.settings.landing_path / "customers"
    found["MB of CSV"] = sum(path.stat().st_size for path in landing.glob("*/*.csv")) >> 20
    ours, theirs = [], []
    for _ in range(2):
        bench.clear()
        ours.append(bench.backfill(day, "--select", "ards,mrds"))
        peer = bench.folder / "duckdb"
        shutil.rmtree(peer, ignore_errors=True)
        with timed() as seconds:
            _run([sys.executable, CHECKOUT / "bench" / "history_peer.py", landing, peer, str(THREADS)])
        theirs.append(seconds())
        _compare(bench, peer)
    return {
        **found,
        "ARDS, MRDS and verdicts, s": round(min(ours), 1),
        "DuckDB, s": round(min(theirs), 1),
        "ratio": round(min(ours) / min(theirs), 1),
        "driver, MB": megabytes[1],
        "of a tenth of the rows, MB": megabytes[0],
    }


def catalog_day(bench: Bench, rows: int) -> dict[str, Any]:
    """The same day in tables of a catalog, where only Spark may write; process and JVM included.

    The catalog is that of an embedded session, as no other one can be had without a workspace.
    """
    bench.land(1, rows)
    ours, theirs = [], []
    for _ in range(2):
        bench.clear()
        for name in ("warehouse", "control"):
            shutil.rmtree(bench.folder / name, ignore_errors=True)
        with timed() as seconds:
            output = _in_process(bench, "catalog-day", "steps", "1")
        ours.append(seconds())
        peer = bench.folder / "duckdb"
        shutil.rmtree(peer, ignore_errors=True)
        landing = bench.settings.landing_path / "customers"
        with timed() as seconds:
            _run([sys.executable, CHECKOUT / "bench" / "history_peer.py", landing, peer, str(THREADS)])
        theirs.append(seconds())
        _compare(bench, peer, {name: Path(path) for name, path in output["folders"].items()})
    return {
        "rows": rows,
        "ARDS, MRDS and verdicts in a catalog, s": round(min(ours), 1),
        "DuckDB, s": round(min(theirs), 1),
        "ratio": round(min(ours) / min(theirs), 1),
        "driver, MB": output["megabytes"],
    }


def _work_catalog_day(bench: Bench) -> dict[str, Any]:
    from ml_platform.engine import local
    from ml_platform.engine.step import StepRequest
    from ml_platform.spark.session import session_here
    from ml_platform.storage.tables import Tables

    sys.path.insert(0, str(CHECKOUT))
    from ml_platform_tests.spark_connect.client import leave_out_unity_sql

    leave_out_unity_sql()
    product = bench.product("customers")
    options = bench.settings.spark_options | {"spark.sql.warehouse.dir": str(bench.folder / "warehouse")}
    settings = Settings(
        home=bench.folder,
        tables="uc:spark_catalog.ml",
        control_tables=str(bench.folder / "control"),
        spark_conf=options,
    )
    spark = session_here(settings)
    spark.sql("CREATE SCHEMA ml")
    with _peak() as memory:
        for step in ("ards", "mrds"):
            request = StepRequest(step=step, product=product.name, days=(START,), run_id="bench")
            context = local.context_for(request, product, settings, lambda: spark, lambda _: None)
            (done,) = local.run_step(context).days
            if done.outcome != "written":
                raise SystemExit(f"{step}: {done.reason}")
    folders = {}
    for step in ("ards", "mrds"):
        address = Tables.of(settings).location.address(product.name, step)
        folders[step] = spark.sql(f"DESCRIBE DETAIL {address}").first()["location"].removeprefix("file:")
    return {"megabytes": memory[0], "folders": folders}


# -- loading the code location ---------------------------------------------------------------------


def loading(bench: Bench) -> dict[str, Any]:
    """The code location in a fresh interpreter, beside `import dagster` alone; the least of five times."""

    def seconds(statement: str) -> float:
        found = []
        for _ in range(5):
            with timed() as took:
                _run([sys.executable, "-c", statement], cwd=CHECKOUT)
            found.append(took())
        return min(found)

    alone, ours = seconds("import dagster"), seconds("import ml_platform.definitions")
    return {
        "import dagster, s": round(alone, 2),
        "location, s": round(ours, 2),
        "ratio": round(ours / alone, 2),
    }


# -- cost against days and rows --------------------------------------------------------------------


def curves(bench: Bench, picture: Path) -> dict[str, Any]:
    """ARDS and MRDS with ledger and verdicts, for more and more days and rows, each in a fresh process."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    found: dict[str, Any] = {}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    series = [
        ("days of 5,000 rows", [(15, 5000), (60, 5000), (120, 5000), (240, 5000)]),
        ("thousand rows a day, 30 days", [(30, 2000), (30, 10_000), (30, 20_000), (30, 40_000)]),
    ]
    for (label, points), plot in zip(series, axes, strict=True):
        seconds = []
        for count, size in points:
            shutil.rmtree(bench.folder, ignore_errors=True)
            bench.folder.mkdir(parents=True)
            bench.land(count, size)
            seconds.append(_in_process(bench, "data-sets", "steps", str(count))["seconds"])
            found[f"{count} days of {size} rows, s"] = round(seconds[-1], 1)
        of_days = label.startswith("days")
        plot.plot([count if of_days else size / 1000 for count, size in points], seconds, "o-")
        plot.set(xlabel=label, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        plot.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    return found


def intervals(rows: int) -> dict[str, Any]:
    """The bootstrap of ranking metrics beside that of one which only counts; CPU, the least of three."""
    import numpy as np

    from ml_platform.machine_learning import metrics

    draw = np.random.default_rng(1)
    label = (draw.random(rows) < 0.2).astype(int)
    probability = (1 / (1 + np.exp(1.5 - label - draw.normal(size=rows)))).round(6)
    decision, cluster = (probability > 0.5).astype(int), draw.integers(1000, size=rows)

    def seconds(metric: Any) -> float:
        spent = []
        for _ in range(3):
            start = time.process_time()
            metrics.interval(metric, label, probability, decision, cluster)
            spent.append(time.process_time() - start)
        return min(spent)

    counted, *ranked = (seconds(metric) for metric in ("f1", "roc_auc", "average_precision"))
    return {
        "rows": rows,
        "f1, s": round(counted, 3),
        "roc_auc, s": round(ranked[0], 2),
        "average_precision, s": round(ranked[1], 2),
        "roc_auc / f1": round(ranked[0] / counted, 1),
        "average_precision / f1": round(ranked[1] / counted, 1),
    }


# -- processes -------------------------------------------------------------------------------------


def _in_process(bench: Bench, *arguments: str) -> dict[str, Any]:
    """What a fresh process of this script measured."""
    command = [sys.executable, str(Path(__file__)), "--folder", str(bench.folder), "--work", *arguments]
    result: dict[str, Any] = json.loads(_run(command).splitlines()[-1])
    return result


def _run(command: Sequence[str | Path], **options: Any) -> str:
    """What a command prints; what it complains of is shown only if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The greatest resident set, in MB, of this process and its JVM; Python workers are not the driver."""
    ended = threading.Event()
    peak = [0]

    def watch() -> None:
        me = psutil.Process()
        while not ended.wait(0.1):
            family = [me, *(child for child in me.children() if "java" in child.name())]
            peak[0] = max(peak[0], sum(one.memory_info().rss for one in family) >> 20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


PARTS: dict[str, Callable[[Bench, argparse.Namespace], dict[str, Any]]] = {
    "data-sets": lambda bench, given: data_sets(bench, given.days, given.rows),
    "days": lambda bench, given: days(bench, 60, given.rows),
    "cycle": lambda bench, given: cycle(bench, (30, given.days), 2000),
    "graph": lambda bench, given: graph(bench),
    "rows": lambda bench, given: rows(bench, 20, given.rows),
    "large-day": lambda bench, given: large_day(bench, given.large_rows),
    "corrections": lambda bench, given: corrections(bench, 120, given.rows // 4),
    "windows": lambda bench, given: windows(bench, given.days, given.rows),
    "catalog-day": lambda bench, given: catalog_day(bench, given.large_rows),
    "curves": lambda bench, given: curves(bench, Path(__file__).with_name("history.png")),
    "loading": lambda bench, given: loading(bench),
    "intervals": lambda _, given: intervals(20 * given.rows),
}


def main() -> None:
    """Measure the chosen parts, and print each as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--large-rows", type=int, default=5_000_000, help="of the part large-day")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "var" / "bench")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        name, *rest = given.work
        bench = Bench(given.folder)
        if name == "graph":
            done = _work_graph(bench)
        elif name == "catalog-day":
            done = _work_catalog_day(bench)
        else:
            done = _work_data_sets(bench, rest[0], int(rest[1]))
        print(json.dumps(done))
        return
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in given.parts or PARTS:
        print(f"{time.strftime('%H:%M:%S')} {name} ...", flush=True)
        folder = given.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        found = PARTS[name](Bench(folder), given)
        shutil.rmtree(folder)
        print(f"{name}: " + " | ".join(f"{key} {value}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
