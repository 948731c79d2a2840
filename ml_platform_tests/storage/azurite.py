"""A real Azurite on a port of its own: started, killed and started again by the tests that need it."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from ml_platform.settings import PACKAGE

ACCOUNT = "devstoreaccount1"
#: Azurite's well-known key, from its documentation; it opens nothing else.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PROGRAM = PACKAGE.parent / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"


class Azurite:
    """One emulator with its data in a folder, which survives a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def account_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def start(self) -> None:
        assert PROGRAM.exists(), "Azurite is not installed: run scripts/install_azurite.sh"
        words = [str(PROGRAM), "--location", str(self.folder), "--blobPort", str(self.port)]
        words += ["--blobHost", "127.0.0.1", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, "Azurite ended by itself"
            time.sleep(0.05)
        raise TimeoutError("Azurite doesn't listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
