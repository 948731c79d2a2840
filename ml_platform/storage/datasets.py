"""Delta tables as Arrow data sets, in a way that a process may end after it has read one.

The file system that ``deltalake`` gives Arrow is a Python object, which Arrow's own threads call, and let go
of some time after the rows are there. A thread that does so while the interpreter ends aborts the process,
whose work is done by then (measured: one read in five, on a busy machine). So no thread of Arrow gets a
Python object here: it reads the files of a folder itself, and those of an object store are fetched before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

T = TypeVar("T")

#: Tables that are kept open: a tick reads those of one product several times over, then those of the next.
_KEPT_OPEN = 32
_kept: OrderedDict[str, tuple[str, Any]] = OrderedDict()
_lock = threading.Lock()

#: Files that are fetched at once; for a moment those before them are held as well.
_TOGETHER = 8


def in_folder(table: DeltaTable, folder: str, files: Sequence[Any] | None = None) -> ds.Dataset:
    """A table that lies in a local folder.

    Args:
        files: which of its files, as ``file_pruning_predicate`` of ``deltalake`` says it; all if not given.
    """
    import pyarrow.fs as fs

    return table.to_pyarrow_dataset(
        filesystem=fs.SubTreeFileSystem(str(Path(folder).absolute()), fs.LocalFileSystem()),
        parquet_read_options=_sparks_timestamps(),
        file_pruning_predicate=list(files) if files is not None else None,
    )


def kept_open(name: str, stamp: str | None, open_it: Callable[[], T]) -> T:
    """What was opened before under a name, if it has the same stamp; or else what is opened now.

    Opening a table, and describing its files to Arrow, takes longer than to read a few rows of it.

    Args:
        stamp: read before the call: whatever is opened is as new as it, or newer. None keeps nothing.
    """
    with _lock:
        known = _kept.get(name)
        if known is not None and known[0] == stamp:
            _kept.move_to_end(name)
            value: T = known[1]
            return value
    value = open_it()
    if stamp is not None:
        with _lock:
            _kept[name] = (stamp, value)
            _kept.move_to_end(name)
            while len(_kept) > _KEPT_OPEN:
                _kept.popitem(last=False)
    return value


def fetched(table: DeltaTable, where: pc.Expression | None) -> Iterator[ds.Dataset]:
    """The files of a table that may have rows for which ``where`` holds, in memory, some at a time.

    A file is fetched whole, whichever of its columns and row groups are asked for then.
    """
    import pyarrow.dataset as ds

    remote = table.to_pyarrow_dataset(parquet_read_options=_sparks_timestamps())
    fragments = list(remote.get_fragments(where))

    def fetch(fragment: ds.ParquetFileFragment) -> ds.ParquetFileFragment:
        content = _content(remote.filesystem, fragment.path)
        return remote.format.make_fragment(content, partition_expression=fragment.partition_expression)

    with ThreadPoolExecutor(_TOGETHER) as pool:
        for start in range(0, len(fragments), _TOGETHER):
            together = fragments[start : start + _TOGETHER]
            yield ds.FileSystemDataset(list(pool.map(fetch, together)), remote.schema, remote.format)


def _content(files: Any, path: str) -> pa.Buffer:
    """A file's bytes, in memory of Arrow's: the last to let go of them may be one of its threads.

    Raises:
        OSError: the store gave less than the whole file.
    """
    import pyarrow as pa

    with files.open_input_file(path) as file:
        size = file.size()
        content = pa.allocate_buffer(size)
        got = file.readinto(memoryview(content))
    if got != size:
        raise OSError(f"{path}: {got:,} of {size:,} bytes could be read")
    return content


def _sparks_timestamps() -> ds.ParquetReadOptions:
    """How Arrow reads timestamps that Spark has written: as nanoseconds it would, which end in 2262."""
    import pyarrow.dataset as ds

    return ds.ParquetReadOptions(coerce_int96_timestamp_unit="us")
