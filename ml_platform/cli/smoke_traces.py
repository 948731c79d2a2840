"""What the check of a set-up makes in a workspace: named before it starts, removed whatever came of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from databricks.sdk.errors import NotFound
from databricks.sdk.errors.base import DatabricksError

from ml_platform.contract.assets import MODEL, ONLINE_FEATURES, table_names
from ml_platform.contract.product import Product
from ml_platform.engine.databricks.workspace import Workspace, in_words
from ml_platform.machine_learning.registry import Registry
from ml_platform.settings import Settings
from ml_platform.storage.catalog_location import CatalogLocation
from ml_platform.storage.path_locations import FolderLocation, PathLocation
from ml_platform.storage.tables import Tables

RUN = "job run"


@dataclass
class Trace:
    """One thing that the check makes.

    Attributes:
        remove: removes it, and says whether it was there; None for what is meant to stay.
        by_hand: what a person does about it if it could not be removed.
        state: what became of it, in words.
    """

    kind: str
    name: str
    by_hand: str
    remove: Callable[[], bool] | None
    state: str = "not looked at"
    left: bool = False

    def keep(self, why: str) -> None:
        """Leave it on purpose."""
        self.remove, self.state = None, f"stays: {why}; then {self.by_hand}"

    def clean(self) -> None:
        """Remove it; what prevents that is its state, and never raised unless somebody interrupts."""
        if self.remove is None:
            return
        self.left, self.state = True, "LEFT: the removal was interrupted"
        try:
            self.state = "removed" if self.remove() else "was never made"
            self.left = False
        except Exception as error:
            self.state = f"LEFT: {in_words(error)}"


def traces_of(
    product: Product, settings: Settings, workspace: Workspace, place: str, assets: list[str]
) -> list[Trace]:
    """Everything that a check of ``product`` makes, but for the runs, whose ids the workspace gives.

    Args:
        settings: those of the remote steps.
        place: the folder of the volume.

    Raises:
        LocationError: no tables can be kept where the settings say.
    """
    tables = Tables.of(settings)
    found = [
        Trace("folder of the volume", place, f"databricks fs rm -r dbfs:{place}", _folder(workspace, place))
    ]
    if isinstance(tables.location, CatalogLocation):
        for table in table_names():
            name = tables.path(product.name, table).replace("`", "")
            found.append(Trace("table", name, f"DROP TABLE {name}", _table(workspace, name)))
    places = [place for place in (tables.location, tables.control) if isinstance(place, PathLocation)]
    for location in dict.fromkeys(places):
        folder = location.address(product.name, "").rstrip("/")
        found.append(
            Trace(
                "folder of tables", folder, f"delete the folder {folder}", _root(location, folder, settings)
            )
        )
    if MODEL in assets:
        registry = Registry.of(settings)
        tracking = registry.tracking
        found += [
            Trace(
                "registered model",
                registry.name(product),
                f"mlflow.MlflowClient().delete_registered_model({registry.name(product)!r})",
                lambda: registry.remove_model(product),
            ),
            Trace(
                "experiment",
                tracking.experiment_name(product.name),
                f"move {tracking.experiment_name(product.name)} to the trash",
                lambda: tracking.remove_experiment(product),
            ),
        ]
    if ONLINE_FEATURES in assets:
        found.append(
            Trace(
                "tables of the online store",
                f"{product.name}_features…",
                f"drop the tables whose names begin with {product.name}_ in the online store",
                lambda: _drop_online(product, settings),
            )
        )
    return found


def run_of(workspace: Workspace, run_id: int) -> Trace:
    """A run of the workspace, which is removed once it has succeeded."""

    def remove() -> bool:
        return _unless_missing(lambda: workspace.jobs.delete_run(run_id))

    return Trace(RUN, str(run_id), f"databricks jobs delete-run {run_id}", remove)


def _folder(workspace: Workspace, place: str) -> Callable[[], bool]:
    def remove() -> bool:
        was_there = _unless_missing(lambda: workspace.files.get_directory_metadata(place))
        workspace.remove_folder(place)
        with contextlib.suppress(DatabricksError):  # another check is under way beside
            workspace.files.delete_directory(place.rpartition("/")[0])
        return was_there

    return remove


def _table(workspace: Workspace, name: str) -> Callable[[], bool]:
    def remove() -> bool:
        return _unless_missing(lambda: workspace.catalog_tables().delete(name))

    return remove


def _root(location: PathLocation, folder: str, settings: Settings) -> Callable[[], bool]:
    def remove() -> bool:
        if isinstance(location, FolderLocation):
            if not Path(folder).is_dir():
                return False
            shutil.rmtree(folder)
            for lock in (Path(location.root) / ".locks").glob(f"{Path(folder).name}.*.lock"):
                lock.unlink()
            return True
        from deltalake.fs import DeltaStorageHandler

        store = DeltaStorageHandler(os.path.dirname(folder), settings.table_options)  # noqa: PTH120 - a URI
        name = folder.rpartition("/")[2]
        from pyarrow.fs import FileSelector

        was_there = bool(store.get_file_info_selector(FileSelector(name, True, True)))
        if was_there:
            store.delete_dir(name)
        return was_there

    return remove


def _drop_online(product: Product, settings: Settings) -> bool:
    import sqlalchemy as sa

    engine = sa.create_engine(settings.online_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        names = [
            name for name in sa.inspect(connection).get_table_names() if name.startswith(f"{product.name}_")
        ]
        for name in names:
            sa.Table(name, sa.MetaData()).drop(connection)
    return bool(names)


def _unless_missing(call: Callable[[], object]) -> bool:
    """Whether what a call is about was there."""
    try:
        call()
    except NotFound:
        return False
    return True
