"""What travels between Dagster and a remote step over Pipes, and how it is written to a volume.

The task goes there as an extra of the Pipes context, the result of each day comes back as a custom message
of its own. Messages are written in files that are numbered from 1; each ends with a line that counts its
messages, so that a reader can tell a file that is whole from one that is being written. Both ends import
this module: it needs no Dagster and no Databricks.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from dagster_pipes import (
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    PipesParams,
)
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from ml_platform.contract.loading import contract_text
from ml_platform.contract.product import Product
from ml_platform.contract.yaml_text import parse_yaml
from ml_platform.engine.step import DayResult, StepRequest, StepResult

#: The name of the task among the extras.
TASK = "task"
CONTEXT_FILE = "context.json"
#: What the line of a step's log begins with that tells the versions over there.
ENVIRONMENT = "environment"

_COUNT = "messages"
#: Files stay below this size as long as a single message does.
_FILE_SIZE = 1 << 20
_WRITE_ATTEMPTS = 6


def _of_text(contract: object) -> object:
    """The content of a contract that came as text: JSON would make texts of keys that are numbers."""
    return parse_yaml(contract) if isinstance(contract, str) else contract


class Task(BaseModel):
    """All that a remote step is given. Secrets are named: environment variable to scope/key."""

    request: StepRequest
    product: Annotated[Product, BeforeValidator(_of_text)]
    settings: dict[str, Any]
    secrets: dict[str, str] = {}

    def as_extras(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude={"product"})
        return {TASK: content | {"product": contract_text(self.product)}}


class _Message(BaseModel):
    # A metric that is not a number stays one.
    model_config = ConfigDict(ser_json_inf_nan="constants")


class DayDone(_Message):
    """The result of one day."""

    kind: Literal["day"] = "day"
    result: DayResult


class StepDone(_Message):
    """The step has ended well; ``days`` is the number of days it has reported."""

    kind: Literal["done"] = "done"
    days: int
    metadata: dict[str, Any]


class StepFailed(_Message):
    """The step has failed; ``permanent`` says that trying again can't help."""

    kind: Literal["failed"] = "failed"
    permanent: bool
    error: str
    traceback: str


Message = DayDone | StepDone | StepFailed
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def messages_of(result: StepResult) -> Iterator[dict[str, Any]]:
    """A result as plain data, a day at a time."""
    for day in result.days:
        yield DayDone(result=day).model_dump(mode="json")
    yield StepDone(days=len(result.days), metadata=result.metadata).model_dump(mode="json")


class MissingResultError(Exception):
    """The messages don't have a result for every day; the text says what is missing."""


class RemoteMessages:
    """What a remote step has said of its result; ``failure`` is None if its last attempt was a success.

    A workspace by itself starts a failed task again, which then says all of it anew.
    """

    def __init__(self, messages: list[Any]) -> None:
        self._days: list[DayResult] = []
        self._done: StepDone | None = None
        self.failure: StepFailed | None = None
        said: list[DayResult] = []
        for message in map(_MESSAGES.validate_python, messages):
            if isinstance(message, DayDone):
                said.append(message.result)
            elif isinstance(message, StepDone):
                # An attempt that died in between may have left days before these.
                self._days, said = said[max(0, len(said) - message.days) :], []
                self._done, self.failure = message, None
            else:
                self._days, said = [], []
                self._done, self.failure = None, message
        if self._done is None:
            self._days = said

    def result(self, request: StepRequest) -> StepResult:
        """The whole result.

        Raises:
            MissingResultError: no result has come, or not of every day that was asked for.
        """
        if self._done is None:
            raise MissingResultError("it sent no result")
        days = {day.day for day in self._days}
        if len(self._days) != self._done.days or not days.issuperset(request.days):
            raise MissingResultError(f"it sent the result of {len(days)} of {len(request.days)} days")
        return StepResult(days=self._days, metadata=self._done.metadata)


# -- the files ---------------------------------------------------------------------------------------


def encode(messages: list[str]) -> str:
    """A file of messages, each a line of JSON."""
    return "\n".join([*messages, json.dumps({_COUNT: len(messages)})]) + "\n"


def decode(content: str) -> list[PipesMessage] | None:
    """The messages of a file, or None if it isn't whole."""
    *lines, last = content.splitlines() or [""]
    try:
        count = json.loads(last)
    except ValueError:
        return None
    if not isinstance(count, dict) or count != {_COUNT: len(lines)}:
        return None
    return [json.loads(line) for line in lines]


def file_name(number: int) -> str:
    """The name of a file of messages, counted from 1."""
    return f"{number}.json"


def _next_number(folder: Path) -> int:
    """The number behind an earlier attempt's files; that of its last one if it was killed while it wrote."""
    last = max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=0)
    if last and decode((folder / file_name(last)).read_text(encoding="utf-8", errors="replace")) is None:
        return last
    return last + 1


class VolumeMessageWriter(PipesMessageWriter["VolumeChannel"]):
    """Writes the messages of a remote step into a folder of a volume, while the step runs."""

    @contextmanager
    def open(self, params: PipesParams) -> Iterator[VolumeChannel]:
        channel = VolumeChannel(Path(params["path"]), float(params["interval"]))
        with channel.writing():
            yield channel


class VolumeChannel(PipesMessageWriterChannel):
    """Collects messages and writes them into numbered files, the first at once, then at most one an interval.

    Files of an earlier attempt at the same task stay, and are followed by these.

    A write that fails is tried again; a step goes on meanwhile. What could not be written in the end fails
    the task, since nobody would know of its result.
    """

    def __init__(self, folder: Path, interval: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._interval = interval
        self._sleep = sleep
        self._waiting: list[str] = []
        self._changed = threading.Condition()
        self._closed = False
        self._error: OSError | None = None
        self._number = _next_number(folder)

    def write_message(self, message: PipesMessage) -> None:
        with self._changed:
            self._waiting.append(json.dumps(message))
            self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write in the background; at the end wait until all is written.

        Raises:
            OSError: the volume took no more messages.
        """
        thread = threading.Thread(target=self._write_all, name="pipes messages", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            thread.join()
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                chunk = self._next_chunk()
                closed = self._closed
            if not chunk:
                return
            try:
                self._write(encode(chunk))
            except OSError as error:
                self._error = error
                return
            if not closed:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=self._interval)

    def _next_chunk(self) -> list[str]:
        size, count = 0, 0
        for message in self._waiting:
            size += len(message)
            if count and size > _FILE_SIZE:
                break
            count += 1
        chunk, self._waiting = self._waiting[:count], self._waiting[count:]
        return chunk

    def _write(self, content: str) -> None:
        path = self._folder / file_name(self._number)
        for attempt in range(1, _WRITE_ATTEMPTS + 1):
            try:
                path.write_text(content, encoding="utf-8")
            except OSError:
                if attempt == _WRITE_ATTEMPTS:
                    raise
                self._sleep(min(2.0**attempt / 4, 10.0))
            else:
                self._number += 1
                return
