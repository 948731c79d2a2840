"""Dagster's web server, with the newest partitions of a finished history where it looks for them.

Its plots ask for an asset's newest partitions. For a definition with an end, Dagster counts them back from
now, so that a history that ended in 2013 has none among them, and its plots are empty. The server makes the
definitions from snapshots by Dagster's own classes, so that nothing of ours could say it better: hence
``python -m ml_platform.graph.webserver``, which takes the options of ``dagster-webserver``, and with ``dev``
as the first one those of ``dagster dev``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from dagster._core.definitions.partitions.context import PartitionLoadingContext
from dagster._core.definitions.partitions.definition.time_window import TimeWindowPartitionsDefinition
from dagster._core.definitions.partitions.utils.time_window import TimeWindowCursor
from dagster._core.types.pagination import PaginatedResults
from dagster._time import get_current_timestamp

MODULE = "ml_platform.graph.webserver"
_pages_of = TimeWindowPartitionsDefinition.get_paginated_partition_keys


def newest_first(
    definition: TimeWindowPartitionsDefinition,
    context: PartitionLoadingContext,
    limit: int,
    ascending: bool,
    cursor: str | None = None,
) -> PaginatedResults[str]:
    """A page of partition keys as Dagster's own, but that an ended history's newest are its last ones."""
    end = definition.end_timestamp
    is_over = end is not None and end < get_current_timestamp()
    if is_over and not cursor and not ascending and definition.end_offset >= 0:
        # All that the offset would add lies before the end, or isn't a partition.
        cursor = str(
            TimeWindowCursor(
                start_timestamp=int(definition.start_timestamp),
                end_timestamp=int(end or 0),
                offset_partition_count=definition.end_offset,
            )
        )
    return _pages_of(definition, context, limit, ascending, cursor)


def install() -> None:
    """Have this process page through partitions by :func:`newest_first`."""
    TimeWindowPartitionsDefinition.get_paginated_partition_keys = newest_first  # type: ignore[assignment, method-assign]


def main() -> None:
    """Run the web server, or all of ``dagster dev`` with it."""
    if sys.argv[1:2] == ["dev"]:
        _dev()
        return
    install()
    serve: Any = importlib.import_module("dagster_webserver.cli").main
    serve()


def _dev() -> None:
    dev: Any = importlib.import_module("dagster._cli.dev")
    own = dev.open_ipc_subprocess

    def start(words: Sequence[str], **options: Any) -> Any:
        return own([MODULE if word == "dagster_webserver" else word for word in words], **options)

    dev.open_ipc_subprocess = start
    del sys.argv[1]
    dev.dev_command()


if __name__ == "__main__":
    main()
