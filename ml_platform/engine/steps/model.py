"""The step ``model``: train a challenger as of a date, compare it with the champion, decide.

Months are done in ascending order. Its partitions are as-of dates: those of the months that are asked for,
or the one of a retrain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from ml_platform.contract.assets import CHALLENGER_BEATS_CHAMPION, MODEL
from ml_platform.contract.days import month_of
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import FIRST_LABELLED_DAYS, Holdout
from ml_platform.contract.product import Product
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import presence, training_plan
from ml_platform.engine.context import left_out
from ml_platform.engine.deciding import Decider, UnseenRows, collected, seed_of, training_rows
from ml_platform.engine.run_partitions import FAILED, Done, Step
from ml_platform.engine.step import Check, DayResult, Inputs, Written, result_of
from ml_platform.engine.training_plan import TrainingPlan
from ml_platform.machine_learning import holdout, model_history, training, training_data
from ml_platform.machine_learning.model_card import DataUsed
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_history import COLUMNS, SELECTION, ModelHistory, ModelRecord
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.promotion import Comparison, Decision
from ml_platform.machine_learning.registry import RegisteredModel, Registry
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import Choosing
from ml_platform.storage.ledger import DayRecord


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
        mode = self._mode()
        slice_ = training_rows(context, plan.usable, plan.as_of, mode)
        made_from = [plan.as_of, slice_.fingerprint, slice_.taken, self.contract, self.code_version]
        fingerprint = fingerprint_of(made_from if mode == "entities" else [*made_from, mode])
        mlflow = Registry.of(context.settings)
        mlflow.prepare()
        found = mlflow.find(product, fingerprint)
        if found is not None and mlflow.absent(product, {found.version: fingerprint}):
            found = None  # the version is there, its file isn't
        tally = "models_trained" if found is None else "models_reused"
        chosen = self._chosen(fingerprint, found)
        try:
            if found is None:
                found, chosen = self._fit(plan, slice_, fingerprint, mode, rows, chosen)
        except TrainingError as error:
            why = f"{error}; {_outdated(product, plan)}" if plan.outdated else str(error)
            return None, Written("refused", why)
        model = ModelRecord(
            as_of=plan.as_of,
            month=plan.month,
            kind=plan.kind,
            fingerprint=fingerprint,
            version=found.version,
            mlflow_run_id=found.run_id,
            threshold=found.threshold,
            rows=slice_.taken,
            rows_available=slice_.available,
            first_day=plan.days.first,
            last_day=plan.days.last,
            run_id=context.request.run_id,
            columns=ModelColumns.of(product).plain,
            holdout=mode,
            selection=chosen.plain if chosen is not None else None,
        )
        return model, Written(
            "written",
            fingerprint=fingerprint,
            metadata=_metadata(product, model, plan, context.settings.mlflow_ui_url, mlflow)
            | ({"remark": found.remark} if found.remark else {})
            | (_chosen_in_words(product, chosen) if chosen is not None else {}),
            details={
                name: text
                for name, text in {COLUMNS: model.columns, SELECTION: model.selection}.items()
                if text
            },
            tally=tally,
        )

    @property
    def contract(self) -> str:
        # What is chosen follows from the whole of the metric, what is fitted from its name alone.
        of_metric = ("evaluation.quantile", "evaluation.k") if self.context.product.model.selects else ()
        return self.context.product.hash_of(*self.spec.sections, *of_metric)

    def _chosen(self, fingerprint: str, found: RegisteredModel | None) -> Selection | None:
        """What was chosen when the model with a training fingerprint was first trained, if it was chosen.

        The clock has a part in a search, so what it has found is a fact: whoever trains the model again
        takes it from the model's record, or from its run in MLflow, and searches no more.
        """
        context = self.context
        if not context.product.model.selects:
            return None
        record = ModelHistory(context.tables, context.product).by_fingerprint().get(fingerprint)
        if record is not None and record.selection is not None:
            return Selection.read(record.selection)
        return Registry.of(context.settings).selection(found.run_id) if found is not None else None

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

    def _fit(
        self,
        plan: TrainingPlan,
        slice_: training_data.Slice,
        fingerprint: str,
        mode: Holdout,
        rows: UnseenRows,
        before: Selection | None,
    ) -> tuple[RegisteredModel, Selection | None]:
        context, product = self.context, self.context.product
        frame = collected(product, slice_, mode)
        choosing = Choosing(
            mode,
            seed=seed_of(fingerprint),
            known=before,
            say=lambda what: context.log(f"{MODEL}: as of {plan.as_of}, {what}"),
        )
        trained = training.train(product, frame, choosing)
        unseen = pd.DataFrame()
        if mode == "entities":
            known = context.ledger.latest(MRDS, details=False)
            unseen = rows.by_entities(plan.as_of, known)
        registered = Registry.of(context.settings).log(
            product,
            trained,
            as_of=plan.as_of,
            fingerprint=fingerprint,
            holdout=unseen if len(unseen) else None,
            data=DataUsed(
                delta_version=str(context.tables.version(product.name, MRDS)),
                first_day=plan.days.first,
                last_day=plan.days.last,
                rows=slice_.taken,
                rows_available=slice_.available,
                table_path=context.tables.path(product.name, MRDS),
            ),
            tags={
                "kind": plan.kind,
                "compared_by": mode,
                "partition": f"{plan.month:%Y-%m}",
                "dagster_run_id": context.request.run_id,
                "code_version": self.code_version,
            },
            parent_run_id=context.request.mlflow_parent_run_id,
        )
        return registered, trained.selection

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
    product: Product, model: ModelRecord, plan: TrainingPlan, ui: str | None, mlflow: Registry
) -> dict[str, Any]:
    missing: Sequence[str] = left_out(plan.records)
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
    if product.model.decision_highest is not None:
        metadata["decision_highest"] = product.model.decision_highest
    skipped = {"days_of_another_contract": plan.outdated, "days_before_since": plan.untrainable}
    metadata |= {name: len(days) for name, days in skipped.items() if days}
    return metadata | ({"left_out": ", ".join(missing)} if missing else {})


def _chosen_in_words(product: Product, chosen: Selection) -> dict[str, Any]:
    """What was chosen before a model was trained, and why, for people."""
    found = {"estimator": chosen.estimator(product).class_, "selection": chosen.reason}
    trials = [number for number in chosen.trials if number is not None]
    return found | ({"search_trials": sum(trials)} if trials else {})


def _outdated(product: Product, plan: TrainingPlan) -> str:
    """What to say of the days that were left out since an earlier contract made them, and what to do."""
    first, last = min(plan.outdated), max(plan.outdated)
    return (
        f"{len(plan.outdated):,} days were left out, since an earlier version of the contract made them; "
        f"make them again: ml-platform backfill {product.name} --from {first} --to {last} --select ards,mrds"
    )
