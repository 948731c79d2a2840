"""What people ask of a product's history, from the small tables alone: months, models, who served when.

Reads the ledger, the models, the decisions and the evaluations; starts no Spark and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta

from ml_platform.contract.assets import CATALOGUE
from ml_platform.contract.days import counted, in_a_sentence, month_of
from ml_platform.contract.product import Product
from ml_platform.contract.windows import days_evaluated
from ml_platform.engine import withdrawals
from ml_platform.machine_learning import performance, retraining, rollback
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_history import (
    ModelHistory,
    ModelRecord,
    attempts,
    champion,
    name_models,
    scored_by,
    scored_otherwise,
)
from ml_platform.machine_learning.promotion import serving
from ml_platform.machine_learning.selection import Selection
from ml_platform.settings import Settings
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables


@dataclass(frozen=True)
class ModelLine:
    """One model: what it was trained on, how it compared, and which days it serves."""

    month: date
    as_of: date
    kind: str
    version: str
    rows: int
    rows_available: int
    metric: str
    challenger: float | None
    champion: float | None
    lower: float | None
    upper: float | None
    promoted: bool
    taken_back: bool
    reason: str
    cause: str
    serves_from: date | None
    serves_to: date | None
    days_scored: int = 0
    waiting: bool = False
    selection: str = ""
    remark: str = ""

    @property
    def comparison(self) -> str:
        if self.challenger is None:
            return "-"
        against = "baselines" if self.champion is None else f"{self.champion:.4f}"
        return f"{self.challenger:.4f} / {against}"

    @property
    def verdict(self) -> str:
        return "promoted" if self.promoted else "not decided yet" if self.waiting else "not promoted"

    @property
    def serves(self) -> str:
        if self.serves_from is None:
            return "-"
        return f"{self.serves_from} to {self.serves_to or 'now'}"


@dataclass(frozen=True)
class MonthLine:
    """One month: its rows, its models, and how good the predictions of its days were."""

    month: date
    delivered: int
    rows: int
    quarantined: int
    bad_days: int
    models: tuple[ModelLine, ...]
    metric: float | None


@dataclass(frozen=True)
class OtherScores:
    """Days that were scored by other models than the one that serves them; all by the same ones."""

    days: tuple[date, ...]
    rows: int
    scored_by: str
    served_by: str

    def __str__(self) -> str:
        first, last = self.days[0], self.days[-1]
        days = f"{first}" if len(self.days) == 1 else f"{len(self.days):,} days ({first} to {last})"
        return f"{days}: {self.rows:,} rows were scored by {self.scored_by}; {self.served_by} serves there"


def other_scores(product: Product, settings: Settings) -> list[OtherScores]:
    """What was scored by other models than those that serve now, by first day ascending."""
    tables = Tables.of(settings)
    history = ModelHistory(tables, product)
    decisions, records = history.decisions(), history.by_fingerprint()
    predictions = Ledger(tables, product.name).latest("predictions")
    groups: dict[tuple[str, str], dict[date, int]] = {}
    for day, others in sorted(scored_otherwise(predictions.values(), decisions).items()):
        decision = serving(decisions, day)
        serves = name_models([decision.fingerprint], records) if decision else "no model"
        groups.setdefault((name_models(others, records), serves), {})[day] = sum(others.values())
    return [
        OtherScores(tuple(days), sum(days.values()), scored, serves)
        for (scored, serves), days in groups.items()
    ]


def consequences(product: Product, settings: Settings) -> list[str]:
    """What a contract does to the history that its product has: models and days that it can't use."""
    tables = Tables.of(settings)
    history = ModelHistory(tables, product)
    now, remarks = champion(history.decisions()), []
    record = history.by_fingerprint()[now.fingerprint] if now else None
    if record is not None and record.columns is not None:
        mismatch = ModelColumns.read(record.columns).mismatch(product)
        if mismatch:
            remarks.append(
                f"The champion, {name_models([record.fingerprint], {record.fingerprint: record})}, can't be "
                f"evaluated under this contract: {mismatch}. New days have no predictions (no_model) until a "
                "model of this contract is promoted, for which the baselines are the bar. To train one as of "
                f"now, when the contract is in place: ml-platform train {product.name}"
            )
    days = Ledger(tables, product.name).latest("mrds", details=False)
    alike = ContractVersions(tables, product).mrds_like_now(product.model.features.all)
    outdated = sorted(
        day for day, record in days.items() if record.outcome == "written" and record.contract not in alike
    )
    if outdated:
        again = f"--from {outdated[0]} --to {outdated[-1]} --select ards,mrds"
        remarks.append(
            f"{len(outdated):,} of {len(days):,} days of the MRDS ({outdated[0]} to {outdated[-1]}) were "
            "made under another version of the contract; no model learns from them before they are made "
            f"again: ml-platform backfill {product.name} {again}"
        )
    return remarks


def models(product: Product, settings: Settings) -> list[ModelLine]:
    """Every model that counts or has scored days that are there, by as-of date ascending."""
    tables = Tables.of(settings)
    history = ModelHistory(tables, product)
    decisions = {decision.as_of: decision for decision in history.decisions()}
    scored: Counter[str] = Counter()
    for record in Ledger(tables, product.name).latest("predictions").values():
        if performance.has_rows(record):
            scored.update(dict.fromkeys(scored_by(record), 1))
    counting = {model.as_of: model for model in history.models()}
    served = {
        served_days.decision.as_of: served_days
        for served_days in rollback.days_served(list(decisions.values()))
    }
    rollbacks = {row["as_of"]: row for row in history.rollbacks()}
    evaluations = performance.evaluations(tables, product)
    lost = withdrawals.no_longer_reproducible(tables, product).models
    lines = []
    records = history.by_fingerprint().values()
    for model in sorted(records, key=lambda record: record.as_of):
        counts = counting[model.as_of]
        if model.fingerprint != counts.fingerprint:
            if scored[model.fingerprint]:
                lines.append(_replaced(product, model, counts, scored[model.fingerprint]))
            continue
        decision = decisions.get(model.as_of)
        if decision is None:
            continue
        comparison = decision.comparison
        cause = "the month's model"
        if model.kind == "retrain":
            row = evaluations.get(model.as_of - timedelta(days=1))
            cause = "asked for by hand"
            if row is not None and row["champion_value"] is not None:
                metric, threshold = _in_words(product, row["metric"]), product.evaluation.threshold
                cause = (
                    f"{metric} {row['champion_value']:.4f} of the champion's {row['champion_rows']:,} rows "
                    f"on {row['event_day']}, threshold {threshold}"
                )
        reason = decision.reason
        if decision.taken_back:
            row = rollbacks[model.as_of]
            reason = f"rolled back by {row['by']}: {row['reason']}"
        if withdrawn := lost.get(model.fingerprint):
            used = in_a_sentence("day", withdrawn)
            reason += f"; no longer reproducible: {used}, which it learned from, since withdrawn"
        lines.append(
            ModelLine(
                month=model.month,
                as_of=model.as_of,
                kind=model.kind,
                version=model.version,
                rows=model.rows,
                rows_available=model.rows_available,
                metric=product.metric_in_words,
                challenger=comparison.challenger if comparison else None,
                champion=comparison.champion if comparison else None,
                lower=comparison.lower if comparison else None,
                upper=comparison.upper if comparison else None,
                promoted=decision.promoted,
                taken_back=decision.taken_back,
                reason=reason,
                cause=cause,
                waiting=decision.waiting,
                serves_from=served[model.as_of].first if model.as_of in served else None,
                serves_to=served[model.as_of].last if model.as_of in served else None,
                days_scored=scored[model.fingerprint],
                selection=Selection.read(model.selection).reason if model.selection else "",
                remark=model.remark or "",
            )
        )
    return lines


def _in_words(product: Product, metric: str) -> str:
    """A metric for people; of an earlier contract's only its name is known."""
    return product.metric_in_words if metric == product.evaluation.metric else metric


def waiting(product: Product, settings: Settings) -> str | None:
    """Why and until when retrains wait longer than the contract's cooldown; None if they don't."""
    found = retraining.back_off(product, attempts(Tables.of(settings), product))
    if found.lost < product.retrain.back_off_after:
        return None
    return (
        f"{found.lost} retrains in a row have lost, the last as of {found.latest}: a failed evaluation "
        f"trains again as of {found.until} at the earliest. Can {product.metric_in_words} reach "
        f"evaluation.threshold {product.evaluation.threshold:g}?"
    )


def not_reproducible(product: Product, settings: Settings) -> list[str]:
    """What was made of days that have been withdrawn since, in words: one line for each asset."""
    lost = withdrawals.no_longer_reproducible(Tables.of(settings), product)
    lines = []
    if lost.models:
        count = len(lost.models)
        used = sorted({day for days in lost.models.values() for day in days})
        lines.append(f"{counted(count, 'model')} that learned from {in_a_sentence('day', used)}")
    for asset, partitions in lost.others.items():
        if partitions:
            used = sorted({day for days in partitions.values() for day in days})
            made = in_a_sentence(CATALOGUE[asset].period, partitions)
            lines.append(f"{asset} of {made}, made from {in_a_sentence('day', used)}")
    return lines


def _replaced(product: Product, model: ModelRecord, counts: ModelRecord, days_scored: int) -> ModelLine:
    """A model of whose as-of date another one counts now, and whose predictions are still there."""
    return ModelLine(
        month=model.month,
        as_of=model.as_of,
        kind=model.kind,
        version=model.version,
        rows=model.rows,
        rows_available=model.rows_available,
        metric=product.metric_in_words,
        challenger=None,
        champion=None,
        lower=None,
        upper=None,
        promoted=False,
        taken_back=False,
        reason=f"replaced by v{counts.version}, which was trained as of the same date later",
        cause="the month's model" if model.kind == "monthly" else "a retrain",
        serves_from=None,
        serves_to=None,
        days_scored=days_scored,
        remark=model.remark or "",
    )


def months(product: Product, settings: Settings) -> list[MonthLine]:
    """Every month that has a delivered day, ascending."""
    tables = Tables.of(settings)
    ards = Ledger(tables, product.name).latest("ards", details=False)
    evaluations = performance.evaluations(tables, product)
    by_month: dict[date, list[ModelLine]] = {}
    for line in models(product, settings):
        by_month.setdefault(line.month, []).append(line)
    lines = []
    for month in sorted({month_of(day) for day in ards}):
        records = [record for day, record in ards.items() if month_of(day) == month]
        # The newest window that ends in the month.
        evaluated = [day for day in evaluations if month_of(days_evaluated(product, day).last) == month]
        lines.append(
            MonthLine(
                month=month,
                delivered=sum(record.counts.get("delivered", 0) for record in records),
                rows=sum(record.counts.get("rows", 0) for record in records),
                quarantined=sum(record.counts.get("quarantined", 0) for record in records),
                bad_days=sum(not record.usable for record in records),
                models=tuple(by_month.get(month, [])),
                metric=evaluations[max(evaluated)]["value"] if evaluated else None,
            )
        )
    return lines
