"""The project's own wheel, made from the package that is running: the code that runs a step there is this.

It is written here rather than by a build backend, so that a checkout and an installed package give the same
bytes, without tools, network or git: files in order, with one fixed time. A hash of the code is part of its
version, so equal code is uploaded once, and a cluster takes other code for another version. What it asks for
is in :mod:`.requirements`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import ml_platform
from ml_platform.engine.databricks import requirements
from ml_platform.engine.databricks.workspace import Workspace
from ml_platform.engine.step import PermanentError

DISTRIBUTION = "ml-platform"
PACKAGE = "ml_platform"
ENTRY_POINT = "ml-platform-step"

#: The first moment that a zip archive can tell.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
_WHEEL = "Wheel-Version: 1.0\nGenerator: ml-platform\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True)
class Wheel:
    """A wheel; ``digest`` is the hash of its code."""

    release: str
    digest: str
    content: bytes

    @property
    def name(self) -> str:
        return f"{PACKAGE}-{self.release}+{self.digest}-py3-none-any.whl"

    @property
    def path(self) -> str:
        """Where it lies below a volume."""
        return f"wheels/{self.release}-{self.digest}/{self.name}"


def build_wheel() -> Wheel:
    """The wheel of the package that is imported.

    Raises:
        PermanentError: the package was not installed, or not since the entry point was declared.
    """
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise PermanentError(
            f"{DISTRIBUTION} isn't installed in this environment, so no wheel can be made of it: "
            "run make setup in a checkout, or pip install the package"
        ) from error
    # The command of people stays here: what it needs isn't among the wheel's requirements.
    scripts = [
        (point.name, point.value)
        for point in distribution.entry_points.select(group="console_scripts", name=ENTRY_POINT)
    ]
    if not scripts:
        raise PermanentError(
            f"the installed {DISTRIBUTION} has no {ENTRY_POINT}: install it again (make setup)"
        )
    release = distribution.version.partition("+")[0]
    package = dict(_package_files(Path(ml_platform.__file__).parent))
    about = {"METADATA": _description(distribution), "entry_points.txt": _entry_points(scripts)}
    digest = hashlib.sha256(repr([sorted(package.items()), about]).encode()).hexdigest()[:16]
    version = f"{release}+{digest}"
    information = f"{PACKAGE}-{version}.dist-info"
    files = {
        **package,
        f"{information}/METADATA": about["METADATA"].format(version=version).encode(),
        f"{information}/WHEEL": _WHEEL.encode(),
        f"{information}/entry_points.txt": about["entry_points.txt"].encode(),
    }
    files[f"{information}/RECORD"] = _record(files, f"{information}/RECORD").encode()
    return Wheel(release, digest, _archive(files))


def upload(workspace: Workspace, volume: str, wheel: Wheel) -> tuple[str, bool]:
    """Put a wheel into a volume unless it is there; returns its path, and whether it was uploaded now."""
    path = f"{volume}/{wheel.path}"
    if workspace.has_file(path):
        return path, False
    workspace.put(path, wheel.content)
    return path, True


def _package_files(package: Path) -> Iterator[tuple[str, bytes]]:
    if not package.is_dir():
        raise PermanentError(
            f"{package} is no folder: the package must be installed as files, not as an archive"
        )
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden and not path.name.endswith(("~", ".pyc")):
            yield f"{PACKAGE}/{inside.as_posix()}", path.read_bytes()


def _description(distribution: metadata.Distribution) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", "Version: {version}"]
    if "Requires-Python" in distribution.metadata:
        lines.append(f"Requires-Python: {distribution.metadata['Requires-Python']}")
    needed = requirements.of_wheel(distribution.requires or [])
    lines += [f"Requires-Dist: {requirement}" for requirement in needed]
    return "\n".join(lines) + "\n"


def _entry_points(scripts: list[tuple[str, str]]) -> str:
    return "\n".join(["[console_scripts]", *[f"{name} = {value}" for name, value in sorted(scripts)]]) + "\n"


def _record(files: dict[str, bytes], own: str) -> str:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own},,"]) + "\n"


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = _MODE
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()
