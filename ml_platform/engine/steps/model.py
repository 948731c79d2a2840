"""The monthly step: train a challenger as of a date, compare it with the champion, decide.

A month's model is trained as of the month's first day; a retrain comes with a later as-of date within
the month and learns from the recent past only. Months are done in ascending order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from ml_platform.contract.assets import CHALLENGER_BEATS_CHAMPION, CODE_VERSIONS, StepName
from ml_platform.contract.days import DayRange, add_months, month_of
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import FIRST_LABELLED_DAYS, Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.engine import evolution, presence, serving_models
from ml_platform.engine.context import StepContext, left_out
from ml_platform.engine.run_days import ATTEMPTS
from ml_platform.engine.step import Check, DayResult, PermanentError, StepResult, result_of
from ml_platform.machine_learning import holdout, promotion, registry, training, training_data
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_history import (
    COLUMNS,
    Kind,
    ModelHistory,
    ModelRecord,
    champion,
    newest_morning,
)
from ml_platform.machine_learning.promotion import Comparison, Decision
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import DayRecord
from ml_platform.storage.tables import OvertakenError

MODEL: StepName = "model"
CODE_VERSION = CODE_VERSIONS[MODEL]
CONTRACT_SECTIONS = ("source", "mrds", "model", "evaluation.metric")


@dataclass(frozen=True)
class Plan:
    """One model to be trained: as of when, from which days.

    ``outdated`` are the days that an earlier version of the contract made, with other definitions of what the
    model reads, ``untrainable`` those before the ``since`` of a required feature; it learns from neither.
    """

    month: date
    as_of: date
    kind: Kind
    days: DayRange
    records: dict[date, DayRecord]
    outdated: frozenset[date]
    untrainable: frozenset[date]
    inputs: str

    @property
    def usable(self) -> list[date]:
        """The days to learn from: none that an earlier contract made otherwise than today's would, and none
        before the features that must have values had any.
        """
        skipped = self.outdated | self.untrainable
        return [day for day, record in self.records.items() if record.usable and day not in skipped]


def training_days(product: Product, as_of: date, kind: Kind) -> DayRange:
    """The event days a model as of a date may learn from: the months, or a retrain's recent past.

    They end with the last day whose labels can be known, and have their full length before it. Days after
    it don't count, although some of their labels may have come: those that come early aren't like the others.

    Raises:
        PermanentError: no label can be known by then.
    """
    last = product.last_labelled_day(as_of)
    if last < product.start:
        raise PermanentError(
            f"as of {as_of} no label is known: those of the first day, {product.start}, come "
            f"{product.source.label_delay_days} days after it; the first possible as-of is "
            f"{product.first_as_of(1)}"
        )
    if kind == "retrain" and product.retrain.training_days is not None:
        first = last - timedelta(days=product.retrain.training_days - 1)
    else:
        rules = product.model if kind == "monthly" else product.retrain
        months = pd.DateOffset(months=rules.training_months)
        first = (pd.Timestamp(last + timedelta(days=1)) - months).date()
    return DayRange(max(first, product.start), last)


def plan(context: StepContext) -> list[Plan]:
    """The models the request asks for, ascending. Needs no Spark.

    Raises:
        PermanentError: an as-of date for more than one month, outside its month, or in the future.
    """
    request, product = context.request, context.product
    months = sorted(month_of(day) for day in request.days)
    if request.as_of is not None:
        if len(months) > 1:
            raise PermanentError(
                f"an as-of date is for one month at once; asked for were {len(months)}. "
                "Materialize the one partition that the retrain is for."
            )
        if not months[0] <= request.as_of < add_months(months[0], 1):
            raise PermanentError(
                f"as-of {request.as_of} doesn't lie in the month {months[0]:%Y-%m}; "
                f"accepted is {months[0]} to {add_months(months[0], 1) - timedelta(days=1)}"
            )
        _require_landed(context, request.as_of)
    known = context.ledger.latest("mrds", details=False)
    contracts = _contracts(context)
    return [_plan(product, month, request.as_of or month, known, contracts) for month in months]


def _require_landed(context: StepContext, as_of: date) -> None:
    """Refuse an as-of date that lies after the morning after the newest landed day.

    A model of the future would know no more than one of that morning, and all retrains would wait for it.
    """
    records = context.ledger.latest("ards", details=False)
    newest = max((day for day, record in records.items() if record.outcome != "missing"), default=None)
    if newest is None:
        raise PermanentError(f"as-of {as_of} lies in the future: no day has been delivered yet")
    if as_of > newest + timedelta(days=1):
        raise PermanentError(
            f"as-of {as_of} lies in the future: the newest day that has been delivered and materialized is "
            f"{newest}; the latest as-of is {newest + timedelta(days=1)}"
        )


def _contracts(context: StepContext) -> frozenset[str]:
    """The versions of the contract whose days hold what today's would, in all that the model reads."""
    product = context.product
    return ContractVersions(context.tables, product).mrds_like_now(product.model.features.all)


def _plan(
    product: Product,
    month: date,
    as_of: date,
    known: Mapping[date, DayRecord],
    contracts: Collection[str],
) -> Plan:
    kind: Kind = "monthly" if as_of == month else "retrain"
    days = training_days(product, as_of, kind)
    records = {day: known[day] for day in days if day in known}
    outdated = frozenset(
        day for day, one in records.items() if one.outcome == "written" and one.contract not in contracts
    )
    untrainable = frozenset(day for day in records if not product.trainable(day)) - outdated
    content = [as_of, _content(days, known), *([sorted(outdated)] if outdated else [])]
    return Plan(month, as_of, kind, days, records, outdated, untrainable, fingerprint_of(content))


def _content(days: Iterable[date], known: Mapping[date, DayRecord]) -> list[Any]:
    """What a window holds, by what the ledger says of its days."""
    return [(day, known[day].outcome, known[day].fingerprint) for day in days if day in known]


def pending(context: StepContext) -> list[Plan]:
    """The plans that are not up to date. Needs no Spark."""
    plans = plan(context)
    known = context.ledger.latest(MODEL, {one.as_of for one in plans})
    contract = context.product.hash_of(*CONTRACT_SECTIONS)
    lost = presence.lost_models(context, known)
    for as_of, why in lost.items():
        context.log(f"model as of {as_of}: {why}; it is done again")
    # Of a retrain that nothing was decided about, or of another month's model: all are decided together.
    undecided = bool(presence.undecided(context))
    return [
        one
        for one in plans
        if context.request.force
        or undecided
        or one.as_of in lost
        or (record := known.get(one.as_of)) is None
        or record.failed
        or not record.made_from(one.inputs, contract, CODE_VERSION)
    ]


def run_model(context: StepContext) -> StepResult:
    """Train what isn't up to date, decide about every model, and report each month asked for.

    Raises:
        OvertakenError: other runs have written the same days again and again.
    """
    todo = pending(context)
    evolution.align(context)
    step = _ModelStep(context)
    presence.restore_models(context, step.history)
    by_as_of = {one.as_of: one for one in todo}
    isolation = context.isolation(lambda as_of, error: step.refuse(by_as_of[as_of], error))
    for one in todo:
        isolation.work([one.as_of], lambda as_of: step.do(by_as_of[as_of[0]]))
        context.log(f"model: as of {one.as_of} ({todo.index(one) + 1} of {len(todo)})")
    decisions = {one.as_of: one for one in step.decide()}
    plans = plan(context)
    known = context.ledger.latest(MODEL, {one.as_of for one in plans})
    done = {one.as_of for one in todo}
    return StepResult(
        days=[
            step.result(one, known[one.as_of], decisions.get(one.as_of), up_to_date=one.as_of not in done)
            for one in plans
        ],
        metadata={"models_trained": step.trained, "models_reused": step.reused},
    )


class _ModelStep:
    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.product = context.product
        self.history = ModelHistory(context.tables, context.product)
        self.registry = registry.Registry.of(context.settings)
        self.trained = 0
        self.reused = 0
        self._compared: tuple[str, pd.DataFrame] | None = None
        self._contract = self.product.hash_of(*CONTRACT_SECTIONS)
        self._contracts = _contracts(context)
        self._mismatches: dict[str, str | None] = {}

    def do(self, planned: Plan) -> None:
        """Train one model, decide about it, and record it."""
        model, record = self.train_on_newest(planned)
        if model is not None:
            self.history.add(model)
        decided = {one.as_of: one.comparison for one in self.decide()}
        comparison = decided.get(planned.as_of)
        if model is not None and comparison is not None and comparison.failed:
            record = self._failed(planned, comparison.reason)
        # Last, so that a run that is killed before has this month done again.
        self.context.ledger.record([record])

    def refuse(self, planned: Plan, error: Exception) -> None:
        """Record that an exception has ended the work on a model; the next run tries it again."""
        why = self.context.failure(f"model: the one as of {planned.as_of}", error)
        self.context.ledger.record([self._failed(planned, f"model failed: {why}")])

    def _failed(self, planned: Plan, reason: str) -> DayRecord:
        record = self._record_of(planned, None, reason, {})
        return dataclasses.replace(record, details={**record.details, "failed": True})

    def train_on_newest(self, planned: Plan) -> tuple[ModelRecord | None, DayRecord]:
        """Train one model, again if another run has written its days meanwhile.

        Of two models of one as-of date the one that is recorded last counts, and must not be the one that
        has learned from the older data.
        """
        for _ in range(ATTEMPTS):
            trained = self.train(planned)
            known = self.context.ledger.latest("mrds", set(planned.days), details=False)
            now = _plan(self.product, planned.month, planned.as_of, known, self._contracts)
            if now.inputs == planned.inputs:
                return trained
            planned = now
        raise OvertakenError(
            f"{self.product.name}/{MODEL} as of {planned.as_of}: other runs have changed its days again and "
            "again; run again when they are done"
        )

    def train(self, plan: Plan) -> tuple[ModelRecord | None, DayRecord]:
        """Train one model, or take the registered one with the same training fingerprint; record nothing."""
        context, product = self.context, self.product
        if not plan.usable:
            why = f"no day of {plan.days} is in the MRDS; needed are labelled rows"
            if plan.outdated:
                why = f"no day of {plan.days} can be learned from: {_outdated(self.product, plan)}"
            return None, self._record_of(plan, None, why, {})
        mode = self._mode()
        slice_ = self._training_rows(plan.usable, plan.as_of, mode)
        made_from = [plan.as_of, slice_.fingerprint, slice_.taken, self._contract, CODE_VERSION]
        fingerprint = fingerprint_of(made_from if mode == "entities" else [*made_from, mode])
        self.registry.prepare()
        found = self.registry.find(product, fingerprint)
        if found is not None and self.registry.absent(product, {found.version: fingerprint}):
            found = None  # the version is there, its file isn't
        try:
            if found is None:
                found = self._train(plan, slice_, fingerprint, mode)
                self.trained += 1
            else:
                self.reused += 1
        except training.TrainingError as error:
            why = f"{error}; {_outdated(self.product, plan)}" if plan.outdated else str(error)
            return None, self._record_of(plan, None, why, {})
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
        )
        metadata = _metadata(model, plan, context.settings.mlflow_ui_url, self.registry)
        return model, self._record_of(plan, fingerprint, "", metadata, model.columns)

    def _mode(self) -> Holdout:
        """What the product's models are compared on: as its contract says, or as its first model was.

        Before there is one, by the entities of the days it learns from; whichever month is trained first.
        """
        context, product = self.context, self.product
        if product.model.holdout != "auto":
            return product.model.holdout
        known = [model.holdout for model in self.history.models() if model.holdout is not None]
        if known:
            return known[0]
        records = context.ledger.latest("mrds", details=False)
        usable = sorted(day for day, record in records.items() if record.usable)
        last = product.last_labelled_day(product.first_month)
        first_days = [
            day for day in usable if day <= max(last, usable[0] + timedelta(days=FIRST_LABELLED_DAYS))
        ]
        session = lambda: context.spark  # noqa: E731
        return holdout.mode_for(
            training_data.count_entities(session, product, context.tables, first_days, holdout.FEW_ENTITIES)
        )

    def _training_rows(self, days: Sequence[date], as_of: date, mode: Holdout) -> training_data.Slice:
        """The rows that a model learns from: of all entities but those that are held out."""
        return training_data.labelled(
            lambda: self.context.spark,
            self.product,
            self.context.tables,
            days,
            as_of,
            held_out=False if mode == "entities" else None,
            maximum_rows=self.product.model.maximum_rows,
        )

    def _train(
        self, plan: Plan, slice_: training_data.Slice, fingerprint: str, mode: Holdout
    ) -> registry.RegisteredModel:
        context, product = self.context, self.product
        frame = slice_.collect()
        trained = training.train(product, frame)
        unseen = pd.DataFrame()
        if mode == "entities":
            known = context.ledger.latest("mrds", details=False)
            unseen = self._rows_by_entities(plan.as_of, known)
        return self.registry.log(
            product,
            trained,
            as_of=plan.as_of,
            fingerprint=fingerprint,
            holdout=unseen if len(unseen) else None,
            data=registry.DataUsed(
                delta_version=str(context.tables.version(product.name, "mrds")),
                first_day=plan.days.first,
                last_day=plan.days.last,
                rows=slice_.taken,
                rows_available=slice_.available,
                table_path=context.tables.path(product.name, "mrds"),
            ),
            tags={
                "kind": plan.kind,
                "compared_by": mode,
                "partition": f"{plan.month:%Y-%m}",
                "dagster_run_id": context.request.run_id,
                "code_version": CODE_VERSION,
            },
            parent_run_id=context.request.mlflow_parent_run_id,
        )

    # -- comparing -----------------------------------------------------------------------------------

    def decide(self) -> list[Decision]:
        """Fold all models into decisions, and point MLflow's alias at the champion."""
        presence.require_rollbacks(self.context, self.history)
        labels = self.context.ledger.latest("mrds", details=False)
        contract = self.product.hash_of("promotion", "evaluation.metric", "model.holdout_days")

        before = self.history.decisions()
        earlier = {
            (one.fingerprint, one.champion_before): one.comparison
            for one in before
            if one.comparison is not None and not one.comparison.failed
        }

        def key_of(challenger: ModelRecord, before: ModelRecord | None, day: date) -> str:
            content = [_content(days, labels) for days in self._compared_days(challenger, before, day)]
            pair = [challenger.fingerprint, before.fingerprint if before else None]
            mismatches = [self._mismatch(one) for one in (challenger, before) if one is not None]
            at_once = day == challenger.as_of and len(content) == 1
            made_from = [day, pair, content[0] if at_once else content, contract]
            return fingerprint_of([*made_from, *(mismatches if any(mismatches) else ())])

        def compare(challenger: ModelRecord, before: ModelRecord | None, day: date) -> Comparison:
            mismatch = self._mismatch(challenger)
            known = earlier.get((challenger.fingerprint, before.fingerprint if before else None))
            is_past = self._is_past(self._compared_days(challenger, before, day), labels)
            if known is not None and (mismatch is not None or is_past):
                return known  # it was compared when its contract was in force, and that stands
            if mismatch is not None:
                return promotion.not_compared(
                    self.product, f"the model can't be evaluated: under this contract {mismatch}"
                )
            return self._compare(challenger, before, day, labels)

        unusable = {one.fingerprint for one in self.history.models() if self._mismatch(one) is not None}
        decisions = self.history.decide(key_of, compare, until=newest_morning(labels), unusable=unusable)
        now = champion(decisions)
        if now is not None and (self.trained or self.reused or decisions != before):
            serving_now = self.history.by_fingerprint()[now.fingerprint]
            if not self.registry.absent(self.product, {serving_now.version: now.fingerprint}):
                self.registry.set_champion(self.product, serving_now.version)
        elif now is None and champion(before) is not None:
            self.registry.set_champion(self.product, None)
        return decisions

    def _compared_days(
        self, challenger: ModelRecord, before: ModelRecord | None, day: date
    ) -> list[Sequence[date]]:
        """The days whose rows a comparison depends on, but for those the models have learned from."""
        product = self.product
        if day > challenger.as_of:
            return [list(holdout.forward(product, challenger.as_of))]
        if challenger.compared_by == "time":
            twin = holdout.twin_as_of(product, challenger.as_of)
            return [list(holdout.forward(product, twin)), list(_days_of_twin(product, challenger))]
        return [list(holdout.by_entities(product, challenger.as_of))]

    def _compare(
        self,
        challenger: ModelRecord,
        before: ModelRecord | None,
        day: date,
        labels: Mapping[date, DayRecord],
    ) -> Comparison:
        mismatch = self._mismatch(before) if before is not None else None
        if challenger.compared_by == "time" and day == challenger.as_of:
            found = self._compare_twin(challenger, labels)
            return self._without_rival(found, before, mismatch)
        if day > challenger.as_of:
            frame = self._rows_forward(challenger.as_of, day, labels)
        else:
            frame = self._rows_by_entities(challenger.as_of, labels)

        rival = None if mismatch is not None else before

        def scored(model: ModelRecord) -> promotion.Predictions:
            if frame.empty:
                return np.zeros(0), np.zeros(0)
            pipeline = self.registry.load(self.product, model.version, model.fingerprint).pipeline
            return self._scored(pipeline, model.threshold, frame)

        found = self._compared_on(frame, scored(challenger), scored(rival) if rival else None)
        return self._without_rival(found, before, mismatch)

    def _without_rival(
        self, found: Comparison, before: ModelRecord | None, mismatch: str | None
    ) -> Comparison:
        """A comparison that says why the champion, if it can't score, has no part in it."""
        if before is None or mismatch is None:
            return found
        why = (
            f"the champion as of {before.as_of} can't be evaluated under this contract ({mismatch}), so the "
            "baselines are the bar"
        )
        return dataclasses.replace(found, reason=f"{found.reason}; {why}")

    def _compare_twin(self, challenger: ModelRecord, labels: Mapping[date, DayRecord]) -> Comparison:
        """A first model has no days after it yet: a twin, trained as of long enough before, stands for it."""
        as_of = holdout.twin_as_of(self.product, challenger.as_of)
        days = [day for day in _days_of_twin(self.product, challenger) if self._can_count(day, labels)]
        known = self._training_rows(days, as_of, "time").collect() if days else pd.DataFrame()
        try:
            twin = training.train(self.product, known)
        except training.TrainingError as error:
            return promotion.not_compared(
                self.product,
                f"there is no champion to compare it with, and a model as of {as_of}, whose next "
                f"{holdout.days_forward(self.product)} days could tell, has too little: {error}",
            )
        frame = self._rows_forward(as_of, challenger.as_of, labels)
        found = self._compared_on(frame, self._scored(twin.pipeline, twin.threshold, frame), None)
        return dataclasses.replace(found, reason=f"of a twin as of {as_of}: {found.reason}")

    def _scored(self, pipeline: Any, threshold: float, frame: pd.DataFrame) -> promotion.Predictions:
        probability = training.probabilities(pipeline, self.product, frame)
        return probability, probability >= threshold

    def _compared_on(
        self,
        frame: pd.DataFrame,
        challenger: promotion.Predictions,
        champion: promotion.Predictions | None,
    ) -> Comparison:
        return promotion.compare(
            self.product,
            frame[self.product.label].to_numpy(dtype="int64"),
            challenger,
            champion,
            frame["_cluster"].to_numpy(dtype="int64"),
            entities=len(frame[list(self.product.entity)].drop_duplicates()),
        )

    def _is_past(self, compared: Iterable[Sequence[date]], known: Mapping[date, DayRecord]) -> bool:
        """Whether days that a challenger is compared on are still those of an earlier contract."""
        records = [known[day] for days in compared for day in days if day in known]
        return any(one.outcome == "written" and one.contract not in self._contracts for one in records)

    def _can_count(self, day: date, known: Mapping[date, DayRecord]) -> bool:
        """Whether a day can be learned from or compared on under the present contract."""
        record = known.get(day)
        usable = record is not None and record.usable and record.contract in self._contracts
        return usable and self.product.trainable(day)

    def _mismatch(self, model: ModelRecord) -> str | None:
        """Why a model can't be evaluated under the present contract; None if it can."""
        if model.fingerprint not in self._mismatches:
            self._mismatches[model.fingerprint] = serving_models.mismatch(self.registry, self.product, model)
        return self._mismatches[model.fingerprint]

    def _rows_by_entities(self, as_of: date, known: Mapping[date, DayRecord]) -> pd.DataFrame:
        """The labelled rows of the held-out entities, of the last labelled days before the as-of date.

        Args:
            known: what the ledger says of the MRDS.
        """
        return self._unseen(holdout.by_entities(self.product, as_of), as_of, known, held_out=True)

    def _rows_forward(self, as_of: date, day: date, known: Mapping[date, DayRecord]) -> pd.DataFrame:
        """The rows of all entities on the days from an as-of date on, labelled by the morning of ``day``.

        What a bootstrap draws are their weeks.
        """
        rows = self._unseen(holdout.forward(self.product, as_of), day, known, held_out=None)
        return rows.assign(_cluster=[holdout.week(_date(one)) for one in rows[EVENT_DAY]])

    def _unseen(
        self, days: DayRange, day: date, known: Mapping[date, DayRecord], *, held_out: bool | None
    ) -> pd.DataFrame:
        """Labelled rows to compare models on, at most ``evaluation.maximum_rows``; the last are kept."""
        context, product = self.context, self.product
        key = fingerprint_of([day, held_out, _content(days, known)])
        if self._compared is not None and self._compared[0] == key:
            return self._compared[1]
        frame = training_data.labelled(
            lambda: context.spark,
            product,
            context.tables,
            [one for one in days if self._can_count(one, known)],
            day,
            held_out=held_out,
            maximum_rows=product.evaluation.maximum_rows,
        ).collect()
        self._compared = (key, frame)
        return frame

    def _record_of(
        self,
        plan: Plan,
        fingerprint: str | None,
        reason: str,
        metadata: dict[str, Any],
        columns: str | None = None,
    ) -> DayRecord:
        return DayRecord(
            asset=MODEL,
            day=plan.as_of,
            outcome="written" if fingerprint else "refused",
            reason=reason,
            inputs=plan.inputs,
            contract=self._contract,
            code_version=CODE_VERSION,
            fingerprint=fingerprint,
            run_id=self.context.request.run_id,
            details={"metadata": metadata, COLUMNS: columns} if columns else {"metadata": metadata},
        )

    def result(
        self, plan: Plan, record: DayRecord, decision: Decision | None, *, up_to_date: bool
    ) -> DayResult:
        """A month's result, with the verdict of the present fold."""
        result = result_of(record, day=plan.month, up_to_date=up_to_date)
        if record.fingerprint is None and not record.failed:
            result.advice = "deliver labelled rows of the days before, then materialize the month again"
        if decision is None or record.fingerprint is None:
            return result
        comparison = decision.comparison
        facts = {} if comparison is None else _numbers(comparison)
        check = Check(
            name=CHALLENGER_BEATS_CHAMPION,
            passed=decision.promoted,
            severity="WARN",
            description=decision.reason,
            metadata=facts
            | {"as_of": str(plan.as_of), "champion_before": decision.champion_before or "none"},
        )
        result.checks = [check]
        result.metadata |= facts | {"promoted": decision.promoted, "promotion": decision.reason}
        return result


def _days_of_twin(product: Product, challenger: ModelRecord) -> Sequence[date]:
    as_of = holdout.twin_as_of(product, challenger.as_of)
    if product.last_labelled_day(as_of) < product.start:
        return ()
    return list(training_days(product, as_of, challenger.kind))


def _date(value: Any) -> date:
    """A day as pandas may hold it."""
    return pd.Timestamp(value).date()


def _numbers(comparison: Comparison) -> dict[str, Any]:
    """What a comparison found, as flat values that the UI can plot; what is undefined is left out."""
    values = dataclasses.asdict(comparison)
    names = {"challenger", "champion", "lower", "upper", "rows", "positives", "entities"}
    return {f"holdout_{name}": values[name] for name in sorted(names) if values[name] is not None}


def _metadata(model: ModelRecord, plan: Plan, ui: str | None, mlflow: registry.Registry) -> dict[str, Any]:
    missing: Sequence[str] = left_out(plan.records)
    metadata = {
        "as_of": str(model.as_of),
        "kind": model.kind,
        "model_version": model.version,
        "decision_threshold": model.threshold,
        "training_rows": model.rows,
        "training_rows_available": model.rows_available,
        "training_days": str(plan.days),
        "holdout": model.holdout,
        "mlflow_run": mlflow.run_url(ui, model.mlflow_run_id),
    }
    skipped = {"days_of_another_contract": plan.outdated, "days_before_since": plan.untrainable}
    metadata |= {name: len(days) for name, days in skipped.items() if days}
    return metadata | ({"left_out": ", ".join(missing)} if missing else {})


def _outdated(product: Product, plan: Plan) -> str:
    """What to say of the days that were left out since an earlier contract made them, and what to do."""
    first, last = min(plan.outdated), max(plan.outdated)
    return (
        f"{len(plan.outdated):,} days were left out, since an earlier version of the contract made them; "
        f"make them again: ml-platform backfill {product.name} --from {first} --to {last} --select ards,mrds"
    )


def take_back(context: StepContext, *, reason: str, by: str) -> tuple[Decision, Decision | None]:
    """Take the newest promotion back and decide again; returns it, and the champion there is now.

    Raises:
        LookupError: no promotion stands.
    """
    evolution.align(context)
    step = _ModelStep(context)
    presence.restore_models(context, step.history)
    newest = champion(step.history.decisions())
    if newest is None:
        raise LookupError(f"{context.product.name} has no promotion that could be taken back")
    step.history.take_back(newest, reason=reason, by=by)
    return newest, champion(step.decide())
