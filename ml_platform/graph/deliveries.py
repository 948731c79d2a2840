"""Which delivered days have not been made from what lies there now, and what was requested of them.

The ledger says from what a day was last made, the landing folder what lies there: where the two differ, the
day is pending, whatever it was before. The landing sensor's cursor only keeps what has been requested of days
that are still pending. Nothing here starts a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from ml_platform.contract.days import DayRange
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import landing
from ml_platform.data_engineering.arrivals import ArrivalRegister
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.knowledge import Arrivals
from ml_platform.data_engineering.object_store import landing_of
from ml_platform.graph import ledger_views, partitions
from ml_platform.settings import Settings

#: Delivered days, from the newest back, whose files are looked at on every tick, if labels come in a month.
WATCHED_DAYS = 62
#: Days beyond the labels' delay that are looked at as well: late labels are seen as soon as those in time.
LATE_LABELS = 31
#: Older days whose files are looked at on a tick, in turn: at a tick a minute, ten years within the hour.
OLDER_A_TICK = 62
#: Changed days this close to each other are one run; the days between are up to date and cost nothing.
GAP_DAYS = 7
RUNS_A_TICK = 5
#: Watched days whose files may vanish at once and be done again; more look like a disk that isn't mounted.
WITHDRAWN_AT_ONCE = 7
#: Seconds of a tick in which new files are looked into; what is left is left to the next.
WATCH_SECONDS = 20
#: Runs that may succeed and leave a day pending before nothing more is requested for the same state.
ATTEMPTS = 3

#: The stamp of a day that was never made and is too old to be looked at: its folder's name is known.
UNSEEN = "unseen"
#: The stamp of a day whose files are gone.
WITHDRAWN = ""


@dataclass(frozen=True)
class State:
    """What lies there of a day, and the fingerprint of the inputs it was last made from (None: never)."""

    stamp: str
    made_from: str | None

    @property
    def token(self) -> str:
        return fingerprint_of([self.stamp, self.made_from])[:8]


@dataclass(frozen=True)
class Pending:
    """The days to be made, ascending; and what is worth a warning."""

    states: Mapping[date, State]
    newest: date | None = None
    next_turn: int = 0
    warning: str = ""


def landed_days(product: Product, settings: Settings) -> list[date]:
    """The delivered days of the product's history, ascending; a day that isn't over is not one yet."""
    history = _history(product)
    if history is None:
        return []
    return [day for day in landing.delivered_days(product, landing_of(settings, product)) if day in history]


def _history(product: Product) -> DayRange | None:
    last = partitions.daily(product).get_last_partition_key()
    return None if last is None else DayRange(product.start, date.fromisoformat(last))


def pending(
    product: Product,
    settings: Settings,
    made_from: Mapping[date, str],
    *,
    turn: int = 0,
    also: Collection[date] = (),
    register: ArrivalRegister | None = None,
    watching: bool = False,
) -> Pending:
    """The days whose files are others than those they were made from.

    Work is bounded: one listing of the days' names, and a look at the files of the newest days, of some older
    ones in turn, and of ``also``.

    Args:
        made_from: by day, the fingerprint of the inputs that the ledger has of the ARDS.
        turn: which of the older days to look at.
        register: when files were first seen; what came late is made anew.
        watching: whether to keep there which files there are now.
    """
    listed = landed_days(product, settings)
    count = max(WATCHED_DAYS, product.source.label_delay_days + LATE_LABELS)
    watched, older = listed[-count:], listed[:-count]
    unseen = [day for day in older if day not in made_from]
    made = [day for day in older if day in made_from]
    turns = max(1, -(-len(made) // OLDER_A_TICK))
    start = turn % turns * OLDER_A_TICK
    looked_at = {*watched, *made[start : start + OLDER_A_TICK], *({*also} & {*made})}
    states = {day: State(UNSEEN, None) for day in unseen}
    looks = landing.looks(product, landing_of(settings, product), sorted(looked_at))
    arrivals = _arrivals(product, settings, register, looks, watching=watching)
    withdrawn = []
    for day in sorted(looked_at):
        stamp, before = looks[day].stamp, made_from.get(day)
        if stamp is None:
            if before:
                withdrawn.append(day)
            continue
        if looks[day].is_unfinished:
            continue
        seen = arrivals.seen(day, looks[day].files)
        now = landing.made_from(stamp, seen.late_files if seen else {})
        if not _is_made_from(before, stamp, now) and not (
            before == "" and _only_labels(product, settings, day)
        ):
            states[day] = State(now, before)
    history = _history(product)
    if watched and history is not None:
        # The first of few days may be the one that is gone.
        first = max(history.first, watched[-1] - timedelta(days=count))
        recent, present = DayRange(min(first, watched[0]), history.last), {*listed}
        withdrawn += [
            day for day, before in made_from.items() if before and day in recent and day not in present
        ]
    warning = ""
    if len(withdrawn) > WITHDRAWN_AT_ONCE:
        warning = (
            f"the files of {len(withdrawn)} days are gone, the first is {min(withdrawn)}; these days stay as "
            f"they are: bring back the files, or run ml-platform backfill {product.name} over these days"
        )
    else:
        states |= {day: State(WITHDRAWN, made_from[day]) for day in withdrawn}
    newest = listed[-1] if listed else None
    return Pending(dict(sorted(states.items())), newest, (turn + 1) % turns, warning)


def _arrivals(
    product: Product,
    settings: Settings,
    register: ArrivalRegister | None,
    looks: Mapping[date, landing.Look],
    *,
    watching: bool,
) -> Arrivals:
    """What was seen of some days, with this look if it is kept."""
    if register is None:
        return Arrivals()

    def known() -> Arrivals:
        return ledger_views.of_version(register, "arrivals", register.read)

    if watching:
        now, rules = datetime.now(tz=UTC), FileRules.of(settings, product)
        register.observe(landing_of(settings, product), looks, now, rules, known(), seconds=WATCH_SECONDS)
    return known()


def _is_made_from(before: str | None, stamp: str, inputs: str) -> bool:
    """Whether a record's inputs are those of now; they may say besides that files couldn't be read."""
    content, _, more = (before or "").partition("/")
    if before is None or content != stamp:
        return False
    return before == inputs if not more or more.startswith(landing.LATE) else True


def _only_labels(product: Product, settings: Settings, day: date) -> bool:
    """Whether a day is rightly missing: labels have come, and no rows."""
    return day not in landing.scan(
        product, landing_of(settings, product), [day], FileRules.of(settings, product)
    )


# -- what has been requested -------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A run over days that were pending; ``tokens`` are the states of those that were looked at."""

    first: date
    last: date
    run_key: str
    attempt: int = 1
    tokens: Mapping[date, str] = field(default_factory=dict)

    @classmethod
    def of_plain(cls, plain: Sequence[Any]) -> Request:
        """That of a cursor."""
        first, last, key, attempt, tokens = plain
        day = date.fromisoformat
        return cls(day(first), day(last), key, attempt, {day(of): token for of, token in tokens.items()})

    @property
    def plain(self) -> list[Any]:
        """What a cursor holds of it."""
        tokens = {str(day): token for day, token in self.tokens.items()}
        return [str(self.first), str(self.last), self.run_key, self.attempt, tokens]

    def answers(self, day: date, state: State) -> bool:
        """Whether the run was requested for this state of a day."""
        if not self.first <= day <= self.last:
            return False
        return state.stamp == UNSEEN or self.tokens.get(day) == state.token


@dataclass(frozen=True)
class Requested:
    """What the landing sensor has requested of days that are still pending, and whose turn it is.

    ``windows`` is the same of days whose windows have changed, which have no new files: see
    :mod:`.trailing_days`.
    """

    requests: tuple[Request, ...] = ()
    turn: int = 0
    windows: tuple[Request, ...] = ()

    @classmethod
    def read(cls, cursor: str | None) -> Requested:
        """What a cursor holds; a cursor of another format holds nothing, which requests nothing twice."""
        values = json.loads(cursor) if cursor else {}
        if "requests" not in values:
            return cls()
        requests, windows = (
            tuple(Request.of_plain(plain) for plain in values.get(name, ()))
            for name in ("requests", "windows")
        )
        return cls(requests, values["turn"], windows)

    def write(self) -> str:
        requests, windows = ([request.plain for request in part] for part in (self.requests, self.windows))
        return json.dumps({"requests": requests, "turn": self.turn, "windows": windows})

    @property
    def days(self) -> set[date]:
        return {day for request in self.requests for day in request.tokens}

    def due(
        self, states: Mapping[date, State], status: Callable[[str], dg.DagsterRunStatus | None]
    ) -> dict[date, int]:
        """The pending days that a run must be requested for, and which attempt at their state it is.

        Nothing is due that a run at work was requested for. A run that failed or was canceled is for people
        and for retries. One that never came to be is requested again, as is one that succeeded and has left
        the day pending, some times.

        Args:
            status: of the run with a run key; None if there is no such run.
        """
        return _due(self.requests, states, status, {dg.DagsterRunStatus.SUCCESS})

    def windows_due(
        self, states: Mapping[date, State], status: Callable[[str], dg.DagsterRunStatus | None]
    ) -> dict[date, int]:
        """The same of days whose windows have changed.

        What is wrong with these shows nowhere but in a held-back day, so a run that failed, or whose process
        has died, is requested again as well, as often.
        """
        again = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
        return _due(self.windows, states, status, again)

    def after(self, states: Mapping[date, State], new: Sequence[Request], turn: int) -> Requested:
        """What is kept: new requests, and the old ones that are about days still pending."""
        return Requested((*_about(self.requests, states), *new), turn, self.windows)

    def after_windows(self, states: Mapping[date, State], new: Sequence[Request]) -> Requested:
        """The same of requests over days whose windows have changed."""
        return replace(self, windows=(*_about(self.windows, states), *new))


def _due(
    requests: Sequence[Request],
    states: Mapping[date, State],
    status: Callable[[str], dg.DagsterRunStatus | None],
    again: Collection[dg.DagsterRunStatus],
) -> dict[date, int]:
    """The days that a run must be requested for, and which attempt at their state it is.

    Args:
        again: how runs may have ended that are requested again.
    """
    found = {}
    known: dict[str, dg.DagsterRunStatus | None] = {}
    for day, state in states.items():
        request = _newest(requests, day, state)
        if request is None:
            found[day] = 1
            continue
        if request.run_key not in known:
            known[request.run_key] = status(request.run_key)
        run = known[request.run_key]
        if run is None:
            found[day] = request.attempt
        elif run in again and request.attempt < ATTEMPTS:
            found[day] = request.attempt + 1
    return found


def _about(requests: Sequence[Request], states: Mapping[date, State]) -> list[Request]:
    """The requests that are the newest about days in some states."""
    kept = [_newest(requests, day, state) for day, state in states.items()]
    return [request for request in requests if request in kept]


def _newest(requests: Sequence[Request], day: date, state: State) -> Request | None:
    return next((request for request in reversed(requests) if request.answers(day, state)), None)


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """Few ranges that cover ``days``: one a cluster, and one for all if there are too many clusters."""
    found: list[tuple[date, date]] = []
    for day in days:
        if found and day - found[-1][1] <= timedelta(days=GAP_DAYS):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found if len(found) <= RUNS_A_TICK else [(found[0][0], found[-1][1])]
