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
from ml_platform.engine import evolution, presence, serving_models
from ml_platform.engine.context import StepContext, days_between
from ml_platform.engine.daily import DailyStep, content_of, from_same_day
from ml_platform.engine.data_steps import FEATURES_FINGERPRINT, Ards, Mrds
from ml_platform.engine.drift_step import DriftReport
from ml_platform.engine.report_steps import ValidationReport
from ml_platform.engine.step import Check, Inputs, PermanentError, Written
from ml_platform.machine_learning import evaluation, performance, scoring
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.models import (
    MODELS,
    ModelHistory,
    ModelRecord,
    name_models,
    scored_by,
    scored_otherwise,
)
from ml_platform.machine_learning.promotion import Decision, serving
from ml_platform.machine_learning.registry import Registry
from ml_platform.product import fingerprint_of
from ml_platform.steps import PERFORMANCE_ABOVE_THRESHOLD
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import SETTLED, WITHOUT_ROWS, DayRecord, Outcome
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

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        context, product = self.context, self.context.product
        published = [day for day, record in records.items() if record.usable and record.counts.get("rows")]
        if not published or presence.is_elsewhere(context, records):
            return {}
        try:
            with contextlib.closing(OnlineStore(context.settings.online_url)) as store:
                versions = store.published_versions(product)
        except OnlineStoreError as error:
            if error.temporary:
                raise
            raise PermanentError(str(error)) from error
        exists = context.tables.exists(product.name, mrds.MRDS)
        newest = context.tables.version(product.name, mrds.MRDS) if exists else -1
        lost = {}
        for day in published:
            if day not in versions:
                lost[day] = "the online store doesn't have the day"
            elif versions[day] > newest:
                lost[day] = "the online store has the day from an MRDS that isn't there any more"
        return lost

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
    """MRDS and the model that served the day, to predictions.

    Rows once scored stay, whatever becomes of the model that scored them, unless the request asks to rescore.
    A day that no model serves, or whose model can't score under the present contract, is ``no_model``; what
    such a model had scored before stays. Only a day that no model serves at all loses its rows, when it is to
    be scored again.
    """

    asset = "predictions"
    tables = (scoring.PREDICTIONS,)
    contract_sections = ("mrds", "model.features")

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._history = ModelHistory(context.tables, context.product)
        self._decisions: list[Decision] = []
        self._records: dict[str, ModelRecord] = {}
        self._scored: dict[date, DayRecord] = {}
        self._kept: dict[date, DayRecord] = {}
        self._rows: dict[date, str] = {}
        self._obstacles: dict[date, Inputs] = {}
        self._lost: dict[date, str] = {}

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        self._lost = super().lost(records)
        return self._lost

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        ledger = self.context.ledger
        self._decisions = presence.require_decisions(self.context)
        self._records = self._history.by_fingerprint()
        found = from_same_day(self.context, "mrds", days, fingerprint=FEATURES_FINGERPRINT)
        self._rows = {day: inputs.fingerprint for day, inputs in found.items()}
        # Predictions that were withdrawn with their rows, or removed for want of a model, are kept no longer.
        outcomes: set[Outcome] = {*SETTLED, *WITHOUT_ROWS, "no_model"}
        scored = ledger.latest(self.asset, set(days), outcomes=outcomes)
        self._scored = {
            day: record
            for day, record in scored.items()
            if record.outcome == "written" and day not in self._lost
        }
        self._kept = {} if self.context.request.rescore else self._scored
        self._obstacles = self._find_obstacles([day for day in days if found[day].outcome is None])
        for day, inputs in found.items():
            if inputs.outcome is not None:
                continue
            obstacle, model = self._obstacles.get(day), serving(self._decisions, day)
            if obstacle is None:
                assert model is not None, "without a model there is an obstacle"
                found[day] = Inputs(f"{inputs.fingerprint}/{model.fingerprint}")
            elif day in self._scored:
                found[day] = Inputs(f"{inputs.fingerprint}/kept")
            else:
                found[day] = obstacle
        return found

    def _find_obstacles(self, days: Sequence[date]) -> dict[date, Inputs]:
        """The days that can't be scored now, each with its outcome, if it hasn't been scored before."""
        context, product = self.context, self.context.product
        models = {
            day: self._records[one.fingerprint] for day in days if (one := serving(self._decisions, day))
        }
        registry, versions = Registry.of(context.settings), ContractVersions(context.tables, product)
        mismatches: dict[str, str | None] = {}
        contracts: dict[str, frozenset[str]] = {}
        for model in {model.fingerprint: model for model in models.values()}.values():
            mismatches[model.fingerprint] = serving_models.mismatch(registry, product, model)
            columns = ModelColumns.read(model.columns).names if model.columns else product.features
            contracts[model.fingerprint] = versions.mrds_like_now(columns)
        sources = context.ledger.latest("mrds", set(days), details=False)
        found = {}
        for day in days:
            serves = models.get(day)
            if serves is None:
                found[day] = Inputs(self._rows[day], "no_model", "no model had been promoted by this day")
            elif mismatch := mismatches[serves.fingerprint]:
                reason = (
                    f"the model that serves this day (v{serves.version}, as of {serves.as_of}) can't score "
                    f"under this contract: {mismatch}; train one: ml-platform train {product.name}"
                )
                found[day] = Inputs(self._rows[day], "no_model", reason)
            elif sources[day].contract not in contracts[serves.fingerprint]:
                reason = evolution.of_another_contract(context, sources[day])
                found[day] = Inputs(self._rows[day], "held_back", reason)
        return found

    def keeps(self, record: DayRecord, inputs: Inputs) -> bool:
        return record.day in self._kept and record.inputs.partition("/")[0] == self._rows[record.day]

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        context = self.context
        product = context.product
        registry = Registry.of(context.settings)
        models: dict[date, scoring.ServingModel] = {}
        loaded: dict[str, scoring.ServingModel] = {}
        done: dict[date, Written] = {}
        unserved: list[date] = []
        for day in days:
            obstacle, decision = self._obstacles.get(day), serving(self._decisions, day)
            if obstacle is None and decision is not None:
                name = decision.fingerprint
                if name not in loaded:  # to ask the registry takes requests
                    loaded[name] = serving_models.load(registry, product, self._records[name])
                models[day] = loaded[name]
            elif decision is None and context.request.rescore:
                unserved.append(day)
            elif obstacle is not None:
                done[day] = self._as_scored(day, obstacle)
        if unserved:
            scoring.remove(context.spark, product, context.tables, unserved, run_id=context.request.run_id)
            for day in unserved:
                reason = self._obstacles[day].reason
                done[day] = Written("no_model", reason, inputs=self._rows[day])
        if not models:
            return done
        written = scoring.write(
            context.spark,
            product,
            context.tables,
            models,
            run_id=context.request.run_id,
            keep=[day for day in models if day in self._kept],
        )
        return done | {
            day: Written(
                "written" if one.counted.rows else "empty",
                "" if one.counted.rows else "the MRDS has no rows",
                fingerprint=one.counted.fingerprint,
                counts=one.counts,
                delta_version=one.delta_version,
                # Rescoring must see that some rows were scored before the day's rows changed.
                inputs=f"{self._rows[day]}/kept" if day in self._kept else None,
                metadata=self._named(one.models),
                details={MODELS: dict(one.models)},
            )
            for day, one in written.items()
        }

    def _as_scored(self, day: date, obstacle: Inputs) -> Written:
        """A day that can't be scored now, and has been before: it stays, and says so."""
        record = self._scored[day]
        return Written(
            record.outcome,
            fingerprint=record.fingerprint,
            counts=record.counts,
            delta_version=record.delta_version,
            inputs=f"{self._rows[day]}/kept",
            metadata={**record.details.get("metadata", {}), "not_scored_again": obstacle.reason},
            details={MODELS: scored_by(record)},
        )

    def _named(self, models: Mapping[str, int]) -> dict[str, Any]:
        """The models that have scored a day's rows, for people."""
        known = [self._records[fingerprint] for fingerprint in models if fingerprint in self._records]
        known.sort(key=lambda model: model.as_of)
        return {
            "model_as_of": ", ".join(str(model.as_of) for model in known),
            "model_version": ", ".join(model.version for model in known),
        }

    def remarks(self, records: Mapping[date, DayRecord]) -> dict[date, dict[str, Any]]:
        product, found = self.context.product, {}
        for day, models in scored_otherwise(records.values(), self._decisions).items():
            serves = serving(self._decisions, day)
            found[day] = {
                "scored_by_another_model": f"{sum(models.values()):,} rows were scored by "
                f"{name_models(models, self._records)}; the day is served by "
                f"{name_models([serves.fingerprint], self._records) if serves else 'no model'}. To score it "
                f"again: ml-platform backfill {product.name} --from {day} --to {day} --rescore"
            }
        return found


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
        self._decisions: list[Decision] = []

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        written = {day: record for day, record in records.items() if record.outcome == "written"}
        if not written:
            return {}
        place = self.context.tables.control.address(self.context.product.name, self.asset)
        rows = performance.evaluations(self.context.tables, self.context.product)
        return {
            day: f"{place} has no such evaluation"
            for day, record in written.items()
            if day not in rows or rows[day]["fingerprint"] != record.fingerprint
        }

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        context, product = self.context, self.context.product
        if not days:
            return {}
        windows = [performance.window(product, day) for day in days]
        needed = set(days_between(min(w.first for w in windows), max(w.last for w in windows)))
        self._predictions = context.ledger.latest("predictions", needed)
        self._labels = context.ledger.latest("mrds", needed, details=False)
        decisions = self._decisions = presence.require_decisions(context)
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
        window = plan.window
        inside = [record for day, record in self._predictions.items() if day in window]
        otherwise = scored_otherwise(inside, self._decisions)
        if otherwise:
            rows = sum(sum(models.values()) for models in otherwise.values())
            metadata["rows_scored_by_another_model"] = rows
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
