"""The command ``ml-platform``: contracts, deliveries, backfills and history from a shell.

Words and tables for people; what is done lies in the modules that the commands call.
"""

from __future__ import annotations

import atexit
import gc
import getpass
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.markup import escape

from ml_platform.cli import alerts, arrivals, databricks, history, online
from ml_platform.cli.console import (
    ProductName,
    console,
    fail,
    instance_of,
    print_json,
    product_named,
    progress_of,
    timed_lines,
)
from ml_platform.cli.explanations import explain
from ml_platform.cli.heartbeat import Heartbeat, tasks_of_spark
from ml_platform.cli.history import say_other_scores
from ml_platform.cli.init import init
from ml_platform.cli.interruption import interruption
from ml_platform.cli.layout import say, say_command
from ml_platform.cli.prepare import prepare
from ml_platform.cli.reproduce import reproduce
from ml_platform.cli.suggest import suggest
from ml_platform.contract.assets import CATALOGUE, MODEL, names
from ml_platform.contract.days import DayRange, counted, named
from ml_platform.contract.loading import ContractError, load_product, load_products
from ml_platform.contract.product import Product
from ml_platform.settings import Settings

if TYPE_CHECKING:
    from ml_platform.cli.findings import Finding
    from ml_platform.machine_learning.promotion import Decision

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(alerts.app, name="alerts")
app.add_typer(arrivals.app, name="arrivals")
app.add_typer(databricks.app, name="databricks")
app.add_typer(online.app, name="online")


@app.callback(help="Batch machine learning in production as one Dagster asset graph.")
def collect_less_garbage() -> None:
    """Search for garbage less often, and not at the end.

    All that is imported is searched each time: a second and a half while a command runs, and two seconds
    more when it ends.
    """
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)


_DAY = ["%Y-%m-%d"]
FirstDay = Annotated[datetime, typer.Option("--from", formats=_DAY, help="First event day.")]
LastDay = Annotated[datetime, typer.Option("--to", formats=_DAY, help="Last event day.")]


@app.command()
def check(
    contract: Annotated[Path, typer.Argument(metavar="CONTRACT", help="A contract, a YAML file.")],
) -> None:
    """Validate a contract, and describe the graph that it gives.

    If the product has a history, it also says what the contract can't use of it: a champion that can no
    longer be evaluated, and days that no model would learn from.

    Example: `ml-platform check ml_platform/products/flights.yaml`
    """
    try:
        product = load_product(contract)
    except ContractError as error:
        fail(str(error))
    if refusal := _refusal(product):
        fail(f"{contract}: {refusal}")
    console.print(f"[green]{escape(str(contract))} is valid.[/green]", soft_wrap=True)
    for line in _in_words(product):
        say(line, indent=2, hanging=4)
    for line in _consequences(product):
        say(f"Attention: {line}", style="yellow")


@app.command()
def land(
    name: ProductName,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV files, plain or gzip, Parquet or JSON lines.")
    ],
    labels_apart: Annotated[
        bool, typer.Option(help="Write the labels to files of their own, dated when they would arrive.")
    ] = True,
) -> None:
    """Split the files of a product's history into daily deliveries of CSV.

    Example: `ml-platform land orders history.csv.gz`
    """
    from ml_platform.data_engineering import uploads
    from ml_platform.data_engineering.files import FileRules
    from ml_platform.data_engineering.object_store import landing_of
    from ml_platform.data_engineering.splitting import SplitError, split_history

    settings, product = product_named(name)
    with progress_of("rows read") as progress:
        try:
            with uploads.folder_for(product, settings) as folder:
                summary = split_history(
                    product,
                    files,
                    folder,
                    labels_apart=labels_apart,
                    progress=progress,
                    rules=FileRules.anywhere(settings),  # these files may lie anywhere
                )
        except (SplitError, uploads.UploadError) as error:
            fail(str(error))
    console.print(
        f"{counted(summary.rows, 'row')} and {counted(summary.labels, 'label')} of "
        f"{counted(summary.days, 'day')} ({named('day', summary.first, summary.last)}) are in "
        f"{landing_of(settings, product) / product.name}"
    )


@app.command()
def sample(
    name: ProductName,
    first: FirstDay,
    last: LastDay,
    rows_per_day: Annotated[int | None, typer.Option(help="Rows of a generated day, on average.")] = None,
) -> None:
    """Write sample deliveries for a range of days.

    Example: `ml-platform sample customers --from 2022-01-01 --to 2022-02-28 --rows-per-day 2000`
    """
    from ml_platform.data_engineering import uploads
    from ml_platform.data_engineering.object_store import landing_of
    from ml_platform.samples import GENERATED, SAMPLES

    settings, product = product_named(name)
    if name not in SAMPLES:
        fail(f"there is no sample of {name!r}; samples exist of {', '.join(SAMPLES)}")
    if rows_per_day is not None and name not in GENERATED:
        fail(f"--rows-per-day is for generated samples ({', '.join(GENERATED)}); {name} is real data")
    days = _days(first, last)
    options = {} if rows_per_day is None else {"rows_per_day": rows_per_day}
    with progress_of("rows written") as progress:
        try:
            with uploads.folder_for(product, settings, replace=True) as folder:
                SAMPLES[name](product, folder, days, progress=progress, **options)
        except ValueError as error:
            fail(str(error))
    console.print(f"The deliveries of {days} are in {landing_of(settings, product) / product.name}")


@app.command()
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
    days = _days(first, last)
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


@app.command()
def train(
    name: ProductName,
    as_of: Annotated[
        datetime | None,
        typer.Option(formats=_DAY, help="The date. Default: the latest, the day after the newest day."),
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


@app.command()
def doctor(
    name: Annotated[
        str | None, typer.Argument(metavar="[PRODUCT]", help="The name of a product. Default: all.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what is missing, and move aside what is damaged.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The findings as a JSON list, for scripts.")
    ] = False,
) -> None:
    """Compare the ledger with what is there: tables, models, online store, reports, Dagster's events.

    The exit code is 0 if all is as the ledger says, and 1 if something is missing or damaged, or still is
    after a repair.

    Example: `ml-platform doctor flights --repair`
    """
    from ml_platform.cli.backfill import BackfillError
    from ml_platform.cli.doctor import check_up, is_new, not_looked_at

    settings = Settings()
    products, broken = load_products(settings.product_folders) if name is None else ({}, {})
    if name is not None:
        settings, products[name] = product_named(name)
    for error in broken.values():
        print(f"left out: {error}", file=sys.stderr)
    found: dict[str, list[Finding]] = {}
    for product in products.values():
        tell = (lambda _: None) if as_json else (lambda said: say(said, indent=2, hanging=4, style="dim"))
        try:
            found[product.name] = check_up(
                product, settings, lambda: instance_of(settings), repair=repair, say=tell
            )
        except BackfillError as error:
            fail(f"{product.name}: {error}")
    if as_json:
        print_json([{"product": key, **finding.plain()} for key, of in found.items() for finding in of])
    for product_name, findings in {} if as_json else found.items():
        product = products[product_name]
        elsewhere = not_looked_at(product, settings)
        if not findings and is_new(product, settings):
            console.print(f"{product_name}: nothing has been made yet, so nothing can be missing.")
            continue
        _print_findings(product_name, findings, elsewhere)
    if any(found.values()):
        raise typer.Exit(1)


def _print_findings(product: str, findings: Sequence[Finding], elsewhere: Sequence[str]) -> None:
    """Print what is wrong, and what was not looked at."""
    if findings:
        say(f"{product}: {counted(len(findings), 'part')} not as the ledger says", style="red")
    elif elsewhere:
        say(f"{product}: all that was looked at is as the ledger says.", style="green")
    else:
        say(f"{product}: all is as the ledger says.", style="green")
    for finding in findings:
        say(f"{finding.part} is {finding.state}: {finding.detail}", hanging=2)
        if finding.place:
            say(f"place: {finding.place}", indent=2, hanging=4)
        if finding.command.startswith("ml-platform "):
            say("to fix it:", indent=2)
            say_command(finding.command, indent=4)
        else:
            say(f"to fix it: {finding.command}", indent=2, hanging=4)
    for part in elsewhere:
        say(f"not looked at: {part}", hanging=2, style="yellow")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's UI.")] = 5000,
    reports_port: Annotated[int, typer.Option(help="Port of the reports and the page of today.")] = 3001,
) -> None:
    """Open Dagster, MLflow and the reports on this machine, until interrupted.

    Example: `ml-platform ui --port 3000`
    """
    from ml_platform.cli.ui import HOST, ServerError, require_free, serve
    from ml_platform.machine_learning.registry import Registry

    try:
        require_free(port, "--port")
        require_free(mlflow_port, "--mlflow-port")
        require_free(reports_port, "--reports-port")
    except ServerError as error:
        fail(str(error))
    settings = Settings()
    products, _ = load_products(settings.product_folders)
    registry = Registry.of(settings)
    for name in products:
        registry.prepare(name)
    with instance_of(settings):
        pass  # makes its folder and configuration
    console.print(
        f"Today's page is opening on http://{HOST}:{reports_port}, Dagster on http://{HOST}:{port}, "
        f"MLflow on http://{HOST}:{mlflow_port}; stop all with Ctrl-C",
        soft_wrap=True,
    )
    interruption.expect()
    try:
        serve(settings, port, mlflow_port, reports_port)
    except ServerError as error:
        fail(str(error))


@app.command()
def rollback(
    name: ProductName,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")],
    to: Annotated[
        datetime | None,
        typer.Option(
            formats=_DAY,
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


@app.command()
def accept(
    name: ProductName,
    day: Annotated[datetime, typer.Argument(formats=_DAY, help="The blocked event day.")],
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the day is shown.")],
    on: Annotated[
        datetime | None,
        typer.Option(
            formats=_DAY,
            help="The date from which on it counts: models as of earlier dates don't learn from the day. "
            "Default: today; of a finished history the day after the event day.",
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
    since = on.date() if on else None
    if since is None and product.end is None:
        since = datetime.now(tz=ZoneInfo(product.timezone)).date()
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


app.command()(history.summary)
app.command()(history.history)
app.command()(history.today)
app.command()(reproduce)
app.command()(init)
app.command()(suggest)
app.command()(prepare)


# -- the process ---------------------------------------------------------------------------------------


def run() -> int:
    """Run the command that this process was started for; returns what the process ends with.

    What a command raises is one sentence here, and a traceback in the log file.
    """
    from pydantic import ValidationError

    from ml_platform.cli.logs import log_error, log_to_file

    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{_variable(problem)}: {problem['msg']}" for problem in error.errors(include_input=False)
        )
        return _end_with(f"a setting is wrong: {wrong}")
    log = log_to_file(settings)
    try:
        app(prog_name="ml-platform")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        log_error(error)
        return _end_with(sentence_of(error, settings), f"The traceback is in {log}")
    return 0


def sentence_of(error: Exception, settings: Settings) -> str:
    """What a person needs of an error: its own words if the platform has raised it, or an explanation."""
    explained = explain(error, settings)
    if explained is not None:
        return explained
    first, *_ = [*str(error).strip().splitlines(), ""]
    if type(error).__module__.partition(".")[0] == "ml_platform":
        return str(error)
    return f"{type(error).__name__}: {first or 'no reason given'}"


def _end_with(*lines: str) -> int:
    with suppress(typer.Exit):
        fail("\n".join(lines))
    return 1


def _variable(error: Any) -> str:
    return "_".join(["ML_PLATFORM", *map(str, error["loc"])]).upper()


# -- helpers -----------------------------------------------------------------------------------------


def _days(first: datetime, last: datetime) -> DayRange:
    try:
        return DayRange(first.date(), last.date())
    except ValueError as error:
        fail(str(error))


def _consequences(product: Product) -> list[str]:
    """What a contract does to a history; a history that can't be read now doesn't make it invalid."""
    from ml_platform.overview import history as overview

    try:
        return overview.consequences(product, Settings())
    except Exception as error:  # any store that is not reachable from here
        return [
            f"The history of {product.name} can't be read, so the contract is not checked against it: {error}"
        ]


def _refusal(product: Product) -> str | None:
    """Why the history that a product has doesn't allow its contract, if it is known here."""
    from ml_platform.engine import evolution
    from ml_platform.storage.tables import Tables

    try:
        return evolution.change_of_label(Tables.of(Settings()), product)
    except Exception:  # _consequences says that the history can't be read
        return None


def _in_words(product: Product) -> list[str]:
    days = f"runs from {product.start} to {product.end}" if product.end else f"begins on {product.start}"
    delay = product.source.label_delay_days
    when = f"arrives {counted(delay, 'day')} after the rows" if delay else "arrives with the rows"
    lines = [
        f"{product.name}: {product.description}",
        f"Its history {days}; a day begins and ends at midnight in {product.timezone}.",
        f"{product.name}/landing: {counted(len(product.source.columns), 'column')} separated by "
        f"{product.source.delimiter!r}; the label {product.label} {when}.",
        f"Deliveries are due {product.delivery.in_words()}{_own_place(product)}.",
    ]
    for asset in CATALOGUE.values():
        period = "daily" if asset.period == "day" else "monthly"
        if asset.with_current_month:
            period += f" from {product.first_month:%Y-%m}"
        lines.append(f"{product.name}/{asset.name}, {period}: {asset.in_words(product)}")
        if asset.name == MODEL:
            lines += [_how_models_are_compared(product), _first_model(product)]
    lines.append("Its sensors and schedules are off until you switch them on in the UI.")
    return lines


def _own_place(product: Product) -> str:
    """Where its deliveries lie, if the contract says that."""
    return f", and lie in {product.landing}/{product.name}/<event day>" if product.landing else ""


def _how_models_are_compared(product: Product) -> str:
    """On which rows, and when, a challenger is compared with the champion."""
    from ml_platform.machine_learning import holdout

    days, wait = holdout.days_forward(product), holdout.wait_forward(product).days
    by_entities = (
        f"at once, on a tenth of the entities that no model learns from, over the last "
        f"{product.model.holdout_days} labelled days"
    )
    by_time = (
        f"forward in time: a challenger scores {days} days from its as-of date in shadow, and is decided on "
        f"{wait} days after that date, when their labels are known; the first model is judged by one that "
        f"was trained {wait} days before it"
    )
    match product.model.holdout:
        case "entities":
            return f"Models are compared {by_entities}."
        case "time":
            return f"Models are compared {by_time}."
    return (
        f"Models are compared {by_entities}; where fewer than {holdout.FEW_ENTITIES} entities are known at "
        f"the first model, {by_time}."
    )


def _first_model(product: Product) -> str:
    """When there can be a first model, and when it is first known how good it is."""
    first = product.first_month
    known = DayRange(product.start, product.last_labelled_day(first))
    evaluated = first + timedelta(days=product.source.label_delay_days)
    lines = (
        f"The first model can exist on {first}, when the labels of {len(known)} days ({known}) can be known, "
        f"if they have at least {product.model.minimum_rows:,} rows. "
    )
    if product.end is not None and evaluated > product.end:
        return f"{lines}The history ends before a day that it scores can be evaluated."
    return f"{lines}The first evaluation of a day that it scores is that of {evaluated}."


if __name__ == "__main__":
    sys.exit(run())
