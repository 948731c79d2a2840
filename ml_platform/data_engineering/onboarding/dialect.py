"""How a CSV file is written: its encoding, delimiter, quotes and line ends, found from the file itself.

The delimiter is found from the first records, the encoding and the escape from the whole file. Records are
told apart by the tokenizer that reads deliveries, so that what fits here is read later too. What the values
are is :mod:`.columns`' business.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.contract.source import BACKSLASH, QUOTE, Source
from ml_platform.data_engineering import exact_reader, files, line_ends
from ml_platform.data_engineering.files import FileRules, UnreadableFile, shown
from ml_platform.data_engineering.headers import MAXIMUM_COLUMNS
from ml_platform.data_engineering.line_ends import Record

#: Delimiters that are tried, the likelier first. Those of the second list stand within values as well, so
#: they count only where none of the first does.
DELIMITERS = (",", ";", "\t", "|", "\x01", "\x1f")
WEAK_DELIMITERS = (" ", ":", "^", "~")
#: Records that the delimiter is found from. All records are held against it afterwards.
SAMPLED_RECORDS = 1000
#: Share of the sampled records that must have the header's number of fields.
LEAST_FITTING = 0.5
#: Bytes in which the zeros of UTF-16 and UTF-32 are looked for: half of them, or more, of Latin text.
_PROBED_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
#: Bytes that stand for nothing in windows-1252.
_NOT_IN_WINDOWS_1252 = (0x81, 0x8D, 0x8F, 0x90, 0x9D)
_SHOWN = 60


class FirstLookError(ValueError):
    """A history can't be used; the message says where and why, and what would help."""


@dataclass(frozen=True)
class Dialect:
    """How files are written.

    Attributes:
        encoding: as Python calls it.
        delimiter: one character.
        escape: as the contract's key.
        trailing_delimiter: whether lines end with a delimiter that no field follows.
        header: the names in the first line.
        why: what was seen, by the key of the contract.
    """

    encoding: str
    delimiter: str
    escape: str | None
    trailing_delimiter: bool
    header: tuple[str, ...]
    why: dict[str, str]

    @property
    def source(self) -> Source:
        """A source of files written like this; its columns are none of theirs."""
        return source_of(
            encoding=self.encoding,
            delimiter=self.delimiter,
            escape=self.escape,
            trailing_delimiter=self.trailing_delimiter,
        )


def source_of(**keys: Any) -> Source:
    """A source with these keys, and columns that stand for nothing."""
    return Source.model_validate(
        {
            "key": ["key"],
            "event_day": "day",
            "label": "label",
            "columns": {"key": {"type": "string"}, "day": {"type": "date"}, "label": {"type": "integer"}},
            **keys,
        }
    )


def dialect_of(
    paths: Sequence[Path],
    rules: FileRules,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    escape: str | None = None,
) -> Dialect:
    """How files are written that have one header.

    Args:
        encoding: instead of what is seen; so are ``delimiter`` and ``escape``.

    Raises:
        FirstLookError: a file is empty, can't be read, has another header, or fits no delimiter.
    """
    path = paths[0]
    why: dict[str, str] = {}
    if encoding is None:
        encoding, why["encoding"] = _encoding(paths, rules)
    given = _given_source(encoding=encoding, delimiter=delimiter or ",", escape=escape)
    found = _delimiter(path, rules, given, delimiter)
    why["delimiter"] = found.why
    source = given.model_copy(update={"delimiter": found.delimiter})
    header = found.header
    trailing = _is_trailing(header, found.records, source)
    if trailing:
        why["trailing_delimiter"] = "lines end with a delimiter that no field follows"
        header = header[:-1] if not header[-1] else header
    if len(header) > MAXIMUM_COLUMNS:
        raise FirstLookError(
            f"{shown(str(path))}: the header has {len(header):,} columns; no table holds them"
        )
    source = source.model_copy(update={"trailing_delimiter": trailing})
    if escape is None:
        escape, reason = _escape(paths, source, rules, len(header))
        if reason:
            why["escape"] = reason
    dialect = Dialect(given.encoding, found.delimiter, escape, trailing, header, why)
    _refuse_header(path, header, found.records)
    for other in paths[1:]:
        names = _header(other, dialect.source, rules)
        if names != header:
            raise FirstLookError(
                f"{shown(str(other))}: its header {_quoted(names)} is not that of {shown(str(path))}, "
                f"{_quoted(header)}; begin with files of one header, and add columns to the contract later"
            )
    return dialect


def records_of(path: Path, source: Source, rules: FileRules) -> Iterator[Record]:
    """The records of a file, the header first.

    Raises:
        FirstLookError: it can't be read to its end.
    """
    try:
        yield from exact_reader.tokenize(str(path), source, rules)
    except UnreadableFile as error:
        raise FirstLookError(f"{shown(str(path))}: {error}") from error
    except OSError as error:
        raise FirstLookError(f"{shown(str(path))}: can't be read: {error.strerror or error}") from error


def _given_source(**keys: Any) -> Source:
    try:
        return source_of(**keys)
    except ValueError as error:
        problems = [str(problem["msg"]).removeprefix("Value error, ") for problem in error.errors()]  # type: ignore[attr-defined]
        raise FirstLookError("; ".join(problems)) from error


def _header(path: Path, source: Source, rules: FileRules) -> tuple[str, ...]:
    head = next(records_of(path, source, rules), None)
    if head is None:
        raise FirstLookError(f"{shown(str(path))}: the file is empty; expected is a header and rows")
    return tuple(head.fields)


# -- encoding ----------------------------------------------------------------------------------------


def _encoding(paths: Sequence[Path], rules: FileRules) -> tuple[str, str]:
    """The encoding of files, and how it shows."""
    found = [_encoding_of(path, rules) for path in paths]
    # A file that is plain ASCII, or says by its mark what it is, fits any.
    telling = {name: why for name, why, tells in found if tells} or {found[0][0]: found[0][1]}
    if len(telling) > 1:
        names = " and ".join(telling)
        raise FirstLookError(f"the files are of several encodings, {names}; begin with those of one")
    return next(iter(telling.items()))


def _encoding_of(path: Path, rules: FileRules) -> tuple[str, str, bool]:
    """The encoding of a file, how it shows, and whether another one would not do."""
    counts = np.zeros(256, dtype=np.int64)
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    wrong = right = 0
    sample = ""
    first = b""
    for block in _blocks(path, rules):
        if not first:
            first = block
            if not first.strip():
                break
        if (mark := exact_reader.encoding_of_mark(first)) is not None:
            name = mark.removesuffix("-sig")
            return name, "its byte order mark tells", name != "utf-8"
        if (wide := _wide(first)) is not None:
            return wide, "no byte order mark, and zeros between the characters", True
        counts += np.bincount(np.frombuffer(block, np.uint8), minlength=256)
        text = decoder.decode(block)
        if not text.isascii():
            strange = len(re.findall("[\udc80-\udcff]", text))
            wrong += strange
            right += len(re.sub("[\x00-\x7f\udc80-\udcff]", "", text))
            sample = sample or _around_other_byte(block)
    if not first.strip():
        raise FirstLookError(f"{shown(str(path))}: the file is empty; expected is a header and rows")
    if not wrong:
        return "utf-8", "every line is UTF-8" if right else "every line is ASCII", bool(right)
    if right >= wrong:
        return "utf-8", f"{right:,} characters are UTF-8 beyond ASCII, {wrong:,} bytes are not", True
    name = "latin-1" if counts[list(_NOT_IN_WINDOWS_1252)].any() else "cp1252"
    text = sample.encode("latin-1").decode(name, "replace")
    return name, f"ASSUMED, as it isn't UTF-8; it reads {shown(text)!r}. If that is wrong: --encoding", True


def _blocks(path: Path, rules: FileRules) -> Iterator[bytes]:
    import gzip
    import zlib

    try:
        with files.open_bytes(str(path), rules) as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block
    except UnreadableFile as error:
        raise FirstLookError(f"{shown(str(path))}: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FirstLookError(f"{shown(str(path))}: can't be read to its end: {error}") from error
    except OSError as error:
        raise FirstLookError(f"{shown(str(path))}: can't be read: {error.strerror or error}") from error


def _wide(block: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by where its zeros stand."""
    codes = np.frombuffer(block[:_PROBED_BYTES], np.uint8)
    codes = codes[: len(codes) // 4 * 4].reshape(-1, 4)
    if not len(codes):
        return None
    zeros = (codes == 0).mean(axis=0) > 0.5
    patterns = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return patterns.get(tuple(bool(one) for one in zeros))  # type: ignore[arg-type]


def _around_other_byte(block: bytes) -> str:
    """The word with the first byte that is no ASCII, each byte as a character."""
    text = block.decode("latin-1")
    found = re.search(r"[\w\x80-\xff]{0,20}[\x80-\xff][\w\x80-\xff]{0,20}", text)
    return found.group() if found else ""


# -- delimiter ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    delimiter: str
    header: tuple[str, ...]
    records: Sequence[Record]
    share: float
    why: str


def _delimiter(path: Path, rules: FileRules, given: Source, delimiter: str | None) -> _Fit:
    """The delimiter under which most of the first records have as many fields as the header."""
    fits = []
    for candidates in ((delimiter,),) if delimiter else (DELIMITERS, WEAK_DELIMITERS):
        for candidate in candidates:
            source = given.model_copy(update={"delimiter": candidate})
            found = [_fit(path, source, rules)]
            if source.escape is None:
                found.append(_fit(path, source.model_copy(update={"escape": BACKSLASH}), rules))
            fits += [fit for fit in found if fit is not None]
        good = [fit for fit in fits if fit.share > LEAST_FITTING and len(fit.header) > 1]
        if good:
            # Among those that fit about as well the one that tells the most fields apart.
            return max(good, key=lambda fit: (round(fit.share, 1), len(fit.header)))
    if not fits:
        raise FirstLookError(f"{shown(str(path))}: the header can't be read; is it a CSV file?")
    best = max(fits, key=lambda fit: (len(fit.header) > 1, fit.share))
    tried = " ".join(map(repr, (delimiter,) if delimiter else (*DELIMITERS, *WEAK_DELIMITERS)))
    if len(best.header) > 1:
        raise FirstLookError(
            f"{shown(str(path))}: only {best.share:.0%} of the first {len(best.records):,} records have as "
            f"many fields as the header {_quoted(best.header)}; is the delimiter another one (--delimiter), "
            "or the first line no header?"
        )
    raise FirstLookError(
        f"{shown(str(path))}: its header {_quoted(best.header)} is one column under each of {tried}; a "
        "contract needs a day, a label and a feature. Is the delimiter another one (--delimiter)?"
    )


def _fit(path: Path, source: Source, rules: FileRules) -> _Fit | None:
    records = list(itertools.islice(records_of(path, source, rules), SAMPLED_RECORDS + 1))
    if not records:
        raise FirstLookError(f"{shown(str(path))}: the file is empty; expected is a header and rows")
    header, rows = records[0], records[1:]
    if header.problem not in (None, exact_reader.INVALID_ENCODING):
        return None
    width = len(header.fields)
    fitting = sum(_has_width(record, width, source.delimiter) for record in rows)
    share = fitting / len(rows) if rows else 1.0
    why = f"{fitting:,} of the first {len(rows):,} records have the header's {width} fields"
    return _Fit(source.delimiter, tuple(header.fields), rows, share, why)


def _has_width(record: Record, width: int, delimiter: str) -> bool:
    if len(record.fields) == width:
        return record.problem in (None, exact_reader.INVALID_ENCODING)
    return len(record.fields) == width + 1 and record.ends_with(delimiter)


def _is_trailing(header: Sequence[str], records: Sequence[Record], source: Source) -> bool:
    """Whether lines end with a delimiter that no field follows."""
    if not records:
        return False
    if header[-1]:
        return line_ends.need_the_key(records, len(header), source)
    return all(
        record.ends_with(source.delimiter) or len(record.fields) == len(header) - 1 for record in records
    )


def _refuse_header(path: Path, header: Sequence[str], records: Sequence[Record]) -> None:
    """See that the first line holds names, and that rows follow.

    Raises:
        FirstLookError: it doesn't, or none do.
    """
    if not records:
        raise FirstLookError(f"{shown(str(path))}: there is no row below the header {_quoted(header)}")
    numbers = [name for name in header if re.fullmatch(r"\s*[+-]?[0-9][0-9.,]*\s*", name)]
    if len(numbers) * 2 >= len(header):
        raise FirstLookError(
            f"{shown(str(path))}: the first line {_quoted(header)} looks like a row; the platform needs a "
            "line with the names of the columns above it"
        )


# -- quotes ------------------------------------------------------------------------------------------


def _escape(paths: Sequence[Path], source: Source, rules: FileRules, width: int) -> tuple[str | None, str]:
    """What stands before quotes within quotes, if anything but a quote must: found where it matters."""
    if not _may_escape(paths, rules):
        return None, ""
    problems: dict[str | None, int] = {}
    for escape in (None, BACKSLASH, QUOTE):
        tried = source.model_copy(update={"escape": escape})
        problems[escape] = sum(
            record.problem not in (None, exact_reader.INVALID_ENCODING) or len(record.fields) != width
            for path in paths
            for record in itertools.islice(records_of(path, tried, rules), 1, None)
        )
    if not problems[None]:
        return None, ""
    best = min((BACKSLASH, QUOTE), key=lambda escape: problems[escape])
    if problems[BACKSLASH] == problems[QUOTE]:
        return None, (
            f"{problems[None]:,} records with backslashes before quotes can be read in two ways, and go to "
            "the quarantine; --escape says which is meant"
        )
    if problems[best] >= problems[None]:
        return None, ""
    return best, f"{problems[best]:,} records that can't be read with it, {problems[None]:,} without"


def _may_escape(paths: Sequence[Path], rules: FileRules) -> bool:
    """Whether there is a backslash anywhere."""
    return any(BACKSLASH.encode() in block for path in paths for block in _blocks(path, rules))


def _quoted(names: Sequence[str]) -> str:
    text = shown(", ".join(names))
    return f"'{text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}'"
