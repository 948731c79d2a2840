"""Making models again from what they were made from, and comparing them with those that are registered.

A model is rebuilt from its manifest and from the rows that were known as of its date. Nothing is recorded,
registered or promoted. Its rows are read from the tables, or made from the deliveries first, in a folder of
its own: by the arrival register, and by the verdicts and acceptances that the ledger has of the same content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from ml_platform.contract.assets import ARDS, MRDS
from ml_platform.contract.days import DayRange, counted, in_a_sentence
from ml_platform.contract.trailing import days_reached
from ml_platform.data_engineering.arrivals import ARRIVALS
from ml_platform.engine import training_plan
from ml_platform.engine.compared_rows import UnseenRows, collected, with_days_before
from ml_platform.engine.context import StepContext, left_out
from ml_platform.engine.local import run_step
from ml_platform.engine.model_training import Manifest, ModelTraining, contract_of
from ml_platform.engine.step import StepRequest
from ml_platform.machine_learning import holdout, learned
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.model_card import holdout_metrics, requirements
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import ModelRecord
from ml_platform.machine_learning.pipeline import TrainingError
from ml_platform.machine_learning.registry import Registry
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import TrainedModel
from ml_platform.storage import small_tables
from ml_platform.storage.contract_versions import CONTRACTS
from ml_platform.storage.ledger import DAYS
from ml_platform.storage.rejections import REJECTIONS

#: How far predictions may differ where other libraries have made them, of their size and in their unit.
RELATIVE, ABSOLUTE = 1e-6, 1e-9
#: How many of the places that differ are named.
NAMED = 3


@dataclass(frozen=True)
class Compared:
    """One thing that was compared; ``same`` is None of what is only said."""

    what: str
    same: bool | None
    detail: str


@dataclass(frozen=True)
class Reproduction:
    """What came of making a model again.

    Attributes:
        compared: each thing, in the order in which it was looked at; what comes after rows that differ isn't.
    """

    model: ModelRecord
    compared: tuple[Compared, ...]

    @property
    def is_same(self) -> bool:
        """Whether the model is what it was: rows, predictions, threshold and metrics."""
        return all(comparison.same is not False for comparison in self.compared)


def chosen(
    models: Sequence[ModelRecord], *, month: date | None = None, version: str | None = None
) -> list[ModelRecord]:
    """Those of a product's models that are asked for, by as-of date: all, a month's, or a version.

    Raises:
        LookupError: there is none; says which there are.
    """
    found = [
        model
        for model in models
        if month in (None, model.month) and (version is None or model.version == version)
    ]
    if found:
        return sorted(found, key=lambda model: model.as_of)
    there = _some([f"{model.version} as of {model.as_of}" for model in models], 20) or "none"
    asked = " ".join(
        [*([f"of {month:%Y-%m}"] if month else []), *([f"with version {version}"] if version else [])]
    )
    raise LookupError(f"there is no model {asked}".rstrip() + f"; versions are: {there}")


def reproduce(
    context: StepContext, models: Sequence[ModelRecord], *, from_deliveries: bool = False
) -> Iterator[Reproduction]:
    """Make models again, and compare each with its registered version.

    Args:
        from_deliveries: whether their days are made again first; all of them once.
    """
    if not from_deliveries:
        for model in models:
            yield _Attempt(context, context, model).reproduction()
        return
    with rebuilt(context, sorted(_days_of(context, models))) as place:
        for model in models:
            yield _Attempt(context, place, model).reproduction()


def _days_of(context: StepContext, models: Sequence[ModelRecord]) -> set[date]:
    """The days whose rows models were made from, and those that they are shown on."""
    found: set[date] = set()
    for model in models:
        found |= set(DayRange(model.first_day, model.last_day))
        if model.compared_by == "entities":
            unseen = holdout.by_entities(context.product, model.as_of)
            found |= set(with_days_before(context.product, unseen))
    known = context.ledger.latest(ARDS, found, details=False)
    return found & set(known)


@contextmanager
def rebuilt(context: StepContext, days: Sequence[date]) -> Iterator[StepContext]:
    """A place where days have been made again from their deliveries, for as long as it lasts.

    It begins with a copy of the ledger: a content that is the same keeps the verdict that it was given.
    """
    name = context.product.name
    with TemporaryDirectory(prefix=f"{name}-") as folder:
        settings = context.settings.model_copy(
            update={
                "tables": str(Path(folder) / "tables"),
                "control_tables": None,
                "model_schema": context.settings.registry_schema,
                "watch_arrivals": False,
            }
        )
        for step in (ARDS, MRDS):
            chosen = tuple(days) if step == MRDS else tuple(_with_those_reached(context, days))
            request = StepRequest(step=step, product=name, days=chosen, run_id="reproduce", force=True)
            place = dataclasses.replace(context, settings=settings, request=request)
            if step == ARDS:
                for table in (DAYS, CONTRACTS, ARRIVALS, REJECTIONS):
                    small_tables.copy(context.tables, place.tables, name, table)
            run_step(place)
        for asset in (ARDS, MRDS):
            _say_changed(context, place, asset, days)
        yield place


def _with_those_reached(context: StepContext, days: Collection[date]) -> list[date]:
    """Some days, and those that windows of theirs may hold, or that their labels look at; ascending."""
    product = context.product
    if not days:
        return []
    reached = days_reached(product.mrds.looks, min(days), product.start, until=max(days))
    known = context.ledger.latest(ARDS, set(reached or ()), details=False)
    return sorted({*days, *known})


def _say_changed(context: StepContext, place: StepContext, asset: str, days: Collection[date]) -> None:
    """Say which days the deliveries give other rows of than there are."""
    before = context.ledger.latest(asset, set(days), details=False)
    now = place.ledger.latest(asset, set(days), details=False)
    others = [
        day
        for day, record in before.items()
        if (record.outcome, record.fingerprint) != (now[day].outcome, now[day].fingerprint)
    ]
    if others:
        context.log(f"{asset}: the deliveries give another result for {in_a_sentence('day', others)}")


class _Attempt:
    """One model that is made again.

    Args:
        context: where the model is registered.
        place: where the rows are that it is made from.
    """

    def __init__(self, context: StepContext, place: StepContext, model: ModelRecord) -> None:
        self.context = context
        self.place = place
        self.model = model
        self.found: list[Compared] = []

    def reproduction(self) -> Reproduction:
        try:
            self._make()
        except (TrainingError, RegistryError, ValueError) as error:
            self._say("made again", False, str(error))
        return Reproduction(self.model, tuple(self.found))

    def _say(self, what: str, same: bool | None, detail: str) -> None:
        self.found.append(Compared(what, same, detail))

    def _make(self) -> None:
        model, place = self.model, self.place
        if model.manifest is None:
            raise ValueError("its record is older than manifests, and doesn't say what it was made from")
        manifest = Manifest.read(model.manifest)
        then = dataclasses.replace(place, product=manifest.product(place.product))
        plan = training_plan.as_it_was(then, model)
        asked = ModelTraining(then, plan, model.compared_by, UnseenRows(then), manifest)
        if not self._has_same_rows(asked, manifest):
            return
        trained = asked.fit(self._selection())
        product = then.product.with_estimator(trained.estimator)
        libraries = _others(manifest.libraries, requirements(product))
        self._compare(asked, trained, manifest, exactly=not libraries)
        if libraries:
            self._say("libraries", None, "; ".join(libraries))

    def _has_same_rows(self, asked: ModelTraining, manifest: Manifest) -> bool:
        model, plan = self.model, asked.plan
        same = asked.fingerprint == model.fingerprint
        rows = f"{asked.slice.taken:,} rows of {plan.days}"
        if same:
            self._say("training rows", True, f"{rows}, training fingerprint {model.fingerprint}")
            return True
        others = left_out(plan.records, plan.as_of)
        why = f"{rows}, not the {model.rows:,} of then" if asked.slice.taken != model.rows else rows
        why += f"; training fingerprint {asked.fingerprint}, not {model.fingerprint}"
        if manifest.contract != contract_of(self.place.product):
            why += "; the contract has changed since"
        if others:
            why += f"; not usable now: {_some(others)}"
        self._say("training rows", False, why)
        return False

    def _selection(self) -> Selection | None:
        """What was chosen then: the clock may have had a part in it."""
        return Selection.read(self.model.selection) if self.model.selection is not None else None

    def _compare(
        self, asked: ModelTraining, trained: TrainedModel, manifest: Manifest, *, exactly: bool
    ) -> None:
        model, product = self.model, asked.context.product
        registry = Registry.of(self.context.settings)
        try:
            registered = registry.load(product, model.version, model.fingerprint).pipeline
        except RegistryError as error:
            # What it says of some rows is known all the same.
            self._say("learned", None, f"version {model.version} can't be loaded: {error}")
            same = manifest.outputs == trained.outputs
            self._say("predictions", same, "compared by their hash")
        else:
            rows = collected(product, asked.slice, asked.mode)
            is_same, said = _predictions(product, registered, trained.pipeline, rows, exactly)
            self._say("learned", *_learned(registered, trained.pipeline, predicts_the_same=is_same))
            self._say("predictions", is_same, said)
        if model.threshold is not None or trained.threshold is not None:
            same = _equal(model.threshold, trained.threshold, exactly)
            detail = f"{trained.threshold:.6g}" if same else f"{trained.threshold}, then {model.threshold}"
            self._say("decision threshold", same, detail)
        if asked.held_out is not None:
            then = registry.tracking.metrics_of(model.mlflow_run_id)
            self._say("held-out metrics", *_metrics(product, trained, asked.held_out, then, exactly))


def _learned(registered: Any, made: Any, *, predicts_the_same: bool) -> tuple[bool | None, str]:
    others = learned.differences(registered, made)
    if not others:
        return True, "coefficients, trees and all else are equal"
    places = [place.lstrip(".") for place in others]
    detail = f"other in {counted(len(others), 'place')} of the pipeline: {_some(places)}"
    # Seeds that nothing was drawn by may differ, and what another version of a library keeps beside it.
    return (None if predicts_the_same else False), detail


def _predictions(
    product: Any, registered: Any, made: Any, rows: pd.DataFrame, exactly: bool
) -> tuple[bool, str]:
    kind = kind_of(product)
    pairs = list(
        zip(kind.rounded(kind.predict(registered, rows)), kind.rounded(kind.predict(made, rows)), strict=True)
    )
    if all(np.array_equal(then, now, equal_nan=True) for then, now in pairs):
        return True, f"equal for all {len(rows):,} training rows"
    largest = max(float(np.nanmax(np.abs(now - then))) for then, now in pairs if len(then))
    close = all(np.allclose(now, then, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True) for then, now in pairs)
    return close and not exactly, f"the largest difference is {largest:.3g} of {len(rows):,} training rows"


def _metrics(
    product: Any,
    trained: TrainedModel,
    unseen: pd.DataFrame,
    then: Mapping[str, float],
    exactly: bool,
) -> tuple[bool | None, str]:
    kind = kind_of(product.with_estimator(trained.estimator))
    outputs = kind.in_days(kind.predict(trained.pipeline, unseen), unseen)
    predictions = kind.decided(outputs, trained.threshold)
    now = holdout_metrics(kind, kind.labels(unseen[product.label]), predictions)
    if not then:
        return None, "its run in MLflow has none"
    names = sorted({*now, *(name for name in then if name.startswith("holdout_"))})
    others = [name for name in names if not _equal(then.get(name), now.get(name), exactly)]
    if not others:
        return True, f"{counted(len(names), 'metric')} on {len(unseen):,} rows are equal"
    named = [f"{name} {now.get(name)}, then {then.get(name)}" for name in others]
    return False, _some(named)


def _equal(then: float | None, now: float | None, exactly: bool) -> bool:
    if then is None or now is None or exactly:
        return then == now
    return bool(np.isclose(now, then, rtol=RELATIVE, atol=ABSOLUTE))


def _others(then: Sequence[str], now: Sequence[str]) -> list[str]:
    """Which libraries are others than then, in words."""
    installed = dict(requirement.split("==", 1) for requirement in now)
    return [
        f"{name} is {installed.get(name, 'not needed')}, was {version}"
        for name, version in (requirement.split("==", 1) for requirement in then)
        if installed.get(name) != version
    ]


def _some(names: Sequence[str], most: int = NAMED) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
