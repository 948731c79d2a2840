"""Searching the values of an estimator's parameters, with Optuna.

Values are proposed by the tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter
Optimization", NeurIPS 2011), one after the other in this thread, from a seed: the same seed and scores give
the same values, and the first trials of a longer search are those of a shorter one. What a trial is worth is
asked of the caller. Optuna is imported when a search begins.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_platform.contract.searching import Search, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """What some values are worth on each fold, or why they aren't worth anything.

    ``mean`` is that of the folds, with nine significant digits: what differs less is the same. It is None if
    the estimator failed, and where there is no fold.
    """

    folds: tuple[float, ...] = ()
    failure: str = ""

    @property
    def mean(self) -> float | None:
        return float(f"{sum(self.folds) / len(self.folds):.9g}") if self.folds else None


@dataclass(frozen=True)
class Trial:
    """The values of one trial, and their score."""

    values: dict[str, Any]
    score: Score


def run(
    search: Search,
    worth: Callable[[Values], Score],
    *,
    sign: int,
    seed: int,
    start: Values,
    exactly: int | None = None,
    say: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Try values until the number of trials or the seconds of a search are used up.

    A trial that has begun is finished. Values that came before aren't scored again, but count.

    Args:
        worth: the score of some values.
        sign: -1 where less is better.
        start: values that the first trial has, of any parameters.
        exactly: how many trials there were when this search was made first; the clock doesn't count then.
        say: is told of each trial.
    """
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed % 2**32)
        )
        if start:
            study.enqueue_trial({name: _drawn(search.params[name], value) for name, value in start.items()})
        ranges = {name: _range_of(space) for name, space in search.params.items()}
        known: dict[str, Score] = {}
        trials: list[Trial] = []
        began = time.monotonic()
        while len(trials) < (search.trials if exactly is None else exactly):
            if exactly is None and trials and time.monotonic() - began >= search.seconds:
                break
            asked = study.ask(ranges)
            values = {name: _value(search.params[name], asked.params[name]) for name in search.params}
            key = json.dumps(values, sort_keys=True)
            if key not in known:
                known[key] = worth(values)
            score = known[key]
            if score.mean is None:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(asked, sign * score.mean)
            trials.append(Trial(values, score))
            say(trials[-1])
        return trials
    finally:
        optuna.logging.set_verbosity(level)


def best(trials: list[Trial], sign: int) -> Trial | None:
    """The trial with the best score, the first of equals; None if all have failed."""
    worked = [trial for trial in trials if trial.score.mean is not None and math.isfinite(trial.score.mean)]
    return max(worked, key=lambda trial: sign * (trial.score.mean or 0.0), default=None)


def _range_of(space: Space) -> BaseDistribution:
    from optuna import distributions

    if space.choices is not None:  # by their places, as a choice may be a list
        return distributions.CategoricalDistribution(tuple(range(len(space.choices))))
    assert space.low is not None
    assert space.high is not None
    if space.is_whole:
        return distributions.IntDistribution(int(space.low), int(space.high), log=space.log)
    return distributions.FloatDistribution(float(space.low), float(space.high), log=space.log)


def _value(space: Space, drawn: Any) -> Any:
    return drawn if space.choices is None else space.choices[drawn]


def _drawn(space: Space, value: Any) -> Any:
    if space.choices is None:
        return value if space.is_whole else float(value)
    return next(
        at for at, choice in enumerate(space.choices) if choice == value and type(choice) is type(value)
    )
