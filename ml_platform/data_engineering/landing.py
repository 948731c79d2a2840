"""The landing folder: which deliveries there are, and whether their headers can be right.

``landing/<product>/<event day>/*.csv[.gz]``. Only names, sizes and headers are looked at here; how a file is
opened is :mod:`.files`' business, and what is inside it :mod:`.parsing`'s.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import files, headers, knowledge, replacements
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.files import FileRules, UnreadableFile, shown
from ml_platform.data_engineering.knowledge import Arrivals, FileFacts, Known, Seen
from ml_platform.data_engineering.parsing import read_header
from ml_platform.data_engineering.replacements import ManifestError, is_manifest, manifests_in

_SUFFIXES = (".csv", ".csv.gz")
#: What other programs leave beside data; nobody expects it to be read.
_NO_DATA = (".", "_")
#: A day in a name that isn't just the day: 20240104, day=2024-01-04, 2024_1_4.
_A_DAY = re.compile(r"(?<!\d)(\d{4})[-_./]?(\d{1,2})[-_./]?(\d{1,2})(?!\d)")
_A_YEAR = re.compile(r"^(?:\w+=)?(\d{4})$")
#: What begins the part of a day's inputs that says which files came late.
LATE = "late "
#: Names in a message; more are counted.
_LISTED = 5
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


def delivered_days(product: Product, landing: Path) -> list[date]:
    """The event days that have a folder, or what refuses them in its place, ascending. Costs one listing."""
    try:
        entries = list(os.scandir(landing / product.name))
    except FileNotFoundError:
        return []
    return sorted(day for entry in entries if (day := _day_of(entry.name)) and _is_there(entry))


def folder_of(product: Product, landing: Path, day: date) -> Path:
    """Where a day's files lie."""
    return landing / product.name / day.isoformat()


def facts(product: Product, landing: Path, day: date) -> list[FileFacts]:
    """The files of a day as they lie there, by name; none if nothing was delivered, or can be looked at."""
    with contextlib.suppress(OSError):
        return [_facts(path) for path in _look_into(folder_of(product, landing, day)).paths]
    return []


def stamp(product: Product, landing: Path, day: date) -> str | None:
    """The stamp of a day's delivery, without opening a file; None if nothing was delivered."""
    try:
        paths = _look_into(folder_of(product, landing, day)).paths
        return _stamp(paths) if paths else None
    except OSError as error:
        return fingerprint_of(_why(error))


def size(product: Product, landing: Path, days: Iterable[date]) -> int:
    """Bytes of the deliveries of some days, as they lie there."""
    total = 0
    for day in days:
        with contextlib.suppress(OSError):  # such a day is refused, when it is scanned
            paths = _look_into(folder_of(product, landing, day)).paths
            total += sum(_facts(path).size for path in paths)
    return total


def last_change(product: Product, landing: Path, day: date) -> float | None:
    """When the newest file of a day was written, in seconds since 1970; None if nothing was delivered."""
    with contextlib.suppress(OSError):
        paths = _look_into(folder_of(product, landing, day)).paths
        return max((_facts(path).modified / 1e9 for path in paths), default=None)
    return None


def scan(
    product: Product,
    landing: Path,
    days: Iterable[date],
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
    found = {}
    for day in days:
        place = folder_of(product, landing, day)
        try:
            folder = _look_into(place)
            if not folder.paths:
                continue
            seen = arrivals.seen(day, map(_facts, folder.paths)) if arrivals is not None else None
            delivery = _delivery(product, day, folder, landing, rules, seen)
        except OSError as error:
            delivery = Delivery(day, (), fingerprint_of(_why(error)), _why(error))
        if delivery.refusal or any(not file.labels_only for file in delivery.files):
            found[day] = delivery
    return found


def absences(
    product: Product, landing: Path, days: Iterable[date], rules: FileRules | None = None
) -> dict[date, str]:
    """Why days have no rows, as far as can be seen: what was expected where, and what lies there instead.

    Nothing is said of a folder that lies elsewhere, unless links may lead there. Arguments as for
    :func:`scan`.
    """
    rules = rules or FileRules(root=str(landing))
    elsewhere: dict[date, list[str]] = {}
    years: dict[int, list[str]] = {}
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
    return {
        day: _absence(
            folder_of(product, landing, day), rules, [*elsewhere.get(day, ()), *years.get(day.year, ())]
        )
        for day in days
    }


@dataclass(frozen=True)
class _Folder:
    """What lies in a day's folder: the delivered files in file-name order, and the names of all else."""

    paths: Sequence[Path] = ()
    unread: tuple[str, ...] = ()


def _look_into(folder: Path) -> _Folder:
    """What lies in a folder; hidden files, and those that begin with an underscore, are nobody's data."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return _Folder()
    entries = [
        entry
        for entry in entries
        if _is_csv(entry.name) or not (entry.name.startswith(_NO_DATA) or is_manifest(entry.name))
    ]
    return _Folder(
        [folder / entry.name for entry in entries if _is_csv(entry.name)],
        tuple(_name(entry) for entry in entries if not _is_csv(entry.name)),
    )


def _is_csv(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


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


def _absence(place: Path, rules: FileRules, elsewhere: Sequence[str]) -> str:
    parts = [f"no rows have been delivered to {place}"]
    try:
        folder = _look_into(place) if rules.allows(place) else _Folder()
    except OSError as error:
        return _why(error)
    if folder.paths:
        names = (shown(path.name) for path in folder.paths)
        parts.append(f"there are labels only, in {listed(names)}")
    if folder.unread:
        parts.append(
            f"{listed(folder.unread)} can't be read: files of the name *.csv or *.csv.gz that lie directly "
            "in the day's folder are"
        )
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


def _facts(path: Path) -> FileFacts:
    status = path.stat()
    return FileFacts(path.name, status.st_size, status.st_mtime_ns)


def _stamp(paths: Sequence[Path]) -> str:
    """The stamp of a day's files, of which there is one at least; their manifests belong to them."""
    return fingerprint_of([_facts(path) for path in (*paths, *manifests_in(paths[0].parent))])


@dataclass(frozen=True)
class _LookedAt:
    """A file of a day's folder: since when it is known, and what its header says, or why it says nothing."""

    path: Path
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
    product: Product, day: date, path: Path, landing: Path, rules: FileRules, seen: Seen | None
) -> _LookedAt:
    looked_at = _LookedAt(path, _facts(path).size, knowledge.known(product, day, path.name, seen))
    try:
        _refuse_name(path.name)
        header = read_header(str(path), product.source, rules)
        likely_bytes = files.likely_bytes(str(path), rules)
    except UnreadableFile as error:
        return replace(looked_at, refusal=str(error))
    meaning = headers.resolve(product, header, day)
    problem = meaning.problem
    if problem and not FileRules(root=str(landing)).allows(path):
        # What a link may lead to is nobody's to read in a message.
        problem = "its header is not that of the contract"
    return replace(
        looked_at, header=header, meaning=meaning, likely_bytes=likely_bytes, refusal=problem or None
    )


def _delivery(
    product: Product, day: date, folder: _Folder, landing: Path, rules: FileRules, seen: Seen | None
) -> Delivery:
    facts = _stamp(folder.paths)
    place = folder_of(product, landing, day)
    if not rules.allows(place):
        return Delivery(day, (), facts, f"{place} {files.LEADS_OUT}")
    manifests = manifests_in(place)
    for manifest in manifests:
        if not rules.allows(manifest):
            return Delivery(day, (), facts, f"{shown(manifest.name)}: {files.LEADS_OUT}")
    looked_at = sorted(
        (_look_at(product, day, path, landing, rules, seen) for path in folder.paths),
        key=lambda file: file.order,
    )
    try:
        replacing = replacements.replacing([file.path for file in looked_at], manifests)
    except ManifestError as error:
        return Delivery(day, (), facts, shown(str(error)))
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
                known_on=file.known.labels,
                size=file.size,
                likely_bytes=file.likely_bytes,
                rules=rules,
                replaced=number < replacing,
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


def _refuse_name(name: str) -> None:
    """Refuse a name that no table, report or message could hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnreadableFile("its name is not UTF-8; rename it") from None
