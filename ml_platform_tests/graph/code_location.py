"""A code location on stand-ins, as a daemon loads it; ``OUTCOMES`` are what its steps report."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ml_platform.build import build_definitions
from ml_platform.storage.ledger import Outcome
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import FakeMlflow, FakeRunner
from ml_platform_tests.small_platform import shop

OUTCOMES: dict[str, tuple[Outcome, str]] = {}

defs = build_definitions(
    settings_in(Path(os.environ.get("ML_PLATFORM_HOME", tempfile.gettempdir()))),
    products={"shop": shop(end="2024-04-30")},
    resource_overrides={"step_runner": FakeRunner(outcomes=OUTCOMES), "mlflow": FakeMlflow()},
)
