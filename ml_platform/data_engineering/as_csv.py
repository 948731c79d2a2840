"""Histories in Parquet or JSON lines as the records of CSV that they would be, written as a contract says.

What reads whole histories, to split or to describe them, goes by texts. A value is written so that it is read
under the contract as the one that it is in its file; what isn't one under the contract isn't one as a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.source import Column, Source
from ml_platform.data_engineering import cells, conversion, json_reader, parquet_reader
from ml_platform.data_engineering.conversion import EPOCHS, ISO
from ml_platform.data_engineering.exact_reader import readable, tokenize
from ml_platform.data_engineering.files import FileRules, UnreadableFile
from ml_platform.data_engineering.formats import Format, format_of, to_do
from ml_platform.data_engineering.line_ends import Record
from ml_platform.data_engineering.quoting import RecordWriter

_NOT_NUMBERS = ("nan", "inf", "-inf")


def records(path: Path, source: Source, rules: FileRules) -> Iterator[Record]:
    """The records of a file of any format, the header first.

    Raises:
        UnreadableFile: it can't be read to its end, or is of a format that isn't read.
    """
    format_ = format_of(path.name)
    if format_ is None and (advice := to_do(path.name)):
        raise UnreadableFile(advice)
    if format_ is Format.PARQUET:
        return _of_parquet(str(path), source, rules)
    if format_ is Format.JSON_LINES:
        return _of_json_lines(str(path), source, rules)
    return tokenize(str(path), source, rules)


def written(path: Path, source: Source, rules: FileRules, folder: Path) -> Path:
    """A file as one of CSV, of the same name in another folder; a CSV file as it is.

    Raises: as :func:`records` does.
    """
    if format_of(path.name) is Format.CSV or (format_of(path.name) is None and not to_do(path.name)):
        return path
    target, writer = folder / path.name, RecordWriter(source)
    with target.open("w", encoding="utf-8", newline="") as file:
        for record in records(path, source, rules):
            if record.problem:
                raise UnreadableFile(f"line {record.line}: {record.problem}")
            file.write(writer.line(record.fields))
    return target


def _of_parquet(path: str, source: Source, rules: FileRules) -> Iterator[Record]:
    head = parquet_reader.head_of(path, rules)
    yield Record(1, "", list(head.names), None)
    declared = [_declared(name, source) for name in head.names]
    row = 0
    for batch in parquet_reader.batches_of(path, rules):
        columns = [
            _texts(column, column_of, source).to_pylist()
            for column, column_of in zip(batch.columns, declared, strict=True)
        ]
        for fields in zip(*columns, strict=True):
            row += 1
            yield Record(row, json.dumps(fields, ensure_ascii=False), list(fields), None)


def _of_json_lines(path: str, source: Source, rules: FileRules) -> Iterator[Record]:
    names: dict[str, None] = {}
    for found in json_reader.records_of(path, source, rules):
        names |= dict.fromkeys(found.values)
    if not names:
        json_reader.names_of(path, source, rules)  # says why
    yield Record(1, "", list(names), None)
    columns = {name: _declared(name, source) for name in names}
    null = _null(source)
    for found in json_reader.records_of(path, source, rules):
        fields = [_json_text(found.values.get(name), columns[name], source, null) for name in names]
        yield Record(found.line, readable(found.raw), [] if found.problem else fields, found.problem)


def _declared(name: str, source: Source) -> Column | None:
    column = source.header_names.get(source.folded(name))
    return source.columns[column] if column is not None else None


def _null(source: Source) -> str:
    return "" if "" in source.null_values or not source.null_values else source.null_values[0]


# -- values as a contract's texts --------------------------------------------------------------------


def _json_text(value: Any, declared: Column | None, source: Source, null: str) -> str:
    if value is None:
        return null
    if isinstance(value, bool):
        return _truth(value, declared)
    if isinstance(value, json_reader.Number):
        return _number(str(value), declared, source)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(array: pa.Array, declared: Column | None, source: Source) -> pa.Array:
    given = array.type
    if cells.is_bytes(array):
        texts = cells.readable(array)
    elif pa.types.is_boolean(given):
        texts = pa.array([value if value is None else _truth(value, declared) for value in array.to_pylist()])
    elif pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given):
        texts = cells.as_text(array)
        if pa.types.is_decimal(given) or source.decimal != ".":
            said = [text and _number(text, declared, source) for text in texts.to_pylist()]
            texts = pa.array(said, pa.string())
    elif (
        declared is not None
        and declared.formats
        and (pa.types.is_timestamp(given) or pa.types.is_date(given))
    ):
        texts = pa.array(_moments(array, declared), pa.string())
    else:
        texts = cells.as_text(array)
    return pc.fill_null(texts.cast(pa.string()), _null(source))


def _truth(value: bool, declared: Column | None) -> str:
    words = (declared.true or declared.false) if declared is not None else ()
    if declared is None or not words:
        return "true" if value else "false"
    return (declared.true if value else declared.false)[0]


def _number(text: str, declared: Column | None, source: Source) -> str:
    """A number without zeros at its end, after which it might be a thousand times as much."""
    if declared is None or declared.type not in ("integer", "long", "double") or text in _NOT_NUMBERS:
        return text
    mantissa, exponent, power = text.partition("e") if "e" in text else text.partition("E")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0")
        mantissa += "0" if mantissa.endswith(".") else ""
    return f"{mantissa}{exponent}{power}".replace(".", source.decimal)


def _moments(array: pa.Array, declared: Column) -> list[str | None]:
    """Days and moments in a format of a column by which they are read again; others as they are."""
    texts = cells.as_text(array).to_pylist()
    found = cells.cast_as_is(array, "date" if pa.types.is_date(array.type) else "timestamp")
    assert found is not None, "days and moments are such by themselves"
    moments = [
        value if value is None or isinstance(value, datetime) else datetime.combine(value, time.min, UTC)
        for value in found[0].to_pylist()
    ]
    known: dict[datetime, str] = {}
    for moment, text in zip(moments, texts, strict=True):
        if moment is not None and moment not in known:
            known[moment] = _in_format(moment, declared, text)
    return [text if moment is None else known[moment] for moment, text in zip(moments, texts, strict=True)]


def _in_format(moment: datetime, declared: Column, text: str) -> str:
    meant = moment if declared.type == "timestamp" else moment.date()
    if declared.type == "date" and moment != datetime.combine(meant, time.min, UTC):
        return text
    for format_ in declared.formats:
        if format_ == ISO:
            said = text
        elif format_ in EPOCHS:
            unit = timedelta(microseconds=1_000_000 // EPOCHS[format_])
            said = str((moment - datetime(1970, 1, 1, tzinfo=UTC)) // unit)
        else:
            # Years before 1000 would have fewer digits.
            said = moment.strftime(format_.replace("%Y", f"{moment.year:04}"))
        if conversion.value_of(said, declared) == meant:
            return said
    return text
