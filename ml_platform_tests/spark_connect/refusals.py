"""What serverless compute refuses of a client of Spark Connect, refused before a request leaves the process.

Every request is looked through, whichever function of PySpark or text of SQL has made it. What Spark Connect
doesn't offer at all (RDDs, the Spark context, the JVM) PySpark's client refuses by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message
from pyspark.errors import PySparkException
from pyspark.sql.connect.client import core

#: docs.databricks.com/spark/conf, "Configure Spark properties for serverless notebooks and jobs".
SETTINGS = frozenset(
    {
        "spark.databricks.execution.timeout",
        "spark.sql.ansi.enabled",
        "spark.sql.files.maxPartitionBytes",
        "spark.sql.legacy.timeParserPolicy",
        "spark.sql.session.timeZone",
        "spark.sql.shuffle.partitions",
    }
)
_CACHING = re.compile(r"\s*(UN)?CACHE\s+(LAZY\s+)?TABLE\b", re.IGNORECASE)
_SETTING = re.compile(r"\s*SET\s+(?!TIME\s+ZONE\b)`?([\w.]+)`?\s*=", re.IGNORECASE)
_PATH = re.compile(
    r"\b(delta|parquet|csv|json|orc|text|avro|binaryFile)\s*\.\s*`|\bLOCATION\s+['\"]|\bDIRECTORY\s+['\"]",
    re.IGNORECASE,
)


class ServerlessError(PySparkException):
    """Serverless compute doesn't do that."""


def enforce() -> None:
    """Have every channel that this process opens to a Spark Connect server refuse it from now on."""
    before = core.ChannelBuilder.__init__

    def init(self: core.ChannelBuilder, *words: Any, **options: Any) -> None:
        before(self, *words, **options)
        self.add_interceptor(_Refusing())

    core.ChannelBuilder.__init__ = init


class _Refusing(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        check(request)
        return continuation(details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        check(request)
        return continuation(details, request)


def check(request: Message) -> None:
    """See that serverless compute would take a request.

    Raises:
        ServerlessError: it wouldn't, in its words.
    """
    for message in _messages(request):
        match message.DESCRIPTOR.full_name.removeprefix("spark.connect."):
            case "AnalyzePlanRequest.Persist" | "AnalyzePlanRequest.Unpersist" | "CacheTable":
                _refuse("PERSIST TABLE")
            case "CheckpointCommand":
                _refuse("CHECKPOINT")
            case "ConfigRequest.Set":
                for pair in message.pairs:  # type: ignore[attr-defined]
                    _check_setting(pair.key)
            case "ConfigRequest.Unset":
                for key in message.keys:  # type: ignore[attr-defined]
                    _check_setting(key)
            case "WriteOperation":
                if message.WhichOneof("save_type") == "path":
                    _refuse(f"WRITE TO {message.path}")  # type: ignore[attr-defined]
            case "Read.DataSource":
                for path in message.paths:  # type: ignore[attr-defined]
                    _refuse(f"READ OF {path}")
            case "Read.NamedTable":
                _check_sql(f"TABLE {message.unparsed_identifier}")  # type: ignore[attr-defined]
            case "SQL":
                _check_sql(message.query)  # type: ignore[attr-defined]
            case "SqlCommand":
                _check_sql(message.sql)  # type: ignore[attr-defined]


def _check_sql(text: str) -> None:
    if _CACHING.match(text):
        _refuse("PERSIST TABLE")
    if setting := _SETTING.match(text):
        _check_setting(setting[1])
    if found := _PATH.search(text):
        _refuse(f"PATH {found[0]}")


def _check_setting(name: str) -> None:
    if name not in SETTINGS:
        raise ServerlessError(
            f"[CONFIG_NOT_AVAILABLE] Configuration {name} is not available. SQLSTATE: 42K0I"
        )


def _refuse(what: str) -> None:
    raise ServerlessError(
        f"[NOT_SUPPORTED_WITH_SERVERLESS] {what} is not supported on serverless compute. SQLSTATE: 0A000"
    )


def _messages(message: Message) -> Iterator[Message]:
    """A message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for part in value.values():
                    yield from _messages(part)
        elif isinstance(value, Message):
            yield from _messages(value)
        else:
            for part in value:
                yield from _messages(part)
