"""The formats of delivered files, told by how their names end; and what to do about other files."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Format(StrEnum):
    """How a file holds its records."""

    CSV = "CSV"
    JSON_LINES = "JSON lines"
    PARQUET = "Parquet"


#: How names end, in any case.
SUFFIXES: Mapping[str, Format] = {
    ".csv": Format.CSV,
    ".csv.gz": Format.CSV,
    ".parquet": Format.PARQUET,
    ".jsonl": Format.JSON_LINES,
    ".jsonl.gz": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".ndjson.gz": Format.JSON_LINES,
}
#: What is read, in words.
NAMES = "*.csv, *.parquet, *.jsonl and *.ndjson (all but *.parquet also with .gz after it)"

_EXCEL = (".xlsx", ".xls", ".xlsm", ".xlsb")
_TO_DO = {
    **dict.fromkeys(
        _EXCEL,
        "Excel files aren't read, as their cells don't say what they are: save the sheet as "
        "'CSV UTF-8 (comma delimited)', or write it as Parquet",
    ),
    ".json": "a file with one JSON object a line is to be named *.jsonl or *.ndjson",
}
#: How files begin that are no text, whatever their names say.
_BEGINNINGS = {
    b"PK\x03\x04": "it is a packed file, as those of Excel are: save the sheet as 'CSV UTF-8 (comma "
    "delimited)', or pack with gzip",
    b"\xd0\xcf\x11\xe0": "it is an Excel file: save the sheet as 'CSV UTF-8 (comma delimited)'",
    b"PAR1": "it is a Parquet file: name it *.parquet",
}


def format_of(name: str) -> Format | None:
    """The format that a file's name says; None if it isn't read."""
    lower = name.lower()
    return next((format_ for suffix, format_ in SUFFIXES.items() if lower.endswith(suffix)), None)


def stem_of(name: str) -> str:
    """A file's name without what says its format."""
    lower = name.lower()
    endings = [*sorted(SUFFIXES, key=len, reverse=True), ".gz"]
    return next((name[: -len(end)] for end in endings if lower.endswith(end)), name)


def to_do(name: str) -> str | None:
    """What to do about a file whose name isn't one of those that are read; None if nothing is known."""
    lower = name.lower()
    return next((what for ending, what in _TO_DO.items() if lower.endswith(ending)), None)


def no_text(head: bytes) -> str | None:
    """Why a file that begins so is no text, if it is known."""
    return next((what for beginning, what in _BEGINNINGS.items() if head.startswith(beginning)), None)
