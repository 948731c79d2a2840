"""The command ``doctor``: what isn't as the ledger says, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform.cli.console import console, fail, instance_of, print_json, product_named
from ml_platform.cli.layout import say, say_command
from ml_platform.contract.days import counted
from ml_platform.contract.loading import load_products
from ml_platform.settings import Settings

if TYPE_CHECKING:
    from ml_platform.cli.findings import Finding


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
    from ml_platform.cli.check_up import check_up, is_new, not_looked_at

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
