"""What becomes of records, against a plain loop over them: of a whole day, in buckets, and brought down."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data_engineering import buckets, resolution
from ml_platform_tests.small_platform import D, shop

DAY = D("2024-01-01")
PRODUCT = shop(source__key=["visit", "customer"])
KEYS = resolution.keys(PRODUCT)

ENTRY = st.tuples(
    st.sampled_from(["row", "row", "label", "earlier_label"]),
    st.integers(0, 4),  # visit
    st.sampled_from(["ann", "bob"]),
    st.sampled_from([None, 0, 1]),  # label
    st.integers(0, 3),  # file
)


def entries_of(drawn: list[tuple[str, int, str, int | None, int]]) -> pa.Table:
    """Records in the order of their files, each with a spend of its own."""
    ordered = sorted(drawn, key=lambda record: record[4])
    known = [DAY + timedelta(days=5 - file) if label is not None else None for *_, label, file in ordered]
    columns: dict[str, Any] = {
        "_file_number": [file for *_, file in ordered],
        "_record": range(len(ordered)),
        "_kind": [kind if kind == "row" or label is not None else "row" for kind, _, _, label, _ in ordered],
        "visit": [visit for _, visit, *_ in ordered],
        "customer": [customer for _, _, customer, *_ in ordered],
        "day": [DAY] * len(ordered),
        "spend": [float(place) for place in range(len(ordered))],
        "bought": [label for *_, label, _ in ordered],
        "label_known_on": known,
    }
    schema = resolution.entry_schema(PRODUCT)
    arrays = [pa.array(columns.get(field.name, [None] * len(ordered)), field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def expected(entries: pa.Table) -> tuple[dict[Any, Any], int, list[int]]:
    """Rows by key, keys that got a label from a label file, and record numbers of labels without a row."""
    rows: dict[Any, dict[str, Any]] = {}
    labels: dict[Any, list[tuple[int, date]]] = {}
    of_files: dict[Any, list[tuple[str, int]]] = {}
    for record in entries.to_pylist():
        key = (record["visit"], record["customer"])
        if record["bought"] is not None:
            labels.setdefault(key, []).append((record["bought"], record["label_known_on"]))
        if record["_kind"] == "row":
            rows[key] = record
        else:
            of_files.setdefault(key, []).append((record["_kind"], record["_record"]))
    found = {}
    for key, record in rows.items():
        given_ = labels.get(key, [])
        label = given_[-1][0] if given_ else None
        known_on = min((known for value, known in given_ if value == label), default=None)
        found[key] = (record["spend"], label, known_on)
    orphans = [
        number
        for key, given_ in of_files.items()
        for kind, number in given_
        if key not in rows and kind == "label"
    ]
    return found, sum(key in rows for key in of_files), sorted(orphans)


def summary(*resolved: resolution.Resolved) -> tuple[dict[Any, Any], int, list[int]]:
    rows = [row for part in resolved for row in part.rows.to_pylist()]
    found = {
        (row["visit"], row["customer"]): (row["spend"], row["bought"], row["label_known_on"]) for row in rows
    }
    assert len(found) == len(rows)
    orphans = [number for part in resolved for number in part.orphans["_record"].to_pylist()]
    return found, sum(part.labels_applied for part in resolved), sorted(orphans)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(drawn=st.lists(ENTRY, max_size=40), count=st.integers(1, 5), cut=st.integers(0, 40))
def test_records_become_what_a_loop_over_them_finds(
    drawn: list[tuple[str, int, str, int | None, int]], count: int, cut: int
) -> None:
    entries = entries_of(drawn)
    wanted = expected(entries)
    assert summary(resolution.resolve(PRODUCT, DAY, entries)) == wanted

    numbers = buckets.assigned([entries[name] for name in KEYS], len(entries))
    in_buckets = [entries.filter(pa.array(numbers % np.uint64(count) == bucket)) for bucket in range(count)]
    assert summary(*[resolution.resolve(PRODUCT, DAY, part) for part in in_buckets]) == wanted

    # Parts that are brought down to what counts, as those of large files are before they come together.
    brought_down = []
    for part in (entries.slice(0, cut), entries.slice(cut)):
        alike = np.zeros(len(part), dtype=np.uint64)
        needed = resolution.needed(PRODUCT, part, alike) if len(part) > 2 else None
        brought_down.append(part if needed is None else part.take(pa.array(needed)))
    assert summary(resolution.resolve(PRODUCT, DAY, pa.concat_tables(brought_down))) == wanted


def test_a_key_with_many_records_takes_the_room_of_few() -> None:
    drawn = [("row", 1, "ann", 1, n % 4) for n in range(5000)] + [("label", 1, "ann", 0, 3)] * 1000
    entries = entries_of(drawn)
    numbers = buckets.assigned([entries[name] for name in KEYS], len(entries))
    needed = resolution.needed(PRODUCT, entries, numbers)
    assert needed is not None
    assert len(needed) <= 8
    kept = resolution.resolve(PRODUCT, DAY, entries.take(pa.array(needed)))
    assert summary(kept) == summary(resolution.resolve(PRODUCT, DAY, entries)) == expected(entries)
    assert (
        resolution.needed(PRODUCT, entries_of([("row", n, "ann", 1, 0) for n in range(9)]), np.arange(9))
        is None
    )


@pytest.mark.parametrize("key", [["day"], ["visit"]])
def test_a_day_may_have_one_key(key: list[str]) -> None:
    product = shop(source__key=key, mrds__order_by=["visit"])
    entries = entries_of([("row", 1, "ann", None, 0), ("row", 1, "bob", None, 1), ("label", 1, "bob", 1, 2)])
    found = resolution.resolve(product, DAY, entries)
    assert found.rows.num_rows == 1
    assert found.rows["bought"].to_pylist() == [1]
    assert found.labels_applied == 1
