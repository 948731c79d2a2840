"""Deliveries of random contracts, right ones and hostile ones, and what a reader of their own finds in them.

A case is made from a seed: a contract, the files of one day that it describes, and up to three things that
are wrong with them. :func:`expected` reads them without any code of the platform: character by character,
value by value, as the page on the contract says.
"""

from __future__ import annotations

import codecs
import gzip
import math
import os
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

from ml_platform.contract.product import Product
from ml_platform.contract.source import Column, Source
from ml_platform_tests.small_platform import D, shop

DAY = D("2024-01-15")
LINE_CHARACTERS, FILE_BYTES = 4000, 1 << 20
BAD = object()

# -- contracts ---------------------------------------------------------------------------------------

_FORMATS = {
    "date": [None, "%d.%m.%Y", ["iso", "%m/%d/%Y"], ["%d/%m/%Y", "%m/%d/%Y"], "epoch_seconds"],
    "timestamp": [None, "%d.%m.%Y %H:%M", "epoch_milliseconds", ["iso", "%Y%m%d %H%M%S"]],
}
_ALLOWED: dict[str, list[Any]] = {"string": ["red", "blue", "é"], "integer": [1, 2, 30], "long": [0, -5]}
_FILL: dict[str, Any] = {"string": "none", "integer": 7, "long": -1, "double": 0.5, "boolean": False}


def contract(draw: random.Random) -> Product:
    columns: dict[str, Any] = {"visit": {"type": draw.choice(["long", "integer", "string"])}}
    columns["day"] = {"type": "date"} | _some(draw, 0.3, format=draw.choice(_FORMATS["date"][1:3]))
    columns["customer"] = {"type": "string"} | _some(draw, 0.3, aliases=["Client", "Who Came"])
    for number in range(draw.randrange(4)):
        type_ = draw.choice(["string", "integer", "long", "double", "boolean", "date", "timestamp"])
        column = {"type": type_} | _some(draw, 0.6, nullable=True)
        if type_ in _FORMATS:
            column |= _some(draw, 0.6, format=draw.choice(_FORMATS[type_][1:]))
        if type_ == "boolean":
            column |= _some(draw, 0.4, true=["yes", "Y"], false=["no", "N"])
        if type_ in _ALLOWED:
            column |= _some(draw, 0.3, allowed=_ALLOWED[type_])
        if type_ in _FILL and "allowed" not in column:
            column |= _some(draw, 0.3, fill_null=_FILL[type_])
        columns[f"x{number}"] = column | _some(draw, 0.3, aliases=[f"Old {number}"])
    columns["bought"] = {"type": draw.choice(["integer", "long"]), "nullable": True}
    delimiter = draw.choice(",,;\t|\x01§")
    decimal = draw.choice([".", ".", ","]) if delimiter != "," else "."
    thousands = draw.choice([None, None, *(mark for mark in ",. '_" if mark != decimal)])
    source = {
        "key": ["visit"],
        "event_day": "day",
        "label": "bought",
        "columns": columns,
        "delimiter": delimiter,
        "decimal": decimal,
        "thousands": thousands,
        "escape": draw.choice([None, None, '"', "\\"]),
        "encoding": draw.choice(["utf-8"] * 4 + ["latin-1", "windows-1252", "utf-16"]),
        "null_values": draw.choice([[""], [""], ["", "NULL"], ["NA"]]),
        "header_match": draw.choice(["exact", "exact", "relaxed"]),
        "extra_columns": draw.choice(["refuse", "refuse", "ignore", ["more"]]),
        "trailing_delimiter": draw.random() < 0.3,
    }
    return shop(
        source=source,
        mrds={"entity": ["customer"], "aggregate": {"visit": "count", "bought": "last"}},
        model__features={"numeric": ["visit"]},
        validation={},
    )


def _some(draw: random.Random, share: float, **keys: Any) -> dict[str, Any]:
    return keys if draw.random() < share else {}


# -- files -------------------------------------------------------------------------------------------

_TEXTS = [
    "ann",
    "bob",
    "é",
    "a b",
    "x,y",
    "x;y",
    'say "hi"',
    "two\nlines",
    "two\r\nlines",
    " outer ",
    "'",
    "|",
]
#: Texts that somebody may find in a column of another kind.
_ODD = [
    *(
        "NaN",
        "inf",
        "-Infinity",
        "1e999",
        "9" * 25,
        "1.5",
        "1.0",
        "0x1F",
        "1_000",
        "\u0661\u0662",
        " ",
        "NULL",
    ),
    *("NA", "2024-02-30", "0000-01-01", "10000-01-01", "9999-12-31", "0001-01-01", "1,234", "1.234", "1.000"),
    *("+5", "--1", "true", "yes", "\0", "\ufeff", "=1+1", "1 ", "\t1", "1e400", "-0.0", "1e-400", "5.", ".5"),
    *("2024-01-15T00:00:00", "2024-01-15T24:00:00", "12:00", "1" * 400, "2147483648", "-9223372036854775809"),
    *("1e3", "1E+3", "00", "-0", "e5", "1e", "2024-1-5", "20240115", "\\", "a\\b", "a\\\\b", "\\N", "1.5e1"),
    *(
        "\u00a05",
        "1\u202f234",
        "2024-01-15T00:00:00.000Z",
        "0001-01-01T00:00+02:00",
        "253402300800",
        "nan(1)",
    ),
]


@dataclass
class Case:
    """A delivery that is not written yet: by file name, the content, or what makes something else."""

    seed: int
    product: Product
    files: dict[bytes, bytes | Callable[[Path], None]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def write(self, landing: Path) -> Path:
        folder = landing / self.product.name / DAY.isoformat()
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            path = Path(os.fsdecode(bytes(folder) + b"/" + name))
            if callable(content):
                content(path)
            else:
                path.write_bytes(content)
        return folder

    def __str__(self) -> str:
        source = self.product.source.model_dump(exclude_unset=True)
        return f"seed {self.seed}, wrong: {self.wrong}\nsource: {source}\n" + "\n".join(
            f"{name!r}: {content.__qualname__ if callable(content) else content[:3000]!r}"
            for name, content in self.files.items()
        )


def case(seed: int) -> Case:
    draw = random.Random(seed)
    made = Case(seed, contract(draw))
    keys = draw.sample(range(1000), 12)
    for number in range(draw.randint(1, 3)):
        rows = [draw.choice(keys) for _ in range(draw.randrange(8))] if number else keys[:8]
        made.files[f"2024-01-16T060{number}_rows.csv".encode()] = _file(
            draw, made.product, rows, labels=False
        )
    if draw.random() < 0.5:
        labelled = draw.sample(keys, 6)
        made.files[b"2024-01-17_labels.csv"] = _file(draw, made.product, labelled, labels=True)
    for name in list(made.files):
        if draw.random() < 0.25:
            content = made.files.pop(name)
            assert isinstance(content, bytes)
            made.files[name + b".gz"] = packed(content)
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        what = draw.choice(list(WRONG))
        WRONG[what](draw, made)
        made.wrong.append(what)
    return made


def _file(draw: random.Random, product: Product, keys: Sequence[int], *, labels: bool) -> bytes:
    source = product.source
    names = ["visit", "day", "bought"] if labels else list(source.columns)
    if not labels:
        names = [name for name in names if name != "bought" or draw.random() < 0.6]
        draw.shuffle(names)
    header = [draw.choice([name, *source.columns[name].aliases]) for name in names]
    if source.header_match == "relaxed":
        header = [draw.choice([name, name.upper(), f" {name} "]) for name in header]
    records = [header, *([_text(draw, product, name, key) for name in names] for key in keys)]
    end, quote_all = draw.choice(["\n", "\n", "\r\n", "\r"]), draw.random() < 0.3
    ends = source.trailing_delimiter and draw.random() < 0.7
    lines = []
    for number, record in enumerate(records):
        line = source.delimiter.join(_quoted(field, source, quote_all) for field in record)
        lines.append(line + (source.delimiter if ends and (number or draw.random() < 0.5) else "") + end)
    text = "".join(lines)
    if draw.random() < 0.2:
        text = text.removesuffix(end)
    return encoded(text, source.encoding, mark=draw.random() < 0.2)


def packed(content: bytes) -> bytes:
    """As a gzip file, the same at any time."""
    return gzip.compress(content, mtime=0)


def encoded(text: str, encoding: str, *, mark: bool = False) -> bytes:
    if encoding == "utf-16":
        return (codecs.BOM_UTF16_LE if mark else b"") + text.encode("utf-16-le")
    if mark and encoding == "utf-8":
        return codecs.BOM_UTF8 + text.encode()
    return text.encode(encoding, "replace")


def _quoted(text: str, source: Source, always: bool) -> str:
    if not always and not any(character in text for character in (source.delimiter, '"', "\n", "\r")):
        return text
    if source.escape == "\\":
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    else:
        text = text.replace('"', '""')
    return f'"{text}"'


def _text(draw: random.Random, product: Product, name: str, key: int) -> str:
    source, column = product.source, product.source.columns[name]
    if name == "visit":
        return str(key)
    if name == "day":
        return _moment(draw, datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC), column)
    if name == "bought":
        return draw.choice(["0", "1", "1.0", source.null_values[0]])
    if name == "customer":
        return draw.choice(_TEXTS)
    if draw.random() < 0.1:
        return draw.choice(source.null_values)
    if column.allowed and draw.random() < 0.9:
        return str(draw.choice(column.allowed))
    match column.type:
        case "string":
            return draw.choice(_TEXTS)
        case "integer" | "long":
            return _grouped(str(draw.randrange(-3000, 3_000_000)), draw, source)
        case "double":
            whole = _grouped(str(draw.randrange(-3000, 3_000_000)), draw, source)
            return f"{whole}{source.decimal}{draw.randrange(1000):03}"
        case "boolean":
            return draw.choice([*(column.true or ["true", "1"]), *(column.false or ["FALSE", "0"])])
        case _:
            moment = datetime(1999, 1, 1, tzinfo=UTC) + timedelta(minutes=draw.randrange(20_000_000))
            return _moment(
                draw, moment.replace(hour=0, minute=0) if column.type == "date" else moment, column
            )


def _grouped(number: str, draw: random.Random, source: Source) -> str:
    if source.thousands is None or draw.random() < 0.5:
        return number
    return f"{int(number):,}".replace(",", source.thousands)


def _moment(draw: random.Random, moment: datetime, column: Column) -> str:
    format_ = draw.choice(column.formats or ("iso",))
    if format_.startswith("epoch"):
        return str(int(moment.timestamp()) * {"epoch_seconds": 1, "epoch_milliseconds": 1000}[format_])
    if format_ == "iso":
        return moment.date().isoformat() if column.type == "date" else moment.isoformat()
    return moment.strftime(format_)


# -- what may be wrong -------------------------------------------------------------------------------

WRONG: dict[str, Callable[[random.Random, Case], None]] = {}


def _wrong(function: Callable[[random.Random, Case], None]) -> Callable[[random.Random, Case], None]:
    WRONG[function.__name__.lstrip("_")] = function
    return function


def _some_file(draw: random.Random, made: Case) -> tuple[bytes, bytes]:
    """Name and content of a file that is one."""
    names = [name for name, content in made.files.items() if isinstance(content, bytes)]
    name = draw.choice(names or [b"new.csv"])
    content = made.files.setdefault(name, b"visit\n")
    assert isinstance(content, bytes)
    return name, content


def _plainly(
    change: Callable[[random.Random, bytes, Source], bytes],
) -> Callable[[random.Random, Case], None]:
    """A change of the unpacked content of some file."""

    def changed(draw: random.Random, made: Case) -> None:
        name, content = _some_file(draw, made)
        try:
            plain, was_packed = (
                (gzip.decompress(content), True) if content[:2] == b"\x1f\x8b" else (content, False)
            )
        except (OSError, EOFError, zlib.error):
            return
        if len(plain) > FILE_BYTES:
            return  # the lines of a bomb would take more memory here than any file may in the platform
        plain = change(draw, plain, made.product.source)
        made.files[name] = packed(plain) if was_packed else plain

    WRONG[change.__name__.lstrip("_")] = changed
    return changed


def _insert(draw: random.Random, plain: bytes, what: bytes) -> bytes:
    at = draw.randrange(len(plain) + 1)
    return plain[:at] + what + plain[at:]


def _lines(plain: bytes, source: Source) -> list[bytes]:
    break_ = "\n".encode("utf-16-le") if source.encoding == "utf-16" else b"\n"
    return [line + break_ for line in plain.split(break_)[:-1]] or [plain]


@_plainly
def _a_quote_somewhere(draw: random.Random, plain: bytes, source: Source) -> bytes:
    for _ in range(draw.choice([1, 1, 2, 3])):
        plain = _insert(
            draw, plain, encoded(draw.choice(['"', '"', '""', '\\"', "\\", '"x']), source.encoding)
        )
    return plain


@_plainly
def _mixed_line_ends(draw: random.Random, plain: bytes, source: Source) -> bytes:
    ends = [encoded(end, source.encoding) for end in ("\n", "\r\n", "\r", "\n\n", "\r\r\n", "\u2028", "\x0b")]
    return b"".join(
        draw.choice(ends) if part == ends[0] and draw.random() < 0.5 else part
        for part in re.split(b"(%b)" % re.escape(ends[0]), plain)
    )


@_plainly
def _a_mark(draw: random.Random, plain: bytes, _: Source) -> bytes:
    marks = [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE]
    return draw.choice(marks) + plain


@_plainly
def _a_nul(draw: random.Random, plain: bytes, source: Source) -> bytes:
    return _insert(draw, plain, encoded("\0", source.encoding))


@_plainly
def _another_encoding(draw: random.Random, plain: bytes, source: Source) -> bytes:
    text = plain.decode("utf-16-le" if source.encoding == "utf-16" else source.encoding, "replace")
    other = draw.choice(["utf-8", "latin-1", "windows-1252", "utf-16", "utf-16-be", "utf-32", "cp437"])
    return text.encode(other, "replace")


@_plainly
def _a_byte(draw: random.Random, plain: bytes, _: Source) -> bytes:
    at = draw.randrange(len(plain) + 1)
    return plain[:at] + bytes([draw.randrange(256)]) + plain[at + draw.randrange(3) :]


@_plainly
def _broken_off(draw: random.Random, plain: bytes, _: Source) -> bytes:
    return plain[: draw.randrange(len(plain) + 1)]


@_plainly
def _empty(_draw: random.Random, _plain: bytes, _source: Source) -> bytes:
    return b""


@_plainly
def _only_line_breaks(draw: random.Random, _plain: bytes, source: Source) -> bytes:
    return encoded(draw.choice(["\n", "\r\n\r\n", " \n"]), source.encoding)


@_plainly
def _only_a_header(_draw: random.Random, plain: bytes, source: Source) -> bytes:
    return _lines(plain, source)[0]


@_plainly
def _another_header(draw: random.Random, plain: bytes, source: Source) -> bytes:
    text = _lines(plain, source)[0].decode(
        "utf-16-le" if source.encoding == "utf-16" else source.encoding, "replace"
    )
    names = text.strip("\r\n").split(source.delimiter)
    at = draw.randrange(len(names))
    match draw.randrange(7):
        case 0:
            names.pop(at)
        case 1:
            names.insert(at, draw.choice(names))
        case 2:
            names.insert(at, draw.choice(["more", "other", ""]))
        case 3:
            names[at] = draw.choice([names[at].upper(), f" {names[at]}", names[at] + "\0", ""])
        case 4:
            names.append("")
        case 5:
            names = [f"column {number}" for number in range(draw.choice([3, 700]))]
        case _:
            draw.shuffle(names)
    rest = b"".join(_lines(plain, source)[1:])
    return encoded(source.delimiter.join(names) + "\n", source.encoding) + rest


@_plainly
def _a_long_line(draw: random.Random, plain: bytes, source: Source) -> bytes:
    length = draw.choice([LINE_CHARACTERS - 5, LINE_CHARACTERS, LINE_CHARACTERS + 1, 3 * LINE_CHARACTERS])
    return _insert(draw, plain, encoded(draw.choice("x\0 ") * length, source.encoding))


@_plainly
def _odd_values(draw: random.Random, plain: bytes, source: Source) -> bytes:
    lines = _lines(plain, source)
    between = encoded(source.delimiter, source.encoding)
    for _ in range(draw.choice([1, 3, 9])):
        at = draw.randrange(len(lines))
        fields = lines[at].split(between)
        if at and len(fields) > 2:
            text = _quoted(draw.choice(_ODD), source, draw.random() < 0.2)
            fields[draw.randrange(len(fields) - 1)] = encoded(text, source.encoding)
        lines[at] = between.join(fields)
    return b"".join(lines)


@_plainly
def _another_number_of_fields(draw: random.Random, plain: bytes, source: Source) -> bytes:
    lines = _lines(plain, source)
    between = encoded(source.delimiter, source.encoding)
    for _ in range(draw.choice([1, 3])):
        at = draw.randrange(len(lines))
        line = lines[at]
        lines[at] = draw.choice(
            [between + line, between, between + b"\n", line.replace(between, b"", 1), b"\n"]
        )
        if draw.random() < 0.5:
            lines[at] = line.rstrip(b"\r\n") + between + b"\n" if source.encoding != "utf-16" else line
    return b"".join(lines)


@_plainly
def _delimiters_at_line_ends(draw: random.Random, plain: bytes, source: Source) -> bytes:
    break_, delimiter = (encoded(text, source.encoding) for text in ("\n", source.delimiter))
    first = draw.random() < 0.5
    lines = plain.split(break_)
    return break_.join(
        line + delimiter if line and (number or first) else line for number, line in enumerate(lines)
    )


@_plainly
def _another_delimiter(draw: random.Random, plain: bytes, source: Source) -> bytes:
    old, new = (encoded(text, source.encoding) for text in (source.delimiter, draw.choice(",;\t")))
    return plain.replace(old, new)


@_plainly
def _rows_of_another_day(draw: random.Random, plain: bytes, source: Source) -> bytes:
    lines = [
        line.replace(encoded("15", source.encoding), encoded("16", source.encoding))
        if draw.random() < 0.4
        else line
        for line in _lines(plain, source)
    ]
    return b"".join(lines)


@_plainly
def _lines_twice(draw: random.Random, plain: bytes, source: Source) -> bytes:
    lines = _lines(plain, source)
    return b"".join(line * draw.choice([1, 1, 2, 40]) for line in lines)


@_wrong
def _a_broken_archive(draw: random.Random, made: Case) -> None:
    name, content = _some_file(draw, made)
    broken = bytearray(content if content[:2] == b"\x1f\x8b" else packed(content))
    match draw.randrange(4):
        case 0:
            broken = broken[: draw.randrange(2, len(broken))]
        case 1:
            broken[draw.randrange(2, len(broken))] ^= 1 << draw.randrange(8)
        case 2:
            broken += draw.choice([b"\0\0\0", b"more", packed(b"\n"), packed(content)])
        case _:
            broken = bytearray(packed(bytes(broken)))
    made.files[name] = bytes(broken)


@cache
def _bomb() -> bytes:
    return packed(b"visit,day\n" + b"\n" * (20 * FILE_BYTES))


@_wrong
def _a_bomb(_draw: random.Random, made: Case) -> None:
    made.files[b"bomb.csv"] = _bomb()


@_wrong
def _another_name(draw: random.Random, made: Case) -> None:
    name, content = _some_file(draw, made)
    del made.files[name]
    others = [b"caf\xe9.csv", b" .csv", b"a b.csv", b".hidden.csv", b"_part.csv", b"A.CSV", b"a\nb.csv"]
    others += [b"a.csv.zip", b"notes.txt", b"x.csv.GZ", "é.csv".encode(), b"a'\"$.csv", b"z" * 200 + b".csv"]
    made.files[draw.choice(others)] = content


@_wrong
def _twice(draw: random.Random, made: Case) -> None:
    name, content = _some_file(draw, made)
    made.files[draw.choice([b"0", b"z"]) + name] = content


@_wrong
def _no_file(draw: random.Random, made: Case) -> None:
    def folder(path: Path) -> None:
        path.mkdir()

    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    name = draw.choice([b"b.csv", b"b.csv.gz", b"2024-01-16T0600_rows.csv"])
    out = draw.choice(["/etc/passwd", "/dev/zero", "../../../secret.csv", "/proc/self/mem"])
    same = link(os.fsdecode(next(iter(made.files), b"b.csv")))
    made.files[name] = draw.choice([folder, os.mkfifo, link(out), link("b.csv"), link("nowhere"), same])


@_wrong
def _a_manifest(draw: random.Random, made: Case) -> None:
    name, _ = _some_file(draw, made)
    said = [
        b"replaces: true\n",
        b"replaces: true",
        b'{"replaces": true}',
        b"replaces: false\n",
        b"replaces: 7",
    ]
    suffix = draw.choice([b".manifest.yaml", b".manifest.json", b".MANIFEST.yml"])
    made.files[draw.choice([name, name, b"none.csv"]) + suffix] = draw.choice([*said, b"", b"\xff", b"{" * 9])


# -- another reader ----------------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818 - what it is
    """A file can't be used, so that its day must be refused."""


class Unsure(Refused):
    """Programs read the file in different ways; it may be refused or not."""


@dataclass(frozen=True)
class Entry:
    """A record: None as values if it can't be used; ``is_loose`` if programs read it in different ways."""

    raw: str
    values: dict[str, Any] | None
    is_loose: bool = False


@dataclass
class Read:
    """A file's records."""

    labels_only: bool
    entries: list[Entry]


#: That of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def text_of(content: bytes, source: Source) -> str:
    """A file's text, unpacked; bytes that are none as surrogates."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise Refused(str(error)) from error
    if len(content) > FILE_BYTES:
        raise Refused("too large")
    encoding = "utf-16-le" if source.encoding == "utf-16" else source.encoding
    for mark, named in _MARKS.items():
        if content.startswith(mark):
            content, encoding = content[len(mark) :], named
            break
    wide = encoding.startswith(("utf-16", "utf-32"))
    try:
        return content.decode(encoding, "surrogatepass" if wide else "surrogateescape")
    except UnicodeError as error:
        raise Refused(str(error)) from error


def _split(text: str, start: int, source: Source) -> tuple[int, list[str], bool, bool]:
    """Of the record at ``start``: its end, behind the line break, fields, whether it is bad, and loose."""
    delimiter, escape = source.delimiter, source.escape if source.escape == "\\" else None
    fields: list[str] = []
    at, is_bad, any_quoted, any_bare, is_loose = start, False, False, False, False

    def line_end(place: int) -> int:
        found = re.compile(r"\r\n|\r|\n").search(text, place)
        return found.end() if found else len(text)

    first_line = line_end(start)
    while True:
        value = ""
        if text[at : at + 1] == '"':
            any_quoted = True
            at += 1
            while True:
                if at >= len(text):
                    return first_line, [], True, is_loose
                if text[at] == '"' and text[at + 1 : at + 2] == '"':
                    value, at = value + '"', at + 2
                elif text[at] == '"':
                    break
                elif text[at] == escape and text[at + 1 : at + 2] in ('"', "\\"):
                    value, at = value + text[at + 1], at + 2
                else:
                    is_bad = is_bad or text[at] == escape
                    value, at = value + text[at], at + 1
            at += 1
            if at < len(text) and text[at] not in (delimiter, "\r", "\n"):
                return first_line, [], True, is_loose
        else:
            while at < len(text) and text[at] not in (delimiter, "\r", "\n"):
                value, at = value + text[at], at + 1
            any_bare = any_bare or ('"' in value and not (escape and escape in value))
            is_loose = is_loose or bool(escape and escape in value)
        fields.append(value)
        if at < len(text) and text[at] == delimiter:
            at += 1
            continue
        end = line_end(at)
        if any_quoted and any_bare:
            return first_line, [], True, is_loose
        raw = text[start:end]
        is_loose = is_loose or (source.escape is None and ('\\"' in raw or "\\\\" in raw))
        return end, fields, is_bad, is_loose


def _records(text: str, source: Source) -> Iterator[tuple[str, list[str], bool, bool]]:
    """The records of a text, blank lines left out: raw text, fields, whether bad, whether loose."""
    for line in re.split(r"\r\n|\r|\n", text):
        if len(line) > LINE_CHARACTERS:
            raise Refused("line")
    at = 0
    while at < len(text):
        if found := re.compile(r"\r\n|\r|\n").match(text, at):
            at = found.end()
            continue
        end, fields, is_bad, is_loose = _split(text, at, source)
        raw = text[at:end].removesuffix("\n").removesuffix("\r")
        yield raw, fields, is_bad or bool(re.search(r"[\ud800-\udfff]", raw)), is_loose
        at = end


def read(content: bytes, product: Product) -> Read:
    """A file as the contract says it is to be read."""
    source = product.source
    records = list(_records(text_of(content, source), source))
    if not records:
        raise Refused("empty")
    (head, names, is_bad, is_loose), *rest = records
    if is_bad or is_loose:
        raise Unsure("header") if is_loose else Refused("header")

    def ends(raw: str, fields: Sequence[str]) -> bool:
        return len(fields) > 1 and raw.endswith(source.delimiter)

    is_trailing = False
    if source.trailing_delimiter:
        if ends(head, names):
            names, is_trailing = names[:-1], True
        is_trailing = is_trailing or any(
            ends(raw, fields) and len(fields) == len(names) + 1 and not bad
            for raw, fields, bad, _ in rest[:99]
        )
    columns = _header(names, product)
    labels_only = {name for name in columns if name} == {"visit", "day", "bought"}
    entries = []
    for raw, fields, bad, loose in rest:
        given = fields
        if source.trailing_delimiter and ends(raw, given) and (is_trailing or len(given) == len(names) + 1):
            given = given[:-1]
        values = None
        if not bad and len(given) == len(names):
            values = _values(dict(zip(columns, given, strict=True)), product, labels_only)
        entries.append(Entry(raw, values, loose))
    return Read(labels_only, entries)


def _header(names: Sequence[str], product: Product) -> list[str | None]:
    source = product.source

    def folded(name: str) -> str:
        return name.strip().casefold() if source.header_match == "relaxed" else name

    known = {folded(a): name for name, column in source.columns.items() for a in (name, *column.aliases)}
    columns = [known.get(folded(name)) for name in names]
    found = [name for name in columns if name is not None]
    extra = [name for name, column in zip(names, columns, strict=True) if column is None]
    if source.extra_columns == "refuse" and extra:
        raise Refused("extra")
    if isinstance(source.extra_columns, tuple) and {folded(name) for name in extra} - {"more"}:
        raise Refused("extra")
    if len(set(found)) < len(found) or not found:
        raise Refused("twice, or none")
    if set(found) != {"visit", "day", "bought"}:
        for name, column in source.columns.items():
            may_lack = column.nullable or column.fill_null is not None
            if (
                name not in found
                and name != "bought"
                and (name in ("visit", "day", "customer") or not may_lack)
            ):
                raise Refused("missing")
    return columns


def _values(texts: dict[str | None, str], product: Product, labels_only: bool) -> dict[str, Any] | None:
    source, found = product.source, {}
    for name, column in source.columns.items():
        if name not in texts:
            if not labels_only:
                found[name] = column.fill_null
            continue
        text = texts[name]
        value = None if text in source.null_values else value_of(text, column, source)
        if value is BAD:
            return None
        if value is None:
            value = column.fill_null
        allowed = (0, 1) if name == "bought" else column.allowed
        if value is not None and allowed is not None and value not in allowed:
            return None
        if value is None and not column.nullable:
            return None
        if name == "day" and value != DAY:
            return None
        found[name] = value
    return found


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def value_of(text: str, column: Column, source: Source) -> Any:
    """What a text stands for in a column; BAD for nothing."""
    if column.type == "string":
        return BAD if "\0" in text else text
    text = text.strip(" \t\n\r\v\f")
    match column.type:
        case "integer" | "long" | "double":
            plain = _plain(text, source)
            if plain is None or not _NUMBER.fullmatch(plain):
                return BAD
            if column.type == "double":
                number = float(plain)
                return number + 0.0 if math.isfinite(number) else BAD
            if source.thousands is None and re.fullmatch(r"[+-]?[1-9]\d{0,2}\.000", plain, re.ASCII):
                return BAD
            try:
                exact = Decimal(plain)
            except InvalidOperation:
                return BAD
            bits = 31 if column.type == "integer" else 63
            if exact.adjusted() > 19 or exact != exact.to_integral_value():
                return BAD
            return int(exact) if -(2**bits) <= exact < 2**bits else BAD
        case "boolean":
            word = text.casefold()
            if word in {one.casefold() for one in column.true or ("true", "1", "1.0")}:
                return True
            return False if word in {one.casefold() for one in column.false or ("false", "0", "0.0")} else BAD
        case _:
            readings = {_read_moment(text, column, format_) for format_ in column.formats or ("iso",)} - {
                None
            }
            return readings.pop() if len(readings) == 1 else BAD


def _plain(text: str, source: Source) -> str | None:
    groups, point = source.thousands, source.decimal
    if groups is not None:
        spaced = re.sub("[\u00a0\u202f]", " ", text) if groups == " " else text
        mark = re.escape(groups)
        if re.fullmatch(rf"[+-]?\d{{1,3}}({mark}\d{{3}})+({re.escape(point)}\d*)?", spaced, re.ASCII):
            text = spaced.replace(groups, "")
        elif groups in text:
            return None
    if point == ",":
        return None if "." in text else text.replace(",", ".")
    return text


def _read_moment(text: str, column: Column, format_: str) -> Any:
    of_day = column.type == "date"
    try:
        if format_.startswith("epoch"):
            if not _NUMBER.fullmatch(text):
                return None
            seconds = Decimal(text) / {"epoch_seconds": 1, "epoch_milliseconds": 1000}[format_]
            if abs(seconds) > 10**12 or (seconds * 10**6) % 1:
                return None
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(seconds * 10**6))
            if not of_day:
                return moment
            return moment.date() if not moment.time().isoformat().strip("0:.") else None
        if format_ == "iso" and of_day:
            found = re.fullmatch(r"(\d{4}-\d\d-\d\d)([T ]00:00(:00([.,]0+)?)?(Z|\+00:?00)?)?", text, re.ASCII)
            return date.fromisoformat(found[1]) if found else None
        moment = datetime.fromisoformat(text) if format_ == "iso" else datetime.strptime(text, format_)  # noqa: DTZ007
        if of_day:
            return moment.date()
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
