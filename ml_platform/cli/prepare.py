"""The command ``prepare``: what makes Spark start in half the time on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ml_platform.cli.console import fail
from ml_platform.cli.layout import say
from ml_platform.settings import Settings


def prepare(
    again: Annotated[bool, typer.Option("--again", help="Make it although it is there.")] = False,
) -> None:
    """Get this machine ready for Spark: Delta's jars, and the classes of its JVM, read once and kept.

    Sessions start in half the time afterwards. It takes a minute or two, and a file of 200 MB; nothing else
    depends on it. Another Java or another version of Spark needs it again.

    Example: `ml-platform prepare`
    """
    from ml_platform.spark import class_archive, class_training
    from ml_platform.spark.session import jar_cache

    settings = Settings()
    cache = jar_cache(settings)
    path = class_archive.found(cache)
    if path is not None and not again:
        say(f"Spark is ready on this machine: {path}")
        return
    say("Reading the classes of Spark's JVM, once: a minute or two ...")
    try:
        path = class_training.make(settings, cache)
    except class_training.ArchiveError as error:
        fail(str(error))
    say(f"Spark is ready on this machine: {path} ({path.stat().st_size / 1e6:,.0f} MB)")
