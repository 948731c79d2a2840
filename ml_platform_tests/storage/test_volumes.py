"""A volume holds no tables, however its path is written; what is written whole may lie there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_platform.contract.volumes import is_in_volume
from ml_platform.engine.databricks.remote_settings import settings_for
from ml_platform.engine.report_targets import report_store
from ml_platform.engine.step import PermanentError
from ml_platform.settings import Settings
from ml_platform.storage.locations import location_of
from ml_platform.storage.reports import MountedTarget
from ml_platform.storage.table_location import LocationError
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import shop

IN_A_VOLUME = [
    "/Volumes/main/ml/files",
    "/Volumes/main/ml/files/tables/",
    "/Volumes",
    "/Volumes/",
    "//Volumes/main/ml/files",
    "/srv/../Volumes/main/ml/files",
    " /Volumes/main/ml/files",
    "dbfs:/Volumes/main/ml/files",
    "dbfs:///Volumes/main/ml/files/",
    "/dbfs/Volumes/main/ml/files",
    "file:/Volumes/main/ml/files",
    "file:///Volumes/main/ml/files",
    "file://localhost/Volumes/main/ml/files",
    "file:///%56olumes/main/ml/files",
]
ELSEWHERE = [
    "/srv/Volumes/tables",
    "/Volumes2/tables",
    "/Volumes/../srv/tables",
    "Volumes/tables",
    "uc:Volumes.ml",
    "abfss://Volumes@account.dfs.core.windows.net/Volumes/tables",
]


@pytest.mark.parametrize("place", IN_A_VOLUME)
@pytest.mark.parametrize("setting", ["tables", "control_tables"])
def test_tables_in_a_volume_are_refused_when_settings_are_read(setting: str, place: str) -> None:
    with pytest.raises(ValidationError, match=r"neither the locks nor the renames.* use abfss://") as refused:
        Settings(**{setting: place})
    assert setting in str(refused.value)


@pytest.mark.parametrize("place", IN_A_VOLUME)
def test_tables_in_a_volume_are_refused_when_they_are_made(place: str, tmp_path: Path) -> None:
    with pytest.raises(LocationError, match="a volume has neither"):
        Tables(place, control=str(tmp_path))
    with pytest.raises(LocationError, match="a volume has neither"):
        Tables("uc:main.ml", control=place)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_what_only_sounds_like_a_volume_is_taken(place: str) -> None:
    assert Settings(tables=place).tables_root == place
    assert location_of(place)


@given(st.lists(st.sampled_from(["Volumes", "dbfs", "srv", "..", ".", ""]), max_size=6))
def test_a_path_is_in_a_volume_if_the_file_system_would_take_it_there(parts: list[str]) -> None:
    path = Path(os.path.abspath("/" + "/".join(parts)))  # noqa: PTH100 - Path.absolute keeps the dots
    expected = path.parts[1:2] == ("Volumes",) or path.parts[1:3] == ("dbfs", "Volumes")
    assert is_in_volume("/" + "/".join(parts), disks=False) == expected


def test_a_home_in_a_volume_is_refused_before_anything_is_made() -> None:
    with pytest.raises(LocationError, match="/Volumes/main/ml/home/tables: a volume has neither"):
        Tables.of(Settings(home=Path("/Volumes/main/ml/home")))


def test_a_link_into_a_volume_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/Volumes/main/ml/files")
    with pytest.raises(LocationError, match="leads to /Volumes/main/ml/files/tables: a volume has neither"):
        location_of(str(tmp_path / "link" / "tables"))


@pytest.mark.parametrize("place", ["dbfs:/tables", "file:/srv/tables", "s3:/bucket", "abfss:/x"])
def test_a_scheme_with_one_slash_names_no_folder_of_the_working_directory(place: str) -> None:
    with pytest.raises(LocationError, match="accepted are a folder"):
        location_of(place)


def test_disks_of_macos_are_ordinary_folders_but_not_for_a_remote_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    settings = Settings(
        tables="/Volumes/Disk/tables",
        landing=tmp_path,
        mlflow_tracking_uri="databricks",  # type: ignore[arg-type]
    )
    assert location_of(settings.tables_root)
    with pytest.raises(PermanentError, match="ML_PLATFORM_TABLES is /Volumes/Disk/tables: a volume has"):
        settings_for("ards", shop(), settings)
    with pytest.raises(ValidationError, match="a volume has neither"):
        Settings(tables="dbfs:/Volumes/main/ml/files")


def test_reports_are_written_to_a_mounted_volume_without_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, refused)
        monkeypatch.setattr(Path, name, refused)
    target = MountedTarget("volume", tmp_path)
    for content in (b"first", b"second"):
        target.replace("shop/report", {"report.html": content, "report.json": b"{}"})
    assert {file.name: file.read_bytes() for file in (tmp_path / "shop/report").iterdir()} == {
        "report.html": b"second",
        "report.json": b"{}",
    }
    (found,) = report_store(Settings(report_targets=("file:///Volumes/main/ml/files",))).targets
    assert isinstance(found, MountedTarget)
