"""The hash of rows' content, against Spark's own XXH64 and aggregates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from ml_platform.storage import fingerprints
from ml_platform.storage.fingerprints import EMPTY, ContentSums
from ml_platform_tests.typed_rows import typed_rows


def by_spark(spark: SparkSession, rows: pa.Table, columns: list[str]) -> str:
    """What fingerprints have been since the first ones that were stored, in Spark's words."""
    names = sorted(columns)
    values = [F.col(name) for name in names]
    sums = [
        F.sum(F.xxhash64(F.lit(seed), *values, *[value.isNull() for value in values]).cast("decimal(38,0)"))
        for seed in ("a", "b")
    ]
    texts = [F.lit(",".join(names)), *[column.cast("string") for column in (F.count(F.lit(1)), *sums)]]
    hashed = F.substring(F.sha2(F.concat_ws("|", *texts), 256), 1, 32)
    return str(spark.createDataFrame(rows).agg(hashed.alias("hash")).collect()[0]["hash"])


def content_hash(rows: pa.Table, columns: list[str]) -> str:
    return ContentSums.of(rows, columns).fingerprint(columns)


def rows(seed: int) -> pa.Table:
    """Every type, strings of all lengths up to three stripes of the hash, and doubles of many bits."""
    draw = np.random.default_rng(seed)
    found = typed_rows(seed)
    letters = np.array(list("abz é\U0001f600"))
    texts = ["".join(draw.choice(letters, length % 100)) for length in range(len(found))]
    odd = draw.choice([0.0, -0.0, np.nan, -np.inf, 5e-324, 0.1], len(found))
    found = found.append_column("text", pa.array(texts, mask=draw.random(len(found)) < 0.1))
    found = found.append_column("nothing", pa.nulls(len(found), pa.string()))
    return found.append_column("odd", pa.array(odd))


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_in_memory_have_the_hash_that_spark_gives_them(spark: SparkSession, seed: int) -> None:
    given = rows(seed)
    assert by_spark(spark, given, given.column_names) == content_hash(given, given.column_names)
    found = {name: content_hash(given, [name]) for name in given.column_names}
    assert found["text"] == by_spark(spark, given, ["text"])
    assert found["odd"] == by_spark(spark, given, ["odd"])
    assert len(set(found.values())) == len(found)


def test_parts_add_up_to_the_whole() -> None:
    given = rows(1)
    names = given.column_names
    parts = [given.slice(0, 7), given.slice(7, 0), given.slice(7)]
    added = sum((ContentSums.of(part, names) for part in parts), ContentSums())
    assert added == ContentSums.of(given, names)
    assert added.fingerprint(names) == content_hash(given, names)


def test_the_order_of_rows_and_columns_and_the_chunks_do_not_count_and_every_value_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = rows(2)
    names = given.column_names
    expected = content_hash(given, names)
    shuffled = given.take(np.random.default_rng(1).permutation(len(given)))
    parts = pa.concat_tables([shuffled.slice(0, 100), shuffled.slice(100)])
    assert content_hash(parts, names[::-1]) == expected
    monkeypatch.setattr(fingerprints, "_ROWS_AT_ONCE", 7)
    assert content_hash(parts, names) == expected
    assert content_hash(given.slice(1), names) != expected
    for name in ("amount", "text", "nothing"):
        at = names.index(name)
        others = given[name].combine_chunks().take(np.roll(np.arange(len(given)), 1))
        if name == "nothing":
            others = pa.array(["", *[None] * (len(given) - 1)])
        assert content_hash(given.set_column(at, name, others), names) != expected, name


def test_a_null_is_not_the_value_beside_it() -> None:
    left = pa.table({"a": pa.array([None, 1], pa.int64()), "b": pa.array([1, None], pa.int64())})
    right = pa.table({"a": pa.array([1, None], pa.int64()), "b": pa.array([1, None], pa.int64())})
    assert content_hash(left, ["a", "b"]) != content_hash(right, ["a", "b"])


def test_no_rows_have_a_fingerprint_of_their_own_and_unknown_types_none() -> None:
    assert content_hash(rows(1).slice(0, 0), ["text"]) == EMPTY
    with pytest.raises(TypeError, match="list<item: int64>"):
        content_hash(pa.table({"a": [[1]]}), ["a"])
