"""The steps by name: the version of each one's code, and the asset checks they give.

The graph shows them, the ledger records them, alerts speak of them; none of these needs what a step imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

#: Everything that computes, by the name of the asset it makes; ``maintenance`` makes none, and has no days.
StepName = Literal[
    "ards",
    "mrds",
    "online_features",
    "model",
    "predictions",
    "model_performance",
    "validation_report",
    "drift_report",
    "maintenance",
]

#: To be raised when a step makes something else of the same inputs: what it made before is out of date then.
CODE_VERSIONS: Mapping[StepName, str] = {
    "ards": "3",
    "mrds": "1",
    "online_features": "1",
    "model": "1",
    "predictions": "1",
    "model_performance": "2",
    "validation_report": "1",
    "drift_report": "2",
}
#: The same for the verdict on a day's content, which is given again without writing the day.
VALIDATION_VERSION = "2"

#: The data sets that get a verdict of their own each day.
VALIDATED: tuple[StepName, ...] = ("ards", "mrds")

DATA_QUALITY = "data_quality"
CHALLENGER_BEATS_CHAMPION = "challenger_beats_champion"
PERFORMANCE_ABOVE_THRESHOLD = "performance_above_threshold"
NO_DRIFT = "no_drift"
