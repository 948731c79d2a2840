"""The model-ready data set: one row per entity and event day, by the contract's rules.

Training and scoring both read it, so that they cannot disagree. Every aggregate is independent of the
order in which Spark meets the rows: ``first`` and ``last`` are decided by the declared order and then
the key, and doubles are summed in the order of their values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import small_mrds
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.day_statistics import Counted, Counting, Statistics
from ml_platform.data_engineering.small_mrds import AggregatedDay
from ml_platform.storage.tables import Tables, column

MRDS = "mrds"


@dataclass(frozen=True)
class MrdsDay:
    """One day of the MRDS: what it holds and the version of the table that has it, or why it is refused.

    Its ``features_fingerprint`` leaves the label out: scoring and publishing don't change when labels come.
    """

    counted: Counted
    delta_version: int | None
    refusal: str | None = None

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

    It is one commit, or two where some days are small and others are not. A day with a sum that its type
    doesn't hold comes back with a ``refusal``, and what the table held of it stays.
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
    refusals = {day: one.refusal for day, one in done.items() if one.refusal}
    done = {day: one for day, one in done.items() if not one.refusal}
    others = [day for day in days if day not in done and day not in refusals]
    counted = {day: one.counted for day, one in done.items()}
    versions: dict[date, int] = {}
    if others:
        by_spark = _write_by_spark(spark, product, tables, others, run_id)
        refusals |= by_spark.refusals
        others = [day for day in others if day not in refusals]
        versions |= dict.fromkeys(others, by_spark.version)
    if others:
        rows = tables.read_days(spark, product.name, MRDS, others)
        counted |= counting.of_frame(rows, small_mrds.schema(product))
    if done:
        files, schema = {day: one.files for day, one in done.items()}, small_mrds.schema(product)
        version = tables.replace_days_by(product.name, MRDS, schema, files, list(done), run_id=run_id)
        versions |= dict.fromkeys(done, version)
    return {day: MrdsDay(counted.get(day, Counted()), versions.get(day), refusals.get(day)) for day in days}


@dataclass(frozen=True)
class _Written:
    version: int
    refusals: dict[date, str]


def _write_by_spark(
    spark: SparkSession, product: Product, tables: Tables, days: Sequence[date], run_id: str
) -> _Written:
    """Write days in one commit, but for those with a sum that its type doesn't hold."""

    def write(chosen: Sequence[date]) -> int:
        rows = aggregate(product, read(chosen), len(chosen))
        return tables.replace_days(spark, product.name, MRDS, rows, chosen, run_id=run_id)

    def read(chosen: Sequence[date]) -> DataFrame:
        return tables.read_days(spark, product.name, ARDS, chosen)

    try:
        return _Written(write(days), {})
    except Exception as error:
        if _TOO_LARGE not in str(error):
            raise
    refusals = too_large_days(product, read(days))
    rest = [day for day in days if day not in refusals]
    return _Written(write(rest) if rest else -1, refusals)


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
    match product.mrds.aggregate[name]:
        case "min" | "max" as rule:
            extreme = F.min(value) if rule == "min" else F.max(value)
            # A label over several rows is known when all of its rows' labels are.
            all_known = F.count(value) == F.count(F.lit(1))
            return F.when(all_known, extreme) if name == product.label else extreme
        case "count":
            return F.count(value)
        case "sum" | "mean":
            return _checked(product, name, _Total.of(product, name))
        case rule:
            raise AssertionError(f"{rule} is taken from the first or the last row")


@dataclass(frozen=True)
class _Total:
    """What the values of a group add up to: null without any.

    ``exact`` is of the type of the sum where it ``fits`` that; ``double`` is the same as a double, and
    ``text`` in decimal digits, or a word for what isn't finite.
    """

    exact: Column
    double: Column
    fits: Column
    text: Column

    @classmethod
    def of(cls, product: Product, name: str) -> _Total:
        value = column(name)
        if product.source.columns[name].type == "double":
            return cls._of_doubles(value)
        return cls._of_integers(value.cast("bigint"))

    @classmethod
    def _of_integers(cls, value: Column) -> _Total:
        """In two halves, of which neither can overflow, whatever the order of the rows."""
        bits, rest = small_mrds.HALF_BITS, (1 << small_mrds.HALF_BITS) - 1
        low_sum = F.sum(value.bitwiseAND(F.lit(rest)))
        high = F.sum(F.shiftright(value, bits)) + F.shiftright(low_sum, bits)
        low = low_sum.bitwiseAND(F.lit(rest))
        fits = F.coalesce(high.between(-(1 << 31), (1 << 31) - 1), F.lit(True))
        whole = high.cast("decimal(20,0)") * F.lit(Decimal(1 << bits)) + low.cast("decimal(20,0)")
        return cls(
            exact=F.when(fits, F.shiftleft(high, bits) + low),
            double=high.cast("double") * F.lit(float(1 << bits)) + low.cast("double"),
            fits=fits,
            text=whole.cast("string"),
        )

    @classmethod
    def _of_doubles(cls, value: Column) -> _Total:
        """Adding doubles is not associative, so they are added in ascending order."""
        ordered = F.array_sort(F.collect_list(value))
        added = F.aggregate(ordered, F.lit(0.0), lambda left, right: left + right)
        total = F.when(F.count(value) > 0, added)
        finite = F.abs(total) < F.lit(math.inf)  # Spark takes NaN for the greatest number
        infinite_values = F.max(F.abs(value)) >= F.lit(math.inf)
        fits = F.coalesce(finite | infinite_values, F.lit(True))
        return cls(exact=total, double=total, fits=fits, text=total.cast("string"))


def _totals(product: Product) -> dict[str, _Total]:
    """The totals of the columns that the MRDS has the sum or the mean of."""
    rules = product.mrds.aggregate
    return {name: _Total.of(product, name) for name, rule in rules.items() if rule in ("sum", "mean")}


def _checked(product: Product, name: str, total: _Total) -> Column:
    """The sum or the mean; the job fails where it is beyond its type, so that nothing else is stored."""
    if product.mrds.aggregate[name] == "sum":
        found = total.exact
    else:
        found = total.double / F.count(column(name))
        if product.source.columns[name].type != "double":
            return found  # of a whole number there is always a double
    return F.when(total.fits, found).otherwise(F.raise_error(F.lit(f"{name}: {_TOO_LARGE}")))


#: What Spark's own error says until :func:`too_large_days` has found out which day and group it is.
_TOO_LARGE = "a sum is beyond its type"


def too_large_days(product: Product, ards: DataFrame) -> dict[date, str]:
    """The days of ``ards`` with a sum or a mean that its type doesn't hold, each with the reason."""
    entity = [name for name in product.entity if name != EVENT_DAY]
    totals = {
        name: total
        for name, total in _totals(product).items()
        if product.mrds.aggregate[name] == "sum" or product.source.columns[name].type == "double"
    }
    if not totals:
        return {}
    columns = [F.struct(total.fits.alias("fits"), total.text.alias("text")) for total in totals.values()]
    grouped = ards.groupBy(*[column(name) for name in product.identity]).agg(
        *[one.alias(f"_t{n}") for n, one in enumerate(columns)]
    )
    keys = [column(name).alias(f"_k{n}") for n, name in enumerate(entity)]
    # The first column of the contract counts, and of that the first group, as in a task.
    firsts = [
        F.min(F.when(~F.col(f"_t{n}.fits"), F.struct(*keys, F.col(f"_t{n}.text").alias("_text")))).alias(
            f"_f{n}"
        )
        for n in range(len(columns))
    ]
    found = {}
    for row in grouped.groupBy(EVENT_DAY).agg(*firsts).collect():
        for n, name in enumerate(totals):
            if (first := row[f"_f{n}"]) is None:
                continue
            values = dict(zip(entity, first, strict=False)) | {EVENT_DAY: row[EVENT_DAY]}
            text = first["_text"]
            total = float(text) if product.mrds_type(name) == "double" else int(text)
            named = [values[key] for key in product.entity]
            found[row[EVENT_DAY]] = str(small_mrds.too_large(product, name, named, total))
            break
    return found
