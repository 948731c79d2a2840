"""Deliveries that replace what was delivered before them: the manifests that say so, and what then counts.

A file `x.csv` replaces the day's earlier files if a manifest beside it, `x.csv.manifest.yaml` (or `.yml`,
`.json`), says `replaces: true`. From then on row files that come before it count for nothing: their records
are superseded. Label files before it still give their labels to the keys that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.product import Product
from ml_platform.contract.yaml_text import YamlError, parse_yaml
from ml_platform.data_engineering.delivery_file import EARLIER_ROW, DeliveryFile
from ml_platform.data_engineering.object_store import Place
from ml_platform.data_engineering.parsing import parse_file

#: What a manifest's name has after the name of its file.
SUFFIXES = (".manifest.yaml", ".manifest.yml", ".manifest.json")
#: A manifest says one thing; more bytes than this are something else.
MAXIMUM_BYTES = 16 << 10

_ACCEPTED = "accepted is one line: `replaces: true` or `replaces: false`"

#: The kinds of records that are brought together by key.
USED = ("row", "label", "earlier_label", EARLIER_ROW)


#: What the records of a replaced file with rows are called instead.
_OF_REPLACED = {
    "row": EARLIER_ROW,
    "label": "replaced",
    "bad": "earlier_bad",
    "unreadable": "earlier_unreadable",
    "unreachable": "earlier_unreadable",
}


class ManifestError(Exception):
    """A manifest can't be understood, or has no file; the message names it and what is accepted."""


def is_manifest(name: str) -> bool:
    """Whether a file of this name says something about another one, and holds no records."""
    return name.lower().endswith(SUFFIXES)


def file_of(manifest: str) -> str:
    """The name of the file that a manifest of this name says something about."""
    suffix = next(ending for ending in SUFFIXES if manifest.lower().endswith(ending))
    return manifest[: -len(suffix)]


def replacing(files: Sequence[Place], manifests: Sequence[Place]) -> list[int]:
    """The places of those of a day's files that replace what came before them, ascending.

    Args:
        files: in the order in which they count, the later one winning.

    Raises:
        ManifestError: one of the manifests can't be understood, or is beside no file.
        OSError: one can't be read.
    """
    places = {path.name: place for place, path in enumerate(files)}
    found = []
    for manifest in manifests:
        name = file_of(manifest.name)
        if name not in places:
            raise ManifestError(
                f"{manifest.name}: there is no file {name} beside it; deliver it, or delete the manifest"
            )
        if replaces(manifest):
            found.append(places[name])
    return sorted(found)


def replaces(manifest: Place) -> bool:
    """What a manifest says.

    Raises:
        ManifestError: it can't be understood.
        OSError: it can't be read.
    """
    if not manifest.is_file():
        raise ManifestError(f"{manifest.name}: it is no file; {_ACCEPTED}")
    with manifest.open("rb") as file:
        content = file.read(MAXIMUM_BYTES + 1)
    if len(content) > MAXIMUM_BYTES:
        raise ManifestError(f"{manifest.name}: more than {MAXIMUM_BYTES:,} bytes; {_ACCEPTED}")
    try:
        stated: Any = parse_yaml(content.decode("utf-8-sig"))
    except (YamlError, UnicodeDecodeError):
        raise ManifestError(f"{manifest.name}: it is no YAML in UTF-8; {_ACCEPTED}") from None
    if (
        not isinstance(stated, dict)
        or set(stated) != {"replaces"}
        or not isinstance(stated["replaces"], bool)
    ):
        raise ManifestError(f"{manifest.name}: {_ACCEPTED}")
    return bool(stated["replaces"])


def records_of(file: DeliveryFile, product: Product) -> Iterator[pa.RecordBatch]:
    """What :func:`.parsing.parse_file` gives, with kinds of its own for the records of a replaced file.

    In a file with rows they are ``earlier_row``, or ``earlier_bad`` where they can't be used, as many
    of them as can be read, and ``earlier_unreadable`` where the rest can't be; the labels of a label file are
    ``earlier_label``, which apply, and are no fault where their key has gone.
    """
    if not file.replaced:
        yield from parse_file(file, product)
        return
    for batch in parse_file(file, product):
        kind = batch.column("_kind")
        if file.labels_only:
            renamed = pc.if_else(pc.equal(kind, "label"), "earlier_label", kind)
        else:
            batch = batch.filter(pc.is_in(kind, pa.array(list(_OF_REPLACED))))
            renamed = pa.array(
                [_OF_REPLACED[name] for name in batch.column("_kind").to_pylist()], pa.string()
            )
        place = batch.schema.get_field_index("_kind")
        yield batch.set_column(place, batch.schema.field(place), renamed)
