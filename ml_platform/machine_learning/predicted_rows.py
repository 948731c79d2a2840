"""The rows of the predictions: what a model says of a day's rows of the MRDS, with ranks where it has any.

Everything here is a function of some rows and a model; how they come to it is :mod:`.scoring`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.tasks import RANK
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.kind import Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.ranks import Ranks, keys_of
from ml_platform.storage.fingerprints import hashes_of

PREDICTIONS = "predictions"

#: Rows that are scored at once: what a pipeline makes of its features may be far wider than they are.
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class ServingModel:
    """A model that serves some days: the fitted pipeline and what its predictions carry along."""

    pipeline: Any
    threshold: float | None
    name: str
    version: str
    as_of: date
    fingerprint: str


def schema(product: Product) -> pa.Schema:
    """The schema of the predictions."""
    entity = product.entity_of_day
    return pa.schema(
        [
            *[(name, ARROW_TYPES[product.mrds_type(name)]) for name in entity],
            (EVENT_DAY, pa.date32()),
            *[(output.name, ARROW_TYPES[output.type]) for output in product.task.outputs(product)],
            ("model_name", pa.string()),
            ("model_version", pa.string()),
            ("model_as_of", pa.date32()),
            ("model_fingerprint", pa.string()),
        ]
    )


def score(
    product: Product,
    day: date,
    rows: pa.Table,
    model: ServingModel,
    present: pa.Table | None = None,
    ranks: Ranks | None = None,
) -> pa.Table:
    """Predictions of a day's rows of the MRDS, or of a bucket of them, in :func:`schema`.

    Args:
        present: predictions of the same entities that stay; only rows without one are scored.
        ranks: of all the day's new rows, if these are not all of them, and if predictions are ranked.
    """
    scored = predictions(product, day, new_rows(product, rows, present), model)
    if product.deepest_rank is not None:
        if ranks is None:
            ranks = Ranks.of(
                product, scored, _probability(scored), len(present) if present is not None else 0
            )
        columns = ranks.columns(product, keys_of(product, scored, _probability(scored)))
        for name, values in columns.items():
            scored = scored.set_column(scored.schema.get_field_index(name), scored.schema.field(name), values)
    if present is None or not len(present):
        return scored
    return pa.concat_tables([present.cast(scored.schema), scored])


def new_rows(product: Product, rows: pa.Table, present: pa.Table | None) -> pa.Table:
    """The rows that have no prediction yet."""
    if present is None or not len(present):
        return rows
    known, asked = (_row_keys(product, table) for table in (present, rows))
    return rows.filter(pa.array(~asked.isin(known)))


def ranks_of(product: Product, rows: pa.Table, model: ServingModel, present: pa.Table | None) -> Ranks:
    """The ranks among some new rows, with the number of those that have predictions already."""
    kind = kind_of(product)
    outputs = kind.stored(kind.together(_outputs(product, rows, model)), model.threshold)
    return Ranks.of(product, rows, outputs["probability"], len(present) if present is not None else 0)


def _outputs(product: Product, rows: pa.Table, model: ServingModel) -> list[Predictions]:
    kind = kind_of(product)
    return [
        kind.predict(model.pipeline, rows.slice(start, _ROWS_AT_ONCE).to_pandas())
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]


def _probability(scored: pa.Table) -> Floats:
    found: Floats = scored["probability"].to_numpy()
    return found


def _row_keys(product: Product, rows: pa.Table) -> pd.MultiIndex:
    """What tells rows apart: 128 bits of hashes of their keys, in which a missing value counts too."""
    values = [rows[name] for name in product.identity]
    hashes = hashes_of(("a", "b"), [*values, *(value.is_null() for value in values)])
    return pd.MultiIndex.from_arrays([*hashes])


def predictions(product: Product, day: date, rows: pa.Table, model: ServingModel) -> pa.Table:
    """Predictions for a day's rows of the MRDS, in :func:`schema` and their order; none of them is ranked."""
    kind = kind_of(product)
    outputs = kind.stored(kind.together(_outputs(product, rows, model)), model.threshold)
    found = {name: rows[name] for name in product.entity if name != EVENT_DAY} | dict(outputs)
    alike: dict[str, Any] = {
        EVENT_DAY: day,
        "model_name": model.name,
        "model_version": model.version,
        "model_as_of": model.as_of,
        "model_fingerprint": model.fingerprint,
    }
    ordered = schema(product)
    if product.deepest_rank is not None:
        alike[RANK] = None
    found |= {
        name: pa.repeat(pa.scalar(value, ordered.field(name).type), len(rows))
        for name, value in alike.items()
    }
    return pa.table({name: found[name] for name in ordered.names}).cast(ordered)
