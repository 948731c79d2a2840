"""Which estimator, with which parameters, is trained as of a date: the best of the contract's on the folds.

All are scored on the same folds (:mod:`.folds`) by the contract's metric, with the decision threshold that
training itself would choose. Fitting the chosen one on all rows is :mod:`.training`'s business, and keeping
what was tried :mod:`.selection_runs`'.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ml_platform.contract import estimators
from ml_platform.contract.days import counted
from ml_platform.contract.faults import ends_the_run, in_words
from ml_platform.contract.learning import Estimator, Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.tasks import AT_K
from ml_platform.machine_learning import search
from ml_platform.machine_learning.folds import Fold, folds, take_too_long
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.search import Score, Trial

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

#: Metrics that look at no decision: to tune a threshold for them on each fold would be work for nothing.
_WITHOUT_DECISIONS = frozenset({"roc_auc", "average_precision"}) | AT_K


@dataclass(frozen=True)
class Tried:
    """An estimator of the contract, and what it was worth.

    Attributes:
        values: those that its search has found; empty without a search.
        score: with them, on the folds.
        trials: how many its search made; None without a search.
        made: these trials; a model's record doesn't know them.
    """

    values: dict[str, Any]
    score: Score
    trials: int | None = None
    made: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Selection:
    """What was tried, and what of it was chosen.

    Attributes:
        tried: for each estimator of the contract, in its order.
        chosen: the place of the chosen one.
        folds: how many folds could tell.
        reason: why it was chosen, for people.
        remark: what people should know of the folds.
    """

    tried: tuple[Tried, ...]
    chosen: int
    folds: int
    reason: str
    remark: str = ""

    @property
    def trials(self) -> list[int | None]:
        """How many trials the search of each estimator made."""
        return [attempt.trials for attempt in self.tried]

    def estimator(self, product: Product) -> Estimator:
        """The chosen estimator of a contract, with the values that were found for it."""
        return product.model.candidates[self.chosen].with_params(self.tried[self.chosen].values)

    @property
    def plain(self) -> str:
        """As text, without the single trials: what a model's record keeps."""
        return replace(self, tried=tuple(replace(attempt, made=()) for attempt in self.tried)).whole

    @property
    def whole(self) -> str:
        """As text, with all trials."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Selection:
        """What :attr:`plain` or :attr:`whole` gave."""
        content = json.loads(text)
        tried = tuple(
            Tried(
                values=entry["values"],
                score=_score(entry["score"]),
                trials=entry["trials"],
                made=tuple(Trial(made["values"], _score(made["score"])) for made in entry["made"]),
            )
            for entry in content["tried"]
        )
        said = content["reason"], content.get("remark", "")
        return cls(tried, content["chosen"], content["folds"], *said)


def _score(content: dict[str, Any]) -> Score:
    return Score(tuple(content["folds"]), content["failure"])


class UndefinedScoreError(Exception):
    """What an estimator predicts on a fold can't be scored; the message says by what."""


class NothingFitsError(Exception):
    """Every estimator of the contract has failed; the message says how."""


def choose(
    product: Product,
    rows: pd.DataFrame,
    features: pd.DataFrame,
    holdout: Holdout,
    *,
    seed: int,
    trials: Sequence[int | None] = (),
    passes: Callable[[BaseException], bool] = lambda _: False,
    say: Callable[[str], None] = lambda _: None,
) -> Selection:
    """Score all estimators of a contract, and those that are searched with many values, and choose the best.

    The first of equals is chosen. One that fails, on any fold, is left out. Where no fold can tell, the first
    one is chosen with its own parameters, and the reason says so.

    Args:
        rows: labelled rows in a fixed order, with the features that the pipeline takes of them.
        holdout: how models are compared, which the folds follow.
        seed: of the searches.
        trials: how many each search made when it was made first, instead of what the clock allows now.
        passes: whether an error may be gone when the same is tried again, so that no estimator is to blame.
        say: is told how far it is.

    Raises:
        NothingFitsError: all have failed.
        Exception: no estimator is to blame for it.
    """
    kind = kind_of(product)
    usable = folds(kind, rows, holdout)
    contest = _Contest(product, rows, features, usable, passes, say)
    tried = []
    for place, estimator in enumerate(product.model.candidates):
        contest.title = f"estimator {place + 1} of {len(product.model.candidates)}, {estimator.name}"
        exactly = trials[place] if place < len(trials) else None
        tried.append(contest.enter(estimator, seed + place, exactly))
    remark = ""
    if usable and take_too_long(product, rows):
        remark = (
            f"labels come {product.label_takes} days late, too late for folds of these rows that "
            "go forward in time, so that they are by entities alone"
        )
    return decide(product, Selection(tuple(tried), 0, len(usable), "", remark))


def decide(product: Product, selection: Selection) -> Selection:
    """Choose among those that were tried and haven't failed, and say why.

    Raises:
        NothingFitsError: all have failed.
    """
    names = _names(product)
    left = [place for place, attempt in enumerate(selection.tried) if not attempt.score.failure]
    if not left:
        pairs = zip(names, selection.tried, strict=True)
        said = "; ".join(f"{name}: {attempt.score.failure}" for name, attempt in pairs)
        if product.model.estimators:
            raise NothingFitsError(f"no estimator of model.estimators can be trained: {said}")
        raise NothingFitsError(f"model.estimator can't be trained: {said}")
    sign = product.metric.sign
    chosen = left[0]
    if selection.folds:
        finite = [place for place in left if math.isfinite(selection.tried[place].score.mean or 0.0)] or left
        chosen = max(finite, key=lambda place: (sign * (selection.tried[place].score.mean or 0.0), -place))
    return replace(selection, chosen=chosen, reason=_reason(product, selection, names, chosen, left))


def failed(selection: Selection, place: int, why: str) -> Selection:
    """The same without one that failed when it was fitted on all rows; :func:`decide` chooses another."""
    tried = list(selection.tried)
    tried[place] = replace(tried[place], score=Score(tried[place].score.folds, why))
    return replace(selection, tried=tuple(tried))


def failure_of(product: Product, error: Exception, passes: Callable[[BaseException], bool]) -> str:
    """Why an estimator has failed, in words.

    Args:
        passes: whether an error may be gone when the same is tried again.

    Raises:
        Exception: the error itself, if the estimator isn't to blame: on another machine it would be none.
    """
    if ends_the_run(error) or passes(error) or isinstance(error, MemoryError):
        raise error
    _log.info("an estimator of %s has failed", product.name, exc_info=True)
    return in_words(error, quoting=not product.sensitive)


class _Contest:
    """Scores estimators on folds."""

    def __init__(
        self,
        product: Product,
        rows: pd.DataFrame,
        features: pd.DataFrame,
        usable: Sequence[Fold],
        passes: Callable[[BaseException], bool],
        say: Callable[[str], None],
    ) -> None:
        self.product = product
        self.rows = rows
        self.features = features
        self.folds = usable
        self.passes = passes
        self.say = say
        self.title = ""

    def enter(self, estimator: Estimator, seed: int, exactly: int | None) -> Tried:
        """Score an estimator, with the best values that a search finds if it has one."""
        rule = self.product.metric
        if estimator.search is None or not self.folds:
            score = self.worth(estimator)
            self._tell(score.failure or (rule.shown(score.mean) if score.mean is not None else "no fold"))
            return Tried({}, score, None if estimator.search is None else 0)
        made: list[Trial] = []

        def tell(trial: Trial) -> None:
            made.append(trial)
            before = search.best(made[:-1], rule.sign)
            is_best = search.best(made, rule.sign) is not before
            if is_best or len(made) % _TRIALS_SAID == 0:
                found = search.best(made, rule.sign)
                shown = "none has worked yet" if found is None else _shown(self.product, found)
                self._tell(f"trial {len(made)} of {exactly or searched.trials}: {shown}")

        searched = estimator.search
        trials = search.run(
            searched,
            lambda values: self.worth(estimator.with_params(values)),
            sign=rule.sign,
            seed=seed,
            start=_own_values(estimator),
            exactly=exactly,
            say=tell,
        )
        found = search.best(trials, rule.sign)
        if found is None:
            why = f"all {len(trials)} trials have failed, the first with {trials[0].score.failure}"
            return Tried({}, Score(failure=why), len(trials), tuple(trials))
        return Tried(found.values, found.score, len(trials), tuple(trials))

    def worth(self, estimator: Estimator) -> Score:
        """The score of an estimator on each fold."""
        product = _for_folds(self.product.with_estimator(estimator))
        kind = kind_of(product)
        scores = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that are tried, and may well be bad ones
                for fold in self.folds:
                    fitted = kind.fit(self.rows.iloc[fold.learned], self.features.iloc[fold.learned])
                    scored = self.rows.iloc[fold.scored]
                    outputs = kind.in_days(kind.predict(fitted.pipeline, scored), scored)
                    predictions = kind.decided(outputs, fitted.threshold)
                    score = kind.score(kind.labels(scored[product.label]), predictions)
                    if score is None:  # of its labels alone it would be defined
                        raise UndefinedScoreError(
                            f"{product.metric_in_words} is undefined for what it predicts on a fold's "
                            f"{len(scored):,} rows"
                        )
                    scores.append(score)
        except Exception as error:
            return Score(failure=failure_of(self.product, error, self.passes))
        return Score(tuple(scores))

    def _tell(self, what: str) -> None:
        self.say(f"{self.title}: {self.product.metric_in_words} {what}")


#: After so many trials a line says how far a search is, whether or not it has found something better.
_TRIALS_SAID = 10


def _for_folds(product: Product) -> Product:
    """A product without what its metric doesn't look at: decisions, and intervals."""
    changes: dict[str, Any] = {"interval": None}
    if product.evaluation.metric in _WITHOUT_DECISIONS:
        changes["decision_threshold"] = 0.5
    return product.model_copy(update={"model": product.model.model_copy(update=changes)})


def _own_values(estimator: Estimator) -> dict[str, Any]:
    """The values that an estimator has itself for what is searched, where they may be tried."""
    assert estimator.search is not None
    own = estimators.build(estimator.class_, estimator.params).get_params(deep=False)
    return {
        name: own[name]
        for name, space in estimator.search.params.items()
        if name in own and space.holds(own[name])
    }


def _names(product: Product) -> list[str]:
    """The estimators of a contract for people: by class, and with their places where two are of one class."""
    names = [candidate.name for candidate in product.model.candidates]
    return [name if names.count(name) == 1 else f"{name} ({at + 1})" for at, name in enumerate(names)]


def _shown(product: Product, trial: Trial) -> str:
    values = ", ".join(f"{name}={_short(value)}" for name, value in trial.values.items())
    return f"{product.metric.shown(trial.score.mean or 0.0)} with {values}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reason(
    product: Product, selection: Selection, names: Sequence[str], chosen: int, left: Sequence[int]
) -> str:
    """Why one was chosen, in a sentence."""
    rule, metric = product.metric, product.metric_in_words
    winner = selection.tried[chosen]
    parts = []
    if not selection.folds:
        parts.append(
            f"{names[chosen]}, the first, with its own parameters: the rows are too few for a fold to tell"
        )
    else:
        assert winner.score.mean is not None
        said = (
            f"{names[chosen]}: {metric} {rule.shown(winner.score.mean)} on {counted(selection.folds, 'fold')}"
        )
        others = sorted(
            (place for place in left if place != chosen),
            key=lambda place: (-rule.sign * (selection.tried[place].score.mean or 0.0), place),
        )
        against = ", ".join(
            f"{rule.shown(selection.tried[place].score.mean or 0.0)} of {names[place]}" for place in others
        )
        parts.append(f"{said}, against {against}" if others else said)
        if others and selection.tried[others[0]].score.mean == winner.score.mean:
            parts.append("the first of equals")
    if winner.values:
        values = ", ".join(f"{name}={_short(value)}" for name, value in winner.values.items())
        parts.append(f"{values} found in {winner.trials:,} trials")
    if selection.remark:
        parts.append(selection.remark)
    for place, (attempt, estimator) in enumerate(zip(selection.tried, product.model.candidates, strict=True)):
        asked = estimator.search
        if (
            asked is not None
            and selection.folds
            and attempt.trials is not None
            and attempt.trials < asked.trials
        ):
            parts.append(
                f"the search of {names[place]} was ended by its {asked.seconds:,} s after "
                f"{attempt.trials:,} of {asked.trials:,} trials"
            )
        if attempt.score.failure:
            parts.append(f"left out is {names[place]}: {attempt.score.failure}")
    return "; ".join(parts)
