"""Graphs on stand-ins, each with a Dagster instance of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import Graph


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def graph_of(tmp_path: Path, instance: dg.DagsterInstance) -> Callable[..., Graph]:
    """Makes the graph of a product (or of ``shop``) on stand-ins."""

    def make(**parts: Any) -> Graph:
        return Graph(settings_in(tmp_path / "home"), instance, **parts)

    return make


@pytest.fixture
def graph(graph_of: Callable[..., Graph]) -> Graph:
    return graph_of()
