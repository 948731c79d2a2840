"""Large files in parts, each of which a task reads by itself.

Parquet is read by row groups. Of the others only a file whose every line break ends a record can be read from
the middle: JSON lines, or plain CSV in UTF-8 without any quote and without escapes. What is packed, and all
else, is one part, which is read from its beginning.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ml_platform.contract.product import Product
from ml_platform.contract.source import QUOTE
from ml_platform.data_engineering import buckets, files, parquet_reader
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.files import FileRules, Part, RowGroups, UnreadableFile
from ml_platform.data_engineering.formats import Format
from ml_platform.data_engineering.landing import Delivery
from ml_platform.spark.tasks import Session, each_in_a_task

#: Bytes of a file's head among which its first line must end; that of the widest accepted header is shorter.
_HEAD_BYTES = 1 << 20
_LOOK_BYTES = 64 << 10
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class _Look:
    """What a part of a file has: a quote, and how many lines. None of both if it can't be read."""

    quoted: bool = True
    lines: int = 0


def likely_bytes(delivery: Delivery) -> int:
    """About how many bytes of CSV a delivery's files are, unpacked."""
    return sum(file.likely_bytes for file in delivery.files)


def bucket_count(delivery: Delivery) -> int:
    """How many buckets a delivery has; one that a single task can hold has one."""
    return buckets.number_of(likely_bytes(delivery))


def divided(
    session: Session, product: Product, files_: Sequence[DeliveryFile], part_bytes: int
) -> list[list[DeliveryFile]]:
    """Each file in its parts of about ``part_bytes``, in order; tasks look through the files for quotes."""
    found = [_parts(file, product, part_bytes) for file in files_]
    several = [part for parts in found if len(parts) > 1 for part in parts if _is_text(part)]

    def look(number: int) -> _Look:
        return _look(several[number])

    looks = iter(each_in_a_task(session, len(several), look, _Look))
    result = []
    for file, parts in zip(files_, found, strict=True):
        if len(parts) == 1 or not _is_text(parts[0]):
            result.append(parts)
            continue
        seen = [next(looks) for _ in parts]
        if any(part.quoted for part in seen):
            result.append([file])
            continue
        numbered, lines = [], 0
        for part, of_part in zip(parts, seen, strict=True):
            numbered.append(_with(file, replace(_part(part), lines=lines)))
            lines += of_part.lines
        result.append(numbered)
    return result


def _parts(file: DeliveryFile, product: Product, part_bytes: int) -> list[DeliveryFile]:
    """A file in parts that end with their lines, or row groups; or as it is."""
    try:
        if file.format is Format.PARQUET:
            return _parts_of_parquet(file, part_bytes)
        head = _head_of(file, product, part_bytes)
        if head is None:
            return [file]
        ends = list(_line_ends(file, part_bytes, len(head)))
    except (UnreadableFile, OSError):
        return [file]  # whoever reads it says why
    return [_with(file, Part(head, start, end)) for start, end in pairwise([len(head), *ends])]


def _parts_of_parquet(file: DeliveryFile, part_bytes: int) -> list[DeliveryFile]:
    found = parquet_reader.parts(file, part_bytes) if file.likely_bytes > part_bytes else []
    return [_with(file, part) for part in found] if len(found) > 1 else [file]


def _head_of(file: DeliveryFile, product: Product, part_bytes: int) -> bytes | None:
    """What each part of a file is read behind; None if it is read as a whole."""
    source, rules = product.source, file.rules
    if file.size <= part_bytes or file.size > rules.file_bytes:
        return None
    is_json = file.format is Format.JSON_LINES
    if not is_json and (
        source.trailing_delimiter or source.escape not in (None, QUOTE) or source.encoding != "utf-8"
    ):
        return None
    with files.open_bytes(file.path, rules) as stream:
        if stream.packed:
            return None
        if is_json:
            return None if stream.head.startswith(_WIDE) else b""
        return _head(stream.read(_HEAD_BYTES))


def _head(beginning: bytes) -> bytes | None:
    """The line of the header, if it is one that ends where a line of every reader does."""
    head = beginning[: beginning.find(b"\n") + 1]
    text = head.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").removesuffix(b"\r")
    is_plain = text.strip() and not any(sign in text for sign in (b"\r", b"\0", QUOTE.encode()))
    return head if is_plain and not head.startswith(_WIDE) else None


def _line_ends(file: DeliveryFile, part_bytes: int, start: int) -> Iterator[int]:
    """Where lines end, about every ``part_bytes`` of a file; at last its end."""
    rules = FileRules(root=file.rules.root, store_options=file.rules.store_options)
    with files.open_bytes(file.path, rules) as stream:
        end = start
        while (nominal := end + part_bytes) < file.size:
            end = stream.line_end(nominal, _LOOK_BYTES)
            if end >= file.size:
                break
            yield end
        yield file.size


def _look(file: DeliveryFile) -> _Look:
    part = _part(file)
    try:
        with files.open_bytes(file.path, file.rules) as stream:
            content = stream.read()[len(part.head) :]
    except (UnreadableFile, OSError):
        return _Look()
    # As they are counted where texts are read: \n, \r\n, and \r by itself.
    lines = content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
    # A line break within a text of JSON is written as \\n.
    return _Look(file.format is Format.CSV and QUOTE.encode() in content, lines)


def _is_text(file: DeliveryFile) -> bool:
    """Whether a part is one of lines."""
    return isinstance(file.rules.part, Part)


def _part(file: DeliveryFile) -> Part:
    assert isinstance(file.rules.part, Part), "only parts of texts are looked at"
    return file.rules.part


def _with(file: DeliveryFile, part: Part | RowGroups) -> DeliveryFile:
    return replace(file, rules=replace(file.rules, part=part))
