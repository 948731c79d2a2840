"""What the job ``smoke`` of the bundle runs in a workspace: a try of what steps need there.

The wheel is installed and its entry point loads; a feature table is declared, written, read and dropped in
the schema, and a file in the volume. It is no test of the platform: `make smoke-databricks` is.

Arguments: the root of the tables (``uc:catalog.schema``), and the path of the volume.
"""

from __future__ import annotations

import sys
import uuid
from datetime import date
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering import mrds, unity_catalog
from ml_platform.settings import PACKAGE
from ml_platform.storage.tables import Tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ENTRY_POINT = "ml-platform-step"
DAY = date(2024, 1, 1)


def main(spark: SparkSession, root: str, volume: str) -> None:
    """Try everything once; whatever fails raises."""
    (step,) = entry_points(group="console_scripts", name=ENTRY_POINT)
    step.load()
    print(f"ml-platform {version('ml-platform')} on Python {sys.version.split()[0]}, Spark {spark.version}")
    run = f"smoke_{uuid.uuid4().hex[:8]}"
    product = load_product(PACKAGE / "products" / "customers.yaml").model_copy(update={"name": run})
    # The small tables aren't touched, so any place will do for them.
    tables = Tables(root, control="/tmp", session=lambda: spark)  # noqa: S108
    try:
        try_table(spark, product, tables)
    finally:
        spark.sql(f"DROP TABLE IF EXISTS {tables.path(run, mrds.MRDS)}")
    try_volume(Path(volume) / run)
    print("all is well")


def try_table(spark: SparkSession, product: Product, tables: Tables) -> None:
    """Declare the MRDS as a feature table, write a day of it twice, and read it."""
    unity_catalog.declare(lambda: spark, product, tables, "mrds")
    columns = unity_catalog.columns(product, "mrds")
    values = dict.fromkeys(product.entity, "1") | {"event_day": f"DATE'{DAY}'"}
    row = ", ".join(
        f"CAST({values.get(name, 'NULL')} AS {type_}) AS `{name}`" for name, type_ in columns.items()
    )
    for _ in range(2):
        tables.replace_days(
            spark, product.name, mrds.MRDS, spark.sql(f"SELECT {row}"), [DAY], run_id=product.name
        )
    found = tables.read_days(spark, product.name, mrds.MRDS, [DAY]).count()
    if found != 1:
        raise AssertionError(f"a day of one row, written twice, has {found} rows")


def try_volume(file: Path) -> None:
    """Write, read and remove a file."""
    file.write_text("smoke")
    content = file.read_text()
    file.unlink()
    if content != "smoke":
        raise AssertionError(f"{file} holds {content!r}")


if __name__ == "__main__":
    from pyspark.sql import SparkSession

    main(SparkSession.builder.getOrCreate(), *sys.argv[1:])
