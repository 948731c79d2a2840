"""What the sections of a contract share: bounded names, dates and numbers, and their base class.

The bounds lie far beyond any real contract: what they let through can be computed with, and stored.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

#: Bounds of a contract, far beyond any real one: what they let through can be computed with, and stored.
LONGEST_NAME = 128  # characters of a column; databases take between 63 bytes and 128 characters


LONGEST_PRODUCT_NAME = 60  # it is part of the names of tables, folders, and jobs


LONGEST_TEXT = 2_000


MAXIMUM_COLUMNS = 2_000


MAXIMUM_TEXT = 2_000  # characters of a description


MAXIMUM_VALUES = 10_000  # allowed values of a column


FIRST_DATE, LAST_DATE = date(1900, 1, 1), date(2200, 12, 31)


MAXIMUM_DAYS = 36_600  # a hundred years, so that no arithmetic leaves the calendar


MAXIMUM_MONTHS = 1_200


MAXIMUM_ROWS = 10**12


def _identifier(name: str) -> str:
    if (
        not re.fullmatch(r"[a-z][a-z0-9_]*", name)
        or keyword.iskeyword(name)
        or len(name) > LONGEST_PRODUCT_NAME
    ):
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} can't name a product; accepted are up to {LONGEST_PRODUCT_NAME} "
            "lower-case letters, digits and underscores, with a letter first"
        )
    return name


def _column_name(name: str) -> str:
    if not name.isprintable() or not name.strip() or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} can't name a column; accepted are up to {LONGEST_NAME} printable "
            "characters"
        )
    return name


def _date(value: date) -> date:
    if not FIRST_DATE <= value <= LAST_DATE:
        raise ValueError(f"{value} lies beyond the dates that are accepted, {FIRST_DATE} to {LAST_DATE}")
    return value


def _month(value: object) -> object:
    """Accept ``2022-02`` as the month's first day."""
    if isinstance(value, str) and len(value) == 7:
        return f"{value}-01"
    return value


def _first_of_month(value: date) -> date:
    if value.day != 1:
        raise ValueError(f"{value} is not a month; write it as {value:%Y-%m}")
    return value


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder of zones is a path, too
        raise ValueError(
            f"{name[:LONGEST_NAME]!r} is not a time zone; accepted are names like Europe/Paris"
        ) from error
    return name


Month = Annotated[date, BeforeValidator(_month), AfterValidator(_first_of_month), AfterValidator(_date)]


Day = Annotated[date, AfterValidator(_date)]


ProductName = Annotated[str, AfterValidator(_identifier)]


ColumnName = Annotated[str, AfterValidator(_column_name)]


Days = Annotated[int, Field(le=MAXIMUM_DAYS)]


Months = Annotated[int, Field(le=MAXIMUM_MONTHS)]


Rows = Annotated[int, Field(le=MAXIMUM_ROWS)]


class Section(BaseModel):
    """A section of a contract; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Names in a message."""
    return ", ".join(names)
