"""The commands ``ml-platform arrivals …``: since when deliveries are known, and the register of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform.cli.console import ProductName, fail, product_named
from ml_platform.cli.layout import Row, print_table, say, say_command
from ml_platform.contract.days import DayRange, counted

if TYPE_CHECKING:
    from ml_platform.data_engineering.arrivals import ArrivalRegister

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="When delivered files were first seen: what came late is known since then.",
)

_DAY = ["%Y-%m-%d"]


@app.command()
def show(name: ProductName) -> None:
    """Show the files that came after their day had been looked at, which are known since they came.

    Example: `ml-platform arrivals show flights`
    """
    from ml_platform.data_engineering import landing
    from ml_platform.data_engineering.files import shown
    from ml_platform.data_engineering.object_store import landing_of

    settings, product = product_named(name)
    arrivals = _register(name).read()
    rows = []
    for day, look in landing.looks(product, landing_of(settings, product), sorted(arrivals.days)).items():
        seen = arrivals.seen(day, look.files)
        if seen is not None:
            rows += [
                Row([str(day), shown(file), str(seen.first_look), str(late)])
                for file, late in seen.late_files.items()
            ]
    days = counted(len(arrivals.days), "day")
    if not rows:
        say(f"The files of {days} have been seen, and none of them came after its day had been looked at.")
        return
    print_table(
        f"Files of {name} that came after their day had been looked at",
        ("event day", "file", "first look", "known since"),
        rows,
    )
    first, last = rows[0].cells[0], rows[-1].cells[0]
    say("If they are part of a history that was copied here bit by bit, let their names say when they came:")
    say_command(f"ml-platform arrivals forget {name} --from {first} --to {last}")


@app.command()
def forget(
    name: ProductName,
    first: Annotated[datetime, typer.Option("--from", formats=_DAY, help="First event day.")],
    last: Annotated[datetime, typer.Option("--to", formats=_DAY, help="Last event day.")],
) -> None:
    """Forget when the files of some days were seen: their names alone say since when they are known.

    The days are made anew by the next backfill over them, and models that have learned from them as well.

    Example: `ml-platform arrivals forget flights --from 2013-01-01 --to 2013-01-31`
    """
    try:
        days = DayRange(first.date(), last.date())
    except ValueError as error:
        fail(str(error))
    from ml_platform.data_engineering.arrivals import RegisterError

    try:
        removed = _register(name).forget(list(days))
    except RegisterError as error:
        fail(str(error))
    say(f"{counted(removed, 'arrival')} forgotten.")
    if removed:
        say("To make the days anew:")
        say_command(f"ml-platform backfill {name} --from {days.first} --to {days.last}")


@app.command("export")
def export_register(
    name: ProductName, file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file.")]
) -> None:
    """Write the register to a CSV file, to be kept with the deliveries.

    Example: `ml-platform arrivals export flights var/arrivals.csv`
    """
    register = _register(name)
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        count = register.write_csv(out)
    unfinished.replace(file)
    say(f"{counted(count, 'arrival')} written to {file}.")


@app.command("import")
def import_register(
    name: ProductName, file: Annotated[Path, typer.Argument(metavar="FILE", help="What export has written.")]
) -> None:
    """Add what an exported register says.

    Example: `ml-platform arrivals import flights var/arrivals.csv`
    """
    from ml_platform.data_engineering.arrivals import RegisterError

    register = _register(name)
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as given:
            count = register.read_csv(given)
    except (OSError, RegisterError) as error:
        fail(f"{file}: {error}")
    say(f"{counted(count, 'arrival')} added.")


def _register(name: str) -> ArrivalRegister:
    from ml_platform.data_engineering.arrivals import ArrivalRegister
    from ml_platform.storage.tables import Tables

    settings, product = product_named(name)
    return ArrivalRegister(Tables.of(settings), product)
