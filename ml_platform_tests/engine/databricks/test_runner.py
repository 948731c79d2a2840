"""Steps that run in the fake workspace as processes of the project's wheel: what comes back of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ml_platform.graph.bad_days import only_bad_days
from ml_platform_tests.conftest import CHECKOUT
from ml_platform_tests.engine.databricks.conftest import VOLUME, QuickClock, light_shop, remote_settings, step
from ml_platform_tests.fake_jobs import Run
from ml_platform_tests.fake_workspace import FakeWorkspace
from ml_platform_tests.graph.stand_ins import Graph, failure_of
from ml_platform_tests.small_platform import SHOP, shop

DAYS = ("2024-03-01", "2024-03-03")


def failure_facts(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the failure of a run of one step."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return {name: value.value for name, value in (failure.metadata or {}).items()}


def messages(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[str]:
    """What was logged in a run."""
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


def test_a_step_over_there_is_reported_as_one_here(graph: Graph, workspace: FakeWorkspace) -> None:
    result = graph.run(["ards"], *DAYS)
    assert failure_of(result).startswith("3 days can't be used; all that can be done is done.")
    found = graph.materialized("ards")
    assert {day: facts["outcome"] for day, facts in found.items()} == {
        "2024-03-01": "missing",
        "2024-03-02": "missing",
        "2024-03-03": "missing",
    }
    assert "no rows have been delivered" in found["2024-03-02"]["reason"]
    assert {verdict[0] for verdict in graph.verdicts("ards").values()} == {"FAILED"}
    (run,) = workspace.jobs.runs.values()
    assert run.result_state == "SUCCESS"
    assert found["2024-03-01"]["databricks_run"].endswith(f"/runs/{run.run_id}")


def test_nothing_but_the_wheel_stays_in_the_volume(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step()
    for _ in range(2):
        assert graph.run(["mrds"], *DAYS).success
    files = [one for one in workspace.path(VOLUME).rglob("*") if one.is_file()]
    assert [one.suffix for one in files] == [".whl"]
    assert len(workspace.asked("PUT", ".whl")) == 1
    assert len(workspace.jobs.runs) == 2, "each Dagster run has a run of its own"


def test_the_wheel_runs_alone_and_needs_no_dagster(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace
) -> None:
    graph = graph_of(product=shop())
    workspace.jobs.libraries = []
    workspace.jobs.prelude = """
import sys
class NoDagster:
    def find_spec(self, name, *_):
        if name == "dagster" or name.startswith(("dagster.", "dagster_")) and name != "dagster_pipes":
            raise ImportError(name + " is not for remote steps")
sys.meta_path.insert(0, NoDagster())
import atexit, ml_platform
print(ml_platform.__file__)
atexit.register(lambda: print("dagster" in sys.modules))
"""
    assert only_bad_days(graph.instance, graph.run(["ards"], *DAYS).run_id), "nothing has been delivered"
    (run,) = workspace.jobs.runs.values()
    place, dagster_there = run.output.splitlines()
    assert not Path(place).is_relative_to(CHECKOUT)
    assert dagster_there == "False"


def test_remote_log_lines_appear_while_the_step_runs(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    graph = graph_of()
    workspace.jobs.prelude = step(
        f"log('half way'); import pathlib, time\n"
        f"    while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)\n"
        f"    log('the rest')"
    )
    seen: list[bool] = []

    def said(line: str) -> None:
        if line == "half way":
            seen.append(not workspace.jobs.runs[1000].over)
            gate.touch()

    graph.runner._progress = said
    result = graph.run(["mrds"], *DAYS)
    assert result.success
    assert seen == [True]
    logged = messages(graph.instance, result)
    assert logged.index("half way") < logged.index("the rest")


def test_a_slow_start_is_waited_for(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step()
    workspace.jobs.slow_start = 20
    assert graph.run(["mrds"], *DAYS).success
    assert len(workspace.asked("GET", "runs/get")) > 20


# -- failures ----------------------------------------------------------------------------------------


def test_a_failure_brings_its_traceback_its_last_lines_and_its_page(
    graph: Graph, workspace: FakeWorkspace
) -> None:
    workspace.jobs.prelude = step("log('so far so good'); print('to stdout'); 1 / 0")
    result = graph.run(["mrds"], *DAYS)
    assert failure_of(result) == "mrds failed on Databricks: division by zero"
    facts = failure_facts(result)
    assert "ZeroDivisionError" in facts["remote_traceback"]
    assert "run_step" in facts["remote_traceback"]
    assert "so far so good" in facts["last_log_lines"]
    assert "to stdout" in facts["last_log_lines"]
    assert facts["databricks_run"].endswith("/runs/1000")
    assert facts["state"] == "TERMINATED FAILED"
    assert graph.runner.may_be_tried_again
    assert not workspace.asked("POST", "cancel"), "what is over needs no cancelling"


def test_a_permanent_error_over_there_is_not_tried_again(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step("raise PermanentError('mend the contract')")
    result = graph.run(["mrds"], *DAYS)
    assert failure_of(result) == "mend the contract", "as when the step runs here"
    assert not graph.runner.may_be_tried_again


def test_a_single_missing_day_fails_as_it_does_here(graph: Graph, workspace: FakeWorkspace) -> None:
    result = graph.run(["mrds"], DAYS[0])
    assert failure_of(result) == (
        "2024-03-01 is missing: ards has not been materialized for this day. "
        "Now: deliver the day, then materialize it again."
    )
    assert {run.result_state for run in workspace.jobs.runs.values()} == {"SUCCESS"}


def test_a_cancel_from_outside_is_a_failure(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step("import time; time.sleep(600)")
    workspace.jobs.when_running = workspace.jobs.cancel
    result = graph.run(["mrds"], *DAYS)
    assert failure_of(result) == "mrds failed on Databricks: its run was cancelled in the workspace"
    assert not graph.runner.may_be_tried_again, "somebody wanted it to end"


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (
            ("INTERNAL_ERROR", "FAILED", "Cluster terminated: spot loss"),
            "FAILED: Cluster terminated: spot loss",
        ),
        (("INTERNAL_ERROR", None, "Unexpected failure"), "INTERNAL_ERROR: Unexpected failure"),
        (("SKIPPED", None, "too many runs"), "SKIPPED: too many runs"),
        (("TERMINATED", "FAILED", "the library can't be installed"), "FAILED: the library can't"),
        (("TERMINATED", "TIMEDOUT", ""), "took longer than the 21600 s"),
        (("TERMINATED", "SUCCESS_WITH_FAILURES", ""), "SUCCESS_WITH_FAILURES"),
        (("TERMINATED", "MAXIMUM_CONCURRENT_RUNS_REACHED", ""), "MAXIMUM_CONCURRENT_RUNS_REACHED"),
        (("TERMINATED", "SUCCESS", ""), "its run succeeded, but it sent no result"),
    ],
)
def test_an_end_without_a_result_is_never_a_success(
    graph: Graph, workspace: FakeWorkspace, ends: tuple[str, str | None, str], told: str
) -> None:
    workspace.jobs.ends = ends
    result = graph.run(["mrds"], *DAYS)
    assert told in failure_of(result)
    assert failure_facts(result)["databricks_run"].endswith("/runs/1000")
    assert not graph.materialized("mrds")


def test_a_result_that_lacks_a_day_is_a_failure(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step(
        "context.request = context.request.model_copy(update={'days': context.request.days[1:]})"
    )
    result = graph.run(["mrds"], *DAYS)
    assert failure_of(result).endswith("it sent the result of 2 of 3 days")


def test_a_process_that_dies_is_a_failure(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step("import os; os._exit(0)")
    result = graph.run(["mrds"], *DAYS)
    assert "it sent no result" in failure_of(result)


def test_a_volume_that_takes_no_messages_is_a_failure(graph: Graph, workspace: FakeWorkspace) -> None:
    workspace.jobs.prelude = step(
        "from ml_platform.engine.databricks import messages; messages._WRITE_ATTEMPTS = 1; import shutil; "
        "shutil.rmtree({!r})".format(str(workspace.path(f"{VOLUME}/pipes")))
    )
    result = graph.run(["mrds"], *DAYS)
    (run,) = workspace.jobs.runs.values()
    assert run.result_state == "FAILED"
    facts = failure_facts(result)
    assert "FileNotFoundError" in facts["remote_traceback"]


# -- the end of interest -----------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError, SystemExit])
def test_an_interrupted_run_cancels_the_remote_one(
    graph: Graph, workspace: FakeWorkspace, clock: QuickClock, interrupt: type[BaseException]
) -> None:
    workspace.jobs.prelude = step("import time; time.sleep(600)")

    def once() -> None:
        clock.before_sleep = lambda: None
        raise interrupt

    clock.before_sleep = once
    result = graph.run(["mrds"], *DAYS)
    assert isinstance(graph.runner.raised, interrupt)
    assert not result.success
    (run,) = workspace.jobs.runs.values()
    assert (run.life_cycle_state, run.result_state) == ("TERMINATED", "CANCELED")


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_running_backfill_cancels_the_remote_run(
    workspace: FakeWorkspace, tmp_path: Path, signal_: signal.Signals
) -> None:
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "shop.yaml").write_text(yaml.safe_dump(SHOP))
    workspace.jobs.prelude = step("import time; time.sleep(600)")
    running = threading.Event()
    workspace.jobs.when_running = lambda _: running.set()
    settings = {
        name: getattr(remote_settings(tmp_path / "home"), name)
        for name in ("engine", "landing", "tables", "mlflow_tracking_uri", "databricks_volume")
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ml_platform.cli.main", "backfill", "shop", "--select", "mrds"),
            *("--from", DAYS[0], "--to", DAYS[1]),
        ],
        env={
            **os.environ,
            **{f"ML_PLATFORM_{name.upper()}": str(value) for name, value in settings.items()},
            "ML_PLATFORM_HOME": str(tmp_path / "home"),
            "ML_PLATFORM_PRODUCTS": str(contracts),
            "DAGSTER_HOME": str(tmp_path),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert running.wait(120)
        process.send_signal(signal_)
        assert process.wait(120) != 0
    finally:
        process.kill()
    (run,) = workspace.jobs.runs.values()
    assert (run.life_cycle_state, run.result_state) == ("TERMINATED", "CANCELED")


# -- what is sent ------------------------------------------------------------------------------------


def sent(run: Run) -> dict[str, Any]:
    """The context that the process of a run was given."""
    found: dict[str, Any] = json.loads((run.folder / "context.json").read_text())
    return found


SECRETS = {"ML_PLATFORM_ONLINE_STORE_URL": "ml/online", "ML_PLATFORM_ALERT_URLS": "ml/alerts"}
TELL = step(
    "from ml_platform.settings import Settings; print(Settings().online_store_url.get_secret_value())"
)


@pytest.mark.parametrize(
    "compute",
    [
        {},
        {"cluster_id": "0101-cluster"},
        {"new_cluster": {"spark_version": "17.3.x-scala2.13", "num_workers": 2}},
    ],
)
def test_secrets_are_sent_by_name_on_every_compute(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace, compute: dict[str, Any]
) -> None:
    workspace.secrets = {("ml", "online"): "postgresql://u:hidden@db/x", ("ml", "alerts"): "mailto://hidden"}
    workspace.jobs.prelude = TELL
    graph = graph_of(
        databricks_compute=compute,
        databricks_secrets=SECRETS,
        online_store_url="postgresql://u:hidden@db/x",
        alert_urls="mailto://hidden",
    )
    assert graph.run(["mrds"], *DAYS).success
    (run,) = workspace.jobs.runs.values()
    assert run.output.strip() == "postgresql://u:hidden@db/x"
    assert sent(run)["extras"]["task"]["secrets"] == SECRETS
    assert "hidden" not in json.dumps(sent(run)) + json.dumps(run.submitted)
    if "new_cluster" in compute:
        assert run.task["new_cluster"]["spark_env_vars"] == {
            "ML_PLATFORM_ONLINE_STORE_URL": "{{secrets/ml/online}}",
            "ML_PLATFORM_ALERT_URLS": "{{secrets/ml/alerts}}",
        }
        assert run.task["new_cluster"]["num_workers"] == 2


def test_a_secret_that_is_not_there_is_named(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace
) -> None:
    graph = graph_of(databricks_secrets={"ML_PLATFORM_ALERT_URLS": "ml/alerts"})
    result = graph.run(["mrds"], *DAYS)
    assert "the secret 'alerts' of the scope 'ml', for ML_PLATFORM_ALERT_URLS" in failure_of(result)
    assert not graph.runner.may_be_tried_again


def test_a_cluster_that_does_not_exist_is_not_tried_again(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace
) -> None:
    graph = graph_of(databricks_compute={"cluster_id": "9999-gone"})
    result = graph.run(["mrds"], *DAYS)
    assert "Cluster 9999-gone does not exist" in failure_of(result)
    assert not graph.runner.may_be_tried_again
    assert len(workspace.asked("POST", "submit")) == 1


def test_a_wrong_token_is_refused_at_once(
    graph: Graph, workspace: FakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-wrong")
    result = graph.run(["mrds"], *DAYS)
    assert "invalid token" in failure_of(result)
    assert not graph.runner.may_be_tried_again
    assert "dapi-wrong" not in "".join(messages(graph.instance, result))
    assert not workspace.jobs.runs


def test_without_a_workspace_or_a_volume_it_says_what_to_set(
    graph_of: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = graph_of(databricks_volume=None).run(["mrds"], *DAYS)
    assert "ML_PLATFORM_DATABRICKS_VOLUME" in failure_of(result)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name)
    assert "set DATABRICKS_HOST and DATABRICKS_TOKEN" in failure_of(graph_of().run(["mrds"], *DAYS))


def test_the_entry_point_says_that_it_is_no_command_for_people() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ml_platform.engine.databricks.entry"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        == "ml-platform-step is started by a Dagster run; to run steps, materialize assets"
    )


@pytest.mark.parametrize("compute", [{}, {"new_cluster": {"spark_version": "17.3.x-scala2.13"}}])
def test_a_product_with_boosted_trees_brings_their_library_along(
    graph_of: Callable[..., Graph], workspace: FakeWorkspace, compute: dict[str, Any]
) -> None:
    pytest.importorskip("lightgbm")
    workspace.jobs.prelude = step()
    boosted = shop(model__estimator={"class": "lightgbm.LGBMClassifier", "params": {"n_estimators": 5}})
    mlflow = f"mlflow=={version('mlflow')}"  # its store is a database here
    for product, expected in (
        (boosted, [f"lightgbm=={version('lightgbm')}", mlflow]),
        (light_shop(), [mlflow]),
    ):
        assert graph_of(product=product, databricks_compute=compute).run(["mrds"], *DAYS).success
        run = list(workspace.jobs.runs.values())[-1]
        if compute:
            found = [each["pypi"]["package"] for each in run.task["libraries"] if "pypi" in each]
        else:
            (environment,) = run.submitted["environments"]
            found = environment["spec"]["dependencies"][1:]
        assert found == expected
