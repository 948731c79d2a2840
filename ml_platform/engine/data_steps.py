"""The daily steps whose data is validated: the ARDS and the MRDS.

A day's content and its verdict are two things. The content is done again when the delivery changes; the
verdict when the content, the contract's rules, or the days before it change, without the content being
written again. How a verdict is reached is :mod:`ml_platform.mlops.validation`'s business.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, ClassVar

from ml_platform.data_engineering import ards, landing, mrds, unity_catalog
from ml_platform.data_engineering.files import FileRules, shown
from ml_platform.data_engineering.resolution import Refusal
from ml_platform.engine import presence, withdrawals
from ml_platform.engine.context import StepContext
from ml_platform.engine.daily import DailyStep, from_same_day
from ml_platform.engine.step import Check, Inputs, Written, quality_of
from ml_platform.mlops import expectations, history, profiles, validation
from ml_platform.mlops.expectations import Expectation
from ml_platform.mlops.history import DayFacts, Fact
from ml_platform.mlops.profiles import Profile
from ml_platform.mlops.validation import Quality, Result
from ml_platform.product import DataSet, Product, fingerprint_of
from ml_platform.steps import DATA_QUALITY, VALIDATION_VERSION
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import WITHOUT_ROWS, DayRecord, Outcome
from ml_platform.storage.tables import OvertakenError, column

#: Readings of a day whose files change under them, before it is refused: a file may just be arriving.
CHANGES = 3
FEATURES_FINGERPRINT = "features_fingerprint"


@dataclass(frozen=True)
class Content:
    """What a day holds, before its verdict."""

    counts: dict[str, int]
    profile: Profile
    fingerprint: str
    delta_version: int | None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.counts["rows"]

    @classmethod
    def of(cls, record: DayRecord) -> Content:
        """What the ledger knows of a day's content."""
        return cls(
            counts=record.counts,
            profile=Profile.of(record.details.get("profile", {})),
            fingerprint=record.fingerprint or "",
            delta_version=record.delta_version,
            metadata=record.details.get("metadata", {}),
        )


@dataclass(frozen=True)
class _Held:
    """What a day is held against, and hashes of it that tell whether a verdict still stands."""

    suite: list[Expectation]
    facts: list[Fact]
    rows_hash: str
    facts_hash: str

    def judged(self, record: DayRecord) -> bool:
        return record.details.get("judged") == {"rows": self.rows_hash, "facts": self.facts_hash}


@dataclass(frozen=True)
class _Suites:
    """The expectations of each day; days that are held against the same share one suite."""

    product: Product
    data_set: DataSet
    _shared: dict[frozenset[str], list[Expectation]] = field(default_factory=dict)

    def of(self, day: date, source: Profile | None) -> list[Expectation]:
        if source is not None:
            return expectations.suite(self.product, self.data_set, source, day=day)
        early = expectations.not_yet_required(self.product, day)
        if early not in self._shared:
            self._shared[early] = expectations.suite(self.product, self.data_set, day=day)
        return self._shared[early]


class ValidatedStep(DailyStep):
    """A daily step that gives its days a verdict: the check ``data_quality``."""

    data_set: ClassVar[DataSet]

    @abstractmethod
    def write_content(self, days: Sequence[date]) -> dict[date, Content | Written]:
        """Write these days, each table in one commit; a day that can't be read comes back as its outcome."""

    @abstractmethod
    def sources(self, days: Sequence[date]) -> dict[date, Profile]:
        """The profiles of what the days were aggregated from, where that bounds them."""

    @abstractmethod
    def facts(self, contents: Mapping[date, Content]) -> dict[date, list[Fact]]:
        """What the days are held against from outside their own rows."""

    def known_facts(self, contents: Mapping[date, Content]) -> dict[date, DayFacts]:
        """The facts of ``contents``, and of all days that these are held against."""
        product = self.context.product
        windows = [history.window(product, day) for day in contents]
        first, last = min(window[0] for window in windows), max(window[1] for window in windows)
        records = _judgeable(self.context.ledger.between(self.asset, first, last))
        return {
            day: DayFacts(content.counts, content.profile) for day, content in {**records, **contents}.items()
        }

    def write(self, days: Sequence[date]) -> dict[date, Written]:
        validation.prepare()
        done: dict[date, Written] = {}
        contents: dict[date, Content] = {}
        for day, one in self.write_content(days).items():
            if isinstance(one, Written):
                done[day] = one
            elif one.rows:
                contents[day] = one
            else:
                done[day] = _written(one, "empty", "the delivery has no usable rows")
        known = self.context.ledger.latest(self.asset, set(contents))
        return done | self._judge(contents, known)

    def outdated_verdicts(self, records: Mapping[date, DayRecord]) -> list[date]:
        contents = _judgeable(records)
        held = self._held(contents)
        return [day for day in contents if not held[day].judged(records[day])]

    def judge_again(self, records: Mapping[date, DayRecord]) -> dict[date, Written]:
        return self._judge(_judgeable(records), records)

    def _held(self, contents: Mapping[date, Content]) -> dict[date, _Held]:
        product = self.context.product
        if not contents:
            return {}
        sources, facts = self.sources(list(contents)), self.facts(contents)
        suites = _Suites(product, self.data_set)
        sensitive = sorted(product.sensitive)
        held = {}
        for day, content in contents.items():
            suite = suites.of(day, sources.get(day))
            rules = [VALIDATION_VERSION, [one.rule_content for one in suite], sensitive]
            held[day] = _Held(
                suite=suite,
                facts=facts[day],
                rows_hash=fingerprint_of([rules, content.fingerprint]),
                facts_hash=fingerprint_of([one.rule_content for one in facts[day]]),
            )
        return held

    def _judge(
        self, contents: Mapping[date, Content], known: Mapping[date, DayRecord]
    ) -> dict[date, Written]:
        """The days with their verdicts; of rows that were judged by the same rules, the results stay."""
        held = self._held(contents)
        of_rows: dict[date, list[Result]] = {}
        for day in contents:
            record = known.get(day)
            quality = quality_of(record) if record is not None else None
            if record and quality and record.details["judged"]["rows"] == held[day].rows_hash:
                of_rows[day] = list(quality.results[: record.details["row_results"]])
        todo = [day for day in contents if day not in of_rows]
        if todo:
            of_rows |= self._validate(todo, held, contents)
        of_facts = validation.judge_facts({day: held[day].facts for day in contents if held[day].facts})
        return {
            day: _verdict(contents[day], held[day], of_rows[day], of_facts.get(day, []), known.get(day))
            for day in contents
        }

    def _validate(
        self, days: Sequence[date], held: Mapping[date, _Held], contents: Mapping[date, Content]
    ) -> dict[date, list[Result]]:
        context, tables = self.context, self.context.tables
        name = context.product.name
        files = tables.day_files(name, self.asset)
        nothing = tables.without_rows(context.spark, name, self.asset)
        # A column that the contract has lost stays in the table, and is no concern of its days.
        own = set(context.product.data_set_columns(self.data_set))
        nothing = nothing.select(*[column(one) for one in nothing.columns if one in own])
        return validation.validate(
            context.product,
            self.data_set,
            lambda: tables.read_days(context.spark, name, self.asset, days),
            nothing,
            {day: held[day].suite for day in days},
            {day: contents[day].rows for day in days},
            maximum_rows=context.settings.validation_rows_in_memory,
            files=(files, tables.version(name, self.asset)) if files else None,
        )


def _judgeable(records: Mapping[date, DayRecord]) -> dict[date, Content]:
    """The days that have rows to be judged, with their content."""
    return {
        day: Content.of(record)
        for day, record in records.items()
        if record.outcome in ("written", "blocked") and record.counts.get("rows")
    }


def _verdict(
    content: Content,
    held: _Held,
    of_rows: Sequence[Result],
    of_facts: Sequence[Result],
    previous: DayRecord | None,
) -> Written:
    quality = Quality((*of_rows, *of_facts))
    accepted = _still_accepted(content, quality, previous)
    outcome: Outcome = "written" if quality.passed or accepted else "blocked"
    return _written(
        content,
        outcome,
        "" if outcome == "written" else quality.reason,
        checks=(quality_check(quality, accepted),),
        details={
            "quality": quality.plain(),
            "row_results": len(of_rows),
            "judged": {"rows": held.rows_hash, "facts": held.facts_hash},
        },
        accepted=accepted,
    )


def quality_check(quality: Quality, accepted: tuple[str, str] | None = None) -> Check:
    """The check ``data_quality`` of a verdict; one that a person accepted is a warning."""
    summary = quality.summary
    if accepted:
        summary = f"accepted by {accepted[0]} ({accepted[1]}): {summary}"
    return Check(
        name=DATA_QUALITY,
        passed=not quality.errors and not quality.warnings,
        severity="WARN" if quality.passed or accepted else "ERROR",
        description=summary,
        metadata={"errors": len(quality.errors), "warnings": len(quality.warnings)},
    )


def _still_accepted(content: Content, quality: Quality, previous: DayRecord | None) -> tuple[str, str] | None:
    """Who accepted the day, if it is the same content and nothing else fails than what was accepted."""
    if previous is None or not previous.accepted_by or previous.fingerprint != content.fingerprint:
        return None
    before = quality_of(previous)
    if before is None or quality.passed:
        return None
    if not {one.expectation for one in quality.errors} <= {one.expectation for one in before.errors}:
        return None
    return previous.accepted_by, previous.accepted_reason or ""


def _written(content: Content, outcome: Outcome, reason: str, **more: Any) -> Written:
    details = {"profile": content.profile.plain(), **more.pop("details", {})}
    return Written(
        outcome,
        reason,
        fingerprint=content.fingerprint,
        counts=content.counts,
        delta_version=content.delta_version,
        metadata=content.metadata,
        details=details,
        **more,
    )


class Ards(ValidatedStep):
    """Deliveries to typed rows."""

    asset = "ards"
    tables = (ards.ARDS, ards.QUARANTINE)
    data_set = "ards"
    contract_sections = ("source",)

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self._deliveries: dict[date, landing.Delivery] = {}
        self._changes: Counter[date] = Counter()

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        rows = presence.lost_rows(self.context, ards.ARDS, records)
        return presence.lost_rows(self.context, ards.QUARANTINE, records, "quarantined") | rows

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        product, folder = self.context.product, self.context.settings.landing_path
        rules = FileRules.of(self.context.settings)
        self._deliveries = landing.scan(product, folder, days, rules)
        absent = [day for day in days if day not in self._deliveries]
        absences = landing.absences(product, folder, absent, rules) if absent else {}
        found = self._away(absent)
        for day in days:
            delivery = self._deliveries.get(day)
            if day in found:
                continue
            if delivery is None:
                found[day] = Inputs("", "missing", absences[day], gone=True)
                if reason := product.delivery.why_not_due(day):
                    _, _, instead = absences[day].partition("; ")
                    reason = f"{reason}; {instead}" if instead else reason
                    found[day] = Inputs("", "not_due", reason, gone=True)
            elif delivery.refusal:
                # Another stamp than that of its content: the same files may be read when they are reached.
                found[day] = Inputs(f"{delivery.stamp}/refused", "refused", delivery.refusal)
            else:
                found[day] = Inputs(delivery.stamp)
        return found

    def write_content(self, days: Sequence[date]) -> dict[date, Content | Written]:
        context = self.context
        product = context.product
        unity_catalog.declare(context.spark, product, context.tables, "ards")
        try:
            written = ards.write(
                context.spark,
                product,
                context.tables,
                [self._deliveries[day] for day in days],
                run_id=context.request.run_id,
                statistics=profiles.ProfileStatistics(product, "ards"),
                changed=self._changed,
            )
        except OvertakenError:
            raise
        except Exception as error:
            # Files that are replaced while Spark reads them may end its job in any way.
            if not self._changed(days):
                raise
            context.log(
                f"ards: {type(error).__name__} while files of these days changed; they are done again"
            )
            written = {}
        return self._still_changing(day for day in days if day not in written) | {
            day: self._refused(day, one.refusal)
            if one.refusal
            else Content(
                counts=one.counts,
                profile=profiles.profile(product, "ards", one.rows, one.statistics),
                fingerprint=one.fingerprint,
                delta_version=one.delta_version,
                metadata=_of_files(self._deliveries[day]),
            )
            for day, one in written.items()
        }

    def _away(self, days: Sequence[date]) -> dict[date, Inputs]:
        """The days without a delivery whose rows must stay: there is no delivery of any day.

        A landing folder that isn't mounted looks like one whose days have all been withdrawn.
        """
        product, folder = self.context.product, self.context.settings.landing_path
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
            day: replace(one, metadata={"no_longer_reproducible": "; ".join(users[day])})
            if users[day]
            else one
            for day, one in super().withdraw(days).items()
        }

    def _changed(self, days: Sequence[date]) -> list[date]:
        """The days whose files are not those any more that were looked at."""
        product, folder = self.context.product, self.context.settings.landing_path
        return [day for day in days if landing.stamp(product, folder, day) != self._deliveries[day].stamp]

    def _still_changing(self, days: Iterable[date]) -> dict[date, Content | Written]:
        """Of days that must be done again since their files changed, those that have for too often."""
        given_up: dict[date, Content | Written] = {}
        for day in days:
            self._changes[day] += 1
            if self._changes[day] < CHANGES:
                self.context.log(f"ards: files of {day} changed while they were read; the day is done again")
                continue
            delivery = self._deliveries[day]
            names = ", ".join(shown(file.name) for file in delivery.files)
            given_up[day] = Written(
                "refused",
                f"the files ({names}) changed each of {CHANGES} times that they were read: "
                "put a file there when it is complete, by renaming it",
                inputs=f"{delivery.stamp}/unread",
            )
        return given_up

    def _refused(self, day: date, refusal: Refusal) -> Written:
        stamp = self._deliveries[day].stamp
        return Written("refused", refusal.reason, inputs=f"{stamp}/unread" if refusal.may_pass else None)

    def sources(self, days: Sequence[date]) -> dict[date, Profile]:
        return {}

    def facts(self, contents: Mapping[date, Content]) -> dict[date, list[Fact]]:
        known = self.known_facts(contents)
        return {day: history.facts(self.context.product, day, known) for day in contents}


def _of_files(delivery: landing.Delivery) -> dict[str, str]:
    """What people should know of a day's files: other columns than the contract's, and what isn't read."""
    found = {
        "ignored_columns": delivery.ignored_columns,
        "missing_columns": delivery.missing_columns,
    }
    said = {
        key: ", ".join(f"{name} ({count} of {len(delivery.files)} files)" for name, count in counts.items())
        for key, counts in found.items()
        if counts
    }
    return said | ({"unread_files": landing.listed(delivery.unread)} if delivery.unread else {})


class Mrds(ValidatedStep):
    """ARDS to one row per entity and day."""

    asset = "mrds"
    tables = (mrds.MRDS,)
    data_set = "mrds"
    contract_sections = ("source", "mrds")

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        versions = ContractVersions(self.context.tables, self.context.product)
        return from_same_day(self.context, "ards", days, contracts=versions.ards_like_now())

    def write_content(self, days: Sequence[date]) -> dict[date, Content | Written]:
        context = self.context
        product = context.product
        unity_catalog.declare(context.spark, product, context.tables, "mrds")
        written = mrds.write(
            context.spark,
            product,
            context.tables,
            days,
            run_id=context.request.run_id,
            statistics=profiles.ProfileStatistics(product, "mrds"),
        )
        return {
            day: Written("refused", one.refusal)
            if one.refusal
            else Content(
                counts=one.counts,
                profile=profiles.profile(product, "mrds", one.counted.rows, one.counted.statistics),
                fingerprint=one.counted.fingerprint,
                delta_version=one.delta_version,
                metadata={FEATURES_FINGERPRINT: one.counted.features_fingerprint},
            )
            for day, one in written.items()
        }

    def sources(self, days: Sequence[date]) -> dict[date, Profile]:
        records = self.context.ledger.latest("ards", set(days))
        return {day: Content.of(record).profile for day, record in records.items()}

    def facts(self, contents: Mapping[date, Content]) -> dict[date, list[Fact]]:
        known = self.known_facts(contents)
        return {day: history.facts_of_rows(self.context.product, day, known) for day in contents}
