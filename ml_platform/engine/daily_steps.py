"""The daily steps by the names of their assets."""

from __future__ import annotations

from ml_platform.engine.run_days import DailyStep
from ml_platform.engine.steps.ards import Ards
from ml_platform.engine.steps.drift_report import DriftReport
from ml_platform.engine.steps.model_performance import Performance
from ml_platform.engine.steps.mrds import Mrds
from ml_platform.engine.steps.online_features import OnlineFeatures
from ml_platform.engine.steps.predictions import Predictions
from ml_platform.engine.steps.validation_report import ValidationReport

DAILY_STEPS: dict[str, type[DailyStep]] = {
    step.asset: step
    for step in (Ards, Mrds, OnlineFeatures, Predictions, Performance, ValidationReport, DriftReport)
}
