"""How the session is configured, embedded and for a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from ml_platform.contract.assets import StepName
from ml_platform.engine.local import length_of
from ml_platform.engine.step import StepRequest
from ml_platform.settings import PACKAGE, Settings
from ml_platform.spark import session as module
from ml_platform.spark.session import Length, UnknownCatalogError, spark_conf
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


def test_a_catalog_that_the_embedded_spark_does_not_know_is_refused_before_it_starts(tmp_path: Path) -> None:
    def settings(tables: str, **conf: str) -> Settings:
        return Settings(home=tmp_path, tables=tables, control_tables=str(tmp_path), spark_conf=conf)

    with pytest.raises(UnknownCatalogError, match=r"uc:main\.ml.* ML_PLATFORM_ENGINE say databricks"):
        spark_conf(settings("uc:main.ml"))
    for known in (
        settings("uc:spark_catalog.ml"),
        settings("uc:main.ml", **{"spark.sql.catalog.main": "io.unitycatalog.spark.UCSingleCatalog"}),
        settings(str(tmp_path / "uc")),
    ):
        assert spark_conf(known)["spark.master"]


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
        assert file.read("ml_platform/settings.py") == (PACKAGE / "settings.py").read_bytes()
    assert {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py")} == names
    again = module._packed_code(tmp_path / "b")
    assert (again.name, again.read_bytes()) == (packed.name, packed.read_bytes())


def test_sessions_for_little_work_leave_out_what_pays_off_later_unless_on_a_cluster(tmp_path: Path) -> None:
    def differing(length: Length, master: str = "local[2]") -> set[str]:
        settings = Settings(home=tmp_path, spark_master=master)
        given, other = spark_conf(settings, length=length), spark_conf(settings)
        return {name for name in given if given[name] != other.get(name)}

    assert differing("short") == {"spark.driver.extraJavaOptions"}
    assert differing("brief") > {"spark.driver.extraJavaOptions", "spark.sql.codegen.wholeStage"}
    assert differing("brief", "spark://127.0.0.1:7077") == set()


@pytest.mark.parametrize(
    ("step", "last", "size", "length"),
    [
        ("ards", "2024-01-01", 10, "brief"),
        ("predictions", "2024-01-07", 10, "brief"),
        ("ards", "2024-01-08", 10, "short"),
        ("ards", "2024-01-01", 100 << 20, "short"),
        ("ards", "2024-01-01", 1 << 30, "long"),
        ("model", "2024-01-01", 10, "long"),
        ("drift_report", "2024-01-01", 10, "long"),
    ],
)
def test_days_and_bytes_tell_how_long_the_work_will_be(
    tmp_path: Path, step: StepName, last: str, size: int, length: Length
) -> None:
    folder = tmp_path / "landing" / "shop" / "2024-01-01"
    folder.mkdir(parents=True)
    with (folder / "a.csv").open("wb") as file:
        file.truncate(size)
    request = StepRequest(step=step, product="shop", days=tuple(days("2024-01-01", last)), run_id="r")
    assert length_of(request, shop(), Settings(home=tmp_path)) == length


@pytest.mark.parametrize(("given", "used"), [("", "Serial"), ("G1", "G1"), ("Parallel", "Parallel")])
def test_a_session_for_little_work_leaves_a_chosen_collector_as_it_is(given: str, used: str) -> None:
    """Beside a second collector no JVM starts."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    chosen = {"JAVA_TOOL_OPTIONS": f"-XX:+Use{given}GC"} if given else {}
    without = {name: value for name, value in os.environ.items() if not name.endswith("JAVA_OPTIONS")}
    started = subprocess.run(
        [java, *module.JVM_FOR_LITTLE_WORK.split(), "-XX:+PrintFlagsFinal", "-version"],
        env={**without, "JAVA_TOOL_OPTIONS": "", **chosen},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stdout + started.stderr
    assert re.findall(r"bool Use(Serial|Parallel|G1|Z)GC += true", started.stdout) == [used]
