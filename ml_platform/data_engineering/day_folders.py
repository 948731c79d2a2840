"""What lies in the folders of days: names, sizes and times, in a folder or an object store.

Nothing is opened here. What the files make of a day is :mod:`.landing`'s business.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering.files import shown
from ml_platform.data_engineering.formats import format_of
from ml_platform.data_engineering.knowledge import FileFacts
from ml_platform.data_engineering.object_store import ObjectPath, Place
from ml_platform.data_engineering.replacements import is_manifest

#: What other programs leave beside data; nobody expects it to be read.
_NO_DATA = (".", "_")
#: Days apart that a listing of an object store still covers, rather than another one being made.
LISTED_TOGETHER = 31
#: Names of folders whose days are known: those of a hundred years, which all products share.
_NAMES_KNOWN = 36_600


def folder_of(product: Product, landing: Place, day: date) -> Place:
    """Where a day's files lie."""
    return landing / product.name / day.isoformat()


@dataclass(frozen=True)
class Folder:
    """What lies in a day's folder, by name: the delivered files, their manifests, and the names of all else.

    ``unfinished`` are files of an object store that have no bytes yet: whoever writes them is still at it.
    """

    paths: Sequence[Place] = ()
    manifests: Sequence[Place] = ()
    unread: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


def folders_of(product: Product, landing: Place, days: Collection[date]) -> Callable[[date], Folder]:
    """What finds the folder of each of some days."""
    if not isinstance(landing, ObjectPath):
        return lambda day: look_into(folder_of(product, landing, day))
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


def _folder_of_objects(files: Iterable[ObjectPath]) -> Folder:
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
    return Folder(
        [inside[name] for name in ready],
        [inside[name] for name in ordered if is_manifest(name) and not name.startswith(".")],
        tuple(sorted(unread)),
        tuple(shown(name) for name in data if name not in ready),
    )


def _size(file: ObjectPath) -> int:
    return file.facts.size if file.facts is not None else 0


def look_into(folder: Place) -> Folder:
    """What lies in a folder; hidden files, and those that begin with an underscore, are nobody's data."""
    assert isinstance(folder, Path), "a listing says what lies in an object store"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return Folder()
    unread = [
        entry
        for entry in entries
        if not (_is_read(entry.name) or entry.name.startswith(_NO_DATA) or is_manifest(entry.name))
    ]
    return Folder(
        [folder / entry.name for entry in entries if _is_read(entry.name)],
        [
            folder / entry.name
            for entry in entries
            if is_manifest(entry.name) and not entry.name.startswith(".")
        ],
        tuple(map(name_of, unread)),
    )


def _is_read(name: str) -> bool:
    return format_of(name) is not None and not name.startswith(".")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that can't be followed
        return False


def is_there(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is more than a link to nothing; what isn't a folder refuses its day."""
    if is_folder(entry):
        return True
    try:
        entry.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def name_of(entry: os.DirEntry[str]) -> str:
    """What people are shown of an entry; a folder's name ends with a slash."""
    return shown(entry.name) + ("/" if is_folder(entry) else "")


@functools.lru_cache(maxsize=_NAMES_KNOWN)
def day_named(name: str) -> date | None:
    """The day that a folder with this name holds: none but that of the form 2024-01-04 is read."""
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None


def why(error: OSError) -> str:
    """Why a folder or a file can't be looked at."""
    return f"{shown(str(error.filename))}: can't be read: {error.strerror}"


def facts_of(path: Place) -> FileFacts:
    """The name, the size and the time of a file."""
    if isinstance(path, ObjectPath):
        assert path.facts is not None, "a listing knows its files"
        return path.facts
    status = path.stat()
    return FileFacts(path.name, status.st_size, status.st_mtime_ns)


def written_at(path: Place) -> float:
    """When a file was written, in seconds since 1970."""
    return path.written if isinstance(path, ObjectPath) else path.stat().st_mtime


def stamp_of(folder: Folder) -> str:
    """The stamp of a day's files, of which there is one at least; their manifests belong to them."""
    files = [facts_of(path) for path in (*folder.paths, *folder.manifests)]
    return fingerprint_of([*files, *folder.unfinished])
