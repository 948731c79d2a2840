"""The model-ready data set: one row per entity and event day, by the contract's rules.

Training and scoring both read it, so that they cannot disagree. Every aggregate is independent of the
order in which Spark meets the rows: ``first`` and ``last`` are decided by the declared order and then
the key, and doubles are summed in the order of their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.data_engineering import small_mrds
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.counting import Counted, Counting, Statistics
from ml_platform.data_engineering.small_mrds import AggregatedDay
from ml_platform.product import EVENT_DAY, LABEL_KNOWN_ON, Product
from ml_platform.storage.tables import Tables, column

MRDS = "mrds"


@dataclass(frozen=True)
class MrdsDay:
    """One day of the MRDS: what it holds, and the version of the table that has it.

    Its ``features_fingerprint`` leaves the label out: scoring and publishing don't change when labels come.
    """

    counted: Counted
    delta_version: int

    @property
    def counts(self) -> dict[str, int]:
        counted = self.counted
        return {"rows": counted.rows, "labelled": counted.labelled, "positives": counted.positives}


def columns(product: Product) -> list[str]:
    """The columns of the MRDS, in order."""
    return [*product.entity, EVENT_DAY, *product.mrds.aggregate, LABEL_KNOWN_ON]


def feature_columns(product: Product) -> list[str]:
    """The columns that are known when the day is scored."""
    return [*product.entity, EVENT_DAY, *product.features]


def write(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    *,
    run_id: str,
    statistics: Statistics | None = None,
) -> dict[date, MrdsDay]:
    """Write the MRDS of ``days`` from the ARDS: the small ones in tasks, where the tables lie in a folder.

    It is one commit, or two where some days are small and others are not.
    """
    counting = Counting(product.label, columns(product), feature_columns(product), statistics)
    source, place = (tables.day_files(product.name, table) for table in (ARDS, MRDS))
    done: dict[date, AggregatedDay] = {}
    if source and place:
        version = tables.version(product.name, ARDS)
        sizes = source.sizes(version)
        small = [day for day in days if sizes[day] <= small_mrds.SMALL_ROWS]
        done = {day: AggregatedDay() for day in small}
        done |= small_mrds.write(spark, product, small, source, version, place, counting)
        done = {day: one for day, one in done.items() if not one.for_spark}
    others = [day for day in days if day not in done]
    counted = {day: one.counted for day, one in done.items()}
    versions: dict[date, int] = {}
    if others:
        ards = tables.read_days(spark, product.name, ARDS, others)
        rows = aggregate(product, ards, len(others))
        version = tables.replace_days(spark, product.name, MRDS, rows, others, run_id=run_id)
        versions |= dict.fromkeys(others, version)
        counted |= counting.in_spark(tables.read_days(spark, product.name, MRDS, others))
    if done:
        files, schema = {day: one.files for day, one in done.items()}, small_mrds.schema(product)
        version = tables.replace_days_by(product.name, MRDS, schema, files, list(done), run_id=run_id)
        versions |= dict.fromkeys(done, version)
    return {day: MrdsDay(counted.get(day, Counted()), versions[day]) for day in days}


def aggregate(product: Product, ards: DataFrame, days: int = 1) -> DataFrame:
    """One row per entity and event day of ``ards``, in the columns of the MRDS."""
    if days > 1:
        ards = ards.repartition(EVENT_DAY)
    rules = product.mrds.aggregate
    order = [
        column(name).alias(f"_o{n}") for n, name in enumerate((*product.mrds.order_by, *product.ards_key))
    ]
    ends = {
        rule: [*[name for name, given in rules.items() if given == rule], LABEL_KNOWN_ON]
        for rule in ("first", "last")
    }
    grouped = ards.groupBy(*[column(name) for name in product.identity]).agg(
        F.min(F.struct(*order, *[column(name) for name in ends["first"]])).alias("_first"),
        F.max(F.struct(*order, *[column(name) for name in ends["last"]])).alias("_last"),
        *[_aggregate(product, name).alias(name) for name, rule in rules.items() if rule not in ends],
        F.max(LABEL_KNOWN_ON).alias(LABEL_KNOWN_ON),
    )
    chosen = {}
    for name, rule in rules.items():
        chosen[name] = F.col(f"_{rule}").getField(name) if rule in ends else column(name)
    label_rule = rules[product.label]
    label_known_on = (
        F.col(f"_{label_rule}").getField(LABEL_KNOWN_ON) if label_rule in ends else F.col(LABEL_KNOWN_ON)
    )
    chosen[LABEL_KNOWN_ON] = F.when(chosen[product.label].isNotNull(), label_known_on)
    return grouped.select(
        *[column(name) for name in product.entity if name != EVENT_DAY],
        F.col(EVENT_DAY),
        *[value.alias(name) for name, value in chosen.items()],
    )


def _aggregate(product: Product, name: str) -> Column:
    value = column(name)
    type_ = product.source.columns[name].type
    match product.mrds.aggregate[name]:
        case "min" | "max" as rule:
            extreme = F.min(value) if rule == "min" else F.max(value)
            # A label over several rows is known when all of its rows' labels are.
            all_known = F.count(value) == F.count(F.lit(1))
            return F.when(all_known, extreme) if name == product.label else extreme
        case "count":
            return F.count(value)
        case "sum":
            return _sum(value, type_)
        case "mean":
            return _sum(value, type_).cast("double") / F.count(value)
        case rule:
            raise AssertionError(f"{rule} is taken from the first or the last row")


def _sum(value: Column, type_: str) -> Column:
    """A sum that doesn't depend on the order of the rows; null if there is no value at all.

    Adding doubles is not associative, so they are added in ascending order.
    """
    if type_ != "double":
        return F.sum(value.cast("bigint"))
    total = F.aggregate(F.array_sort(F.collect_list(value)), F.lit(0.0), lambda left, right: left + right)
    return F.when(F.count(value) > 0, total)
