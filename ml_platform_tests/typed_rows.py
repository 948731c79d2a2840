"""Rows with a column of every type that a contract may have."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

TYPED = {
    "key": ["id"],
    "event_day": "day",
    "label": "bought",
    "columns": {
        "id": {"type": "long"},
        "day": {"type": "date"},
        "who": {"type": "integer", "nullable": True},
        "name": {"type": "string", "nullable": True},
        "amount": {"type": "double", "nullable": True},
        "count": {"type": "integer", "nullable": True},
        "big": {"type": "long", "nullable": True},
        "flag": {"type": "boolean", "nullable": True},
        "born": {"type": "date", "nullable": True},
        "seen": {"type": "timestamp", "nullable": True},
        "bought": {"type": "integer", "nullable": True},
    },
}
DAY = date(2024, 1, 5)


def typed_rows(seed: int) -> pa.Table:
    """Rows of an ARDS of ``TYPED`` on ``DAY``, with nulls everywhere they may be."""
    draw = np.random.default_rng(seed)
    n = 300

    def some(values: Any, type_: pa.DataType) -> pa.Array:
        return pa.array(values, mask=draw.random(n) < 0.3).cast(type_)

    return pa.table(
        {
            "id": draw.permutation(n),
            "day": pa.repeat(pa.scalar(DAY), n),
            "who": some(draw.integers(0, 40, n), pa.int32()),
            "name": some(draw.choice(["", "é", "z", "Z", "\U0001f600"], n), pa.string()),
            "amount": some(draw.choice([np.inf, -1e300, 0.1, 0.2, 0.3, 1e-300, 1e16], n), pa.float64()),
            "count": some(draw.integers(-(2**31), 2**31, n), pa.int32()),
            "big": some(draw.integers(-(2**53), 2**53, n), pa.int64()),
            "flag": some(draw.random(n) < 0.5, pa.bool_()),
            "born": some(draw.integers(-30_000, 30_000, n).astype("int32"), pa.int32()).cast(pa.date32()),
            "seen": some(draw.integers(-(2**50), 2**50, n), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "bought": some(draw.integers(0, 2, n), pa.int32()),
            "label_known_on": some(draw.integers(19_700, 19_800, n), pa.int32()).cast(pa.date32()),
        }
    )
