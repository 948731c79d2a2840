"""The windows of the drift report: the days of a month or of a model's training data, as they are compared.

Exact counts and ranges are of all rows; values are of at most as many rows as the contract says, of the same
entities on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ml_platform.contract.assets import ARDS, MRDS, PREDICTIONS
from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.days import add_months
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.engine.context import StepContext
from ml_platform.machine_learning import training
from ml_platform.machine_learning.model_history import ModelRecord
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.training_data import (
    can_hash_in_memory,
    entity_hash,
    entity_hashes_of,
    is_held_out,
    is_held_out_of,
)
from ml_platform.mlops.drift import measures
from ml_platform.mlops.drift.drift_report import MonthDrift
from ml_platform.mlops.drift.measures import PREDICTION, Column, Comparison, Summary, Window
from ml_platform.storage.tables import column

#: What a sample is drawn by: a hash of the entity and this, in so many steps.
_PURPOSE, _STEPS = "drift", 1_000_000
#: Values of a window, rows times columns, up to which this process reads them, without Spark.
_VALUES_HELD = 5_000_000
_PROBABILITY = "probability"


@dataclass(frozen=True)
class DriftPlan:
    """What a month is compared with.

    Attributes:
        days: the month's days that can be used.
        before: those of the month before, if that is a reference.
        training: those that the serving model was trained on, if they are.
        left_out: days of the month that can't be used, in words.
        unlabelled: days whose labels don't count yet.
        rows: the rows of these days, of the ARDS and of the predictions that can be used.
    """

    month: date
    days: list[date]
    before: list[date]
    model: ModelRecord | None
    training: list[date]
    left_out: list[str]
    unlabelled: frozenset[date]
    rows: Mapping[str, Mapping[date, int]]


class Windows:
    """Measures months one after another, and keeps the windows of one that the next needs too."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        #: The windows of the month before, and those of the present one, some of which are the same.
        self._earlier: dict[tuple[date, ...], Window] = {}
        self._windows: dict[tuple[date, ...], Window] = {}

    def measure(self, plan: DriftPlan) -> MonthDrift:
        """How far a month lies from its references."""
        product = self.context.product
        self._earlier, self._windows = self._windows, {}
        current = self._window(f"{plan.month:%Y-%m}", plan, plan.days)
        comparisons: list[Comparison] = []
        columns = measured_columns(product)
        if plan.before:
            before = self._window(f"{add_months(plan.month, -1):%Y-%m}", plan, plan.before)
            comparisons.append(measures.compare(product, columns, current, before))
        if plan.training and plan.model is not None:
            name = f"the training data of the model as of {plan.model.as_of}"
            learned = self._training_window(name, plan, plan.model)
            comparisons.append(measures.compare(product, columns, current, learned))
        rows = sum(plan.rows[ARDS][day] for day in plan.days)
        return MonthDrift(
            month=plan.month,
            model=f"v{plan.model.version}" if plan.model else None,
            rows=rows,
            left_out=plan.left_out,
            comparisons=comparisons,
            sampled=rows > product.drift.maximum_rows,
        )

    def _window(self, name: str, plan: DriftPlan, days: Sequence[date]) -> Window:
        """The ARDS and the predictions of some days; a window that the next month needs too is kept."""
        return self._kept(tuple(days), lambda: self._read_window(name, plan, days))

    def _kept(self, key: tuple[date, ...], read: Callable[[], Window]) -> Window:
        if key not in self._windows:
            self._windows[key] = self._earlier.get(key) or read()
        return self._windows[key]

    def _read_window(self, name: str, plan: DriftPlan, days: Sequence[date]) -> Window:
        window = self._ards(name, plan, days)
        scored = [day for day in days if day in plan.rows[PREDICTIONS]]
        if not scored:
            return window
        size = _size(plan, PREDICTIONS, scored)
        scores = self._sample(PREDICTIONS, plan, scored, [_PROBABILITY], size=size)
        return _with_predictions(window, scores[_PROBABILITY])

    def _training_window(self, name: str, plan: DriftPlan, model: ModelRecord) -> Window:
        key = (model.as_of, *plan.training)
        return self._kept(key, lambda: self._read_training_window(name, plan, model))

    def _read_training_window(self, name: str, plan: DriftPlan, model: ModelRecord) -> Window:
        context, product = self.context, self.context.product
        registry = Registry.of(context.settings)
        pipeline = registry.load(product, model.version, model.fingerprint).pipeline
        # On rows that it has learned from a flexible model is surer than on any others; where entities are
        # few there are no others.
        held_out = model.compared_by == "entities"
        size = _size(plan, ARDS, plan.training)
        names = product.model.features.all
        rows = self._sample(MRDS, plan, plan.training, names, size=size, held_out=held_out)
        scores = pd.Series(training.probabilities(pipeline, product, rows))
        return _with_predictions(self._ards(name, plan, plan.training), scores)

    def _ards(self, name: str, plan: DriftPlan, days: Sequence[date]) -> Window:
        """The days' ARDS: exact counts and ranges of all rows, values of at most the contract's maximum."""
        columns = [
            measured for measured in measured_columns(self.context.product) if measured.role != "prediction"
        ]
        names = [compared.name for compared in columns]
        size = _size(plan, ARDS, days)
        share = self._share(size)
        label = self.context.product.label
        early = sorted(plan.unlabelled.intersection(days))
        read = [*names, EVENT_DAY] if early else names
        held = self._held(ARDS, days, read, size, with_entity=share < _STEPS)
        if held is not None:
            if early:
                unknown = pc.is_in(held[EVENT_DAY], pa.array(early, pa.date32()))
                labels = pc.if_else(unknown, pa.scalar(None, held[label].type), held[label])
                held = held.set_column(held.column_names.index(label), label, labels)
            frame = held.select(names).to_pandas()
            sample = frame if share == _STEPS else self._drawn(held, share).select(names).to_pandas()
            summaries = {compared.name: _summary_of(frame[compared.name], compared) for compared in columns}
        else:
            rows = self._opened(ARDS, days)
            if early:
                rows = rows.withColumn(label, F.when(~F.col(EVENT_DAY).isin(early), column(label)))
            sample = self._drawn_by_spark(rows, share, names)
            facts = rows.agg(F.count(F.lit(1)).alias("rows"), *_aggregates(columns)).collect()[0].asDict()
            summaries = {compared.name: _summary(compared, facts) for compared in columns}
        return Window(name, {compared.name: sample[compared.name] for compared in columns}, summaries)

    # -- reading -------------------------------------------------------------------------------------

    def _sample(
        self,
        table: str,
        plan: DriftPlan,
        days: Sequence[date],
        names: Sequence[str],
        *,
        size: int,
        held_out: bool = False,
    ) -> pd.DataFrame:
        """Some days' rows, at most about the contract's maximum.

        Args:
            size: the rows that tell how large a share that is.
            held_out: take only entities that no model learns from.
        """
        product, share = self.context.product, self._share(size)
        values = _size(plan, ARDS, days)
        held = self._held(table, days, names, values, with_entity=held_out or share < _STEPS)
        if held is not None:
            if held_out:
                held = held.filter(pa.array(is_held_out_of(product, held)))
            found: pd.DataFrame = self._drawn(held, share).select(list(names)).to_pandas()
            return found
        rows = self._opened(table, days)
        return self._drawn_by_spark(rows.where(is_held_out(product)) if held_out else rows, share, names)

    def _share(self, size: int) -> int:
        """The share of the entities that are compared, in steps: by hash, the same ones on every run."""
        maximum = self.context.product.drift.maximum_rows
        return int(_STEPS * maximum / size) if size > maximum else _STEPS

    def _drawn(self, held: pa.Table, share: int) -> pa.Table:
        if share == _STEPS:
            return held
        hashes = entity_hashes_of(self.context.product, held, _PURPOSE, _STEPS)
        return held.filter(pa.array(hashes < share))

    def _drawn_by_spark(self, rows: DataFrame, share: int, names: Sequence[str]) -> pd.DataFrame:
        if share < _STEPS:
            rows = rows.where(entity_hash(self.context.product, _PURPOSE, _STEPS) < share)
        return cast("pd.DataFrame", rows.select(*[column(name) for name in names]).toArrow().to_pandas())

    def _held(
        self, table: str, days: Sequence[date], names: Sequence[str], rows: int, *, with_entity: bool
    ) -> pa.Table | None:
        """Columns of some days' rows, if this process can read and hold them."""
        product, tables = self.context.product, self.context.tables
        files = tables.day_files(product.name, table)
        needed = list(dict.fromkeys((*names, *product.entity) if with_entity else names))
        if files is None or rows * len(needed) > _VALUES_HELD:
            return None
        if with_entity and not can_hash_in_memory(product):
            return None
        return files.read_all(tables.version(product.name, table), days, needed)

    def _opened(self, table: str, days: Sequence[date]) -> DataFrame:
        context = self.context
        return context.tables.read_days(context.spark, context.product.name, table, days)


def _size(plan: DriftPlan, asset: str, days: Sequence[date]) -> int:
    """The rows of some days of an asset."""
    return sum(plan.rows[asset].get(day, 0) for day in days)


def measured_columns(product: Product) -> list[Column]:
    """What is compared: the ARDS's numbers and categories, the label, the predicted probability.

    Columns of the key tell rows apart and are left out, unless the model learns from them.
    """
    learned = {name for name in product.model.features.all if product.mrds.aggregate.get(name) != "count"}
    keys = {*product.ards_key, *product.entity} - (learned - set(product.entity))
    features = []
    for name, declared in product.source.columns.items():
        if name in keys or name == product.label:
            continue
        if declared.type in NUMERIC_TYPES:
            features.append(Column(name, "numeric", "feature"))
        elif declared.type in ("string", "boolean"):
            features.append(Column(name, "categorical", "feature"))
    return [
        *features,
        Column(product.label, "categorical", "label"),
        Column(PREDICTION, "numeric", "prediction"),
    ]


def _aggregates(columns: Sequence[Column]) -> list[Any]:
    found = []
    for compared in columns:
        value = column(compared.name)
        if compared.kind == "numeric":
            number = value.cast("double")
            value = F.when(~F.isnan(number) & (F.abs(number) != F.lit(float("inf"))), number)
            found += [
                F.min(value).alias(f"minimum {compared.name}"),
                F.max(value).alias(f"maximum {compared.name}"),
            ]
        found.append(F.count(value).alias(f"values {compared.name}"))
    return found


def _summary(one: Column, facts: Mapping[str, Any]) -> Summary:
    rows, values = facts["rows"], facts[f"values {one.name}"]
    if one.role == "label":
        rows = values  # a label that hasn't come is no null
    return Summary(rows, rows - values, facts.get(f"minimum {one.name}"), facts.get(f"maximum {one.name}"))


def _summary_of(values: pd.Series, one: Column) -> Summary:
    """What :func:`_summary` says, of values that are held in memory."""
    known = values.dropna()
    bounds: tuple[float | None, float | None] = (None, None)
    if one.kind == "numeric":
        known = known.astype("float64")
        known = known[np.isfinite(known)]
        if len(known):
            bounds = (float(known.min()), float(known.max()))
    rows = len(known) if one.role == "label" else len(values)
    return Summary(rows, rows - len(known), *bounds)


def _with_predictions(window: Window, scores: pd.Series) -> Window:
    summary = _summary_of(scores, Column(PREDICTION, "numeric", "prediction"))
    return Window(
        window.name,
        dict(window.sample) | {PREDICTION: scores},
        dict(window.summaries) | {PREDICTION: summary},
    )
