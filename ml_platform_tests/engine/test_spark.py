"""How the session is configured, embedded and for a cluster."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ml_platform.engine import spark as module
from ml_platform.engine.local import is_brief
from ml_platform.engine.spark import spark_conf
from ml_platform.engine.step import StepName, StepRequest
from ml_platform.settings import PACKAGE, Settings
from ml_platform_tests.small_platform import days, shop


def conf(tmp_path: Path, master: str, **own: str) -> dict[str, str]:
    return spark_conf(Settings(home=tmp_path, spark_master=master, spark_conf=own))


def test_an_embedded_session_listens_to_this_machine_alone(tmp_path: Path) -> None:
    found = conf(tmp_path, "local[2]")
    assert found["spark.driver.host"] == found["spark.driver.bindAddress"] == "127.0.0.1"
    assert "spark.submit.pyFiles" not in found


def test_executors_call_the_address_that_the_driver_reaches_the_master_by(tmp_path: Path) -> None:
    found = conf(tmp_path, "spark://127.0.0.1:7077,127.0.0.1:7078")
    assert found["spark.driver.host"] == found["spark.driver.bindAddress"] == "127.0.0.1"


def test_settings_go_before_what_is_found_out(tmp_path: Path) -> None:
    found = conf(tmp_path, "spark://127.0.0.1:7077", **{"spark.driver.host": "dagster.example.org"})
    assert found["spark.driver.host"] == "dagster.example.org"


def test_what_fits_this_machine_is_not_asked_of_a_cluster(tmp_path: Path) -> None:
    assert "spark.sql.shuffle.partitions" in conf(tmp_path, "local[2]")
    assert "spark.sql.shuffle.partitions" not in conf(tmp_path, "spark://127.0.0.1:7077")


def test_executors_get_the_drivers_code_whole_and_the_same_bytes_again(tmp_path: Path) -> None:
    packed = Path(conf(tmp_path / "a", "spark://127.0.0.1:7077")["spark.submit.pyFiles"])
    with zipfile.ZipFile(packed) as file:
        names = set(file.namelist())
        assert file.read("ml_platform/product.py") == (PACKAGE / "product.py").read_bytes()
    assert {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py")} == names
    again = module._packed_code(tmp_path / "b")
    assert (again.name, again.read_bytes()) == (packed.name, packed.read_bytes())


def test_a_brief_session_leaves_out_what_pays_off_later_unless_it_is_on_a_cluster(tmp_path: Path) -> None:
    def differing(master: str) -> set[str]:
        settings = Settings(home=tmp_path, spark_master=master)
        brief, other = spark_conf(settings, brief=True), spark_conf(settings)
        return {name for name in brief if brief[name] != other.get(name)}

    assert "spark.driver.extraJavaOptions" in differing("local[2]")
    assert "spark.sql.codegen.wholeStage" in differing("local[2]")
    assert differing("spark://127.0.0.1:7077") == set()


@pytest.mark.parametrize(
    ("step", "last", "size", "brief"),
    [
        ("ards", "2024-01-01", 10, True),
        ("predictions", "2024-01-07", 10, True),
        ("ards", "2024-01-08", 10, False),
        ("ards", "2024-01-01", 1 << 30, False),
        ("model", "2024-01-01", 10, False),
        ("drift_report", "2024-01-01", 10, False),
    ],
)
def test_few_days_of_small_deliveries_are_brief(
    tmp_path: Path, step: StepName, last: str, size: int, brief: bool
) -> None:
    folder = tmp_path / "landing" / "shop" / "2024-01-01"
    folder.mkdir(parents=True)
    with (folder / "a.csv").open("wb") as file:
        file.truncate(size)
    request = StepRequest(step=step, product="shop", days=tuple(days("2024-01-01", last)), run_id="r")
    assert is_brief(request, shop(), Settings(home=tmp_path)) is brief
