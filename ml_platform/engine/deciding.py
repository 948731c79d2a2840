"""Deciding about models: a challenger is compared with the champion on rows that neither has learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from ml_platform.contract.days import DayRange
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import evolution, presence, serving_models
from ml_platform.engine.context import StepContext
from ml_platform.engine.training_plan import content_of, readable_contracts, training_days
from ml_platform.machine_learning import holdout, promotion, rollback, training, training_data
from ml_platform.machine_learning.kind import LAST_LABEL, ROWS_OF_DAY, Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_history import (
    ModelHistory,
    ModelRecord,
    NotComparedNowError,
    champion,
    newest_morning,
)
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.promotion import Comparison, Decision
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.rollback import Rollback
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import Choosing
from ml_platform.storage.ledger import DayRecord


def training_rows(
    context: StepContext, days: Sequence[date], as_of: date, mode: Holdout
) -> training_data.Slice:
    """The rows that a model learns from: of all entities but those that are held out."""
    return training_data.labelled(
        context.open_spark,
        context.product,
        context.tables,
        days,
        as_of,
        held_out=False if mode == "entities" else None,
        maximum_rows=context.product.model.maximum_rows,
    )


def seed_of(fingerprint: str) -> int:
    """The seed of what is drawn at random while the model with a training fingerprint is trained."""
    return int(fingerprint[:8], 16)


def collected(product: Product, slice_: training_data.Slice, mode: Holdout) -> pd.DataFrame:
    """The rows that a model learns from, with about how many their whole days have, if it matters.

    That is worked out of the rows themselves: what is learned must follow from them alone.
    """
    frame = slice_.collect()
    if frame.empty or not kind_of(product).uses_rows_of_day:
        return frame
    share = slice_.taken / slice_.available * (1 - 1 / training_data.HELD_OUT if mode == "entities" else 1)
    rows = frame.groupby(EVENT_DAY)[EVENT_DAY].transform("size") / share
    return frame.assign(**{ROWS_OF_DAY: rows})


class UnseenRows:
    """Rows that models are compared on; those that were read last are kept for the next who asks."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.contracts = readable_contracts(context)
        self._compared: tuple[str, pd.DataFrame] | None = None

    def can_count(self, day: date, known: Mapping[date, DayRecord]) -> bool:
        """Whether a day can be learned from or compared on under the present contract."""
        record = known.get(day)
        usable = record is not None and record.usable and record.contract in self.contracts
        return usable and self.context.product.trainable(day)

    def by_entities(self, as_of: date, known: Mapping[date, DayRecord]) -> pd.DataFrame:
        """The labelled rows of the held-out entities, of the last labelled days before the as-of date.

        Args:
            known: what the ledger says of the MRDS.
        """
        return self._unseen(holdout.by_entities(self.context.product, as_of), as_of, known, held_out=True)

    def forward(self, as_of: date, day: date, known: Mapping[date, DayRecord]) -> pd.DataFrame:
        """The rows of all entities on the days from an as-of date on, labelled by the morning of ``day``.

        What a bootstrap draws are their weeks.
        """
        rows = self._unseen(holdout.forward(self.context.product, as_of), day, known, held_out=None)
        return rows.assign(_cluster=[holdout.week(_date(row)) for row in rows[EVENT_DAY]])

    def _unseen(
        self, days: DayRange, day: date, known: Mapping[date, DayRecord], *, held_out: bool | None
    ) -> pd.DataFrame:
        """Labelled rows to compare models on, at most ``evaluation.maximum_rows``; the last are kept."""
        context, product = self.context, self.context.product
        read = with_days_before(product, days)
        key = fingerprint_of([day, held_out, content_of(read, known)])
        if self._compared is not None and self._compared[0] == key:
            return self._compared[1]
        frame = training_data.labelled(
            context.open_spark,
            product,
            context.tables,
            [candidate for candidate in read if self.can_count(candidate, known)],
            day,
            held_out=held_out,
            maximum_rows=product.evaluation.maximum_rows,
        ).collect()
        if kind_of(product).uses_last_label:
            frame = training_data.with_last_labels(product, frame, days.first, LAST_LABEL)
        if kind_of(product).uses_rows_of_day:
            rows = {candidate: known[candidate].counts["rows"] for candidate in read if candidate in known}
            frame = frame.assign(**{ROWS_OF_DAY: [rows[_date(value)] for value in frame[EVENT_DAY]]})
        self._compared = (key, frame)
        return frame


def with_days_before(product: Product, days: DayRange) -> DayRange:
    """Some days and, if a baseline is an entity's last label, the days before in which that may lie."""
    if not kind_of(product).uses_last_label:
        return days
    back = training_data.LAST_LABEL_DAYS + product.source.label_delay_days
    return DayRange(days.first - timedelta(days=back), days.last)


class Decider:
    """Decides about the models of a product."""

    def __init__(self, context: StepContext, rows: UnseenRows | None = None) -> None:
        self.context = context
        self.product = context.product
        self.history = ModelHistory(context.tables, context.product)
        self.registry = Registry.of(context.settings)
        self.rows = rows or UnseenRows(context)
        self._mismatches: dict[str, str | None] = {}

    def decide(self, *, point_at_champion: bool = False, reading: bool = True) -> list[Decision]:
        """Fold all models into decisions, and point MLflow's alias at the champion.

        Args:
            point_at_champion: whether to do that although no decision has changed.
            reading: whether models that were not compared yet are; else the next run compares them.
        """
        presence.require_rollbacks(self.context, self.history)
        labels = self.context.ledger.latest(MRDS, details=False)
        # What belongs to a metric counts where there is any, so that comparisons of old stay known.
        of_metric = [
            f"evaluation.{key}" for key in ("quantile", "k") if getattr(self.product.evaluation, key)
        ]
        if self.product.model.decision_highest is not None:
            of_metric.append("model.decision_highest")
        contract = self.product.hash_of("promotion", "evaluation.metric", "model.holdout_days", *of_metric)

        before = self.history.decisions()
        until = newest_morning(labels)
        if not reading:  # who waits goes on waiting: nobody compares it now
            until = max(
                (decision.decided_on for decision in before if not decision.waiting), default=date.min
            )
        earlier = {
            (decision.fingerprint, decision.champion_before): decision.comparison
            for decision in before
            if decision.comparison is not None and not decision.comparison.failed
        }

        def key_of(challenger: ModelRecord, before: ModelRecord | None, day: date) -> str:
            content = [content_of(days, labels) for days in self._compared_days(challenger, before, day)]
            pair = [challenger.fingerprint, before.fingerprint if before else None]
            mismatches = [self._mismatch(model) for model in (challenger, before) if model is not None]
            at_once = day == challenger.as_of and len(content) == 1
            made_from = [day, pair, content[0] if at_once else content, contract]
            return fingerprint_of([*made_from, *(mismatches if any(mismatches) else ())])

        def compare(challenger: ModelRecord, before: ModelRecord | None, day: date) -> Comparison:
            known = earlier.get((challenger.fingerprint, before.fingerprint if before else None))
            if not reading:
                raise NotComparedNowError(known)
            mismatch = self._mismatch(challenger)
            is_past = self._is_past(self._compared_days(challenger, before, day), labels)
            if known is not None and (mismatch is not None or is_past):
                return known  # it was compared when its contract was in force, and that stands
            if mismatch is not None:
                return promotion.not_compared(
                    self.product, f"the model can't be evaluated: under this contract {mismatch}"
                )
            return self._compare(challenger, before, day, labels)

        unusable = {model.fingerprint for model in self.history.models() if self._mismatch(model) is not None}
        decisions = self.history.decide(key_of, compare, until=until, unusable=unusable)
        if point_at_champion or decisions != before:
            self.registry.describe(self.product, self._descriptions(decisions))
        now = champion(decisions)
        if now is not None and (point_at_champion or decisions != before):
            serving_now = self.history.by_fingerprint()[now.fingerprint]
            if not self.registry.absent(self.product, {serving_now.version: now.fingerprint}):
                self.registry.set_champion(self.product, serving_now.version)
        elif now is None and champion(before) is not None:
            self.registry.set_champion(self.product, None)
        return decisions

    def _descriptions(self, decisions: Iterable[Decision]) -> dict[str, str]:
        """What was decided about each version; of several months with one model, the comparison."""
        versions = {model.fingerprint: model.version for model in self.history.models()}
        found: dict[str, str] = {}
        for decision in decisions:
            version = versions[decision.fingerprint]
            if decision.comparison is not None or version not in found:
                found[version] = f"As of {decision.as_of}, {decision.in_words}"
        return found

    def _compared_days(
        self, challenger: ModelRecord, before: ModelRecord | None, day: date
    ) -> list[Sequence[date]]:
        """The days whose rows a comparison depends on, but for those the models have learned from."""
        product = self.product
        if day > challenger.as_of:
            return [list(with_days_before(product, holdout.forward(product, challenger.as_of)))]
        if challenger.compared_by == "time":
            twin = holdout.twin_as_of(product, challenger.as_of)
            compared = with_days_before(product, holdout.forward(product, twin))
            return [list(compared), list(_days_of_twin(product, challenger))]
        return [list(with_days_before(product, holdout.by_entities(product, challenger.as_of)))]

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
            frame = self.rows.forward(challenger.as_of, day, labels)
        else:
            frame = self.rows.by_entities(challenger.as_of, labels)

        rival = None if mismatch is not None else before

        def pipeline_of(model: ModelRecord) -> Any:
            if frame.empty:  # nothing is asked of it
                return None
            return self.registry.load(self.product, model.version, model.fingerprint).pipeline

        pipeline = pipeline_of(challenger)
        found = self._compared_on(
            frame,
            pipeline,
            self._scored(pipeline, challenger.threshold, frame),
            self._scored(pipeline_of(rival), rival.threshold, frame) if rival else None,
        )
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
        days = [day for day in _days_of_twin(self.product, challenger) if self.rows.can_count(day, labels)]
        known = pd.DataFrame()
        if days:
            known = collected(self.product, training_rows(self.context, days, as_of, "time"), "time")
        try:
            twin = training.train(self.product, known, self._choosing_twin(challenger))
        except TrainingError as error:
            return promotion.not_compared(
                self.product,
                f"there is no champion to compare it with, and a model as of {as_of}, whose next "
                f"{holdout.days_forward(self.product)} days could tell, has too little: {error}",
            )
        frame = self.rows.forward(as_of, challenger.as_of, labels)
        scored = self._scored(twin.pipeline, twin.threshold, frame)
        found = self._compared_on(frame, twin.pipeline, scored, None)
        return dataclasses.replace(found, reason=f"of a twin as of {as_of}: {found.reason}")

    def _choosing_twin(self, challenger: ModelRecord) -> Choosing:
        """How a twin's estimator is chosen: by its own days, in as many trials as the challenger's took."""
        chosen = Selection.read(challenger.selection).trials if challenger.selection else ()
        return Choosing(
            "time",
            seed=seed_of(challenger.fingerprint),
            trials=chosen,
            say=lambda what: self.context.log(f"twin of the model as of {challenger.as_of}, {what}"),
        )

    def _scored(self, pipeline: Any, threshold: float | None, frame: pd.DataFrame) -> Predictions:
        kind = kind_of(self.product)
        return kind.decided(kind.in_days(kind.predict(pipeline, frame), frame), threshold)

    def _compared_on(
        self, frame: pd.DataFrame, pipeline: Any, challenger: Predictions, champion: Predictions | None
    ) -> Comparison:
        kind = kind_of(self.product)
        return promotion.compare(
            self.product,
            kind.labels(frame[self.product.label]),
            challenger,
            champion,
            frame["_cluster"].to_numpy(dtype="int64"),
            baselines=kind.baselines(pipeline, frame),
            entities=len(frame[list(self.product.entity)].drop_duplicates()),
        )

    def _is_past(self, compared: Iterable[Sequence[date]], known: Mapping[date, DayRecord]) -> bool:
        """Whether days that a challenger is compared on are still those of an earlier contract."""
        records = [known[day] for days in compared for day in days if day in known]
        return any(
            record.outcome == "written" and record.contract not in self.rows.contracts for record in records
        )

    def _mismatch(self, model: ModelRecord) -> str | None:
        """Why a model can't be evaluated under the present contract; None if it can."""
        if model.fingerprint not in self._mismatches:
            self._mismatches[model.fingerprint] = serving_models.mismatch(self.registry, self.product, model)
        return self._mismatches[model.fingerprint]


def _days_of_twin(product: Product, challenger: ModelRecord) -> Sequence[date]:
    as_of = holdout.twin_as_of(product, challenger.as_of)
    if product.last_labelled_day(as_of) < product.start:
        return ()
    return list(training_days(product, as_of, challenger.kind))


def _date(value: Any) -> date:
    """A day as pandas may hold it."""
    return pd.Timestamp(value).date()


def take_back(
    context: StepContext, *, reason: str, by: str, to: date | None = None
) -> tuple[Rollback, Decision | None]:
    """Roll back the newest promotion, or all after a model, and decide again.

    Args:
        to: the as-of date of the model that is to serve again; the one before the champion without it.

    Returns:
        What was rolled back, and the champion that there is now.

    Raises:
        LookupError: no promotion stands, or ``to`` names no model that has served before.
    """
    # Rows may lie where this machine can't read them, and a rollback must not wait: none are needed.
    evolution.remember(context)
    decider = Decider(context)
    presence.restore_models(context, decider.history)
    planned = rollback.plan(decider.history.decisions(), to)
    decider.history.take_back(*planned.taken_back, *planned.passed_over, reason=reason, by=by)
    return planned, champion(decider.decide(reading=False))
