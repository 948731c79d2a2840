"""Feature tables are declared from the contract, and only where there is a catalog to declare them to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from ml_platform.contract.monitoring import DataSet
from ml_platform.data_engineering import unity_catalog
from ml_platform.storage.catalog_location import CatalogLocation
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import shop

GOLDEN = Path(__file__).with_name("unity_catalog.sql")
ROOT = CatalogLocation("main", "ml-prod")
PRODUCT = shop(
    description="Does a customer buy?\nIt's \\ the day's visit that counts.",
    owners=["shop@example.org"],
    source__columns__customer={"type": "string", "sensitive": True},
)


def declared() -> list[str]:
    data_sets: tuple[DataSet, ...] = ("ards", "mrds")
    return [one for data_set in data_sets for one in unity_catalog.statements(PRODUCT, ROOT, data_set)]


def test_the_declarations_are_those_of_the_golden_file() -> None:
    assert ";\n".join(declared()) + ";\n" == GOLDEN.read_text()


@pytest.mark.parametrize("statement", declared())
def test_databricks_understands_each_statement(statement: str) -> None:
    (tree,) = sqlglot.parse(statement, dialect="databricks")
    assert tree is not None
    if "SET TAGS" not in statement:  # sqlglot passes these through unparsed
        assert not isinstance(tree, exp.Command)
    assert [table.name for table in tree.find_all(exp.Table)][:1] in (["shop_ards"], ["shop_mrds"], [])


def test_the_keys_are_those_of_the_contract_with_the_event_day_as_the_time() -> None:
    assert unity_catalog.primary_key(PRODUCT, "ards") == ["visit", "event_day"]
    assert unity_catalog.primary_key(PRODUCT, "mrds") == ["customer", "event_day"]
    for statement in declared():
        if statement.startswith("CREATE"):
            create = sqlglot.parse_one(statement, dialect="databricks")
            required = {
                column.name
                for column in create.find_all(exp.ColumnDef)
                if any(isinstance(one.kind, exp.NotNullColumnConstraint) for one in column.constraints)
            }
            data_set: DataSet = "ards" if "shop_ards" in statement else "mrds"
            assert required == set(unity_catalog.primary_key(PRODUCT, data_set))


class Recorder:
    """Stands for a session on Unity Catalog, which no open-source Spark has: primary keys and tags."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.properties: dict[str, str] = {}
        self.catalog = self

    def tableExists(self, name: str) -> bool:
        return any(one.startswith(f"CREATE TABLE IF NOT EXISTS {name} ") for one in self.statements)

    def sql(self, statement: str) -> Recorder:
        self.statements.append(statement)
        if "SET TBLPROPERTIES" in statement:
            name, value = statement.split("'")[1::2]
            self.properties[name] = value
        return self

    def collect(self) -> list[dict[str, str]]:
        return [{"key": key, "value": value} for key, value in self.properties.items()]


def test_a_table_is_declared_once_and_again_when_its_contract_changes(tmp_path: Path) -> None:
    session: Any = Recorder()
    tables = Tables("uc:main.ml-prod", control=str(tmp_path), session=lambda: session)
    assert unity_catalog.declare(lambda: session, PRODUCT, tables, "mrds")
    assert session.statements[:-1] == unity_catalog.statements(PRODUCT, ROOT, "mrds")
    assert not unity_catalog.declare(lambda: session, PRODUCT, tables, "mrds")
    assert unity_catalog.declare(lambda: session, shop(), tables, "mrds")


def test_nothing_is_declared_for_tables_at_a_path(tmp_path: Path) -> None:
    session: Any = Recorder()
    assert not unity_catalog.declare(lambda: session, PRODUCT, Tables(str(tmp_path)), "ards")
    assert session.statements == []
