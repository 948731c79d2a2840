"""The step ``model_performance``: predictions and labels of a window of days, to metrics."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from ml_platform.contract.assets import PERFORMANCE_ABOVE_THRESHOLD
from ml_platform.contract.days import DayRange, days_between
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import presence
from ml_platform.engine.deciding import load_all
from ml_platform.engine.evaluated_days import EvaluatedDays
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Check, Inputs, Written
from ml_platform.machine_learning import evaluation, performance, unseen_rows
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import ModelHistory, scored_otherwise
from ml_platform.machine_learning.promotion import Decision, serving
from ml_platform.storage.ledger import WITHOUT_ROWS, DayRecord

#: Of an evaluation, what is no figure that the UI could plot, or goes there under another name.
_NO_FIGURES = frozenset(
    ("event_day", "metric", "value", "models", "sampled", "champion_as_of", "champion_fingerprint", "figures")
)
#: What means something only where labels are positive or negative.
_OF_POSITIVES = frozenset(("positives", "champion_positives", "tp", "fp", "fn", "tn"))


_NOTHING = "nothing has been materialized for this day"


@dataclass(frozen=True)
class _Day:
    """What an evaluation is made from.

    Attributes:
        plan: the days of the window that count.
        champion: the model that serves the day of the evaluation.
        predictions: the records of the window's predictions.
        labels: the records of the window's days in the MRDS.
        decisions: about all models.
    """

    plan: performance.Evaluated
    champion: evaluation.Champion | None
    predictions: Mapping[date, DayRecord]
    labels: Mapping[date, DayRecord]
    decisions: Sequence[Decision]


class ModelPerformance(Step):
    """Predictions and labels of a window, to metrics."""

    asset = performance.PERFORMANCE

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

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        context, product = self.context, self.context.product
        if not days:
            return {}
        windows = {day: days_evaluated(product, day) for day in days}
        first = min(window.first for window in windows.values())
        last = max(window.last for window in windows.values())
        needed = set(days_between(first, last))
        there = EvaluatedDays.of(context.ledger, needed)
        evaluated = context.ledger.latest(MRDS, days, details=False)
        decisions = presence.require_decisions(context)
        found = {}
        for day, window in windows.items():
            own = evaluated.get(day)
            if own is None or own.outcome in WITHOUT_ROWS:
                if own is None:
                    found[day] = Inputs("", "missing", _NOTHING)
                else:
                    found[day] = Inputs("", own.outcome, own.reason, gone=True)
                continue
            champion = serving(decisions, day)
            plan = there.evaluated(product, day, champion)
            of_day = _Day(
                plan,
                evaluation.Champion(champion.as_of, champion.fingerprint) if champion else None,
                {other: there.predictions[other] for other in window if other in there.predictions},
                {other: there.labels[other] for other in window if other in there.labels},
                decisions,
            )
            if plan.scored:
                found[day] = Inputs(plan.inputs, found=of_day)
            elif plan.unscored:
                found[day] = Inputs(plan.inputs, "no_model", f"nothing was predicted from {plan.window}")
            else:
                reason = f"no usable predictions from {plan.window}"
                if any("ranked" in left_out for left_out in plan.left_out):
                    reason += f": left out are {', '.join(plan.left_out)}"
                found[day] = Inputs(plan.inputs, "held_back", reason)
        return found

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        context = self.context
        days: dict[date, _Day] = {day: inputs.found for day, inputs in work.items()}
        scored = {
            day: {other: of_day.predictions[other].counts["rows"] for other in of_day.plan.scored}
            for day, of_day in days.items()
        }
        champions = {day: of_day.champion for day, of_day in days.items()}
        found = evaluation.evaluate(context.open_spark, context.product, context.tables, scored, champions)
        judged = self._judged_on_unseen(found, days)
        rows, results = [], {}
        for day, of_day in days.items():
            evaluated = judged.get(day, found[day])
            if evaluated is None:  # the day is planned anew
                continue
            verdict = evaluation.verdict(
                context.product, evaluated.value, evaluated.labelled, evaluated.positives
            )
            values = _row(evaluated, verdict)
            rows.append(values)
            results[day] = self._written(of_day, evaluated, verdict, values["fingerprint"])
        performance.replace(context.tables, context.product, list(results), rows)
        return results

    def discard(self, days: Sequence[date]) -> None:
        performance.replace(self.context.tables, self.context.product, days, [])

    def _judged_on_unseen(
        self, found: Mapping[date, evaluation.Evaluation], days: Mapping[date, _Day]
    ) -> dict[date, evaluation.Evaluation | None]:
        """The evaluations whose champions have scored too little, with what they make of unseen rows.

        None of those in whose champion's place another model was trained.
        """
        context, product = self.context, self.context.product
        thin: dict[str, list[evaluation.Evaluation]] = {}
        for evaluated in found.values():
            if evaluated.champion_fingerprint and unseen_rows.needs_unseen_rows(product, evaluated):
                thin.setdefault(evaluated.champion_fingerprint, []).append(evaluated)
        if not thin:
            return {}
        records = ModelHistory(context.tables, product).by_fingerprint()
        labelled = {
            day: {other: of_day.labels[other].counts.get("rows", 0) for other in of_day.plan.labelled}
            for day, of_day in days.items()
        }
        judged: dict[date, evaluation.Evaluation | None] = {}
        champions = load_all(context, (records[fingerprint] for fingerprint in thin))
        for fingerprint, evaluations in thin.items():
            loaded = champions[fingerprint]
            if isinstance(loaded, RegistryError):
                raise loaded
            if loaded is None:
                judged |= dict.fromkeys((evaluated.event_day for evaluated in evaluations), None)
                continue
            judged |= unseen_rows.judge_on_unseen(
                context.open_spark,
                product,
                context.tables,
                loaded.pipeline,
                loaded.record,
                evaluations,
                labelled,
            )
        return judged

    def _written(
        self, of_day: _Day, evaluated: evaluation.Evaluation, verdict: evaluation.Verdict, fingerprint: str
    ) -> Written:
        product, window = self.context.product, of_day.plan.window
        rules = product.evaluation
        has_positives = product.task.has_positives
        unknown = () if has_positives else _OF_POSITIVES
        metadata: dict[str, Any] = {
            name: value
            for name, value in asdict(evaluated).items()
            if name not in _NO_FIGURES and name not in unknown and value is not None
        }
        metadata |= evaluated.figures
        if evaluated.value is not None:
            metadata[evaluated.metric] = evaluated.value
        metadata |= {
            "window": str(window),
            "models": ", ".join(evaluated.models),
            "champion_as_of": str(evaluated.champion_as_of),
            "verdict": verdict,
        }
        otherwise = scored_otherwise(of_day.predictions.values(), of_day.decisions)
        if otherwise:
            rows = sum(sum(models.values()) for models in otherwise.values())
            metadata["rows_scored_by_another_model"] = rows
        if of_day.plan.left_out:
            metadata["left_out"] = ", ".join(of_day.plan.left_out)
        facts: dict[str, Any] = {"threshold": rules.threshold, "labelled": evaluated.labelled}
        facts |= {"positives": evaluated.positives} if has_positives else {}
        facts |= {"value": evaluated.value} if evaluated.value is not None else {}
        check = Check(
            name=PERFORMANCE_ABOVE_THRESHOLD,
            passed=verdict == "passed",
            severity="WARN" if verdict == "insufficient" else "ERROR",
            description=_description(product, evaluated, verdict, window),
            metadata=facts,
        )
        return Written("written", fingerprint=fingerprint, metadata=metadata, checks=(check,))


def _row(evaluated: evaluation.Evaluation, verdict: evaluation.Verdict) -> dict[str, Any]:
    """An evaluation as a row of the table, with a fingerprint of all that it says."""
    values = asdict(evaluated) | {"verdict": verdict}
    figures = values.pop("figures")
    said = values | ({"figures": figures} if figures else {})
    kept = json.dumps(figures, sort_keys=True) if figures else None
    return values | {"figures": kept, "fingerprint": fingerprint_of(said)}


def _description(
    product: Product, evaluated: evaluation.Evaluation, verdict: evaluation.Verdict, window: DayRange
) -> str:
    """The verdict in a sentence."""
    rules, rule = product.evaluation, product.metric
    if verdict == "insufficient":
        found, needed = f"{evaluated.labelled:,} labelled rows", f"{rules.minimum_rows:,}"
        if product.task.has_positives:
            found += f" with {evaluated.positives:,} positives"
            needed += f" and {rules.minimum_positives:,}"
        elif evaluated.value is None and evaluated.labelled >= rules.minimum_rows:
            return f"{product.metric_in_words} is undefined on the {found} of {window}"
        return f"too little evidence: {found}; needed are {needed}"
    value = "undefined" if evaluated.value is None else f"{evaluated.value:.4f}"
    side = rule.bound if verdict == "passed" else rule.beyond
    return f"{product.metric_in_words} {value} is {side} the threshold {rules.threshold} over {window}"
