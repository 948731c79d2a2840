"""What tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ml_platform_tests import tasks_here


@pytest.fixture(scope="module")
def small_days() -> Iterator[None]:
    """Days so small that every one passes: nothing is judged while the module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        tasks_here.without_verdicts(patch)
        yield
