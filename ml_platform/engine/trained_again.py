"""Loading a model that is needed, also one whose version can't be loaded any more: it is trained again.

After a library was upgraded, a version may hold classes that are gone, or have been made by another major
version. Its record says from what it was made; it is trained again from that, registered as another version,
and its record says so. What was scored before stays. If it can't be made as it was (its rows or its contract
have changed), another model takes its place in the history, and has to be decided about like any.
"""

from __future__ import annotations

import dataclasses
import logging

from ml_platform.contract.assets import MODEL
from ml_platform.contract.faults import ends_the_run, in_words
from ml_platform.engine import training_plan
from ml_platform.engine.compared_rows import UnseenRows
from ml_platform.engine.context import StepContext
from ml_platform.engine.model_training import Manifest, ModelTraining, Trained, contract_of
from ml_platform.engine.passing_errors import is_passing
from ml_platform.machine_learning.loaded_models import LoadedModel
from ml_platform.machine_learning.model_files import RegistryError, UnloadableError
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord, champion
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.registry import Registry


class AnotherModelError(RegistryError):
    """A model can't be loaded and could not be made again as it was: another one is as of its date now."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model that can score, and its record, which names the version."""

    record: ModelRecord
    model: LoadedModel

    @property
    def pipeline(self) -> object:
        return self.model.pipeline

    @property
    def threshold(self) -> float | None:
        return self.record.threshold


def load(context: StepContext, model: ModelRecord, rows: UnseenRows | None = None) -> Loaded:
    """A model; if its version can't be loaded it is trained again, and recorded.

    Args:
        rows: for whoever has read held-out rows before.

    Raises:
        AnotherModelError: another model was trained in its place; what follows is to be decided again.
        RegistryError: the registry lacks the version, or it can't be loaded and not be trained again.
    """
    registry, product = Registry.of(context.settings), context.product
    history = ModelHistory(context.tables, product)
    try:
        return Loaded(model, registry.load(product, model.version, model.fingerprint))
    except UnloadableError as error:
        reason = str(error)
    newest = history.by_fingerprint().get(model.fingerprint, model)
    if newest.version != model.version:  # another process has been here
        try:
            return Loaded(newest, registry.load(product, newest.version, newest.fingerprint))
        except UnloadableError as error:
            reason = str(error)
    context.log(f"{MODEL}: as of {model.as_of}, {reason}; it is trained again")
    try:
        trained = _train(context, newest, reason, rows or UnseenRows(context))
    except Exception as error:
        if ends_the_run(error) or is_passing(error):
            raise
        logging.getLogger(__name__).info("version %s of %s", model.version, product.name, exc_info=True)
        why = in_words(error, quoting=not product.sensitive)
        raise RegistryError(f"{reason}; it could not be trained again: {why}") from error
    record = trained.record
    counting = [other for other in history.models() if other.as_of == record.as_of]
    history.add(record)
    for other in counting:
        # Of two models of one date the one recorded last counts; loading the other must not change which.
        if other.fingerprint not in (model.fingerprint, record.fingerprint):
            history.add(other)
    context.log(f"{MODEL}: as of {model.as_of}, {record.remark}")
    if record.fingerprint != model.fingerprint:
        raise AnotherModelError(f"the model as of {model.as_of} was {record.remark}")
    now = champion(history.decisions())
    if now is not None and now.fingerprint == record.fingerprint:
        registry.set_champion(product, record.version)
    return Loaded(record, registry.load(product, record.version, record.fingerprint))


def _train(context: StepContext, model: ModelRecord, reason: str, rows: UnseenRows) -> Trained:
    """Train a model from what it was made of or, if that isn't there any more, from what there is now."""
    mode = model.compared_by
    changed = "its rows have changed since"
    if model.manifest is not None:
        manifest = Manifest.read(model.manifest)
        try:
            then = dataclasses.replace(context, product=manifest.product(context.product))
        except ValueError as error:
            changed = str(error)
        else:
            of_now = manifest.contract == contract_of(context.product)
            was = training_plan.as_it_was(then, model)
            again = ModelTraining(then, was, mode, rows if of_now else UnseenRows(then), manifest)
            if again.fingerprint == model.fingerprint:
                return again.run(reason)
            if not of_now:
                changed = "its rows and its contract have changed since"
        if manifest.contract != contract_of(context.product):
            # Under another contract there is no other model that could stand for it.
            raise TrainingError(
                f"{changed}, so that it can't be made again as it was; train one under the present contract: "
                f"ml-platform train {context.product.name}"
            )
    plan = training_plan.plans(context, [model.as_of])[model.as_of]
    now = ModelTraining(context, plan, mode, rows)
    trained = now.run(reason if now.fingerprint == model.fingerprint else "")
    if now.fingerprint == model.fingerprint:
        return trained
    remark = (
        f"trained as version {trained.record.version} in the place of another model of the same date, since "
        f"{reason}, and {changed}, so that it could not be made again as it was; what was scored before stays"
    )
    return dataclasses.replace(trained, record=dataclasses.replace(trained.record, remark=remark))
