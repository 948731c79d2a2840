"""SQL Server can't be installed for tests: its statements are a golden file that people can read.

They are parsed by an independent T-SQL parser, and held to the limits that Microsoft documents. Whoever has
a server runs the store's own tests on it: `make test-online URL=mssql+mssqlpython://…`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
import sqlglot
from sqlalchemy.dialects.mssql import mssqlpython

from ml_platform.online_store.dialects import SqlServer
from ml_platform.online_store.feature_tables import FeatureTables
from ml_platform.online_store.statements import Statements
from ml_platform.online_store.store import in_chunks
from ml_platform_tests.online_store.rows import MONDAY, THURSDAY, TUESDAY
from ml_platform_tests.online_store.test_store import everything
from ml_platform_tests.small_platform import shop

GOLDEN = Path(__file__).with_name("online_sqlserver.sql")
#: As the server gets them: the driver turns named parameters into question marks.
SENT = mssqlpython.dialect(paramstyle="qmark")
SENT.server_version_info = (16, 0)


class FixedNames(SqlServer):
    """Staging tables with a name that doesn't change from run to run."""

    def staging_name(self, name: str) -> str:
        return f"{name}_0123456789ab"


def written(statement: sa.ClauseElement) -> str:
    compiled = statement.compile(dialect=SENT, compile_kwargs={"render_postcompile": True})
    return re.sub(r"[ \t]+\n", "\n", str(compiled).strip())


def script() -> list[tuple[str, str]]:
    """Every statement of the store, with what it is for, in the order of a publication."""
    tables = FeatureTables(everything(), FixedNames(60))
    statements = Statements(tables)
    staging, gone = tables.staging(), tables.gone()
    days = [MONDAY, TUESDAY, THURSDAY]
    keys = [("north", 1), ("south", 2)]
    simple = Statements(FeatureTables(shop(), FixedNames(60)))
    return [
        ("wait for no lock longer than a minute", "SET LOCK_TIMEOUT 60000"),
        ("fail as a whole", "SET XACT_ABORT ON"),
        ("one change of a product at a time", written(sa.text(SqlServer.LOCK))),
        *[
            (f"create {table.name}", written(sa.schema.CreateTable(table)))
            for table in (tables.features, tables.days, tables.forgotten, staging, gone)
        ],
        ("the days published before", written(statements.published_versions())),
        ("find stored rows that left their day", written(statements.find_gone(gone, staging, days, 7))),
        ("read them", written(statements.gone_rows(gone, 1, 250_000))),
        ("of a fallback and a staged row keep the newer", written(statements.drop_older_staged(staging))),
        ("nobody else changed these days since", written(statements.gone_since(gone, staging, days, 7))),
        ("withdraw", written(statements.withdraw(staging, days, 7))),
        ("staged entities to be forgotten", written(statements.staged_forgotten(staging))),
        ("merge", written(statements.merge(staging, 7, ["dropped feature"]))),
        ("staged entities that arrived", written(statements.arrived(staging, 7))),
        ("the last publication", written(statements.last_publication())),
        ("forget what is known of the days", written(statements.clear_days(days))),
        ("record the days", written(statements.record_days())),
        ("count and newest day", written(statements.totals())),
        ("look up a key of two columns", written(statements.row_of_key())),
        ("look up two keys of two columns", written(statements.rows_of_keys(keys))),
        ("look up a key of one column", written(simple.row_of_key())),
        ("look up two keys of one column", written(simple.rows_of_keys([("a",), ("b",)]))),
        (
            "the same before there is a column for visits",
            written(simple.rows_of_keys([("a",), ("b",)], set(simple.features.c.keys()) - {"visit"})),
        ),
        ("entities forgotten already", written(statements.known_tombstones(keys))),
        ("forget", written(statements.add_tombstones(keys, "asked"))),
        ("delete what is stored", written(statements.delete_features(keys))),
        ("count the change", written(statements.count_change())),
        ("unforget", written(statements.delete_tombstones(keys))),
    ]


def sent(statement: str) -> str:
    return re.sub(r"%\(\w+\)s|(?<=[ (=]):\w+", "?", statement)


def text_of(statements: list[tuple[str, str]]) -> str:
    return "".join(f"-- {title}\n{sent(one).rstrip(';')};\n\n" for title, one in statements)


def test_the_statements_are_those_of_the_golden_file() -> None:
    """Write the file anew with ML_PLATFORM_WRITE_GOLDEN=1, and read what has changed."""
    if os.environ.get("ML_PLATFORM_WRITE_GOLDEN"):
        GOLDEN.write_text(text_of(script()))
    assert text_of(script()) == GOLDEN.read_text()


@pytest.mark.parametrize(("title", "statement"), script(), ids=[title for title, _ in script()])
def test_a_parser_of_t_sql_takes_every_statement(title: str, statement: str) -> None:
    parsed = sqlglot.parse(sent(statement), dialect="tsql")
    assert parsed
    assert all(one is not None for one in parsed)


def test_no_statement_binds_more_than_2100_values() -> None:
    dialect = SqlServer(60)
    for columns in range(1, 20):
        assert 1 <= dialect.keys_at_once(columns) * columns <= 2_100
        keys = [(n,) * columns for n in range(5_000)]
        chunks = list(in_chunks(keys))
        assert [key for chunk in chunks for key in chunk] == keys
        assert max(map(len, chunks)) * (columns + 1) <= 2_100


def test_keys_of_text_fit_into_an_index() -> None:
    for columns in range(1, 8):
        length = SqlServer(60).key_type("string", columns).length  # type: ignore[attr-defined]
        assert 2 * length * columns <= 900
