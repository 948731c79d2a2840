"""Dagster Pipes over a folder of a volume: one folder for a step's context and its messages.

``dagster-databricks`` reads messages in a thread, takes a file that is being written for a whole one, and
fails a good step whose folder can't be removed. Here messages are read when the runner asks, in its own
thread, and a file counts when it is whole.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from dagster._core.pipes.context import PipesMessageHandler
from dagster_databricks.pipes import (
    PipesUnityCatalogVolumesContextInjector,
    PipesUnityCatalogVolumesMessageReader,
)
from dagster_pipes import PipesContextData, PipesParams
from databricks.sdk.errors import NotFound, PermissionDenied

from ml_platform.engine.databricks.messages import CONTEXT_FILE, decode, file_name
from ml_platform.engine.databricks.workspace import Workspace, in_words

_LAST_LINES = 50


@contextmanager
def message_folder(workspace: Workspace, path: str, warn: Callable[[str], None]) -> Iterator[str]:
    """A folder of the volume for one step; that it can't be removed afterwards is no failure of the step."""
    workspace.files.create_directory(path)
    try:
        yield path
    finally:
        try:
            workspace.remove_folder(path)
        except Exception as error:
            warn(f"the folder {path} could not be removed: {in_words(error)}")


class VolumeContextInjector(PipesUnityCatalogVolumesContextInjector):
    """Writes the context of a step into its folder."""

    def __init__(self, workspace: Workspace, folder: str) -> None:
        super().__init__(client=workspace, volume_path=folder)  # type: ignore[arg-type]  # uses its api_client
        self._workspace = workspace
        self._path = f"{folder}/{CONTEXT_FILE}"

    @contextmanager
    def inject_context(self, context: PipesContextData) -> Iterator[PipesParams]:
        content = io.BytesIO(json.dumps(context).encode())
        self._workspace.files.upload(self._path, content, overwrite=True)
        yield {"path": self._path}


class VolumeMessageReader(PipesUnityCatalogVolumesMessageReader):
    """Reads the messages of a step when it is asked to.

    ``last_lines`` are the newest lines of its log; ``log`` is called with each of them.
    """

    def __init__(
        self, workspace: Workspace, folder: str, interval: float, log: Callable[[str], None]
    ) -> None:
        super().__init__(interval=interval, client=workspace, volume_path=folder)  # type: ignore[arg-type]
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._log = log
        self._handler: PipesMessageHandler | None = None
        self._closed = False
        self._done = False

    @property
    def expected_writer_count(self) -> int:
        return 1

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        self._handler = handler
        with self.get_params() as params:
            yield params

    @contextmanager
    def get_params(self) -> Iterator[PipesParams]:
        yield {"path": self.volume_path, "interval": self.interval}

    def read(self) -> None:
        """Take every message that has come since."""
        assert self._handler is not None, "messages are read within a Pipes session"
        while (messages := self._next_file()) is not None:
            self.counter += 1
            for message in messages:
                self._handler.handle_message(message)
                self._note(message)
                self._follow(message)

    @property
    def opened(self) -> bool:
        return self._handler is not None and self._handler.received_opened_message

    @property
    def closed(self) -> bool:
        """Whether the last attempt that has begun has also ended."""
        return self._closed

    @property
    def done(self) -> bool:
        """Whether the result of a whole step has come, after all that earlier attempts said."""
        return self._done

    def _follow(self, message: Mapping[str, Any]) -> None:
        """Where the step is. Each attempt at a task opens and closes the messages anew."""
        match message["method"]:
            case "opened":
                self._closed = self._done = False
            case "closed":
                self._closed = True
            case "report_custom_message":
                self._done = dict(message["params"]["payload"]).get("kind") == "done"

    def _next_file(self) -> list[Any] | None:
        try:
            answer = self.files_client.download(f"{self.volume_path}/{file_name(self.counter)}")
            assert answer.contents is not None
            with answer.contents as content:
                return decode(content.read().decode("utf-8"))
        except (NotFound, requests.RequestException, UnicodeDecodeError):
            # Not there yet, or the connection was cut while it came: the next look takes it.
            return None
        except PermissionDenied as error:
            line = f"the messages can't be read: {in_words(error)}"
            if line not in self.last_lines:
                self.last_lines.append(line)
            return None

    def _note(self, message: Mapping[str, Any]) -> None:
        if message["method"] == "log":
            line = str(message["params"]["message"])
            self.last_lines.append(line)
            self._log(line)
