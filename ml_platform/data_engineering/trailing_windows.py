"""Features over trailing windows, put together from what is kept of each entity and day.

An output is an entity on an event day, with the days as they are known now or were known on some morning.
What a window gives depends on its days alone: sums are exact and rounded once, the first and the last value
are those of the days in their order. So it is the same in whatever ranges, order or shares days are made.

The rows of days are laid out by entity and day, so that a window is a stretch of rows. Entities of which
something was otherwise on the morning that counts get stretches of their own, with the days as of then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.contract.trailing import AHEAD, ROWS, Feature, Window
from ml_platform.data_engineering import aggregation
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.daily_aggregates import HASH_DIGITS, KeptPart, schema
from ml_platform.data_engineering.exact_sums import Stretches, as_doubles
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO, numbered

#: The column of outputs that says as known on which morning; null is now.
MORNING = "_morning"
#: Whether a sum of what was known on an earlier morning was beyond its type, so that nobody could use it.
BEYOND = "_beyond"

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Interval = tuple[date | None, date | None]

_HALF = 1 << 31
_NEVER = date.max.toordinal() + 1


@dataclass(frozen=True)
class UsableDays:
    """Since when, and until when, the days that windows may hold could be used.

    Attributes:
        intervals: by day, the mornings from one on and before another in which it could; None is no bound.
            A day that never could is left out.
        empty_before: of days that nobody expects rows of and that have got some, the morning on which these
            came: before it the day was empty, and could be used as such.
    """

    intervals: Mapping[date, tuple[Interval, ...]] = field(default_factory=dict)
    empty_before: Mapping[date, date] = field(default_factory=dict)

    def on(self, morning: date | None) -> Integers:
        """The ordinals of the days that could be used on a morning, or can be now; ascending."""
        if morning not in self._known:
            usable = [day for day in self._ordered if could_be_used(self.intervals[day], morning)]
            self._known[morning] = np.array([day.toordinal() for day in usable], dtype=np.int64)
        return self._known[morning]

    def counted_on(self, morning: date | None) -> Integers:
        """The same with the days that were empty then."""
        empty = [
            day.toordinal()
            for day, came in self.empty_before.items()
            if morning is not None and morning < came
        ]
        return np.union1d(self.on(morning), np.array(empty, dtype=np.int64))

    def flags(self, morning: date | None, days: Integers) -> Flags:
        """Whether each of some days, as ordinals, could be used on a morning."""
        usable = self.on(morning)
        at = np.searchsorted(usable, days)
        found: Flags = np.append(usable, -1)[at] == days
        return found

    @cached_property
    def _ordered(self) -> list[date]:
        return sorted(self.intervals)

    @cached_property
    def _known(self) -> dict[date | None, Integers]:
        """What was found of mornings that were asked for."""
        return {}


def could_be_used(intervals: Sequence[Interval], morning: date | None) -> bool:
    """Whether a day could be used on a morning, or can be now, between whose mornings these are."""
    if morning is None:
        return bool(intervals) and intervals[-1][1] is None
    return any(
        (start is None or start <= morning) and (end is None or morning < end) for start, end in intervals
    )


def fold(
    product: Product, outputs: pa.Table, kept: pa.Table, versions: pa.Table, usable: UsableDays
) -> pa.Table:
    """The columns of :attr:`.Mrds.trailing`, a row for each output, and :data:`BEYOND`.

    Args:
        outputs: an entity and event day a row, with :data:`MORNING`.
        kept: of these entities what is kept of all days that their windows hold, in
            :func:`.daily_aggregates.schema`; other rows do no harm.
        versions: of the same, all states of what has had more than one.

    Raises:
        TooLargeError: a sum is beyond its type, as things are now.
    """
    features = product.mrds.windowed
    found, usable_days, beyond = _folded(product, features, outputs, kept, versions, usable)
    for window in product.mrds.windows:
        found[window.column] = pa.array(usable_days[window])
    found[BEYOND] = pa.array(beyond)
    names = [*product.mrds.trailing, BEYOND]
    return pa.table([found[name] for name in names], names=names)


def fold_labels(
    product: Product, outputs: pa.Table, kept: pa.Table, versions: pa.Table, usable: UsableDays
) -> Flags:
    """The label of each output from its entity's rows on the days ahead: whether it is 1. Arguments as above.

    What is beyond its type on an earlier morning counts as 0.

    Raises:
        TooLargeError: a sum is beyond its type, as things are now.
    """
    label = product.mrds.label
    if label is None:
        raise ValueError(f"{product.name}: its label doesn't look ahead")
    features = {label.name: label.feature}
    found, _, beyond = _folded(product, features, outputs, kept, versions, usable)
    values = pc.fill_null(found[label.name], 0).to_numpy(zero_copy_only=False)
    match label.rule:
        case "any":
            labels: Flags = values > 0
        case "none":
            labels = values == 0
        case _:
            labels = (values >= (label.at_least or 0)) & ~beyond
    return labels


def _folded(
    product: Product,
    features: Mapping[str, Feature],
    outputs: pa.Table,
    kept: pa.Table,
    versions: pa.Table,
    usable: UsableDays,
) -> tuple[dict[str, pa.Array], dict[Window, Integers], Flags]:
    """Some features of each output; how many days of each of their windows could be used; and what is beyond
    its type.
    """
    beyond = np.zeros(len(outputs), dtype=bool)
    if not features:
        return {}, {}, beyond
    layout = _Layout.of(product, features, outputs, kept, versions, usable)
    windows = dict.fromkeys(feature.window for feature in features.values())
    of_windows = {
        window: _OfWindow(layout.stretches(window), layout.usable_days(window)) for window in windows
    }
    back = np.empty(len(outputs), dtype=np.int64)
    back[layout.order] = np.arange(len(outputs))
    found: dict[str, pa.Array] = {}
    for name, feature in features.items():
        values = _Rule(product, name, feature, layout, of_windows[feature.window], beyond).values()
        type_ = ARROW_TYPES[feature.type_of(product.columns[feature.column].type)]
        found[name] = (values if values.type == type_ else values.cast(type_)).take(pa.array(back))
    return found, {window: of.usable_days[back] for window, of in of_windows.items()}, beyond[back]


# -- the rows of the days, by entity and day ----------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Rows of days in the order of their groups, then of their days, and the outputs beside them.

    A group has the rows of an entity as they are now, or those that one output sees.

    Attributes:
        features: those whose windows hold those of all others together.
        source: what is kept of days, and its states.
        rows: where in ``source`` each row stands.
        place: the group and day of each row as one number, ascending.
        groups, days: those of each output, the day as an ordinal; outputs are in this order.
        mornings: that of each output as an ordinal; :data:`_NEVER` is now.
        order: where each output was at first.
    """

    product: Product
    features: Sequence[Feature]
    source: pa.Table
    rows: Integers
    place: Integers
    groups: Integers
    days: Integers
    mornings: Integers
    order: Integers
    usable: UsableDays

    @classmethod
    def of(
        cls,
        product: Product,
        features: Mapping[str, Feature],
        outputs: pa.Table,
        kept: pa.Table,
        versions: pa.Table,
        usable: UsableDays,
    ) -> _Layout:
        plain = schema(product).names
        source = pa.concat_tables([kept.select(plain), versions.select(plain)]).combine_chunks()
        entities = numbered(
            [pa.chunked_array([*outputs[key].chunks, *source[key].chunks]) for key in product.entity_of_day],
            len(outputs) + len(source),
        )
        of_outputs, of_rows = entities[: len(outputs)], entities[len(outputs) :]
        days, row_days = _ordinals(outputs[EVENT_DAY]), _ordinals(source[EVENT_DAY])
        mornings = _ordinals(outputs[MORNING], without=_NEVER)
        is_now = np.arange(len(source)) < len(kept)
        now = np.flatnonzero(is_now & usable.flags(None, row_days))
        place = _placed(of_rows[now], row_days[now])
        sorted_now = np.argsort(place, kind="stable")
        order = np.argsort(_placed(of_outputs, days), kind="stable")
        layout = cls(
            product,
            _longest(features.values()),
            source,
            now[sorted_now],
            place[sorted_now],
            of_outputs[order],
            days[order],
            mornings[order],
            order,
            usable,
        )
        if (mornings == _NEVER).all():
            return layout
        states = _States(of_rows, row_days, versions, len(kept))
        return layout._as_known(states)

    def _as_known(self, states: _States) -> _Layout:
        """The same with groups of their own for the outputs that see something else than there is now."""
        touched = np.flatnonzero(self._see_other_days() | states.changed_for(self))
        if not len(touched):
            return self
        first_group = int(max(self.groups.max(initial=0), states.entities.max(initial=0))) + 1
        rows, outputs = states.known_to(self, touched)
        day, morning = states.days[rows], self.mornings[touched][outputs]
        could = np.zeros(len(rows), dtype=bool)
        for one_morning in np.unique(morning):
            of_morning = morning == one_morning
            could[of_morning] = self.usable.flags(date.fromordinal(int(one_morning)), day[of_morning])
        rows, outputs, day = rows[could], outputs[could], day[could]
        order = np.lexsort((day, outputs))
        groups = self.groups.copy()
        groups[touched] = first_group + np.arange(len(touched))
        return _Layout(
            self.product,
            self.features,
            self.source,
            np.concatenate([self.rows, rows[order]]),
            np.concatenate([self.place, _placed(first_group + outputs[order], day[order])]),
            groups,
            self.days,
            self.mornings,
            self.order,
            self.usable,
        )

    def _see_other_days(self) -> Flags:
        """Of each output, whether some day of its windows could be used then and can't now, or other way."""
        features, start = self.features, self.product.start
        found = np.zeros(len(self.days), dtype=bool)
        now = set(self.usable.on(None).tolist())
        for morning in np.unique(self.mornings[self.mornings != _NEVER]).tolist():
            others = np.array(sorted(now ^ set(self.usable.on(date.fromordinal(morning)).tolist())))
            of_morning = np.flatnonzero(self.mornings == morning)
            for feature in features if len(others) else ():
                low, high = bounds(feature.window, self.days[of_morning], start)
                found[of_morning] |= np.searchsorted(others, low) < np.searchsorted(
                    others, high, side="right"
                )
        return found

    def stretches(self, window: Window) -> Stretches:
        """The rows in the window of each output."""
        low, high = bounds(window, self.days, self.product.start)
        starts = np.searchsorted(self.place, _placed(self.groups, low))
        ends = np.searchsorted(self.place, _placed(self.groups, high), side="right")
        return Stretches(starts, np.maximum(starts, ends))

    def usable_days(self, window: Window) -> Integers:
        """How many days of the window of each output could be used."""
        low, high = bounds(window, self.days, self.product.start)
        found = np.zeros(len(self.days), dtype=np.int64)
        for morning in np.unique(self.mornings).tolist():
            days = self.usable.counted_on(None if morning == _NEVER else date.fromordinal(morning))
            at = self.mornings == morning
            counts = np.searchsorted(days, high[at], side="right") - np.searchsorted(days, low[at])
            found[at] = np.maximum(counts, 0)
        return found

    def column(self, name: str) -> pa.Array:
        """What is kept of each row in a column."""
        column = self.source[name].combine_chunks()
        return column.take(pa.array(self.rows))

    def integers(self, name: str) -> Integers:
        """The same of whole numbers; 0 where there is none."""
        found: Integers = pc.fill_null(self.column(name), 0).to_numpy(zero_copy_only=False)
        return found.astype(np.int64, copy=False)

    @cached_property
    def row_days(self) -> Integers:
        return self.place % _HALF


def bounds(window: Window, days: Integers, start: date) -> tuple[Integers, Integers]:
    """The first and the last day of the window of each of some days, as ordinals."""
    if window.until == AHEAD:
        return days + 1, days + (window.days or 0)
    last = days if window.until == "today" else days - 1
    first = np.full_like(days, start.toordinal())
    if window.days is not None:
        first = np.maximum(first, last - (window.days - 1))
    return first, last


def _placed(groups: Integers, days: Integers) -> Integers:
    return groups * _HALF + days


def _ordinals(days: pa.ChunkedArray, without: int = 0) -> Integers:
    epoch = date(1970, 1, 1).toordinal()
    numbers = pc.fill_null(days.cast(pa.int32()), without - epoch).to_numpy()
    found: Integers = numbers.astype(np.int64) + epoch
    return found


@dataclass(frozen=True)
class _States:
    """What is kept of days as it was: all rows of the source, and between which mornings each stood.

    Attributes:
        entities, days: of each row of the source.
        versions: the states, which are the last rows of the source.
        first: where these begin.
    """

    entities: Integers
    days: Integers
    versions: pa.Table
    first: int

    @cached_property
    def _changed(self) -> tuple[Integers, Integers]:
        """The places of the entities and days that have had several states, ascending; and the morning since
        which each is as it is now.
        """
        place = _placed(self.entities[self.first :], self.days[self.first :])
        begun, ended = _ordinals(self.versions[KNOWN_FROM]), _ordinals(self.versions[KNOWN_TO], without=0)
        settled = np.maximum(begun, ended)
        found, inverse = np.unique(place, return_inverse=True)
        latest = np.zeros(len(found), dtype=np.int64)
        np.maximum.at(latest, inverse, settled)
        return found, latest

    def changed_for(self, layout: _Layout) -> Flags:
        """Of each output, whether its entity was otherwise on its morning, on a day of its windows."""
        place, settled = self._changed
        found = np.zeros(len(layout.days), dtype=bool)
        if not len(place):
            return found
        for feature in layout.features:
            low, high = bounds(feature.window, layout.days, layout.product.start)
            starts = np.searchsorted(place, _placed(layout.groups, low))
            ends = np.searchsorted(place, _placed(layout.groups, high), side="right")
            rows, outputs = exploded(starts, ends)
            later = settled[rows] > layout.mornings[outputs]
            found[outputs[later]] = True
        is_earlier: Flags = layout.mornings != _NEVER
        return found & is_earlier

    def known_to(self, layout: _Layout, touched: Integers) -> tuple[Integers, Integers]:
        """The rows of the source that some outputs saw, and which of the outputs did.

        Rows of days that couldn't be used are among them.
        """
        place = _placed(self.entities, self.days)
        changed, _ = self._changed
        is_state = np.arange(len(place)) >= self.first
        # What has had several states is among these as it is now, too.
        plain = np.flatnonzero(~is_state & ~np.isin(place, changed))
        chosen = np.concatenate([plain, np.flatnonzero(is_state)])
        chosen = chosen[np.argsort(place[chosen], kind="stable")]
        low, high = _reach(layout, layout.days[touched])
        groups = layout.groups[touched]
        starts = np.searchsorted(place[chosen], _placed(groups, low))
        ends = np.searchsorted(place[chosen], _placed(groups, high), side="right")
        at, outputs = exploded(starts, ends)
        rows = chosen[at]
        morning = layout.mornings[touched][outputs]
        begun = np.zeros(len(place), dtype=np.int64)
        ended = np.full(len(place), _NEVER, dtype=np.int64)
        begun[self.first :] = _ordinals(self.versions[KNOWN_FROM])
        ended[self.first :] = _ordinals(self.versions[KNOWN_TO], without=_NEVER)
        stood = (begun[rows] <= morning) & (morning < ended[rows])
        return rows[stood], outputs[stood]


def _longest(features: Iterable[Feature]) -> list[Feature]:
    """Those of some features whose windows hold those of all others together."""
    chosen: dict[str, Feature] = {}
    for feature in features:
        known = chosen.get(feature.window.until)
        if known is None or _length(feature) > _length(known):
            chosen[feature.window.until] = feature
    return list(chosen.values())


def _length(feature: Feature) -> int:
    return _NEVER if feature.window.days is None else feature.window.days


def _reach(layout: _Layout, days: Integers) -> tuple[Integers, Integers]:
    """The first and the last day that the windows of each of some days hold together."""
    found = [bounds(feature.window, days, layout.product.start) for feature in layout.features]
    return np.minimum.reduce([low for low, _ in found]), np.maximum.reduce([high for _, high in found])


def exploded(starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
    """Each place in some stretches, and which of the stretches it is of."""
    lengths = np.maximum(ends - starts, 0)
    of = np.repeat(np.arange(len(starts)), lengths)
    before = np.cumsum(lengths) - lengths
    return np.arange(len(of)) - before[of] + starts[of], of


# -- the rules ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OfWindow:
    """The rows in a window of each output, and how many days of it could be used."""

    stretches: Stretches
    usable_days: Integers


@dataclass(frozen=True)
class _Rule:
    """A feature of all outputs."""

    product: Product
    name: str
    feature: Feature
    layout: _Layout
    of_window: _OfWindow
    beyond: Flags

    @property
    def stretches(self) -> Stretches:
        return self.of_window.stretches

    def values(self) -> pa.Array:
        rules: Mapping[str, Callable[[], pa.Array]] = {
            "count": self._count,
            "sum": self._sum,
            "mean": self._mean,
            "min": lambda: self._extreme(greatest=False),
            "max": lambda: self._extreme(greatest=True),
            "first": lambda: self._taken(self._first()),
            "last": lambda: self._taken(_newest(self._is_some, self.stretches)),
            "distinct": self._distinct,
            "days_since": self._days_since,
        }
        return rules[self.feature.rule]()

    def _kept(self, part: Any) -> str:
        return KeptPart.of(part, self.feature).name

    @property
    def _is_some(self) -> Flags:
        """Of each row of a day, whether the entity had any row that counts."""
        if self.feature.where is None:
            return np.ones(len(self.layout.rows), dtype=bool)
        return self.layout.integers(self._kept(ROWS)) > 0

    @cached_property
    def _has_rows(self) -> Flags:
        """Of each output, whether there is any row in its window that counts."""
        if self.feature.where is None:
            return self.stretches.ends > self.stretches.starts
        found: Flags = self.stretches.counts(self._is_some.astype(np.int64)) > 0
        return found

    @property
    def _has_days(self) -> Flags:
        """Of each output, whether any day of its window could be used: otherwise nothing is known of it."""
        found: Flags = self.of_window.usable_days > 0
        return found

    @cached_property
    def _counts(self) -> Integers:
        return self.stretches.counts(self.layout.integers(self._kept("count")))

    def _count(self) -> pa.Array:
        return pa.array(self._counts, mask=~self._has_days)

    def _sum(self) -> pa.Array:
        column = self.layout.column(self._kept("sum"))
        sums: Any
        if pa.types.is_floating(column.type):
            sums = self._of_doubles(column)
        else:
            high, low = self.stretches.of_integers(self.layout.integers(self._kept("sum")))
            self._refuse(
                (high < -_HALF) | (high >= _HALF),
                lambda at: (int(high[at]) << aggregation.HALF_BITS) + int(low[at]),
            )
            sums = (high << aggregation.HALF_BITS) + low
        # Without any rows nothing was spent; of rows without a value it isn't known what was.
        return pa.array(sums, mask=(self._has_rows & (self._counts == 0)) | ~self._has_days)

    def _mean(self) -> pa.Array:
        column = self.layout.column(self._kept("sum"))
        if pa.types.is_floating(column.type):
            sums = self._of_doubles(column)
        else:
            sums = as_doubles(*self.stretches.of_integers(self.layout.integers(self._kept("sum"))))
        return pa.array(sums / np.maximum(self._counts, 1), mask=self._counts == 0)

    def _of_doubles(self, column: pa.Array) -> Any:
        sums = self.stretches.of_doubles(pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False))
        self._refuse(~np.isfinite(sums), lambda at: float(sums[at]))
        return sums

    def _refuse(self, beyond: Flags, total: Callable[[int], int | float]) -> None:
        """Raise the error of the first output whose sum its type doesn't hold, if there is any.

        Of those on earlier mornings that is noted.
        """
        is_now = self.layout.mornings == _NEVER
        self.beyond[beyond & ~is_now] = True
        if not (beyond & is_now).any():
            return
        at = int(np.flatnonzero(beyond & is_now)[0])
        layout, product = self.layout, self.product
        stretch = int(self.stretches.starts[at])
        row = int(layout.rows[stretch])
        day = date.fromordinal(int(layout.days[at]))
        entity = [day if key == EVENT_DAY else layout.source[key][row].as_py() for key in product.entity]
        raise aggregation.too_large(product, self.name, entity, total(at))

    def _extreme(self, *, greatest: bool) -> pa.Array:
        column = self.layout.column(self._kept("max" if greatest else "min"))
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        numbers, back = _comparable(column)
        kind = np.finfo if numbers.dtype.kind == "f" else np.iinfo
        worst = kind(numbers.dtype).min if greatest else kind(numbers.dtype).max
        if numbers.dtype.kind == "f":
            worst = -np.inf if greatest else np.inf
        numbers = np.where(valid, numbers, worst)
        found = _extremes(numbers, self.stretches, np.maximum if greatest else np.minimum)
        has_value = self.stretches.counts(valid.astype(np.int64)) > 0
        return back(np.where(has_value, found, 0), ~has_value)

    def _first(self) -> Integers:
        """Where the first row that counts stands, from the begin of each stretch on."""
        is_some = self._is_some
        ahead = np.where(is_some, np.arange(len(is_some)), len(is_some))
        oldest = np.append(np.minimum.accumulate(ahead[::-1])[::-1], len(is_some))
        found: Integers = oldest[self.stretches.starts]
        return found

    def _taken(self, places: Integers) -> pa.Array:
        """The value at a place of each output's stretch; null where there are no rows."""
        column = self.layout.column(self._kept(self.feature.rule))
        return column.take(pa.array(places, mask=~self._has_rows))

    def _distinct(self) -> pa.Array:
        texts = self.layout.column(self._kept("distinct")).cast(pa.large_string())
        lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False) // HASH_DIGITS
        digits = "".join(texts.drop_null().to_pylist())
        hashes = np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)
        place = np.repeat(np.arange(len(lengths)), lengths)
        group = (self.layout.place // _HALF)[place]
        order = np.lexsort((place, hashes, group))
        before = np.full(len(place), -1, dtype=np.int64)
        same = (np.diff(group[order]) == 0) & (np.diff(hashes[order]) == 0)
        before[order[1:][same]] = place[order[:-1][same]]
        counts = _newly_held(place, before, self.stretches)
        return pa.array(np.minimum(counts, self.feature.most_distinct), mask=~self._has_days)

    def _days_since(self) -> pa.Array:
        has_value = self.layout.integers(self._kept("count")) > 0
        at = _newest(has_value, self.stretches)
        is_there = (self.stretches.ends > self.stretches.starts) & (at >= self.stretches.starts)
        days = self.layout.days - np.append(self.layout.row_days, 0)[at]
        return pa.array(days, mask=~is_there)


def _newest(is_some: Flags, stretches: Stretches) -> Integers:
    """Where the last of some rows stands, up to the end of each stretch; -1 if there is none before it."""
    newest = np.maximum.accumulate(np.where(is_some, np.arange(len(is_some)), -1))
    found: Integers = np.append(newest, -1)[stretches.ends - 1]
    return found


def _newly_held(place: Integers, before: Integers, stretches: Stretches) -> Integers:
    """How many of some marks lie in each stretch whose like before it doesn't.

    In the order of their ends the stretches begin in order as well, so those that hold a mark and not the one
    before it follow one another.

    Args:
        place: of each mark.
        before: where the newest like it stands before it; -1 without any.
    """
    order = np.lexsort((stretches.starts, stretches.ends))
    starts, ends = stretches.starts[order], stretches.ends[order]
    first = np.maximum(
        np.searchsorted(ends, place, side="right"),
        np.searchsorted(starts, before, side="right") * (before >= 0),
    )
    last = np.searchsorted(starts, place, side="right")
    begin = first < last
    counts = np.bincount(first[begin], minlength=len(starts) + 1) - np.bincount(
        last[begin], minlength=len(starts) + 1
    )
    found = np.empty(len(starts), dtype=np.int64)
    found[order] = np.cumsum(counts)[:-1]
    return found


def _comparable(column: pa.Array) -> tuple[Any, Callable[[Any, Flags], pa.Array]]:
    """Numbers in the order of some values, and what makes values of numbers again."""
    type_ = column.type
    if pa.types.is_string(type_):
        words = pc.unique(column.drop_null())
        words = words.take(pc.sort_indices(words))
        codes = pc.fill_null(pc.index_in(column, value_set=words), 0)

        def words_of(found: Any, missing: Flags) -> pa.Array:
            return words.take(pa.array(found, mask=missing))

        return codes.to_numpy(zero_copy_only=False).astype(np.int64), words_of
    if pa.types.is_floating(type_):
        # There is one zero.
        numbers = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) + 0.0
        return numbers, lambda found, missing: pa.array(found, type_, mask=missing)
    width = pa.int32() if type_.bit_width == 32 else pa.int64()
    plain = column.cast(pa.int8() if pa.types.is_boolean(type_) else width)
    numbers = pc.fill_null(plain, 0).to_numpy(zero_copy_only=False).astype(np.int64)

    def values_of(found: Any, missing: Flags) -> pa.Array:
        return pa.array(found, pa.int64(), mask=missing).cast(plain.type).cast(type_)

    return numbers, values_of


def _extremes(numbers: Any, stretches: Stretches, better: Any) -> Any:
    """The best number of each stretch that has any, from those of the powers of two that cover it."""
    lengths = stretches.ends - stretches.starts
    found = np.zeros(len(lengths), dtype=numbers.dtype)
    power, best = 0, numbers
    level = np.where(lengths > 0, np.frexp(np.maximum(lengths, 1).astype(np.float64))[1] - 1, -1)
    for wanted in range(int(level.max(initial=-1)) + 1):
        while power < wanted:
            step = 1 << power
            best = better(best[:-step], best[step:])
            power += 1
        chosen = np.flatnonzero(level == wanted)
        if len(chosen):
            span = 1 << wanted
            found[chosen] = better(best[stretches.starts[chosen]], best[stretches.ends[chosen] - span])
    return found
