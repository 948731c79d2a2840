"""What a task leaves behind for the next one in its worker."""

from __future__ import annotations

import gc
import importlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from zipimport import zipimporter

import pytest
from pyspark.sql import DataFrame, SparkSession

from ml_platform.spark.tasks import spare_next_task


def test_packages_in_zip_files_are_not_looked_through_again_and_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("of_a_zip/__init__.py", "")
        file.writestr("of_a_zip/first.py", "value = 1")
        file.writestr("of_a_zip/second.py", "value = 2")
    monkeypatch.syspath_prepend(str(packed))
    assert importlib.import_module("of_a_zip.first").value == 1
    assert any(isinstance(finder, zipimporter) for finder in sys.path_importer_cache.values())
    spare_next_task()
    assert not any(isinstance(finder, zipimporter) for finder in sys.path_importer_cache.values())
    importlib.invalidate_caches()
    assert importlib.import_module("of_a_zip.second").value == 2


def test_a_worker_ends_a_task_with_its_imports_out_of_the_collectors_sight(
    spark: SparkSession,
) -> None:
    def look(batches: object) -> object:
        import pyarrow as pa

        # As if something had been imported since the worker's last task.
        sys.modules["made_up"] = ModuleType("made_up")
        before = gc.get_freeze_count()
        spare_next_task()
        del sys.modules["made_up"]
        zipped = sum(isinstance(finder, zipimporter) for finder in sys.path_importer_cache.values())
        yield pa.RecordBatch.from_pydict(
            {"before": [before], "after": [gc.get_freeze_count()], "zipped": [zipped]}
        )

    one: DataFrame = spark.range(0, 1, 1, numPartitions=1)
    (found,) = one.mapInArrow(look, "before long, after long, zipped long").collect()  # type: ignore[arg-type]
    assert found["after"] > max(found["before"], 10_000)
    assert found["zipped"] == 0
