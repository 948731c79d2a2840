"""Deciding about models: a challenger is compared with the champion on rows that neither has learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import pandas as pd

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import evolution, presence, serving_models, trained_again
from ml_platform.engine.compared_rows import (
    UnseenRows,
    collected,
    seed_of,
    training_rows,
    with_days_before,
)
from ml_platform.engine.context import StepContext
from ml_platform.engine.model_training import Manifest
from ml_platform.engine.passing_errors import is_passing
from ml_platform.engine.trained_again import AnotherModelError, Loaded
from ml_platform.engine.training_plan import content_of, training_days
from ml_platform.machine_learning import holdout, promotion, rollback, training
from ml_platform.machine_learning.kind import Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_files import RegistryError
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


class Decider:
    """Decides about the models of a product."""

    def __init__(self, context: StepContext, rows: UnseenRows | None = None) -> None:
        self.context = context
        self.product = context.product
        self.history = ModelHistory(context.tables, context.product)
        self.registry = Registry.of(context.settings)
        self.rows = rows or UnseenRows(context)
        self._mismatches: dict[str, str | None] = {}
        self._made: dict[str, Product] = {}

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
            content = [content_of(days, labels, day) for days in self._compared_days(challenger, before, day)]
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
            if (
                known is not None
                and self._needs_twin(challenger, day)
                and self._made_under(challenger) is None
            ):
                return known
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
            return [list(compared), list(self._days_of_twin(challenger))]
        return [list(with_days_before(product, holdout.by_entities(product, challenger.as_of)))]

    def _compare(
        self,
        challenger: ModelRecord,
        before: ModelRecord | None,
        day: date,
        labels: Mapping[date, DayRecord],
    ) -> Comparison:
        mismatch = self._mismatch(before) if before is not None else None
        if self._needs_twin(challenger, day):
            found = self._compare_twin(challenger, labels)
            return self._without_rival(found, before, mismatch)
        if day > challenger.as_of:
            frame = self.rows.forward(challenger.as_of, day, labels)
        else:
            frame = self.rows.by_entities(challenger.as_of, labels)

        rival = None if mismatch is not None else before

        def scored(model: ModelRecord) -> tuple[Any, Predictions]:
            if frame.empty:  # nothing is asked of it
                return None, self._scored(None, model.threshold, frame)
            loaded = trained_again.load(self.context, model, self.rows)
            return loaded.pipeline, self._scored(loaded.pipeline, loaded.threshold, frame)

        pipeline, predictions = scored(challenger)
        found = self._compared_on(frame, pipeline, predictions, scored(rival)[1] if rival else None)
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
        """A first model has no days after it yet: a twin, trained as of long enough before, stands for it.

        It is made under the contract that the model was made under, whatever that says by now.
        """
        as_of = holdout.twin_as_of(self.product, challenger.as_of)
        product = self._made_under(challenger)
        if product is None:
            return promotion.not_compared(
                self.product, "there is no champion to compare it with, and its contract of then is none now"
            )
        then = dataclasses.replace(self.context, product=product)
        usable = self.rows if product is self.product else UnseenRows(then)
        days = [day for day in self._days_of_twin(challenger) if usable.can_count(day, labels, as_of)]
        known = pd.DataFrame()
        if days:
            known = collected(product, training_rows(then, days, as_of, "time"), "time")
        try:
            twin = training.train(product, known, self._choosing_twin(challenger))
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

    def _needs_twin(self, challenger: ModelRecord, day: date) -> bool:
        return challenger.compared_by == "time" and day == challenger.as_of

    def _made_under(self, model: ModelRecord) -> Product | None:
        """The contract that a model was made under; None if there can't be such a one any more."""
        if model.manifest is None:  # a record of old
            return self.product
        if model.fingerprint not in self._made:
            try:
                self._made[model.fingerprint] = Manifest.read(model.manifest).product(self.product)
            except ValueError:
                return None
        return self._made[model.fingerprint]

    def _days_of_twin(self, challenger: ModelRecord) -> Sequence[date]:
        product = self._made_under(challenger) or self.product
        as_of = holdout.twin_as_of(self.product, challenger.as_of)
        if product.last_labelled_day(as_of) < product.start:
            return ()
        return list(training_days(product, as_of, challenger.kind))

    def _choosing_twin(self, challenger: ModelRecord) -> Choosing:
        """How a twin's estimator is chosen: by its own days, in as many trials as the challenger's took."""
        chosen = Selection.read(challenger.selection).trials if challenger.selection else ()
        return Choosing(
            "time",
            seed=seed_of(challenger.fingerprint),
            trials=chosen,
            passes=is_passing,
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


def load_all(context: StepContext, models: Iterable[ModelRecord]) -> dict[str, Loaded | RegistryError | None]:
    """Models by their fingerprints, as a step that has planned with them needs them.

    Each is asked for once a run, since it takes requests.

    Returns:
        For each the model, or why the registry has it no more. None if it can't be loaded and another one
        was trained in its place: that one is decided about by then, and who needed the model plans anew.
    """
    known, loaded = context.loaded_models, dict[str, Loaded | RegistryError | None]()
    is_replaced = False
    for model in {model.fingerprint: model for model in models}.values():
        key = (model.fingerprint, model.version)
        if key not in known:
            try:
                known[key] = trained_again.load(context, model)
            except AnotherModelError as error:
                context.log(f"{context.request.step}: {error}")
                known[key], is_replaced = None, True
            except RegistryError as error:
                known[key] = error
        loaded[model.fingerprint] = known[key]
    if is_replaced:
        Decider(context).decide(point_at_champion=True)
    return loaded


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
