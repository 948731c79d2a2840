"""The command ``ml-platform``: its commands put together, and run.

Words and tables for people are in the files of the commands; what is done lies in the modules that they call.
"""

from __future__ import annotations

import atexit
import gc
import sys
from contextlib import suppress
from typing import Any

import typer

from ml_platform.cli import (
    alerts,
    arrivals,
    contracts,
    databricks,
    decisions,
    deliveries,
    doctor,
    history,
    init,
    online,
    prepare,
    reproduce,
    runs,
    suggest,
    ui,
)
from ml_platform.cli.console import fail
from ml_platform.cli.explanations import sentence_of
from ml_platform.settings import Settings

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


for command in (
    contracts.check,
    deliveries.land,
    deliveries.sample,
    runs.backfill,
    runs.train,
    doctor.doctor,
    ui.ui,
    decisions.rollback,
    decisions.accept,
    decisions.reject,
    history.summary,
    history.history,
    history.today,
    reproduce.reproduce,
    init.init,
    suggest.suggest,
    prepare.prepare,
):
    app.command()(command)


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


def _end_with(*lines: str) -> int:
    with suppress(typer.Exit):
        fail("\n".join(lines))
    return 1


def _variable(error: Any) -> str:
    return "_".join(["ML_PLATFORM", *map(str, error["loc"])]).upper()


if __name__ == "__main__":
    sys.exit(run())
