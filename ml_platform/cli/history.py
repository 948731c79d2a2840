"""The commands about a product as it is and was: ``summary``, ``history`` and ``today``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ml_platform.cli.console import AsJson, ProductName, console, instance_of, print_json, product_named
from ml_platform.cli.layout import Row, print_table, say, say_command
from ml_platform.contract.days import DayRange, counted, named
from ml_platform.contract.loading import load_products
from ml_platform.contract.product import Product
from ml_platform.settings import Settings


def summary(name: ProductName, as_json: AsJson = False) -> None:
    """Show a product's history by month: rows, models, promotions, performance.

    Example: `ml-platform summary flights`
    """
    from ml_platform.overview import history as overview
    from ml_platform.overview import plain

    settings, product = product_named(name)
    if as_json:
        print_json(plain.summary(product, settings))
        return
    metric, window = product.metric_in_words, product.evaluation.window_days
    numbers = ("delivered", "rows", "quarantined", "bad days", metric)
    rows = []
    for line in overview.months(product, settings):
        cells = [
            named("month", line.month),
            f"{line.delivered:,}",
            f"{line.rows:,}",
            f"{line.quarantined:,}",
            f"{line.bad_days:,}",
            "-" if line.metric is None else f"{line.metric:.4f}",
        ]
        models = [
            f"model {model.version} as of {model.as_of}, {model.verdict}: {model.reason}"
            for model in line.models
        ]
        rows.append(Row(cells, models or ["no model yet"]))
    print_table(
        f"{name} by month; {metric} is of the {counted(window, 'day')} up to the month's last evaluated one",
        ("month", *numbers),
        rows,
        right=numbers,
    )
    _say_waiting(product, settings)
    for lost in overview.not_reproducible(product, settings):
        say(f"No longer reproducible, since days were withdrawn: {lost}")
    say(f"Tables     {settings.tables_root}/{name}", hanging=11)
    say(f"Registry   {settings.tracking_uri_shown}", hanging=11)
    say(f"Reports    {', '.join(plain.report_places(settings))}", hanging=11)
    say_other_scores(product, settings)
    say("Open the UI with: ml-platform ui, then http://127.0.0.1:3001")


def history(name: ProductName, as_json: AsJson = False) -> None:
    """Show which model served which days, and why.

    Example: `ml-platform history flights`
    """
    from ml_platform.overview import history as overview
    from ml_platform.overview import plain

    settings, product = product_named(name)
    if as_json:
        print_json(plain.models(product, settings))
        return
    rows = []
    for model in overview.models(product, settings):
        learned = f"{model.rows:,}"
        if model.rows_available > model.rows:
            learned += f" of {model.rows_available:,}"
        cells = [str(model.as_of), model.kind, model.version, learned, model.serves, f"{model.days_scored:,}"]
        said = [f"trained: {model.cause}", f"{model.verdict}: {model.reason}"]
        said += [f"chosen: {model.selection}"] if model.selection else []
        said += [model.remark] if model.remark else []
        rows.append(Row(cells, said))
    print_table(
        f"Models of {name}",
        ("as of", "kind", "version", "rows", "serves", "days scored"),
        rows,
        right=("rows", "days scored"),
    )
    _say_waiting(product, settings)
    say_other_scores(product, settings)


def today(
    name: Annotated[
        str | None, typer.Argument(metavar="[PRODUCT]", help="The name of a product; all without it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the pages say as JSON, and write none.")
    ] = False,
) -> None:
    """Write the page of today beside the reports: is everything done, what is wrong, the champion, drift.

    Example: `ml-platform today flights`
    """
    from ml_platform.graph.today import Pages, look_at, publish
    from ml_platform.overview import plain

    settings = Settings()
    products, broken = load_products(settings.product_folders)
    if name is not None:
        product_named(name)
    with instance_of(settings) as instance:
        if as_json:
            chosen = products.values() if name is None else [products[name]]
            found = [plain.today(look_at(product, settings, instance)) for product in chosen]
            print_json({"products": found, "contract_errors": _errors(broken)})
            return
        pages = Pages(products, settings, instance, problems=_errors(broken))
        written = publish(pages, None if name is None else [name])
    for address in written.values():
        console.print(address, highlight=False, soft_wrap=True)


def say_other_scores(product: Product, settings: Settings, days: DayRange | None = None) -> None:
    """Name what was scored by other models than those that serve, and what scores it again."""
    from ml_platform.overview import history as overview

    found = [
        other for other in overview.other_scores(product, settings) if days is None or {*other.days} & {*days}
    ]
    for other in found:
        say(f"Scored by another model than the one that serves: {other}", style="yellow")
    if found:
        first, last = min(other.days[0] for other in found), max(other.days[-1] for other in found)
        say("To score these days again:")
        say_command(f"ml-platform backfill {product.name} --from {first} --to {last} --rescore")


def _say_waiting(product: Product, settings: Settings) -> None:
    from ml_platform.overview import history as overview

    if why := overview.waiting(product, settings):
        say(why, style="yellow")


def _errors(broken: dict[Path, Any]) -> dict[str, str]:
    return {path.name: str(error) for path, error in broken.items()}
