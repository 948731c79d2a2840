"""The commands ``ml-platform databricks …``: what a workspace needs before and after steps run there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform.console import console, fail
from ml_platform.settings import Settings

if TYPE_CHECKING:
    from ml_platform.engine.databricks.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Steps on Databricks: the wheel, and a check of the set-up.")


@app.command()
def wheel(
    folder: Annotated[Path, typer.Option("--to", help="Where the wheel is written.")] = Path("dist"),
) -> None:
    """Write the wheel that remote steps run; the same code gives the same bytes.

    Example: `ml-platform databricks wheel --to dist`
    """
    from ml_platform.engine.databricks.wheel import build_wheel
    from ml_platform.engine.step import PermanentError

    try:
        made = build_wheel()
    except PermanentError as error:
        fail(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / made.name).write_bytes(made.content)
    console.print(str(folder / made.name), soft_wrap=True, highlight=False)


@app.command()
def upload() -> None:
    """Put the wheel into the volume of the settings, unless it is there. Steps do so themselves.

    Example: `ml-platform databricks upload`
    """
    from ml_platform.engine.databricks import wheel as wheels

    workspace, volume = _workspace()
    with _refusals():
        path, now = wheels.upload(workspace, volume, wheels.build_wheel())
    console.print(f"{path} {'is uploaded' if now else 'is there already'}", soft_wrap=True, highlight=False)


def _workspace() -> tuple[Workspace, str]:
    from ml_platform.engine.databricks.workspace import Workspace

    settings = Settings()
    if settings.databricks_volume is None:
        fail("name a folder of a volume: ML_PLATFORM_DATABRICKS_VOLUME=/Volumes/catalog/schema/volume")
    with _refusals():
        return Workspace(settings.databricks_retry_seconds), settings.databricks_volume


def _refusals() -> Refusals:
    return Refusals()


class Refusals:
    """Ends the command with one line where the workspace, or what is set, doesn't allow it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from databricks.sdk.errors.base import DatabricksError

        from ml_platform.engine.databricks.workspace import told
        from ml_platform.engine.step import PermanentError

        if isinstance(error, PermanentError):
            fail(str(error))
        if isinstance(error, DatabricksError | TimeoutError):
            fail(f"the workspace does not allow it: {told(error.__cause__ or error)}")
