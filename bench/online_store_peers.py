"""One peer of the online store's benchmark, in a process of its own: publish, look up, print JSON.

Feast runs this file in its own environment, so each peer imports what it needs and nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES = [f"f{n}" for n in range(5)]
DAY = date(2024, 1, 1)
PROBES = [0, 1, 17, 4242, 9_999]

Lookup = Callable[[Sequence[int]], list[Any]]


def batches(data: Path) -> Iterator[pa.RecordBatch]:
    yield from pq.ParquetFile(data).iter_batches(batch_size=50_000)


def ours(url: str, data: Path) -> tuple[float, Lookup]:
    """The platform's store."""
    from ml_platform.contract.loading import parse_product
    from ml_platform.online_store.store import OnlineStore

    columns: dict[str, Any] = {"entity": {"type": "long"}, "day": {"type": "date"}}
    columns |= {name: {"type": "double", "nullable": True} for name in FEATURES}
    columns["label"] = {"type": "integer", "allowed": [0, 1], "nullable": True}
    product = parse_product(
        {
            "name": "bench",
            "description": "The benchmark's entities",
            "start": "2024-01-01",
            "source": {"key": ["entity"], "event_day": "day", "label": "label", "columns": columns},
            "mrds": {
                "entity": ["entity"],
                "aggregate": {**dict.fromkeys(FEATURES, "last"), "label": "last"},
            },
            "model": {
                "features": {"numeric": FEATURES},
                "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
            },
            "evaluation": {"threshold": 0.5},
        },
        "bench",
    )
    store = OnlineStore(url)

    def dated() -> Iterator[pa.RecordBatch]:
        for batch in batches(data):
            day = pa.array([DAY] * len(batch), pa.date32())
            yield batch.add_column(1, pa.field("event_day", pa.date32()), day)

    began = time.perf_counter()
    with store.publication(product, version=1, days=[DAY]) as publication:
        publication.stage(dated())
        publication.merge()
    seconds = time.perf_counter() - began

    def look_up(keys: Sequence[int]) -> list[Any]:
        rows = store.get(product, [(key,) for key in keys])
        return [row and [row[name] for name in FEATURES] for row in rows]

    return seconds, look_up


def plain_sqlite(url: str, data: Path) -> tuple[float, Lookup]:
    """`executemany` into staging, one upsert."""
    import sqlite3

    names = ", ".join(FEATURES)
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    columns = ", ".join(f"{name} REAL" for name in FEATURES)
    began = time.perf_counter()
    connection.execute(f"CREATE TABLE features (entity INTEGER PRIMARY KEY, {columns})")
    connection.execute(f"CREATE TEMP TABLE staging (entity INTEGER, {columns})")
    connection.execute("BEGIN")
    for batch in batches(data):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        connection.executemany(f"INSERT INTO staging VALUES (?{', ?' * len(FEATURES)})", rows)
    updates = ", ".join(f"{name} = excluded.{name}" for name in FEATURES)
    connection.execute(
        f"INSERT INTO features SELECT * FROM staging WHERE true ON CONFLICT (entity) DO UPDATE SET {updates}"
    )
    connection.execute("COMMIT")
    seconds = time.perf_counter() - began

    def look_up(keys: Sequence[int]) -> list[Any]:
        marks = ", ".join("?" * len(keys))
        query = f"SELECT entity, {names} FROM features WHERE entity IN ({marks})"
        found = {row[0]: list(row[1:]) for row in connection.execute(query, list(keys))}
        return [found.get(key) for key in keys]

    return seconds, look_up


def plain_postgresql(url: str, data: Path) -> tuple[float, Lookup]:
    """COPY into staging, one upsert."""
    import psycopg

    names = ", ".join(FEATURES)
    connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
    columns = ", ".join(f"{name} double precision" for name in FEATURES)
    began = time.perf_counter()
    connection.execute(f"CREATE TABLE features (entity bigint PRIMARY KEY, {columns})")
    connection.execute(f"CREATE TEMP TABLE staging (entity bigint, {columns})")
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy(f"COPY staging (entity, {names}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", *["float8"] * len(FEATURES)])
            for batch in batches(data):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    copy.write_row(row)
        updates = ", ".join(f"{name} = excluded.{name}" for name in FEATURES)
        cursor.execute(
            f"INSERT INTO features SELECT * FROM staging ON CONFLICT (entity) DO UPDATE SET {updates}"
        )
    seconds = time.perf_counter() - began

    def look_up(keys: Sequence[int]) -> list[Any]:
        query = f"SELECT entity, {names} FROM features WHERE entity = ANY(%s)"
        found = {row[0]: list(row[1:]) for row in connection.execute(query, (list(keys),), prepare=True)}
        return [found.get(key) for key in keys]

    return seconds, look_up


def feast(place: Path, data: Path, online: dict[str, Any]) -> tuple[float, Lookup]:
    """Feast, with its own online stores."""
    os.environ["FEAST_USAGE"] = "False"
    import warnings

    warnings.simplefilter("ignore")
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    source = FileSource(
        name="entities", path=str(place / "offline.parquet"), timestamp_field="event_timestamp"
    )
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    schema = [Field(name=name, dtype=Float64) for name in FEATURES]
    view = FeatureView(name="features", entities=[entity], schema=schema, source=source, online=True)
    stamp = datetime(2024, 1, 1, tzinfo=UTC)
    pq.write_table(
        pa.table({"entity": [0], "event_timestamp": [stamp], **{n: [0.0] for n in FEATURES}}),
        place / "offline.parquet",
    )
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(place / "registry.db"),
        online_store=online,
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([entity, view])
    began = time.perf_counter()
    for batch in batches(data):
        frame = batch.to_pandas()
        frame["event_timestamp"] = stamp
        store.write_to_online_store("features", frame)
    seconds = time.perf_counter() - began
    names = [f"features:{name}" for name in FEATURES]

    def look_up(keys: Sequence[int]) -> list[Any]:
        rows = [{"entity": int(key)} for key in keys]
        found = store.get_online_features(features=names, entity_rows=rows).to_dict()
        columns = [found[name] for name in FEATURES]
        return [None if values[0] is None else list(values) for values in zip(*columns, strict=True)]

    return seconds, look_up


def measure(look_up: Lookup, entities: int, lookups: int) -> dict[str, float]:
    """Milliseconds of single keys and of batches of a hundred, all random and there."""
    draw = np.random.default_rng(1)
    found = {}
    for name, size, count in (("one", 1, lookups), ("hundred", 100, max(lookups // 100, 10))):
        asked = draw.integers(0, entities, (count, size)).tolist()
        times = np.empty(count)
        for position, keys in enumerate(asked):
            began = time.perf_counter()
            look_up(keys)
            times[position] = time.perf_counter() - began
        found[f"{name}_p50_ms"] = float(np.quantile(times, 0.5) * 1000)
        found[f"{name}_p99_ms"] = float(np.quantile(times, 0.99) * 1000)
    return found


def main() -> None:
    """Run the peer that the arguments name."""
    peer, database, data_, place_, lookups = sys.argv[1:6]
    data, place = Path(data_), Path(place_)
    server = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}
    url = f"sqlite:///{place / 'store.db'}"
    online: dict[str, Any] = {"type": "sqlite", "path": str(place / "store.db")}
    if database == "postgresql":
        secret = quote(server["password"], safe="")
        url = f"postgresql+psycopg://{server['user']}:{secret}@127.0.0.1:{server['port']}/postgres"
        online = {
            "type": "postgres",
            "host": "127.0.0.1",
            "database": "postgres",
            "db_schema": "public",
            "sslmode": "disable",
            **server,
        }
    if peer == "ours":
        seconds, look_up = ours(url, data)
    elif peer == "plain":
        seconds, look_up = (plain_sqlite if database == "sqlite" else plain_postgresql)(url, data)
    else:
        seconds, look_up = feast(place, data, online)
    entities = pq.ParquetFile(data).metadata.num_rows
    lookups_ = int(lookups)
    result = {"rows_per_second": entities / seconds, **measure(look_up, entities, lookups_)}
    result["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["answers"] = look_up([key for key in PROBES if key < entities])  # type: ignore[assignment]
    print(json.dumps(result))


if __name__ == "__main__":
    with closing(sys.stdout):
        main()
