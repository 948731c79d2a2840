"""What the Python tasks of Spark have in common."""

from __future__ import annotations

import gc
import sys

_imported = 0


def leave_imports_uncollected() -> None:
    """Take what this process holds now out of garbage collection, if it has imported anything new.

    To be called at the end of a task. Spark's workers collect all garbage after every task
    (``pyspark/daemon.py``); with pandas and Great Expectations imported that takes half a second, which is
    longer than most tasks.
    """
    global _imported
    if len(sys.modules) != _imported:
        gc.collect()
        gc.freeze()
        _imported = len(sys.modules)
