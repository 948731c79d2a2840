"""The commands ``ml-platform databricks …``: what a workspace needs before and after steps run there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ml_platform.cli.console import console, fail
from ml_platform.cli.interruption import interruption
from ml_platform.contract.assets import names
from ml_platform.settings import Settings

if TYPE_CHECKING:
    from ml_platform.engine.databricks.workspace import Workspace

#: How long an interrupted check may take to cancel its run and to remove what it has made.
_CLEAN_UP_SECONDS = 600.0

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
    """Upload the wheel to the volume of the settings, unless it is there. Steps also do so themselves.

    Example: `ml-platform databricks upload`
    """
    from ml_platform.engine.databricks import wheel as wheels

    workspace, volume, _ = _workspace()
    with Refusals():
        path, now = wheels.upload(workspace, volume, wheels.build_wheel())
    console.print(f"{path} {'is uploaded' if now else 'is there already'}", soft_wrap=True, highlight=False)


@app.command()
def smoke(
    assets: Annotated[
        str | None, typer.Option(help="Assets to run, separated by commas. Default: all.")
    ] = None,
    rows_per_day: Annotated[int, typer.Option(help="Size of a day of the sample.")] = 100,
    tables: Annotated[
        str | None, typer.Option(help="Root of the tables in the workspace. Default: ML_PLATFORM_TABLES.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Where the page is written. Default: below ML_PLATFORM_HOME.")
    ] = None,
) -> None:
    """Run a small sample product in the workspace and here, compare the results, and clean up.

    It says first what it will create, removes all of it again whatever happens, and ends with a page for an
    issue: versions, settings without secrets, steps, fingerprints, and what was created and removed.

    Example: `ml-platform databricks smoke --assets ards,mrds`
    """
    from ml_platform.cli.smoke import Smoke
    from ml_platform.storage.table_location import LocationError

    chosen = tuple(part.strip() for part in assets.split(",")) if assets else names()
    unknown = [asset for asset in chosen if asset not in names()]
    if unknown:
        fail(f"unknown asset {', '.join(unknown)}; accepted are {', '.join(names())}")
    workspace, volume, settings = _workspace()

    def say(message: str) -> None:
        console.print(escape(message), soft_wrap=True, highlight=False)

    interruption.clean_up(_CLEAN_UP_SECONDS, "Interrupted: what was created is being removed.\n")
    with Refusals():
        try:
            check = Smoke(
                settings,
                workspace,
                volume,
                [asset for asset in names() if asset in chosen],
                rows_per_day,
                tables,
                say,
            )
            found = check.run()
        except LocationError as error:
            fail(str(error))
    text = found.text(settings)
    file = page or settings.home / "smoke" / f"{found.product}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    say("\n" + text)
    say(f"The page is in {file}")
    if found.outcome == "interrupted":
        raise KeyboardInterrupt
    if found.outcome != "passed":
        fail(found.error)
    if found.left:
        fail(f"{len(found.left)} of what was created could not be removed; the page says how to")
    say(f"All {sum(count for count, _ in found.compared.values())} partitions are the same here and there.")


def _workspace() -> tuple[Workspace, str, Settings]:
    from ml_platform.engine.databricks.workspace import Workspace

    settings = Settings()
    if settings.databricks_volume is None:
        fail("name a folder of a volume: ML_PLATFORM_DATABRICKS_VOLUME=/Volumes/catalog/schema/volume")
    with Refusals():
        return Workspace(settings.databricks_retry_seconds), settings.databricks_volume, settings


class Refusals:
    """Ends the command with one line where the workspace, or what is set, doesn't allow it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from databricks.sdk.errors.base import DatabricksError

        from ml_platform.engine.databricks.workspace import in_words
        from ml_platform.engine.step import PermanentError

        if isinstance(error, PermanentError):
            fail(str(error))
        if isinstance(error, DatabricksError | TimeoutError):
            fail(f"the workspace does not allow it: {in_words(error.__cause__ or error)}")
