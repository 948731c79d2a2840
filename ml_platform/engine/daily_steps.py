"""The daily steps, in the order of the data's way: ARDS, MRDS, online features, predictions, performance.

Each says what a day is made from, has its service do the work, and words the result for people.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from ml_platform.data_engineering import mrds, online_features
from ml_platform.engine.context import StepContext, days_between
from ml_platform.engine.daily import DailyStep, content_of, from_same_day
from ml_platform.engine.data_steps import FEATURES_FINGERPRINT, Ards, Mrds
from ml_platform.engine.drift_step import DriftReport
from ml_platform.engine.report_steps import ValidationReport
from ml_platform.engine.step import Check, Inputs, PermanentError, Written
from ml_platform.machine_learning import evaluation, performance, scoring
from ml_platform.machine_learning.models import ModelHistory, ModelRecord
from ml_platform.machine_learning.promotion import serving
from ml_platform.machine_learning.registry import Registry
from ml_platform.product import fingerprint_of
from ml_platform.steps import PERFORMANCE_ABOVE_THRESHOLD
from ml_platform.storage.ledger import SETTLED, WITHOUT_ROWS, DayRecord
from ml_platform.storage.online import OnlineStore, OnlineStoreError

#: Seconds that a publication waits for another one's merge, which takes a minute for millions of entities.
LOCK_TIMEOUT = 300.0


class PublicationError(Exception):
    """The online store is well, but refuses rows of these days; the message says why."""


class OnlineFeatures(DailyStep):
    """MRDS to the online store."""

    asset = "online_features"
    contract_sections = ("source", "mrds")

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._inputs: dict[date, Inputs] = {}

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        self._inputs = from_same_day(self.context, "mrds", days, fingerprint=FEATURES_FINGERPRINT)
        return self._inputs

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        context = self.context
        records = {
            day: record
            for day, record in context.usable("mrds", set(days)).items()
            if content_of(record, FEATURES_FINGERPRINT) == self._inputs[day].fingerprint
        }
        days = [day for day in days if day in records]  # the others have changed just now
        if not days:
            return {}
        metadata = self._publish(days, sum(records[day].counts["rows"] for day in days))
        results = {}
        for day in days:
            record = records[day]
            outcome = record.outcome
            fingerprint = record.details.get("metadata", {}).get(FEATURES_FINGERPRINT)
            results[day] = Written(
                outcome,
                record.reason,
                fingerprint=fingerprint,
                counts={"rows": record.counts["rows"]},
                metadata=metadata,
            )
        return results

    def withdraw(self, days: Sequence[date]) -> dict[date, Written]:
        """Publish days that the MRDS has no rows of: their entities fall back to earlier days, or go."""
        context = self.context
        if not context.tables.exists(context.product.name, mrds.MRDS):
            return super().withdraw(days)
        metadata = self._publish(days, 0)
        return {day: Written("missing", metadata=metadata) for day in days}

    def _publish(self, days: Sequence[date], rows: int) -> dict[str, Any]:
        """Bring the store up to date with some days of the MRDS, and say what that did."""
        context = self.context
        known = context.ledger.latest("mrds", details=False)
        usable = [day for day, record in known.items() if record.usable]
        url = context.settings.online_url
        try:
            with contextlib.closing(OnlineStore(url, lock_timeout=LOCK_TIMEOUT)) as store:
                done = online_features.publish(
                    lambda: context.spark,
                    context.product,
                    context.tables,
                    store,
                    days,
                    usable,
                    rows=rows,
                    log=context.log,
                )
        except OnlineStoreError as error:
            if error.temporary:
                raise
            if error.of_rows:
                raise PublicationError(str(error)) from None
            raise PermanentError(str(error)) from error
        merged = done.merged
        return {
            "entities_published": merged.published,
            "entities_older_and_kept": merged.older,
            "entities_withdrawn": merged.withdrawn,
            "entities_forgotten": merged.forgotten,
            "entities_in_store": merged.entities,
            "newest_day": str(merged.newest_day),
            "rows_per_second": round(done.rows_per_second),
            "rows_compared": done.compared,
        }


class Predictions(DailyStep):
    """MRDS and the model that served the day, to predictions."""

    asset = "predictions"
    tables = (scoring.PREDICTIONS,)
    contract_sections = ("mrds", "model.features")

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._history = ModelHistory(context.tables, context.product)
        self._kept: dict[date, DayRecord] = {}
        self._rows: dict[date, str] = {}

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        decisions = self._history.decisions()
        found = from_same_day(self.context, "mrds", days, fingerprint=FEATURES_FINGERPRINT)
        for day, inputs in found.items():
            if inputs.outcome is not None:
                continue
            model = serving(decisions, day)
            if model is None:
                reason = "no model had been promoted by this day"
                found[day] = Inputs(inputs.fingerprint, "no_model", reason)
            else:
                found[day] = Inputs(f"{inputs.fingerprint}/{model.fingerprint}")
        self._rows = {day: inputs.fingerprint.partition("/")[0] for day, inputs in found.items()}
        self._kept = {}
        if not self.context.request.rescore:
            # Predictions that were withdrawn with their rows are kept no longer.
            settled = self.context.ledger.latest(self.asset, set(days), outcomes=SETTLED | WITHOUT_ROWS)
            self._kept = {day: record for day, record in settled.items() if record.outcome == "written"}
        return found

    def keeps(self, record: DayRecord, inputs: Inputs) -> bool:
        return record.day in self._kept and record.inputs.partition("/")[0] == self._rows[record.day]

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        context = self.context
        product = context.product
        decisions = self._history.decisions()
        records = self._history.by_fingerprint()
        registry = Registry.of(context.settings)
        models: dict[date, scoring.ServingModel] = {}
        for day in days:
            decision = serving(decisions, day)
            assert decision is not None, "days without a model have an outcome, and are not written"
            models[day] = _serving_model(registry, context, records[decision.fingerprint])
        written = scoring.write(
            context.spark,
            product,
            context.tables,
            models,
            run_id=context.request.run_id,
            keep=[day for day in days if day in self._kept],
        )
        return {
            day: Written(
                "written" if one.counted.rows else "empty",
                "" if one.counted.rows else "the MRDS has no rows",
                fingerprint=one.counted.fingerprint,
                counts=one.counts,
                delta_version=one.delta_version,
                # Rescoring must see that some rows were scored before the day's rows changed.
                inputs=f"{self._rows[day]}/kept" if day in self._kept else None,
                metadata={"model_as_of": str(models[day].as_of), "model_version": models[day].version},
            )
            for day, one in written.items()
        }


def _serving_model(registry: Registry, context: StepContext, model: ModelRecord) -> scoring.ServingModel:
    loaded = registry.load(context.product, model.version)
    return scoring.ServingModel(
        pipeline=loaded.pipeline,
        threshold=model.threshold,
        name=context.product.name,
        version=model.version,
        as_of=model.as_of,
        fingerprint=model.fingerprint,
    )


#: Of an evaluation, what is no figure that the UI could plot, or goes there under another name.
_NO_FIGURES = frozenset(
    ("event_day", "metric", "value", "models", "sampled", "champion_as_of", "champion_fingerprint")
)


class Performance(DailyStep):
    """Predictions and labels of a window, to metrics."""

    asset = performance.PERFORMANCE
    contract_sections = ("source", "mrds", "evaluation")

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._history = ModelHistory(context.tables, context.product)
        self._predictions: dict[date, DayRecord] = {}
        self._labels: dict[date, DayRecord] = {}
        self._plans: dict[date, performance.Evaluated] = {}
        self._champions: dict[date, evaluation.Champion | None] = {}

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        context, product = self.context, self.context.product
        if not days:
            return {}
        windows = [performance.window(product, day) for day in days]
        needed = set(days_between(min(w.first for w in windows), max(w.last for w in windows)))
        self._predictions = context.ledger.latest("predictions", needed)
        self._labels = context.ledger.latest("mrds", needed, details=False)
        decisions = self._history.decisions()
        found = {}
        for day in days:
            champion = serving(decisions, day)
            plan = performance.evaluated(
                product, day, self._predictions, self._labels, champion.fingerprint if champion else None
            )
            self._plans[day] = plan
            self._champions[day] = (
                evaluation.Champion(champion.as_of, champion.fingerprint) if champion else None
            )
            if plan.scored:
                found[day] = Inputs(plan.inputs)
            elif plan.unscored:
                found[day] = Inputs(plan.inputs, "no_model", f"nothing was predicted from {plan.window}")
            else:
                reason = f"no usable predictions from {plan.window}"
                found[day] = Inputs(plan.inputs, "held_back", reason)
        return found

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        context = self.context
        scored = {
            day: self._predictions[day].counts["rows"] for one in days for day in self._plans[one].scored
        }
        found = evaluation.evaluate(
            context.spark, context.product, context.tables, days, scored, self._champions
        )
        found |= self._judged_on_unseen(found)
        rows, results = [], {}
        for day in days:
            one = found[day]
            verdict = evaluation.verdict(context.product, one.value, one.labelled, one.positives)
            values = asdict(one) | {"verdict": verdict}
            values["fingerprint"] = fingerprint_of(values)
            rows.append(values)
            results[day] = self._written(one, verdict, values["fingerprint"])
        performance.replace(context.tables, context.product, days, rows)
        return results

    def discard(self, days: Sequence[date]) -> None:
        performance.replace(self.context.tables, self.context.product, days, [])

    def _judged_on_unseen(
        self, found: Mapping[date, evaluation.Evaluation]
    ) -> dict[date, evaluation.Evaluation]:
        """The evaluations whose champions have scored too little, with what they make of unseen rows."""
        context, product = self.context, self.context.product
        thin: dict[str, list[evaluation.Evaluation]] = {}
        for one in found.values():
            if one.champion_fingerprint and evaluation.needs_unseen_rows(product, one):
                thin.setdefault(one.champion_fingerprint, []).append(one)
        if not thin:
            return {}
        records, registry = self._history.by_fingerprint(), Registry.of(context.settings)
        labelled = {
            day: self._labels[day].counts.get("rows", 0) for one in found for day in self._plans[one].labelled
        }
        judged: dict[date, evaluation.Evaluation] = {}
        for fingerprint, evaluations in thin.items():
            record = records[fingerprint]
            judged |= evaluation.judge_on_unseen(
                lambda: context.spark,
                product,
                context.tables,
                registry.load(product, record.version).pipeline,
                record,
                evaluations,
                labelled,
            )
        return judged

    def _written(self, one: evaluation.Evaluation, verdict: evaluation.Verdict, fingerprint: str) -> Written:
        product = self.context.product
        plan = self._plans[one.event_day]
        window = plan.window
        rules = product.evaluation
        value = "undefined" if one.value is None else f"{one.value:.4f}"
        match verdict:
            case "insufficient":
                description = (
                    f"too little evidence: {one.labelled:,} labelled rows with {one.positives:,} positives; "
                    f"needed are {rules.minimum_rows:,} and {rules.minimum_positives:,}"
                )
            case _:
                above = "at least" if verdict == "passed" else "below"
                description = f"{one.metric} {value} is {above} the threshold {rules.threshold} over {window}"
        metadata: dict[str, Any] = {
            name: value
            for name, value in asdict(one).items()
            if name not in _NO_FIGURES and value is not None
        }
        if one.value is not None:
            metadata[one.metric] = one.value
        metadata |= {
            "window": str(window),
            "models": ", ".join(one.models),
            "champion_as_of": str(one.champion_as_of),
            "verdict": verdict,
        }
        if plan.left_out:
            metadata["left_out"] = ", ".join(plan.left_out)
        check = Check(
            name=PERFORMANCE_ABOVE_THRESHOLD,
            passed=verdict == "passed",
            severity="WARN" if verdict == "insufficient" else "ERROR",
            description=description,
            metadata={"threshold": rules.threshold, "labelled": one.labelled, "positives": one.positives}
            | ({"value": one.value} if one.value is not None else {}),
        )
        return Written("written", fingerprint=fingerprint, metadata=metadata, checks=(check,))


DAILY_STEPS: dict[str, type[DailyStep]] = {
    step.asset: step
    for step in (Ards, Mrds, OnlineFeatures, Predictions, Performance, ValidationReport, DriftReport)
}
