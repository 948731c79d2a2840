"""When to retrain between the months: one pure function of an evaluation and the attempts so far.

The sensor calls it on the newest evaluation, a replay on every evaluation of the past; both so decide
alike. Event days are the only clock. Reading evaluations, finding the attempts and starting a training
do not belong here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from operator import attrgetter
from typing import Literal

from ml_platform.contract.days import add_months, month_of
from ml_platform.contract.product import Product

JudgedOn = Literal["scored", "unseen"]
"""The rows that a champion is judged on: those it has scored, or those it has never learned from."""

NEWEST_DAYS = 3
"""Only an evaluation of one of this many newest landed days acts, so a backfill of the past never does."""

LONGEST_BACK_OFF = 365
"""Days that retrains which lost in a row wait at most; the months' models come all the same."""
MOST_DOUBLINGS = 9
"""After which even a cooldown of a day has become more than a year."""
QUIET_DAYS = 31
"""Days without a retrain, beyond those it had to wait, after which earlier losses no longer count."""


@dataclass(frozen=True)
class PerformanceRow:
    """What the decision sees of the evaluation of one event day.

    ``verdict`` is of the whole window, whichever models scored it. The ``champion_…`` fields are of the
    window's labelled rows that the current champion scored or, where it has scored too few of them since
    labels come late, of those that it has never learned from; they alone can ask for a retrain.
    """

    event_day: date
    fingerprint: str
    verdict: Literal["passed", "failed", "insufficient"]
    champion_as_of: date | None
    champion_rows: int
    champion_positives: int
    champion_metric: float | None
    judged_on: JudgedOn = "scored"


@dataclass(frozen=True)
class Attempt:
    """A training, monthly or retrain, whatever its result.

    ``lost`` says that its model was not promoted: it lost the comparison, was rolled back, or there was none.
    ``decided_on`` is the morning of that decision, where it is not that of the as-of date.
    """

    as_of: date
    lost: bool = False
    decided_on: date | None = None

    @property
    def retrain(self) -> bool:
        """Whether it was a retrain, and not a month's model."""
        return self.as_of.day != 1


@dataclass(frozen=True)
class BackOff:
    """How long retrains wait for each other: ``lost`` counts those that lost in a row, to ``latest``."""

    lost: int
    days: int
    latest: date | None

    @property
    def until(self) -> date | None:
        """The first as-of date that a retrain may have again."""
        return self.latest + timedelta(days=self.days) if self.latest else None


@dataclass(frozen=True)
class RetrainDecision:
    """Whether to train ``month`` again as of ``as_of``, and why; ``day`` is the evaluated day."""

    act: bool
    day: date
    month: date
    as_of: date
    reason: str


def decide(
    product: Product,
    row: PerformanceRow,
    attempts: Iterable[Attempt],
    newest_landed_days: Sequence[date],
    in_progress: bool = False,
) -> RetrainDecision:
    """Decide on one evaluation.

    Args:
        attempts: every training known now. A replay passes those known then: as-of up to the day
            after ``row.event_day``.
        newest_landed_days: at least the newest three, in any order; older ones don't matter.
        in_progress: a training of this product is running.
    """
    as_of = row.event_day + timedelta(days=1)
    need = _need(product, row)
    obstacle = _obstacle(product, row.event_day, attempts, newest_landed_days, in_progress)
    act = need.below and obstacle is None
    if act:
        outcome = f"retrain {row.event_day:%Y-%m} as of {as_of}"
    else:
        outcome = f"no retrain: {obstacle}" if need.below else "no retrain"
    return RetrainDecision(
        act=act,
        day=row.event_day,
        month=month_of(row.event_day),
        as_of=as_of,
        reason=f"{row.event_day}: {need.reason}; {outcome}",
    )


def back_off(product: Product, attempts: Iterable[Attempt]) -> BackOff:
    """How long the next retrain waits after those that lost.

    A threshold that can't be reached asks for a retrain whenever it may. From ``retrain.back_off_after``
    retrains on that lost in a row each further one doubles the cooldown, up to a year; months' models come
    all the same. A promotion ends the row, and so does a time in which none was asked for although one was
    allowed.
    """
    lost, latest = 0, None
    for attempt in sorted(attempts, key=attrgetter("as_of")):
        if not attempt.lost:
            lost = 0
        if not attempt.retrain:
            continue
        if latest is not None and (attempt.as_of - latest).days > _waited(product, lost) + QUIET_DAYS:
            lost = 0
        lost += attempt.lost
        latest = attempt.as_of
    return BackOff(lost, _waited(product, lost), latest)


def _waited(product: Product, lost: int) -> int:
    """The days after a retrain, the last of so many in a row that lost, before the next one."""
    rules = product.retrain
    if lost < rules.back_off_after:
        return rules.cooldown_days
    doublings = min(lost - rules.back_off_after + 1, MOST_DOUBLINGS)
    return max(rules.cooldown_days, min(max(rules.cooldown_days, 1) << doublings, LONGEST_BACK_OFF))


def decide_on_drift(
    product: Product,
    month: date,
    drifted: bool,
    attempts: Iterable[Attempt],
    newest_landed_days: Sequence[date],
    in_progress: bool = False,
) -> RetrainDecision:
    """Decide on the drift of a month that is over; acts only if the contract lets drift alone retrain.

    It asks for one retrain, as of the day after the newest landed one, while the labels of the month after
    the drifted one come.
    The month's own model doesn't count for it: it learns from all the months before. Arguments as for
    :func:`decide`.
    """
    newest = max(newest_landed_days)
    as_of = newest + timedelta(days=1)
    known = list(attempts)
    obstacle = None
    if not product.drift.retrain:
        obstacle = "the contract doesn't retrain on drift alone"
    elif month != drift_month(product, newest):
        obstacle = f"it is not the newest month whose labels were known by {newest}"
    elif any(product.last_labelled_day(attempt.as_of) >= add_months(month, 1) for attempt in known):
        obstacle = f"a model was trained since, as of {max(attempt.as_of for attempt in known)}"
    else:
        obstacle = _obstacle(product, newest, known, newest_landed_days, in_progress)
    act = drifted and obstacle is None
    found = "drifted" if drifted else "has not drifted"
    outcome = f"retrain {newest:%Y-%m} as of {as_of}" if act else "no retrain"
    if drifted and obstacle:
        outcome += f": {obstacle}"
    return RetrainDecision(act, newest, month_of(newest), as_of, f"{month:%Y-%m} {found}; {outcome}")


def drift_month(product: Product, newest: date) -> date:
    """The month whose drift may retrain when ``newest`` is the newest landed day.

    It is the one before that of the last labelled day: no model can learn from it before.
    """
    return add_months(month_of(product.last_labelled_day(newest + timedelta(days=1))), -1)


def first_retrain(
    product: Product, rows: Iterable[PerformanceRow], attempts: Iterable[Attempt]
) -> RetrainDecision | None:
    """The first decision to act, with each of the ascending ``rows`` taken as the newest landed day.

    Later attempts than a row's as-of are not known to it. After each training a replay evaluates the
    days since and asks again, with the new attempt.
    """
    known = list(attempts)
    for row in rows:
        as_of = row.event_day + timedelta(days=1)
        past = [attempt for attempt in known if attempt.as_of <= as_of]
        decision = decide(product, row, past, [row.event_day])
        if decision.act:
            return decision
    return None


@dataclass(frozen=True)
class _Need:
    below: bool
    reason: str


def _need(product: Product, row: PerformanceRow) -> _Need:
    """Whether the champion's own rows show that it is on the wrong side of the threshold."""
    rules = product.evaluation
    if row.champion_as_of is None:
        return _Need(False, "there is no champion yet")
    champion = f"the champion as of {row.champion_as_of}"
    kind = " that it never learned from" if row.judged_on == "unseen" else ""
    evidence, needed = f"{row.champion_rows:,} labelled rows{kind}", f"{rules.minimum_rows:,}"
    too_thin = row.champion_rows < rules.minimum_rows
    if product.task.has_positives:
        evidence += f", {row.champion_positives:,} positives"
        needed += f" and {rules.minimum_positives:,}"
        too_thin |= row.champion_positives < rules.minimum_positives
    if too_thin:
        return _Need(False, f"insufficient evidence of {champion}: {evidence} of the {needed} needed")
    # A missing metric comes back from a table as NaN, and NaN is below nothing.
    if row.champion_metric is None or math.isnan(row.champion_metric):
        return _Need(
            False,
            f"insufficient evidence of {champion}: {product.metric_in_words} is undefined on its {evidence}",
        )
    below = not product.metric.is_enough(row.champion_metric, rules.threshold)
    side = product.metric.beyond if below else f"not {product.metric.beyond}"
    mixed = (
        " (the window's failure is that of earlier models)" if row.verdict == "failed" and not below else ""
    )
    return _Need(
        below,
        f"{product.metric_in_words} {product.metric.shown(row.champion_metric)} of {champion} is {side} "
        f"{rules.threshold:g} "
        f"({evidence}){mixed}",
    )


def _obstacle(
    product: Product,
    event_day: date,
    attempts: Iterable[Attempt],
    newest_landed_days: Sequence[date],
    in_progress: bool,
) -> str | None:
    """What forbids a retrain after ``event_day``, if anything."""
    as_of = event_day + timedelta(days=1)
    newest = sorted(set(newest_landed_days))[-NEWEST_DAYS:]
    if event_day not in newest:
        listed = ", ".join(str(day) for day in newest) or "none"
        return f"the day is not among the newest {NEWEST_DAYS} landed days ({listed})"
    if as_of.day == 1 and as_of >= product.first_month:
        return f"the model of {as_of:%Y-%m} is due as of the same day"
    if month_of(event_day) < product.first_month:
        return f"there is no model before {product.first_month:%Y-%m}"
    if in_progress:
        return "a training is in progress"
    known = list(attempts)
    latest = max((attempt.as_of for attempt in known), default=None)
    if latest is None:
        return None
    if latest > as_of:
        return f"a model was already trained as of {latest}, after {as_of}"
    if latest == as_of:
        return f"a model was already trained as of {as_of}"
    # A month's model that waits for its comparison is no answer to a champion that fails now.
    retrains = [attempt for attempt in known if attempt.as_of.day != 1]
    waiting_for = max((attempt.decided_on or attempt.as_of for attempt in retrains), default=as_of)
    if waiting_for > as_of:
        return f"the newest retrain is compared with the champion on {waiting_for}"
    if (as_of - latest).days < product.retrain.cooldown_days:
        return f"the cooldown of {product.retrain.cooldown_days} days after the training as of {latest}"
    waiting = back_off(product, known)
    if waiting.until is not None and as_of < waiting.until:
        return (
            f"{waiting.lost} retrains in a row have lost, so the cooldown is {waiting.days} days; "
            f"the next is possible as of {waiting.until}"
        )
    return None
