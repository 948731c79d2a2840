"""A product's history, as files of any format hold it, into the daily deliveries it would have come as.

Rows go to their event day's folder by the text in their event-day column, and stay the text they were;
whether a value is right is found out when the delivery is read. Nothing is visible in the landing folder
before all files have been read, and memory stays bounded however large or unordered they are.
"""

from __future__ import annotations

import contextlib
import filecmp
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_platform.contract.product import Product
from ml_platform.contract.source import QUOTE, Source
from ml_platform.data_engineering import as_csv, conversion, headers, line_ends
from ml_platform.data_engineering.exact_reader import INVALID_ENCODING
from ml_platform.data_engineering.files import FileRules, UnreadableFile, shown
from ml_platform.data_engineering.formats import Format, format_of, stem_of
from ml_platform.data_engineering.headers import Header
from ml_platform.data_engineering.line_ends import Record
from ml_platform.data_engineering.quoting import RecordWriter

HOUR = "T0600"
BUFFERED_CHARACTERS = 16_000_000
_PROGRESS_ROWS = 20_000


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
    rules: FileRules | None = None,
) -> SplitSummary:
    """Split ``files`` into ``landing/<product>/<event day>/``, one CSV for each file and day.

    Args:
        files: CSV or JSON lines, plain or gzip, or Parquet, with the contract's columns in any order, with
            or without the label; or just key, event day and label.
        labels_apart: write the labels to files of their own, dated as late as they would arrive.
        progress: is called with the rows read so far.
        rules: how much of a file may be read.

    Raises:
        SplitError: a header or an event day is wrong, or a delivery exists already with other content;
            nothing is published. Equal deliveries may exist.
    """
    _check_names(files)
    landing.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{product.name}-", dir=landing) as temporary:
        parts = _Parts(Path(temporary), product.source)
        labels = _DailyFile(partial(labels_file, product), label_header(product))
        for path in files:
            records = _records(path, product.source, rules or FileRules())
            _split_file(product, path, records, parts, labels, labels_apart, progress)
        parts.flush()
        if not parts.days:
            raise SplitError(f"no rows in {', '.join(shown(str(path)) for path in files) or 'no file'}")
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


def label_header(product: Product) -> list[str]:
    """The columns of a label file: key, event day and label."""
    source = product.source
    of_label = [] if source.label is None else [source.label]
    return list(dict.fromkeys((*source.key, source.event_day, *of_label)))


# -- reading ---------------------------------------------------------------------------------------


def _split_file(
    product: Product,
    path: Path,
    records: Iterator[Record],
    parts: _Parts,
    labels: _DailyFile,
    labels_apart: bool,
    progress: Callable[[int], None] | None,
) -> None:
    source, stem = product.source, _stem(path)
    head = next(records, Record(1, "", [], "the file is empty"))
    header = head.fields
    meaning = headers.resolve(product, header, format_=format_of(path.name) or Format.CSV)
    problem = head.problem or meaning.problem
    labels_only = meaning.labels_only
    if not labels_only and rows_file(product.start, stem) == labels_file(product, product.start):
        problem = "its rows would get the name of the label files; rename it"
    if problem:
        raise SplitError(f"{shown(str(path))}: {problem}")
    first = line_ends.sample(records)
    if not source.trailing_delimiter and line_ends.need_the_key(first, len(header), source):
        raise SplitError(
            f"{shown(str(path))}: each record has {len(header) + 1} fields, the last of which is empty, "
            f"and the header has {len(header)}; lines that end with a delimiter need "
            "source.trailing_delimiter: true"
        )

    names = meaning.columns
    day_at = names.index(source.event_day)
    label_at = names.index(source.label) if source.label is not None and source.label in names else None
    apart = label_at is not None and (labels_apart or labels_only)
    label_columns = [names.index(name) for name in labels.header] if apart else []
    kept = [at for at in range(len(header)) if not (apart and at == label_at)]
    rows = _DailyFile(lambda day: rows_file(day, stem), [header[at] for at in kept])
    day_of = _DayReader(product, meaning)

    for line, raw, record, problem in itertools.chain(first, records):
        if problem == INVALID_ENCODING:
            problem = None  # its bytes are passed on as they are, and the ARDS will quarantine the record
        text = record[day_at] if day_at < len(record) else None
        try:
            day = day_of.only_one_in(raw) if problem and text is None else day_of(text)
        except ValueError as error:
            why = f"{problem}: {error}" if problem else error
            raise SplitError(f"{shown(str(path))}, line {line}: {source.event_day}: {why}") from None
        parts.read += 1
        if progress and parts.read % _PROGRESS_ROWS == 0:
            progress(parts.read)

        if problem:
            parts.rows += not labels_only
            parts.write_unreadable(labels if labels_only else rows, day, raw)
            continue
        whole = len(record) == len(header)
        labelled = whole and label_at is not None and record[label_at] not in source.null_values
        parts.labels += labelled
        if labels_only and not whole:
            parts.write(labels, day, record)
        elif apart and labelled:
            parts.write(labels, day, [record[at] for at in label_columns])
        if not labels_only:
            parts.rows += 1
            if whole:
                fields = [record[at] for at in kept]
            else:
                # It will be quarantined; a missing field must not make it a good row without its label.
                fields = [*record, ""] if len(record) == len(kept) else record
            parts.write(rows, day, fields)


def _records(path: Path, source: Source, rules: FileRules) -> Iterator[Record]:
    """The records of a file, as those of a delivery are told apart; an empty line is none."""
    try:
        yield from as_csv.records(path, source, rules)
    except UnreadableFile as error:
        raise SplitError(f"{shown(str(path))}: {error}") from error


class _DayReader:
    """Event days from their texts, each text read once."""

    def __init__(self, product: Product, header: Header) -> None:
        self._product = product
        self._header = header
        self._declared = product.source.columns[product.source.event_day]
        self._known: dict[str | None, date] = {}

    def __call__(self, text: str | None) -> date:
        day = self._known.get(text)
        if day is None:
            day = self._known[text] = self._read(text)
        return day

    def only_one_in(self, raw: str) -> date:
        """The day of a record whose fields can't be known: the only one that its text names."""
        days = set()
        for part in raw.split(self._product.source.delimiter):
            with contextlib.suppress(ValueError):
                days.add(self(part.strip(QUOTE)))
        if len(days) != 1:
            raise ValueError("which day the record belongs to can't be known")
        return days.pop()

    def _read(self, text: str | None) -> date:
        if text is None:
            raise ValueError("the line ends before it")
        product = self._product
        day = conversion.day_of(text, self._declared, product.source)
        if day is None:
            formats = " or ".join(self._declared.formats)
            accepted = f"the format {formats}" if formats else "a date like 2013-01-31"
            hint = conversion.hint(text, self._declared, product.source)
            raise ValueError(f"{text!r} is no date; accepted is {accepted}{hint and f' ({hint})'}")
        if day < product.start or (product.end is not None and day > product.end):
            until = f"to {product.end}" if product.end else "on"
            raise ValueError(f"{text!r} is outside the contract's days, {product.start} {until}")
        if lacks := headers.lacking(product, self._header, day):
            raise ValueError(f"files of {day} must have the columns {', '.join(lacks)}, which this one lacks")
        return day


def _check_names(files: Sequence[Path]) -> None:
    """Two files of one name would become one delivery file; and names of deliveries are UTF-8."""
    seen: dict[str, Path] = {}
    for path in files:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise SplitError(f"{shown(str(path))}: its name is not UTF-8; rename it") from None
        other = seen.setdefault(_stem(path), path)
        if other is not path:
            names = [shown(str(file)) for file in (other, path)]
            raise SplitError(f"{' and '.join(names)} would both become {shown(_stem(path))}.csv; rename one")


def _stem(path: Path) -> str:
    return stem_of(path.name)


# -- writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _DailyFile:
    """A file that every day has one of: its name on a day, and its header."""

    name: Callable[[date], str]
    header: list[str]


class _Parts:
    """The deliveries as they grow in a temporary folder, and what has been counted on the way.

    Rows wait in memory until there are many, and are then appended to their files one file after
    another: however many days a history has, one file is open at a time.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.days: set[date] = set()
        self.read = self.rows = self.labels = 0
        self._folder = folder
        self._writer = RecordWriter(source)
        # The deliveries are UTF-8 whatever the history is, and say so where the contract says otherwise.
        self._mark = "" if source.encoding == "utf-8" else "\ufeff"
        self._started: set[tuple[_DailyFile, date]] = set()
        self._waiting: dict[tuple[_DailyFile, date], io.StringIO] = {}
        self._waiting_characters = 0

    def write(self, file: _DailyFile, day: date, values: list[str]) -> None:
        """Add a row to a day's file; a new one gets its header first."""
        buffer = self._waiting.get((file, day)) or self._open(file, day)
        self._waiting_characters += buffer.write(self._writer.line(values))
        if self._waiting_characters > BUFFERED_CHARACTERS:
            self.flush()

    def write_unreadable(self, file: _DailyFile, day: date, raw: str) -> None:
        """Add a record whose fields can't be known, as one that can't be read there either."""
        buffer = self._waiting.get((file, day)) or self._open(file, day)
        self._waiting_characters += buffer.write(self._writer.unreadable(raw))

    def flush(self) -> None:
        for (file, day), buffer in self._waiting.items():
            path = self._folder / day.isoformat() / file.name(day)
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as stream:
                stream.write(_encoded(buffer.getvalue()))
        self._waiting.clear()
        self._waiting_characters = 0

    def _open(self, file: _DailyFile, day: date) -> io.StringIO:
        buffer = self._waiting[file, day] = io.StringIO(newline="")
        if (file, day) not in self._started:
            self._started.add((file, day))
            self.days.add(day)
            buffer.write(self._mark + self._writer.line(file.header))
        return buffer


def _encoded(text: str) -> bytes:
    """UTF-8; what was no text in the history isn't any in a delivery either."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


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
            "first; to correct some of their rows, deliver just these rows in a file whose name begins with "
            "the date on which it comes"
        )


def _equal(path: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(path, other, shallow=False)
