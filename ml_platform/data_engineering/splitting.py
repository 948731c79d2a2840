"""A product's history, as any CSV files hold it, into the daily deliveries it would have come as.

Rows go to their event day's folder by the text in their event-day column, and stay the text they were;
whether a value is right is found out when the delivery is read. Nothing is visible in the landing folder
before all files have been read, and memory stays bounded however large or unordered they are.
"""

from __future__ import annotations

import csv
import filecmp
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from ml_platform.data_engineering.landing import header_problem
from ml_platform.product import Product

HOUR = "T0600"
BUFFERED_CHARACTERS = 16_000_000
_PROGRESS_ROWS = 20_000
_GZIP_MAGIC = b"\x1f\x8b"


class SplitError(ValueError):
    """A history can't be split; the message says where and why. Nothing has been published."""


@dataclass(frozen=True)
class SplitSummary:
    """What a history held: event days, feature rows, labels that are not null, first and last day."""

    days: int
    rows: int
    labels: int
    first: date
    last: date


def split_history(
    product: Product,
    files: Sequence[Path],
    landing: Path,
    *,
    labels_apart: bool = True,
    progress: Callable[[int], None] | None = None,
) -> SplitSummary:
    """Split ``files`` into ``landing/<product>/<event day>/``, one CSV for each file and day.

    Args:
        files: CSV, plain or gzip, with the contract's columns in any order, with or without the label;
            or just key, event day and label.
        labels_apart: write the labels to files of their own, dated as late as they would arrive.
        progress: is called with the rows read so far.

    Raises:
        SplitError: a header or an event day is wrong, or a delivery exists already with other content;
            nothing is published. Equal deliveries may exist.
    """
    _check_names(files)
    landing.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{product.name}-", dir=landing) as temporary:
        parts = _Parts(product, Path(temporary))
        for path in files:
            try:
                _split_file(product, path, parts, labels_apart, progress)
            except (OSError, EOFError, zlib.error, csv.Error) as error:
                raise SplitError(f"{path}: can't be read: {error}") from error
        parts.flush()
        if not parts.days:
            raise SplitError(f"no rows in {', '.join(str(path) for path in files) or 'no file'}")
        days = sorted(parts.days)
        target = landing / product.name
        _check_targets(Path(temporary), target, days)
        for day in days:
            publish(Path(temporary) / day.isoformat(), target / day.isoformat())
        if progress:
            progress(parts.read)
    return SplitSummary(len(days), parts.rows, parts.labels, days[0], days[-1])


def publish(prepared: Path, target: Path) -> None:
    """Move the files of ``prepared`` into the delivery ``target``, in the same file system.

    A new delivery appears all at once. Of one that exists, each file is replaced at once, and an equal
    one left alone: a file that is written again counts as delivered again.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        prepared.replace(target)
        return
    for path in sorted(prepared.iterdir()):
        if not _equal(path, target / path.name):
            path.replace(target / path.name)


def rows_file(day: date, stem: str, hour: str = HOUR) -> str:
    """The name of a file that arrives the morning after its event day."""
    return f"{day + timedelta(days=1)}{hour}_{stem}.csv"


def labels_file(product: Product, day: date, later_days: int = 0) -> str:
    """The name of a day's label file, dated when labels arrive, or some days later."""
    return f"{day + timedelta(days=1 + product.source.label_delay_days + later_days)}{HOUR}_labels.csv"


# -- reading ---------------------------------------------------------------------------------------


def _split_file(
    product: Product,
    path: Path,
    parts: _Parts,
    labels_apart: bool,
    progress: Callable[[int], None] | None,
) -> None:
    source = product.source
    with _open(path) as stream:
        records = _records(stream, source.delimiter)
        _, header = next(records, (0, []))
        problem = header_problem(product, tuple(header)) if header else "has no header"
        if problem:
            raise SplitError(f"{path}: {problem}")

        day_at = header.index(source.event_day)
        label_at = header.index(source.label) if source.label in header else None
        labels_only = set(header) == product.label_file_columns
        apart = label_at is not None and (labels_apart or labels_only)
        label_header = list(dict.fromkeys((*source.key, source.event_day, source.label)))
        label_columns = [header.index(name) for name in label_header] if apart else []
        kept = [at for at in range(len(header)) if not (apart and at == label_at)]
        row_header = [header[at] for at in kept]
        stem = _stem(path)
        day_of = _DayReader(product)

        for line, record in records:
            text = record[day_at] if day_at < len(record) else None
            try:
                day = day_of(text)
            except ValueError as error:
                raise SplitError(f"{path}, line {line}: {source.event_day}: {error}") from error
            parts.read += 1
            if progress and parts.read % _PROGRESS_ROWS == 0:
                progress(parts.read)

            if len(record) != len(header):
                # It goes on whole, to be quarantined; so it must not look like a row without its label.
                whole = [*record, ""] if len(record) == len(kept) else record
                parts.write_row(day, rows_file(day, stem), row_header, whole)
                continue
            labelled = label_at is not None and record[label_at] not in source.null_values
            parts.labels += labelled
            if apart and labelled:
                values = [record[at] for at in label_columns]
                parts.write(day, labels_file(product, day), label_header, values)
            if not labels_only:
                parts.write_row(day, rows_file(day, stem), row_header, [record[at] for at in kept])


def _records(stream: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV with the line that each begins on; empty lines are none."""
    reader = csv.reader(stream, delimiter=delimiter)
    line = 1
    for record in reader:
        if record:
            yield line, record
        line = reader.line_num + 1


def _open(path: Path) -> TextIO:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
    # Bytes that are not UTF-8 are kept as they are: the ARDS will quarantine their rows.
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


class _DayReader:
    """Event days from their texts, each text read once."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._format = product.source.columns[product.source.event_day].format
        self._known: dict[str | None, date] = {}

    def __call__(self, text: str | None) -> date:
        day = self._known.get(text)
        if day is None:
            day = self._known[text] = self._read(text)
        return day

    def _read(self, text: str | None) -> date:
        if text is None:
            raise ValueError("the line ends before it")
        try:
            day = self._parse(text)
        except ValueError:
            accepted = f"the format {self._format}" if self._format else "a date like 2013-01-31"
            raise ValueError(f"{text!r} is no date; accepted is {accepted}") from None
        product = self._product
        if day < product.start or (product.end is not None and day > product.end):
            until = f"to {product.end}" if product.end else "on"
            raise ValueError(f"{text!r} is outside the contract's days, {product.start} {until}")
        return day

    def _parse(self, text: str) -> date:
        if self._format:
            return datetime.strptime(text, self._format).date()  # noqa: DTZ007 - a day has no zone
        day = date.fromisoformat(text)
        if day.isoformat() != text:  # Python reads other forms of ISO 8601 as well
            raise ValueError(text)
        return day


def _check_names(files: Sequence[Path]) -> None:
    """Two files of one name would become one delivery file."""
    seen: dict[str, Path] = {}
    for path in files:
        other = seen.setdefault(_stem(path), path)
        if other is not path:
            raise SplitError(f"{other} and {path} would both become {_stem(path)}.csv; rename one")
        if _stem(path) == "labels" and len(files) > 1:
            raise SplitError(f"{path}: labels.csv is the name of the label files; rename it")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


# -- writing ---------------------------------------------------------------------------------------


@dataclass
class _Parts:
    """The deliveries as they grow in a temporary folder.

    Rows wait in memory until there are many, and are then appended to their files one file after
    another: however many days a history has, one file is open at a time.
    """

    product: Product
    folder: Path
    days: set[date] = field(default_factory=set)
    read: int = 0
    rows: int = 0
    labels: int = 0
    _headers: dict[tuple[date, str], list[str]] = field(default_factory=dict)
    _buffers: dict[tuple[date, str], io.StringIO] = field(default_factory=dict)
    _buffered: int = 0

    def write_row(self, day: date, name: str, header: list[str], values: list[str]) -> None:
        self.rows += 1
        self.write(day, name, header, values)

    def write(self, day: date, name: str, header: list[str], values: list[str]) -> None:
        file = (day, name)
        buffer = self._buffers.get(file)
        if buffer is None:
            buffer = self._buffers[file] = io.StringIO()
            self.days.add(day)
            first = self._headers.setdefault(file, [])
            if not first:
                first.extend(header)
                self._append(buffer, header)
            elif first != header:
                raise SplitError(f"rows and labels would both become {name}; rename the file")
        self._append(buffer, values)
        if self._buffered > BUFFERED_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        for (day, name), buffer in self._buffers.items():
            path = self.folder / day.isoformat() / name
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(buffer.getvalue())
        self._buffers.clear()
        self._buffered = 0

    def _append(self, buffer: io.StringIO, values: list[str]) -> None:
        before = buffer.tell()
        csv.writer(buffer, delimiter=self.product.source.delimiter, lineterminator="\n").writerow(values)
        self._buffered += buffer.tell() - before


def _check_targets(prepared: Path, target: Path, days: Sequence[date]) -> None:
    """Refuse to publish over a delivery that differs."""
    different = [
        target / day.isoformat() / path.name
        for day in days
        for path in sorted((prepared / day.isoformat()).iterdir())
        if (target / day.isoformat() / path.name).exists()
        and not _equal(path, target / day.isoformat() / path.name)
    ]
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise SplitError(
            f"{different[0]}{more} exists already with other content. To replace deliveries, delete them "
            "first; to correct some of their rows, land just these rows from a file with a name that sorts "
            "after theirs"
        )


def _equal(path: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(path, other, shallow=False)
