"""The entry of the command ``ml-platform``, which sees to it that every command ends well.

Signals are taken care of before anything else is imported: an interruption in the first second, while that
goes on, ends like any other. The commands are put together in :mod:`ml_platform.cli.main`.
"""

from __future__ import annotations

import sys

from ml_platform.cli.interruption import interruption


def main() -> None:
    """Run a command, and end with one line whatever happens."""
    interruption.install()
    code: int | str | None = 1
    try:
        from ml_platform.cli.main import run

        code = run()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 130
    except Exception:
        # A library may have turned the interruption into an error of its own.
        if not interruption.noticed():
            raise
    if interruption.number is not None:
        interruption.end()
    sys.exit(code)


if __name__ == "__main__":
    main()
