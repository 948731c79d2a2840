"""The commands that run the graph: ``backfill`` over a range of days, ``train`` as of a date."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from ml_platform.cli.console import ProductName, fail, instance_of, product_named, timed_lines
from ml_platform.cli.day_options import DAY_FORMATS, FirstDay, LastDay, days_between
from ml_platform.cli.heartbeat import Heartbeat, tasks_of_spark
from ml_platform.cli.history import say_other_scores
from ml_platform.contract.assets import names


def backfill(
    name: ProductName,
    first: FirstDay,
    last: LastDay,
    select: Annotated[
        str | None, typer.Option(help="The assets to bring up to date, separated by commas. Default: all.")
    ] = None,
    with_retraining: Annotated[
        bool,
        typer.Option(
            help="Replay the history with the retrains that failed evaluations would have requested. "
            "Predictions are replaced by those of the models that would have served then."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            help="Do days again even if nothing has changed. Existing predictions stay; see --rescore."
        ),
    ] = False,
    rescore: Annotated[
        bool,
        typer.Option(
            help="Score days again whose predictions come from another model than the one that serves them."
        ),
    ] = False,
    allow_bad_days: Annotated[
        bool,
        typer.Option(help="Exit with 0 even if days are refused, blocked, missing or held back."),
    ] = False,
) -> None:
    """Run the graph over a range of days, in the right order; what is up to date is skipped.

    The last line counts the results of each asset. The exit code is 1 if some days can't be used.

    Example: `ml-platform backfill flights --from 2013-01-01 --to 2013-03-31`
    """
    from ml_platform.cli.backfill import Backfill, BackfillError
    from ml_platform.cli.outcomes import outcomes

    settings, product = product_named(name)
    days = days_between(first, last)
    if with_retraining and select:
        fail("--with-retraining replays all assets; leave out --select")
    chosen = tuple(part.strip() for part in select.split(",")) if select else names()
    if rescore and "predictions" not in chosen:
        fail("--rescore is for predictions: add them to --select")
    unknown = [asset for asset in chosen if asset not in names()]
    if unknown:
        fail(f"unknown asset {', '.join(unknown)}; accepted are {', '.join(names())}")
    if days.first < product.start or (product.end and days.last > product.end):
        fail(f"{days} goes beyond the days of {name}, {product.start} to {product.end or 'yesterday'}")
    selected = [asset for asset in names() if asset in chosen]
    report = timed_lines()
    with instance_of(settings) as instance, Heartbeat(report, detail=tasks_of_spark) as beat:
        work = Backfill(
            product,
            settings,
            instance,
            select=selected,
            force=force,
            rescore=rescore,
            allow_bad_days=allow_bad_days,
            started=lambda what: beat.say(f"run: {what}"),
            progress=beat.say,
        )
        try:
            reports = work.run_with_retraining(days) if with_retraining else work.run(days)
        except BackfillError as error:
            fail(str(error))
    say_other_scores(product, settings, days)
    found = outcomes(product, settings, selected, days)
    runs = f"{len(reports)} run{'s'[: len(reports) > 1]}"
    if not found.bad:
        report(f"{name} over {days}: {found}; up to date, {runs if reports else 'nothing to do'}")
        return
    # Bad days that are still as they were are no reason to do nothing.
    done = runs if reports else "nothing has changed"
    report(f"{name} over {days}: {found}; {found.bad} can't be used, {done}: ml-platform alerts show {name}")
    if not allow_bad_days:
        raise typer.Exit(1)


def train(
    name: ProductName,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY_FORMATS, help="The date. Default: the latest, the day after the newest day."
        ),
    ] = None,
) -> None:
    """Train a model as of a date, compare it, and promote it if it is better; it serves from that date on.

    Days that an earlier version of the contract made are first made again, if their deliveries are still
    there; the model doesn't learn from the others.

    Example: `ml-platform train flights --as-of 2013-03-15`
    """
    from ml_platform.cli.backfill import Backfill, BackfillError
    from ml_platform.overview import history as overview

    settings, product = product_named(name)
    report = timed_lines()
    with instance_of(settings) as instance, Heartbeat(report, detail=tasks_of_spark) as beat:
        work = Backfill(
            product,
            settings,
            instance,
            started=lambda what: beat.say(f"run: {what}"),
            progress=beat.say,
        )
        try:
            trained = work.train(as_of.date() if as_of else None)
        except (BackfillError, LookupError) as error:
            fail(str(error))
    for line in overview.models(product, settings):
        if line.as_of == trained and line.metric and "replaced" not in line.reason:
            report(f"the model as of {line.as_of} (version {line.version}) is {line.verdict}: {line.reason}")
