"""The step runner that works on Databricks: submits the project's wheel as a run, and follows it to its end.

What can go wrong between two machines is settled here: a submit that is repeated starts one run, a run
whose end nobody can see is cancelled, and a step is good only if its run succeeded and reported every day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from databricks.sdk.clock import Clock
from databricks.sdk.errors import NotFound, PermissionDenied
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service import compute as clusters
from databricks.sdk.service import jobs

from ml_platform.contract.compute import Compute
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.engine.databricks import requirements
from ml_platform.engine.databricks import wheel as wheels
from ml_platform.engine.databricks.messages import MissingResultError, RemoteMessages, Task
from ml_platform.engine.databricks.pipes import VolumeContextInjector, VolumeMessageReader, message_folder
from ml_platform.engine.databricks.remote_settings import settings_for
from ml_platform.engine.databricks.workspace import REFUSALS, Workspace, in_words
from ml_platform.engine.step import PermanentError, StepRequest, StepResult
from ml_platform.machine_learning.model_history import made_with
from ml_platform.settings import Settings
from ml_platform.storage.tables import Tables

_TASK_KEY = "step"
_ENVIRONMENT = "ml_platform"
_OVER = frozenset(
    {
        jobs.RunLifeCycleState.TERMINATED,
        jobs.RunLifeCycleState.SKIPPED,
        jobs.RunLifeCycleState.INTERNAL_ERROR,
    }
)
_ENDING = _OVER | {jobs.RunLifeCycleState.TERMINATING}
#: How often a volume is asked again for messages that should be there, and a cancelled run whether it ends.
_LAST_LOOKS = 3
_LAST_LOOKS_AT_A_CANCELLED_RUN = 60


class DatabricksStepRunner:
    """Runs each step as one run of a workspace.

    Args:
        progress: is called with each line that a step logs.
        submitted: is called with the id of each run.
        clock: tells and passes the time between attempts and polls.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        progress: Callable[[str], None] | None = None,
        submitted: Callable[[int], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._progress = progress or (lambda _: None)
        self._submitted = submitted or (lambda _: None)
        self._clock = clock
        self._connected: Workspace | None = None
        self._wheel: str | None = None

    def run(self, request: StepRequest, product: Product, context: dg.OpExecutionContext) -> StepResult:
        """Run a step, and wait for it.

        Raises:
            PermanentError: a setting is missing or wrong.
            dagster.Failure: the run did not succeed; holds its error, its last log lines and its page.
        """
        volume = self._settings.databricks_volume
        if volume is None:
            raise PermanentError(
                "a step on Databricks needs ML_PLATFORM_DATABRICKS_VOLUME, a folder of a volume for the "
                "wheel and its messages, like /Volumes/main/ml/platform"
            )
        task = Task(
            request=request,
            product=product,
            settings=settings_for(request.step, product, self._settings),
            secrets=self._settings.databricks_secrets,
        )
        with _explained(request):
            workspace = self._workspace()
            token = _token(request, context)
            with message_folder(workspace, f"{volume}/pipes/{token}", context.log.warning) as folder:
                run = _RemoteRun(
                    workspace=workspace,
                    settings=self._settings,
                    compute=product.engine.compute or self._settings.databricks_compute,
                    task=task,
                    token=token,
                    wheel=self._uploaded(workspace, volume, context),
                    folder=folder,
                    context=context,
                    progress=self._progress,
                    submitted=self._submitted,
                )
                return run.result()

    def _workspace(self) -> Workspace:
        if self._connected is None:
            self._connected = Workspace(self._settings.databricks_retry_seconds, clock=self._clock)
        return self._connected

    def _uploaded(self, workspace: Workspace, volume: str, context: dg.OpExecutionContext) -> str:
        if self._wheel is None:
            path, now = wheels.upload(workspace, volume, wheels.build_wheel())
            if now:
                context.log.info(f"the wheel was uploaded to {path}")
            self._wheel = path
        return self._wheel


def _token(request: StepRequest, context: dg.OpExecutionContext) -> str:
    """The same for a repeated submit, another for another attempt of the step."""
    step = context.get_step_execution_context().step.key
    asked = request.model_dump(mode="json", exclude={"mlflow_parent_run_id"})
    return fingerprint_of([context.run_id, step, context.retry_number, asked])


@contextmanager
def _explained(request: StepRequest) -> Iterator[None]:
    """Errors of the workspace as failures of the step; what it refuses is not worth another attempt."""
    try:
        yield
    except (DatabricksError, TimeoutError) as error:
        raise dg.Failure(
            f"{request.step} could not be run on Databricks: {in_words(error.__cause__ or error)}",
            allow_retries=not isinstance(error, REFUSALS),
        ) from error


@dataclass
class _RemoteRun:
    """One run of the workspace, from its submission to its end."""

    workspace: Workspace
    settings: Settings
    compute: Compute
    task: Task
    token: str
    wheel: str
    folder: str
    context: dg.OpExecutionContext
    progress: Callable[[str], None]
    submitted: Callable[[int], None]
    run_id: int | None = None
    page: str | None = None
    reader: VolumeMessageReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = VolumeMessageReader(
            self.workspace, self.folder, self.settings.databricks_poll_seconds, self.progress
        )

    @property
    def name(self) -> str:
        request = self.task.request
        days = f" {request.days[0]} to {request.days[-1]}" if request.days else ""
        return f"{request.product}/{request.step}{days} [{self.token}]"

    def result(self) -> StepResult:
        with dg.open_pipes_session(
            context=self.context,
            context_injector=VolumeContextInjector(self.workspace, self.folder),
            message_reader=self.reader,
            extras=self.task.as_extras(),
        ) as session:
            try:
                self.run_id = self._submit(session)
                self.submitted(self.run_id)
                state = self._follow(self.run_id)
            except BaseException:
                # Whatever ends this process's interest in the run, an interrupt as well, ends the run.
                self._cancel()
                raise
            self._read_the_rest(succeeded=_succeeded(state))
            messages = RemoteMessages(list(session.get_custom_messages()))
        if messages.failure is not None or not _succeeded(state):
            raise self._failure(state, messages)
        try:
            result = messages.result(self.task.request)
        except MissingResultError as missing:
            raise self._failed(f"its run succeeded, but {missing}", state) from missing
        return result.model_copy(update={"metadata": {**result.metadata, "databricks_run": self.page}})

    # -- submitting ----------------------------------------------------------------------------------

    def _submit(self, session: dg.PipesSession) -> int:
        parameters = [part for option in session.get_bootstrap_cli_arguments().items() for part in option]
        task, environments = self._task(parameters)
        started = self.workspace.jobs.submit(
            run_name=self.name,
            tasks=[task],
            environments=environments,
            timeout_seconds=self.settings.databricks_timeout_seconds,
            idempotency_token=self.token,
        )
        run_id = int(started.run_id)
        self.context.log.info(f"submitted as run {run_id} of {self.workspace.host}")
        return run_id

    def _task(self, parameters: list[str]) -> tuple[jobs.SubmitTask, list[jobs.JobEnvironment] | None]:
        entry = jobs.PythonWheelTask(
            package_name=wheels.PACKAGE, entry_point=wheels.ENTRY_POINT, parameters=parameters
        )
        step, product = self.task.request.step, self.task.product
        loads = step in requirements.LOADS_MODELS
        recorded = made_with(Tables.of(self.settings), product) if loads else ()
        needed = requirements.of_step(step, product, self.settings, recorded)
        libraries = [
            clusters.Library(whl=self.wheel),
            *(clusters.Library(pypi=clusters.PythonPyPiLibrary(package=package)) for package in needed),
        ]
        if self.compute.cluster_id is not None:
            on_cluster = jobs.SubmitTask(
                task_key=_TASK_KEY,
                python_wheel_task=entry,
                existing_cluster_id=self.compute.cluster_id,
                libraries=libraries,
            )
            return on_cluster, None
        if self.compute.new_cluster is not None:
            cluster = clusters.ClusterSpec.from_dict(self._cluster(self.compute.new_cluster))
            on_new = jobs.SubmitTask(
                task_key=_TASK_KEY, python_wheel_task=entry, new_cluster=cluster, libraries=libraries
            )
            return on_new, None
        serverless = jobs.SubmitTask(
            task_key=_TASK_KEY, python_wheel_task=entry, environment_key=_ENVIRONMENT
        )
        environment = jobs.JobEnvironment(
            environment_key=_ENVIRONMENT,
            spec=clusters.Environment(
                environment_version=self.compute.environment_version,
                dependencies=[self.wheel, *needed],
            ),
        )
        return serverless, [environment]

    def _cluster(self, cluster: dict[str, Any]) -> dict[str, Any]:
        """The contract's cluster, with the secrets as references that the workspace fills in."""
        references = {name: f"{{{{secrets/{reference}}}}}" for name, reference in self.task.secrets.items()}
        return {**cluster, "spark_env_vars": {**references, **cluster.get("spark_env_vars", {})}}

    # -- following -----------------------------------------------------------------------------------

    def _follow(self, run_id: int) -> jobs.RunState:
        """Wait for the run's end, and show meanwhile what it says."""
        seen = None
        while True:
            run = self._looked_at(run_id)
            state = run.state or jobs.RunState()
            if self.page is None and run.run_page_url:
                self.page = run.run_page_url
                self.context.log.info(f"its page: {self.page}")
            if state.life_cycle_state != seen:
                seen = state.life_cycle_state
                self.context.log.info(f"run {run_id} is {seen.value if seen else 'in an unknown state'}")
            self.reader.read()
            if state.life_cycle_state in _OVER:
                return state
            self.workspace.clock.sleep(self.settings.databricks_poll_seconds)

    def _looked_at(self, run_id: int) -> jobs.Run:
        """The run, as soon as the workspace shows it.

        A workspace answers for moments that a run doesn't exist or must not be seen, which goes on meanwhile.

        Raises:
            DatabricksError: it has answered so for ``databricks_retry_seconds``.
        """
        start = self.workspace.clock.time()
        while True:
            try:
                return self.workspace.jobs.get_run(run_id)
            except (NotFound, PermissionDenied) as error:
                if self.workspace.clock.time() - start >= self.settings.databricks_retry_seconds:
                    raise
                self.context.log.warning(f"run {run_id} can't be seen: {in_words(error)}; looking again")
                self.workspace.clock.sleep(self.settings.databricks_poll_seconds)

    def _read_the_rest(self, *, succeeded: bool) -> None:
        """What was written just before the end may show up a little later."""
        for _ in range(_LAST_LOOKS):
            is_whole = self.reader.closed and (self.reader.done or not succeeded)
            if is_whole or not (succeeded or self.reader.opened):
                return
            self.workspace.clock.sleep(self.settings.databricks_poll_seconds)
            self.reader.read()

    def _cancel(self) -> None:
        """End the run, if there is one; what prevents that is logged, since another error is on its way."""
        try:
            run_id = self.run_id or self._started_unseen()
            if run_id is None:
                return
            if self.run_id is None:
                self.submitted(run_id)
            self.context.log.warning(f"run {run_id} is being cancelled")
            self.workspace.jobs.cancel_run(run_id)
            for _ in range(_LAST_LOOKS_AT_A_CANCELLED_RUN):
                state = self.workspace.jobs.get_run(run_id).state
                if state is not None and state.life_cycle_state in _ENDING:
                    return
                self.workspace.clock.sleep(self.settings.databricks_poll_seconds)
            self.context.log.error(f"run {run_id} was cancelled and hasn't ended yet: {self.page}")
        except Exception as error:
            self.context.log.error(
                f"the run {self.name!r} could not be cancelled and may go on for up to "
                f"{self.settings.databricks_timeout_seconds} s: {self.page or self.workspace.host} "
                f"({in_words(error)})"
            )

    def _started_unseen(self) -> int | None:
        """The run of a submit that was carried out although no good answer came."""
        active = self.workspace.jobs.list_runs(active_only=True, run_type=jobs.RunType.SUBMIT_RUN)
        return next((run.run_id for run in active if run.run_name == self.name), None)

    # -- failing -------------------------------------------------------------------------------------

    def _failure(self, state: jobs.RunState, messages: RemoteMessages) -> dg.Failure:
        known = messages.failure
        if known is not None:
            why = (
                known.error
                if known.permanent
                else f"{self.task.request.step} failed on Databricks: {known.error}"
            )
            return self._failed(why, state, traceback=known.traceback, permanent=known.permanent, whole=True)
        result = state.result_state
        if result is jobs.RunResultState.CANCELED:
            return self._failed("its run was cancelled in the workspace", state, permanent=True)
        if result is jobs.RunResultState.TIMEDOUT:
            limit = self.settings.databricks_timeout_seconds
            return self._failed(
                f"its run took longer than the {limit} s of ML_PLATFORM_DATABRICKS_TIMEOUT_SECONDS", state
            )
        ended = result or state.life_cycle_state
        named = ended.value if ended else "UNKNOWN"
        return self._failed(f"its run ended as {named}: {state.state_message or 'no reason given'}", state)

    def _failed(
        self,
        why: str,
        state: jobs.RunState,
        *,
        traceback: str | None = None,
        permanent: bool = False,
        whole: bool = False,
    ) -> dg.Failure:
        output = self._output()
        traceback = traceback or output.error_trace
        lines = list(self.reader.last_lines) + (output.logs or "").splitlines()[-50:]
        facts: dict[str, Any] = {
            "databricks_run": dg.MetadataValue.url(self.page) if self.page else str(self.run_id),
            "state": " ".join(
                part.value for part in (state.life_cycle_state, state.result_state) if part is not None
            ),
        }
        if traceback:
            facts["remote_traceback"] = dg.MetadataValue.md(f"```\n{traceback.strip()}\n```")
        elif output.error:
            facts["remote_error"] = output.error
        if lines:
            facts["last_log_lines"] = dg.MetadataValue.md("```\n" + "\n".join(lines) + "\n```")
        description = why if whole else f"{self.task.request.step} failed on Databricks: {why}"
        return dg.Failure(description, metadata=facts, allow_retries=not permanent)

    def _output(self) -> jobs.RunOutput:
        """What the workspace kept of the task's output; less matters than the failure itself."""
        try:
            assert self.run_id is not None
            tasks = self.workspace.jobs.get_run(self.run_id).tasks or []
            if tasks and tasks[0].run_id is not None:
                return self.workspace.jobs.get_run_output(tasks[0].run_id)
        except (DatabricksError, TimeoutError) as error:
            self.context.log.warning(f"the output of run {self.run_id} can't be had: {in_words(error)}")
        return jobs.RunOutput()


def _succeeded(state: jobs.RunState) -> bool:
    return (
        state.life_cycle_state is jobs.RunLifeCycleState.TERMINATED
        and state.result_state is jobs.RunResultState.SUCCESS
    )
