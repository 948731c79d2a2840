"""What a workspace can do wrong at any request: the run ends as it should, and there is just one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import dagster as dg
import pytest

from ml_platform_tests.conftest import CHECKOUT
from ml_platform_tests.engine.databricks.conftest import (
    VOLUME,
    QuickClock,
    Runner,
    light_shop,
    remote_settings,
    step,
)
from ml_platform_tests.fake_workspace import CUT, TOKEN, FakeWorkspace, Fault, kinds
from ml_platform_tests.graph.stand_ins import Graph, failure_of

DAYS = ("2024-03-01", "2024-03-03")
WAITS = step("import time; time.sleep(600)")


@pytest.mark.parametrize("status", [500, 503, CUT])
def test_a_submit_that_was_accepted_although_its_answer_was_an_error_runs_once(
    graph: Graph, workspace: FakeWorkspace, status: int
) -> None:
    workspace.jobs.prelude = step()
    workspace.inject(Fault(status, "POST", "runs/submit", after=True, times=2))
    assert graph.run(["mrds"], *DAYS).success
    assert len(workspace.asked("POST", "runs/submit")) == 3
    assert len(workspace.jobs.runs) == 1


def test_errors_while_polling_are_waited_out(
    graph: Graph, workspace: FakeWorkspace, clock: QuickClock
) -> None:
    workspace.jobs.prelude = step()
    for status in (500, 429, 503, 502, CUT):
        workspace.inject(Fault(status, "GET", "runs/get", times=2))
    result = graph.run(["mrds"], *DAYS)
    assert result.success, failure_of(result)
    assert all(fault.hit for fault in workspace.faults)
    assert len(workspace.jobs.runs) == 1
    assert not workspace.asked("POST", "cancel")
    assert sum(clock.slept) > 5, "each attempt waits longer"


@pytest.mark.parametrize("status", [403, 404])
def test_a_run_that_is_hidden_for_a_moment_goes_on(
    graph: Graph, workspace: FakeWorkspace, status: int
) -> None:
    workspace.jobs.prelude = step()
    hidden = Fault(status, "GET", "runs/get", spared=1, times=3)
    workspace.inject(hidden, Fault(status, "GET", "/pipes/", times=2))
    result = graph.run(["mrds"], *DAYS)
    assert result.success, failure_of(result)
    assert len(hidden.hit) == 3
    assert len(workspace.jobs.runs) == 1
    assert not workspace.asked("POST", "cancel")


def test_a_run_that_stays_hidden_is_cancelled(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace, clock: QuickClock
) -> None:
    workspace.jobs.prelude = WAITS
    workspace.inject(Fault(403, "GET", "runs/get", times=None))
    result = graph_of(databricks_poll_seconds=5.0).run(["mrds"], *DAYS)
    assert "PermissionDenied" in failure_of(result)
    assert 60 <= sum(clock.slept) < 90, "it has looked for as long as the settings say"
    assert [run.result_state for run in workspace.jobs.runs.values()] == ["CANCELED"]


FAILS_FIRST = (
    "import os; attempt = os.environ['ATTEMPT']; log('attempt ' + attempt); {} if attempt == '1' else 0"
)


@pytest.mark.parametrize("first", ["1 / 0", "os._exit(1)"])
def test_a_task_that_the_workspace_has_run_again_with_success_is_a_success(
    graph: Graph, workspace: FakeWorkspace, first: str
) -> None:
    workspace.jobs.retries = 1
    workspace.jobs.prelude = step(FAILS_FIRST.format(first))
    result = graph.run(["mrds"], *DAYS)
    assert result.success, failure_of(result)
    (run,) = workspace.jobs.runs.values()
    assert (run.attempts, run.result_state) == (2, "SUCCESS")


def test_a_task_that_fails_again_is_a_failure_with_its_last_error(
    graph: Graph, workspace: FakeWorkspace
) -> None:
    workspace.jobs.retries = 1
    workspace.jobs.prelude = step("import os; raise OSError('attempt ' + os.environ['ATTEMPT'])")
    result = graph.run(["mrds"], *DAYS)
    assert "attempt 2" in failure_of(result)
    assert [run.attempts for run in workspace.jobs.runs.values()] == [2]


def test_a_run_that_nobody_can_see_any_more_is_cancelled(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = WAITS
    lost = Fault(500, "GET", "runs/get", times=None)
    workspace.inject(lost)
    result = graph.run(["mrds"], *DAYS)
    assert "could not be run on Databricks: InternalError" in failure_of(result)
    assert graph.runner.may_be_tried_again
    assert [run.result_state for run in workspace.jobs.runs.values()] == ["CANCELED"]


@pytest.mark.parametrize("status", [503, CUT])
def test_a_run_whose_submit_was_never_answered_is_found_and_cancelled(
    graph: Graph, workspace: FakeWorkspace, status: int
) -> None:
    workspace.jobs.prelude = WAITS
    workspace.inject(Fault(status, "POST", "runs/submit", after=True, times=None))
    result = graph.run(["mrds"], *DAYS)
    assert "could not be run on Databricks" in failure_of(result)
    assert [run.result_state for run in workspace.jobs.runs.values()] == ["CANCELED"]


def test_a_run_that_cannot_be_cancelled_is_named(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace
) -> None:
    workspace.jobs.prelude = WAITS
    workspace.inject(Fault(403, "GET", "runs/get", times=None), Fault(500, "POST", "runs/cancel", times=None))
    graph = graph_of(databricks_poll_seconds=5.0)
    result = graph.run(["mrds"], *DAYS)
    assert "injected" in failure_of(result)
    (said,) = [
        entry.user_message
        for entry in graph.instance.all_logs(result.run_id)
        if "could not be cancelled" in entry.user_message
    ]
    assert "may go on for up to 21600 s" in said


def test_messages_that_are_cut_in_a_line_are_read_again(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step("log('a line that is told once')")
    workspace.cut_files = {"/1.json": 2}
    result = graph.run(["mrds"], *DAYS)
    assert result.success
    assert set(workspace.cut_files.values()) == {0}
    said = [entry.user_message for entry in graph.instance.all_logs(result.run_id)]
    assert said.count("a line that is told once") == 1


def test_a_message_folder_that_cannot_be_removed_is_no_failure(
    graph: Graph, workspace: FakeWorkspace
) -> None:
    workspace.jobs.prelude = step()
    workspace.inject(Fault(403, "DELETE", times=None))
    result = graph.run(["mrds"], *DAYS)
    assert result.success
    said = [entry.user_message for entry in graph.instance.all_logs(result.run_id)]
    assert any("could not be removed" in line for line in said)


def test_an_output_that_cannot_be_had_hides_no_failure(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step("1 / 0")
    workspace.inject(Fault(400, "GET", "get-output", times=None))
    assert "division by zero" in failure_of(graph.run(["mrds"], *DAYS))


# -- every request in turn ---------------------------------------------------------------------------

#: Requests of what a run says, made again whatever their failure: it may be hidden for a moment.
_LOOKED_AT_AGAIN = {("GET", "runs/get"), ("GET", "fs/files")}
#: Requests whose failure is the failure of nothing: the result is there already.
_TIDYING = {("GET", "fs/directories"), ("DELETE", "fs/files"), ("DELETE", "fs/directories")}


@pytest.mark.slow
@pytest.mark.parametrize(("status", "after"), [(500, True), (CUT, False), (403, False)])
def test_a_fault_at_any_request_ends_well(
    tmp_path: Path,
    wheels: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    after: bool,
) -> None:
    """Of each kind of request one after another fails, each in a run of its own, until a run has no more."""

    def run(number: int, fault: Fault | None) -> tuple[FakeWorkspace, dg.ExecuteInProcessResult]:
        workspace = FakeWorkspace(tmp_path / f"workspace{number}", wheels)
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        workspace.jobs.libraries = [CHECKOUT]
        workspace.jobs.prelude = step("log('working')")
        if fault is not None:
            workspace.inject(fault)
        settings = remote_settings(tmp_path / f"home{number}")
        graph = Graph(settings, instance, light_shop(), Runner(settings, clock=QuickClock()))
        try:
            return workspace, graph.run(["mrds"], *DAYS)
        finally:
            active = [run.run_id for run in workspace.jobs.active]
            workspace.close()
            assert not active, f"an orphan after {fault}"

    undisturbed, result = run(0, None)
    assert result.success, failure_of(result)
    expected_kinds = {
        *_TIDYING,
        *(("PUT", "fs/directories"), ("HEAD", "fs/files"), ("PUT", "fs/files"), ("GET", "fs/files")),
        *(("POST", "runs/submit"), ("GET", "runs/get")),
    }
    assert set(kinds(undisturbed.requests)) == expected_kinds
    runs = count(1)
    for method, part in sorted(expected_kinds):
        for spared in count():
            fault = Fault(status, method, part, spared=spared, after=after)
            workspace, result = run(next(runs), fault)
            if not fault.hit:
                break
            case = f"{method} {part} number {spared + 1} of {kinds(workspace.requests)}"
            passes = (method, part) in {*_TIDYING, *_LOOKED_AT_AGAIN}
            assert result.success is (status != 403 or passes), case
            assert len(workspace.jobs.runs) <= 1, f"ran twice: {case}"
            if result.success:
                (only,) = workspace.jobs.runs.values()
                assert (only.result_state, only.output) == ("SUCCESS", ""), case
        assert spared, f"no {method} {part} was hit"


def test_the_wheel_is_uploaded_again_after_a_failed_upload(
    graph: Graph, workspace: FakeWorkspace, graph_of: Callable[..., Graph]
) -> None:
    workspace.jobs.prelude = step()
    workspace.inject(Fault(403, "PUT", ".whl"))
    assert "injected" in failure_of(graph.run(["mrds"], *DAYS))
    assert not list(workspace.path(VOLUME).rglob("*.whl"))
    assert not workspace.jobs.runs
    assert graph.run(["mrds"], *DAYS).success
