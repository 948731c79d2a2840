"""The landing folder: which deliveries there are, and whether their headers can be right.

``landing/<product>/<event day>/*.csv``, or a file of another of the :mod:`.formats`. Only names, sizes and
headers are looked at here; how a file is opened is :mod:`.files`' business, and what is inside it
:mod:`.parsing`'s.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import files, headers, knowledge, replacements
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.files import FileRules, UnreadableFile, shown
from ml_platform.data_engineering.formats import NAMES, Format, format_of, to_do
from ml_platform.data_engineering.knowledge import Arrivals, FileFacts, Known, Seen
from ml_platform.data_engineering.object_store import ObjectPath, Place
from ml_platform.data_engineering.parsing import read_head
from ml_platform.data_engineering.replacements import ManifestError, is_manifest

#: What other programs leave beside data; nobody expects it to be read.
_NO_DATA = (".", "_")
#: A day in a name that isn't just the day: 20240104, day=2024-01-04, 2024_1_4.
_A_DAY = re.compile(r"(?<!\d)(\d{4})[-_./]?(\d{1,2})[-_./]?(\d{1,2})(?!\d)")
_A_YEAR = re.compile(r"^(?:\w+=)?(\d{4})$")
#: What begins the part of a day's inputs that says which files came late.
LATE = "late "
#: Names in a message; more are counted.
_LISTED = 5
_NO_BYTES = (
    "has no bytes, as if it were still being written; the day is read when it has, or when it is deleted"
)
#: Days apart that a listing of an object store still covers, rather than another one being made.
LISTED_TOGETHER = 31
#: Names of folders whose days are known: those of a hundred years, which all products share.
_NAMES_KNOWN = 36_600


@dataclass(frozen=True)
class Delivery:
    """The files of one event day.

    ``stamp`` changes whenever a file or a manifest is added, removed or written again. ``refusal`` says why
    the day can't be read, if so. ``ignored_columns`` and ``missing_columns`` count, by name, the files with a
    column that the contract doesn't read, and those with rows that lack a declared one. ``unread`` are the
    names of what lies beside the files and isn't read, ``late`` those of files that came after the day had
    been looked at, with the morning on which each came.
    """

    day: date
    files: tuple[DeliveryFile, ...]
    stamp: str
    refusal: str | None = None
    ignored_columns: Mapping[str, int] = field(default_factory=dict)
    missing_columns: Mapping[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    late: Mapping[str, date] = field(default_factory=dict)

    @property
    def inputs(self) -> str:
        """What rows depend on: the files, and since when those are known that came late."""
        return made_from(self.stamp, self.late)


def made_from(stamp: str, late: Mapping[str, date]) -> str:
    """The inputs of a day with this stamp and these late files."""
    if not late:
        return stamp
    return f"{stamp}/{LATE}{fingerprint_of([[name, str(day)] for name, day in late.items()])}"


def delivered_days(product: Product, landing: Place) -> list[date]:
    """The event days that have a folder, or what refuses them in its place, ascending. Costs one listing."""
    if isinstance(landing, ObjectPath):
        return [day for name in (landing / product.name).folders() if (day := _day_of(name))]
    try:
        entries = list(os.scandir(landing / product.name))
    except FileNotFoundError:
        return []
    return sorted(day for entry in entries if (day := _day_of(entry.name)) and _is_there(entry))


def folder_of(product: Product, landing: Place, day: date) -> Place:
    """Where a day's files lie."""
    return landing / product.name / day.isoformat()


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
    folder = _folders(product, landing, days)
    found = {}
    for day in days:
        try:
            of_day = folder(day)
            files = [_facts(path) for path in of_day.paths]
            changed = max(map(_written, of_day.paths), default=None)
            stamped = _stamp(of_day) if files or of_day.unfinished else None
            found[day] = Look(stamped, files, changed, bool(of_day.unfinished))
        except OSError as error:
            found[day] = Look(fingerprint_of(_why(error)))
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
    found, of_day = {}, _folders(product, landing, days)
    for day in days:
        try:
            folder = of_day(day)
            if not folder.paths and not folder.unfinished:
                continue
            seen = arrivals.seen(day, map(_facts, folder.paths)) if arrivals is not None else None
            delivery = _delivery(product, day, folder, landing, rules, seen)
        except OSError as error:
            delivery = Delivery(day, (), fingerprint_of(_why(error)), _why(error))
        if delivery.refusal or any(not file.labels_only for file in delivery.files):
            found[day] = delivery
    return found


def absences(
    product: Product, landing: Place, days: Collection[date], rules: FileRules | None = None
) -> dict[date, str]:
    """Why days have no rows, as far as can be seen: what was expected where, and what lies there instead.

    Nothing is said of a folder that lies elsewhere, unless links may lead there. Arguments as for
    :func:`scan`.
    """
    rules = rules or FileRules(root=str(landing))
    elsewhere: dict[date, list[str]] = {}
    years: dict[int, list[str]] = {}
    if isinstance(landing, ObjectPath):
        of_day = _folders(product, landing, days)
        return {day: _absence(folder_of(product, landing, day), of_day(day), ()) for day in days}
    try:
        entries = sorted(os.scandir(landing / product.name), key=lambda entry: entry.name)
    except OSError:
        entries = []
    if not rules.allows(landing / product.name):
        entries = []
    for entry in entries:
        if _day_of(entry.name) and _is_there(entry):
            continue
        if day := _day_in(entry.name):
            elsewhere.setdefault(day, []).append(_name(entry))
        elif (year := _A_YEAR.match(entry.name)) and _is_folder(entry):
            years.setdefault(int(year[1]), []).append(_name(entry))
    found = {}
    for day in days:
        place = folder_of(product, landing, day)
        try:
            folder = _look_into(place) if rules.allows(place) else _Folder()
        except OSError as error:
            found[day] = _why(error)
            continue
        found[day] = _absence(place, folder, [*elsewhere.get(day, ()), *years.get(day.year, ())])
    return found


@dataclass(frozen=True)
class _Folder:
    """What lies in a day's folder, by name: the delivered files, their manifests, and the names of all else.

    ``unfinished`` are files of an object store that have no bytes yet: whoever writes them is still at it.
    """

    paths: Sequence[Place] = ()
    manifests: Sequence[Place] = ()
    unread: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


def _folders(product: Product, landing: Place, days: Collection[date]) -> Callable[[date], _Folder]:
    """What finds the folder of each of some days."""
    if not isinstance(landing, ObjectPath):
        return lambda day: _look_into(folder_of(product, landing, day))
    found: dict[str, list[ObjectPath]] = {}
    for first, last in _together(days):
        found |= (landing / product.name).files_by_folder(first.isoformat(), last.isoformat())
    return lambda day: _folder_of_objects(found.get(day.isoformat(), ()))


def _together(days: Collection[date]) -> list[tuple[date, date]]:
    """Few ranges that hold some days, each of which is listed at once."""
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and (day - found[-1][1]).days <= LISTED_TOGETHER:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def _folder_of_objects(files: Iterable[ObjectPath]) -> _Folder:
    """What a listing of a day's files says; a name with a slash is that of a file in a folder."""
    inside: dict[str, ObjectPath] = {}
    folders = set()
    for file in files:
        assert file.facts is not None, "a listing knows its files"
        folder, separator, _ = file.facts.name.partition("/")
        if separator:
            folders.add(f"{shown(folder)}/")
        else:
            inside[file.facts.name] = file
    ordered = sorted(inside)
    data = [name for name in ordered if _is_read(name)]
    ready = [name for name in data if _size(inside[name])]
    others = [
        name for name in ordered if not (_is_read(name) or is_manifest(name) or name.startswith(_NO_DATA))
    ]
    # A store with folders of its own lists these as files without bytes.
    unread = {*folders, *(shown(name) for name in others if f"{shown(name)}/" not in folders)}
    return _Folder(
        [inside[name] for name in ready],
        [inside[name] for name in ordered if is_manifest(name) and not name.startswith(".")],
        tuple(sorted(unread)),
        tuple(shown(name) for name in data if name not in ready),
    )


def _size(file: ObjectPath) -> int:
    return file.facts.size if file.facts is not None else 0


def _look_into(folder: Place) -> _Folder:
    """What lies in a folder; hidden files, and those that begin with an underscore, are nobody's data."""
    assert isinstance(folder, Path), "a listing says what lies in an object store"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return _Folder()
    unread = [
        entry
        for entry in entries
        if not (_is_read(entry.name) or entry.name.startswith(_NO_DATA) or is_manifest(entry.name))
    ]
    return _Folder(
        [folder / entry.name for entry in entries if _is_read(entry.name)],
        [
            folder / entry.name
            for entry in entries
            if is_manifest(entry.name) and not entry.name.startswith(".")
        ],
        tuple(map(_name, unread)),
    )


def _is_read(name: str) -> bool:
    return format_of(name) is not None and not name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that can't be followed
        return False


def _is_there(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is more than a link to nothing; what isn't a folder refuses its day."""
    if _is_folder(entry):
        return True
    try:
        entry.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _name(entry: os.DirEntry[str]) -> str:
    return shown(entry.name) + ("/" if _is_folder(entry) else "")


@functools.lru_cache(maxsize=_NAMES_KNOWN)
def _day_of(name: str) -> date | None:
    """The day that a folder with this name holds: none but that of the form 2024-01-04 is read."""
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None


def _day_in(name: str) -> date | None:
    """The day that somebody may mean by a name."""
    match = _A_DAY.search(name)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _absence(place: Place, folder: _Folder, elsewhere: Sequence[str]) -> str:
    parts = [f"no rows have been delivered to {place}"]
    if folder.paths:
        names = (shown(path.name) for path in folder.paths)
        parts.append(f"there are labels only, in {listed(names)}")
    if folder.unread:
        parts.append(
            f"{listed(folder.unread)} can't be read: files of the names {NAMES} that lie directly in the "
            "day's folder are"
        )
        parts += dict.fromkeys(what for name in folder.unread if (what := to_do(name)))
    if elsewhere:
        parts.append(
            f"rows may be in {listed(elsewhere)} beside it, whose name is not that of the day's folder"
        )
    return "; ".join(parts)


def listed(names: Iterable[str]) -> str:
    """Some names in a message, as many as one reads."""
    every = list(names)
    more = f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


def _why(error: OSError) -> str:
    return f"{shown(str(error.filename))}: can't be read: {error.strerror}"


def _facts(path: Place) -> FileFacts:
    if isinstance(path, ObjectPath):
        assert path.facts is not None, "a listing knows its files"
        return path.facts
    status = path.stat()
    return FileFacts(path.name, status.st_size, status.st_mtime_ns)


def _written(path: Place) -> float:
    """When a file was written, in seconds since 1970."""
    return path.written if isinstance(path, ObjectPath) else path.stat().st_mtime


def _stamp(folder: _Folder) -> str:
    """The stamp of a day's files, of which there is one at least; their manifests belong to them."""
    files = [_facts(path) for path in (*folder.paths, *folder.manifests)]
    return fingerprint_of([*files, *folder.unfinished])


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
    looked_at = _LookedAt(path, _facts(path).size, knowledge.known(product, day, path.name, seen))
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
    product: Product, day: date, folder: _Folder, landing: Place, rules: FileRules, seen: Seen | None
) -> Delivery:
    facts = _stamp(folder)
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
        all_replacing = replacements.replacing([file.path for file in looked_at], folder.manifests)
    except ManifestError as error:
        return Delivery(day, (), facts, shown(str(error)))
    replacing = all_replacing[-1] if all_replacing else -1
    if problem := _replaced_otherwise(looked_at, replacing):
        return Delivery(day, (), facts, problem)
    with_rows = [file.known.rows for file in looked_at if file.meaning and not file.meaning.labels_only]
    first_rows = min(with_rows, default=date.min)
    found = []
    ignored: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for number, file in enumerate(looked_at):
        name = shown(file.path.name)
        if file.refusal:
            if number < replacing:
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
        ignored_columns=dict(ignored),
        missing_columns=dict(missing),
        unread=folder.unread,
        late=seen.late_files if seen is not None else {},
    )


def _replaced_otherwise(looked_at: Sequence[_LookedAt], replacing: int) -> str | None:
    """Why a file that replaces others may not replace those that it was meant to; None if it does."""
    if replacing < 0:
        return None
    file = looked_at[replacing]
    missed = [
        shown(later.path.name)
        for later in looked_at[replacing + 1 :]
        if later.path.name < file.path.name and not (later.meaning and later.meaning.labels_only)
    ]
    if not missed:
        return None
    return (
        f"{shown(file.path.name)} replaces what came before it, and {listed(missed)} came later, as the "
        "dates at the heads of their names say; begin its name with the date on which it was delivered"
    )


def _refuse_name(name: str) -> None:
    """Refuse a name that no table, report or message could hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnreadableFile("its name is not UTF-8; rename it") from None
