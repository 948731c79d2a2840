"""What taking promotions back does: which model serves again, and on which days another one would.

Pure: the decisions are those of the history (:mod:`.model_history`), which records what is rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from ml_platform.machine_learning.promotion import Decision, serving


@dataclass(frozen=True)
class Served:
    """The days that a model serves; without ``last`` it serves now."""

    decision: Decision
    first: date
    last: date | None


@dataclass(frozen=True)
class Change:
    """Days that another model would serve, or none."""

    first: date
    last: date | None
    now: Decision
    then: Decision | None


@dataclass(frozen=True)
class Rollback:
    """What is rolled back, and the champion that there is then; None if no promotion stands before.

    ``taken_back`` holds the promotions, the newest first. ``passed_over`` are models that lost to one of
    them: compared with the champion of before they might win, and it is that one that is to serve.
    """

    taken_back: tuple[Decision, ...]
    passed_over: tuple[Decision, ...]
    champion: Decision | None
    changes: tuple[Change, ...]


def days_served(decisions: Sequence[Decision]) -> list[Served]:
    """Which days each promoted model serves, ascending; one that was replaced at once has none."""
    promoted = sorted(
        (decision for decision in decisions if decision.promoted),
        key=lambda decision: (decision.decided_on, decision.as_of),
    )
    found = []
    for position, decision in enumerate(promoted):
        following = promoted[position + 1 : position + 2]
        last = following[0].decided_on - timedelta(days=1) if following else None
        if last is None or last >= decision.decided_on:
            found.append(Served(decision, decision.decided_on, last))
    return found


def plan(decisions: Sequence[Decision], to: date | None = None) -> Rollback:
    """What a rollback would do.

    Args:
        to: the as-of date of the model that is to serve again; the one before the champion without it.

    Raises:
        LookupError: no promotion stands, or ``to`` names no model that could serve again; says which could.
    """
    newest = serving(decisions, date.max)
    if newest is None:
        raise LookupError("there is no promotion that could be rolled back")
    before = [served.decision for served in days_served(decisions) if served.decision != newest]
    if to is None:
        target = before[-1] if before else None
    else:
        chosen = [decision for decision in before if decision.as_of == to]
        if not chosen:
            known = ", ".join(str(decision.as_of) for decision in before) or "none"
            raise LookupError(
                f"no model as of {to} has served before the champion as of {newest.as_of}; as-of dates of "
                f"those that have: {known}"
            )
        target = chosen[0]

    def is_later(decision: Decision) -> bool:
        return target is None or _order(decision) > _order(target)

    taken_back = tuple(
        sorted(
            (decision for decision in decisions if decision.promoted and is_later(decision)),
            key=_order,
            reverse=True,
        )
    )
    first = min(_order(decision) for decision in taken_back)
    passed_over = tuple(
        decision
        for decision in decisions
        if not (decision.promoted or decision.waiting or decision.taken_back) and _order(decision) > first
    )
    gone = {decision.as_of for decision in taken_back}
    then = [
        replace(decision, promoted=False) if decision.as_of in gone else decision for decision in decisions
    ]
    changes = tuple(
        Change(served.first, served.last, served.decision, serving(then, served.first))
        for served in days_served(decisions)
        if served.decision.as_of in gone
    )
    return Rollback(taken_back, passed_over, target, changes)


def _order(decision: Decision) -> tuple[date, date]:
    return decision.decided_on, decision.as_of
