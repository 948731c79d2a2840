"""The windows of the drift report: the days of a month or of a model's training data, as they are compared.

Exact counts and ranges are of all rows; values are of at most as many rows as the contract says, of the same
entities on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.assets import ARDS, MRDS, PREDICTIONS
from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.days import add_months
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation
from ml_platform.data_engineering.day_rows import Kernel, day_rows, subschema
from ml_platform.data_engineering.resolution import rows_schema
from ml_platform.engine.context import StepContext
from ml_platform.engine.trained_again import Loaded
from ml_platform.machine_learning import predicted_rows
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_history import ModelRecord
from ml_platform.machine_learning.training_data import (
    is_held_out,
    sampled,
    share_of,
)
from ml_platform.mlops.drift import measures
from ml_platform.mlops.drift.drift_report import MonthDrift
from ml_platform.mlops.drift.measures import Column, Comparison, Summary, Window

#: What a sample is drawn by: a hash of the entity and this.
_PURPOSE = "drift"
#: The figures of no rows at all.
_NOTHING = Summary(0, 0, None, None)
_SUMMARIES = pa.schema(
    [
        ("column", pa.string()),
        ("rows", pa.int64()),
        ("nulls", pa.int64()),
        ("minimum", pa.float64()),
        ("maximum", pa.float64()),
    ]
)


@dataclass(frozen=True)
class DriftPlan:
    """What a month is compared with.

    Attributes:
        days: the month's days that can be used.
        before: those of the month before, if that is a reference.
        training: those that the serving model was trained on, if they are.
        left_out: days of the month that can't be used, in words.
        unlabelled: days whose labels don't count yet.
        rows: the rows of these days, of the ARDS, and of the MRDS and the predictions that can be used.
    """

    month: date
    days: list[date]
    before: list[date]
    model: ModelRecord | None
    training: list[date]
    left_out: list[str]
    unlabelled: frozenset[date]
    rows: Mapping[str, Mapping[date, int]]

    @property
    def learned(self) -> ModelRecord | None:
        """The model whose training data is a reference."""
        return self.model if self.training else None


class Windows:
    """Measures months one after another, and keeps the windows of one that the next needs too."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        #: The windows of the month before, and those of the present one, some of which are the same.
        self._earlier: dict[tuple[date, ...], Window] = {}
        self._windows: dict[tuple[date, ...], Window] = {}

    def measure(self, plan: DriftPlan, model: Loaded | None) -> MonthDrift:
        """How far a month lies from its references.

        Args:
            model: the one that :attr:`DriftPlan.learned` names, if it names one.
        """
        product = self.context.product
        self._earlier, self._windows = self._windows, {}
        current = self._window(f"{plan.month:%Y-%m}", plan, plan.days)
        comparisons: list[Comparison] = []
        columns = measured_columns(product)
        if plan.before:
            before = self._window(f"{add_months(plan.month, -1):%Y-%m}", plan, plan.before)
            comparisons.append(measures.compare(product, columns, current, before))
        if model is not None:
            name = f"the training data of the model as of {model.record.as_of}"
            learned = self._training_window(name, plan, model)
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
        window = self._delivered_and_made(name, plan, days)
        scored = [day for day in days if day in plan.rows[PREDICTIONS]]
        if not scored:
            return window
        share = self._share(_size(plan, PREDICTIONS, scored))
        product = self.context.product
        schema, (column, _) = predicted_rows.schema(product), product.task.measured
        scores = self._read(PREDICTIONS, scored, schema, [column], share)
        return _with_predictions(product, window, scores[column])

    def _training_window(self, name: str, plan: DriftPlan, model: Loaded) -> Window:
        key = (model.record.as_of, *plan.training)
        return self._kept(key, lambda: self._read_training_window(name, plan, model))

    def _read_training_window(self, name: str, plan: DriftPlan, model: Loaded) -> Window:
        product = self.context.product
        # On rows that it has learned from a flexible model is surer than on any others; where entities are
        # few there are no others.
        held_out = model.record.compared_by == "entities"
        share = self._share(_size(plan, ARDS, plan.training))
        names, schema = product.model.features.all, aggregation.schema(product)
        rows = self._read(MRDS, plan.training, schema, names, share, held_out=held_out)
        kind = kind_of(product)
        scores = pd.Series(kind.measured(kind.predict(model.pipeline, rows)))
        return _with_predictions(product, self._delivered_and_made(name, plan, plan.training), scores)

    def _delivered_and_made(self, name: str, plan: DriftPlan, days: Sequence[date]) -> Window:
        """The days' ARDS, and what the MRDS has beyond it."""
        product = self.context.product
        window = self._columns(name, plan, ARDS, days, columns_of_ards(product), rows_schema(product))
        made = columns_of_mrds(product)
        if not made:
            return window
        usable = [day for day in days if plan.rows[MRDS].get(day)]
        of_mrds = self._columns(name, plan, MRDS, usable, made, aggregation.schema(product))
        return Window(name, {**window.sample, **of_mrds.sample}, {**window.summaries, **of_mrds.summaries})

    def _columns(
        self,
        name: str,
        plan: DriftPlan,
        table: str,
        days: Sequence[date],
        columns: Sequence[Column],
        given: pa.Schema,
    ) -> Window:
        """Columns of a table: exact counts and ranges of all rows, values of at most the contract's maximum.

        Args:
            given: the table's schema.
        """
        product = self.context.product
        names, share = [compared.name for compared in columns], self._share(_size(plan, table, days))
        if not days:
            nothing = given.empty_table().select(names).to_pandas()
            return Window(name, dict(nothing.items()), dict.fromkeys(names, _NOTHING))
        schema = subschema(given, [*names, *product.entity, EVENT_DAY])
        known = _without_labels(product, sorted(plan.unlabelled.intersection(days)))
        rows = day_rows(self.context.open_spark, self.context.tables, product.name, table, days, schema)
        parts = rows.map(lambda piece: _summarized(known(piece), columns), _SUMMARIES)
        sample = rows.map(
            lambda piece: sampled(product, known(piece), _PURPOSE, share).select(names),
            subschema(schema, names),
        ).to_pandas()
        summaries = _summaries(parts, columns)
        return Window(name, {compared.name: sample[compared.name] for compared in columns}, summaries)

    def _read(
        self,
        table: str,
        days: Sequence[date],
        schema: pa.Schema,
        names: Sequence[str],
        share: int,
        *,
        held_out: bool = False,
    ) -> pd.DataFrame:
        """Columns of a table's rows on some days, of some millionths of the entities.

        Args:
            held_out: take only entities that no model learns from.
        """
        product = self.context.product
        given = subschema(schema, [*names, *product.entity])

        def choose(piece: pa.Table) -> pa.Table:
            if held_out:
                piece = piece.filter(pa.array(is_held_out(product, piece)))
            return sampled(product, piece, _PURPOSE, share).select(names)

        rows = day_rows(self.context.open_spark, self.context.tables, product.name, table, days, given)
        found: pd.DataFrame = rows.map(choose, subschema(schema, names)).to_pandas()
        return found

    def _share(self, size: int) -> int:
        """The millionths of the entities that are compared: by hash, the same ones on every run."""
        return share_of(self.context.product.drift.maximum_rows, size)


def _without_labels(product: Product, days: Sequence[date]) -> Kernel:
    """Rows of a table, those of some days without their labels."""

    def hide(rows: pa.Table) -> pa.Table:
        if not days or product.label not in rows.column_names:
            return rows
        label = rows[product.label]
        unknown = pc.is_in(rows[EVENT_DAY], pa.array(days, pa.date32()))
        hidden = pc.if_else(unknown, pa.scalar(None, label.type), label)
        return rows.set_column(rows.column_names.index(product.label), product.label, hidden)

    return hide


def _size(plan: DriftPlan, asset: str, days: Sequence[date]) -> int:
    """The rows of some days of an asset."""
    return sum(plan.rows[asset].get(day, 0) for day in days)


def measured_columns(product: Product) -> list[Column]:
    """What is compared: columns of the ARDS, those that only the MRDS has, labels, and predictions."""
    return [*columns_of_ards(product), *columns_of_mrds(product), _prediction(product)]


def columns_of_ards(product: Product) -> list[Column]:
    """The ARDS's numbers and categories, and the label that is delivered.

    Columns of the key tell rows apart and are left out, unless the model learns from them.
    """
    learned = {name for name in product.model.features.all if product.mrds.aggregate.get(name) != "count"}
    keys = {*product.ards_key, *product.entity} - (learned - set(product.entity))
    types = {name: declared.type for name, declared in product.columns.items() if name not in keys}
    types.pop(product.source.label or "", None)
    found = _features(types)
    if product.source.label is not None:
        found.append(Column(product.label, product.task.label_varies, "label"))
    return found


def columns_of_mrds(product: Product) -> list[Column]:
    """What the MRDS makes of many days or of other columns: features, and a label that looks ahead.

    The columns that count the usable days of windows are left out, unless the model learns from them.
    """
    names = [name for name in product.mrds.trailing if name in product.model.features.all]
    names = list(dict.fromkeys([*product.mrds.features, *names]))
    found = _features({name: product.mrds_type(name) for name in names})
    return [*found, *(Column(name, product.task.label_varies, "label") for name in product.mrds.ahead)]


def _features(types: Mapping[str, str]) -> list[Column]:
    """Of some columns those that can be compared."""
    found: list[Column] = []
    for name, type_ in types.items():
        if type_ in NUMERIC_TYPES:
            found.append(Column(name, "numeric", "feature"))
        elif type_ in ("string", "boolean"):
            found.append(Column(name, "categorical", "feature"))
    return found


def _prediction(product: Product) -> Column:
    """What is measured of the predictions."""
    return Column(product.task.measured[1], product.task.prediction_varies, "prediction")


def _summarized(rows: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The figures of some rows' columns, which add up."""
    found = {compared: _summary_of(rows[compared.name].to_pandas(), compared) for compared in columns}
    facts = [
        {
            "column": compared.name,
            "rows": part.rows,
            "nulls": part.nulls,
            "minimum": part.minimum,
            "maximum": part.maximum,
        }
        for compared, part in found.items()
    ]
    return pa.Table.from_pylist(facts, schema=_SUMMARIES)


def _summaries(parts: pa.Table, columns: Sequence[Column]) -> dict[str, Summary]:
    """The figures of each column, of those of all parts of the rows."""
    added = parts.group_by("column").aggregate(
        [("rows", "sum"), ("nulls", "sum"), ("minimum", "min"), ("maximum", "max")]
    )
    found = {
        row["column"]: Summary(row["rows_sum"], row["nulls_sum"], row["minimum_min"], row["maximum_max"])
        for row in added.to_pylist()
    }
    return {compared.name: found.get(compared.name, _NOTHING) for compared in columns}


def _summary_of(values: pd.Series, compared: Column) -> Summary:
    """How many values a column has; a label that hasn't come is no missing one."""
    known = values.dropna()
    bounds: tuple[float | None, float | None] = (None, None)
    if compared.kind != "categorical":
        known = known.astype("float64")
        known = known[np.isfinite(known)]
        if len(known):
            bounds = (float(known.min()), float(known.max()))
    rows = len(known) if compared.role == "label" else len(values)
    return Summary(rows, rows - len(known), *bounds)


def _with_predictions(product: Product, window: Window, scores: pd.Series) -> Window:
    compared = _prediction(product)
    return Window(
        window.name,
        dict(window.sample) | {compared.name: scores},
        dict(window.summaries) | {compared.name: _summary_of(scores, compared)},
    )
