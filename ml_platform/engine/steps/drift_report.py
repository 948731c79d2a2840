"""The monthly drift report: the month's ARDS and predictions against earlier windows.

Compared are the ARDS's columns that are neither keys nor dates, the label of the days whose labels can be
known, and the predicted probability. The references are the month before, and the days that the model
serving at the month's end was trained on; of these the probability is what that model gives the entities
held out from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ml_platform.contract.assets import NO_DRIFT
from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.days import add_months
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import presence
from ml_platform.engine.context import StepContext, days_between, left_out
from ml_platform.engine.report_targets import report_store
from ml_platform.engine.run_days import DailyStep
from ml_platform.engine.step import Check, Inputs, Written
from ml_platform.machine_learning import training
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.promotion import serving
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.scoring import PREDICTIONS
from ml_platform.machine_learning.training_data import (
    can_hash_in_memory,
    entity_hash,
    entity_hashes_of,
    is_held_out,
    is_held_out_of,
)
from ml_platform.mlops.drift import drift_report, measures
from ml_platform.mlops.drift.drift_report import MonthDrift
from ml_platform.mlops.drift.measures import PREDICTION, Column, Comparison, Summary, Window
from ml_platform.storage.ledger import DayRecord
from ml_platform.storage.tables import column

#: What a sample is drawn by: a hash of the entity and this, in so many steps.
_PURPOSE, _STEPS = "drift", 1_000_000
#: Values of a window, rows times columns, up to which this process reads them, without Spark.
_VALUES_HELD = 5_000_000
_PROBABILITY = "probability"


@dataclass(frozen=True)
class _Plan:
    """The windows of a month."""

    month: date
    days: list[date]
    before: list[date]
    model: ModelRecord | None
    training: list[date]
    left_out: list[str]


class DriftReport(DailyStep):
    """Months of the ARDS and the predictions, to a report and a check. Its days are months' first days."""

    asset = "drift_report"
    contract_sections = ("source", "mrds", "model.features", "drift", "description")

    @property
    def code_version(self) -> str:
        targets = fingerprint_of([target.shown for target in self.context.settings.report_targets])
        return f"{super().code_version}/{targets}"

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._history = ModelHistory(context.tables, context.product)
        self._known: dict[str, dict[date, DayRecord]] = {}
        self._models: dict[str, ModelRecord] = {}
        #: Days whose labels don't count yet.
        self._unlabelled: frozenset[date] = frozenset()
        #: The windows of the month before, and those of the present one, some of which are the same.
        self._earlier: dict[tuple[date, ...], Window] = {}
        self._windows: dict[tuple[date, ...], Window] = {}

    # -- what a month is made from -------------------------------------------------------------------

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        store = report_store(self.context.settings)
        return presence.lost_reports(self.context, records, store, drift_report.HTML)

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        presence.require_decisions(self.context)
        self._known = {
            asset: self.context.ledger.latest(asset, details=False) for asset in (ARDS, PREDICTIONS)
        }
        self._models = self._history.by_fingerprint()
        self._earlier, self._windows = {}, {}
        self._unlabelled = self._days_without_labels()
        found = {}
        for month in days:
            plan = self._plan(month)
            if not any(day in self._known[ARDS] for day in _days_of(month)):
                reason = "nothing of the month has been materialized"
                found[month] = Inputs("", "missing", reason)
                continue
            content = [
                [asset, str(day), record.outcome, record.fingerprint]
                for asset in (ARDS, PREDICTIONS)
                for day in (*_days_of(month), *plan.before, *plan.training)
                if (record := self._known[asset].get(day)) is not None
            ]
            made_from: list[Any] = [content, plan.model.fingerprint if plan.model else None]
            if unlabelled := sorted(
                self._unlabelled.intersection((*plan.days, *plan.before, *plan.training))
            ):
                made_from.append(unlabelled)
            inputs = fingerprint_of(made_from)
            found[month] = Inputs(inputs)
            if not plan.days:
                found[month] = Inputs(inputs, "held_back", "no day of the month can be used")
        return found

    def _plan(self, month: date) -> _Plan:
        rules = self.context.product.drift
        last = add_months(month, 1) - timedelta(days=1)
        decision = serving(self._history.decisions(), last)
        model = self._models.get(decision.fingerprint) if decision else None
        known = {day: record for day in _days_of(month) if (record := self._known[ARDS].get(day))}
        before = self._usable(_days_of(add_months(month, -1))) if "month_before" in rules.against else []
        learned = []
        if model is not None and "training" in rules.against:
            learned = self._usable(days_between(model.first_day, model.last_day))
        return _Plan(month, self._usable(_days_of(month)), before, model, learned, left_out(known))

    def _usable(self, days: Sequence[date]) -> list[date]:
        known = self._known[ARDS]
        return [day for day in days if day in known and known[day].usable and known[day].counts.get("rows")]

    def _days_without_labels(self) -> frozenset[date]:
        """The days whose labels can't be known yet, by the newest day that is there, and haven't come.

        Some of theirs may have: those that come early aren't like the others, and would look like drift.
        """
        product = self.context.product
        minimum = product.validation.minimum_labelled_share
        there = {day: one for day, one in self._known[ARDS].items() if one.counts.get("rows")}
        known_to = product.last_labelled_day(max(there, default=product.start) + timedelta(days=1))
        return frozenset(
            day
            for day, record in there.items()
            if day > known_to
            and (not minimum or record.counts.get("labelled", 0) < minimum * record.counts["rows"])
        )

    # -- measuring -----------------------------------------------------------------------------------

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        product, store = self.context.product, report_store(self.context.settings)
        written = {}
        for position, month in enumerate(days, start=1):
            found = self._measure(self._plan(month))
            files = drift_report.build(product, found)
            path = f"{product.name}/{self.asset}/{month}"
            links = store.publish_many({path: files})
            written[month] = _written(product, found, files, links[path])
            self.context.log(f"drift_report: {month:%Y-%m} ({position} of {len(days)} months)")
        return written

    def _measure(self, plan: _Plan) -> MonthDrift:
        product = self.context.product
        self._earlier, self._windows = self._windows, {}
        current = self._window(f"{plan.month:%Y-%m}", plan.days)
        comparisons: list[Comparison] = []
        columns = measured_columns(product)
        if plan.before:
            before = self._window(f"{add_months(plan.month, -1):%Y-%m}", plan.before)
            comparisons.append(measures.compare(product, columns, current, before))
        if plan.training and plan.model is not None:
            name = f"the training data of the model as of {plan.model.as_of}"
            learned = self._training_window(name, plan.training, plan.model)
            comparisons.append(measures.compare(product, columns, current, learned))
        rows = sum(self._known[ARDS][day].counts["rows"] for day in plan.days)
        return MonthDrift(
            month=plan.month,
            model=f"v{plan.model.version}" if plan.model else None,
            rows=rows,
            left_out=plan.left_out,
            comparisons=comparisons,
            sampled=rows > product.drift.maximum_rows,
        )

    def _window(self, name: str, days: Sequence[date]) -> Window:
        """The ARDS and the predictions of some days; a window that the next month needs too is kept."""
        return self._kept(tuple(days), lambda: self._read_window(name, days))

    def _kept(self, key: tuple[date, ...], read: Callable[[], Window]) -> Window:
        if key not in self._windows:
            self._windows[key] = self._earlier.get(key) or read()
        return self._windows[key]

    def _read_window(self, name: str, days: Sequence[date]) -> Window:
        window = self._ards(name, days)
        predicted = self._known[PREDICTIONS]
        scored = [day for day in days if day in predicted and predicted[day].usable]
        if not scored:
            return window
        scores = self._sample(PREDICTIONS, scored, [_PROBABILITY], counted=PREDICTIONS)
        return _with_predictions(window, scores[_PROBABILITY])

    def _training_window(self, name: str, days: Sequence[date], model: ModelRecord) -> Window:
        return self._kept((model.as_of, *days), lambda: self._read_training_window(name, days, model))

    def _read_training_window(self, name: str, days: Sequence[date], model: ModelRecord) -> Window:
        context, product = self.context, self.context.product
        registry = Registry.of(context.settings)
        pipeline = registry.load(product, model.version, model.fingerprint).pipeline
        # On rows that it has learned from a flexible model is surer than on any others; where entities are
        # few there are no others.
        held_out = model.compared_by == "entities"
        rows = self._sample(MRDS, days, product.model.features.all, counted=ARDS, held_out=held_out)
        scores = pd.Series(training.probabilities(pipeline, product, rows))
        return _with_predictions(self._ards(name, days), scores)

    def _ards(self, name: str, days: Sequence[date]) -> Window:
        """The days' ARDS: exact counts and ranges of all rows, values of at most the contract's maximum."""
        columns = [one for one in measured_columns(self.context.product) if one.role != "prediction"]
        names = [one.name for one in columns]
        share = self._share(ARDS, days)
        label = self.context.product.label
        early = sorted(self._unlabelled.intersection(days))
        read = [*names, EVENT_DAY] if early else names
        held = self._held(ARDS, days, read, with_entity=share < _STEPS)
        if held is not None:
            if early:
                unknown = pc.is_in(held[EVENT_DAY], pa.array(early, pa.date32()))
                labels = pc.if_else(unknown, pa.scalar(None, held[label].type), held[label])
                held = held.set_column(held.column_names.index(label), label, labels)
            frame = held.select(names).to_pandas()
            sample = frame if share == _STEPS else self._drawn(held, share).select(names).to_pandas()
            summaries = {one.name: _summary_of(frame[one.name], one) for one in columns}
        else:
            rows = self._opened(ARDS, days)
            if early:
                rows = rows.withColumn(label, F.when(~F.col(EVENT_DAY).isin(early), column(label)))
            sample = self._drawn_by_spark(rows, share, names)
            facts = rows.agg(F.count(F.lit(1)).alias("rows"), *_aggregates(columns)).collect()[0].asDict()
            summaries = {one.name: _summary(one, facts) for one in columns}
        return Window(name, {one.name: sample[one.name] for one in columns}, summaries)

    # -- reading -------------------------------------------------------------------------------------

    def _sample(
        self, table: str, days: Sequence[date], names: Sequence[str], *, counted: str, held_out: bool = False
    ) -> pd.DataFrame:
        """Some days' rows, at most about the contract's maximum.

        Args:
            counted: the asset whose rows tell how large a share that is.
            held_out: take only entities that no model learns from.
        """
        product, share = self.context.product, self._share(counted, days)
        held = self._held(table, days, names, with_entity=held_out or share < _STEPS)
        if held is not None:
            if held_out:
                held = held.filter(pa.array(is_held_out_of(product, held)))
            found: pd.DataFrame = self._drawn(held, share).select(list(names)).to_pandas()
            return found
        rows = self._opened(table, days)
        return self._drawn_by_spark(rows.where(is_held_out(product)) if held_out else rows, share, names)

    def _share(self, counted: str, days: Sequence[date]) -> int:
        """The share of the entities that are compared, in steps: by hash, the same ones on every run."""
        size, maximum = self._size(counted, days), self.context.product.drift.maximum_rows
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
        self, table: str, days: Sequence[date], names: Sequence[str], *, with_entity: bool
    ) -> pa.Table | None:
        """Columns of some days' rows, if this process can read and hold them."""
        product, tables = self.context.product, self.context.tables
        files = tables.day_files(product.name, table)
        needed = list(dict.fromkeys((*names, *product.entity) if with_entity else names))
        if files is None or self._size(ARDS, days) * len(needed) > _VALUES_HELD:
            return None
        if with_entity and not can_hash_in_memory(product):
            return None
        return files.read_all(tables.version(product.name, table), days, needed)

    def _opened(self, table: str, days: Sequence[date]) -> DataFrame:
        context = self.context
        return context.tables.read_days(context.spark, context.product.name, table, days)

    def _size(self, asset: str, days: Sequence[date]) -> int:
        known = self._known[asset]
        return sum(known[day].counts.get("rows", 0) for day in days if day in known)


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


def _days_of(month: date) -> list[date]:
    return days_between(month, add_months(month, 1) - timedelta(days=1))


def _aggregates(columns: Sequence[Column]) -> list[Any]:
    found = []
    for one in columns:
        value = column(one.name)
        if one.kind == "numeric":
            number = value.cast("double")
            value = F.when(~F.isnan(number) & (F.abs(number) != F.lit(float("inf"))), number)
            found += [F.min(value).alias(f"minimum {one.name}"), F.max(value).alias(f"maximum {one.name}")]
        found.append(F.count(value).alias(f"values {one.name}"))
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


def _written(
    product: Product, month: MonthDrift, files: Mapping[str, bytes], links: Mapping[str, str]
) -> Written:
    content = json.loads(files[drift_report.JSON])
    del content["model"]  # a version number is a label
    del content["summary"]
    for one in content["comparisons"]:
        one["columns"].sort(key=lambda column: column["column"])
    exceeding = drift_report.exceeds(product, month)
    check = Check(
        name=NO_DRIFT,
        passed=not exceeding,
        severity="ERROR" if product.drift.severity == "error" else "WARN",
        description=drift_report.summary(product, month),
        metadata=_figures(month) | {"columns": drift_report.table(month)},
    )
    first, *others = links.items()
    metadata: dict[str, Any] = {"verdict": "drifted" if exceeding else "no drift", "report": first[1]}
    metadata |= {f"report on {target}": link for target, link in others}
    metadata |= {"rows": month.rows, "drifted": len(month.drifted), "measured": month.measured}
    metadata |= _figures(month) | {"columns": drift_report.table(month)}
    if month.left_out:
        metadata["left_out"] = ", ".join(month.left_out)
    return Written("written", fingerprint=fingerprint_of(content), metadata=metadata, checks=(check,))


def _figures(month: MonthDrift) -> dict[str, float]:
    """One number per column and reference, under names that stay the same over the months."""
    figures: dict[str, float] = {}
    for comparison in month.comparisons:
        against = "training" if comparison.reference.startswith("the training") else "month before"
        for one in comparison.columns:
            if one.score is not None:
                figures[f"{one.column} vs {against}"] = round(one.score, 6)
    return figures
