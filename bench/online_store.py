"""The online store beside Feast and beside plain SQL: the same entities published, the same keys looked up.

Each peer runs in a process of its own, on the same parquet file, and must return the same rows for the same
keys before any ratio is printed. Feast comes from PyPI into an environment of its own.

Run: `make bench-online`, or `python bench/online_store.py --entities 100000 --lookups 10000`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
FEAST = "feast[postgres]==0.67.0"
FEATURES = [f"f{n}" for n in range(5)]
DATABASES = ("sqlite", "postgresql")
PEERS = ("ours", "plain", "feast")


def main() -> None:
    """Make the data, run every peer on every database, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=100_000)
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--without-feast", action="store_true")
    arguments = parser.parse_args()
    python = {"ours": Path(sys.executable), "plain": Path(sys.executable)}
    if not arguments.without_feast:
        python["feast"] = _feast_environment()
    with tempfile.TemporaryDirectory(prefix="bench-online-") as folder:
        data = Path(folder) / "entities.parquet"
        _write(data, arguments.entities)
        for database in arguments.databases:
            found = {
                peer: _run(peer, interpreter, database, data, Path(folder), arguments.lookups)
                for peer, interpreter in python.items()
            }
            answers = {json.dumps(result.pop("answers")) for result in found.values()}
            if len(answers) > 1:
                raise SystemExit(f"{database}: the peers do not return the same rows")
            _print(database, found)


def _write(path: Path, entities: int) -> None:
    draw = np.random.default_rng(0)
    columns: dict[str, object] = {"entity": np.arange(entities, dtype="int64")}
    columns |= {name: draw.normal(size=entities) for name in FEATURES}
    pq.write_table(pa.table(columns), path, row_group_size=50_000)


def _feast_environment() -> Path:
    folder = ROOT / "var" / "bench" / "feast"
    python = folder / "bin" / "python"
    if not python.exists():
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), FEAST], check=True)
    return python


def _run(peer: str, python: Path, database: str, data: Path, folder: Path, lookups: int) -> dict[str, object]:
    place = folder / f"{peer}-{database}"
    place.mkdir()
    script = ROOT / "bench" / "online_store_peers.py"
    words = [str(python), str(script), peer, database, str(data), str(place), str(lookups)]
    print(f"{database}: {peer} …", file=sys.stderr, flush=True)
    if database == "sqlite":
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    else:
        sys.path.insert(0, str(ROOT))
        from ml_platform_tests import postgres

        with postgres.postgresql() as port:
            server = json.dumps({"port": port, "user": postgres.USER, "password": postgres.PASSWORD})
            done = subprocess.run([*words, server], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    result: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


_ROWS = {
    "rows_per_second": ("publish, rows/s", "{:,.0f}", True),
    "memory_mb": ("peak memory, MB", "{:,.0f}", False),
    "one_p50_ms": ("one key, p50 ms", "{:.3f}", False),
    "one_p99_ms": ("one key, p99 ms", "{:.3f}", False),
    "hundred_p50_ms": ("a hundred keys, p50 ms", "{:.2f}", False),
    "hundred_p99_ms": ("a hundred keys, p99 ms", "{:.2f}", False),
}


def _print(database: str, found: dict[str, dict[str, object]]) -> None:
    peers = [peer for peer in PEERS if peer in found]
    others = [peer for peer in peers if peer != "ours"]
    heads = [database, *peers, *(f"ours against {peer}" for peer in others)]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for key, (name, form, more_is_better) in _ROWS.items():
        values = {peer: float(str(found[peer][key])) for peer in peers}
        cells = [form.format(values[peer]) for peer in peers]
        for peer in others:
            better = values["ours"] / values[peer] if more_is_better else values[peer] / values["ours"]
            cells.append(f"{better:.1f} ×")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
