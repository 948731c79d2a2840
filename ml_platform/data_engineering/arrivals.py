"""The arrival register: which files of which days were there when somebody looked, and since when.

Written by those who look, the landing sensor and the command line, and read by steps, which know no clock.
It is input like the deliveries themselves: nothing could tell it a second time, so it is backed up with
them (docs/operating.md), and a product whose register is lost goes by the names of its files alone.
"""

from __future__ import annotations

import csv
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.data_engineering import day_folders, knowledge, landing
from ml_platform.data_engineering.files import DeliveredBytes, FileRules, UnreadableFile, open_bytes
from ml_platform.data_engineering.knowledge import Arrival, Arrivals, FileFacts
from ml_platform.data_engineering.object_store import ObjectPath, Place
from ml_platform.storage.small_tables import COMMIT, ControlTable
from ml_platform.storage.tables import Tables

ARRIVALS = "arrivals"

#: What is hashed of a file at once. Of its first blocks every one is, of those after them one in so many.
BLOCK_BYTES = 1 << 20
_WHOLE_BLOCKS = 256
#: The same in an object store, from which each block has to be fetched.
_WHOLE_BLOCKS_FAR = 4
_LARGEST = 2**63 - 1

_COLUMNS = [
    ("day", pa.date32()),
    ("file", pa.string()),
    ("size", pa.int64()),
    ("modified", pa.int64()),
    ("content", pa.string()),
    ("seen_on", pa.date32()),
]
_SCHEMA = pa.schema([*_COLUMNS, (COMMIT, pa.int64())])
_NAMES = [name for name, _ in _COLUMNS]


class RegisterError(ValueError):
    """A file isn't an exported register; the message says which line, and what is accepted."""


class ArrivalRegister:
    """The table ``arrivals`` of one product."""

    def __init__(self, tables: Tables, product: Product) -> None:
        self._product = product
        self._table = ControlTable(tables, product.name, ARRIVALS, _SCHEMA, sort=("day",), described=("day",))

    @property
    def address(self) -> str:
        """Where the table lies."""
        return self._table.address

    def stamp(self) -> str | None:
        """Changes with every entry; None before the first."""
        return self._table.stamp()

    def read(self, days: Collection[date] | None = None) -> Arrivals:
        """What was seen of some days, or of all."""
        where = None
        if days is not None:
            if not days:
                return Arrivals()
            where = (pc.field("day") >= min(days)) & (pc.field("day") <= max(days))
        found: dict[date, list[Arrival]] = {}
        wanted = None if days is None else set(days)
        for row in self._table.scan(where).to_pylist():
            if wanted is None or row["day"] in wanted:
                file = FileFacts(row["file"], row["size"], row["modified"])
                found.setdefault(row["day"], []).append(Arrival(file, row["content"], row["seen_on"]))
        return Arrivals(found)

    def observe(
        self,
        folder: Place,
        looks: Mapping[date, landing.Look],
        now: datetime,
        rules: FileRules,
        known: Arrivals | None = None,
        *,
        seconds: float | None = None,
    ) -> int:
        """Keep of some days' files those that weren't there before.

        A file that has been written again with the content that it had is no other file. A clock that has
        gone backwards has seen nothing before what was seen of the same day already.

        Args:
            folder: where the deliveries lie.
            looks: what lies there, by day.
            now: when this is, with a time zone.
            known: what the register says of these days, if somebody has just read it.
            seconds: after which files that are left are left to the next look.

        Returns:
            How many files came, or changed.
        """
        known = known or self.read(looks)
        seen_on, started = knowledge.morning_of(self._product, now), time.monotonic()
        new = []
        for day, look in looks.items():
            not_before = max((arrival.seen_on for arrival in known.days.get(day, ())), default=seen_on)
            for file in look.files:
                if known.of_file(day, file) is not None or not _can_be_kept(file.name):
                    continue
                if seconds is not None and time.monotonic() - started > seconds:
                    break
                path = day_folders.folder_of(self._product, folder, day) / file.name
                content = _content(path, rules)
                before = known.of_content(day, file.name, content) if content else None
                first = before.seen_on if before else max(seen_on, not_before)
                new.append(_row(day, Arrival(file, content, first)))
        self._table.append(new)
        return len(new)

    def forget(self, days: Collection[date]) -> int:
        """Forget what was seen of some days, so that the names of their files say since when they are known.

        Returns:
            How many entries there were.
        """
        chosen = pa.array(sorted(days), pa.date32())
        removed = self._table.remove_rows(lambda table: pc.is_in(table["day"], chosen))
        if removed is None:
            raise RegisterError("the register has changed meanwhile; try it again")
        return removed

    def write_csv(self, file: TextIO) -> int:
        """Write the register as CSV, sorted; returns the number of its entries."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_NAMES)
        rows = sorted(
            [str(row[name]) for name in _NAMES] for row in self._table.scan().select(_NAMES).to_pylist()
        )
        writer.writerows(rows)
        return len(rows)

    def read_csv(self, file: Iterable[str]) -> int:
        """Add the entries of an exported register that aren't there; returns how many these were.

        Raises:
            RegisterError: it is no exported register.
        """
        lines = csv.reader(file)
        if next(lines, None) != _NAMES:
            raise RegisterError(
                f"line 1: no arrival register; its first line is {','.join(_NAMES)} "
                "(ml-platform arrivals export PRODUCT FILE writes one)"
            )
        present = {tuple(row[name] for name in _NAMES) for row in self._table.scan().to_pylist()}
        new = []
        for line in lines:
            row = _parsed(line, lines.line_num)
            if (key := tuple(row.values())) not in present:
                present.add(key)
                new.append(row)
        self._table.append(new)
        return len(new)


def _row(day: date, arrival: Arrival) -> Mapping[str, Any]:
    values = (day, *arrival.file, arrival.content, arrival.seen_on)
    return dict(zip(_NAMES, values, strict=True))


def _parsed(line: Sequence[str], number: int) -> dict[str, Any]:
    day: Callable[[str], Any] = date.fromisoformat
    kinds: tuple[Callable[[str], Any], ...] = (day, str, int, int, str, day)
    try:
        values = [kind(value) for kind, value in zip(kinds, line, strict=True)]
        if not (_can_be_kept(values[1]) and all(0 <= number <= _LARGEST for number in values[2:4])):
            raise ValueError("a name that isn't UTF-8, or a number that is no size or time")
    except ValueError as error:
        raise RegisterError(f"line {number}: {error}; accepted are {','.join(_NAMES)}") from None
    return dict(zip(_NAMES, values, strict=True))


def _can_be_kept(name: str) -> bool:
    """Whether a table can hold a name; a file with another one is refused where it is read."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Place, rules: FileRules) -> str:
    """What tells a file's content from others, packed or not: a hash of its length and of its bytes.

    Of a large file only some blocks are hashed: the first ones, each at twice the distance after, the last.
    Nothing is told of a file that can't be opened: it is refused where it is read.
    """
    found = hashlib.blake2b(digest_size=16)
    whole = _WHOLE_BLOCKS_FAR if isinstance(path, ObjectPath) else _WHOLE_BLOCKS
    length, number, last = 0, 0, b""
    try:
        with open_bytes(str(path), rules) as stream:
            if not stream.packed:
                return _content_of_plain(path, whole)
            while block := _block(stream):
                if number < whole or number & (number - 1) == 0:
                    found.update(block)
                length, number, last = length + len(block), number + 1, (last + block)[-BLOCK_BYTES:]
    except (OSError, UnreadableFile, EOFError, zlib.error):
        return ""
    return _finished(found, length, last)


def _content_of_plain(path: Place, whole: int) -> str:
    """The same of a file that isn't packed, without reading what isn't hashed."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        number = 0
        while number * BLOCK_BYTES < length:
            file.seek(number * BLOCK_BYTES)
            found.update(file.read(BLOCK_BYTES))
            number = number + 1 if number < whole else number * 2
        file.seek(max(0, length - BLOCK_BYTES))
        return _finished(found, length, file.read(BLOCK_BYTES))


def _block(stream: DeliveredBytes) -> bytes:
    """The next :data:`BLOCK_BYTES`, or what is left of them."""
    found = bytearray()
    while len(found) < BLOCK_BYTES and (more := stream.read(BLOCK_BYTES - len(found))):
        found += more
    return bytes(found)


def _finished(found: hashlib.blake2b, length: int, last: bytes) -> str:
    found.update(last)
    found.update(str(length).encode())
    return found.hexdigest()
