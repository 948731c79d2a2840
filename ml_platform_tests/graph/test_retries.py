"""A step is tried again after an error that may pass, and after no other."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError
from delta.exceptions import ConcurrentAppendException
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from mlflow.exceptions import MlflowException
from pyspark.errors.exceptions.base import UnknownException

from ml_platform.cli.backfill import Backfill, BackfillError
from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.engine.passing_errors import is_passing
from ml_platform.engine.step import PermanentError, StepRequest, StepResult
from ml_platform.graph import retries
from ml_platform.graph.resources import without_secrets
from ml_platform.online_store.store import OnlineStoreError
from ml_platform.settings import Settings
from ml_platform.storage.locks import LockedError
from ml_platform.storage.tables import OvertakenError
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import FakeRunner, Graph
from ml_platform_tests.small_platform import D


def http_error(status: int) -> HttpResponseError:
    error = HttpResponseError("the service says no")
    error.status_code = status
    return error


PASSING = [
    ConnectionResetError("reset"),
    TimeoutError("late"),
    LockedError("held"),
    OvertakenError("overtaken"),
    OSError(errno.ETIMEDOUT, "timed out"),
    OSError(errno.ESTALE, "stale file handle"),
    requests.exceptions.ConnectionError("refused"),
    requests.exceptions.ReadTimeout("late"),
    ServiceRequestError("no route"),
    http_error(503),
    http_error(429),
    OnlineStoreError("away", temporary=True),
    CommitFailedError("another was first"),
    MlflowException("API request to http://h failed with error code 503 != 200"),
    ConcurrentAppendException("another was first"),
    UnknownException(
        "(io.delta.exceptions.ConcurrentAppendException) [DELTA_CONCURRENT_APPEND.WITH_HINT] no"
    ),
    UnknownException("[DELTA_METADATA_CHANGED] MetadataChangedException: changed since the read"),
]
LASTING = [
    OSError(errno.ENOSPC, "no space left"),
    PermissionError(errno.EACCES, "denied"),
    FileNotFoundError(errno.ENOENT, "gone"),
    http_error(404),
    ClientAuthenticationError("who are you?"),
    OnlineStoreError("wrong password", temporary=False),
    TableNotFoundError("no table"),
    MlflowException("API request to http://h failed with error code 403 != 200"),
    PermanentError("set the setting"),
    KeyError("a fault in the code"),
    ValueError("Connection refused is what this text says"),
    ValueError("io.delta.exceptions.ConcurrentAppendException is what this text says"),
    UnknownException("a column is called ConcurrentAppendException"),
    MemoryError(),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_errors_of_networks_and_stores_may_pass(error: BaseException) -> None:
    assert is_passing(error)
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = error
    assert is_passing(wrapped)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_other_errors_come_again(error: BaseException) -> None:
    assert not is_passing(error)


def test_a_permanent_error_with_a_passing_cause_is_permanent_and_cycles_end() -> None:
    error = PermanentError("the vault can't be reached; set another")
    error.__cause__ = ConnectionError()
    assert not is_passing(error)
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not is_passing(one)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path / "home")


class Failing(FakeRunner):
    """Fails the first times that a step is run."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def run(self, request: StepRequest, product: Product, context: dg.OpExecutionContext) -> StepResult:
        result = super().run(request, product, context)
        if self.errors:
            raise self.errors.pop(0)
        return result


POLICY = retries.POLICY


@pytest.fixture(autouse=True)
def without_waiting(without_retries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", dg.RetryPolicy(max_retries=2, delay=0))


def run(settings: Settings, instance: dg.DagsterInstance, *errors: Exception, asset: str = "mrds") -> Any:
    graph = Graph(settings, instance, runner=Failing(*errors))
    result = graph.run([asset], "2024-03-01")
    return result, len(graph.runner.requests)


@pytest.mark.parametrize("asset", ["mrds", "model"])
def test_a_step_that_fails_and_then_does_not_is_a_success(
    settings: Settings, instance: dg.DagsterInstance, asset: str
) -> None:
    result, attempts = run(settings, instance, ConnectionError("a"), TimeoutError("b"), asset=asset)
    assert (result.success, attempts) == (True, 3)
    assert [event.is_step_restarted for event in result.all_events].count(True) == 2


def test_an_error_that_does_not_pass_fails_the_run_with_its_own_words(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    result, attempts = run(settings, instance, *[ConnectionError("the store is away")] * 9)
    assert (result.success, attempts) == (False, 3)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    while error.cause is not None:
        error = error.cause
    assert (error.cls_name, "the store is away" in error.message) == ("ConnectionError", True)


@pytest.mark.parametrize("error", [PermanentError("set A"), KeyError("a"), OSError(errno.ENOSPC, "full")])
def test_an_error_that_comes_again_is_tried_once(
    settings: Settings, instance: dg.DagsterInstance, error: Exception
) -> None:
    result, attempts = run(settings, instance, error)
    assert (result.success, attempts) == (False, 1)


def test_a_failure_of_databricks_is_tried_again_if_it_may_pass(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    lost = dg.Failure("could not be run", allow_retries=True)
    lost.__cause__ = TimeoutError()
    assert run(settings, instance, lost)[1] == 2
    refused = dg.Failure("the workspace refuses it", allow_retries=False)
    refused.__cause__ = TimeoutError()
    assert run(settings, instance, refused)[1] == 1


def test_waiting_times_grow_and_differ() -> None:
    numbers = range(1, POLICY.max_retries + 1)
    delays = [[POLICY.calculate_delay(number) for number in numbers] for _ in range(20)]
    longest = [max(series[number - 1] for series in delays) for number in numbers]
    assert longest == sorted(longest)
    assert all(0 <= delay <= 30 * 2**number for series in delays for number, delay in enumerate(series, 1))
    assert len({series[0] for series in delays}) > 1


def test_a_scrubbed_error_that_may_pass_is_tried_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, online_token="s3cr3t-token")  # type: ignore[arg-type]
    for error, kept in (
        (TimeoutError("no answer to s3cr3t-token"), True),
        (PermanentError("wrong: s3cr3t-token"), False),
        (KeyError("s3cr3t-token"), False),
    ):
        with pytest.raises(Exception, match=r"\*\*\*") as caught, without_secrets(settings):
            raise error
        assert is_passing(caught.value) == kept
        assert isinstance(caught.value, PermanentError) == isinstance(error, PermanentError)


def test_the_command_line_tries_again_as_well(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_platform.engine import local

    attempts: list[str] = []

    def run_step(context: Any) -> StepResult:
        attempts.append(context.request.step)
        if len(attempts) == 1:
            raise ConnectionError("the store is away")
        raise PermanentError("the store is wrong")

    monkeypatch.setattr(local, "run_step", run_step)
    product = Graph(settings, instance).product
    work = Backfill(
        product, settings, instance, select=["ards"], started=lambda _: None, progress=lambda _: None
    )
    with pytest.raises(BackfillError, match="the store is wrong"):
        work.run(DayRange(D("2024-01-01"), D("2024-01-02")))
    assert attempts == ["ards", "ards"]
