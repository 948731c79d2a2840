"""Why days have no rows: what was expected where, and what lies there instead."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from datetime import date

from ml_platform.contract.product import Product
from ml_platform.data_engineering.day_folders import (
    Folder,
    day_named,
    folder_of,
    folders_of,
    is_folder,
    is_there,
    look_into,
    name_of,
    why,
)
from ml_platform.data_engineering.files import FileRules, shown
from ml_platform.data_engineering.formats import NAMES, to_do
from ml_platform.data_engineering.landing import listed
from ml_platform.data_engineering.object_store import ObjectPath, Place

#: A day in a name that isn't just the day: 20240104, day=2024-01-04, 2024_1_4.
_A_DAY = re.compile(r"(?<!\d)(\d{4})[-_./]?(\d{1,2})[-_./]?(\d{1,2})(?!\d)")
_A_YEAR = re.compile(r"^(?:\w+=)?(\d{4})$")


def why_absent(
    product: Product, landing: Place, days: Collection[date], rules: FileRules | None = None
) -> dict[date, str]:
    """Why each of some days has no rows, as far as can be seen from what lies there.

    Nothing is said of a folder that lies elsewhere, unless links may lead there. Arguments as for
    :func:`.landing.scan`.
    """
    rules = rules or FileRules(root=str(landing))
    elsewhere: dict[date, list[str]] = {}
    years: dict[int, list[str]] = {}
    if isinstance(landing, ObjectPath):
        of_day = folders_of(product, landing, days)
        return {day: _absence(folder_of(product, landing, day), of_day(day), ()) for day in days}
    try:
        entries = sorted(os.scandir(landing / product.name), key=lambda entry: entry.name)
    except OSError:
        entries = []
    if not rules.allows(landing / product.name):
        entries = []
    for entry in entries:
        if day_named(entry.name) and is_there(entry):
            continue
        if day := _day_in(entry.name):
            elsewhere.setdefault(day, []).append(name_of(entry))
        elif (year := _A_YEAR.match(entry.name)) and is_folder(entry):
            years.setdefault(int(year[1]), []).append(name_of(entry))
    found = {}
    for day in days:
        place = folder_of(product, landing, day)
        try:
            folder = look_into(place) if rules.allows(place) else Folder()
        except OSError as error:
            found[day] = why(error)
            continue
        found[day] = _absence(place, folder, [*elsewhere.get(day, ()), *years.get(day.year, ())])
    return found


def _absence(place: Place, folder: Folder, elsewhere: Sequence[str]) -> str:
    parts = [f"no rows have been delivered to {place}"]
    if folder.paths:
        names = (shown(path.name) for path in folder.paths)
        parts.append(f"there are labels only, in {listed(names)}")
    if folder.unread:
        parts.append(
            f"{listed(folder.unread)} can't be read: files of the names {NAMES} that lie directly in the "
            "day's folder are"
        )
        parts += dict.fromkeys(what for name in folder.unread if (what := to_do(name)))
    if elsewhere:
        parts.append(
            f"rows may be in {listed(elsewhere)} beside it, whose name is not that of the day's folder"
        )
    return "; ".join(parts)


def _day_in(name: str) -> date | None:
    """The day that somebody may mean by a name."""
    match = _A_DAY.search(name)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None
