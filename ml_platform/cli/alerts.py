"""The commands ``ml-platform alerts …``: what is wrong now, and whether messages arrive."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import typer

from ml_platform.cli.console import AsJson, ProductName, console, fail, instance_of, print_json, product_named
from ml_platform.cli.layout import say, say_command
from ml_platform.contract.days import counted

app = typer.Typer(no_args_is_help=True, help="What is wrong with a product, and who is told.")


@app.command()
def show(name: ProductName, as_json: AsJson = False) -> None:
    """Show what is wrong with a product now, what it holds back, and the commands to act.

    Example: `ml-platform alerts show flights`
    """
    from ml_platform.graph.alerts import links_of, look
    from ml_platform.mlops.alerts import messages
    from ml_platform.overview import plain

    settings, product = product_named(name)
    links = links_of(settings)
    with instance_of(settings) as instance:
        situation = look(product, settings, instance, datetime.now(ZoneInfo(product.timezone)))
    wrong = sorted(
        situation.with_reports(situation.wrong, links),
        key=lambda finding: (finding.severity, finding.asset, finding.partition),
    )
    if as_json:
        print_json(plain.findings(product, wrong, links))
        return
    if not wrong:
        console.print(f"Nothing is wrong with {name}.")
        return
    numbers = {kind: sum(finding.severity == kind for finding in wrong) for kind in ("error", "warning")}
    say(f"{name}: {' and '.join(counted(number, kind) for kind, number in numbers.items() if number)}")
    for finding in wrong:
        fact = messages.fact(product, finding, links)
        say("")
        say(
            f"{fact.severity}: {fact.title}", hanging=2, style="red" if fact.severity == "error" else "yellow"
        )
        for cause in fact.causes:
            say(cause, indent=2, hanging=4)
        if fact.holds_back:
            say(f"holds back: {fact.holds_back}", indent=2, hanging=4)
        if fact.since:
            say(fact.since, indent=2, hanging=4)
        for remedy in fact.remedies:
            say(f"{remedy.words}:", indent=2, hanging=4)
            say_command(remedy.command, indent=4)


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
    wanted = [channel for channel in channels.configured(settings) if channels.wants(channel, product)]
    if not wanted:
        fail(f"no channel is configured for the news of {name}; set one with ML_PLATFORM_ALERT_URLS")
    problems = channels.send_all({channel.name: channels.Outgoing(channel, message) for channel in wanted})
    for name_of_channel, problem in problems.items():
        console.print(f"{name_of_channel}: {problem or 'sent'}", highlight=False)
    if any(problems.values()):
        raise typer.Exit(1)
