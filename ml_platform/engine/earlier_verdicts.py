"""Whether a day could be used on the mornings before its rows became what they are.

A verdict is given once for each content. That of an earlier morning was given then, if the platform ran then:
it stands. Otherwise the rows are judged as they were known, by the rules of now, against the days before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

from ml_platform.contract.assets import ARDS, MRDS
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import aggregation
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.resolution import Account
from ml_platform.data_engineering.row_versions import DayHistory, Morning, Timeline
from ml_platform.data_engineering.rows_as_known import EntitiesAsKnown, RowsAsKnown
from ml_platform.data_engineering.trailing_windows import UsableDays
from ml_platform.data_engineering.windowed_days import KeptDays
from ml_platform.data_engineering.windows_as_known import WholeEntitiesAsKnown
from ml_platform.engine.context import StepContext
from ml_platform.engine.verdicts import READABLE, UNREADABLE, Content, Verdict, has_same_rows
from ml_platform.mlops.quality import expectations, profiles, validation
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.results import Quality, Result
from ml_platform.storage.fingerprints import EMPTY
from ml_platform.storage.ledger import HISTORY, DayRecord
from ml_platform.storage.rejections import REJECTED, Rejection

Given = bool | date
"""A verdict on a content: whether its day could be used, or since when a person has accepted it."""


@dataclass(frozen=True)
class Corrected:
    """A day whose rows have changed since its first morning, as it was delivered and counted."""

    history: DayHistory
    delivery: Delivery
    of_files: Mapping[int, Account]

    def counts(self, place: int) -> dict[str, int]:
        """What had been delivered by one of the earlier mornings, as far as rows are concerned."""
        counted, account = self.history.earlier[place], self._account(place)
        unusable = account.quarantined + self._account(place, in_force=True).replaced_bad
        return {
            "delivered": account.delivered,
            "rows": counted.rows,
            "superseded": max(account.delivered - counted.rows - unusable, 0),
            "labels_applied": 0,
            "labels_not_yet": 0,
            "quarantined": unusable,
            "labelled": counted.labelled,
        }

    @cached_property
    def judged(self) -> list[str]:
        """What is judged of each earlier morning: its rows, and the records of then that were none."""
        return [
            fingerprint_of(
                [counted.fingerprint, self.counts(place)["quarantined"], self.could_be_read(place)]
            )
            for place, counted in enumerate(self.history.earlier)
        ]

    def could_be_read(self, place: int) -> bool:
        """Whether all files could be read that counted on one of the earlier mornings."""
        return not self._account(place, in_force=True).replaced_unreadable

    def _account(self, place: int, *, in_force: bool = False) -> Account:
        """That of the files with rows of a morning, or of those that had not been replaced by then."""
        morning = self.history.mornings[place].day
        first = Timeline.of(self.delivery.files).begins_with(morning) if in_force else 0
        chosen = [
            file.number
            for file in self.delivery.files
            if not file.labels_only and file.rows_known_on <= morning and file.number >= first
        ]
        return sum((self.of_files.get(number, Account()) for number in chosen), Account())


def histories(context: StepContext, days: Mapping[date, Corrected]) -> dict[date, dict[str, Any]]:
    """What the ledger keeps of corrected days, as plain data; of the last morning the outcome says more."""
    known = context.ledger.latest(ARDS, set(days))
    given: dict[date, dict[str, Given]] = {day: _given(known.get(day)) for day in days}
    longest = max((len(day.history.earlier) for day in days.values()), default=0)
    for place in range(longest):
        contents: dict[date, Content] = {}
        for day, corrected in days.items():
            if place >= len(corrected.history.earlier):
                continue
            judged = corrected.judged[place]
            content = _content(context, corrected, place)
            if not corrected.could_be_read(place):
                given[day][judged] = False
            elif judged not in given[day]:
                if (verdict := _verdict_of(known.get(day), content, context.product)) is None:
                    contents[day] = content
                else:
                    given[day][judged] = verdict
        mornings = {day: days[day].history.mornings[place].day for day in contents}
        for day, is_usable in _judged(context, contents, mornings).items():
            given[day][days[day].judged[place]] = is_usable
    return {day: _plain(corrected, given[day]) for day, corrected in days.items()}


def with_rejections(
    history: Mapping[str, Any] | None,
    first: date,
    rejections: Sequence[Rejection],
    in_force: Rejection | None,
) -> dict[str, Any] | None:
    """What the ledger keeps of a day some of whose contents people have rejected, as plain data.

    Each rejection is a morning on which the day can't be used, and from which on it is read as repaired.

    Args:
        history: what it keeps of the day's rows; None if they have never changed.
        first: the morning on which rows of the day first came.
        rejections: all of the day.
        in_force: the one of them that is of the rows which the day has now.

    Returns:
        None if only one morning counts.
    """
    found: dict[str, Any] = dict(history or {"versions": 0, "fingerprint": EMPTY})
    mornings = [list(known) for known in found.get("mornings") or [[first.isoformat(), False, True, None]]]
    last = date.fromisoformat(mornings[-1][0])
    days = {rejection.on for rejection in rejections if rejection.on < last}
    days |= {in_force.on} if in_force is not None else set()
    came = {date.fromisoformat(known[0]) for known in mornings}
    for known in mornings:
        on = date.fromisoformat(known[0])
        # Other rows that came on the very morning of a rejection are those that repair the day.
        known[1] = known[1] or any(rejection.on == on for rejection in rejections)
        known[2] = known[2] and on not in days
    # On a morning before any rows nobody could use the day anyway.
    mornings += [[on.isoformat(), True, False, None] for on in sorted(days - came) if on > min(came)]
    if len(mornings) == 1:
        return None
    return found | {"mornings": sorted(mornings), "rejected_on": [on.isoformat() for on in sorted(days)]}


def with_gaps(history: Mapping[str, Any], gaps: Sequence[tuple[date, date]]) -> dict[str, Any]:
    """What the ledger keeps of a day that couldn't be read for a while, as plain data.

    Args:
        gaps: each from one morning on and before another.
    """
    mornings = [list(known) for known in history["mornings"]]
    came = [date.fromisoformat(known[0]) for known in mornings]
    for since, until in gaps:
        for known, morning in zip(mornings, came, strict=True):
            known[2] = known[2] and not since <= morning < until
    added = {since for since, until in gaps if since > min(came)} - set(came)
    mornings += [[since.isoformat(), False, False, None] for since in added]
    return {**history, "mornings": sorted(mornings, key=lambda known: known[0])}


def with_end(
    history: Mapping[str, Any] | None, first: date, end: date, usable_since: date | None
) -> dict[str, Any]:
    """What the ledger keeps of a day whose newest files can't be read, as plain data.

    Args:
        history: what it keeps of the rows that came before; None if they have never changed.
        first: the morning on which rows of the day first came.
        end: the morning from which on the day can't be used.
        usable_since: the morning since which its last readable rows could be used; None if never.
    """
    found: dict[str, Any] = dict(history or {"versions": 0, "fingerprint": EMPTY})
    mornings = [list(known) for known in found.get("mornings") or [[first.isoformat(), False, True, None]]]
    rejected = {*found.get("rejected_on", ())}
    last = max(known[0] for known in mornings if known[0] not in rejected)
    if not rejected:  # else what a person rejected could be used until then
        came = date.fromisoformat(last)
        for known in mornings:
            if known[0] == last:
                known[2] = usable_since is not None and usable_since <= came
        if usable_since is not None and came < usable_since < end:
            mornings.append([usable_since.isoformat(), False, True, None])
    ended = [known if known[0] < end.isoformat() else [*known[:2], False, known[3]] for known in mornings]
    if all(known[0] != end.isoformat() for known in ended):
        ended.append([end.isoformat(), False, False, None])
    return found | {"mornings": sorted(ended, key=lambda known: known[0])}


def mornings_of(record: DayRecord) -> list[Morning] | None:
    """The mornings on which rows of a day came, and whether it was usable then.

    Args:
        record: of a day of the ARDS, with its details.

    Returns:
        None if only one morning counts, or the day was usable on none of them.
    """
    history = record.details.get(HISTORY)
    if history is None:
        return None
    mornings = [
        Morning(date.fromisoformat(day), replaces, is_usable)
        for day, replaces, is_usable, _ in history["mornings"]
    ]
    mornings[-1] = replace(mornings[-1], is_usable=record.usable)
    return mornings if any(morning.is_usable for morning in mornings) else None


def _plain(corrected: Corrected, given: Mapping[str, Given]) -> dict[str, Any]:
    history = corrected.history
    judged: list[str | None] = [*corrected.judged, None]
    ends = [morning.day for morning in history.mornings[1:]]
    mornings: list[list[Any]] = []
    for morning, content, end in zip(history.mornings, judged, [*ends, date.max], strict=True):
        verdict: Given = True if content is None else given[content]
        since = verdict if isinstance(verdict, date) else morning.day if verdict else date.max
        mornings.append([morning.day.isoformat(), morning.replaces, since <= morning.day, content])
        if morning.day < since < end:
            mornings.append([since.isoformat(), False, True, content])
    return {"versions": history.versions, "fingerprint": history.fingerprint, "mornings": mornings}


def _given(record: DayRecord | None) -> dict[str, Given]:
    """The verdicts that a day's earlier contents have been given, by :attr:`Corrected.judged`."""
    found: dict[str, Given] = {}
    mornings = record.details.get(HISTORY, {}).get("mornings", ()) if record is not None else ()
    for morning, _, is_usable, content in mornings:
        if content is None or isinstance(found.get(content), date):
            continue
        accepted = is_usable and found.get(content) is False
        found[content] = date.fromisoformat(morning) if accepted else is_usable
    return found


def _verdict_of(record: DayRecord | None, content: Content, product: Product) -> Given | None:
    """The verdict that a day was given last, if it had the same rows then, whatever their labels."""
    if record is None or record.outcome not in ("written", "empty", "blocked"):
        return None
    if not has_same_rows(product, record, content):
        return None
    if record.usable and record.barred_to is not None:
        return record.barred_to
    if UNREADABLE in record.details.get("metadata", {}):
        # It was judged before the delivery came that can't be read.
        if REJECTED in record.details:
            return True
        kept = record.details.get(READABLE) or {}
        since = (kept.get("barred") or [None, None])[1] if kept.get("accepted") else None
        return date.fromisoformat(since) if since else bool(kept.get("is_usable"))
    # What a person has rejected since could be used until then.
    return record.usable or REJECTED in record.details


def _judged(
    context: StepContext, contents: Mapping[date, Content], mornings: Mapping[date, date]
) -> dict[date, bool]:
    """Whether each day was usable with an earlier content of it, by the rules of now."""
    if not contents:
        return {}
    judged = _EarlierVerdict(context, mornings).of_contents(contents)
    return {day: written.outcome in ("written", "empty") for day, written in judged.items()}


def _content(context: StepContext, corrected: Corrected, place: int) -> Content:
    counted = corrected.history.earlier[place]
    return Content(
        counts=corrected.counts(place),
        profile=profiles.profile(context.product, "ards", counted.rows, counted.statistics),
        fingerprint=counted.fingerprint,
        delta_version=None,
    )


class _EarlierVerdict(Verdict):
    """The verdicts on days as they were known on earlier mornings."""

    def __init__(self, context: StepContext, mornings: Mapping[date, date]) -> None:
        super().__init__(context, ARDS)
        self.mornings = mornings

    def _rejections(self, days: Sequence[date]) -> Mapping[date, Sequence[Rejection]]:
        return {}  # each counts since a morning of its own

    def _validate(
        self, days: Sequence[date], held: Mapping[date, Any], contents: Mapping[date, Content]
    ) -> dict[date, list[Result]]:
        context, product = self.context, self.context.product
        suites: dict[date, list[Expectation]] = {day: held[day].suite for day in days}
        types = context.tables.column_types(product.name, ARDS)
        own = set(product.data_set_columns("ards"))
        rows = RowsAsKnown(product, context.tables, {day: self.mornings[day] for day in days})
        reader = rows.reader()
        return validation.validate(
            product,
            "ards",
            lambda: rows.frame(context.spark),
            {name: type_ for name, type_ in types.items() if name in own},
            suites,
            {day: contents[day].rows for day in days},
            maximum_rows=context.settings.validation_rows_in_memory,
            session=context.open_spark,
            files=(reader, -1) if reader is not None else None,
        )


def judges_windows(product: Product) -> bool:
    """Whether a rule blocks days for what is of trailing windows in the MRDS, or made of other columns."""
    return _judges_windows(product, expectations.suite(product, "mrds"))


def usable_in_mrds(
    context: StepContext,
    histories: Mapping[date, Sequence[Morning]],
    usable: UsableDays | None = None,
    accepted: Mapping[date, Mapping[date, date]] | None = None,
) -> dict[date, list[Morning]]:
    """The mornings of corrected days, with those unusable on which rows of the MRDS broke its rules.

    What rows break is looked for, not what a day's figures say beside other days'. It is looked for where a
    task can hold the day and read its files; of other days the mornings come back as they are.

    Args:
        usable: which days windows may hold, where the contract has features over any.
        accepted: by day, the mornings whose rows a person has accepted although they broke rules, each with
            the date since when.
    """
    product, tables, accepted = context.product, context.tables, accepted or {}
    found = {day: list(mornings) for day, mornings in histories.items()}
    suites = {day: expectations.suite(product, "mrds", day=day) for day in histories}
    # What is of windows is put together only for rules about it.
    is_whole = any(_judges_windows(product, suite) for suite in suites.values())
    schema = aggregation.schema(product, with_ahead=False) if is_whole else aggregation.own_schema(product)
    if not is_whole:
        suites = {day: _of_own_columns(product, suite) for day, suite in suites.items()}
    else:
        ahead = {*product.mrds.ahead}
        suites = {
            day: [rule for rule in suite if not rule.of_schema and ahead.isdisjoint(rule.columns)]
            for day, suite in suites.items()
        }
    types = {name: _type_of(product, name) for name in schema.names}
    kept = KeptDays.of(product, tables) if is_whole and product.mrds.over_days else None
    longest = max((len(mornings) for mornings in histories.values()), default=1)
    for place in range(longest - 1):
        asked = {
            day: mornings[place].day
            for day, mornings in found.items()
            if place < len(mornings) - 1
            and mornings[place].is_usable
            and mornings[place].day not in accepted.get(day, {})
        }
        entities = EntitiesAsKnown.of(RowsAsKnown(product, tables, asked)) if asked else None
        if entities is None:
            continue
        sizes = entities.sizes()
        if not sizes:
            continue
        whole = WholeEntitiesAsKnown(entities, kept, usable or UsableDays())
        results = validation.validate(
            product,
            "mrds",
            lambda: context.tables.without_rows(context.spark, product.name, MRDS),
            types,
            {day: suites[day] for day, size in sizes.items() if size is not None},
            {day: size for day, size in sizes.items() if size is not None},
            maximum_rows=max((size or 0 for size in sizes.values()), default=0),
            session=context.open_spark,
            files=(whole if is_whole else entities, -1),
        )
        broken = {day for day, of_day in results.items() if not Quality(tuple(of_day)).passed}
        for day in broken | {day for day, size in sizes.items() if size is None}:
            found[day][place] = replace(found[day][place], is_usable=False)
    return {day: _with_acceptances(mornings, accepted.get(day, {})) for day, mornings in found.items()}


def _with_acceptances(mornings: Sequence[Morning], accepted: Mapping[date, date]) -> list[Morning]:
    """Mornings with the dates since when rows could be used that a person has accepted, and not before."""
    found: list[Morning] = []
    ends = [*(morning.day for morning in mornings[1:]), date.max]
    for morning, end in zip(mornings, ends, strict=True):
        since = accepted.get(morning.day, morning.day)
        if not morning.is_usable or since <= morning.day:
            found.append(morning)
            continue
        found.append(replace(morning, is_usable=False))
        if since < end:
            found.append(Morning(since))
    return found


def _of_windows(product: Product) -> frozenset[str]:
    """The columns of the MRDS that aren't of a day's own rows alone, or are made of others."""
    return frozenset({*product.mrds.trailing, *product.mrds.made, *product.mrds.ahead})


def _judges_windows(product: Product, suite: Sequence[Expectation]) -> bool:
    columns = _of_windows(product) - {*product.mrds.ahead}
    return any(
        rule.severity == "error" and not rule.of_schema and not columns.isdisjoint(rule.columns)
        for rule in suite
    )


def _of_own_columns(product: Product, suite: Sequence[Expectation]) -> list[Expectation]:
    """The expectations of a day's own rows, which know nothing of trailing windows."""
    columns = _of_windows(product)
    if not columns:
        return list(suite)
    return [rule for rule in suite if not rule.of_schema and columns.isdisjoint(rule.columns)]


def _type_of(product: Product, name: str) -> str:
    """The type of a column of the MRDS, as a contract names it."""
    return "date" if name in (EVENT_DAY, LABEL_KNOWN_ON) else product.mrds_type(name)
