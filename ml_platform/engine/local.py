"""The step runner that works in this process, on a Spark session that starts when first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ml_platform.contract.assets import CATALOGUE, MAINTENANCE, daily
from ml_platform.contract.product import Product
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import StepRequest, StepResult
from ml_platform.settings import Settings
from ml_platform.spark.session import Length

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from ml_platform.engine.run_partitions import Step


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
    from ml_platform.engine import maintenance, run_partitions

    if context.request.step == MAINTENANCE:
        return maintenance.maintain(context)
    steps = steps_of(context)
    return run_partitions.run(steps, steps[0].partitions(), force=context.request.force)


def steps_of(context: StepContext) -> list[Step]:
    """The step of the asset that is asked for, and the one that gives its days verdicts, if they get any."""
    asset = CATALOGUE[context.request.step]
    steps: list[Step] = [asset.step_class(context)]
    if asset.is_validated:
        from ml_platform.engine.verdicts import Verdict

        steps.append(Verdict(context, asset.name))
    return steps


def is_pending(context: StepContext) -> bool:
    """Whether the step has anything to do. Needs no Spark."""
    from ml_platform.engine import run_partitions

    first, *others = steps_of(context)
    days = first.partitions()
    return run_partitions.is_pending(first, days, force=context.request.force) or any(
        run_partitions.is_pending(step, days) for step in others
    )


#: Days and bytes of deliveries up to which a session is for brief work, and bytes up to which for short.
_BRIEF_DAYS = 7
_BRIEF_BYTES = 64 << 20
_SHORT_BYTES = 512 << 20


def length_of(request: StepRequest, product: Product, settings: Settings) -> Length:
    """How long the work of a run will be that begins with this step, as far as that can be seen here."""
    from ml_platform.data_engineering import landing
    from ml_platform.data_engineering.object_store import landing_of

    if request.step not in daily():
        return "long"
    size = landing.size(product, landing_of(settings, product), request.days)
    if len(request.days) <= _BRIEF_DAYS and size <= _BRIEF_BYTES:
        return "brief"
    return "short" if size <= _SHORT_BYTES else "long"
