"""A contract's own ``landing``: where the deliveries of one product lie, whatever the deployment says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.contract.assets import ARDS, MRDS
from ml_platform.contract.loading import ContractError
from ml_platform.contract.secrets import Secret
from ml_platform.data_engineering import landing, uploads
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.object_store import ObjectPath, landing_of
from ml_platform.engine.databricks import requirements
from ml_platform.engine.databricks.messages import Task
from ml_platform.engine.databricks.remote_settings import settings_for
from ml_platform.engine.step import PermanentError, StepRequest
from ml_platform.graph import deliveries
from ml_platform.settings import Settings
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, shop

DAY = D("2024-01-10")
ROWS = f"visit,day,customer,spend,pages,channel\n1,{DAY},ann,1,1,web\n"


@pytest.mark.parametrize(
    "place",
    ["/srv/landing", "/Volumes/a/b/c", "s3://bucket/path", "az://c/x", "abfss://c@a.dfs.core.windows.net"],
)
def test_a_contract_names_its_own_place(tmp_path: Path, place: str) -> None:
    product = shop(landing=f"{place}/")
    settings = Settings(home=tmp_path, landing="s3://another/place", storage_options={"a": Secret("b")})
    found = landing_of(settings, product)
    assert str(found) == place
    assert str(landing_of(settings, shop())) == "s3://another/place"
    rules = FileRules.of(settings, product)
    assert rules.root == place
    assert bool(rules.store_options) == isinstance(found, ObjectPath) == ("://" in place)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (
            "landing",
            "'landing' is relative, and a contract is read from several places; accepted are a folder",
        ),
        ("~/landing", "'~/landing' is relative"),
        (
            "https://a/b",
            "https://a/b is no place of deliveries that can be read; accepted are a folder, abfss",
        ),
        ("abfss://container/x", "names no account"),
        ("s3://", "is no place of deliveries"),
        ("s3://bucket/x?sig=abcdefgh", "a key or a signature can't stand here"),
        ("dbfs:/Volumes/a/b/c", "is no folder; write /Volumes/… for a volume"),
    ],
)
def test_what_is_no_place_is_refused(place: str, reason: str) -> None:
    with pytest.raises(ContractError, match=r"landing: ") as error:
        shop(landing=place)
    assert reason in str(error.value)
    assert "abcdefgh" not in str(error.value)
    if "relative" not in reason:
        with pytest.raises(ValidationError):
            Settings(landing=place)


def test_a_place_of_its_own_changes_nothing_that_is_made() -> None:
    own, other = shop(landing="/srv/landing"), shop()
    assert own.content_of("source", "mrds") == other.content_of("source", "mrds")
    assert own.hash_of("source") == other.hash_of("source")


def test_steps_and_the_sensor_go_by_it(tmp_path: Path) -> None:
    product = shop(landing=str(tmp_path / "own"))
    platform = Platform(settings_in(tmp_path / "home"), None, product)  # type: ignore[arg-type]
    place = tmp_path / "own" / "shop" / str(DAY)
    place.mkdir(parents=True)
    (place / "a.csv").write_text(ROWS)
    # What lies in the deployment's own folder is not the product's.
    platform.deliver(D("2024-01-11"), "a.csv", ROWS)
    assert list(deliveries.pending(product, platform.settings, {}).states) == [DAY]
    result = platform.run("ards", [DAY, D("2024-01-11")])
    assert [day.outcome for day in result.days] == ["written", "missing"]
    assert str(tmp_path / "own") in (result.days[1].reason or "")
    (place / "a.csv").unlink()
    (place / "link.csv").symlink_to(platform.settings.landing_path / "shop" / "2024-01-11" / "a.csv")
    (again,) = platform.run("ards", DAY).days
    assert again.outcome == "refused"
    assert "leads out of the landing folder" in (again.reason or "")


def test_what_is_landed_goes_there(tmp_path: Path) -> None:
    settings, product = settings_in(tmp_path / "home"), shop(landing=str(tmp_path / "own"))
    with uploads.folder_for(product, settings) as folder:
        assert folder == tmp_path / "own"
    assert landing.delivered_days(product, folder) == []


def test_remote_steps_get_it_in_place_of_the_setting() -> None:
    places: dict[str, Any] = {
        "tables": "abfss://c@a.dfs.core.windows.net/tables",
        "mlflow_tracking_uri": "databricks",
    }
    own = shop(landing="s3://bucket/own")
    assert "landing" not in settings_for("ards", own, Settings(**places))
    with pytest.raises(PermanentError, match="set ML_PLATFORM_LANDING to"):
        settings_for("ards", shop(), Settings(**places))
    folder = Settings(**places, landing=Path("/Volumes/a/b/c"))
    needs = {
        (step, place): any(need.startswith("obstore") for need in requirements.of_step(step, product, folder))
        for step in (ARDS, MRDS)
        for place, product in (("own", own), ("folder", shop()))
    }
    assert needs == {
        (ARDS, "own"): True,
        (ARDS, "folder"): False,
        (MRDS, "own"): False,
        (MRDS, "folder"): False,
    }
    request = StepRequest(step="ards", product="shop", days=(DAY,), run_id="run")
    task = Task(request=request, product=own, settings=settings_for("ards", own, folder), secrets={})
    assert task.product.landing == "s3://bucket/own"
