"""The landing folder: which deliveries there are, and whether their headers can be right.

``landing/<product>/<event day>/*.csv[.gz]``. Only names, sizes and headers are looked at here; what is
inside the files is :mod:`.parsing`'s business.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from ml_platform.data_engineering import headers, replacements
from ml_platform.data_engineering.parsing import DeliveryFile, UnreadableFile, read_header
from ml_platform.data_engineering.replacements import ManifestError, manifests_in
from ml_platform.product import Product, fingerprint_of

_DELIVERED_ON = re.compile(r"^(\d{4}-\d{2}-\d{2})")
_SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True)
class Delivery:
    """The files of one event day.

    ``stamp`` changes whenever a file or a manifest is added, removed or written again. ``refusal`` says why
    the day can't be read, if so. ``ignored_columns`` and ``missing_columns`` count, by name, the files with a
    column that the contract doesn't read, and those with rows that lack a declared one.
    """

    day: date
    files: tuple[DeliveryFile, ...]
    stamp: str
    refusal: str | None = None
    ignored_columns: Mapping[str, int] = field(default_factory=dict)
    missing_columns: Mapping[str, int] = field(default_factory=dict)


def delivered_days(product: Product, landing: Path) -> list[date]:
    """The event days that have a folder, ascending. Costs one directory listing."""
    try:
        names = os.listdir(landing / product.name)  # noqa: PTH208 - no stat for thousands of days
    except FileNotFoundError:
        return []
    days = []
    for name in names:
        try:
            days.append(date.fromisoformat(name))
        except ValueError:
            continue
    return sorted(days)


def stamp(product: Product, landing: Path, day: date) -> str | None:
    """The stamp of a day's delivery, without opening a file; None if nothing was delivered."""
    try:
        paths = _csv_files(landing / product.name / day.isoformat())
        return _stamp(paths) if paths else None
    except OSError as error:
        return fingerprint_of(_why(error))


def size(product: Product, landing: Path, days: Iterable[date]) -> int:
    """Bytes of the deliveries of some days, as they lie there."""
    total = 0
    for day in days:
        with contextlib.suppress(OSError):  # such a day is refused, when it is scanned
            total += sum(_facts(path)[1] for path in _csv_files(landing / product.name / day.isoformat()))
    return total


def scan(product: Product, landing: Path, days: Iterable[date]) -> dict[date, Delivery]:
    """The deliveries of ``days``; a day for which nothing was delivered is absent.

    A day that has label files only is absent too: its rows have not been delivered yet. One whose folder or
    files can't be looked at is refused, the others are not concerned.
    """
    found = {}
    for day in days:
        try:
            paths = _csv_files(landing / product.name / day.isoformat())
            if not paths:
                continue
            delivery = _delivery(product, day, paths)
        except OSError as error:
            delivery = Delivery(day, (), fingerprint_of(_why(error)), _why(error))
        if delivery.refusal or any(not file.labels_only for file in delivery.files):
            found[day] = delivery
    return found


def known_on(product: Product, day: date, name: str) -> date:
    """The day on which labels in a file became known: its delivery date, or the contract's delay."""
    match = _DELIVERED_ON.match(name)
    if match:
        try:
            return date.fromisoformat(match.group(1))
        except ValueError:
            pass
    return day + timedelta(days=1 + product.source.label_delay_days)


def _csv_files(folder: Path) -> list[Path]:
    """The CSV files of a folder in file-name order; hidden and other files are not deliveries."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    names = [e.name for e in entries if e.name.endswith(_SUFFIXES) and not e.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def _why(error: OSError) -> str:
    return f"{error.filename}: can't be read: {error.strerror}"


def _facts(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def _stamp(paths: Sequence[Path]) -> str:
    """The stamp of a day's files, of which there is one at least; their manifests belong to them."""
    return fingerprint_of([_facts(path) for path in (*paths, *manifests_in(paths[0].parent))])


def _delivery(product: Product, day: date, paths: list[Path]) -> Delivery:
    known = [_facts(path) for path in paths]
    facts = _stamp(paths)
    try:
        replacing = replacements.replacing(paths, manifests_in(paths[0].parent))
    except ManifestError as error:
        return Delivery(day, (), facts, str(error))
    files = []
    ignored: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for number, path in enumerate(paths):
        try:
            header = read_header(str(path), product.source)
        except UnreadableFile as error:
            if number < replacing:
                continue
            return Delivery(day, (), facts, f"{path.name}: {error}")
        meaning = headers.resolve(product, header, day)
        if meaning.problem and number < replacing:
            continue
        if meaning.problem:
            return Delivery(day, (), facts, f"{path.name}: {meaning.problem}")
        if number == replacing and meaning.labels_only:
            problem = "a file of labels can't replace a day's rows; take `replaces` out of its manifest"
            return Delivery(day, (), facts, f"{path.name}: {problem}")
        if number >= replacing:
            ignored.update(meaning.ignored)
            missing.update(meaning.missing)
        files.append(
            DeliveryFile(
                day=day,
                path=str(path),
                name=path.name,
                number=number,
                labels_only=meaning.labels_only,
                header=header,
                known_on=known_on(product, day, path.name),
                size=known[number][1],
                replaced=number < replacing,
            )
        )
    return Delivery(day, tuple(files), facts, ignored_columns=dict(ignored), missing_columns=dict(missing))
