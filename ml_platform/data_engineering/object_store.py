"""Folders and files of an object store: Azure's, S3, Google's, by the library ``obstore``.

An :class:`ObjectPath` is used as a :class:`pathlib.Path` is where deliveries are looked at and read, so that
one code reads both. What lies there is found by listing, many days at once; nothing is asked of a single file
before it is opened. Keys and endpoints are those of the environment (``AZURE_…``, ``AWS_…``, ``GOOGLE_…``),
or of ``ML_PLATFORM_STORAGE_OPTIONS``.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ml_platform.contract.faults import EndsTheRunError
from ml_platform.contract.places import is_address
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import Secret
from ml_platform.data_engineering.knowledge import FileFacts
from ml_platform.settings import Settings

#: What is read of a file at once.
_READ_BYTES = 1 << 20
#: Names of options that belong to one kind of store, and are not for the others.
_OF_A_KIND = {"azure_": ("abfss", "az"), "aws_": ("s3",), "google_": ("gs",)}
#: What follows a slash in the order of keys.
_AFTER_SLASH = "0"
#: The answer that a store gave, and answers that may be others when it is asked again.
_STATUS = re.compile(r"status code: (\d\d\d)")
_PASSING = frozenset({"408", "425", "429", "500", "502", "503", "504"})
_NO_ANSWER = re.compile(r"error sending request|timed? ?out|connect", re.IGNORECASE)
#: Options of the connection, whichever store it is to.
_OF_THE_CLIENT = frozenset(
    {"allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url"}
)


class StoreError(EndsTheRunError):
    """An object store refuses an answer; the message says which, and what may be wrong."""


class StoreAwayError(StoreError):
    """An object store doesn't answer now; it may when it is asked again."""


@dataclass(frozen=True)
class ObjectPath:
    """A folder or a file of an object store, whether it is there or not.

    Attributes:
        address: its URL without a slash at the end.
        options: of the store; a named secret is looked up when it is needed.
        facts: what a listing has said of a file.
        written: when the file was written, in seconds since 1970.
    """

    address: str
    options: Mapping[str, Secret] = field(default_factory=dict, repr=False, compare=False)
    facts: FileFacts | None = field(default=None, compare=False)
    written: float = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.address}/{name}", self.options)

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def _root(self) -> tuple[str, str]:
        """The container or bucket as a URL, and the key within it."""
        scheme, _, rest = self.address.partition("://")
        container, _, key = rest.partition("/")
        return f"{scheme}://{container}", key

    def folders(self) -> list[str]:
        """The names of the folders in this one, ascending. One listing."""
        import obstore

        with self._asking(is_file=False) as (store, key):
            found = obstore.list_with_delimiter(store, key)
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def files_by_folder(self, first: str, last: str) -> Mapping[str, list[ObjectPath]]:
        """The files of each folder in this one, by the folder's name, in one listing.

        Of a folder within these one file stands for all; it is named ``folder/name``.

        Args:
            first: the least name of a folder.
            last: the greatest one.
        """
        import obstore

        found: dict[str, list[ObjectPath]] = {}
        below_these: set[tuple[str, str]] = set()
        with self._asking(is_file=False) as (store, key):
            for batch in obstore.list(store, key, offset=f"{key}/{first}"):
                for entry in batch:
                    path = str(entry["path"])
                    below = path.removeprefix(key).lstrip("/")
                    # Keys come in order, in which a folder `last.old` stands before the files of `last/`.
                    if below >= f"{last}{_AFTER_SLASH}":
                        return found
                    folder, _, name = below.partition("/")
                    if not name or not first <= folder <= last:
                        continue
                    inner, separator, _ = name.partition("/")
                    if separator and (folder, inner) in below_these:
                        continue  # one file says that there is a folder
                    below_these.add((folder, inner))
                    found.setdefault(folder, []).append(self._file(below, name, entry))
        return found

    def _file(self, below: str, name: str, entry: Mapping[str, Any]) -> ObjectPath:
        written = entry["last_modified"]
        tag = entry.get("e_tag") or f"{written.isoformat()}/{entry.get('version')}"
        number = int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=8).digest(), "big") >> 1
        facts = FileFacts(name, int(entry["size"]), number)
        return ObjectPath(f"{self.address}/{below}", self.options, facts, written.timestamp())

    def is_file(self) -> bool:
        """Whether a listing has said so."""
        return self.facts is not None

    def open(self, mode: str = "rb") -> BinaryIO:
        """The bytes of a file, to be read from any place.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the store refuses it, or is away.
        """
        import obstore

        assert mode == "rb", "files of a store are read, never changed"
        with self._asking() as (store, key):
            reader = obstore.open_reader(store, key, buffer_size=_READ_BYTES)
        return io.BufferedReader(_Reader(self, reader), _READ_BYTES)

    def write(self, content: bytes) -> None:
        """Make these bytes the file.

        Raises:
            StoreError: the store refuses it, or is away.
        """
        import obstore

        with self._asking() as (store, key):
            obstore.put(store, key, content)

    @contextmanager
    def _asking(self, *, is_file: bool = True) -> Iterator[tuple[Any, str]]:
        """The store, and the key within it; its errors in words."""
        root, key = self._root
        with errors_in_words(self, is_file=is_file):
            yield _store(root, tuple(sorted(_valued(self.options).items()))), key


Place = Path | ObjectPath
"""Where a folder or a file lies: on this machine, or in an object store."""


def landing_of(settings: Settings, product: Product) -> Place:
    """Where a product's deliveries lie: its own place, or that of the deployment."""
    given = product.landing or settings.landing
    if isinstance(given, str):
        return ObjectPath(given, settings.storage_options) if is_address(given) else Path(given)
    return settings.landing_path


class _Reader(io.RawIOBase):
    """What obstore reads, as Python's files are read."""

    def __init__(self, path: ObjectPath, reader: Any) -> None:
        self._path, self._reader = path, reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with errors_in_words(self._path):
            found = memoryview(self._reader.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()


@contextmanager
def errors_in_words(path: ObjectPath, *, is_file: bool = True) -> Iterator[None]:
    """What a store's errors mean, without the details of its requests.

    Args:
        is_file: whether a file is asked for. An empty folder is no error: what isn't there is the container.
    """
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        if not is_file:
            raise StoreError(f"{path.address}: there is no such container or bucket") from error
        raise FileNotFoundError(errno.ENOENT, "there is no such file", path.address) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        if is_file:  # what may be listed and not read costs its own day
            raise PermissionError(errno.EACCES, "the store refuses access to it", path.address) from error
        raise StoreError(
            f"{path.address}: the store refuses access; see the rights of this identity, or the keys in the "
            "environment or in ML_PLATFORM_STORAGE_OPTIONS"
        ) from error
    except (exceptions.BaseError, OSError, ValueError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        status = _STATUS.search(first)
        if status[1] in _PASSING if status else _NO_ANSWER.search(first):
            raise StoreAwayError(f"{path.address}: the store doesn't answer: {first}") from error
        if status and status[1] == "404" and not is_file:
            raise StoreError(f"{path.address}: there is no such container or bucket") from error
        if status and is_file:
            raise PermissionError(errno.EACCES, f"the store refuses it: {first}", path.address) from error
        raise StoreError(f"{path.address}: the store refuses this: {first}") from error


def _valued(options: Mapping[str, Secret]) -> dict[str, str]:
    return {name: value.value for name, value in options.items()}


@lru_cache(maxsize=32)
def _store(root: str, options: Sequence[tuple[str, str]]) -> Any:
    """The client of a container or bucket."""
    from obstore.store import from_url

    scheme = root.partition("://")[0]
    chosen: dict[str, Any] = {}
    client: dict[str, Any] = {}
    for given, value in options:
        name = given.lower()
        prefix = next((prefix for prefix in _OF_A_KIND if name.startswith(prefix)), "")
        if name.removeprefix(prefix) in _OF_THE_CLIENT:
            client[name.removeprefix(prefix)] = value
        elif (prefix and scheme not in _OF_A_KIND[prefix]) or _is_of_tables(
            scheme, name.removeprefix(prefix)
        ):
            continue
        else:
            chosen[name] = value
    make: Any = from_url
    try:
        return make(root, config=chosen, client_options=client or None)
    except Exception:
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        if type(error).__name__ != "PanicException":
            raise
        names = ", ".join(sorted([*chosen, *client]))
        raise StoreError(f"{root}: the options ({names}) can't be used: {error}") from error


def _is_of_tables(scheme: str, name: str) -> bool:
    """Whether an option is about where tables lie or how they are locked, and the address says the rest."""
    if name in ("s3_allow_unsafe_rename", "s3_locking_provider"):
        return True
    places = {"bucket", "bucket_name", "container_name", "storage_container_name"}
    if scheme == "abfss":
        places |= {"account_name", "storage_account_name"}
    return name in places
