"""The header of a file: which column of the contract each of its columns is, and whether that will do.

The one place that matches names in files with names in the contract. Deliveries are looked at, read and
split by what :func:`resolve` finds; reading the names from a file is :mod:`.parsing`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from ml_platform.contract.product import Product
from ml_platform.data_engineering.files import shown
from ml_platform.data_engineering.formats import Format

#: The widest sheet that a spreadsheet saves; a longer first line is no header, and no table could hold it.
MAXIMUM_COLUMNS = 16_384
_LISTED = 20
_SHOWN = 80


@dataclass(frozen=True)
class Header:
    """What a header means under a contract.

    ``columns`` has, for each column of the file, the declared column that it is, or None if it isn't read;
    ``ignored`` are the names of the latter. ``missing`` are the declared columns besides the label that a
    file with rows lacks; a label file has just keys and labels, and lacks nothing. ``problem`` says why a
    file with this header can't be used, if so.
    """

    columns: tuple[str | None, ...]
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    labels_only: bool = False
    problem: str | None = None


def resolve(
    product: Product, names: Sequence[str], day: date | None = None, format_: Format = Format.CSV
) -> Header:
    """What the ``names`` in a file's header mean for a file of ``day``.

    Accepted are the declared columns in any order, by their names or aliases, without those that may be
    missing on the day, and with or without the label; or just the key, the event day and the label.

    Args:
        day: None for a file that holds several; whether it may lack what has a ``since`` depends on each
            day then (:func:`lacking`).
        format_: of the file, for the words of a problem.
    """
    source = product.source
    if len(names) > MAXIMUM_COLUMNS:
        return Header(
            (), problem=f"the header has {len(names):,} columns; at most {MAXIMUM_COLUMNS:,} can be read"
        )
    columns = tuple(source.header_names.get(source.folded(name)) for name in names)
    read = set(columns) - {None}
    ignored = tuple(name for name, column in zip(names, columns, strict=True) if column is None)
    labels_only = bool(read) and read == product.label_file_columns
    missing = (
        ()
        if labels_only
        else tuple(name for name in source.columns if name not in read and name != source.label)
    )
    header = Header(columns, ignored, missing, labels_only)
    return Header(columns, ignored, missing, labels_only, _problem(product, names, header, day, format_))


def lacking(product: Product, header: Header, day: date | None) -> list[str]:
    """The declared columns without which a file with this header can't be used on ``day``."""
    source = product.source
    always = {*source.key, source.event_day, *product.entity}

    def may_be_missing(name: str) -> bool:
        declared = source.columns[name]
        if name in always:
            return False
        return (
            bool(declared.since)
            if day is None and declared.since
            else declared.may_be_missing(day or date.min)
        )

    return [name for name in header.missing if not may_be_missing(name)]


def _problem(
    product: Product, names: Sequence[str], header: Header, day: date | None, format_: Format
) -> str | None:
    source = product.source
    counts = Counter(column for column in header.columns if column is not None)
    for column, count in counts.items():
        if count > 1:
            given = [name for name, meant in zip(names, header.columns, strict=True) if meant == column]
            also = "" if set(given) == {column} else f" (as {_listed(map(_quoted, given))})"
            return f"the header names {column} twice{also}"
    if not counts and format_ is not Format.CSV:
        found = _listed(map(_quoted, names)) or "none"
        return (
            f"no column of the contract is among the file's ({found}). Expected are {_listed(source.columns)}"
        )
    if not counts:
        return (
            f"no column of the contract is in the first line {_quoted(source.delimiter.join(names))}: "
            f"is the header missing, or the delimiter other than {source.delimiter!r}? "
            f"Expected are {_listed(source.columns)}"
        )
    lacks = lacking(product, header, day)
    others = [name for name in header.ignored if not is_accepted(product, name)]
    if not lacks and not others:
        return None
    parts = []
    if lacks:
        parts.append(f"missing columns: {_listed(_with_first_day(product, name) for name in lacks)}")
    if others:
        parts.append(unexpected(others))
    advice = _advice(product, names, lacks, others, format_)
    return f"{'; '.join(parts)}. Expected are {_listed(source.columns)}. {advice}"


def unexpected(names: Iterable[str]) -> str:
    """That a file or a record has names that the contract doesn't know, in words."""
    return f"unexpected columns: {_listed(_short(name) or repr(name) for name in names)}"


def is_accepted(product: Product, name: str) -> bool:
    """Whether a file may have a column of this name that isn't read."""
    source = product.source
    if isinstance(source.extra_columns, tuple):
        return source.folded(name) in {source.folded(extra) for extra in source.extra_columns}
    return source.extra_columns == "ignore"


def _with_first_day(product: Product, name: str) -> str:
    since = product.source.columns[name].since
    return f"{name} (since {since})" if since else name


def _advice(
    product: Product,
    names: Sequence[str],
    lacks: Sequence[str],
    unexpected: Sequence[str],
    format_: Format,
) -> str:
    """The keys of the contract that would accept such a file."""
    source = product.source
    ends_empty = format_ is Format.CSV and not names[-1] and not source.trailing_delimiter
    named = [name for name in unexpected if name or not ends_empty]
    declared = {name.strip().casefold() for name in source.header_names}
    if source.header_match == "exact" and any(name.strip().casefold() in declared for name in named):
        return "Names match without case and outer spaces with source.header_match: relaxed"
    keys = []
    if ends_empty:
        keys.append("lines that end with a delimiter need source.trailing_delimiter: true")
    if lacks and named:
        keys.append("a column that was renamed needs its other name in aliases")
    if lacks:
        keys.append("a column that older files lack needs nullable, fill_null or since")
    if named:
        listed = _listed(_short(name) or repr(name) for name in named)
        keys.append(f"columns that are not to be read are named in source.extra_columns: [{listed}]")
    return f"In the contract, {'; '.join(keys)}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


def _quoted(text: str) -> str:
    return f"'{_short(text)}'"


def _short(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
