"""The log file of the command: what libraries say, and the tracebacks of errors shown as a sentence.

It lies in ``<home>/logs``, or in the folder for temporary files if the home takes none. It is made with its
first line: a command that goes well may write none.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ml_platform.settings import Settings
from ml_platform.spark import output

NAME = "ml-platform.log"
#: A file is as long as an editor opens at once; as many are kept as tell of some weeks of bad days.
_MAXIMUM_BYTES, _KEPT = 5 << 20, 4
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def log_to_file(settings: Settings) -> Path:
    """Have all that this process logs go to the file, and none of it to the terminal; returns its path.

    What Spark's JVM prints goes to a file beside it.
    """
    path = _writable(settings.home / "logs") / NAME
    handler = RotatingFileHandler(path, maxBytes=_MAXIMUM_BYTES, backupCount=_KEPT, delay=True)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    output.write_to(path.with_name(output.NAME))
    # A log that can't be written must not fill the terminal instead.
    logging.raiseExceptions = False
    return path


def log_error(error: BaseException) -> None:
    """Write an error's traceback, and the command that met it."""
    command = " ".join(Path(word).name if not n else word for n, word in enumerate(sys.argv[:3]))
    logging.getLogger("ml_platform").error("%s", command, exc_info=error)


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
