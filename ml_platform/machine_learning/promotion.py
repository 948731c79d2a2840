"""Which model is champion: the comparison of two models, and the fold that decides it for all of history.

Both are pure functions. Training, reading the held-out rows, caching comparisons and the registry do
not belong here. What raises here promotes nothing: there is no verdict without a comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ml_platform.contract.learning import Holdout
from ml_platform.contract.product import Product
from ml_platform.machine_learning.bootstrap import MINIMUM_CLUSTERS, Difference
from ml_platform.machine_learning.kind import Predictions
from ml_platform.machine_learning.kinds import kind_of

CHAMPION = "champion"


@dataclass(frozen=True)
class Comparison:
    """A challenger measured on held-out rows. All fields are plain, so that it can be stored as JSON.

    ``against`` names what ``lower`` and ``upper``, the interval of how much better the challenger is, refer
    to: the champion, or the baseline that was hardest to beat. ``entities`` are those of the held-out rows.
    ``positives`` is 0 where labels aren't positive or negative.
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
        return cls(metric, None, None, "", None, None, 0, 0, 0, {}, False, reason, failed=True)


@dataclass(frozen=True)
class Candidate:
    """A trained model: the only things its place in history depends on."""

    as_of: date
    fingerprint: str
    holdout: Holdout = "entities"


@dataclass(frozen=True)
class Decision:
    """The result of a candidate.

    ``promoted`` says that it is champion from ``decided_on`` on, so it is False when the promotion was taken
    back; the comparison still tells that it had passed. ``decided_on`` is its as-of or, where models are
    compared forward in time, a later morning; until that has come the candidate is ``waiting``.
    """

    as_of: date
    fingerprint: str
    champion_before: str | None
    comparison: Comparison | None
    promoted: bool
    taken_back: bool
    reason: str
    decided_on: date
    waiting: bool = False

    @property
    def in_words(self) -> str:
        """The result and its reason, for somebody who knows nothing of the candidate."""
        if self.comparison is None:
            return self.reason
        if self.taken_back:
            return f"rolled back: {self.comparison.reason}"
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.comparison.reason}"


def compare(
    product: Product,
    label: ArrayLike,
    challenger: Predictions,
    champion: Predictions | None,
    cluster: ArrayLike,
    *,
    baselines: Mapping[str, Predictions] | None = None,
    entities: int | None = None,
) -> Comparison:
    """Decide by the contract's rule whether ``challenger`` should take the champion's place.

    Without a champion it must be superior to all trivial baselines, whatever the rule. Too little data
    to tell is a verdict too: not promoted, with the reason.

    Args:
        label: of the held-out rows; all labelled.
        challenger: what it predicts for them, as the kind of label has it.
        cluster: the cluster of each row's entity.
        baselines: predictions that need no model (:meth:`.kind.Kind.baselines`); by default those of a kind
            of label whose baselines need no training labels either.
        entities: how many there are, for the record; the number of clusters without it.

    Raises:
        ValueError: the arrays differ in length, or hold what is no label or prediction.
    """
    kind, metric = kind_of(product), product.evaluation.metric
    y, cluster = np.asarray(label, dtype=np.float64), np.asarray(cluster)
    clusters = len(np.unique(cluster))
    if baselines is None:
        import pandas as pd

        baselines = kind.baselines(None, pd.DataFrame(index=range(len(y))))
    scores = {name: kind.score(y, predictions) for name, predictions in baselines.items()}
    rivals = baselines if champion is None else {CHAMPION: champion}
    differences = {
        name: kind.difference(y, challenger, predictions, cluster) for name, predictions in rivals.items()
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
        positives=kind.positives(y),
        entities=clusters if entities is None else entities,
        baselines=scores,
        verdict=verdict,
        reason=_no_evidence(product, y, clusters, difference)
        or _reason(product, against, difference, required, verdict),
    )


def not_compared(product: Product, reason: str) -> Comparison:
    """The comparison of a challenger that nothing could be said of: it is not promoted."""
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
        reason=reason,
    )


def fold(
    candidates: Iterable[Candidate],
    compare: Callable[[Candidate, Candidate | None, date], Comparison],
    taken_back: Collection[date] = (),
    *,
    wait: timedelta = timedelta(0),
    until: date = date.max,
    unusable: Collection[str] = (),
    at_once: Collection[str] = (),
) -> list[Decision]:
    """Decide every candidate in the order of the mornings it is decided on, each against the champion so far.

    That morning is the as-of date where both models have left the same entities out. Otherwise they are
    compared on the days after the as-of date, and decided when the labels of these are known. A first model
    has no champion to be compared with, and is decided at once.

    Args:
        candidates: one for each as-of date, in any order.
        compare: the comparison of a candidate with the champion, or with the baselines where there is
            none, on that morning; called once per candidate at most.
        taken_back: as-of dates whose promotion was rolled back. No model as of them is ever champion, also
            not one that is trained again on labels that have come since.
        wait: from the as-of date to that morning, of a comparison forward in time.
        until: the newest morning that has come; later ones are waited for.
        unusable: fingerprints of models that can't score under the present contract. A champion among them
            is nothing to wait for: a candidate that can score is decided at once, as a first model is.
        at_once: fingerprints of candidates that were decided at once before, and stay so against such a
            champion, although by now they can't score either.

    Returns:
        One decision a candidate, by as-of date ascending.

    Raises:
        ValueError: two different candidates have the same as-of date.
    """
    ordered = sorted(set(candidates), key=lambda candidate: (candidate.as_of, candidate.fingerprint))
    for earlier, later in pairwise(ordered):
        if earlier.as_of == later.as_of:
            raise ValueError(
                f"two candidates as of {earlier.as_of}: {earlier.fingerprint} and {later.fingerprint}; "
                "only the one trained on the newer data counts"
            )
    decisions: dict[date, Decision] = {}
    champion: Candidate | None = None
    waiting: deque[Candidate] = deque()

    def decide(candidate: Candidate, day: date) -> None:
        nonlocal champion
        decisions[candidate.as_of] = _decide(candidate, champion, day, compare, candidate.as_of in taken_back)
        if decisions[candidate.as_of].promoted:
            champion = candidate

    def replaces_unusable(candidate: Candidate, champion: Candidate) -> bool:
        if champion.fingerprint not in unusable:
            return False
        return candidate.fingerprint not in unusable or candidate.fingerprint in at_once

    for candidate in ordered:
        while waiting and waiting[0].as_of + wait <= candidate.as_of:
            decide(waiting[0], waiting.popleft().as_of + wait)
        by_entities = champion is not None and {candidate.holdout, champion.holdout} == {"entities"}
        if champion is None or by_entities or replaces_unusable(candidate, champion):
            decide(candidate, candidate.as_of)
        else:
            waiting.append(candidate)
    for candidate in waiting:
        if candidate.as_of + wait <= until:
            decide(candidate, candidate.as_of + wait)
        else:
            decisions[candidate.as_of] = _wait(candidate, champion, candidate.as_of + wait)
    return [decisions[as_of] for as_of in sorted(decisions)]


def _decide(
    candidate: Candidate,
    champion: Candidate | None,
    day: date,
    compare: Callable[[Candidate, Candidate | None, date], Comparison],
    taken_back: bool,
) -> Decision:
    """Decide a candidate on a morning, against the champion of then."""
    comparison: Comparison | None = None
    if champion is not None and champion.fingerprint == candidate.fingerprint:
        promoted = True
        reason = f"the same model as the champion as of {champion.as_of}, which stays"
    elif champion is not None and candidate.as_of < champion.as_of:
        promoted = False
        reason = f"the champion as of {champion.as_of} has learned from days that it could be compared on"
    else:
        comparison = compare(candidate, champion, day)
        promoted = comparison.verdict and not taken_back
        reason = f"taken back; {comparison.reason}" if taken_back else comparison.reason
    return Decision(
        as_of=candidate.as_of,
        fingerprint=candidate.fingerprint,
        champion_before=champion.fingerprint if champion else None,
        comparison=comparison,
        promoted=promoted,
        taken_back=taken_back,
        reason=reason,
        decided_on=day,
    )


def _wait(candidate: Candidate, champion: Candidate | None, day: date) -> Decision:
    return Decision(
        as_of=candidate.as_of,
        fingerprint=candidate.fingerprint,
        champion_before=champion.fingerprint if champion else None,
        comparison=None,
        promoted=False,
        taken_back=False,
        reason=f"scored in shadow since {candidate.as_of}; it is compared with the champion on {day}",
        decided_on=day,
        waiting=True,
    )


def serving(decisions: Iterable[Decision], day: date) -> Decision | None:
    """The decision that promoted the serving model of ``day``: the newest that was made by then."""
    promoted = (decision for decision in decisions if decision.promoted and decision.decided_on <= day)
    return max(promoted, key=lambda decision: (decision.decided_on, decision.as_of), default=None)


def _may_be_as_good(product: Product) -> bool:
    return product.promotion.rule == "non_inferior"


def _hardest(named: tuple[str, Difference]) -> float:
    """Smallest for the rival that is hardest to beat; without a bound it can't be beaten at all."""
    lower = named[1].lower
    return -np.inf if lower is None else lower


def _no_evidence(product: Product, y: np.ndarray, clusters: int, difference: Difference) -> str | None:
    """Why nothing can be said of the difference, if nothing can."""
    kind = kind_of(product)
    if not len(y):
        return "no labelled held-out rows to compare on"
    if difference.difference is None:
        return f"{product.metric_in_words} is undefined on the held-out rows: {kind.evidence(y)}"
    if difference.lower is not None:
        return None
    if clusters < MINIMUM_CLUSTERS:
        return f"held-out entities in only {clusters} clusters, at least {MINIMUM_CLUSTERS} are needed"
    return f"{kind.too_thin} among the held-out rows: {kind.evidence(y)}"


def _reason(product: Product, against: str, difference: Difference, required: float, verdict: bool) -> str:
    """One sentence for a difference whose every field is known."""
    assert difference.challenger is not None
    assert difference.champion is not None
    assert difference.lower is not None
    assert difference.upper is not None
    metric, shown = product.metric_in_words, product.metric.shown
    name = "" if against == CHAMPION else f" of the {against.replace('_', '-')} baseline"
    by = difference.difference or 0.0
    bounds = f"[{shown(difference.lower)}, {shown(difference.upper)}]"
    signed = shown(by) if shown(by).startswith("-") else f"+{shown(by)}"
    if verdict and required == 0:
        judged = f"better by {shown(by)} {bounds}"
    elif verdict:
        judged = f"not worse by {-required:g} or more: {signed} {bounds}"
    elif required == 0:
        judged = f"not shown to be better: {signed} {bounds}"
    else:
        judged = f"may be worse by {-required:g} or more: {signed} {bounds}"
    return f"{metric} {shown(difference.challenger)} against {shown(difference.champion)}{name}: {judged}"
