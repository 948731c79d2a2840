"""Days that have been withdrawn: who had used them, and which results can't be made again for that.

Withdrawing is erasure: what was made of the day alone goes with it. What was made of a window that held the
day stays, says so, and is made again when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from ml_platform.contract.assets import CATALOGUE
from ml_platform.contract.product import Product
from ml_platform.contract.windows import days_read, reads_window
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables


def _windowed() -> list[str]:
    """The assets that are made of windows which may hold a day."""
    return [asset.name for asset in CATALOGUE.values() if reads_window(asset)]


@dataclass(frozen=True)
class NoLongerReproducible:
    """What was made before days that it had used were withdrawn, each with these days.

    ``models`` are by training fingerprint, ``others`` by asset and partition.
    """

    models: Mapping[str, tuple[date, ...]]
    others: Mapping[str, Mapping[date, tuple[date, ...]]]

    def __bool__(self) -> bool:
        return bool(self.models) or any(self.others.values())

    @property
    def days(self) -> list[date]:
        """The withdrawn days, ascending."""
        found = {day for days in self.models.values() for day in days}
        for by_partition in self.others.values():
            found.update(day for days in by_partition.values() for day in days)
        return sorted(found)


def users_of(tables: Tables, product: Product, days: Sequence[date]) -> dict[date, list[str]]:
    """What has used each day, in words; of what is there now, so to be asked before the day goes."""
    ledger = Ledger(tables, product.name)
    models = ModelHistory(tables, product).models()
    records = {asset: ledger.latest(asset, details=False) for asset in _windowed()}
    found: dict[date, list[str]] = {}
    for day in days:
        learned = [model for model in models if _learned(model, day)]
        uses = [f"the model as of {model.as_of} (v{model.version})" for model in learned]
        for asset in _windowed():
            used = [
                partition
                for partition, record in records[asset].items()
                if _used_by(product, asset, partition, record, day)
            ]
            if used:
                span = f"{min(used)}" if len(used) == 1 else f"{len(used)} from {min(used)} to {max(used)}"
                uses.append(f"{asset} of {span}")
        found[day] = uses
    return found


def no_longer_reproducible(tables: Tables, product: Product) -> NoLongerReproducible:
    """What had used a day before that was withdrawn, and has not been made again since."""
    ledger = Ledger(tables, product.name)
    withdrawn = {day: record.order for day, record in ledger.withdrawals("ards").items()}
    if not withdrawn:
        return NoLongerReproducible({}, {})

    def used_before(record: DayRecord | None, used: Callable[[date], bool]) -> tuple[date, ...]:
        if record is None:
            return ()
        return tuple(day for day, order in sorted(withdrawn.items()) if record.order < order and used(day))

    trained = ledger.latest("model", outcomes=["written"], details=False)
    models = {}
    for model in ModelHistory(tables, product).models():
        if used := used_before(trained.get(model.as_of), partial(_learned, model)):
            models[model.fingerprint] = used
    others: dict[str, Mapping[date, tuple[date, ...]]] = {}
    for asset in _windowed():
        others[asset] = {
            day: used
            for day, record in ledger.latest(asset, details=False).items()
            if (used := used_before(record, partial(_used_by, product, asset, day, record)))
        }
    return NoLongerReproducible(models, others)


def _learned(model: ModelRecord, day: date) -> bool:
    return model.first_day <= day <= model.last_day


def _used_by(product: Product, asset: str, partition: date, record: DayRecord, day: date) -> bool:
    """Whether what was made for a partition of an asset is made of a day, among others."""
    return record.outcome == "written" and any(
        day in days_read(product, reads.over, partition) for reads in CATALOGUE[asset].reads
    )
