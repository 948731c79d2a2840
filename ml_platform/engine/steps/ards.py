"""The step ``ards``: deliveries to typed rows, one per key, and the quarantine of what can't be used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from ml_platform.contract.assets import ARDS_VERSIONS
from ml_platform.data_engineering import absences, ards, landing, unity_catalog
from ml_platform.data_engineering.arrivals import ArrivalRegister
from ml_platform.data_engineering.files import FileRules, shown
from ml_platform.data_engineering.formats import to_do
from ml_platform.data_engineering.knowledge import Arrivals
from ml_platform.data_engineering.object_store import landing_of
from ml_platform.data_engineering.resolution import Refusal
from ml_platform.data_engineering.row_versions import Timeline
from ml_platform.engine import earlier_verdicts, presence, withdrawals
from ml_platform.engine.earlier_verdicts import Corrected
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.usable_days import FIRST_MORNING
from ml_platform.engine.verdicts import QUARANTINED_ROWS, UNREADABLE, Content, Verdict, in_force
from ml_platform.engine.verdicts import unreadable as unreadable_verdict
from ml_platform.mlops.quality import anomalies, profiles
from ml_platform.storage.ledger import HISTORY, SETTLED, WITHOUT_ROWS, DayRecord
from ml_platform.storage.rejections import Rejection, Rejections
from ml_platform.storage.tables import OvertakenError

#: Readings of a day whose files change under them, before it is refused: a file may just be arriving.
CHANGES = 3


class Ards(Step):
    """Deliveries to typed rows."""

    asset = ards.ARDS

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        rows = presence.lost_rows(self.context, ards.ARDS, records)
        lost = presence.lost_rows(self.context, ards.QUARANTINE, records, "quarantined") | rows
        return presence.lost_states(self.context, ARDS_VERSIONS, records) | lost

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        product, folder = self.context.product, landing_of(self.context.settings, self.context.product)
        rules = FileRules.of(self.context.settings, self.context.product)
        arrivals = ArrivalRegister(self.context.tables, product).read(days)
        looks = landing.looks(product, folder, days)
        done = self._as_made(days, lost, looks, arrivals)
        deliveries = landing.scan(product, folder, [day for day in days if day not in done], rules, arrivals)
        absent = [day for day in days if day not in deliveries and day not in done]
        reasons = absences.why_absent(product, folder, absent, rules) if absent else {}
        found = self._away(absent) | done
        for day in days:
            delivery = deliveries.get(day)
            if day in found:
                continue
            if delivery is None:
                found[day] = Inputs("", "missing", reasons[day], gone=True)
                if reason := product.delivery.why_not_due(day):
                    _, _, instead = reasons[day].partition("; ")
                    reason = f"{reason}; {instead}" if instead else reason
                    found[day] = Inputs("", "not_due", reason, gone=True)
            elif delivery.refusal:
                # Another stamp than that of its content: the same files may be read when they are reached.
                found[day] = Inputs(f"{delivery.stamp}/refused", "refused", delivery.refusal)
            else:
                found[day] = Inputs(delivery.inputs, found=delivery)
        return found

    def _as_made(
        self,
        days: Sequence[date],
        lost: Collection[date],
        looks: Mapping[date, landing.Look],
        arrivals: Arrivals,
    ) -> dict[date, Inputs]:
        """The days that were made from the files that lie there: no header of these is read."""
        if self.context.request.force:
            return {}
        found = {}
        for day, record in self.context.ledger.latest(self.asset, set(days), details=False).items():
            stamp, seen = looks[day].stamp, arrivals.seen(day, looks[day].files)
            if stamp is None or day in lost or record.outcome not in SETTLED:
                continue
            inputs = landing.made_from(stamp, seen.late_files if seen else {})
            if record.made_from(inputs, self.contract, self.code_version):
                found[day] = Inputs(inputs)
        return found

    def is_outdated(self, work: Mapping[date, Inputs]) -> bool:
        # A day that had no delivery, or one that could not be read, may have another by now.
        if any(inputs.found is None for inputs in work.values()):
            return True
        return bool(self._changed({day: inputs.found for day, inputs in work.items()}))

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        deliveries = {day: inputs.found for day, inputs in work.items() if inputs.found is not None}
        if as_made := [day for day in work if day not in deliveries]:
            deliveries |= self._scanned(as_made)
        contents, deliveries = self._contents(deliveries, tries)
        written = Verdict(self.context, self.asset).of_contents(contents)
        for day, delivery in deliveries.items():
            if delivery.unreadable is not None and isinstance(contents.get(day), Content):
                written[day] = _before(delivery.unreadable, delivery, written[day])
        return written

    def _scanned(self, days: Sequence[date]) -> dict[date, landing.Delivery]:
        """The deliveries of days that another run is doing too; one that has changed is left out."""
        product, folder = self.context.product, landing_of(self.context.settings, self.context.product)
        arrivals = ArrivalRegister(self.context.tables, product).read(days)
        found = landing.scan(
            product, folder, days, FileRules.of(self.context.settings, self.context.product), arrivals
        )
        return {day: delivery for day, delivery in found.items() if delivery.refusal is None}

    def _read(
        self, deliveries: Mapping[date, landing.Delivery]
    ) -> tuple[dict[date, ards.ArdsDay], dict[date, landing.Delivery]]:
        """Write these days, of those files that came before one that can't be read; and these deliveries."""
        found: dict[date, ards.ArdsDay] = {}
        read, waiting = dict(deliveries), dict(deliveries)
        while waiting:
            written = self._write(waiting)
            waiting = {}
            for day, content in written.items():
                refusal = content.refusal
                earlier: landing.Delivery | None = None
                if refusal is not None and not refusal.may_pass:
                    earlier = read[day].before_newest(refusal.reason)
                if earlier is None:
                    found[day] = content
                else:
                    waiting[day] = read[day] = earlier
        # A day of which nothing can be read is refused as it was delivered.
        return found, {
            day: deliveries[day] if day in found and found[day].refusal else delivery
            for day, delivery in read.items()
        }

    def _write(self, deliveries: Mapping[date, landing.Delivery]) -> dict[date, ards.ArdsDay]:
        """Write these days, each table in one commit; those whose files have changed are left out."""
        context = self.context
        product = context.product

        def changed(days: Sequence[date]) -> list[date]:
            return self._changed({day: deliveries[day] for day in days})

        unity_catalog.declare(context.open_spark, product, context.tables, "ards")
        try:
            written = ards.write(
                context.open_spark,
                product,
                context.tables,
                list(deliveries.values()),
                run_id=context.request.run_id,
                statistics=profiles.ProfileStatistics(product, "ards"),
                changed=changed,
            )
        except OvertakenError:
            raise
        except Exception as error:
            # Files that are replaced while Spark reads them may end its job in any way.
            if not self._changed(deliveries):
                raise
            context.log(
                f"ards: {type(error).__name__} while files of these days changed; they are done again"
            )
            written = {}
        return written

    def _contents(
        self, delivered: Mapping[date, landing.Delivery], tries: Mapping[date, int]
    ) -> tuple[dict[date, Content | Written], dict[date, landing.Delivery]]:
        """Write these days, each table in one commit; a day that can't be read comes back as its outcome.

        Returns:
            Also the deliveries that this is of, which may lack later files that can't be read.
        """
        context = self.context
        product = context.product
        written, deliveries = self._read(delivered)
        unread = {day: delivery for day, delivery in deliveries.items() if day not in written}
        corrected = {
            day: Corrected(content.history, deliveries[day], content.of_files)
            for day, content in written.items()
            if content.history is not None
        }
        histories = earlier_verdicts.histories(context, corrected) if corrected else {}
        for day, history in histories.items():
            if gaps := deliveries[day].unreadable_between:
                histories[day] = earlier_verdicts.with_gaps(history, gaps)
        contents: dict[date, Content | Written] = {
            day: _refused(deliveries[day], content.refusal)
            if content.refusal
            else Content(
                counts=content.counts,
                profile=profiles.profile(product, "ards", content.rows, content.statistics),
                fingerprint=content.fingerprint,
                delta_version=content.delta_version,
                metadata=_of_files(deliveries[day])
                | _of_first_morning(deliveries[day])
                | _of_quarantine(deliveries[day], content),
                history=histories.get(day),
            )
            for day, content in written.items()
        }
        rejections = Rejections(context.tables, product.name).read(list(contents))
        for day, content in contents.items():
            if isinstance(content, Content):
                if day in rejections:
                    content = self._rejected(content, deliveries[day], rejections[day])
                if deliveries[day].unreadable is not None:
                    self._prepare_versions(day)
                contents[day] = replace(content, metadata=content.metadata | _of_history(content.history))
        return self._still_changing(unread, tries) | contents, deliveries

    def _prepare_versions(self, day: date) -> None:
        """What is made of a day with a past reads this table, which there is since the first correction."""
        context = self.context
        ards.prepare_versions(
            context.open_spark, context.product, context.tables, day, run_id=context.request.run_id
        )

    def _rejected(
        self, content: Content, delivery: landing.Delivery, rejections: Sequence[Rejection]
    ) -> Content:
        """A day that people have rejected, now or with other rows, with what it was before."""
        product = self.context.product
        first = Timeline.of(delivery.files).mornings[0].day
        current = in_force(product, content, rejections)
        history = earlier_verdicts.with_rejections(content.history, first, rejections, current)
        if history is not None:
            self._prepare_versions(delivery.day)
        return replace(content, history=history)

    def _away(self, days: Sequence[date]) -> dict[date, Inputs]:
        """The days without a delivery whose rows must stay: there is no delivery of any day.

        A landing folder that isn't mounted looks like one whose days have all been withdrawn.
        """
        product, folder = self.context.product, landing_of(self.context.settings, self.context.product)
        if not days or landing.delivered_days(product, folder):
            return {}
        known = self.context.ledger.latest(self.asset, set(days), details=False)
        reason = (
            f"{folder / product.name} has no delivery at all, as if it weren't mounted, so the rows of this "
            "day stay; to withdraw the day all the same, leave it an empty folder"
        )
        return {
            day: Inputs("away", "refused", reason)
            for day, record in known.items()
            if record.outcome not in WITHOUT_ROWS
        }

    def withdraw(self, days: Sequence[date]) -> dict[date, Written]:
        users = withdrawals.users_of(self.context.tables, self.context.product, days)
        return {
            day: replace(written, metadata={"no_longer_reproducible": "; ".join(users[day])})
            if users[day]
            else written
            for day, written in super().withdraw(days).items()
        }

    def _changed(self, deliveries: Mapping[date, landing.Delivery]) -> list[date]:
        """The days whose files are not those any more that were looked at."""
        looks = landing.looks(
            self.context.product, landing_of(self.context.settings, self.context.product), deliveries
        )
        return [day for day, delivery in deliveries.items() if looks[day].stamp != delivery.stamp]

    def _still_changing(
        self, deliveries: Mapping[date, landing.Delivery], tries: Mapping[date, int]
    ) -> dict[date, Content | Written]:
        """Of days that must be done again since their files changed, those that have for too often."""
        given_up: dict[date, Content | Written] = {}
        for day, delivery in deliveries.items():
            if tries.get(day, 0) + 1 < CHANGES:
                self.context.log(f"ards: files of {day} changed while they were read; the day is done again")
                continue
            names = ", ".join(shown(file.name) for file in delivery.files)
            given_up[day] = Written(
                "refused",
                f"the files ({names}) changed each of {CHANGES} times that they were read: "
                "put a file there when it is complete, by renaming it",
                inputs=f"{delivery.stamp}/unread",
            )
        return given_up


def _before(unreadable: landing.Unreadable, delivery: landing.Delivery, written: Written) -> Written:
    """A day with the verdict on what came before a delivery that can't be read."""
    if "quality" not in written.details:
        # Nothing of what came before can be used, or even judged.
        return Written("refused", unreadable.reason, metadata=written.metadata)
    first = Timeline.of(delivery.files).mornings[0].day
    usable_since: date | None = None
    if written.outcome in SETTLED:
        usable_since = (written.accepted and written.barred[1]) or date.min
    history = earlier_verdicts.with_end(written.details.get(HISTORY), first, unreadable.since, usable_since)
    reason = (
        f"{unreadable.reason}; it is known since {unreadable.since}, and the day holds what was delivered "
        "before it"
    )
    ended = unreadable_verdict(written, reason)
    return replace(
        ended,
        metadata=ended.metadata | {UNREADABLE: reason} | _of_history(history),
        details=ended.details | {HISTORY: history},
    )


def _refused(delivery: landing.Delivery, refusal: Refusal) -> Written:
    inputs = f"{delivery.stamp}/unread" if refusal.may_pass else None
    return Written("refused", refusal.reason, inputs=inputs, metadata=_of_files(delivery))


def _of_quarantine(delivery: landing.Delivery, written: ards.ArdsDay) -> dict[str, Any]:
    """How many of a day's quarantined records are rows, if others are labels without a row."""
    labels = {file.number for file in delivery.files if file.labels_only}
    rows = sum(account.quarantined for number, account in written.of_files.items() if number not in labels)
    return {QUARANTINED_ROWS: rows} if rows != written.quarantined else {}


def _of_files(delivery: landing.Delivery) -> dict[str, Any]:
    """What people should know of a day's files: how many, other columns than the contract's, what isn't read.

    ``bytes`` is as they lie there.
    """
    found = {
        "ignored_columns": delivery.ignored_columns,
        "missing_columns": delivery.missing_columns,
    }
    columns = {
        key: ", ".join(f"{name} ({count} of {len(delivery.files)} files)" for name, count in counts.items())
        for key, counts in found.items()
        if counts
    }
    counts = {"files": len(delivery.files), "bytes": sum(file.size for file in delivery.files)}
    late = [f"{shown(name)} (known since {morning})" for name, morning in delivery.late.items()]
    unread = [f"{name} ({advice})" if (advice := to_do(name)) else name for name in delivery.unread]
    ahead = [f"{shown(name)} (there since {morning})" for name, morning in delivery.ahead.items()]
    names = {"unread_files": unread, "late_files": late, anomalies.AHEAD: ahead}
    return counts | columns | {key: landing.listed(listed) for key, listed in names.items() if listed}


def _of_first_morning(delivery: landing.Delivery) -> dict[str, str]:
    """The morning on which rows of a day first came, if that wasn't the one after it."""
    mornings = Timeline.of(delivery.files).mornings
    if not mornings or mornings[0].day == delivery.day + timedelta(days=1):
        return {}
    return {FIRST_MORNING: mornings[0].day.isoformat()}


def _of_history(history: Mapping[str, Any] | None) -> dict[str, Any]:
    """What people should know of a day whose rows have changed since they first came."""
    if history is None:
        return {}
    mornings = history["mornings"]
    rejected = history.get("rejected_on", [])
    days = {
        "rows_came_on": [day for day, *_ in mornings if day not in rejected],
        "could_not_be_used_on": [day for day, _, is_usable, _ in mornings if not is_usable],
        "rejected_on": rejected,
    }
    found = {"states_of_changed_rows": history["versions"]} if history["versions"] else {}
    return found | {name: landing.listed(listed) for name, listed in days.items() if listed}
