"""The commands by which a person decides otherwise: ``rollback`` a model, ``accept`` and ``reject`` a day."""

from __future__ import annotations

import getpass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform.cli.console import ProductName, console, fail, instance_of, product_named
from ml_platform.cli.day_options import DAY_FORMATS
from ml_platform.cli.history import say_other_scores
from ml_platform.cli.layout import say, say_command
from ml_platform.contract.days import counted

if TYPE_CHECKING:
    from ml_platform.contract.product import Product
    from ml_platform.machine_learning.promotion import Decision


def rollback(
    name: ProductName,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")],
    to: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY_FORMATS,
            help="As-of date of the model that is to serve again. Default: the champion before this one.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would serve, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask; for scripts.")] = False,
) -> None:
    """Roll the newest promotion back: the champion before it serves again, or the model that `--to` names.

    It shows which model would serve on which days, and asks. Existing predictions stay until they are scored
    again with `ml-platform backfill PRODUCT --from DAY --to DAY --rescore`.

    Example: `ml-platform rollback flights --reason "too many false alarms" --dry-run`
    """
    from ml_platform.cli.backfill import roll_back
    from ml_platform.machine_learning.model_history import ModelHistory, name_models
    from ml_platform.machine_learning.rollback import plan
    from ml_platform.storage.tables import Tables

    settings, product = product_named(name)
    if not reason.strip():
        fail("a rollback needs a reason, which is kept in the history")
    history = ModelHistory(Tables.of(settings), product)
    wanted = to.date() if to else None
    try:
        planned = plan(history.decisions(), wanted)
    except LookupError as error:
        fail(f"{name}: {error}")
    records = history.by_fingerprint()

    def model(decision: Decision | None) -> str:
        return name_models([decision.fingerprint], records) if decision else "no model"

    for change in planned.changes:
        days = f"{change.first} to {change.last or 'now'}"
        say(f"{days}: served by {model(change.now)}; after the rollback by {model(change.then)}", hanging=2)
    for decision in planned.passed_over:
        say(f"{model(decision)} was not promoted, and stays so", hanging=2, style="dim")
    if dry_run:
        console.print("Nothing has been changed.")
        return
    if not yes:
        promotions = counted(len(planned.taken_back), "promotion")
        typer.confirm(f"Roll back {promotions} of {name}?", abort=True)
    if plan(history.decisions(), wanted) != planned:
        fail(f"other decisions about the models of {name} were made meanwhile; run the command again")
    try:
        taken, now = roll_back(product, settings, reason=reason, by=getpass.getuser(), to=wanted)
    except LookupError as error:
        fail(f"{name}: {error}")
    for decision in taken.taken_back:
        console.print(f"The promotion as of {decision.as_of} is rolled back.")
    if now is None:
        console.print("No model serves now.")
    elif taken.champion is not None and now.fingerprint == taken.champion.fingerprint:
        console.print(f"The model as of {now.as_of} serves again.")
    else:
        console.print(f"The model as of {now.as_of} serves: it has been promoted meanwhile.")
    say_other_scores(product, settings)


def counts_from(product: Product, event_day: date, on: datetime | None, now: datetime) -> date:
    """The morning from which on a decision about a day counts.

    What was made on a morning that is over stays as it is, so that a decision counts from the next one on.

    Args:
        on: what was asked for.
    """
    from ml_platform.data_engineering.knowledge import morning_of

    if on is not None:
        return on.date()
    return morning_of(product, now) if product.end is None else event_day + timedelta(days=1)


def accept(
    name: ProductName,
    day: Annotated[datetime, typer.Argument(formats=DAY_FORMATS, help="The blocked event day.")],
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the day is shown.")],
    on: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY_FORMATS,
            help="The date from which on it counts: models as of earlier dates don't learn from the day. "
            "Default: today until source.morning_ends, then tomorrow; of a finished history the day after "
            "the event day.",
        ),
    ] = None,
) -> None:
    """Use a blocked day as it is, until its data changes.

    Example, once that day is blocked:
    `ml-platform accept flights 2013-02-08 --reason "snowstorm, confirmed by the carriers"`
    """
    from ml_platform.engine.acceptance import accept as accept_day
    from ml_platform.graph.events import report_verdict
    from ml_platform.storage.ledger import Ledger
    from ml_platform.storage.tables import Tables

    settings, product = product_named(name)
    ledger = Ledger(Tables.of(settings), name)
    since = counts_from(product, day.date(), on, datetime.now(tz=UTC))
    try:
        accepted = accept_day(ledger, day.date(), reason=reason, by=getpass.getuser(), on=since)
    except (LookupError, ValueError) as error:
        fail(str(error))
    with instance_of(settings) as instance:
        for record in accepted:
            report_verdict(instance, product, record)
    for record in accepted:
        say(f"{record.asset} of {record.day}: {record.details['checks'][0]['description']}", hanging=2)
    if barred_to := max((record.barred_to for record in accepted if record.barred_to), default=None):
        say(f"It counts from {barred_to} on: no model as of an earlier date learns from it (see --on).")
    say("To use it now:")
    say_command(f"ml-platform backfill {name} --from {day.date()} --to {day.date()}")


def reject(
    name: ProductName,
    day: Annotated[datetime, typer.Argument(formats=DAY_FORMATS, help="The event day.")],
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the day is shown.")] = "",
    on: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY_FORMATS,
            help="The date from which on it counts: models as of earlier dates go on learning from the day. "
            "Default: today until source.morning_ends, then tomorrow; of a finished history the day after "
            "the event day, so that none does.",
        ),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take what was rejected of the day back, as if it had never been.")
    ] = False,
) -> None:
    """Block a day whose data turned out to be garbage, until other rows of it come.

    Its predictions stay. What comes later is read as repaired: models learn from it, and not from what was
    served before.

    Example: `ml-platform reject flights 2013-02-09 --reason "the clocks were wrong" --on 2013-04-01`
    """
    from ml_platform.engine.rejection import reject as reject_day
    from ml_platform.engine.rejection import take_back
    from ml_platform.graph.events import report_verdict
    from ml_platform.storage.tables import Tables

    settings, product = product_named(name)
    tables, event_day = Tables.of(settings), day.date()
    if undo:
        if reason or on:
            fail("--undo takes neither --reason nor --on")
        try:
            removed = take_back(tables, product, event_day)
        except LookupError as error:
            fail(str(error))
        say(f"{counted(removed, 'rejection')} of {event_day} taken back. To make the day again:")
    else:
        since = counts_from(product, event_day, on, datetime.now(tz=UTC))
        try:
            record = reject_day(tables, product, event_day, reason=reason, by=getpass.getuser(), on=since)
        except (LookupError, ValueError) as error:
            fail(str(error))
        with instance_of(settings) as instance:
            report_verdict(instance, product, record)
        say(f"{record.asset} of {event_day} is blocked: {record.reason}.", hanging=2)
        say("To hold back what is made of it:")
    say_command(f"ml-platform backfill {name} --from {event_day} --to {event_day}")
