"""The step ``predictions``: the MRDS and the model that serves a day, to predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from ml_platform.contract.product import Product
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine import evolution, presence, serving_models
from ml_platform.engine.deciding import load_all
from ml_platform.engine.inputs import from_same_day
from ml_platform.engine.run_partitions import FAILED, Step
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.steps.mrds import FEATURES_FINGERPRINT, UNSCORED
from ml_platform.machine_learning import model_history, performance, scoring
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import (
    MODELS,
    ModelHistory,
    ModelRecord,
    name_models,
    scored_by,
    scored_otherwise,
)
from ml_platform.machine_learning.performance import RANKED_TO
from ml_platform.machine_learning.predicted_rows import PREDICTIONS, ServingModel
from ml_platform.machine_learning.promotion import serving
from ml_platform.machine_learning.registry import Registry
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import HISTORY, DayRecord


@dataclass(frozen=True)
class _Day:
    """What a day is scored from, and what there is of it.

    Attributes:
        rows: the fingerprint of the day's features.
        model: the model that serves the day.
        obstacle: the outcome that the day has if it hasn't been scored before.
        scored: the record of the predictions that there are.
        is_kept: whether these stay as they are.
        decided: the stamps of the tables that say which model serves.
    """

    rows: str
    model: ModelRecord | None
    obstacle: Inputs | None
    scored: DayRecord | None
    is_kept: bool
    decided: tuple[Any, ...]


class Predictions(Step):
    """MRDS and the model that served the day, to predictions.

    Rows once scored stay, whatever happens to the model that scored them, unless the request asks to rescore.
    A day that no model serves, or whose model can't score under the present contract, is ``no_model``; what
    such a model had scored before stays. Only a day that no model serves at all loses its rows, when it is to
    be scored again.
    """

    asset = PREDICTIONS

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        ledger, product = self.context.ledger, self.context.product
        decided = model_history.stamp(self.context.tables, product)
        decisions = presence.require_decisions(self.context)
        models = ModelHistory(self.context.tables, product).by_fingerprint()
        found = from_same_day(
            self.context, MRDS, days, fingerprint=FEATURES_FINGERPRINT, found=lambda record: record
        )
        scored = {
            day: record
            for day, record in performance.scored_days(ledger, set(days)).items()
            if day not in lost
        }
        chosen = {day for day, inputs in found.items() if inputs.outcome is None or _was_usable(inputs)}
        serve = {
            day: models[decision.fingerprint]
            for day in chosen
            if (decision := serving(decisions, day)) is not None
        }
        obstacles = self._obstacles({day: found[day].fingerprint for day in chosen}, serve)
        for day in chosen:
            inputs = found[day]
            model, obstacle, rows = serve.get(day), obstacles.get(day), inputs.fingerprint
            # A day that is held back has no rows to be scored again.
            is_kept = day in scored and (inputs.outcome is not None or not self.context.request.rescore)
            of_day = _Day(rows, model, obstacle, scored.get(day), is_kept, decided)
            if obstacle is None:
                assert model is not None, "without a model there is an obstacle"
                made_from = f"{rows}/{model.fingerprint}{_ranking(product)}"
                found[day] = replace(inputs, fingerprint=made_from, found=of_day)
            elif day in scored:
                found[day] = replace(inputs, fingerprint=f"{rows}/kept", found=of_day)
            else:
                found[day] = replace(inputs if inputs.outcome else obstacle, found=of_day)
        for day in found.keys() - chosen:
            inputs = found[day]
            if inputs.fingerprint == UNSCORED and day in scored:
                # It was scored before the contract said so.
                of_day = _Day(UNSCORED, None, inputs, scored[day], True, decided)
                found[day] = Inputs(f"{UNSCORED}/kept", found=of_day)
            else:
                found[day] = replace(inputs, found=None)
        return found

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        # Those of a day that is held back are there as well.
        with_rows = {
            day: replace(record, outcome="written") if performance.has_rows(record) else record
            for day, record in records.items()
        }
        return super().lost(with_rows)

    def is_outdated(self, work: Mapping[date, Inputs]) -> bool:
        now = model_history.stamp(self.context.tables, self.context.product)
        return any(inputs.found is not None and inputs.found.decided != now for inputs in work.values())

    def _obstacles(self, rows: Mapping[date, str], serve: Mapping[date, ModelRecord]) -> dict[date, Inputs]:
        """The days that can't be scored now, each with its outcome, if it hasn't been scored before."""
        context, product = self.context, self.context.product
        registry, versions = Registry.of(context.settings), ContractVersions(context.tables, product)
        mismatches: dict[str, str | None] = {}
        contracts: dict[str, frozenset[str]] = {}
        for model in {model.fingerprint: model for model in serve.values()}.values():
            mismatches[model.fingerprint] = serving_models.mismatch(registry, product, model)
            columns = ModelColumns.read(model.columns).names if model.columns else product.features
            contracts[model.fingerprint] = versions.mrds_like_now(columns)
        sources = context.ledger.latest(MRDS, set(rows), details=False)
        found = {}
        for day in rows:
            model_of_day = serve.get(day)
            if model_of_day is None:
                found[day] = Inputs(rows[day], "no_model", "no model had been promoted by this day")
            elif mismatch := mismatches[model_of_day.fingerprint]:
                reason = (
                    f"the model that serves this day (v{model_of_day.version}, as of {model_of_day.as_of}) "
                    f"can't score under this contract: {mismatch}; train one: "
                    f"ml-platform train {product.name}"
                )
                found[day] = Inputs(rows[day], "no_model", reason)
            elif sources[day].contract not in contracts[model_of_day.fingerprint]:
                reason = evolution.of_another_contract(context, sources[day])
                found[day] = Inputs(rows[day], "held_back", reason)
        return found

    def keeps(self, record: DayRecord, inputs: Inputs) -> bool:
        of_day: _Day = inputs.found
        return of_day.is_kept and record.inputs.partition("/")[0] == of_day.rows

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        return self._score(work, rescore=self.context.request.rescore)

    def _score(self, work: Mapping[date, Inputs], *, rescore: bool) -> dict[date, Written]:
        context, product = self.context, self.context.product
        days: dict[date, _Day] = {day: inputs.found for day, inputs in work.items()}
        models: dict[date, ServingModel] = {}
        loaded = load_all(
            context,
            (
                of_day.model
                for of_day in days.values()
                if of_day.obstacle is None and of_day.model is not None
            ),
        )
        done: dict[date, Written] = {}
        unserved: list[date] = []
        for day, of_day in days.items():
            if of_day.obstacle is None and of_day.model is not None:
                model = loaded[of_day.model.fingerprint]
                if isinstance(model, RegistryError):
                    done[day] = Written("refused", f"the model that serves this day: {model}", details=FAILED)
                elif model is not None:  # otherwise the day is planned anew
                    models[day] = serving_models.serving_model(product, model.record, model.pipeline)
            elif of_day.model is None and rescore and not of_day.is_kept:
                unserved.append(day)
            else:
                done[day] = _as_scored(of_day)
        if unserved:
            scoring.remove(
                context.open_spark, product, context.tables, unserved, run_id=context.request.run_id
            )
            for day in unserved:
                obstacle = days[day].obstacle
                reason = obstacle.reason if obstacle else ""
                done[day] = Written("no_model", reason, inputs=days[day].rows)
        if not models:
            return done
        written = scoring.write(
            context.open_spark,
            product,
            context.tables,
            models,
            run_id=context.request.run_id,
            keep=[day for day in models if days[day].is_kept],
            as_corrected=rescore,
        )
        known = ModelHistory(context.tables, product).by_fingerprint()
        return done | {
            day: Written(
                "written" if scores.counted.rows else "empty",
                "" if scores.counted.rows else "the MRDS has no rows",
                fingerprint=scores.counted.fingerprint,
                counts=scores.counts,
                delta_version=scores.delta_version,
                # Rescoring must see that some rows were scored before the day's rows changed.
                inputs=f"{days[day].rows}/kept" if days[day].is_kept else None,
                metadata=_named(scores.models, known),
                details={MODELS: dict(scores.models)} | _ranked_to(product, days[day]),
            )
            for day, scores in written.items()
        }

    def hold_back(self, days: Mapping[date, Inputs]) -> dict[date, Written]:
        """Of days that a later delivery has blocked, who was served before it has a prediction as well."""
        found: dict[date, _Day] = {day: inputs.found for day, inputs in days.items() if inputs.found}
        chosen = {
            day: days[day]
            for day, of_day in found.items()
            if of_day.obstacle is None or of_day.scored is not None
        }
        scored = self._score(chosen, rescore=False) if chosen else {}
        return {
            day: replace(written, outcome="held_back", reason=chosen[day].reason, inputs=None)
            for day, written in scored.items()
            if written.outcome == "written"
        }

    def remarks(self, records: Mapping[date, DayRecord]) -> dict[date, dict[str, Any]]:
        product, remarks = self.context.product, {}
        decisions = presence.require_decisions(self.context)
        otherwise = scored_otherwise(records.values(), decisions)
        models = ModelHistory(self.context.tables, product).by_fingerprint() if otherwise else {}
        for day, scored in otherwise.items():
            decision = serving(decisions, day)
            remarks[day] = {
                "scored_by_another_model": f"{sum(scored.values()):,} rows were scored by "
                f"{name_models(scored, models)}; the day is served by "
                f"{name_models([decision.fingerprint], models) if decision else 'no model'}. To score it "
                f"again: ml-platform backfill {product.name} --from {day} --to {day} --rescore"
            }
        return remarks


def _was_usable(inputs: Inputs) -> bool:
    """Whether a day of the MRDS that is held back was usable before a later delivery blocked it."""
    record: DayRecord | None = inputs.found
    return (
        inputs.outcome == "held_back"
        and record is not None
        and record.outcome in ("held_back", "blocked")
        and record.barred_from is not None
        and HISTORY in record.details
    )


def _ranking(product: Product) -> str:
    """What of the contract tells how a day's rows are ranked and decided, if they are ranked."""
    deepest, decided = product.deepest_rank, product.model.decision_highest
    return f"/ranked to {deepest}, decided {decided}" if deepest is not None else ""


def _ranked_to(product: Product, of_day: _Day) -> dict[str, int]:
    """To which rank all of a day's rows are ranked: of those that stay it is as before."""
    deepest = product.deepest_rank
    if deepest is None:
        return {}
    if of_day.is_kept and of_day.scored is not None:
        deepest = min(deepest, performance.ranked_to(of_day.scored))
    return {RANKED_TO: deepest} if deepest else {}


def _as_scored(of_day: _Day) -> Written:
    """A day that can't be scored now, and has been before: it stays, and says so."""
    record, obstacle = of_day.scored, of_day.obstacle
    assert record is not None, "a day that was never scored has the obstacle's outcome"
    assert obstacle is not None, "a day without an obstacle is scored"
    return Written(
        "written",
        fingerprint=record.fingerprint,
        counts=record.counts,
        delta_version=record.delta_version,
        inputs=f"{of_day.rows}/kept",
        metadata={**record.details.get("metadata", {}), "not_scored_again": obstacle.reason},
        details={MODELS: scored_by(record)}
        | {name: value for name, value in record.details.items() if name == RANKED_TO},
    )


def _named(models: Mapping[str, int], known: Mapping[str, ModelRecord]) -> dict[str, Any]:
    """The models that have scored a day's rows, for people."""
    named = sorted((known[name] for name in models if name in known), key=lambda model: model.as_of)
    return {
        "model_as_of": ", ".join(str(model.as_of) for model in named),
        "model_version": ", ".join(model.version for model in named),
    }
