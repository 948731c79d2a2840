"""The landing folder: which deliveries there are, and whether their headers can be right.

``landing/<product>/<event day>/*.csv``, or a file of another of the :mod:`.formats`. Only names, sizes and
headers are looked at here; what lies in a day's folder is :mod:`.day_folders`' business, how a file is opened
that of :mod:`.files`, and what is inside it :mod:`.parsing`'s.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import files, headers, knowledge, replacements
from ml_platform.data_engineering.day_folders import (
    Folder,
    day_named,
    facts_of,
    folder_of,
    folders_of,
    is_there,
    stamp_of,
    why,
    written_at,
)
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.files import FileRules, UnreadableFile, shown
from ml_platform.data_engineering.formats import Format, format_of
from ml_platform.data_engineering.knowledge import Arrivals, FileFacts, Known, Seen
from ml_platform.data_engineering.object_store import ObjectPath, Place
from ml_platform.data_engineering.parsing import read_head
from ml_platform.data_engineering.replacements import ManifestError

#: What begins the part of a day's inputs that says which files came late.
LATE = "late "
#: Names in a message; more are counted.
_LISTED = 5
_NO_BYTES = (
    "has no bytes, as if it were still being written; the day is read when it has, or when it is deleted"
)


@dataclass(frozen=True)
class Unreadable:
    """A later delivery of a day that can't be read, so that the day is as it was before it.

    Attributes:
        since: the morning on which it is known.
    """

    since: date
    reason: str


@dataclass(frozen=True)
class Delivery:
    """The files of one event day, or those that were known before one of them that can't be read.

    ``stamp`` changes whenever a file or a manifest is added, removed or written again. ``refusal`` says why
    the day can't be read, if so. ``ignored_columns`` and ``missing_columns`` count, by name, the files with a
    column that the contract doesn't read, and those with rows that lack a declared one. ``unread`` are the
    names of what lies beside the files and isn't read, ``late`` those of files that came after the day had
    been looked at, and ``ahead`` those of files that say a later date than that on which they came, each with
    the morning on which it came. ``unreadable`` tells of the first morning whose files aren't among these,
    ``unreadable_between`` of mornings from one on and before another on which a file counted whose header
    can't be read, and which was replaced.
    """

    day: date
    files: tuple[DeliveryFile, ...]
    stamp: str
    refusal: str | None = None
    unreadable: Unreadable | None = None
    unreadable_between: tuple[tuple[date, date], ...] = ()
    ignored_columns: Mapping[str, int] = field(default_factory=dict)
    missing_columns: Mapping[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    late: Mapping[str, date] = field(default_factory=dict)
    ahead: Mapping[str, date] = field(default_factory=dict)

    @property
    def problem(self) -> str | None:
        """Why the day, or a later delivery of it, can't be read."""
        return self.refusal or (self.unreadable.reason if self.unreadable is not None else None)

    @property
    def inputs(self) -> str:
        """What rows depend on: the files, and since when those are known that came late."""
        inputs = made_from(self.stamp, self.late)
        if self.unreadable is None:
            return inputs
        return f"{inputs}/{fingerprint_of([str(self.unreadable.since), self.unreadable.reason])}"

    def before_newest(self, reason: str) -> Delivery | None:
        """The same without the files that are known last, which can't be read; None without any before them.

        Args:
            reason: why they can't.
        """
        since = max(_known_on(file) for file in self.files)
        # What this replaced in vain counts again.
        since = min([since, *(began for began, until in self.unreadable_between if until >= since)])
        earlier = [file for file in self.files if _known_on(file) < since]
        if all(file.labels_only for file in earlier):
            return None
        replacing = max((file.number for file in earlier if file.replaces), default=-1)
        return replace(
            self,
            files=tuple(replace(file, replaced=file.number < replacing) for file in earlier),
            unreadable=Unreadable(since, reason),
            unreadable_between=tuple(gap for gap in self.unreadable_between if gap[1] < since),
        )


def _known_on(file: DeliveryFile) -> date:
    return file.known_on if file.labels_only else file.rows_known_on


def made_from(stamp: str, late: Mapping[str, date]) -> str:
    """The inputs of a day with this stamp and these late files."""
    if not late:
        return stamp
    return f"{stamp}/{LATE}{fingerprint_of([[name, str(day)] for name, day in late.items()])}"


def delivered_days(product: Product, landing: Place) -> list[date]:
    """The event days that have a folder, or what refuses them in its place, ascending. Costs one listing."""
    if isinstance(landing, ObjectPath):
        return [day for name in (landing / product.name).folders() if (day := day_named(name))]
    try:
        entries = list(os.scandir(landing / product.name))
    except FileNotFoundError:
        return []
    return sorted(day for entry in entries if (day := day_named(entry.name)) and is_there(entry))


@dataclass(frozen=True)
class Look:
    """What lies there of a day, without opening a file.

    Attributes:
        stamp: that of its delivery; None if nothing was delivered.
        files: by name; none of a day that can't be looked at.
        changed: when the newest file was written, in seconds since 1970; None without files.
        is_unfinished: whether a file is still being written, so that the day is neither whole nor gone.
    """

    stamp: str | None = None
    files: Sequence[FileFacts] = ()
    changed: float | None = None
    is_unfinished: bool = False


def looks(product: Product, landing: Place, days: Collection[date]) -> dict[date, Look]:
    """What lies there of some days; in an object store a listing for days that are close together."""
    folder = folders_of(product, landing, days)
    found = {}
    for day in days:
        try:
            of_day = folder(day)
            files = [facts_of(path) for path in of_day.paths]
            changed = max(map(written_at, of_day.paths), default=None)
            stamped = stamp_of(of_day) if files or of_day.unfinished else None
            found[day] = Look(stamped, files, changed, bool(of_day.unfinished))
        except OSError as error:
            found[day] = Look(fingerprint_of(why(error)))
    return found


def stamp(product: Product, landing: Place, day: date) -> str | None:
    """The stamp of a day's delivery, without opening a file; None if nothing was delivered."""
    return looks(product, landing, [day])[day].stamp


def size(product: Product, landing: Place, days: Collection[date]) -> int:
    """Bytes of the deliveries of some days, as they lie there."""
    # A day that can't be looked at is refused, when it is scanned.
    return sum(file.size for look in looks(product, landing, days).values() for file in look.files)


def last_change(product: Product, landing: Place, day: date) -> float | None:
    """When the newest file of a day was written, in seconds since 1970; None if nothing was delivered."""
    return looks(product, landing, [day])[day].changed


def scan(
    product: Product,
    landing: Place,
    days: Collection[date],
    rules: FileRules | None = None,
    arrivals: Arrivals | None = None,
) -> dict[date, Delivery]:
    """The deliveries of ``days``; a day for which nothing was delivered is absent.

    A day that has label files only is absent too: its rows have not been delivered yet. One whose folder or
    files can't be listed is refused; the others continue.

    Args:
        rules: how files may be opened; by default, with links inside ``landing`` only.
        arrivals: when files were first seen, as far as somebody has looked.
    """
    rules = rules or FileRules(root=str(landing))
    found, of_day = {}, folders_of(product, landing, days)
    for day in days:
        try:
            folder = of_day(day)
            if not folder.paths and not folder.unfinished:
                continue
            seen = arrivals.seen(day, map(facts_of, folder.paths)) if arrivals is not None else None
            delivery = _delivery(product, day, folder, landing, rules, seen)
        except OSError as error:
            delivery = Delivery(day, (), fingerprint_of(why(error)), why(error))
        if delivery.refusal or any(not file.labels_only for file in delivery.files):
            found[day] = delivery
    return found


def listed(names: Iterable[str]) -> str:
    """Some names in a message, as many as one reads."""
    every = list(names)
    more = f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


@dataclass(frozen=True)
class _LookedAt:
    """A file of a day's folder: since when it is known, and what its header says, or why it says nothing."""

    path: Place
    size: int
    known: Known
    header: tuple[str, ...] = ()
    meaning: headers.Header | None = None
    likely_bytes: int = 0
    refusal: str | None = None

    @property
    def order(self) -> tuple[date, str]:
        """Sorts a day's files as they count: the one known later after the others, then by name."""
        labels_only = self.meaning is not None and self.meaning.labels_only
        return self.known.labels if labels_only else self.known.rows, self.path.name


def _look_at(
    product: Product, day: date, path: Place, landing: Place, rules: FileRules, seen: Seen | None
) -> _LookedAt:
    looked_at = _LookedAt(path, facts_of(path).size, knowledge.known(product, day, path.name, seen))
    try:
        _refuse_name(path.name)
        header, likely_bytes = read_head(str(path), path.name, product.source, rules)
    except UnreadableFile as error:
        return replace(looked_at, refusal=str(error))
    meaning = headers.resolve(product, header, day, format_of(path.name) or Format.CSV)
    problem = meaning.problem
    if problem and not FileRules(root=str(landing)).allows(path):
        # What a link may lead to is nobody's to read in a message.
        problem = "its header is not that of the contract"
    return replace(
        looked_at, header=header, meaning=meaning, likely_bytes=likely_bytes, refusal=problem or None
    )


def _delivery(
    product: Product, day: date, folder: Folder, landing: Place, rules: FileRules, seen: Seen | None
) -> Delivery:
    facts = stamp_of(folder)
    place = folder_of(product, landing, day)
    if not rules.allows(place):
        return Delivery(day, (), facts, f"{place} {files.LEADS_OUT}")
    if folder.unfinished:
        return Delivery(day, (), facts, f"{listed(folder.unfinished)}: {_NO_BYTES}")
    for manifest in folder.manifests:
        if not rules.allows(manifest):
            return Delivery(day, (), facts, f"{shown(manifest.name)}: {files.LEADS_OUT}")
    looked_at = sorted(
        (_look_at(product, day, path, landing, rules, seen) for path in folder.paths),
        key=lambda file: file.order,
    )
    try:
        whole = _delivery_of(product, day, looked_at, folder.manifests, folder.unread, facts, rules, seen)
    except _OutOfOrderError as error:
        return Delivery(day, (), facts, str(error))
    if whole.refusal is None:
        return whole
    known_on = {file.path.name: file.order[0] for file in looked_at}
    for manifest in folder.manifests:
        name = replacements.file_of(manifest.name)
        known_on.setdefault(name, knowledge.known(product, day, name, seen).rows)
    refusal: str = whole.refusal
    for since in sorted(set(known_on.values()), reverse=True):
        before = [file for file in looked_at if file.order[0] < since]
        manifests = [path for path in folder.manifests if known_on[replacements.file_of(path.name)] < since]
        try:
            delivery = _delivery_of(product, day, before, manifests, folder.unread, facts, rules, seen)
        except _OutOfOrderError as error:
            refusal = str(error)
            continue
        if delivery.refusal is None and any(not file.labels_only for file in delivery.files):
            return replace(delivery, unreadable=Unreadable(since, refusal))
        refusal = delivery.refusal or refusal
    return whole


def _delivery_of(
    product: Product,
    day: date,
    looked_at: Sequence[_LookedAt],
    manifests: Sequence[Place],
    unread: tuple[str, ...],
    facts: str,
    rules: FileRules,
    seen: Seen | None,
) -> Delivery:
    """What some of the files of a day's folder deliver, in the order in which they count."""
    try:
        all_replacing = replacements.replacing([file.path for file in looked_at], manifests)
    except ManifestError as error:
        return Delivery(day, (), facts, shown(str(error)))
    replacing = all_replacing[-1] if all_replacing else -1
    _refuse_other_order(looked_at, replacing)
    with_rows = [file.known.rows for file in looked_at if file.meaning and not file.meaning.labels_only]
    first_rows = min(with_rows, default=date.min)
    found = []
    ignored: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    between: list[tuple[date, date]] = []
    for number, file in enumerate(looked_at):
        name = shown(file.path.name)
        if file.refusal:
            if number < replacing:
                after = min(place for place in all_replacing if place > number)
                between.append((file.order[0], looked_at[after].known.rows))
                continue
            return Delivery(day, (), facts, f"{name}: {file.refusal}")
        meaning = file.meaning
        assert meaning is not None, "a file that isn't refused has a header"
        if number == replacing and meaning.labels_only:
            problem = "a file of labels can't replace a day's rows; take `replaces` out of its manifest"
            return Delivery(day, (), facts, f"{name}: {problem}")
        if number >= replacing:
            ignored.update(map(shown, meaning.ignored))
            missing.update(meaning.missing)
        found.append(
            DeliveryFile(
                day=day,
                path=str(file.path),
                name=file.path.name,
                number=number,
                labels_only=meaning.labels_only,
                header=file.header,
                # A label says nothing before there is a row that it is of.
                known_on=max(file.known.labels, first_rows),
                size=file.size,
                likely_bytes=file.likely_bytes,
                rules=rules,
                replaced=number < replacing,
                replaces=number in all_replacing,
                rows_on=file.known.rows,
            )
        )
    return Delivery(
        day,
        tuple(found),
        facts,
        unreadable_between=tuple(between),
        ignored_columns=dict(ignored),
        missing_columns=dict(missing),
        unread=unread,
        late=seen.late_files if seen is not None else {},
        ahead=knowledge.dated_ahead(product, day, [file.name for file in found], seen),
    )


class _OutOfOrderError(ValueError):
    """Since when files are known isn't the order in which they were meant to count."""


def _refuse_other_order(looked_at: Sequence[_LookedAt], replacing: int) -> None:
    """See that a file that replaces others replaces those that it was meant to."""
    if replacing < 0:
        return
    file = looked_at[replacing]
    missed = [
        shown(later.path.name)
        for later in looked_at[replacing + 1 :]
        if later.path.name < file.path.name and not (later.meaning and later.meaning.labels_only)
    ]
    if not missed:
        return
    raise _OutOfOrderError(
        f"{shown(file.path.name)} replaces what came before it, and {listed(missed)} came later, as the "
        "dates at the heads of their names say; begin its name with the date on which it was delivered"
    )


def _refuse_name(name: str) -> None:
    """Refuse a name that no table, report or message could hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnreadableFile("its name is not UTF-8; rename it") from None
