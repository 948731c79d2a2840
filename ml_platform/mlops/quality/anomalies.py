"""Anomaly checks: a day against the days before it, and the figures of its delivery.

Each such fact is a figure with the bounds it should keep to, worked out from profiles and counts alone:
no Spark, and no look at a later day. Days count whatever their verdict was, so that a verdict never
depends on another one; the medians are what keeps a bad day from setting the norm.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from ml_platform.contract.monitoring import MASK, Rule, Severity
from ml_platform.contract.product import Product
from ml_platform.mlops.quality.expectations import RULES, Dimension, not_yet_required, number, severity_of
from ml_platform.mlops.quality.profiles import ColumnProfile, Profile

_WEEKS = 4
_WEEKS_NEEDED = 2
#: Days without deliveries that may lie before a day whose labels are looked for; the longest known breaks
#: of public holidays last less than two weeks.
_DAYS_WITHOUT_DELIVERIES = 14
#: How the facts of the quarantine begin; what they come from are its reasons.
FEW_UNUSABLE = "few records are unusable"
#: From median absolute deviation to standard deviation, for normally distributed figures.
_MAD_TO_SIGMA = 1.4826
#: A spread may be that many times as small or as great as usual, and a column have that share of its values.
_SPREAD = 5.0
_SHARE_OF_VALUES = 0.5
#: Of fewer values a spread says nothing.
_VALUES_FOR_SPREAD = 20
#: Counts vary by their square root; that many times it is no news, however few rows there are.
_CHANCE_OF_COUNT = 4.0
#: The least standard deviation of a share of nulls: real shares are bursty, and their usual level near 0.
_SIGMA_OF_NULLS = 0.01


#: What the ledger calls a day's files whose names say a later date than that on which they came.
AHEAD = "files_dated_ahead"


@dataclass(frozen=True)
class DayFacts:
    """A day's counts and profile, as the ledger has them, and its files that are dated ahead, in words."""

    counts: Mapping[str, int] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)
    ahead: str = ""


@dataclass(frozen=True)
class Fact:
    """One figure of a day. ``score`` is what ``minimum`` and ``maximum`` bound: None is not judged.

    ``value`` is the figure that people plot: a mean, a share, a number of rows. ``words`` say what holds
    where the figure is within its bounds, and name it; ``wrong`` what is wrong where it is not.
    """

    name: str
    rule: Rule
    words: str
    wrong: str
    severity: Severity
    score: float | None
    minimum: float | None
    maximum: float | None
    value: float | None
    observed: str
    expected: str

    @property
    def dimension(self) -> Dimension:
        return RULES[self.rule][0]

    @property
    def rule_content(self) -> dict[str, Any]:
        """What a verdict depends on: all but how its failure is worded."""
        return {name: value for name, value in vars(self).items() if name != "wrong"}


def window(product: Product, day: date) -> tuple[date, date]:
    """The first and the last day whose facts :func:`facts` may look at for ``day``, itself included."""
    labels = product.source.label_delay_days + 1
    if not product.delivery.is_daily:
        labels += _DAYS_WITHOUT_DELIVERIES
    back = max(product.validation.history.days, 7 * _WEEKS, labels)
    return day - timedelta(days=back), day


def facts_of_rows(product: Product, day: date, known: Mapping[date, DayFacts]) -> list[Fact]:
    """The anomaly checks of a day of the MRDS: its number of rows. Arguments as for :func:`facts`."""
    return [_rows_of_weekday(product, day, known)]


def facts(product: Product, day: date, known: Mapping[date, DayFacts]) -> list[Fact]:
    """The facts of ``day``, in a fixed order; the same ones for every day of a product, but for files ahead.

    Args:
        known: the days that have rows, by day, and ``day`` itself.
    """
    today = known[day]
    columns = list(_columns(product, day, known))
    if not today.profile.rows:  # that there are none is said; what they would be like can't be
        columns = [replace(fact, score=None) for fact in columns]
    return [
        _rows_of_weekday(product, day, known),
        *_shares(product, today.counts),
        *([] if product.source.label is None else [_labels(product, day, known)]),
        *columns,
        *_ahead(product, today),
    ]


def _rows_of_weekday(product: Product, day: date, known: Mapping[date, DayFacts]) -> Fact:
    limits = product.validation.rows_of_weekday
    before = [day - timedelta(weeks=n) for n in range(1, _WEEKS + 1)]
    # What little may come on a holiday is no measure of a working day.
    past = [known[other].profile.rows for other in before if other in known and product.due(other)]
    past = [rows for rows in past if rows]
    rows = known[day].profile.rows
    weekday = f"{day:%A}s"
    not_due = product.delivery.why_not_due(day)
    score = rows / statistics.median(past) if len(past) >= _WEEKS_NEEDED and not not_due else None
    observed = f"{rows:,} rows"
    expected = not_due or f"at least {_WEEKS_NEEDED} of the last {_WEEKS} {weekday} to compare with"
    if score is not None:
        median = statistics.median(past)
        observed = f"{rows:,} rows, {score:.2f} times the median of the last {weekday}"
        score = 1.0 if abs(rows - median) <= _CHANCE_OF_COUNT * math.sqrt(median) else score
        expected = " to ".join(
            number(round(limit * median)) for limit in (limits.minimum, limits.maximum) if limit is not None
        )
    many = "more" if score is not None and limits.maximum is not None and score > limits.maximum else "fewer"
    return Fact(
        name="rows_of_weekday",
        rule="rows_of_weekday",
        words="rows are as many as on this weekday before",
        wrong=f"rows are {many} than on this weekday before",
        severity=severity_of(product, "rows_of_weekday"),
        score=score,
        minimum=limits.minimum,
        maximum=limits.maximum,
        value=rows,
        observed=observed,
        expected=expected,
    )


def _shares(product: Product, counts: Mapping[str, int]) -> Iterator[Fact]:
    rules = product.validation
    delivered = counts.get("delivered", 0)
    quarantined, superseded = counts.get("quarantined", 0), counts.get("superseded", 0)
    levels: list[tuple[Severity, float]] = [
        ("warning", rules.quarantined_share.warning),
        ("error", rules.quarantined_share.error),
    ]
    override = rules.severity.get("quarantined_share")
    for severity, limit in levels:
        yield _share(
            product,
            f"quarantined_share_{severity}",
            "quarantined_share",
            f"{FEW_UNUSABLE} ({severity} level)",
            f"too many records are unusable ({severity} level)",
            quarantined,
            delivered,
            limit,
            severity=override or severity,
        )
    yield _share(
        product,
        "superseded_share",
        "superseded_share",
        "few records repeat others of the day",
        "too many records repeat others of the day",
        superseded,
        delivered,
        rules.maximum_superseded_share,
        severity=severity_of(product, "superseded_share"),
    )


def _share(
    product: Product,
    name: str,
    rule: Rule,
    words: str,
    wrong: str,
    part: int,
    whole: int,
    limit: float,
    *,
    severity: Severity,
) -> Fact:
    share = part / whole if whole else None
    observed = f"{part:,} of {whole:,} records" + (f" ({share:.2%})" if share is not None else "")
    return Fact(
        name=name,
        rule=rule,
        words=words,
        wrong=wrong,
        severity=severity,
        score=share,
        minimum=None,
        maximum=limit,
        value=share,
        observed=observed,
        expected=f"at most {limit:.2%}",
    )


def _labels(product: Product, day: date, known: Mapping[date, DayFacts]) -> Fact:
    """The labels that must have come when the day's own rows do: those due a whole day earlier."""
    due = _labels_due_with(product, day)
    minimum = product.validation.minimum_labelled_share
    before = known.get(due)
    share, observed = None, f"no rows of {due}"
    if before is not None and before.profile.rows:
        labelled = before.counts.get("labelled", 0)
        share = labelled / before.profile.rows
        observed = f"{labelled:,} of {before.profile.rows:,} rows of {due} ({share:.2%})"
    return Fact(
        name="labelled_share",
        rule="labelled_share",
        words=f"the labels of {(day - due).days} days before have come",
        wrong=f"labels of {(day - due).days} days before are missing",
        severity=severity_of(product, "labelled_share"),
        score=share,
        minimum=minimum,
        maximum=None,
        value=share,
        observed=observed,
        expected=f"at least {minimum:.2%}",
    )


def _ahead(product: Product, today: DayFacts) -> Iterator[Fact]:
    """That a file says a date that hadn't come yet: nothing of it is known before that date."""
    if today.ahead:
        yield Fact(
            name="dated_ahead",
            rule="dated_ahead",
            words="no file is dated ahead of its arrival",
            wrong=f"dated ahead of its arrival, and known from that date on: {today.ahead}",
            severity=severity_of(product, "dated_ahead"),
            score=1.0,
            minimum=None,
            maximum=0.0,
            value=None,
            observed=today.ahead,
            expected="a date at the head of a file's name that isn't after the morning on which it came",
        )


def _labels_due_with(product: Product, day: date) -> date:
    """The newest event day whose labels have come by the morning on which the rows of ``day`` arrive."""
    newest = day - timedelta(days=product.source.label_delay_days + 1)
    if product.delivery.is_daily:
        return newest
    arrival = product.rows_expected_on(day)
    candidates = (newest - timedelta(days=n) for n in range(_DAYS_WITHOUT_DELIVERIES))
    return next(
        (
            other
            for other in candidates
            if product.due(other) and product.labels_expected_on(other) <= arrival
        ),
        newest,
    )


# -- columns against the days before -----------------------------------------------------------------


def _columns(product: Product, day: date, known: Mapping[date, DayFacts]) -> Iterator[Fact]:
    rules = product.validation.history
    past = [
        known[earlier].profile
        for n in range(1, rules.days + 1)
        if (earlier := day - timedelta(days=n)) in known and known[earlier].profile.rows
    ]
    early = not_yet_required(product, day)
    for fact in _of_columns(product, known[day].profile, past):
        column = fact.name.removeprefix(f"{fact.rule} ")
        yield (
            replace(fact, score=None, expected="nothing yet: it has a first day") if column in early else fact
        )


def _of_columns(product: Product, today: Profile, past: list[Profile]) -> Iterator[Fact]:
    for name, now in today.columns.items():
        before = [earlier.columns[name] for earlier in past if name in earlier.columns]
        if name == product.label:  # its nulls are labels that haven't come
            yield _mean(product, name, today, before)
            continue
        yield _nulls(product, name, today, past)
        if now.values is None:
            yield _mean(product, name, today, before)
            yield _spread(product, name, today, before)
            continue
        yield _values(product, name, today, past)
        if now.shares is not None:
            yield _shares_of_values(product, name, today, before)


def _nulls(product: Product, name: str, today: Profile, past: list[Profile]) -> Fact:
    def share(profile: Profile) -> float | None:
        known = profile.rows and name in profile.columns
        return profile.columns[name].nulls / profile.rows if known else None

    now = share(today)
    usual = [value for earlier in past if (value := share(earlier)) is not None]
    middle = statistics.median(usual) if usual else 0.0
    # A share drawn anew every day varies like this, even if it never did in a short history.
    chance = math.sqrt(max(middle, 1 / today.rows) / today.rows) if today.rows else 0.0
    found = _deviation(product, now, usual, floor=max(chance, _SIGMA_OF_NULLS))
    limit = product.validation.history.deviation
    return _history_fact(
        product,
        "nulls_of_history",
        name,
        words=f"{name} is not null more often than before",
        wrong=f"{name} is null more often than before",
        score=found.score,
        minimum=None,
        maximum=limit,
        value=now,
        observed="none" if now is None else f"{now:.2%}",
        usual=f"at most {_percent(found.middle + limit * found.sigma)}",
    )


def _mean(product: Product, name: str, today: Profile, before: list[ColumnProfile]) -> Fact:
    now = today.columns[name]
    means = [earlier.mean for earlier in before if earlier.mean is not None]
    spread = _usual_spread(before)
    present = today.rows - now.nulls
    floor = spread / math.sqrt(present) if present > 0 else 0.0
    limit = product.validation.history.deviation
    found = _deviation(product, now.mean, means, floor=floor)
    return _history_fact(
        product,
        "mean_of_history",
        name,
        words=f"the mean of {name} is as before",
        wrong=f"the mean of {name} is {_moved(product, name, found.score, 'lower', 'higher')}",
        score=found.score,
        minimum=-limit,
        maximum=limit,
        value=now.mean,
        observed=_figure(now.mean),
        usual=found.bounds(limit, number),
    )


def _moved(
    product: Product, name: str, score: float | None, below: str, above: str, masked: str = "other"
) -> str:
    """How a figure compares with the days before; of a sensitive column not in which direction."""
    if name in product.sensitive:
        return f"{masked} than before"
    return f"{above if (score or 0) > 0 else below} than before"


def _usual_spread(before: list[ColumnProfile]) -> float:
    spreads = [earlier.stddev for earlier in before if earlier.stddev is not None]
    return statistics.median(spreads) if spreads else 0.0


def _spread(product: Product, name: str, today: Profile, before: list[ColumnProfile]) -> Fact:
    now = today.columns[name]
    spread = _usual_spread(before)
    known = sum(earlier.stddev is not None for earlier in before)
    # A column without a value varies less than ever; one with only a few may.
    few = 0 < today.rows - now.nulls < _VALUES_FOR_SPREAD
    enough = known >= product.validation.history.minimum_days and spread > 0 and not few
    ratio = (now.stddev or 0.0) / spread if enough else None
    moved = _moved(product, name, None if ratio is None else ratio - 1, "less", "more", "otherwise")
    return _history_fact(
        product,
        "spread_of_history",
        name,
        words=f"{name} varies as before",
        wrong=f"{name} varies {moved}",
        score=ratio,
        minimum=1 / _SPREAD,
        maximum=_SPREAD,
        value=now.stddev,
        observed=f"standard deviation {_figure(now.stddev)}",
        usual=f"{_figure(spread / _SPREAD)} to {_figure(spread * _SPREAD)}" if enough else "",
    )


def _values(product: Product, name: str, today: Profile, past: list[Profile]) -> Fact:
    now = today.columns[name]
    before = [earlier for earlier in past if name in earlier.columns]
    usual = [values for earlier in before if (values := earlier.columns[name].values) is not None]
    middle = statistics.median(usual) if usual else 0.0
    if before:
        # Fewer rows have fewer different values; that the rows are few is said once, of them.
        middle *= min(1.0, today.rows / statistics.median(earlier.rows for earlier in before))
    # What has always been constant can't become constant.
    enough = len(usual) >= product.validation.history.minimum_days and middle > 1
    return _history_fact(
        product,
        "values_of_history",
        name,
        words=f"{name} has as many different values as before",
        wrong=f"{name} has fewer different values than before",
        score=(now.values or 0) / middle if enough else None,
        minimum=_SHARE_OF_VALUES,
        maximum=None,
        value=now.values,
        observed=f"{now.values or 0:,} values",
        usual=f"at least {number(math.ceil(_SHARE_OF_VALUES * middle))}" if enough else "",
        mask=False,
    )


def _shares_of_values(product: Product, name: str, today: Profile, before: list[ColumnProfile]) -> Fact:
    """The allowed value whose share has moved furthest."""
    now = today.columns[name].shares or {}
    present = max(today.rows - today.columns[name].nulls, 1)
    limit = product.validation.history.deviation
    worst: tuple[str, float, _Deviation] | None = None
    for value, share in now.items():
        usual = [earlier.shares[value] for earlier in before if earlier.shares and value in earlier.shares]
        likely = min(max(statistics.median(usual) if usual else 0.0, 1 / present), 0.5)
        found = _deviation(product, share, usual, floor=math.sqrt(likely * (1 - likely) / present))
        if found.score is not None and (worst is None or abs(found.score) > abs(worst[2].score or 0.0)):
            worst = (value, share, found)
    return _history_fact(
        product,
        "shares_of_history",
        name,
        words=f"the shares of the values of {name} are as before",
        wrong=f"the shares of the values of {name} have changed",
        score=worst[2].score if worst else None,
        minimum=-limit,
        maximum=limit,
        value=worst[1] if worst else None,
        observed=f"{worst[0]} {worst[1]:.2%}" if worst else "",
        usual=f"{worst[0]} {worst[2].bounds(limit, _percent)}" if worst else "",
    )


def _history_fact(
    product: Product,
    rule: Rule,
    column: str,
    *,
    words: str,
    wrong: str,
    score: float | None,
    minimum: float | None,
    maximum: float | None,
    value: float | None,
    observed: str,
    usual: str,
    mask: bool = True,
) -> Fact:
    rules = product.validation.history
    masked = mask and rule != "nulls_of_history" and column in product.sensitive
    if score is None:
        expected = f"at least {rules.minimum_days} days with values to compare with"
    else:
        expected = MASK if masked else usual
    return Fact(
        name=f"{rule} {column}",
        rule=rule,
        words=words,
        wrong=wrong,
        severity=severity_of(product, rule),
        score=score,
        minimum=minimum,
        maximum=maximum,
        value=None if masked else value,
        observed=MASK if masked else observed,
        expected=expected,
    )


@dataclass(frozen=True)
class _Deviation:
    """How far a figure lies from the days before: ``score`` in robust standard deviations, with its sign.

    ``score`` is None if there is too little to compare with.
    """

    score: float | None
    middle: float
    sigma: float

    def bounds(self, limit: float, show: Callable[[float], str]) -> str:
        """What is expected, in words."""
        if self.score is None:
            return ""
        return f"{show(self.middle - limit * self.sigma)} to {show(self.middle + limit * self.sigma)}"


def _deviation(product: Product, now: float | None, usual: list[float], *, floor: float) -> _Deviation:
    """The deviation of ``now`` from the median of ``usual``.

    The standard deviation is 1.4826 times the median absolute deviation (Rousseeuw and Croux, 1993), and
    never less than ``floor``.
    """
    if now is None or len(usual) < product.validation.history.minimum_days:
        return _Deviation(None, statistics.median(usual) if usual else 0.0, 0.0)
    middle = statistics.median(usual)
    mad = statistics.median(abs(value - middle) for value in usual)
    sigma = max(_MAD_TO_SIGMA * mad, floor, abs(middle) * 1e-6)
    if sigma > 0:
        return _Deviation((now - middle) / sigma, middle, sigma)
    return _Deviation(0.0 if now == middle else math.copysign(math.inf, now - middle), middle, sigma)


def _percent(share: float) -> str:
    return f"{min(max(share, 0.0), 1.0):.2%}"


def _figure(value: float | None) -> str:
    return "none" if value is None else number(value)
