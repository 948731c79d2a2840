"""The step ``mrds``: the ARDS to one row per entity and day."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from ml_platform.contract.assets import DAILY_AGGREGATES, MRDS_SERVED
from ml_platform.contract.days import DayRange, in_a_sentence
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.contract.trailing import days_reached
from ml_platform.data_engineering import landing, mrds, unity_catalog
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.object_store import landing_of
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.trailing_windows import UsableDays
from ml_platform.engine import presence
from ml_platform.engine.earlier_verdicts import judges_windows, mornings_of, usable_in_mrds
from ml_platform.engine.inputs import from_same_day
from ml_platform.engine.run_partitions import Done, Step, is_up_to_date
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.steps.daily_aggregates import DailyAggregates
from ml_platform.engine.usable_days import (
    Arrived,
    Windows,
    first_morning,
    own_mornings,
    that_count,
    usable_days,
    window_days,
    windows_of,
)
from ml_platform.engine.verdicts import ACCEPTED_ON, NEWEST, Content, Verdict
from ml_platform.mlops.quality import profiles
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import HISTORY, WITHOUT_ROWS, DayRecord, Ledger

_DAY = timedelta(days=1)
FEATURES_FINGERPRINT = "features_fingerprint"
#: What a day is made from on which the contract has nobody scored: of its delivery nothing.
UNSCORED = "unscored"


class Mrds(Step):
    """ARDS to one row per entity and day."""

    asset = mrds.MRDS

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        lost = presence.lost_rows(self.context, mrds.MRDS, records)
        return presence.lost_states(self.context, MRDS_SERVED, records) | lost

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        versions = ContractVersions(self.context.tables, self.context.product).ards_like_now()

        def earlier(record: DayRecord) -> _Earlier | None:
            return _Earlier.of(record) if record.contract in versions else None

        found = from_same_day(self.context, ARDS, days, contracts=versions, found=earlier)
        if not self.context.product.mrds.over_days:
            return found
        doable = [day for day, inputs in found.items() if inputs.found is not None]
        kept = self.context.ledger.latest(DAILY_AGGREGATES, set(self._reached(doable) or ()))
        for day, windows in self._windows(doable, kept).items():
            found[day] = _with_windows(found[day], windows)
            if day not in kept:
                continue
            if kept[day].failed:
                # It is the day's own failure, and told of as such.
                found[day] = Inputs(found[day].fingerprint, "refused", kept[day].reason, failed=True)
            elif found[day].outcome is None and kept[day].outcome == "refused":
                # A sum beyond its type: windows of other days leave the day out.
                found[day] = Inputs(found[day].fingerprint, "refused", kept[day].reason)
        unscored = self._unscored(days)
        return found | {day: inputs for day, inputs in unscored.items() if not found[day].failed}

    def _unscored(self, days: Sequence[date]) -> dict[date, Inputs]:
        """The days that the ARDS has been made of, and on which the contract has nobody scored."""
        reasons = {day: self.context.product.why_not_scored(day) for day in days}
        asked = {day for day, reason in reasons.items() if reason}
        made = self.context.ledger.latest(ARDS, asked, details=False) if asked else {}
        return {
            day: Inputs(UNSCORED, "not_due", reasons[day] or "", gone=True)
            for day, record in made.items()
            if record.outcome not in WITHOUT_ROWS
        }

    def first(self, days: Sequence[date]) -> Sequence[tuple[Step, Sequence[date]]]:
        reached = self._reached(days)
        if reached is None:
            return ()
        made = self.context.ledger.latest(ARDS, set(reached), details=False)
        return [(DailyAggregates(self.context), sorted(made))]

    def after(self, days: Sequence[date]) -> Sequence[tuple[Step, Sequence[date]]]:
        """The earlier days whose label, which looks ahead, is known now that these have come."""
        product = self.context.product
        label = product.mrds.label
        if label is None or not days:
            return ()
        last = max(days) - timedelta(days=label.within_days)
        made = self.context.ledger.latest(self.asset, details=False)
        others = [
            day
            for day in self.outdated()
            if day <= last and day not in days and _waits_for_label(product, made[day])
        ]
        return [(self, others)] if others else ()

    def outdated(self) -> dict[date, str]:
        """The days that were made when days of their windows were otherwise; ascending. Needs no Spark.

        Returns:
            By day a hash of what it was made from and would be now: while it stays, so does all of that.
        """
        product, ledger = self.context.product, self.context.ledger
        if not product.mrds.over_days:
            return {}
        made = ledger.latest(self.asset, details=False)
        before = [
            *ledger.latest(ARDS, details=False).values(),
            *ledger.latest(DAILY_AGGREGATES, details=False).values(),
        ]
        recorded: dict[date, tuple[int, int]] = {}
        for record in before:
            recorded[record.day] = max(record.order, recorded.get(record.day, record.order))
        ordered = sorted(recorded)
        orders = [recorded[day] for day in ordered]
        newest = [*itertools.accumulate(reversed(orders), max)][::-1]
        asked = set()
        for day, record in made.items():
            # Only a day that something in its windows has been recorded after can be, or after itself.
            reached = days_reached(product.mrds.looks, day, product.start)
            # Days of another contract or version are for backfills.
            is_of_now = (record.contract, record.code_version) == (self.contract, self.code_version)
            if reached is None or not is_of_now:
                continue
            last = max(day, reached.last)
            inside = orders[bisect_left(ordered, reached.first) : bisect_right(ordered, last)]
            if inside and max(inside) > record.order:
                asked.add(day)
            # A label may be given for nothing but that a newer day has come.
            later = bisect_left(ordered, last)
            if _waits_for_label(product, record) and newest[later:] and newest[later] > record.order:
                asked.add(day)
        if not asked:
            return {}
        known = ledger.latest(self.asset, asked)
        inputs = self.plan(sorted(asked))
        return {
            day: fingerprint_of([record.outcome, record.inputs, inputs[day].fingerprint])
            for day, record in known.items()
            if day in inputs and inputs[day].outcome is None and not is_up_to_date(self, record, inputs[day])
        }

    def failed_for_windows(self) -> dict[date, str]:
        """The days of which what is kept for windows has failed, which holds others back; as those above."""
        ledger = self.context.ledger
        if not self.context.product.mrds.over_days:
            return {}
        kept = ledger.latest(DAILY_AGGREGATES, details=False)
        refused = [day for day, record in kept.items() if record.outcome == "refused"]
        failed = [day for day, record in ledger.latest(DAILY_AGGREGATES, refused).items() if record.failed]
        if not failed:
            return {}
        step = DailyAggregates(self.context)
        tried = [step.contract, step.code_version]
        return {
            day: fingerprint_of([*tried, inputs.fingerprint])
            for day, inputs in step.plan(failed).items()
            if inputs.outcome is None
        }

    def summary(self, days: Sequence[date], done: Done) -> dict[str, Any]:
        found = super().summary(days, done)
        others = [day for day in self.outdated() if day not in days] if done.written else []
        if others:
            name = self.context.product.name
            found["days_whose_windows_have_changed"] = (
                f"{in_a_sentence('day', others)}; the landing sensor has them made again, as does "
                f"ml-platform backfill {name} --from {others[0]} --to {others[-1]}"
            )
        return found

    def _reached(self, days: Sequence[date]) -> DayRange | None:
        """The days that the windows of some days may hold, and those days themselves."""
        product = self.context.product
        if not product.mrds.over_days or not days:
            return None
        first, last = min(days), max(days)
        reached = days_reached(product.mrds.looks, first, product.start, until=last)
        if reached is None:
            return DayRange(first, last)
        return DayRange(min(first, reached.first), max(last, reached.last))

    def _windows(self, days: Sequence[date], kept: Mapping[date, DayRecord]) -> dict[date, Windows]:
        """What the windows of each of some days may hold.

        Args:
            kept: what the ledger says of what is kept of these days, and of those that windows may hold.
        """
        context, reached = self.context, self._reached(days)
        if reached is None:
            return {}
        product, ledger = context.product, context.ledger
        made = ledger.latest(ARDS, set(reached))
        folder = landing_of(context.settings, product)
        delivered = landing.delivered_days(product, folder)
        unmade = [day for day in delivered if day in reached and day not in made]
        # A folder may be empty, or its files not be whole yet.
        looks = landing.looks(product, folder, unmade) if unmade else {}
        lacking = {
            day: "" for day, look in looks.items() if look.stamp is not None and not look.is_unfinished
        }
        for day, record in made.items():
            if record.failed:
                lacking[day] = record.reason
            elif record.outcome not in presence.WITH_ROWS:
                continue
            elif day not in kept or kept[day].outcome == "held_back":
                lacking[day] = ""  # what is kept of it is of another contract
            elif kept[day].failed:
                lacking[day] = kept[day].reason  # one that is refused otherwise is left out
        known = window_days(product, reached, made, kept)
        return windows_of(product, days, known, lacking, _arrivals(ledger))

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        accepted = _accepted(self.context.ledger.latest(self.asset, set(work)))
        earlier: dict[date, _Earlier] = {
            day: replace(inputs.found, accepted=accepted.get(day, {})) for day, inputs in work.items()
        }
        written = Verdict(self.context, self.asset).of_contents(self._contents(earlier))
        # What is blocked was usable before if anything was served of it, which is seen below.
        written = {
            day: result
            if result.accepted or result.outcome == "blocked"
            else replace(result, barred=earlier[day].barred)
            for day, result in written.items()
        }
        written = {
            day: replace(result, details=result.details | earlier[day].remembered)
            for day, result in written.items()
        }
        blocked = {day: earlier[day] for day, result in written.items() if result.outcome == "blocked"}
        return written | self._as_before(blocked, written)

    def _as_before(
        self, blocked: Mapping[date, _Earlier], written: Mapping[date, Written]
    ) -> dict[date, Written]:
        """Of days whose last rows break rules of the MRDS what was served stays, to be learned from."""
        chosen = {
            day: replace(earlier, mornings=_ending(earlier.mornings))
            for day, earlier in blocked.items()
            if earlier.mornings
        }
        made = self._write(chosen, withheld=chosen) if chosen else {}
        return {
            day: replace(
                written[day],
                details={**written[day].details, HISTORY: _served(made[day])},
                barred=((earlier.mornings or [])[-1].day, None),
            )
            for day, earlier in chosen.items()
            if not made[day].refusal and made[day].served.rows
        }

    def hold_back(self, days: Mapping[date, Inputs]) -> dict[date, Written]:
        """Of days that a later delivery has blocked, what was served before stays to be learned from."""
        accepted = _accepted(self.context.ledger.latest(self.asset, set(days)))
        found: dict[date, _Earlier] = {
            day: replace(inputs.found, accepted=accepted.get(day, {}))
            for day, inputs in days.items()
            if inputs.found
        }
        remembered = {
            day: Written("held_back", days[day].reason, details=earlier.remembered)
            for day, earlier in found.items()
            if earlier.accepted
        }
        chosen = {day: earlier for day, earlier in found.items() if earlier.mornings}
        if not chosen:
            return remembered
        made = self._write(chosen, withheld=chosen)
        return remembered | {
            day: Written(
                "held_back",
                days[day].reason,
                counts={"rows": made[day].served.rows},
                details={HISTORY: _served(made[day])} | (earlier.remembered if earlier.accepted else {}),
                barred=((earlier.mornings or [])[-1].day, None),
            )
            for day, earlier in chosen.items()
            if not made[day].refusal and made[day].served.rows
        }

    def _contents(self, days: Mapping[date, _Earlier]) -> dict[date, Content | Written]:
        """Write these days in one commit; a day that can't be aggregated comes back as its outcome."""
        product = self.context.product
        return {
            day: Written("refused", made.refusal)
            if made.refusal
            else Content(
                counts=made.counts,
                profile=profiles.profile(product, "mrds", made.counted.rows, made.counted.statistics),
                fingerprint=_fingerprint(made),
                delta_version=made.delta_version,
                metadata={FEATURES_FINGERPRINT: made.counted.features_fingerprint},
                history=_served(made),
            )
            for day, made in self._write(days).items()
        }

    def _write(
        self, days: Mapping[date, _Earlier], *, withheld: Collection[date] = ()
    ) -> dict[date, mrds.MrdsDay]:
        context = self.context
        product = context.product
        unity_catalog.declare(context.open_spark, product, context.tables, "mrds")
        windows = {day: earlier.windows for day, earlier in days.items() if earlier.windows is not None}
        usable = usable_days(windows.values()) if product.mrds.over_days else None
        histories = self._histories(days, windows, usable)
        for day, of_day in windows.items():
            mornings = of_day.mornings(histories.get(day, days[day].own), day)
            if mornings is not None:
                histories[day] = mornings
        return mrds.write(
            context.open_spark,
            product,
            context.tables,
            list(days),
            run_id=context.request.run_id,
            statistics=profiles.ProfileStatistics(product, "mrds"),
            histories=histories,
            withheld=withheld,
            usable=usable,
            labels={day: of_day.label for day, of_day in windows.items()},
        )

    def _histories(
        self, days: Mapping[date, _Earlier], windows: Mapping[date, Windows], usable: UsableDays | None
    ) -> dict[date, Sequence[Morning]]:
        """The mornings of the days that have had several, and on which of these the MRDS could be used.

        Where rules are about what is of windows, a day has those too on which days of its windows changed, if
        it could be used from then on, or no longer.
        """
        product = self.context.product
        accepted = {day: earlier.accepted for day, earlier in days.items()}
        own: dict[date, Sequence[Morning]] = {
            day: earlier.mornings for day, earlier in days.items() if earlier.mornings is not None
        }
        if not (windows and judges_windows(product)):
            return dict(usable_in_mrds(self.context, own, usable, accepted))
        of_all = {day: own.get(day, earlier.own) for day, earlier in days.items()}
        changing = {
            day: windows[day].with_changes(mornings, day) if day in windows else mornings
            for day, mornings in of_all.items()
        }
        several = {day: mornings for day, mornings in changing.items() if day in own or len(mornings) > 1}
        found: dict[date, Sequence[Morning]] = {}
        for day, judged in usable_in_mrds(self.context, several, usable, accepted).items():
            mornings = that_count(judged, of_all[day])
            if day in own or mornings != of_all[day]:
                found[day] = mornings
        return found


@dataclass(frozen=True)
class _Earlier:
    """What is known of a day of the ARDS beside what it holds now.

    Attributes:
        mornings: those on which rows of it came; None if only one counts, or none can be used.
        own: the same, also if only one counts; with those on which it was accepted.
        barred: from which as-of date to which it couldn't be learned from, since it was accepted later.
        windows: what its windows may hold, where there are any.
        accepted: the mornings whose rows a person has accepted in the MRDS, each with the date since when.
    """

    mornings: list[Morning] | None
    own: list[Morning]
    barred: tuple[date | None, date | None]
    windows: Windows | None = None
    accepted: Mapping[date, date] = field(default_factory=dict)

    @property
    def remembered(self) -> dict[str, Any]:
        """What the details of a record keep of it: the morning of the newest rows, and what was accepted."""
        kept = {NEWEST: self.own[-1].day.isoformat()}
        given = [[morning.isoformat(), since.isoformat()] for morning, since in self.accepted.items()]
        return kept | ({ACCEPTED_ON: given} if given else {})

    @classmethod
    def of(cls, record: DayRecord) -> _Earlier:
        """That of a day that can be used now, or can't."""
        return cls(mornings_of(record), own_mornings(record), record.barred)


def _accepted(records: Mapping[date, DayRecord]) -> dict[date, dict[date, date]]:
    """By day, the mornings whose rows a person has accepted in the MRDS, each with the date since when."""
    found: dict[date, dict[date, date]] = {}
    for day, record in records.items():
        given = {
            date.fromisoformat(morning): date.fromisoformat(since)
            for morning, since in record.details.get(ACCEPTED_ON, ())
        }
        if record.accepted_by and (newest := record.details.get(NEWEST)):
            morning = date.fromisoformat(newest)
            given[morning] = record.barred_to or morning
        if given:
            found[day] = given
    return found


def _ending(mornings: Sequence[Morning]) -> list[Morning]:
    """The same mornings; on the last one the day can't be used."""
    return [*mornings[:-1], replace(mornings[-1], is_usable=False)]


def _arrivals(ledger: Ledger) -> Arrived:
    """What says when the first rows of days came; it remembers what it has found for as long as it lives."""

    @functools.cache
    def with_rows() -> list[date]:
        made = ledger.latest(ARDS, details=False).values()
        return sorted(record.day for record in made if record.outcome in presence.WITH_ROWS)

    @functools.cache
    def came(day: date) -> date:
        return first_morning(ledger.latest(ARDS, {day})[day])

    @functools.cache
    def since(morning: date) -> date | None:
        found: date | None = None
        for day in with_rows()[bisect_left(with_rows(), morning - _DAY) :]:
            if found is not None and day + _DAY >= found:
                break
            found = min(came(day), found or date.max)
        return found

    return since


def _waits_for_label(product: Product, record: DayRecord) -> bool:
    """Whether a day of the MRDS has rows, and no label of any, where labels look ahead."""
    return bool(product.mrds.ahead) and bool(record.counts.get("rows")) and not record.counts.get("labelled")


def _with_windows(inputs: Inputs, windows: Windows) -> Inputs:
    """What a day is made from, with the days of its windows."""
    if windows.lacking and inputs.outcome is not None:
        return replace(inputs, found=None)
    if windows.lacking:
        why = "; and ".join(_in_words(windows.lacking))
        return Inputs(inputs.fingerprint, "held_back", f"its windows hold {why}")
    plain: list[Any] = [inputs.fingerprint, f"{windows.number:x}"]
    if windows.label:
        plain += [[str(morning) for morning in windows.label], f"{windows.ahead:x}"]
    fingerprint = fingerprint_of(plain)
    return replace(inputs, fingerprint=fingerprint, found=replace(inputs.found, windows=windows))


def _in_words(lacking: Mapping[date, str]) -> Iterator[str]:
    """What is wrong with days that windows would hold, and what to do: first of those that have failed."""
    failed = [day for day, why in lacking.items() if why]
    unmade = [day for day, why in lacking.items() if not why]
    if failed:
        days = in_a_sentence("day", failed)
        which = f"{days}, of which {failed[0]} says" if len(failed) > 1 else days
        yield (
            f"{which}: {lacking[failed[0]]}; see the traceback in the log of the run and fix its cause, then "
            f"make {'these days' if len(failed) > 1 else 'that day'} again"
        )
    if unmade:
        days = in_a_sentence("day", unmade)
        yield f"{days}, delivered and not made yet under this contract; make these days first"


def _fingerprint(made: mrds.MrdsDay) -> str:
    """What a day holds, and what was served of it."""
    if not made.served.rows:
        return made.counted.fingerprint
    return fingerprint_of([made.counted.fingerprint, made.served.fingerprint])


def _served(made: mrds.MrdsDay) -> dict[str, Any] | None:
    """What the ledger keeps of what was served of a day whose rows have changed since."""
    if not made.served.rows:
        return None
    return {"versions": made.served.rows, "fingerprint": made.served.fingerprint}
