"""What a fitted pipeline holds, in a form in which two of them can be compared.

It is what skops writes of it, without what is of the process that wrote it: numbers of objects, and padding
between the fields of an array.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ml_platform.machine_learning.model_files import read_pipeline, skops_io

#: Entries of a node of skops that say how it was written.
_OF_THE_FILE = ("__id__", "__loader__", "protocol", "_skops_version")


def differences(one: Any, other: Any) -> list[str]:
    """The paths at which two pipelines hold other values: none of two that have learned the same.

    Both are stored and read first, as one of them may have been, and the other not.

    Raises:
        RegistryError: one of them holds types that a model's file may not.
    """
    first, second = _leaves(one), _leaves(other)
    return sorted(path for path in {**first, **second} if first.get(path) != second.get(path))


def _leaves(pipeline: Any) -> dict[str, list[str]]:
    """Each value that a pipeline holds, or a hash of it, by its path; an object and its content share one."""
    written = io.BytesIO(skops_io().dumps(_stored(pipeline)))
    with zipfile.ZipFile(written) as archive:
        found: dict[str, list[str]] = {}
        for path, value in _walk("", json.loads(archive.read("schema.json")), archive, {}):
            found.setdefault(path, []).append(value)
        return found


def _stored(pipeline: Any) -> Any:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.skops"
        skops_io().dump(pipeline, file)
        return read_pipeline(str(file), "the pipeline")


def _walk(
    path: str, node: Any, archive: zipfile.ZipFile, known: dict[int, dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for place, value in enumerate(node):
            yield from _walk(f"{path}[{place}]", value, archive, known)
        return
    if not isinstance(node, dict):
        yield path, json.dumps(node)
        return
    if node.get("__loader__") == "CachedNode":
        # An object that stands in several places is written once.
        node = known[node["__id__"]]
    elif "__id__" in node:
        known[node["__id__"]] = node
    for name, value in node.items():
        if name in _OF_THE_FILE:
            continue
        if name == "file":
            yield path, _of_file(archive.read(value), str(value))
        else:
            yield from _walk(path if name == "content" else f"{path}.{name}", value, archive, known)


def _of_file(content: bytes, name: str) -> str:
    if not name.endswith(".npy"):
        return hashlib.sha256(content).hexdigest()
    values = np.load(io.BytesIO(content), allow_pickle=False)
    digest = hashlib.sha256(repr((values.dtype.descr, values.shape)).encode())
    for field in values.dtype.names or (None,):
        digest.update(np.ascontiguousarray(values if field is None else values[field]).tobytes())
    return digest.hexdigest()
