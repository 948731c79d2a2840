"""The verdict on a day's content: the check ``data_quality`` of the ARDS and the MRDS.

A day's content and its verdict are two things. The content is done again when the delivery changes; the
verdict when the content, the contract's rules, or the days before it change, without the content being
written again. How a verdict is reached is :mod:`ml_platform.mlops.quality.validation`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, cast

from ml_platform.contract.assets import ARDS, DATA_QUALITY, VALIDATION_VERSION, validated
from ml_platform.contract.days import counted
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product
from ml_platform.engine.context import StepContext
from ml_platform.engine.run_partitions import Done, Step
from ml_platform.engine.step import ADVICE, Check, Inputs, Written, quality_of
from ml_platform.mlops.quality import anomalies, expectations, validation
from ml_platform.mlops.quality.anomalies import DayFacts, Fact
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.profiles import Profile
from ml_platform.mlops.quality.results import Quality, Result
from ml_platform.storage.ledger import HISTORY, DayRecord, Outcome
from ml_platform.storage.rejections import REJECTED, Rejection, Rejections

WITHOUT_USABLE_ROWS = "the delivery has no usable rows"


#: What the inputs of a record end with whose day is to be made again.
AGAIN = "/again"
#: In the metadata of a day: how many of its quarantined records are rows, if others are labels without a row.
QUARANTINED_ROWS = "quarantined_rows"


#: In the details of a day of the MRDS: the morning of its newest rows; and those whose rows a person has
#: accepted, though they broke rules of it, each with the date since when.
NEWEST, ACCEPTED_ON = "newest_morning", "accepted_on"
#: What a verdict leaves as it is of a day's details.
REMEMBERED = (NEWEST, ACCEPTED_ON)
#: In the metadata of a day: why its newest files can't be read; it holds what was delivered before them.
UNREADABLE = "unreadable_delivery"
#: In the details of such a day: whether what came before could be used, and who accepted it, since when.
READABLE = "readable"
#: What to do about such a day.
_UNREADABLE_ADVICE = (
    "deliver that file again, or take it out of the day's folder, and materialize the day again"
)


@dataclass(frozen=True)
class Content:
    """What a day holds, before its verdict."""

    counts: dict[str, int]
    profile: Profile
    fingerprint: str
    delta_version: int | None
    metadata: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] | None = None
    """What the day held on earlier mornings, if it has changed since."""

    @property
    def rows(self) -> int:
        return self.counts["rows"]

    @property
    def unusable_rows(self) -> int | None:
        """How many records are none of the rows; labels without a row, which come later, are others."""
        found: int | None = self.metadata.get(QUARANTINED_ROWS, self.counts.get("quarantined"))
        return found

    @classmethod
    def of(cls, record: DayRecord) -> Content:
        """What the ledger knows of a day's content."""
        return cls(
            counts=record.counts,
            profile=Profile.of(record.details.get("profile", {})),
            fingerprint=record.fingerprint or "",
            delta_version=record.delta_version,
            metadata=record.details.get("metadata", {}),
            history=record.details.get(HISTORY),
        )


@dataclass(frozen=True)
class _Held:
    """The checks of a day, and hashes of them that tell whether a verdict still stands."""

    suite: list[Expectation]
    facts: list[Fact]
    rows_hash: str
    facts_hash: str

    def judged(self, record: DayRecord) -> bool:
        return record.details.get("judged") == {"rows": self.rows_hash, "facts": self.facts_hash}


@dataclass(frozen=True)
class _Suites:
    """The expectations of each day; days with the same expectations share one suite."""

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


@dataclass(frozen=True)
class _Case:
    """A day to be judged: its content, its checks, and the record of it so far."""

    content: Content
    held: _Held
    record: DayRecord


class Verdict(Step):
    """The verdicts on days whose content stands: given again where their checks have changed.

    A content that has just been made gets its verdict by :meth:`of_contents`, before either is recorded.
    """

    def __init__(self, context: StepContext, asset: str) -> None:
        super().__init__(context)
        self.asset = asset  # type: ignore[misc]

    @property
    def tables(self) -> tuple[str, ...]:
        return ()

    @property
    def _data_set(self) -> DataSet:
        return cast("DataSet", self.asset)

    def prepare(self) -> None:
        """Nothing: to judge changes no table."""

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        return {}

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        records = self.context.ledger.latest(self.asset, set(days))
        contents = _judgeable(records)
        held = self._held(contents)
        return {
            day: Inputs(records[day].inputs, found=_Case(content, held[day], records[day]))
            for day, content in contents.items()
        }

    def is_current(self, record: DayRecord, inputs: Inputs) -> bool:
        held: _Held = inputs.found.held
        return held.judged(record)

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        cases: dict[date, _Case] = {day: inputs.found for day, inputs in work.items()}
        judged = self._judge(
            {day: case.content for day, case in cases.items()},
            {day: case.held for day, case in cases.items()},
            {day: case.record for day, case in cases.items()},
        )
        for day, case in cases.items():
            kept = {name: case.record.details[name] for name in REMEMBERED if name in case.record.details}
            judged[day] = replace(judged[day], details=judged[day].details | kept)
            if not case.record.accepted_by:  # what it was made from has been accepted, if anything was
                judged[day] = replace(judged[day], barred=case.record.barred)
            was_usable = case.record.outcome == "blocked" and case.record.barred_from is not None
            before, now = (found.get(READABLE) for found in (case.record.details, judged[day].details))
            if before and now and before["is_usable"] != now["is_usable"]:
                # Its past says otherwise: it is to be made again.
                judged[day] = replace(judged[day], inputs=case.record.inputs + AGAIN)
            if was_usable and judged[day].outcome != "blocked":
                # What is kept of it to be learned from ends where it was blocked: it is to be made again.
                judged[day] = replace(judged[day], inputs=case.record.inputs + AGAIN)
        return judged

    def summary(self, days: Sequence[date], done: Done) -> dict[str, Any]:
        return {"days_judged_again": len(done.written)} if done.written else {}

    def record(self, day: date, inputs: Inputs, written: Written) -> DayRecord:
        if inputs.failed:  # what its content was made from stays known
            before = self.context.ledger.latest(self.asset, {day}, details=False).get(day)
            inputs = replace(inputs, fingerprint=before.inputs if before else "")
        return super().record(day, inputs, written)

    def progress(self, position: int, total: int, last: date) -> str:
        return f"{self.asset}: {position} of {counted(total, 'day')} judged again"

    def of_contents(self, made: Mapping[date, Content | Written]) -> dict[date, Written]:
        """Days whose content has just been made, with their verdicts; an outcome that a day has stays."""
        done: dict[date, Written] = {}
        contents: dict[date, Content] = {}
        for day, content in made.items():
            if isinstance(content, Written):
                done[day] = content
            elif content.rows or content.counts.get("quarantined"):
                contents[day] = content  # of a delivery that is all unusable the accounts are judged
            else:
                done[day] = _written(content, "empty", WITHOUT_USABLE_ROWS)
        known = self.context.ledger.latest(self.asset, set(contents))
        return done | self._judge(contents, self._held(contents), known)

    def _held(self, contents: Mapping[date, Content]) -> dict[date, _Held]:
        product = self.context.product
        if not contents:
            return {}
        sources, facts = self._sources(list(contents)), self._facts(contents)
        suites = _Suites(product, self._data_set)
        sensitive = sorted(product.sensitive)
        held = {}
        for day, content in contents.items():
            suite = suites.of(day, sources.get(day))
            rules = [VALIDATION_VERSION, [expectation.rule_content for expectation in suite], sensitive]
            held[day] = _Held(
                suite=suite,
                facts=facts[day],
                rows_hash=fingerprint_of([rules, content.fingerprint]),
                facts_hash=fingerprint_of([fact.rule_content for fact in facts[day]]),
            )
        return held

    def _sources(self, days: Sequence[date]) -> dict[date, Profile]:
        """The profiles of what the days were aggregated from, where that bounds them."""
        profiles: dict[date, Profile] = {}
        for reads in self.spec.reads:
            if reads.over == "same" and reads.asset in validated():
                records = self.context.ledger.latest(reads.asset, set(days))
                profiles |= {day: Content.of(record).profile for day, record in records.items()}
        return profiles

    def _facts(self, contents: Mapping[date, Content]) -> dict[date, list[Fact]]:
        """The anomaly checks of days: their figures against those of days before them."""
        product = self.context.product
        windows = [anomalies.window(product, day) for day in contents]
        first, last = min(window[0] for window in windows), max(window[1] for window in windows)
        before = _judgeable(self.context.ledger.between(self.asset, first, last))
        known = {
            day: DayFacts(content.counts, content.profile, content.metadata.get(anomalies.AHEAD, ""))
            for day, content in {**before, **contents}.items()
            if content.rows or day in contents
        }
        # What is said of a delivery (volume, labels, timeliness) is said once, of the data set it makes.
        facts = anomalies.facts if self.asset == ARDS else anomalies.facts_of_rows
        return {day: facts(product, day, known) for day in contents}

    def _judge(
        self,
        contents: Mapping[date, Content],
        held: Mapping[date, _Held],
        known: Mapping[date, DayRecord],
    ) -> dict[date, Written]:
        """The days with their verdicts; of rows that were judged by the same rules, the results stay."""
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
        product, rejections = self.context.product, self._rejections(list(contents))
        judged = {}
        for day, content in contents.items():
            facts, previous = of_facts.get(day, []), known.get(day)
            verdict = _verdict(product, content, held[day], of_rows[day], facts, previous)
            rejection = in_force(product, content, rejections.get(day, ()))
            if rejection is not None:
                verdict = _rejected(verdict, rejection)
            reason = content.metadata.get(UNREADABLE)
            judged[day] = verdict if reason is None else unreadable(verdict, reason)
        return judged

    def _rejections(self, days: Sequence[date]) -> Mapping[date, Sequence[Rejection]]:
        """What people have rejected of some days; what is made of these is held back anyway."""
        if self.asset != ARDS:
            return {}
        return Rejections(self.context.tables, self.context.product.name).read(days)

    def _validate(
        self, days: Sequence[date], held: Mapping[date, _Held], contents: Mapping[date, Content]
    ) -> dict[date, list[Result]]:
        context, tables = self.context, self.context.tables
        name = context.product.name
        files = tables.day_files(name, self.asset)
        # A column that the contract has lost stays in the table, and is no concern of its days.
        own = set(context.product.data_set_columns(self._data_set))
        types = {
            column: type_ for column, type_ in tables.column_types(name, self.asset).items() if column in own
        }
        return validation.validate(
            context.product,
            self._data_set,
            lambda: tables.read_days(context.spark, name, self.asset, days),
            types,
            {day: held[day].suite for day in days},
            {day: contents[day].rows for day in days},
            maximum_rows=context.settings.validation_rows_in_memory,
            session=context.open_spark,
            files=(files, tables.version(name, self.asset)) if files else None,
        )


def _judgeable(records: Mapping[date, DayRecord]) -> dict[date, Content]:
    """The days that have something to be judged, with their content."""
    return {
        day: Content.of(record)
        for day, record in records.items()
        if record.outcome == "blocked"
        or (record.outcome == "written" and record.counts.get("rows"))
        or (record.outcome == "empty" and record.counts.get("quarantined"))
    }


def _verdict(
    product: Product,
    content: Content,
    held: _Held,
    of_rows: Sequence[Result],
    of_facts: Sequence[Result],
    previous: DayRecord | None,
) -> Written:
    quality = Quality((*of_rows, *of_facts))
    acceptance = _acceptance(previous)
    accepted = _still_accepted(product, content, quality, previous)
    outcome: Outcome = "blocked"
    reason = quality.reason
    if quality.passed or accepted:
        outcome, reason = ("written", "") if content.rows else ("empty", WITHOUT_USABLE_ROWS)
    return _written(
        content,
        outcome,
        reason,
        checks=(quality_check(quality, accepted),),
        details={
            "quality": quality.plain(),
            "row_results": len(of_rows),
            "judged": {"rows": held.rows_hash, "facts": held.facts_hash},
        },
        accepted=accepted,
        barred=acceptance[2] if accepted and acceptance else (None, None),
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


def has_same_rows(product: Product, record: DayRecord, content: Content) -> bool:
    """Whether a day had the rows that it has, by all that is counted of them; labels may have come since."""
    before = Content.of(record)
    is_same = rows_hash(product, before) == rows_hash(product, content)
    # Records that are older than the count of rows alone have that of all records.
    counted = before.counts.get("quarantined") == content.counts.get("quarantined")
    return is_same and (counted or before.unusable_rows == content.unusable_rows)


def rows_hash(product: Product, content: Content) -> str:
    """A hash of all that is counted of a day's rows, but for their labels."""
    profile = content.profile.plain()
    columns = {name: of_column for name, of_column in profile["columns"].items() if name != product.label}
    return fingerprint_of([profile | {"columns": columns}, content.counts.get("rows")])


def in_force(product: Product, content: Content, rejections: Sequence[Rejection]) -> Rejection | None:
    """The first of a day's rejections that is of the rows which it has."""
    rows = rows_hash(product, content) if rejections else ""
    return next((rejection for rejection in rejections if rejection.rows == rows), None)


def rejected_check(rejection: Rejection, quality: Quality) -> Check:
    """The check ``data_quality`` of a day that a person has rejected."""
    return Check(
        name=DATA_QUALITY,
        passed=False,
        severity="ERROR",
        description=f"{rejection.words}; {quality.summary}",
        metadata={"errors": len(quality.errors), "warnings": len(quality.warnings)},
    )


def of_rejection(rejection: Rejection) -> dict[str, Any]:
    """What the details of a rejected day's record hold besides."""
    advice = "deliver the day again, or take that back (ml-platform reject --undo), and materialize it again"
    return {REJECTED: rejection.on.isoformat(), ADVICE: advice}


def _rejected(written: Written, rejection: Rejection) -> Written:
    return replace(
        written,
        outcome="blocked",
        reason=rejection.words,
        checks=(rejected_check(rejection, Quality.of(written.details["quality"])),),
        details=written.details | of_rejection(rejection),
        accepted=None,
        barred=(None, None),
    )


def unreadable(written: Written, reason: str) -> Written:
    """A day whose newest files can't be read, with the verdict on what came before: it can't be used now."""
    quality = Quality.of(written.details["quality"])
    check = Check(
        name=DATA_QUALITY,
        passed=False,
        severity="ERROR",
        description=f"{reason}; of what came before: {quality.summary}",
        metadata={"errors": len(quality.errors), "warnings": len(quality.warnings)},
    )
    return replace(
        written,
        outcome="blocked",
        reason=reason,
        checks=(check,),
        details=written.details | {ADVICE: _UNREADABLE_ADVICE, READABLE: _readable(written)},
        accepted=None,
        barred=(None, None),
    )


def _readable(written: Written) -> dict[str, Any]:
    """What the details keep of the verdict on what came before a delivery that can't be read."""
    return {
        "is_usable": written.outcome != "blocked",
        "accepted": written.accepted,
        "barred": [bound and bound.isoformat() for bound in written.barred],
    }


def _acceptance(record: DayRecord | None) -> tuple[str, str, tuple[date | None, date | None]] | None:
    """Who has accepted a day, why, and until when it couldn't be used; also before it couldn't be read."""
    if record is None:
        return None
    if record.accepted_by:
        return record.accepted_by, record.accepted_reason or "", record.barred
    kept = record.details.get(READABLE) or {}
    if not kept.get("accepted"):
        return None
    first, last = (bound and date.fromisoformat(bound) for bound in kept["barred"])
    by, reason = kept["accepted"]
    return by, reason, (first, last)


def _still_accepted(
    product: Product, content: Content, quality: Quality, previous: DayRecord | None
) -> tuple[str, str] | None:
    """Who accepted the day, if it has the same rows and nothing else fails than what was accepted."""
    acceptance = _acceptance(previous)
    if previous is None or acceptance is None:
        return None
    if previous.fingerprint != content.fingerprint and not has_same_rows(product, previous, content):
        return None
    if not content.rows and previous.counts != content.counts:
        return None  # no rows are all alike; another delivery of which nothing can be used isn't
    before = quality_of(previous)
    if before is None or quality.passed:
        return None
    if not {error.expectation for error in quality.errors} <= {error.expectation for error in before.errors}:
        return None
    return acceptance[:2]


def _written(content: Content, outcome: Outcome, reason: str, **more: Any) -> Written:
    details = {"profile": content.profile.plain(), **more.pop("details", {})}
    if content.history is not None:
        details[HISTORY] = content.history
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
