"""When a step is tried again: after an error that may pass, a few times, later each time.

Which errors these are is :mod:`ml_platform.engine.passing_errors`'s business; all others end the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dagster as dg

from ml_platform.engine.passing_errors import is_passing
from ml_platform.engine.step import PermanentError

#: Half a minute, one, two and four: short faults of a network and restarts of a database are over by then.
#: What lasts longer is a person's, or the next tick's. The jitter keeps products from coming back together.
POLICY = dg.RetryPolicy(max_retries=4, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextlib.contextmanager
def retrying(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Do the step again later, if its error may pass.

    Raises:
        dagster.RetryRequested: the error may pass. Once the retries are used up, it is raised itself.
        dagster.Failure: trying again can't help, by a :class:`PermanentError`.
    """
    try:
        yield
    except PermanentError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except (dg.RetryRequested, dg.DagsterExecutionInterruptedError):
        raise
    except Exception as error:
        is_refused = isinstance(error, dg.Failure) and not error.allow_retries
        left = POLICY.max_retries - context.retry_number
        if is_refused or left <= 0 or not is_passing(error):
            raise
        delay = POLICY.calculate_delay(context.retry_number + 1)
        context.log.warning(
            f"{type(error).__name__}: this may pass; tried again in {delay:.0f} seconds, {left} times at most"
        )
        raise dg.RetryRequested(max_retries=POLICY.max_retries, seconds_to_wait=delay) from error
