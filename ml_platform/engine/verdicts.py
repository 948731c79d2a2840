"""The verdict on a day's content: the check ``data_quality`` of the ARDS and the MRDS.

A day's content and its verdict are two things. The content is done again when the delivery changes; the
verdict when the content, the contract's rules, or the days before it change, without the content being
written again. How a verdict is reached is :mod:`ml_platform.mlops.quality.validation`'s business.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar

from ml_platform.contract.assets import DATA_QUALITY, VALIDATION_VERSION
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.monitoring import DataSet
from ml_platform.contract.product import Product
from ml_platform.engine.run_days import DailyStep
from ml_platform.engine.step import Check, Written, quality_of
from ml_platform.mlops.quality import anomalies, expectations, validation
from ml_platform.mlops.quality.anomalies import DayFacts, Fact
from ml_platform.mlops.quality.expectations import Expectation
from ml_platform.mlops.quality.profiles import Profile
from ml_platform.mlops.quality.validation import Quality, Result
from ml_platform.storage.ledger import DayRecord, Outcome
from ml_platform.storage.tables import column


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
        windows = [anomalies.window(product, day) for day in contents]
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
