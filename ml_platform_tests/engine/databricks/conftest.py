"""A graph whose steps run in the fake workspace, with a clock that doesn't keep anyone waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from databricks.sdk.clock import Clock

from ml_platform.contract.product import Product
from ml_platform.engine.databricks.runner import DatabricksStepRunner
from ml_platform.engine.step import StepResult
from ml_platform.settings import Settings
from ml_platform_tests.conftest import CHECKOUT, settings_in
from ml_platform_tests.fake_workspace import TOKEN, FakeWorkspace
from ml_platform_tests.graph.stand_ins import Graph
from ml_platform_tests.small_platform import shop

VOLUME = "/Volumes/main/ml/platform"

#: Stands in for a step over there: ``work`` may log and raise, then every day is written.
STEP = """
from ml_platform.engine import local
from ml_platform.engine.step import DayResult, PermanentError, StepResult
def run_step(context):
    log = context.log
    {work}
    days = [DayResult(day=day, outcome="written", metadata={{"rows": 1}}) for day in context.request.days]
    return StepResult(days=days, metadata={{"days_done": len(days)}})
local.run_step = run_step
"""


def step(work: str = "pass") -> str:
    """The prelude of a process whose step does ``work``, one line of Python."""
    return STEP.format(work=work)


class Runner(DatabricksStepRunner):
    """Keeps what it raised."""

    raised: BaseException | None = None

    def run(self, *args: Any) -> StepResult:
        try:
            return super().run(*args)
        except BaseException as error:
            self.raised = error
            raise

    @property
    def may_be_tried_again(self) -> bool:
        """Whether Dagster's retry policy would apply to what was raised."""
        return isinstance(self.raised, dg.Failure) and self.raised.allow_retries


class QuickClock(Clock):
    """Time passes when somebody sleeps, and at once. ``before_sleep`` is called first."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.slept: list[float] = []
        self.before_sleep: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.before_sleep()
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workspaces of all tests keep unpacked wheels."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture
def workspace(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkspace]:
    found = FakeWorkspace(tmp_path / "workspace", wheels)
    found.jobs.libraries = [CHECKOUT]  # for light_shop's classifier
    monkeypatch.setenv("DATABRICKS_HOST", found.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    yield found
    found.close()


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def light_shop() -> Product:
    """``shop``, without the seconds that each process would take to import scikit-learn."""
    return shop(model__estimator={"class": "ml_platform_tests.light_classifier.LightClassifier"})


def remote_settings(home: Path, **values: Any) -> Settings:
    """Settings whose places a remote step reaches as well."""
    places = {
        "engine": "databricks",
        "landing": home / "landing",
        "tables": str(home / "tables"),
        "mlflow_tracking_uri": f"sqlite:///{home / 'mlflow.db'}",
        "report_targets": (str(home / "reports"),),
        "online_store_url": f"sqlite:///{home / 'online.db'}",
        "databricks_volume": VOLUME,
        "databricks_poll_seconds": 0.1,
        "databricks_retry_seconds": 60,
    }
    return settings_in(home, **{**places, **values})


@pytest.fixture
def graph_of(
    tmp_path: Path, instance: dg.DagsterInstance, workspace: FakeWorkspace, clock: QuickClock
) -> Callable[..., Graph]:
    """Makes the graph of ``shop`` on the fake workspace; settings may be given."""

    def make(**values: Any) -> Graph:
        parts = {"product": values.pop("product", light_shop())}
        settings = remote_settings(tmp_path / "home", **values)
        return Graph(settings, instance, runner=Runner(settings, clock=clock), **parts)

    return make


@pytest.fixture
def graph(graph_of: Callable[..., Graph]) -> Graph:
    return graph_of()
