"""The jobs of the fake workspace: one-time runs of a wheel's entry point, each a process of its own.

The wheel is taken from the volume and unpacked; its process sees it first, then this environment's packages.
Volumes are folders below the fake's root, so what the task is told of ``/Volumes/`` is told to the process
as its folder there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_pipes import decode_param, encode_param

if TYPE_CHECKING:
    from ml_platform_tests.fake_workspace import FakeWorkspace

#: How long a look at a run waits for news before it is answered with what there is.
PATIENCE = 15.0

_DRIVER = """
import sys
from importlib.metadata import distribution
package, entry_point, prelude, *parameters = sys.argv[1:]
sys.argv = [entry_point, *parameters]
exec(prelude)
(found,) = [one for one in distribution(package).entry_points if one.name == entry_point]
found.load()()
"""


class RefusedError(Exception):
    """The workspace says no."""

    def __init__(self, message: str, status: int = 400, code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class Run:
    """A run, and what became of it. ``parameters`` are as they were submitted."""

    run_id: int
    name: str
    token: str | None
    submitted: dict[str, Any]
    life_cycle_state: str = "PENDING"
    result_state: str | None = None
    message: str = ""
    process: subprocess.Popen[bytes] | None = None
    folder: Path = Path()
    looks: int = 0
    files_seen: int = 0
    told: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    attempts: int = 0

    @property
    def over(self) -> bool:
        return self.life_cycle_state in ("TERMINATED", "INTERNAL_ERROR", "SKIPPED")

    @property
    def task(self) -> dict[str, Any]:
        (task,) = self.submitted["tasks"]
        return dict(task)

    @property
    def output(self) -> str:
        path = self.folder / "output.txt"
        return path.read_text() if path.exists() else ""


class FakeJobs:
    """All runs of a workspace.

    Attributes:
        prelude: Python that each process runs before the entry point.
        environment: what each process finds in its environment besides what is usual.
        libraries: folders that each process finds modules in after the wheel.
        python: the interpreter of each process; that of the tests, with their environment's packages.
        clusters: the existing ones.
        retries: how often the workspace by itself starts a task again that has failed. The process finds in
            ATTEMPT which one it is, counted from 1.
        slow_start: how many looks at a run find it pending.
        ends: if given, how runs end, without a process: life cycle, result and message.
        when_running: called once for each run, when its process has started.
    """

    def __init__(self, workspace: FakeWorkspace, wheels: Path) -> None:
        self._workspace = workspace
        self._wheels = wheels
        self.runs: dict[int, Run] = {}
        self.deleted: list[Run] = []
        self.prelude = ""
        self.environment: dict[str, str] = {}
        self.libraries: list[Path] = []
        self.python = sys.executable
        self.clusters = {"0101-cluster"}
        self.retries = 0
        self.slow_start = 1
        self.ends: tuple[str, str | None, str] | None = None
        self.when_running: Callable[[Run], None] = lambda _: None
        self._changed = threading.Condition()

    @property
    def active(self) -> list[Run]:
        return [run for run in self.runs.values() if not run.over]

    def call(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        match name:
            case "submit":
                return {"run_id": self._submit(dict(given)).run_id}
            case "get":
                return self._get(self._run(given))
            case "get-output":
                return self._output(self._run(given, task=True))
            case "cancel":
                self.cancel(self._run(given))
                return {}
            case "delete":
                run = self._run(given)
                if not run.over:
                    raise RefusedError(f"Run {run.run_id} is active", 400, "INVALID_STATE")
                self.deleted.append(self.runs.pop(run.run_id))
                return {}
            case "list":
                runs = [self._described(run) for run in self.active]
                return {"runs": runs, "has_more": False}
        raise RefusedError(f"{name} is unknown", 404, "ENDPOINT_NOT_FOUND")

    def cancel(self, run: Run, result: str = "CANCELED", message: str = "Run cancelled") -> None:
        """End a run from outside."""
        with self._changed:
            if run.over:
                return
            self._end(run, "TERMINATED", result, message)
        self._kill(run)

    def close(self) -> None:
        for run in self.active:
            self.cancel(run)

    # -- submitting ----------------------------------------------------------------------------------

    def _submit(self, given: dict[str, Any]) -> Run:
        token = given.get("idempotency_token")
        with self._changed:
            if token is not None and len(token) > 64:
                raise RefusedError("idempotency_token: at most 64 characters")
            for run in self.runs.values():
                if token is not None and run.token == token:
                    return run
            number = len(self.runs) + len(self.deleted) + 1
            run = Run(1000 * number, given.get("run_name", "Untitled"), token, given)
            wheel, entry = self._wheel(given, run), run.task["python_wheel_task"]
            self.runs[run.run_id] = run
        run.folder = self._workspace.root / "driver" / str(run.run_id)
        run.folder.mkdir(parents=True)
        if self.ends is not None:
            self._end(run, *self.ends)
            return run
        names = (entry["package_name"], entry["entry_point"])
        parameters = self._mapped(run, entry.get("parameters", []))
        command = [self.python, "-c", _DRIVER, *names, self.prelude, *parameters]
        environment = self._environment_of(run, wheel)

        def start() -> None:
            run.attempts += 1
            with (run.folder / "output.txt").open("wb") as output:
                run.process = subprocess.Popen(
                    command,
                    cwd=run.folder,
                    env=environment | {"ATTEMPT": str(run.attempts)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        start()
        threading.Thread(target=self._follow, args=[run, start], daemon=True).start()
        return run

    def _wheel(self, given: dict[str, Any], run: Run) -> Path:
        """The wheel that the task's compute would install; what is wrong with the task is refused."""
        task = run.task
        if "new_cluster" in task:
            if "spark_version" not in task["new_cluster"]:
                raise RefusedError("new_cluster.spark_version is required")
            run.environment = {
                name: self._filled_in(value)
                for name, value in task["new_cluster"].get("spark_env_vars", {}).items()
            }
            (wheel,) = [library["whl"] for library in task["libraries"] if "whl" in library]
        elif "existing_cluster_id" in task:
            if task["existing_cluster_id"] not in self.clusters:
                raise RefusedError(f"Cluster {task['existing_cluster_id']} does not exist")
            (wheel,) = [library["whl"] for library in task["libraries"] if "whl" in library]
        else:
            environments = {one["environment_key"]: one["spec"] for one in given.get("environments", [])}
            if task.get("environment_key") not in environments:
                raise RefusedError("a serverless task needs one of the environments")
            needed = environments[task["environment_key"]]["dependencies"]
            (wheel,) = [each for each in needed if each.endswith(".whl")]
            for each in needed:
                if each != wheel and not re.fullmatch(r"[a-z-]+(==[0-9.]+)?", each):
                    raise RefusedError(f"{each} is no requirement of a package, with its version or without")
        path = self._workspace.path(wheel)
        if not path.is_file():
            raise RefusedError(f"the library {wheel} does not exist")
        return path

    def _filled_in(self, value: str) -> str:
        found = re.fullmatch(r"\{\{secrets/([^/]+)/([^/]+)\}\}", value)
        if found is None:
            return value
        scope, key = found.groups()
        if (scope, key) not in self._workspace.secrets:
            raise RefusedError(f"Secret does not exist with scope: {scope} and key: {key}")
        return self._workspace.secrets[scope, key]

    def _mapped(self, run: Run, parameters: list[str]) -> list[str]:
        """The parameters of Pipes with the volumes where they are here."""
        options = dict(zip(parameters[::2], parameters[1::2], strict=True))
        context = decode_param(options["--dagster-pipes-context"])
        told = self._workspace.path(context["path"]).read_text()
        (run.folder / "context.json").write_text(self._here(told))
        messages = json.loads(self._here(json.dumps(decode_param(options["--dagster-pipes-messages"]))))
        return [
            "--dagster-pipes-context",
            encode_param({"path": str(run.folder / "context.json")}),
            "--dagster-pipes-messages",
            encode_param(messages),
        ]

    def _here(self, text: str) -> str:
        return text.replace('"/Volumes/', f'"{self._workspace.root}/Volumes/')

    def _environment_of(self, run: Run, wheel: Path) -> dict[str, str]:
        usual = ("PATH", "JAVA_HOME", "LANG", "TMPDIR")
        return {
            **{name: os.environ[name] for name in usual if name in os.environ},
            "PYTHONPATH": os.pathsep.join(map(str, [self._unpacked(wheel), *self.libraries])),
            "HOME": str(run.folder),
            "ML_PLATFORM_HOME": str(run.folder / "home"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DATABRICKS_HOST": self._workspace.url,
            "DATABRICKS_TOKEN": self._workspace.token,
            **self.environment,
            **run.environment,
        }

    def _unpacked(self, wheel: Path) -> Path:
        folder = self._wheels / hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
        if not folder.exists():
            beside = folder.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(beside)
            try:
                beside.rename(folder)
            except OSError:
                shutil.rmtree(beside)
        return folder

    # -- running -------------------------------------------------------------------------------------

    def _follow(self, run: Run, again: Callable[[], None]) -> None:
        assert run.process is not None
        with self._changed:
            if not run.over:
                run.life_cycle_state = "RUNNING"
                self._changed.notify_all()
        self.when_running(run)
        while True:
            try:
                code = run.process.wait(0.02)
                with self._changed:
                    if code == 0 or run.over or run.attempts > self.retries:
                        break
                    again()
            except subprocess.TimeoutExpired:
                with self._changed:
                    self._changed.notify_all()
        with self._changed:
            if not run.over:
                failed = "" if code == 0 else f"Task {run.task['task_key']} failed with exit code {code}"
                self._end(run, "TERMINATED", "FAILED" if code else "SUCCESS", failed)

    def _end(self, run: Run, life_cycle_state: str, result_state: str | None, message: str) -> None:
        with self._changed:
            run.life_cycle_state, run.result_state, run.message = life_cycle_state, result_state, message
            self._changed.notify_all()

    def _kill(self, run: Run) -> None:
        if run.process is not None and run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()

    # -- answering -----------------------------------------------------------------------------------

    def _run(self, given: Mapping[str, Any], *, task: bool = False) -> Run:
        run = self.runs.get(int(given["run_id"]) - (1 if task else 0))
        if run is None:
            raise RefusedError(f"Run {given['run_id']} does not exist", 404, "RESOURCE_DOES_NOT_EXIST")
        return run

    def _get(self, run: Run) -> dict[str, Any]:
        """The run as soon as there is news of it: another state, or another file of messages."""
        run.looks += 1
        if run.looks <= self.slow_start:
            return self._described(run, "PENDING", None)
        with self._changed:
            self._changed.wait_for(lambda: run.over or self._has_news(run), PATIENCE)
            run.told = run.life_cycle_state
            return self._described(run)

    def _has_news(self, run: Run) -> bool:
        files = self._message_files(run)
        news = run.life_cycle_state != run.told or files > run.files_seen
        run.files_seen = files
        return news

    def _message_files(self, run: Run) -> int:
        if run.process is None:
            return 0
        options = run.task["python_wheel_task"]["parameters"]
        folder = self._workspace.path(decode_param(options[3])["path"])
        return len(list(folder.glob("[0-9]*.json"))) if folder.is_dir() else 0

    def _described(self, run: Run, state: str | None = None, result: str | None = None) -> dict[str, Any]:
        shown = {"life_cycle_state": state or run.life_cycle_state, "state_message": run.message}
        if state is None and run.result_state is not None:
            shown["result_state"] = run.result_state
        return {
            "run_id": run.run_id,
            "run_name": run.name,
            "state": shown,
            "run_page_url": f"{self._workspace.url}/?o=0#job/runs/{run.run_id}",
            "tasks": [{"run_id": run.run_id + 1, "task_key": run.task["task_key"]}],
        }

    def _output(self, run: Run) -> dict[str, Any]:
        found: dict[str, Any] = {
            "metadata": self._described(run),
            "logs": run.output,
            "logs_truncated": False,
        }
        if run.result_state == "FAILED":
            found["error"] = run.output.strip().splitlines()[-1] if run.output.strip() else run.message
            found["error_trace"] = run.output
        return found
