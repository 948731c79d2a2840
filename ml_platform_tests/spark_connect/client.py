"""A process like that of a step on serverless compute: its session is one of Spark Connect, with refusals.

It does what it is asked on its standard input, a line of JSON each, and answers with one: the result, or the
error with its class. ``main`` is the process; :class:`Client` is who asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering import unity_catalog
from ml_platform.engine.passing_errors import is_passing
from ml_platform.settings import Settings
from ml_platform.spark.session import session_here
from ml_platform_tests.small_platform import Platform
from ml_platform_tests.spark_connect.server import end_with_parent

SECONDS_TO_END = 20


class RemoteError(Exception):
    """What a request raised over there; ``passing`` says whether the graph would try the step again."""

    def __init__(self, kind: str, message: str, passing: bool) -> None:
        super().__init__(f"{kind}: {message}")
        self.passing = passing


class Client:
    """A running process, from which a platform with tables in a catalog is worked on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest request that has none yet.

        Raises:
            RemoteError: the request raised.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"answer"'):
                return json.loads(line)["answer"]
            if line.startswith('{"error"'):
                error = json.loads(line)["error"]
                raise RemoteError(*error)
        raise EOFError("the process has ended")

    def ask(self, **request: Any) -> Any:
        self.send(**request)
        return self.answer()

    def run(self, step: str, days: Sequence[date], **options: Any) -> Any:
        """Run a step; its result's metadata."""
        return self.ask(do="run", step=step, days=list(days), **options)


@contextlib.contextmanager
def client_of(
    address: str, settings: Settings, product: Product, *, log: Path, prelude: str = ""
) -> Iterator[Client]:
    """A process whose session is on the server at ``address``; it is ended in the end.

    Args:
        prelude: Python that it runs first.
    """
    content = product.model_dump(mode="json", by_alias=True, exclude_unset=True)
    told = {"settings": settings.model_dump(mode="json", exclude_unset=True), "product": content}
    environment = os.environ | {
        "SPARK_REMOTE": address,
        "DATABRICKS_RUNTIME_VERSION": "client.5",
        "ML_PLATFORM_TEST_CLIENT": json.dumps(told | {"prelude": prelude}),
    }
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        yield Client(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def leave_out_unity_sql() -> None:
    """Have data sets declared in the SQL that open-source Spark knows: no keys, no tags.

    What is left makes the table with the contract's columns in their order and with their comments.
    """
    declared = unity_catalog.statements

    def statements(*words: Any) -> list[str]:
        create, comment, *_ = declared(*words)
        lines = [line for line in create.splitlines() if not line.startswith("  CONSTRAINT ")]
        return [re.sub(r",\n\)", "\n)", "\n".join(lines)), comment]

    unity_catalog.statements = statements


def main() -> None:
    from ml_platform_tests.spark_connect import refusals

    told = json.loads(os.environ["ML_PLATFORM_TEST_CLIENT"])
    refusals.enforce()
    leave_out_unity_sql()
    exec(told["prelude"], {})
    settings = Settings(**told["settings"])
    spark = session_here(settings)
    platform = Platform(settings, spark, parse_product(told["product"], "shop.yaml"))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": _done(platform, **request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": [type(error).__name__, str(error), is_passing(error)]}
        print(json.dumps(answer, default=str), flush=True)


def _done(platform: Platform, do: str, **request: Any) -> Any:
    match do:
        case "run":
            chosen = [date.fromisoformat(day) for day in request.pop("days")]
            return dict(platform.run(request.pop("step"), chosen, **request).metadata)
        case "sql":
            return [row.asDict() for row in platform.spark.sql(request["text"]).collect()]
        case "rows":
            frame = platform.rows(request["table"])
            frame.attrs.clear()  # Spark leaves its metrics there, which no file takes
            frame.to_parquet(request["to"])
            return None
        case "write":
            day = date.fromisoformat(request["day"])
            facts = [(day, request["writer"], n) for n in range(3)]
            rows = platform.spark.createDataFrame(facts, "event_day date, writer int, n int")
            words = (platform.spark, platform.product.name, request["table"], rows, [day])
            for _ in range(request["commits"]):
                platform.tables.replace_days(*words, run_id=str(request["writer"]))
            return None
        case "python":  # an expression over the platform and its session
            return repr(eval(request["text"], {"platform": platform, "spark": platform.spark}))
    raise ValueError(f"{do} is unknown")


if __name__ == "__main__":
    main()
