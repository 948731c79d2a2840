"""The records of a delivery's files as a task reads them: those that go together by key, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.parsing import locate
from ml_platform.data_engineering.replacements import USED, records_of
from ml_platform.data_engineering.resolution import (
    ORPHAN,
    REFUSALS,
    Account,
    Refusal,
    entry_schema,
    quarantine_schema,
    table,
)

#: Records that are looked up in a file at once, with their texts.
_LOCATED_AT_ONCE = 250_000


@dataclass
class Reading:
    """Some files of a day, or parts of files, read in order.

    As far as they have been read: the accounts ``of_files``, by number, of their records, but for labels that
    are applied; the ``bad`` ones, in :func:`.quarantine_schema`, until they are taken; and why the day can't
    be read, if so.
    """

    product: Product
    files: Sequence[DeliveryFile]
    of_files: dict[int, Account] = field(default_factory=dict)
    bad: list[pa.RecordBatch] = field(default_factory=list)
    refusal: Refusal | None = None

    @property
    def account(self) -> Account:
        """That of all their records."""
        return sum(self.of_files.values(), Account())

    def entries(self) -> Iterator[pa.RecordBatch]:
        """The records that are brought together by key, in :func:`.entry_schema`; up to a refusal."""
        names = entry_schema(self.product).names
        for file in self.files:
            for batch in records_of(file, self.product):
                kind = batch.column("_kind")
                if self._refused(batch):
                    return
                used = pc.is_in(kind, pa.array(list(USED)))
                self._account(batch, file)
                if pc.all(used).as_py() is False:
                    batch = batch.filter(used)
                yield batch.select(names)

    def _refused(self, batch: pa.RecordBatch) -> bool:
        kind = batch.column("_kind")
        refused = batch.filter(pc.is_in(kind, pa.array(list(REFUSALS)))).slice(0, 1).to_pylist()
        if refused:
            self.refusal = Refusal.of(refused[0]["_kind"], refused[0]["_reason"])
        return bool(refused)

    def _account(self, batch: pa.RecordBatch, file: DeliveryFile) -> None:
        kind = batch.column("_kind")
        bad = batch.filter(pc.equal(kind, "bad"))
        unreadable = pc.sum(pc.equal(kind, "earlier_unreadable")).as_py() or 0
        self.of_files[file.number] = self.of_files.get(file.number, Account()) + Account(
            delivered=len(batch) - unreadable,
            quarantined=len(bad),
            replaced_bad=pc.sum(pc.equal(kind, "earlier_bad")).as_py() or 0,
            replaced_unreadable=unreadable,
            labels_not_yet=pc.sum(pc.equal(kind, "pending")).as_py() or 0,
        )
        if len(bad):
            columns = {name: bad.column(f"_{name}") for name in ("file", "line", "raw", "reason")}
            self.bad += unusable(self.product, file, columns).to_batches()


def unusable(product: Product, file: DeliveryFile, columns: dict[str, pa.Array]) -> pa.Table:
    """Records of a file for the quarantine, in :func:`.quarantine_schema`."""
    return table(quarantine_schema(), {"product": product.name, EVENT_DAY: file.day, **columns})


def located(product: Product, files: Sequence[DeliveryFile], orphans: pa.Table) -> Iterator[pa.Table]:
    """Labels without a row with their lines and texts, which takes a second look into their files.

    Args:
        files: or parts of them, in order.
        orphans: the places of some of their records.

    Raises:
        UnreadableFile: a file can't be read any more, or has changed.
    """
    for number, file in enumerate(files):
        following = files[number + 1] if number + 1 < len(files) else None
        wanted = orphans.filter(pc.equal(orphans["_file_number"], file.number))["_record"].sort()
        if file.rules.part is not None:
            wanted = wanted.filter(pc.greater_equal(wanted, file.rules.part.lines))
            if following is not None and following.number == file.number:
                assert following.rules.part is not None, "a file is in parts, or it isn't"
                wanted = wanted.filter(pc.less(wanted, following.rules.part.lines))
        for start in range(0, len(wanted), _LOCATED_AT_ONCE):
            chosen = set(wanted.slice(start, _LOCATED_AT_ONCE).to_pylist())
            _, lines, texts = zip(*locate(file, product, chosen), strict=True)
            found = {"line": pa.array(lines, pa.int64()), "raw": pa.array(texts, pa.string())}
            yield unusable(product, file, {"file": file.name, "reason": ORPHAN, **found})
