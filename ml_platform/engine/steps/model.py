"""The step ``model``: train a challenger as of a date, compare it with the champion, decide.

Months are done in ascending order. Its partitions are as-of dates: those of the months that are asked for,
or the one of a retrain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from ml_platform.contract.assets import CHALLENGER_BEATS_CHAMPION, MODEL
from ml_platform.contract.days import month_of
from ml_platform.contract.learning import FIRST_LABELLED_DAYS, Holdout
from ml_platform.contract.product import Product
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import presence, training_plan
from ml_platform.engine.compared_rows import UnseenRows
from ml_platform.engine.context import left_out
from ml_platform.engine.deciding import Decider
from ml_platform.engine.model_training import EstimatorError, ModelTraining, contract_of, describe
from ml_platform.engine.run_partitions import FAILED, Done, Step
from ml_platform.engine.step import ADVICE, Check, DayResult, Inputs, Written, result_of
from ml_platform.engine.training_plan import TrainingPlan
from ml_platform.machine_learning import holdout, model_history, training_data
from ml_platform.machine_learning.model_card import CORRECTED
from ml_platform.machine_learning.model_history import RESTORED, ModelHistory, ModelRecord
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.promotion import Comparison, Decision
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.tracking import Tracking
from ml_platform.storage.ledger import DayRecord

_CORRECT_CONTRACT = (
    "correct the contract, or the module that it names, until ml-platform check accepts it; every run tries "
    "the model again"
)


class Model(Step):
    """Labelled rows of the MRDS to a model, and the decision whether it serves."""

    asset = MODEL
    chunk = 1

    def partitions(self) -> list[date]:
        return training_plan.as_ofs(self.context)

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        plans = training_plan.plans(self.context, days)
        trained = self.context.ledger.latest(MODEL, set(days), outcomes=["written"], details=False)
        product, newest = self.context.product, training_plan.newest_delivered(self.context)
        found = {}
        for as_of, plan in plans.items():
            # A model that there is stays one, although a delivery before it has been withdrawn.
            if as_of not in trained and (reason := training_plan.not_yet(product, as_of, newest)):
                found[as_of] = Inputs(plan.inputs, "not_due", reason)
            else:
                found[as_of] = Inputs(plan.inputs, found=plan)
        return found

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        lost = presence.lost_models(self.context, records)
        # Of a retrain that nothing was decided about, or of another month's model: all are decided together.
        if undecided := presence.undecided(self.context):
            why = f"nothing was decided about the model as of {undecided[0]}"
            lost = dict.fromkeys(records, why) | lost
        return lost

    def prepare(self) -> None:
        super().prepare()
        presence.restore_models(self.context, ModelHistory(self.context.tables, self.context.product))

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        written: dict[date, Written] = {}
        for as_of, inputs in work.items():
            done = self._do(inputs.found)
            if done is not None:
                written[as_of] = done
        return written

    def finish(self) -> None:
        self.prepare()
        Decider(self.context).decide()

    def is_unfinished(self) -> bool:
        return bool(model_history.decisions_due(self.context.tables, self.context.product))

    def summary(self, days: Sequence[date], done: Done) -> dict[str, Any]:
        return {name: done.tally(name) for name in ("models_trained", "models_reused")}

    def progress(self, position: int, total: int, last: date) -> str:
        return f"model: as of {last} ({position} of {total})"

    def _do(self, plan: TrainingPlan) -> Written | None:
        """Train one model and decide about it; None if another run has written its days meanwhile.

        Of two models of one as-of date the one that is recorded last counts, and must not be the one that
        has learned from the older data.
        """
        rows = UnseenRows(self.context)
        model, written = self._train(plan, rows)
        if training_plan.plans(self.context, [plan.as_of])[plan.as_of].inputs != plan.inputs:
            return None
        decider = Decider(self.context, rows)
        if model is not None:
            decider.history.add(model)
        decided = {decision.as_of: decision.comparison for decision in decider.decide(point_at_champion=True)}
        comparison = decided.get(plan.as_of)
        if model is not None and comparison is not None and comparison.failed:
            return Written("refused", comparison.reason, details=FAILED)
        return written

    def _train(self, plan: TrainingPlan, rows: UnseenRows) -> tuple[ModelRecord | None, Written]:
        """Train one model, or take the registered one with the same training fingerprint; record nothing."""
        context, product = self.context, self.context.product
        if not plan.usable:
            why = f"no day of {plan.days} is in the MRDS; needed are labelled rows"
            if plan.outdated:
                why = f"no day of {plan.days} can be learned from: {_outdated(product, plan)}"
            return None, Written("refused", why)
        asked = ModelTraining(context, plan, self._mode(), rows)
        try:
            trained = asked.run()
        except EstimatorError as error:
            return None, Written("refused", str(error), details=FAILED | {ADVICE: _CORRECT_CONTRACT})
        except TrainingError as error:
            why = f"{error}; {_outdated(product, plan)}" if plan.outdated else str(error)
            return None, Written("refused", why)
        model, chosen = trained.record, trained.chosen
        remarks = [remark for remark in (trained.registered.remark, model.remark) if remark]
        return model, Written(
            "written",
            fingerprint=model.fingerprint,
            metadata=_metadata(
                product, model, plan, context.settings.mlflow_ui_url, Registry.of(context.settings).tracking
            )
            | ({"remark": "; ".join(remarks)} if remarks else {})
            | (describe(chosen, product) if chosen is not None else {}),
            details={name: text for name in RESTORED if (text := getattr(model, name)) is not None},
            tally="models_trained" if trained.is_new else "models_reused",
        )

    @property
    def contract(self) -> str:
        return contract_of(self.context.product)

    def _mode(self) -> Holdout:
        """What the product's models are compared on: as its contract says, or as its first model was.

        Before there is one, by the entities of the days it learns from; whichever month is trained first.
        """
        context, product = self.context, self.context.product
        if product.model.holdout != "auto":
            return product.model.holdout
        known = [
            model.holdout
            for model in ModelHistory(context.tables, product).models()
            if model.holdout is not None
        ]
        if known:
            return known[0]
        records = context.ledger.latest(MRDS, details=False)
        usable = sorted(day for day, record in records.items() if record.usable)
        last = product.last_labelled_day(product.first_month)
        first_days = [
            day for day in usable if day <= max(last, usable[0] + timedelta(days=FIRST_LABELLED_DAYS))
        ]
        session = context.open_spark
        return holdout.mode_for(
            training_data.count_entities(session, product, context.tables, first_days, holdout.FEW_ENTITIES)
        )

    # -- what people see -----------------------------------------------------------------------------

    def results(self, records: Mapping[date, DayRecord], done: Collection[date]) -> list[DayResult]:
        """Each month's result, with the verdict of the present decisions."""
        history = ModelHistory(self.context.tables, self.context.product)
        decisions = {decision.as_of: decision for decision in history.decisions()}
        return [
            _result(self.context.product, record, decisions.get(as_of), up_to_date=as_of not in done)
            for as_of, record in records.items()
        ]


def _result(product: Product, record: DayRecord, decision: Decision | None, *, up_to_date: bool) -> DayResult:
    as_of = record.day
    result = result_of(record, day=month_of(as_of), up_to_date=up_to_date)
    if record.outcome == "not_due":
        result.advice = "deliver the days before it, then materialize the month again"
    if record.outcome == "refused" and not record.failed:
        result.advice = "deliver labelled rows of the days before, then materialize the month again"
    if decision is None or record.fingerprint is None:
        return result
    comparison = decision.comparison
    facts = {} if comparison is None else _numbers(product, comparison)
    check = Check(
        name=CHALLENGER_BEATS_CHAMPION,
        passed=decision.promoted,
        severity="WARN",
        description=decision.reason,
        metadata=facts | {"as_of": str(as_of), "champion_before": decision.champion_before or "none"},
    )
    result.checks = [check]
    result.metadata |= facts | {"promoted": decision.promoted, "promotion": decision.reason}
    return result


def _numbers(product: Product, comparison: Comparison) -> dict[str, Any]:
    """What a comparison found, as flat values that the UI can plot; what is undefined is left out."""
    values = dataclasses.asdict(comparison)
    names = {"challenger", "champion", "lower", "upper", "rows", "entities"}
    if product.task.has_positives:
        names.add("positives")
    return {f"holdout_{name}": values[name] for name in sorted(names) if values[name] is not None}


def _metadata(
    product: Product, model: ModelRecord, plan: TrainingPlan, ui: str | None, mlflow: Tracking
) -> dict[str, Any]:
    missing: Sequence[str] = left_out(plan.records, plan.as_of)
    metadata = {
        "as_of": str(model.as_of),
        "kind": model.kind,
        "model_version": model.version,
        "training_rows": model.rows,
        "training_rows_available": model.rows_available,
        "training_days": str(plan.days),
        "holdout": model.holdout,
        "mlflow_run": mlflow.run_url(ui, model.mlflow_run_id),
    }
    if model.threshold is not None:
        metadata["decision_threshold"] = model.threshold
    if product.model.learns_from == "corrected":
        metadata["learns_from"] = CORRECTED
    if product.model.decision_highest is not None:
        metadata["decision_highest"] = product.model.decision_highest
    skipped = {"days_of_another_contract": plan.outdated, "days_before_since": plan.untrainable}
    metadata |= {name: len(days) for name, days in skipped.items() if days}
    return metadata | ({"left_out": ", ".join(missing)} if missing else {})


def _outdated(product: Product, plan: TrainingPlan) -> str:
    """What to say of the days that were left out since an earlier contract made them, and what to do."""
    first, last = min(plan.outdated), max(plan.outdated)
    return (
        f"{len(plan.outdated):,} days were left out, since an earlier version of the contract made them; "
        f"make them again: ml-platform backfill {product.name} --from {first} --to {last} --select ards,mrds"
    )
