"""The results of the days that a backfill was asked for, in one line that adds up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from ml_platform.contract.assets import CATALOGUE
from ml_platform.contract.days import DayRange, counted, named
from ml_platform.contract.product import Product
from ml_platform.contract.windows import partitions_between
from ml_platform.settings import Settings
from ml_platform.storage.ledger import BAD, Ledger
from ml_platform.storage.tables import Tables

#: Days of an outcome that are named one by one; of more the first, and how many there are.
_NAMED = 3


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of partitions by asset, as the ledger has them."""

    by_asset: Mapping[str, Mapping[date, str]]

    @property
    def bad(self) -> str:
        """How many days and months have something refused, blocked, missing or held back; empty if none."""
        found = {
            (CATALOGUE[asset].period, day)
            for asset, days in self.by_asset.items()
            for day, outcome in days.items()
            if outcome in BAD
        }
        numbers = {unit: sum(period == unit for period, _ in found) for unit in ("day", "month")}
        return " and ".join(counted(number, unit) for unit, number in numbers.items() if number)

    def __str__(self) -> str:
        """Assets with the same outcomes share an entry; what isn't written is named."""
        entries: dict[str, list[str]] = {}
        for asset, outcomes in self.by_asset.items():
            entries.setdefault(_counted(outcomes, CATALOGUE[asset].period), []).append(asset)
        return "; ".join(f"{', '.join(assets)}: {counted}" for counted, assets in entries.items())


def outcomes(product: Product, settings: Settings, assets: Sequence[str], days: DayRange) -> Outcomes:
    """What the ledger says of the partitions of some assets that a backfill over ``days`` covers."""
    ledger = Ledger(Tables.of(settings), product.name)
    found = {}
    for asset in assets:
        asked = partitions_between(product, CATALOGUE[asset], days)
        known = ledger.latest(asset, set(asked), details=False)
        if asked:
            found[asset] = {day: known[day].outcome if day in known else "not made" for day in asked}
    return Outcomes(found)


def _counted(outcomes: Mapping[date, str], period: str) -> str:
    by_outcome: dict[str, list[date]] = {}
    for day, outcome in outcomes.items():
        by_outcome.setdefault(outcome, []).append(day)
    parts = []
    for outcome, days in sorted(by_outcome.items(), key=lambda item: -len(item[1])):
        words = f"{len(days):,} {outcome.replace('_', ' ')}"
        if outcome in BAD:
            shown = [named(period, day) for day in days[:_NAMED]]
            words += f" ({', '.join(shown)}{', …' if len(days) > _NAMED else ''})"
        parts.append(words)
    return ", ".join(parts)
