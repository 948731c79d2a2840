"""The command ``check``: whether a contract is valid, and what follows from it, in words."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ml_platform.cli.console import console, fail
from ml_platform.cli.layout import say
from ml_platform.contract import online
from ml_platform.contract.assets import CATALOGUE, MODEL, MRDS, ONLINE_FEATURES
from ml_platform.contract.calendars import WEEKDAYS, weekdays_in_words
from ml_platform.contract.days import DayRange, counted
from ml_platform.contract.labels_ahead import LabelAhead
from ml_platform.contract.learning import Population
from ml_platform.contract.loading import ContractError, load_product
from ml_platform.contract.product import Product
from ml_platform.contract.trailing import first_full
from ml_platform.settings import Settings


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
    for line in in_words(product):
        say(line, indent=2, hanging=4)
    for line in _consequences(product):
        say(f"Attention: {line}", style="yellow")


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


def in_words(product: Product) -> list[str]:
    """What a contract says of its product, a line each."""
    days = f"runs from {product.start} to {product.end}" if product.end else f"begins on {product.start}"
    lines = [
        f"{product.name}: {product.description}",
        f"Its history {days}; a day begins and ends at midnight in {product.timezone}.",
        f"{product.name}/landing: {counted(len(product.source.columns), 'column')} separated by "
        f"{product.source.delimiter!r}{_derived(product)}; {_label(product)}.",
        f"Deliveries are due {product.delivery.in_words()}{_own_place(product)}.",
    ]
    for asset in CATALOGUE.values():
        period = "daily" if asset.period == "day" else "monthly"
        if asset.with_current_month:
            period += f" from {product.first_month:%Y-%m}"
        lines.append(f"{product.name}/{asset.name}, {period}: {asset.in_words(product)}")
        if asset.name == MRDS and product.mrds.label is not None:
            lines.append(_label_ahead(product, product.mrds.label))
        if asset.name == MRDS and product.mrds.population is not None:
            lines.append(_population(product.mrds.population))
        if asset.name == MRDS and product.mrds.windowed:
            lines.append(_windows(product))
        if asset.name == ONLINE_FEATURES and (how_long := online.in_words(product)) is not None:
            lines.append(f"They hold {how_long}.")
        if asset.name == MODEL:
            lines += [_how_models_are_compared(product), _first_model(product)]
    lines.append("Its sensors and schedules are off until you switch them on in the UI.")
    return lines


def _derived(product: Product) -> str:
    """The columns that are made of these."""
    names = [*product.source.derive]
    return f", and {counted(len(names), 'column')} derived: {', '.join(names)}" if names else ""


def _label(product: Product) -> str:
    """Where the label comes from."""
    if product.source.label is None:
        return "no label comes with them"
    delay = product.source.label_delay_days
    when = f"arrives {counted(delay, 'day')} after the rows" if delay else "arrives with the rows"
    return f"the label {product.label} {when}"


def _population(population: Population) -> str:
    """Who is scored, and when."""
    said = (
        "Beside the entities with rows of a day those are scored that had any in the "
        f"{counted(population.active_within_days, 'day')} up to it"
    )
    if len(population.weekdays) == len(WEEKDAYS):
        return f"{said}."
    return f"{said}; on {weekdays_in_words(population.weekdays)} only."


def _label_ahead(product: Product, label: LabelAhead) -> str:
    """What a label that looks ahead is, and when it is known."""
    days = counted(label.within_days, "day")
    return (
        f"Its label {label.name} is 1 if an entity has {label.said} in {label.window.in_words}"
        f"{label.condition}; it is known for a whole day when these {days} are over and have come, of which "
        f"missing ones are waited for, {counted(label.patience_days, 'day')} long."
    )


def _windows(product: Product) -> str:
    """How many days windows look back, and since when they are full."""
    windows = [feature.window for feature in product.mrds.windowed.values()]
    lengths = [window.days for window in windows]
    finite = [length for length in lengths if length is not None]
    said = [counted(length, "day") for length in sorted(set(finite))]
    if len(finite) < len(lengths):
        said.append("all of the history")
    lines = f"Its windows hold {', '.join(said)}."
    if finite:
        full = first_full(windows, product.start)
        lines += (
            f" All are full from {full} on, {counted((full - product.start).days, 'day')} after the start."
        )
    if product.model.partial_windows:
        return f"{lines} The model learns from earlier days as well."
    if product.first_full_day > product.start:
        return f"{lines} The model learns from no day before {product.first_full_day}."
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
    known = DayRange(product.first_full_day, product.last_labelled_day(first))
    evaluated = first + timedelta(days=product.label_takes)
    lines = (
        f"The first model can exist on {first}, when the labels of {len(known)} days ({known}) can be known, "
        f"if they have at least {product.model.minimum_rows:,} rows. "
    )
    if product.end is not None and evaluated > product.end:
        return f"{lines}The history ends before a day that it scores can be evaluated."
    return f"{lines}The first evaluation of a day that it scores is that of {evaluated}."
