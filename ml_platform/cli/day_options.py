"""The options of days: how a day is written, and the range from one to another."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from ml_platform.cli.console import fail
from ml_platform.contract.days import DayRange

DAY_FORMATS = ["%Y-%m-%d"]
FirstDay = Annotated[datetime, typer.Option("--from", formats=DAY_FORMATS, help="First event day.")]
LastDay = Annotated[datetime, typer.Option("--to", formats=DAY_FORMATS, help="Last event day.")]


def days_between(first: datetime, last: datetime) -> DayRange:
    """The range of the days that two options name; ends the command if the first comes after the last."""
    try:
        return DayRange(first.date(), last.date())
    except ValueError as error:
        fail(str(error))
