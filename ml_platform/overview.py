"""What people ask of a product's history, from the small tables alone: months, models, who served when.

Reads the ledger, the models, the decisions and the evaluations; starts no Spark and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from ml_platform.engine import withdrawals
from ml_platform.machine_learning import performance, retraining
from ml_platform.machine_learning.models import ModelHistory, attempts
from ml_platform.product import Product, month_of
from ml_platform.settings import Settings
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

    @property
    def comparison(self) -> str:
        if self.challenger is None:
            return "-"
        against = "baselines" if self.champion is None else f"{self.champion:.4f}"
        return f"{self.challenger:.4f} / {against}"

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


def models(product: Product, settings: Settings) -> list[ModelLine]:
    """Every model that counts, by as-of date ascending."""
    tables = Tables.of(settings)
    history = ModelHistory(tables, product)
    decisions = {decision.as_of: decision for decision in history.decisions()}
    promoted = [decision.as_of for decision in decisions.values() if decision.promoted]
    rollbacks = {row["as_of"]: row for row in history.rollbacks()}
    evaluations = performance.evaluations(tables, product)
    lost = withdrawals.no_longer_reproducible(tables, product).models
    lines = []
    for model in history.models():
        decision = decisions.get(model.as_of)
        if decision is None:
            continue
        comparison = decision.comparison
        later = [as_of for as_of in promoted if as_of > model.as_of]
        cause = "the month's model"
        if model.kind == "retrain":
            row = evaluations.get(model.as_of - timedelta(days=1))
            cause = "asked for by hand"
            if row is not None and row["champion_value"] is not None:
                cause = (
                    f"{row['metric']} {row['champion_value']:.4f} of the champion's {row['champion_rows']:,} "
                    f"rows on {row['event_day']}, threshold {product.evaluation.threshold}"
                )
        reason = decision.reason
        if decision.taken_back:
            rollback = rollbacks[model.as_of]
            reason = f"taken back by {rollback['by']}: {rollback['reason']}"
        if withdrawn := lost.get(model.fingerprint):
            reason += f"; no longer reproducible: {_days(withdrawn)} had been learned from, withdrawn since"
        lines.append(
            ModelLine(
                month=model.month,
                as_of=model.as_of,
                kind=model.kind,
                version=model.version,
                rows=model.rows,
                rows_available=model.rows_available,
                metric=product.evaluation.metric,
                challenger=comparison.challenger if comparison else None,
                champion=comparison.champion if comparison else None,
                lower=comparison.lower if comparison else None,
                upper=comparison.upper if comparison else None,
                promoted=decision.promoted,
                taken_back=decision.taken_back,
                reason=reason,
                cause=cause,
                serves_from=model.as_of if decision.promoted else None,
                serves_to=min(later) - timedelta(days=1) if decision.promoted and later else None,
            )
        )
    return lines


def waiting(product: Product, settings: Settings) -> str | None:
    """Why and until when retrains wait longer than the contract's cooldown; None if they don't."""
    found = retraining.back_off(product, attempts(Tables.of(settings), product))
    if found.lost < product.retrain.back_off_after:
        return None
    return (
        f"{found.lost} retrains in a row have lost, the last as of {found.latest}: a failed evaluation "
        f"trains again as of {found.until} at the earliest. Can {product.evaluation.metric} reach "
        f"evaluation.threshold {product.evaluation.threshold:g}?"
    )


def not_reproducible(product: Product, settings: Settings) -> list[str]:
    """What was made of days that have been withdrawn since, in words: one line for each asset."""
    lost = withdrawals.no_longer_reproducible(Tables.of(settings), product)
    lines = []
    if lost.models:
        count = len(lost.models)
        used = sorted({day for days in lost.models.values() for day in days})
        lines.append(f"{count} model{'s' * (count > 1)} that learned from {_days(used)}")
    for asset, partitions in lost.others.items():
        if partitions:
            used = sorted({day for days in partitions.values() for day in days})
            lines.append(f"{asset} of {_days(sorted(partitions))}, made of {_days(used)}")
    return lines


def _days(days: Sequence[date]) -> str:
    """Some days in a sentence."""
    if len(days) == 1:
        return str(days[0])
    return f"{len(days)} days from {min(days)} to {max(days)}"


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
        # The newest window that ends in the month; the whole month's when its last label has come.
        evaluated = [day for day in evaluations if month_of(performance.window(product, day).last) == month]
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
