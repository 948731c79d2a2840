"""Which model is champion: the comparison of two models, and the fold that decides it for all of history.

Both are pure functions. Training, reading the held-out rows, caching comparisons and the registry do
not belong here. What raises here promotes nothing: there is no verdict without a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import ArrayLike

from ml_platform.machine_learning.metrics import MINIMUM_CLUSTERS, Difference, paired_difference, score
from ml_platform.product import Metric, Product

CHAMPION = "champion"
BASELINES: Mapping[str, int] = {"all_positive": 1, "all_negative": 0}
"""The two models that need no data, and what they predict for every row."""

Predictions = tuple[ArrayLike, ArrayLike]
"""Probabilities and decisions of the held-out rows."""


@dataclass(frozen=True)
class Comparison:
    """A challenger measured on held-out rows. All fields are plain, so that it can be stored as JSON.

    ``against`` names what ``lower`` and ``upper``, the interval of the difference, refer to: the
    champion, or the baseline that was harder to beat. ``entities`` are those of the held-out rows.
    """

    metric: str
    challenger: float | None
    champion: float | None
    against: str
    lower: float | None
    upper: float | None
    rows: int
    positives: int
    entities: int
    baselines: dict[str, float | None]
    verdict: bool
    reason: str
    failed: bool = False
    """Whether there is no verdict, since the comparison itself failed; it is never promoted by that."""

    @classmethod
    def that_failed(cls, metric: str, reason: str) -> Comparison:
        """The comparison that an exception has ended: it promotes nothing, and is not kept."""
        nothing = dict.fromkeys(BASELINES, None)
        return cls(metric, None, None, "", None, None, 0, 0, 0, nothing, False, reason, failed=True)


@dataclass(frozen=True)
class Candidate:
    """A trained model: the only two things its place in history depends on."""

    as_of: date
    fingerprint: str


@dataclass(frozen=True)
class Decision:
    """What became of a candidate.

    ``promoted`` says that it is champion from its as-of on, so it is False when the promotion was taken
    back; the comparison still tells that it had passed.
    """

    as_of: date
    fingerprint: str
    champion_before: str | None
    comparison: Comparison | None
    promoted: bool
    taken_back: bool
    reason: str


def compare(
    product: Product,
    label: ArrayLike,
    challenger: Predictions,
    champion: Predictions | None,
    cluster: ArrayLike,
    *,
    entities: int | None = None,
) -> Comparison:
    """Decide by the contract's rule whether ``challenger`` should take the champion's place.

    Without a champion it must be superior to both trivial baselines, whatever the rule. Too little data
    to tell is a verdict too: not promoted, with the reason.

    Args:
        label: of the held-out rows; all labelled.
        cluster: the cluster of each row's entity.
        entities: how many there are, for the record; the number of clusters without it.

    Raises:
        ValueError: the arrays differ in length, or hold what is no label, probability or decision.
    """
    metric = product.evaluation.metric
    y = np.asarray(label, dtype=np.float64)
    clusters = len(np.unique(np.asarray(cluster)))
    rivals = {name: _constant(value, len(y)) for name, value in BASELINES.items()}
    baselines = {name: score(metric, y, *predictions) for name, predictions in rivals.items()}
    if champion is not None:
        rivals = {CHAMPION: champion}
    differences = {
        name: paired_difference(metric, y, *challenger, *predictions, cluster)
        for name, predictions in rivals.items()
    }
    against, difference = min(differences.items(), key=_hardest)
    required = -product.promotion.margin if champion is not None and _may_be_as_good(product) else 0.0
    verdict = difference.lower is not None and difference.lower > required
    return Comparison(
        metric=metric,
        challenger=difference.challenger,
        champion=difference.champion if champion is not None else None,
        against=against,
        lower=difference.lower,
        upper=difference.upper,
        rows=len(y),
        positives=int(y.sum()),
        entities=clusters if entities is None else entities,
        baselines=baselines,
        verdict=verdict,
        reason=_no_evidence(metric, y, clusters, difference)
        or _reason(metric, against, difference, required, verdict),
    )


def not_evaluated(product: Product, reason: str) -> Comparison:
    """The comparison of a challenger that can't be scored: it is not promoted, with the reason."""
    return Comparison(
        metric=product.evaluation.metric,
        challenger=None,
        champion=None,
        against="",
        lower=None,
        upper=None,
        rows=0,
        positives=0,
        entities=0,
        baselines={},
        verdict=False,
        reason=f"the model can't be evaluated: {reason}",
    )


def fold(
    candidates: Iterable[Candidate],
    compare: Callable[[Candidate, Candidate | None], Comparison],
    taken_back: Collection[date] = (),
) -> list[Decision]:
    """Decide every candidate in the order of as-of dates, each against the champion so far.

    Args:
        candidates: one for each as-of date, in any order.
        compare: the comparison of a candidate with the champion, or with the baselines where there is
            none; called once per candidate at most.
        taken_back: as-of dates whose promotion was rolled back. No model as of them is ever champion, also
            not one that is trained again on labels that have come since.

    Raises:
        ValueError: two different candidates have the same as-of date.
    """
    decisions: list[Decision] = []
    champion: Candidate | None = None
    for candidate in sorted(set(candidates), key=lambda one: (one.as_of, one.fingerprint)):
        if decisions and decisions[-1].as_of == candidate.as_of:
            raise ValueError(
                f"two candidates as of {candidate.as_of}: {decisions[-1].fingerprint} and "
                f"{candidate.fingerprint}; only the one trained on the newer data counts"
            )
        before = champion
        rolled_back = candidate.as_of in taken_back
        if champion is not None and champion.fingerprint == candidate.fingerprint:
            comparison, promoted = None, True
            reason = f"the same model as the champion as of {champion.as_of}, which stays"
        else:
            comparison = compare(candidate, champion)
            promoted = comparison.verdict and not rolled_back
            reason = f"taken back; {comparison.reason}" if rolled_back else comparison.reason
        if promoted:
            champion = candidate
        decisions.append(
            Decision(
                as_of=candidate.as_of,
                fingerprint=candidate.fingerprint,
                champion_before=before.fingerprint if before else None,
                comparison=comparison,
                promoted=promoted,
                taken_back=rolled_back,
                reason=reason,
            )
        )
    return decisions


def serving(decisions: Iterable[Decision], day: date) -> Decision | None:
    """The decision that promoted the serving model of ``day``: the greatest as-of that is not after it."""
    promoted = (decision for decision in decisions if decision.promoted and decision.as_of <= day)
    return max(promoted, key=lambda decision: decision.as_of, default=None)


def _constant(value: int, rows: int) -> Predictions:
    return np.full(rows, float(value)), np.full(rows, value)


def _may_be_as_good(product: Product) -> bool:
    return product.promotion.rule == "non_inferior"


def _hardest(named: tuple[str, Difference]) -> float:
    """Smallest for the rival that is hardest to beat; without a bound it can't be beaten at all."""
    lower = named[1].lower
    return -np.inf if lower is None else lower


def _no_evidence(metric: Metric, y: np.ndarray, clusters: int, difference: Difference) -> str | None:
    """Why nothing can be said of the difference, if nothing can."""
    positives = int(y.sum())
    if not len(y):
        return "no labelled held-out rows to compare on"
    if difference.difference is None:
        return f"{metric} is undefined on the held-out rows: {positives:,} positives of {len(y):,}"
    if difference.lower is not None:
        return None
    if clusters < MINIMUM_CLUSTERS:
        return f"held-out entities in only {clusters} clusters, at least {MINIMUM_CLUSTERS} are needed"
    return f"too few positives or negatives among the held-out rows: {positives:,} positives of {len(y):,}"


def _reason(metric: Metric, against: str, difference: Difference, required: float, verdict: bool) -> str:
    """One sentence for a difference whose every field is known."""
    name = "" if against == CHAMPION else f" of the {against.replace('_', '-')} baseline"
    by = difference.difference or 0.0
    bounds = f"[{difference.lower:.3f}, {difference.upper:.3f}]"
    if verdict and required == 0:
        judged = f"better by {by:.3f} {bounds}"
    elif verdict:
        judged = f"not worse by {-required:g} or more: {by:+.3f} {bounds}"
    elif required == 0:
        judged = f"not shown to be better: {by:+.3f} {bounds}"
    else:
        judged = f"may be worse by {-required:g} or more: {by:+.3f} {bounds}"
    return f"{metric} {difference.challenger:.3f} against {difference.champion:.3f}{name}: {judged}"
