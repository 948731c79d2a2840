"""What becomes of a publication when the database fails it, on a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from ml_platform.engine.step import PermanentError
from ml_platform_tests.conftest import drop_tables, settings_in
from ml_platform_tests.online_store.test_faults import CUT_ONCE, execute
from ml_platform_tests.online_store.test_publish import deliver, published
from ml_platform_tests.small_platform import DATA_STEPS, Platform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.slow
def test_a_cut_connection_is_tried_again(postgresql_url: str, tmp_path: Path, spark: SparkSession) -> None:
    drop_tables(postgresql_url)
    platform = Platform(settings_in(tmp_path / "home", online_store_url=postgresql_url), spark)
    deliver(platform, "2024-01-01", "ann", "bob")
    for step in DATA_STEPS:
        platform.run(step, "2024-01-01")
    execute(postgresql_url, *CUT_ONCE)
    seen: list[str] = []
    assert published(platform, seen).merged.published == 2
    assert len(seen) == 1
    assert "attempt 1 of 5 failed" in seen[0]
    assert "the connection broke" in seen[0]


@pytest.mark.slow
def test_wrong_credentials_end_the_step_without_showing_them(
    postgresql_url: str, tmp_path: Path, spark: SparkSession
) -> None:
    url = sa.make_url(postgresql_url).set(password="geheim").render_as_string(hide_password=False)
    platform = Platform(settings_in(tmp_path / "home", online_store_url=url), spark)
    deliver(platform, "2024-01-01", "ann")
    for step in ("ards", "mrds"):
        platform.run(step, "2024-01-01")
    with pytest.raises(PermanentError, match="refuses these credentials") as caught:
        platform.run("online_features", "2024-01-01")
    assert "geheim" not in str(caught.value)
