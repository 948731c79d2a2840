"""The step ``model_performance``: predictions and labels of a window of days, to metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from ml_platform.contract.assets import PERFORMANCE_ABOVE_THRESHOLD
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.engine import presence
from ml_platform.engine.context import StepContext, days_between
from ml_platform.engine.run_days import DailyStep
from ml_platform.engine.step import Check, Inputs, Written
from ml_platform.machine_learning import evaluation, performance
from ml_platform.machine_learning.model_history import (
    ModelHistory,
    scored_otherwise,
)
from ml_platform.machine_learning.promotion import Decision, serving
from ml_platform.machine_learning.registry import Registry
from ml_platform.storage.ledger import DayRecord

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
                registry.load(product, record.version, record.fingerprint).pipeline,
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
