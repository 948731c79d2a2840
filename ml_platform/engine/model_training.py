"""Training a model by its plan, and registering it. What is recorded of it is the business of who asks.

What a model was made from beside its rows is its :class:`Manifest`: with it a model is trained again as it
was, also under another contract than there was then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from pydantic import ValidationError

from ml_platform.contract import estimators
from ml_platform.contract.assets import CATALOGUE, MODEL
from ml_platform.contract.fields import listed
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import Holdout
from ml_platform.contract.loading import ContractError, try_estimators
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import scrub
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine.compared_rows import UnseenRows, collected, seed_of, training_rows
from ml_platform.engine.context import StepContext
from ml_platform.engine.passing_errors import is_passing
from ml_platform.engine.training_plan import TrainingPlan
from ml_platform.machine_learning import training, training_data
from ml_platform.machine_learning.model_card import DataUsed, requirements
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_files import UnloadableError
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.registry import RegisteredModel, Registry
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import Choosing


@dataclass(frozen=True)
class Manifest:
    """What a model was made from, beside its rows, and what it says of some of them.

    Attributes:
        contract: the hash of all sections of the contract that a model follows from.
        code_version: that of the step.
        model: the section of the contract, as it was written.
        evaluation: the same, of which the metric counts.
        libraries: the packages that the model was made with, with their versions.
        outputs: a hash of what it predicts for the first rows that it has learned from.
        columns: of the MRDS, those that its rows were told apart by, in their order; older ones don't say.
    """

    contract: str
    code_version: str
    model: dict[str, Any]
    evaluation: dict[str, Any]
    libraries: list[str]
    outputs: str
    columns: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        """As text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Manifest:
        """What :attr:`plain` gave."""
        content = json.loads(text)
        return cls(**{**content, "columns": tuple(content.get("columns", ()))})

    def product(self, now: Product) -> Product:
        """A product with the model of then.

        Raises:
            ValueError: under the other sections of today's contract, or with the libraries that are
                installed, there can't be such a model any more.
        """
        if self.contract == contract_of(now):
            return now
        there = {*now.mrds.entity, *now.mrds.columns, EVENT_DAY}
        if gone := [name for name in self.columns if name not in there]:
            raise ValueError(f"the MRDS of now has no {listed(gone)}, which was among what it was made from")
        content = now.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        try:
            return Product.model_validate(
                {**content, "model": self.model, "evaluation": self.evaluation}, context=estimators.TRY
            )
        except ValidationError as error:
            raise ValueError(f"its contract of then is none now: {error.errors()[0]['msg']}") from error


def contract_of(product: Product) -> str:
    """A hash of all that a model follows from in a contract."""
    # What is chosen follows from the whole of the metric, what is fitted from its name alone.
    of_metric = ("evaluation.quantile", "evaluation.k") if product.model.selects else ()
    return product.hash_of(*CATALOGUE[MODEL].sections, *of_metric)


@dataclass(frozen=True)
class Trained:
    """A model in the registry, and the record of it. ``is_new`` says whether it was trained just now."""

    record: ModelRecord
    registered: RegisteredModel
    chosen: Selection | None
    is_new: bool


class EstimatorError(TrainingError):
    """An estimator of the contract can't learn, whatever it learns from."""


class ModelTraining:
    """One model to be trained.

    Args:
        context: with the product that it is a model of.
        manifest: of a model that is to be made again as it was, under the contract of then.
    """

    def __init__(
        self,
        context: StepContext,
        plan: TrainingPlan,
        mode: Holdout,
        rows: UnseenRows,
        manifest: Manifest | None = None,
    ) -> None:
        self.context = context
        self.plan = plan
        self.mode: Holdout = mode
        self.rows = rows
        made_by = (contract_of(context.product), CATALOGUE[MODEL].version)
        self.made_by = (manifest.contract, manifest.code_version) if manifest is not None else made_by
        known = manifest.columns if manifest is not None else ()
        self.columns = known or tuple(training_data.columns(context.product))

    @cached_property
    def slice(self) -> training_data.Slice:
        """The rows that it learns from."""
        return training_rows(self.context, self.plan.usable, self.plan.as_of, self.mode, self.columns)

    @cached_property
    def fingerprint(self) -> str:
        """The training fingerprint."""
        made_from = [self.plan.as_of, self.slice.fingerprint, self.slice.taken, *self.made_by]
        return fingerprint_of(made_from if self.mode == "entities" else [*made_from, self.mode])

    def run(self, why: str = "") -> Trained:
        """Take the registered model with this fingerprint, or train it, and make a record of it.

        Args:
            why: why the version that there is doesn't do.

        Raises:
            TrainingError: there is too little to learn from, or an estimator of the contract can't learn.
        """
        context, product = self.context, self.context.product
        registry = Registry.of(context.settings)
        registry.tracking.prepare()
        before = ModelHistory(context.tables, product).by_fingerprint().get(self.fingerprint)
        found = registry.find(product, self.fingerprint)
        if found is not None and not why:
            why = self._what_is_wrong(registry, found)
        elif found is None and before is not None:
            why = f"the registry has no version of it (it was {before.version})"
        chosen = self._chosen(before, found)
        manifest = before.manifest if before is not None else None
        remark = before.remark if before is not None and found is not None and not why else None
        is_new = found is None or bool(why)
        if found is None or why:
            found, trained = self._fit(chosen, why if before is not None else "")
            chosen = trained.selection
            made = self._manifest(trained)
            if before is not None and why:
                remark = f"trained again as version {found.version}, since {why}{_same(manifest, made)}"
            manifest = made.plain
        record = ModelRecord(
            as_of=self.plan.as_of,
            month=self.plan.month,
            kind=self.plan.kind,
            fingerprint=self.fingerprint,
            version=found.version,
            mlflow_run_id=found.run_id,
            threshold=found.threshold,
            rows=self.slice.taken,
            rows_available=self.slice.available,
            first_day=self.plan.days.first,
            last_day=self.plan.days.last,
            run_id=context.request.run_id,
            columns=ModelColumns.of(product).plain,
            holdout=self.mode,
            selection=chosen.plain if chosen is not None else None,
            manifest=manifest,
            remark=remark,
        )
        return Trained(record, found, chosen, is_new)

    def _what_is_wrong(self, registry: Registry, found: RegisteredModel) -> str:
        """Why a registered version can't be used; empty if it can."""
        product = self.context.product
        if absent := registry.absent(product, {found.version: self.fingerprint}):
            return absent[found.version]
        try:
            registry.load(product, found.version, self.fingerprint)
        except UnloadableError as error:
            return str(error)
        return ""

    def _chosen(self, before: ModelRecord | None, found: RegisteredModel | None) -> Selection | None:
        """What was chosen when the model with this fingerprint was first trained, if it was chosen.

        The clock has a part in a search, so what it has found is a fact: whoever trains the model again
        takes it from the model's record, from its run in MLflow, or from what was kept before either was
        made, and searches no more.
        """
        context, product = self.context, self.context.product
        if not product.model.selects:
            return None
        known: Selection | None = None
        if before is not None and before.selection is not None:
            known = Selection.read(before.selection)
        elif found is not None:
            known = Registry.of(context.settings).tracking.selection(found.run_id)
        kept = ModelHistory(context.tables, product).kept_selection(self.fingerprint)
        # The same, but with its trials, which are to be logged.
        return kept if kept is not None and (known is None or known.plain == kept.plain) else known

    def fit(
        self, known: Selection | None, keep: Callable[[Selection], None] = lambda _: None
    ) -> training.TrainedModel:
        """Fit it on its rows; nothing is recorded or registered.

        Args:
            known: what was chosen when it was trained first, if it was.
            keep: is given what is chosen now.

        Raises:
            TrainingError: there is too little to learn from.
        """
        context, product = self.context, self.context.product
        choosing = Choosing(
            self.mode,
            seed=seed_of(self.fingerprint),
            known=known,
            keep=keep,
            passes=is_passing,
            say=lambda what: context.log(f"{MODEL}: as of {self.plan.as_of}, {what}"),
        )
        return training.train(product, collected(product, self.slice, self.mode), choosing)

    @cached_property
    def held_out(self) -> pd.DataFrame | None:
        """The rows that it is shown on in MLflow; None if no entities are held out, or they have none."""
        if self.mode != "entities":
            return None
        known = self.context.ledger.latest(MRDS, details=False)
        rows = self.rows.by_entities(self.plan.as_of, known)
        return rows if len(rows) else None

    def _fit(self, before: Selection | None, why: str) -> tuple[RegisteredModel, training.TrainedModel]:
        context, product, plan = self.context, self.context.product, self.plan
        try:
            try_estimators(product)
        except ContractError as error:
            raise EstimatorError(str(error)) from error
        history = ModelHistory(context.tables, product)
        trained = self.fit(before, lambda chosen: history.keep_selection(self.fingerprint, chosen))
        registered = Registry.of(context.settings).log(
            product,
            trained,
            as_of=plan.as_of,
            fingerprint=self.fingerprint,
            holdout=self.held_out,
            data=DataUsed(
                delta_version=str(context.tables.version(product.name, MRDS)),
                first_day=plan.days.first,
                last_day=plan.days.last,
                rows=self.slice.taken,
                rows_available=self.slice.available,
                table_path=context.tables.path(product.name, MRDS),
            ),
            tags={
                "kind": plan.kind,
                "compared_by": self.mode,
                "partition": f"{plan.month:%Y-%m}",
                "dagster_run_id": context.request.run_id,
                "code_version": self.made_by[1],
                **({"trained_again": why[:_LONGEST_TAG]} if why else {}),
            },
            manifest=scrub(self._manifest(trained).plain, context.settings.secrets),
            parent_run_id=context.request.mlflow_parent_run_id,
        )
        return registered, trained

    def _manifest(self, trained: training.TrainedModel) -> Manifest:
        product = self.context.product
        content = product.content_of("model", "evaluation")
        contract, code_version = self.made_by
        return Manifest(
            contract=contract,
            code_version=code_version,
            model=content["model"],
            evaluation=content["evaluation"],
            libraries=requirements(product.with_estimator(trained.estimator)),
            outputs=trained.outputs,
            columns=self.columns,
        )


#: Characters of a reason that a tag of MLflow holds.
_LONGEST_TAG = 250


def _same(before: str | None, now: Manifest) -> str:
    """Whether a model that was trained again predicts what it did before, in words."""
    if before is None:
        return "; what it predicted before isn't known"
    if Manifest.read(before).outputs == now.outputs:
        return "; it predicts the same as before"
    return "; it predicts otherwise than before, and what was scored before stays"


def describe(chosen: Selection, product: Product) -> dict[str, Any]:
    """What was chosen before a model was trained, and why, for people."""
    found: dict[str, Any] = {"estimator": chosen.estimator(product).class_, "selection": chosen.reason}
    trials = [number for number in chosen.trials if number is not None]
    return found | ({"search_trials": sum(trials)} if trials else {})
