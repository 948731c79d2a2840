"""Delivered files to typed records, each record that can't be used with its line and raw text.

Parquet is read by :mod:`.parquet_reader`, JSON lines by :mod:`.json_reader`. A CSV file is read by Arrow's
streaming reader (:mod:`.fast_reader`), and a bad record found in it by counting lines and quotes
(:mod:`.record_lines`). Where quotes don't stand as :mod:`.quoting` needs them the file is read by an exact
tokenizer (:mod:`.exact_reader`) from there on. All give values to the same conversion
(:mod:`.typed_records`). What a day's records add up to is :mod:`.ards`'s business.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.source import QUOTE, Source
from ml_platform.data_engineering import exact_reader, fast_reader, json_reader, limits, parquet_reader
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.exact_reader import CHANGED, explained, open_text, readable, tokenize
from ml_platform.data_engineering.files import (
    DeliveredBytes,
    FileRules,
    Part,
    RowGroups,
    UnreachableFile,
    UnreadableFile,
)
from ml_platform.data_engineering.formats import Format, format_of, no_text
from ml_platform.data_engineering.record_lines import RecordLines
from ml_platform.data_engineering.typed_records import convert, unreadable


def parse_file(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    """Every record of a file, in order, typed.

    A file that can't be read to its end ends with one record of the kind ``unreadable`` or
    ``unreachable``; the records before it are then to be discarded.
    """
    try:
        for batch in _read(file, product):
            yield _placed(batch, file.rules.part)
    except UnreadableFile as error:
        yield unreadable(file, product, error)


def _placed(batch: pa.RecordBatch, part: Part | RowGroups | None) -> pa.RecordBatch:
    """Records with their lines, and numbers in order, in the file that they are a part of."""
    if part is None or not part.lines:
        return batch
    for name in ("_record", "_line"):
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(at), pc.add(batch.column(at), part.lines))
    return batch


def _read(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    if file.format is Format.CSV:
        yield from _read_csv(file, product)
        return
    reader = parquet_reader if file.format is Format.PARQUET else json_reader
    with contextlib.closing(reader.read(file, product)) as blocks:
        for records in blocks:
            batch = convert(file, product, records)
            assert batch is not None, "these readers know where their records stand"
            yield batch


def _read_csv(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    done = 0
    try:
        with contextlib.closing(fast_reader.read_fast(file, product)) as blocks:
            for records in blocks:
                batch = convert(file, product, records)
                if batch is None:
                    break
                yield batch
                done += records.count
            else:
                return
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, UnicodeError):
        pass  # whatever it is, the exact tokenizer can say where it is
    yield from exact_reader.read_exactly(file, product, done)


def read_head(path: str, name: str, source: Source, rules: FileRules) -> tuple[tuple[str, ...], int]:
    """The column names of a file, and how many bytes of CSV it will probably give; it is opened once.

    Of JSON lines they are those of the first lines.

    Args:
        name: whose ending says the format.

    Raises:
        UnreadableFile: the file is empty, damaged, not in its encoding, or not to be opened.
        UnreachableFile: the machine doesn't give its content.
    """
    format_ = format_of(name) or Format.CSV
    if format_ is Format.PARQUET:
        head = parquet_reader.head_of(path, rules)
        return head.names, head.likely_bytes
    likely_bytes = 0

    def opened(stream: DeliveredBytes) -> None:
        nonlocal likely_bytes
        likely_bytes = stream.likely_bytes
        if why := no_text(stream.head):
            raise UnreadableFile(f"is no {format_} file: {why}")

    if format_ is Format.JSON_LINES:
        return json_reader.names_of(path, source, rules, opened), likely_bytes
    for record in tokenize(path, source, rules, opened):
        if record.problem:
            raise UnreadableFile(f"the header can't be read: {explained(record, source)}")
        return tuple(record.fields), likely_bytes
    raise UnreadableFile("the file is empty; expected is a header with the names of the columns")


def read_header(path: str, source: Source, rules: FileRules | None = None) -> tuple[str, ...]:
    """The column names of a file. Raises as :func:`read_head` does."""
    return read_head(path, path, source, rules or FileRules())[0]


def locate(file: DeliveryFile, product: Product, records: set[int]) -> Iterator[tuple[int, int, str]]:
    """Number, line and raw text of the chosen records of a file.

    Raises:
        UnreadableFile: the file can't be read any more, or has changed.
    """
    try:
        before = file.rules.part.lines if file.rules.part else 0
        found = [
            (number + before, line + before, raw)
            for number, line, raw in _locate(file, product, {number - before for number in records})
        ]
    except UnreadableFile as error:
        raise type(error)(f"{file.name}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UnreachableFile(f"{file.name}: can't be read: {error}") from error
    except pa.ArrowInvalid as error:
        raise UnreadableFile(f"{file.name}: {CHANGED}") from error
    if len(found) < len(records):
        raise UnreadableFile(f"{file.name}: {CHANGED}")
    yield from found


def _locate(file: DeliveryFile, product: Product, records: set[int]) -> Iterator[tuple[int, int, str]]:
    wanted = sorted(records)
    if file.format is Format.PARQUET:
        yield from parquet_reader.locate(file, product, wanted)
        return
    if file.format is Format.JSON_LINES:
        yield from json_reader.locate(file, product, records)
        return
    if _has_quotes(file, product.source):
        for number, record in enumerate(tokenize(file.path, product.source, file.rules), start=-1):
            if number in records:
                yield number, record.line, readable(record.raw)
        return
    with contextlib.closing(RecordLines(file, product.source)) as lines:
        for number, place in zip(wanted, lines.find(wanted), strict=True):
            yield number, place.line, place.raw


def _has_quotes(file: DeliveryFile, source: Source) -> bool:
    with open_text(file.path, source, file.rules) as text:
        return any(QUOTE in block for block in iter(lambda: text.read(limits.BLOCK_BYTES), ""))
