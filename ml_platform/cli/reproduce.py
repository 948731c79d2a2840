"""The command ``reproduce``: models made again from what they were made from, and compared."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from ml_platform.cli.console import AsJson, ProductName, fail, print_json, product_named, timed_lines
from ml_platform.cli.heartbeat import Heartbeat, tasks_of_spark
from ml_platform.cli.layout import say
from ml_platform.contract.assets import MODEL

_MONTH = ["%Y-%m"]


def reproduce(
    name: ProductName,
    month: Annotated[
        datetime | None, typer.Argument(formats=_MONTH, help="The month of the models. Default: all.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="The number of one version in MLflow.")] = None,
    from_deliveries: Annotated[
        bool,
        typer.Option(
            "--from-deliveries", help="Make the days again first, in a folder that is deleted afterwards."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make models again from their manifests and the rows known as of their dates, and compare them.

    Nothing is recorded or registered. The exit code is 0 if all are what they were, and 1 otherwise.

    Example: `ml-platform reproduce flights 2013-03 --from-deliveries`
    """
    from ml_platform.engine import local, reproduction
    from ml_platform.engine.step import StepRequest
    from ml_platform.graph.resources import LocalStepRunner
    from ml_platform.machine_learning.model_history import ModelHistory
    from ml_platform.storage.tables import Tables

    settings, product = product_named(name)
    if (engine := product.engine.of(MODEL, settings.engine)) != "local":
        fail(f"models of {name} are trained on {engine}: only those of this machine can be reproduced")
    try:
        models = reproduction.chosen(
            ModelHistory(Tables.of(settings), product).models(),
            month=month.date() if month else None,
            version=version,
        )
    except LookupError as error:
        fail(f"{name}: {error}")
    report = (lambda _: None) if as_json else timed_lines()
    runner = LocalStepRunner(settings)
    request = StepRequest(step=MODEL, product=name, days=(), run_id="reproduce")
    made = []
    with Heartbeat(report, detail=tasks_of_spark) as beat:
        context = local.context_for(request, product, settings, runner.session, beat.say)
        for remade in reproduction.reproduce(context, models, from_deliveries=from_deliveries):
            made.append(remade)
            if not as_json:
                _show(remade)
    if as_json:
        print_json([_plain(remade) for remade in made])
    others = [remade for remade in made if not remade.is_same]
    if not as_json:
        are = "model of {} is what it was" if len(made) == 1 else "models of {} are what they were"
        say(f"{len(made) - len(others)} of {len(made)} {are.format(name)}")
    if others:
        raise typer.Exit(1)


_WORDS = {True: "same", False: "not the same", None: "note"}


def _show(found: Any) -> None:
    model = found.model
    say(f"Model {model.version} as of {model.as_of}: {'the same' if found.is_same else 'not the same'}")
    for comparison in found.compared:
        style = "red" if comparison.same is False else ""
        say(
            f"{comparison.what}: {_WORDS[comparison.same]}; {comparison.detail}",
            indent=2,
            hanging=4,
            style=style,
        )


def _plain(found: Any) -> dict[str, Any]:
    model = found.model
    return {
        "as_of": str(model.as_of),
        "version": model.version,
        "fingerprint": model.fingerprint,
        "same": found.is_same,
        "compared": [
            {"what": comparison.what, "same": comparison.same, "detail": comparison.detail}
            for comparison in found.compared
        ],
    }
