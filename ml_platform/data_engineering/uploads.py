"""Deliveries that are made here and lie in an object store: written to a folder first, then uploaded.

A store has no folders that appear all at once: a day's manifests come first, then its files. Who looks in
between sees a part of the day, and the rest with the next look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_platform.contract.product import Product
from ml_platform.data_engineering.object_store import ObjectPath, landing_of
from ml_platform.data_engineering.replacements import is_manifest
from ml_platform.settings import Settings


class UploadError(Exception):
    """A delivery exists already with other content; nothing has been uploaded."""


@contextmanager
def folder_for(product: Product, settings: Settings, *, replace: bool = False) -> Iterator[Path]:
    """Where to write a product's deliveries: the landing folder, or one that is uploaded at the end.

    Args:
        replace: whether files that the store has already, with other content, are replaced.

    Raises:
        UploadError: the store has one of the files with other content, and it isn't to be replaced.
        StoreError: the store refuses a file, or is away.
    """
    target = landing_of(settings, product)
    if isinstance(target, Path):
        yield target
        return
    with TemporaryDirectory(prefix=f"{product.name}-") as temporary:
        yield Path(temporary)
        _upload(Path(temporary) / product.name, target / product.name, replace=replace)


def _upload(folder: Path, target: ObjectPath, *, replace: bool) -> None:
    """Upload the files of days; one that is there as it should be is left alone."""
    days = sorted(day.name for day in folder.iterdir() if day.is_dir())
    if not days:
        return
    present = {
        f"{day}/{file.facts.name}": file
        for day, files in target.files_by_folder(days[0], days[-1]).items()
        for file in files
        if file.facts is not None
    }
    new, different = [], []
    for day in days:
        files = sorted((folder / day).iterdir(), key=lambda path: (not is_manifest(path.name), path.name))
        for path in files:
            there = present.get(f"{day}/{path.name}")
            if there is None or not _is_equal(path, there):
                new.append(path)
                different += [there] if there is not None else []
    if different and not replace:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UploadError(
            f"{different[0]}{more} exists already with other content. To replace deliveries, delete them "
            "first; to correct some of their rows, deliver just these rows in a file whose name begins with "
            "the date on which it comes"
        )
    for path in new:
        (target / path.parent.name / path.name).write(path.read_bytes())


def _is_equal(path: Path, there: ObjectPath) -> bool:
    if there.facts is None or there.facts.size != path.stat().st_size:
        return False
    with there.open() as stored:
        return stored.read() == path.read_bytes()
