"""Rows of the product ``shop`` as a publication takes them, for tests of the online store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.online_store.store import Merged, OnlineStore

MONDAY = date(2024, 1, 1)
TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=n) for n in (1, 2, 3))


def row(customer: str, day: date, spend: float | None) -> dict[str, Any]:
    return {"customer": customer, "event_day": day, "spend": spend, "pages": 1, "channel": "web", "visit": 1}


def batches(rows: Sequence[dict[str, Any]]) -> list[pa.RecordBatch]:
    return pa.Table.from_pylist(list(rows)).to_batches() if rows else []


def publish(
    store: OnlineStore,
    product: Product,
    rows: Sequence[dict[str, Any]],
    *,
    version: int = 0,
    days: Sequence[date] = (),
    earlier: Sequence[dict[str, Any]] = (),
) -> Merged:
    """Publish ``rows``; of ``earlier``, those of withdrawn entities are their fallback."""
    chosen = days or sorted({one["event_day"] for one in rows})
    with store.publication(product, version=version, days=chosen) as publication:
        publication.stage(batches(rows))
        for gone in publication.withdrawn():
            before = {key[0]: key[-1] for key in gone}
            rest = [one for one in earlier if one["event_day"] < before.get(one["customer"], date.min)]
            publication.stage_earlier(batches(rest))
        merged = publication.merge()
    store.read_back(product, merged)
    return merged


def spends(store: OnlineStore, product: Product) -> list[tuple[str, date, float | None]]:
    return [(one["customer"], one["event_day"], one["spend"]) for one in store.rows(product)]
