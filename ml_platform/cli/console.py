"""What the commands share: the console, the end with an error, a product by its name, Dagster's instance."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ml_platform.cli.interruption import interruption
from ml_platform.contract.loading import load_products
from ml_platform.contract.product import Product
from ml_platform.settings import Settings
from ml_platform.storage import locks

if TYPE_CHECKING:
    import dagster as dg

console = Console()
ProductName = Annotated[str, typer.Argument(metavar="PRODUCT", help="The name of a product.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON, for scripts.")]


def fail(message: str) -> NoReturn:
    """End the command with an error; of an interruption all has been said."""
    if interruption.noticed():
        raise typer.Exit(1)
    Console(stderr=True).print(f"[red]Error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def print_json(content: Any) -> None:
    """Print what a script reads."""
    typer.echo(json.dumps(content, indent=2))


def product_named(name: str) -> tuple[Settings, Product]:
    """The settings and a product; ends the command when its contract is missing or wrong."""
    settings = Settings()
    products, errors = load_products(settings.product_folders)
    if name not in products:
        broken = [str(error) for path, error in errors.items() if path.stem == name]
        fail("\n".join(broken) or f"unknown product {name!r}; there are {', '.join(products)}")
    return settings, products[name]


def timed_lines() -> Callable[[str], None]:
    """What prints a line after the seconds since now; a line isn't broken, as it may hold a command."""
    began = time.monotonic()

    def say_timed(message: str) -> None:
        said = f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {escape(message)}"
        console.print(said, highlight=False, soft_wrap=True)

    return say_timed


@contextmanager
def progress_of(unit: str) -> Iterator[Callable[[int], None]]:
    """A line that counts while something is read or written."""
    with console.status(f"0 {unit}") as status:
        yield lambda count: status.update(f"{count:,} {unit}")


@contextmanager
def instance_of(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The persistent Dagster instance: of ``DAGSTER_HOME``, or in the platform's home."""
    import dagster as dg
    import sqlalchemy.exc

    if not os.environ.get("DAGSTER_HOME"):  # one that is set to nothing is none, and not this folder
        home = (settings.home / "dagster").absolute()
        home.mkdir(parents=True, exist_ok=True)
        os.environ["DAGSTER_HOME"] = str(home)
    home = Path(os.environ["DAGSTER_HOME"])
    if not home.is_absolute() or not home.is_dir():
        fail(f"DAGSTER_HOME is {str(home)!r}; Dagster accepts only a folder that exists, by its full path")
    # One transaction for the materializations of many days, not one a day.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "200")
    with ExitStack() as stack:
        # Two processes that open a new instance at once would both create its databases.
        what = f"Dagster's instance in {home}"
        with locks.held(home / ".opening.lock", what, seconds=settings.lock_timeout_seconds):
            configuration = home / "dagster.yaml"
            if not configuration.exists():
                unfinished = home / ".dagster.yaml"
                unfinished.write_text(_LOCAL_INSTANCE)
                unfinished.replace(configuration)
            if configuration.read_text() == _LOCAL_INSTANCE and not (home / "history").exists():
                _make_databases(home)
            try:
                instance = stack.enter_context(dg.DagsterInstance.get())
                instance.get_latest_materialization_event(dg.AssetKey("none"))
            except (sqlalchemy.exc.DatabaseError, sqlite3.DatabaseError) as error:
                if "locked" in str(error) or "full" in str(error):
                    raise
                fail(
                    f"Dagster's databases in {home} can't be used ({getattr(error, 'orig', None) or error}): "
                    "restore the folder from a backup, or run ml-platform doctor --repair, which makes its "
                    "events again from the ledger"
                )
        yield instance


def _make_databases(home: Path) -> None:
    """Make Dagster's databases in a folder beside, then move them in.

    A creation that is stopped half-way leaves tables that Dagster takes for those of an old version.
    """
    from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

    beside = home / ".new"
    shutil.rmtree(beside, ignore_errors=True)
    storage = DagsterSqliteStorage(str(beside))
    storage.event_log_storage.get_latest_materialization_events([])
    storage.dispose()
    for name in ("schedules", "history"):  # the last one tells that all are there
        shutil.rmtree(home / name, ignore_errors=True)
        (beside / name).rename(home / name)
    shutil.rmtree(beside, ignore_errors=True)


_LOCAL_INSTANCE = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_monitoring:
  enabled: true
concurrency:
  runs:
    max_concurrent_runs: 2
"""
