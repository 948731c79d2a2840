"""The step runner that works in this process, on a Spark session that starts when first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ml_platform.contract.product import Product
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import MAINTENANCE, StepRequest, StepResult
from ml_platform.settings import Settings
from ml_platform.spark.session import Length

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def context_for(
    request: StepRequest,
    product: Product,
    settings: Settings,
    session: Callable[[], SparkSession],
    log: Callable[[str], None],
) -> StepContext:
    """The surroundings of one step in this process."""
    return StepContext(product=product, settings=settings, request=request, session=session, log=log)


def run_step(context: StepContext) -> StepResult:
    """Run the step that the context's request names."""
    # The steps import Spark and scikit-learn; a code location that only draws the graph needs neither.
    from ml_platform.engine import daily_steps, maintenance, run_days
    from ml_platform.engine.steps import model

    request = context.request
    if request.step == model.MODEL:
        return model.run_model(context)
    if request.step == MAINTENANCE:
        return maintenance.maintain(context)
    step = daily_steps.DAILY_STEPS[request.step](context)
    return run_days.run_days(step, sorted(request.days), force=request.force)


#: Days and bytes of deliveries up to which a session is for brief work, and bytes up to which for short.
_BRIEF_DAYS = 7
_BRIEF_BYTES = 64 << 20
_SHORT_BYTES = 512 << 20


def length_of(request: StepRequest, product: Product, settings: Settings) -> Length:
    """How long the work of a run will be that begins with this step, as far as that can be seen here."""
    from ml_platform.data_engineering import landing
    from ml_platform.engine import daily_steps
    from ml_platform.engine.steps import drift_report

    if request.step not in daily_steps.DAILY_STEPS or request.step == drift_report.DriftReport.asset:
        return "long"
    size = landing.size(product, settings.landing_path, request.days)
    if len(request.days) <= _BRIEF_DAYS and size <= _BRIEF_BYTES:
        return "brief"
    return "short" if size <= _SHORT_BYTES else "long"


def is_pending(context: StepContext) -> bool:
    """Whether the step has anything to do. Needs no Spark."""
    from ml_platform.engine import daily_steps, run_days
    from ml_platform.engine.steps import model
    from ml_platform.machine_learning import model_history

    request = context.request
    if request.step == model.MODEL:
        return bool(model.pending(context) or model_history.decisions_due(context.tables, context.product))
    step = daily_steps.DAILY_STEPS[request.step](context)
    return run_days.is_pending(step, sorted(request.days), force=request.force)
