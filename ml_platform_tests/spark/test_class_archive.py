"""The archive of the JVM's classes is taken where it fits, made whole or not at all, and never needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml_platform.settings import Settings
from ml_platform.spark import class_archive, class_training
from ml_platform.spark.session import spark_conf
from ml_platform_tests.conftest import settings_in

JARS = "jars"
#: What a process says of its JVM: the options that Spark has given it, and the sum of ten numbers.
SESSION = """
import sys
from pathlib import Path
from ml_platform.spark.session import session_here
from ml_platform.settings import Settings
session = session_here(Settings(home=Path(sys.argv[1]), spark_conf={"spark.jars.ivy": sys.argv[2]}))
beans = session.sparkContext._jvm.java.lang.management.ManagementFactory
for option in beans.getRuntimeMXBean().getInputArguments():
    print(option)
print("sum", session.range(10).selectExpr("sum(id) AS n").first()["n"])
"""


def java_options(home: Path, cache: Path, **changes: str) -> str:
    conf = spark_conf(Settings(home=home, spark_conf={"spark.jars.ivy": str(cache)}, **changes))  # type: ignore[arg-type]
    return conf["spark.driver.extraJavaOptions"]


def archive_of(cache: Path, content: bytes) -> Path:
    """An archive that is taken for that of this Java."""
    key = class_archive.key()
    assert key is not None
    path = class_archive.folder_in(cache) / class_archive.name_of(key, len(content))
    path.parent.mkdir(mode=0o755)
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def test_only_an_archive_that_is_whole_is_named_and_not_on_a_cluster(tmp_path: Path) -> None:
    assert "SharedArchiveFile" not in java_options(tmp_path, tmp_path)
    path = archive_of(tmp_path, b"classes")
    assert f'"-XX:SharedArchiveFile={path}"' in java_options(tmp_path, tmp_path)
    assert "SharedArchiveFile" not in java_options(tmp_path, tmp_path, spark_master="spark://127.0.0.1:7077")
    path.write_bytes(b"class")
    assert "SharedArchiveFile" not in java_options(tmp_path, tmp_path)


def test_another_java_has_another_archive_and_none_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_of(tmp_path, b"classes")
    assert class_archive.options(tmp_path)
    other = tmp_path / "other" / "bin" / "java"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "other"))
    assert class_archive.key() is not None
    assert class_archive.options(tmp_path) == ""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    assert class_archive.options(tmp_path) == ""
    with pytest.raises(class_training.ArchiveError, match="no Java was found"):
        class_training.make(Settings(home=tmp_path), tmp_path)


def test_a_training_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--no-such-option pyspark-shell")
    with pytest.raises(class_training.ArchiveError, match=r"made no archive: .*JAVA_GATEWAY_EXITED"):
        class_training.make(Settings(home=tmp_path), cache_with_jars(tmp_path))
    assert list(class_archive.folder_in(tmp_path / "a cache").iterdir()) == []


def cache_with_jars(folder: Path) -> Path:
    """A folder with Delta's jars and a blank in its name."""
    cache = folder / "a cache"
    cache.mkdir()
    shared = Path(settings_in(folder).spark_options["spark.jars.ivy"]) / JARS
    (cache / JARS).symlink_to(shared) if shared.exists() else (cache / JARS).mkdir()
    return cache


def said_by_a_session(home: Path, cache: Path) -> list[str]:
    words = [sys.executable, "-c", SESSION, str(home), str(cache)]
    done = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("is_read", [True, False])
def test_an_archive_is_put_in_place_when_a_session_has_started_with_it_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read: bool
) -> None:
    asked: list[str] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(words[3])
        if words[3] == "read":
            return subprocess.CompletedProcess(words, 0 if is_read else 134, "", "it crashes")
        Path(words[4]).write_text("classes")
        return subprocess.CompletedProcess(words, 0, "", "")

    cache = cache_with_jars(tmp_path)
    kept = class_archive.folder_in(cache)
    kept.mkdir(mode=0o775)
    before = [kept / f"{number}-0.jsa" for number in range(5)]
    for number, path in enumerate(before):
        path.touch()
        os.utime(path, (number, number))
    monkeypatch.setattr(class_training.subprocess, "run", run)
    if is_read:
        path = class_training.make(Settings(home=tmp_path), cache)
        assert path == class_archive.found(cache)
        assert path.read_text() == "classes"
        assert set(kept.iterdir()) == {path, *before[3:]}
    else:
        with pytest.raises(class_training.ArchiveError, match="it crashes"):
            class_training.make(Settings(home=tmp_path), cache)
        assert set(kept.iterdir()) == set(before)
    assert asked == ["write", "read"]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(class_training.ArchiveError, match="file/ivy can't be used"):
        class_training.make(Settings(home=tmp_path), tmp_path / "file" / "ivy")
    with pytest.raises(class_training.ArchiveError, match="a path with a colon"):
        class_training.make(Settings(home=tmp_path), tmp_path / "a:b")


def test_code_that_others_could_have_written_is_not_run(tmp_path: Path) -> None:
    path = archive_of(tmp_path, b"classes")
    assert class_archive.found(tmp_path) == path
    path.chmod(0o666)
    assert class_archive.found(tmp_path) is None
    path.chmod(0o644)
    path.parent.chmod(0o777)
    assert class_archive.found(tmp_path) is None


@pytest.mark.slow
def test_a_session_takes_the_archive_and_works_without_one_that_is_damaged(tmp_path: Path) -> None:
    shared = Path(settings_in(tmp_path).spark_options["spark.jars.ivy"])
    made = class_archive.found(shared) or class_training.make(Settings(home=tmp_path), shared)
    assert made.stat().st_size > 50_000_000
    cache = cache_with_jars(tmp_path)
    path = class_archive.folder_in(cache) / made.name
    path.parent.mkdir(mode=0o755)
    path.hardlink_to(made) if made.stat().st_dev == cache.stat().st_dev else shutil.copy(made, path)
    whole = said_by_a_session(tmp_path, cache)
    assert f"-XX:SharedArchiveFile={path}" in whole
    assert whole[-1] == "sum 45"
    path.unlink()
    content = bytearray(made.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    assert said_by_a_session(tmp_path, cache)[-1] == "sum 45"
