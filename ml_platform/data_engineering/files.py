"""Delivered files as they lie there: which of them may be opened, and how much is read of one.

Whoever may put a file into the landing folder may put anything there: a pipe that never ends, a link to a
secret, an archive that unpacks to a thousand times its size. All deliveries are opened here, so that such a
file costs its own day and nothing else. What is inside a file is :mod:`.parsing`'s business.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ml_platform.contract.places import is_address
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import Secret
from ml_platform.data_engineering.object_store import ObjectPath, Place, landing_of
from ml_platform.settings import Settings

_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 8
_LEAST_GZIP = 18  # bytes of header and trailer
_TIGHTEST = 1032  # times its size is the most that a gzip file can unpack to
#: Buffer of a stream that is read as text: larger than Python's own, since each filling passes through here.
_BUFFER_BYTES = 128 << 10
#: Up to so many unpacked bytes a file may be packed as tightly as it likes: they do no harm in memory.
HARMLESS_BYTES = 64 << 20
#: A CSV file is rarely packed more tightly.
_PACKED_TO_PLAIN = 8


class UnreadableFile(Exception):  # noqa: N818 - what it is, not what went wrong
    """A file that can't be read to its end; the message says why. ``kind`` is that of its record."""

    kind = "unreadable"


class UnreachableFile(UnreadableFile):
    """A file whose content this machine doesn't get: no right to read it, a folder that isn't mounted."""

    kind = "unreachable"


@dataclass(frozen=True)
class Part:
    """Some lines of a file that isn't packed: its bytes from ``start`` to ``end``, read behind its header.

    ``head`` is the header's line with its line break, and ``lines`` how many come between it and the part.
    """

    head: bytes
    start: int
    end: int
    lines: int = 0


@dataclass(frozen=True)
class RowGroups:
    """Some row groups of a Parquet file, from ``start`` to before ``end``; ``lines`` are the rows before."""

    start: int
    end: int
    lines: int = 0


@dataclass(frozen=True)
class FileRules:
    """What may be read. Plain data, so that it travels to where a file is read.

    ``root`` is the folder that links must not lead out of, or None if they may lead anywhere;
    ``line_characters`` and ``file_bytes`` bound a line and a file, unpacked, and ``unpacking`` how many times
    its own size a packed file may become. ``part`` is all that is read of a file, if not the whole of it, and
    ``store_options`` are those of the object store, if files lie in one.
    """

    root: str | None = None
    line_characters: int = Settings.model_fields["delivery_line_characters"].default
    file_bytes: int = Settings.model_fields["delivery_file_bytes"].default
    unpacking: int = Settings.model_fields["delivery_unpacking"].default
    part: Part | RowGroups | None = None
    store_options: Mapping[str, Secret] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, settings: Settings, product: Product) -> FileRules:
        """The rules for the deliveries of a product."""
        place = landing_of(settings, product)
        return replace(
            cls.anywhere(settings),
            root=str(place) if settings.delivery_links == "inside" else None,
            store_options=settings.storage_options if isinstance(place, ObjectPath) else {},
        )

    @classmethod
    def anywhere(cls, settings: Settings) -> FileRules:
        """The rules for files that may lie anywhere on this machine, as those of a history do."""
        return cls(
            line_characters=settings.delivery_line_characters,
            file_bytes=settings.delivery_file_bytes,
            unpacking=settings.delivery_unpacking,
        )

    def allows(self, path: str | Place) -> bool:
        """Whether a path, when its links are followed, lies where files may be read."""
        if self.root is None or isinstance(path, ObjectPath):
            return True  # an object store has no links
        base = os.path.realpath(self.root)
        return os.path.commonpath([base, os.path.realpath(path)]) == base


def shown(name: str) -> str:
    """A file name as it can be printed and stored: bytes that aren't UTF-8, and line breaks, escaped."""
    readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return readable if readable.isprintable() else readable.encode("unicode_escape").decode()


def open_bytes(path: str, rules: FileRules) -> DeliveredBytes:
    """Open a regular file, without waiting for anything, and unpack it if it is a gzip file by its content.

    Raises:
        UnreadableFile: it is no regular file, or a link leads out of the landing folder.
        OSError: the machine doesn't give its content.
    """
    file, size = open_file(path, rules)
    try:
        return DeliveredBytes(file, size, rules)
    except BaseException:
        file.close()
        raise


def open_file(path: str, rules: FileRules) -> tuple[BinaryIO, int]:
    """Open a regular file as it lies there, to be read from any place; and its size in bytes.

    Raises: as :func:`open_bytes` does.
    """
    if is_address(path):
        stored = ObjectPath(path, rules.store_options).open()
        size = stored.seek(0, os.SEEK_END)
        stored.seek(0)
        return stored, size
    if not rules.allows(path):
        raise UnreadableFile(LEADS_OUT)
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - opening a device may do something already
        raise UnreadableFile(NOT_REGULAR)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    file: Any = open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile(NOT_REGULAR)
        return file, status.st_size
    except BaseException:
        file.close()
        raise


NOT_REGULAR = "is no regular file (a folder, pipe, socket or device), and nothing else is read"
LEADS_OUT = (
    "is a link that leads out of the landing folder, which is not followed: copy the file, or allow such "
    "links with ML_PLATFORM_DELIVERY_LINKS=anywhere"
)


class DeliveredBytes(io.RawIOBase):
    """The bytes of an open file of a size in bytes, unpacked, up to a bound.

    ``head`` are its first bytes as they lie there, ``packed`` says whether it is a gzip file, and
    ``likely_bytes`` how many bytes it will probably give.
    """

    def __init__(self, file: Any, size: int, rules: FileRules) -> None:
        self.head = file.read(_HEAD_BYTES)
        self.packed = self.head.startswith(_GZIP)
        self.likely_bytes = max(size * _PACKED_TO_PLAIN, _said_size(file, size)) if self.packed else size
        file.seek(0)
        self._file = file
        self._stream: Any = gzip.GzipFile(fileobj=file, mode="rb") if self.packed else file
        if isinstance(part := rules.part, Part):
            file.seek(part.start)
            self._stream = io.BytesIO(part.head + _read(file, part.end - part.start))
        self._is_in_memory = isinstance(part, Part)
        self._read = 0
        self._bound, self._what = rules.file_bytes, f"has more than {rules.file_bytes:,} bytes"
        self._setting = "ML_PLATFORM_DELIVERY_FILE_BYTES"
        if self.packed and (tightest := max(size * rules.unpacking, HARMLESS_BYTES)) < self._bound:
            self._bound = tightest
            self._what = f"unpacks to more than {rules.unpacking} times its size, {tightest:,} bytes"
            self._setting = "ML_PLATFORM_DELIVERY_UNPACKING"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``.

        Raises:
            UnreadableFile: the file gives more than the rules allow.
        """
        count: int = self._stream.readinto(buffer)
        self._count(count)
        return count

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, or all that are left; without the copy that the base class makes.

        Raises:
            UnreadableFile: the file gives more than the rules allow.
        """
        if size < 0 and not self._is_in_memory:
            return b"".join(iter(lambda: self.read(_BUFFER_BYTES), b""))
        found: bytes = self._stream.read(size)
        self._count(len(found))
        return found

    def line_end(self, position: int, at_once: int) -> int:
        """Where the line ends that the byte before ``position`` of a file that isn't packed is in.

        Args:
            at_once: bytes that are looked through at once.
        """
        self._file.seek(position - 1)
        end = position - 1
        while True:
            block: bytes = self._file.read(at_once)
            found = block.find(b"\n") + 1
            if found or not block:
                return end + found
            end += len(block)

    def _count(self, count: int) -> None:
        self._read += count
        if self._read > self._bound:
            raise UnreadableFile(f"{self._what}; if that is right, raise {self._setting}")

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                self._stream.close()
            self._file.close()
        super().close()


def _read(file: BinaryIO, size: int) -> bytes:
    """So many bytes of a file without a buffer, or what is left of it."""
    at_once = file.read(size)
    if len(at_once) == size:
        return at_once
    found = bytearray(at_once)
    while len(found) < size and (more := file.read(size - len(found))):
        found += more
    return bytes(found)


def _said_size(file: BinaryIO, size: int) -> int:
    """What a gzip file says at its end of the size of its last member, modulo 4 GB; a hint, no promise.

    It is 0 where the end can't be right, as that of a file that breaks off.
    """
    if size < _LEAST_GZIP:
        return 0
    file.seek(-4, os.SEEK_END)
    unpacked = int.from_bytes(file.read(4), "little")
    return unpacked if unpacked <= size * _TIGHTEST else 0


def likely_bytes(path: str, rules: FileRules) -> int:
    """How many bytes a file will probably give, unpacked. Raises as :func:`open_bytes` does."""
    with open_bytes(path, rules) as stream:
        return stream.likely_bytes


def buffered(stream: DeliveredBytes) -> io.BufferedReader:
    """The bytes with a buffer, to be read as text."""
    return io.BufferedReader(stream, _BUFFER_BYTES)


def read_line(text: io.TextIOWrapper, rules: FileRules) -> str:
    """The next line with its line break; nothing at the end.

    Raises:
        UnreadableFile: the line is longer than the rules allow.
    """
    limit = rules.line_characters
    line = text.readline(limit + len("\r\n"))
    if len(line) > limit and len(line.rstrip("\r\n")) > limit:
        raise UnreadableFile(
            f"has a line of more than {limit:,} characters; if that is right, raise "
            "ML_PLATFORM_DELIVERY_LINE_CHARACTERS"
        )
    return line


def text_lines(text: io.TextIOWrapper, rules: FileRules) -> Iterator[str]:
    """The lines of a text, as :func:`read_line` gives them."""
    return iter(lambda: read_line(text, rules), "")
