"""Delta's jars are those that were published, or are not used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ml_platform.settings import Settings
from ml_platform.spark import session
from ml_platform.spark.session import JarError, check_downloaded, check_jars, spark_conf


def settings_of(cache: Path, home: Path) -> Settings:
    return Settings(home=home / "home", spark_conf={"spark.jars.ivy": str(cache)})  # type: ignore[dict-item]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with files in place of the jars, which are what is expected."""
    names = list(session._JARS)
    monkeypatch.setattr(session, "_JARS", {name: hashlib.sha256(name.encode()).hexdigest() for name in names})
    (tmp_path / "jars").mkdir()
    for path in session._jars(tmp_path):
        path.write_bytes(path.name.removeprefix("io.delta_").rpartition("-")[0].encode())
    return tmp_path


def test_the_jars_that_are_expected_are_used(cache: Path, tmp_path: Path) -> None:
    check_jars(cache)
    settings = settings_of(cache, tmp_path)
    assert spark_conf(settings)["spark.jars"].count(".jar") == len(session._JARS)


def test_a_jar_that_was_tampered_with_is_refused_before_anything_starts(cache: Path, tmp_path: Path) -> None:
    jar = next(iter(session._jars(cache)))
    jar.write_bytes(jar.read_bytes() + b"\0")
    settings = settings_of(cache, tmp_path)
    with pytest.raises(JarError, match="is not the jar that Delta has published") as caught:
        spark_conf(settings)
    assert str(jar) in str(caught.value)
    assert f"Delete the folder {cache}" in str(caught.value)


def test_a_session_that_has_downloaded_such_a_jar_is_stopped(cache: Path, tmp_path: Path) -> None:
    class Session:
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    running = Session()
    settings = settings_of(cache, tmp_path)
    check_downloaded(settings, running)  # type: ignore[arg-type]
    assert not running.stopped
    next(iter(session._jars(cache))).write_bytes(b"something else")
    with pytest.raises(JarError):
        check_downloaded(settings, running)  # type: ignore[arg-type]
    assert running.stopped


def test_a_first_start_downloads_what_is_missing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, tmp_path)
    assert spark_conf(settings)["spark.jars.packages"] == session.DELTA


def test_every_pinned_hash_is_a_sha_256() -> None:
    assert all(len(bytes.fromhex(value)) == 32 for value in session._JARS.values())
