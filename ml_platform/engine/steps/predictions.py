"""The step ``predictions``: the MRDS and the model that serves a day, to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ml_platform.engine import evolution, presence, serving_models
from ml_platform.engine.context import StepContext
from ml_platform.engine.run_days import FAILED, DailyStep, from_same_day
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.steps.mrds import FEATURES_FINGERPRINT
from ml_platform.machine_learning import scoring
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_history import (
    MODELS,
    ModelHistory,
    ModelRecord,
    name_models,
    scored_by,
    scored_otherwise,
)
from ml_platform.machine_learning.promotion import Decision, serving
from ml_platform.machine_learning.registry import Registry, RegistryError
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import SETTLED, WITHOUT_ROWS, DayRecord, Outcome


class Predictions(DailyStep):
    """MRDS and the model that served the day, to predictions.

    Rows once scored stay, whatever becomes of the model that scored them, unless the request asks to rescore.
    A day that no model serves, or whose model can't score under the present contract, is ``no_model``; what
    such a model had scored before stays. Only a day that no model serves at all loses its rows, when it is to
    be scored again.
    """

    asset = "predictions"
    tables = (scoring.PREDICTIONS,)
    contract_sections = ("mrds", "model.features")

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._history = ModelHistory(context.tables, context.product)
        self._decisions: list[Decision] = []
        self._records: dict[str, ModelRecord] = {}
        self._scored: dict[date, DayRecord] = {}
        self._kept: dict[date, DayRecord] = {}
        self._rows: dict[date, str] = {}
        self._obstacles: dict[date, Inputs] = {}
        self._loaded: dict[tuple[str, str], scoring.ServingModel | RegistryError] = {}
        self._lost: dict[date, str] = {}

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        self._lost = super().lost(records)
        return self._lost

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        ledger = self.context.ledger
        self._decisions = presence.require_decisions(self.context)
        self._records = self._history.by_fingerprint()
        found = from_same_day(self.context, "mrds", days, fingerprint=FEATURES_FINGERPRINT)
        self._rows = {day: inputs.fingerprint for day, inputs in found.items()}
        # Predictions that were withdrawn with their rows, or removed for want of a model, are kept no longer.
        outcomes: set[Outcome] = {*SETTLED, *WITHOUT_ROWS, "no_model"}
        scored = ledger.latest(self.asset, set(days), outcomes=outcomes)
        self._scored = {
            day: record
            for day, record in scored.items()
            if record.outcome == "written" and day not in self._lost
        }
        self._kept = {} if self.context.request.rescore else self._scored
        self._obstacles = self._find_obstacles([day for day in days if found[day].outcome is None])
        for day, inputs in found.items():
            if inputs.outcome is not None:
                continue
            obstacle, model = self._obstacles.get(day), serving(self._decisions, day)
            if obstacle is None:
                assert model is not None, "without a model there is an obstacle"
                found[day] = Inputs(f"{inputs.fingerprint}/{model.fingerprint}")
            elif day in self._scored:
                found[day] = Inputs(f"{inputs.fingerprint}/kept")
            else:
                found[day] = obstacle
        return found

    def _find_obstacles(self, days: Sequence[date]) -> dict[date, Inputs]:
        """The days that can't be scored now, each with its outcome, if it hasn't been scored before."""
        context, product = self.context, self.context.product
        models = {
            day: self._records[one.fingerprint] for day in days if (one := serving(self._decisions, day))
        }
        registry, versions = Registry.of(context.settings), ContractVersions(context.tables, product)
        mismatches: dict[str, str | None] = {}
        contracts: dict[str, frozenset[str]] = {}
        for model in {model.fingerprint: model for model in models.values()}.values():
            mismatches[model.fingerprint] = serving_models.mismatch(registry, product, model)
            columns = ModelColumns.read(model.columns).names if model.columns else product.features
            contracts[model.fingerprint] = versions.mrds_like_now(columns)
        sources = context.ledger.latest("mrds", set(days), details=False)
        found = {}
        for day in days:
            serves = models.get(day)
            if serves is None:
                found[day] = Inputs(self._rows[day], "no_model", "no model had been promoted by this day")
            elif mismatch := mismatches[serves.fingerprint]:
                reason = (
                    f"the model that serves this day (v{serves.version}, as of {serves.as_of}) can't score "
                    f"under this contract: {mismatch}; train one: ml-platform train {product.name}"
                )
                found[day] = Inputs(self._rows[day], "no_model", reason)
            elif sources[day].contract not in contracts[serves.fingerprint]:
                reason = evolution.of_another_contract(context, sources[day])
                found[day] = Inputs(self._rows[day], "held_back", reason)
        return found

    def keeps(self, record: DayRecord, inputs: Inputs) -> bool:
        return record.day in self._kept and record.inputs.partition("/")[0] == self._rows[record.day]

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        context = self.context
        product = context.product
        models: dict[date, scoring.ServingModel] = {}
        done: dict[date, Written] = {}
        unserved: list[date] = []
        for day in days:
            obstacle, decision = self._obstacles.get(day), serving(self._decisions, day)
            if obstacle is None and decision is not None:
                model = self._load(self._records[decision.fingerprint])
                if isinstance(model, RegistryError):
                    done[day] = Written("refused", f"the model that serves this day: {model}", details=FAILED)
                else:
                    models[day] = model
            elif decision is None and context.request.rescore:
                unserved.append(day)
            elif obstacle is not None:
                done[day] = self._as_scored(day, obstacle)
        if unserved:
            scoring.remove(context.spark, product, context.tables, unserved, run_id=context.request.run_id)
            for day in unserved:
                reason = self._obstacles[day].reason
                done[day] = Written("no_model", reason, inputs=self._rows[day])
        if not models:
            return done
        written = scoring.write(
            context.spark,
            product,
            context.tables,
            models,
            run_id=context.request.run_id,
            keep=[day for day in models if day in self._kept],
        )
        return done | {
            day: Written(
                "written" if one.counted.rows else "empty",
                "" if one.counted.rows else "the MRDS has no rows",
                fingerprint=one.counted.fingerprint,
                counts=one.counts,
                delta_version=one.delta_version,
                # Rescoring must see that some rows were scored before the day's rows changed.
                inputs=f"{self._rows[day]}/kept" if day in self._kept else None,
                metadata=self._named(one.models),
                details={MODELS: dict(one.models)},
            )
            for day, one in written.items()
        }

    def _load(self, model: ModelRecord) -> scoring.ServingModel | RegistryError:
        """A model, or why the registry has it no more; asked once, since it takes requests."""
        key = (model.fingerprint, model.version)
        if key not in self._loaded:
            registry = Registry.of(self.context.settings)
            try:
                self._loaded[key] = serving_models.load(registry, self.context.product, model)
            except RegistryError as error:
                self._loaded[key] = error
        return self._loaded[key]

    def _as_scored(self, day: date, obstacle: Inputs) -> Written:
        """A day that can't be scored now, and has been before: it stays, and says so."""
        record = self._scored[day]
        return Written(
            record.outcome,
            fingerprint=record.fingerprint,
            counts=record.counts,
            delta_version=record.delta_version,
            inputs=f"{self._rows[day]}/kept",
            metadata={**record.details.get("metadata", {}), "not_scored_again": obstacle.reason},
            details={MODELS: scored_by(record)},
        )

    def _named(self, models: Mapping[str, int]) -> dict[str, Any]:
        """The models that have scored a day's rows, for people."""
        known = [self._records[fingerprint] for fingerprint in models if fingerprint in self._records]
        known.sort(key=lambda model: model.as_of)
        return {
            "model_as_of": ", ".join(str(model.as_of) for model in known),
            "model_version": ", ".join(model.version for model in known),
        }

    def remarks(self, records: Mapping[date, DayRecord]) -> dict[date, dict[str, Any]]:
        product, found = self.context.product, {}
        for day, models in scored_otherwise(records.values(), self._decisions).items():
            serves = serving(self._decisions, day)
            found[day] = {
                "scored_by_another_model": f"{sum(models.values()):,} rows were scored by "
                f"{name_models(models, self._records)}; the day is served by "
                f"{name_models([serves.fingerprint], self._records) if serves else 'no model'}. To score it "
                f"again: ml-platform backfill {product.name} --from {day} --to {day} --rescore"
            }
        return found
