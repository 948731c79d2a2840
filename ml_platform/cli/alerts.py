"""The commands ``ml-platform alerts …``: what is wrong now, and whether messages arrive."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from ml_platform.cli.console import ProductName, console, fail, instance_of, print_wide, product_named

app = typer.Typer(no_args_is_help=True, help="What is wrong with a product, and who is told.")


@app.command()
def show(name: ProductName) -> None:
    """Show what is wrong with a product now.

    Example: `ml-platform alerts show flights`
    """
    from ml_platform.graph.alerts import findings

    settings, product = product_named(name)
    with instance_of(settings) as instance:
        wrong = findings(product, settings, instance)
    if not wrong:
        console.print(f"Nothing is wrong with {name}.")
        return
    table = Table(title=f"{name}: {len(wrong)} findings", title_justify="left")
    for heading in ("severity", "asset", "partition", "what"):
        table.add_column(heading, no_wrap=heading != "what")
    table.add_column("found", ratio=1)
    for finding in sorted(wrong, key=lambda one: (one.severity, one.asset, one.partition)):
        table.add_row(
            finding.severity, finding.asset, finding.partition, finding.subject, escape(finding.what)
        )
    print_wide(table)


@app.command()
def test(name: ProductName) -> None:
    """Send a test message to every channel that a product's news goes to.

    Example: `ml-platform alerts test flights`
    """
    from ml_platform.mlops.alerts import channels
    from ml_platform.mlops.alerts.messages import Message

    settings, product = product_named(name)
    message = Message(
        f"[{name}] test", f"This is a test of the alerts of {name}: {product.description}", "resolved"
    )
    wanted = [one for one in channels.configured(settings) if channels.wants(one, product)]
    if not wanted:
        fail("no channel wants this product's news; ML_PLATFORM_ALERT_URLS sets one")
    problems = channels.send_all({one.name: channels.Outgoing(one, message) for one in wanted})
    for channel, problem in problems.items():
        console.print(f"{channel}: {problem or 'sent'}", highlight=False)
    if any(problems.values()):
        raise typer.Exit(1)
