"""What the contract expects of a day of the ARDS or the MRDS: the suite of Great Expectations.

An expectation is plain data, so that it can travel to where the rows are; :mod:`.validation` has it
evaluated. Checks against the days before it, and of its delivery's figures, are in :mod:`.anomalies`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from ml_platform.contract.column_types import COLUMN_TYPES, NUMERIC_TYPES, ColumnType
from ml_platform.contract.monitoring import MASK, CustomExpectation, DataSet, Rule, Severity
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.mlops.quality.profiles import ColumnProfile, Profile

Dimension = Literal["schema", "completeness", "validity", "uniqueness", "volume", "timeliness"]

#: The dimension of each rule, and how much it matters unless the contract says otherwise.
RULES: dict[Rule, tuple[Dimension, Severity]] = {
    "columns": ("schema", "error"),
    "type": ("schema", "error"),
    "minimum_rows": ("volume", "error"),
    "unique": ("uniqueness", "error"),
    "not_null": ("completeness", "error"),
    "null_share": ("completeness", "error"),
    "allowed": ("validity", "error"),
    "range": ("validity", "error"),
    "aggregation": ("validity", "error"),
    "rows_of_weekday": ("volume", "warning"),
    "quarantined_share": ("validity", "error"),
    "superseded_share": ("uniqueness", "warning"),
    "labelled_share": ("timeliness", "warning"),
    "dated_ahead": ("timeliness", "warning"),
    "nulls_of_history": ("completeness", "warning"),
    "mean_of_history": ("validity", "warning"),
    "spread_of_history": ("validity", "warning"),
    "values_of_history": ("validity", "warning"),
    "shares_of_history": ("validity", "warning"),
}

_OF_SCHEMA = frozenset(
    {
        "expect_column_to_exist",
        "expect_column_values_to_be_in_type_list",
        "expect_table_column_count_to_be_between",
        "expect_table_column_count_to_equal",
        "expect_table_columns_to_match_ordered_list",
        "expect_table_columns_to_match_set",
    }
)


_OF_SIZE = frozenset({"expect_table_row_count_to_be_between", "expect_table_row_count_to_equal"})


@dataclass(frozen=True)
class Expectation:
    """One expectation: the library's name and arguments, and what people read of it.

    ``words`` say what holds where it is fulfilled, and name it; ``wrong`` what is wrong where it is not.
    """

    type: str
    kwargs: dict[str, Any]
    words: str
    expected: str
    dimension: Dimension
    severity: Severity
    columns: tuple[str, ...] = field(default=())
    wrong: str = ""

    @property
    def rule_content(self) -> dict[str, Any]:
        """What a verdict depends on: all but how its failure is worded."""
        return {name: value for name, value in vars(self).items() if name != "wrong"}

    @property
    def of_schema(self) -> bool:
        """Whether it is about the table alone, and not about a day's rows."""
        return self.type in _OF_SCHEMA

    @property
    def of_size(self) -> bool:
        """Whether it is about the number of a day's rows alone."""
        return self.type in _OF_SIZE

    @property
    def is_type(self) -> bool:
        """Whether it is about a column's type, which an engine names in its own way."""
        return self.type == "expect_column_values_to_be_in_type_list"


def suite(
    product: Product, data_set: DataSet, source: Profile | None = None, *, day: date | None = None
) -> list[Expectation]:
    """The expectations over the rows of a day.

    Args:
        day: before the first day of a column (its ``since``) only its place in the table and its type are
            looked at; None for a day on which all columns must be there.
        source: for the MRDS, the profile of the ARDS that the day was aggregated from; its rules give
            bounds then, and the suite differs from day to day.
    """
    early = not_yet_required(product, day)
    rules = [
        *_own_rules(product, data_set),
        *(_of_aggregation(product, source) if data_set == "mrds" else ()),
        *(_custom(product, added) for added in product.validation.expectations if added.on == data_set),
    ]
    return [*_schema(product, data_set), *(rule for rule in rules if early.isdisjoint(rule.columns))]


def not_yet_required(product: Product, day: date | None) -> frozenset[str]:
    """The columns whose first day (``since``) is after ``day``: rules about their values don't count yet."""
    if day is None:
        return frozenset()
    declared = product.columns.items()
    return frozenset(name for name, column in declared if column.since and day < column.since)


def severity_of(product: Product, rule: Rule) -> Severity:
    """How much a rule matters to this product."""
    return product.validation.severity.get(rule, RULES[rule][1])


def number(value: float) -> str:
    """A figure as people read it: separators, and no more digits than tell something."""
    if abs(value) < 1e18 and (abs(value) >= 1000 or float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:,.4g}"


def _make(
    product: Product,
    rule: Rule,
    type_: str,
    words: str,
    wrong: str,
    expected: str,
    *columns: str,
    **kwargs: Any,
) -> Expectation:
    dimension, _ = RULES[rule]
    return Expectation(
        type=type_,
        kwargs=kwargs,
        words=words,
        wrong=wrong,
        expected=expected,
        dimension=dimension,
        severity=severity_of(product, rule),
        columns=columns,
    )


def _schema(product: Product, data_set: DataSet) -> Iterator[Expectation]:
    types = _types(product, data_set)
    yield _make(
        product,
        "columns",
        "expect_table_columns_to_match_set",
        "the table has the contract's columns",
        "the table has other columns than the contract",
        f"{len(types)} columns",
        column_set=list(types),
        exact_match=True,
    )
    for name, type_ in types.items():
        yield _make(
            product,
            "type",
            "expect_column_values_to_be_in_type_list",
            f"{name} is of type {type_}",
            f"{name} is not of type {type_}",
            type_,
            name,
            column=name,
            type_list=[COLUMN_TYPES[type_].spark],
        )


def _types(product: Product, data_set: DataSet) -> dict[str, ColumnType]:
    """The columns of a data set with their types, the clock's columns included."""
    if data_set == "ards":
        own: dict[str, ColumnType] = {name: declared.type for name, declared in product.columns.items()}
    else:
        own = {name: product.mrds_type(name) for name in (*product.entity, *product.mrds.columns)}
    return own | {EVENT_DAY: "date", LABEL_KNOWN_ON: "date"}


def _own_rules(product: Product, data_set: DataSet) -> Iterator[Expectation]:
    rules = product.validation
    minimum = rules.minimum_rows if data_set == "ards" else min(1, rules.minimum_rows)
    yield _make(
        product,
        "minimum_rows",
        "expect_table_row_count_to_be_between",
        "there are enough rows",
        "there are too few rows",
        f"at least {minimum:,}",
        min_value=minimum,
    )
    key = product.ards_key if data_set == "ards" else tuple(product.identity)
    yield _unique(product, key)
    kept = _kept_columns(product, data_set)
    of_day = {*product.mrds.aggregate} if data_set == "mrds" and product.mrds.population else set()
    required = [name for name in (*product.entity, *rules.not_null) if name in kept and name not in of_day]
    for name in dict.fromkeys(required):
        yield _not_null(product, "not_null", name, 1.0, "no nulls")
    if data_set == "ards":
        for name, share in rules.maximum_null_share.items():
            yield _not_null(product, "null_share", name, 1.0 - share, f"at most {share:.2%} nulls")
    for name in kept:
        declared = {*product.columns, *product.mrds.ahead}
        allowed = product.allowed_in(name) if name in declared else None
        if allowed:
            yield _make(
                product,
                "allowed",
                "expect_column_values_to_be_in_set",
                f"{name} is one of the allowed values",
                f"{name} has values that are not allowed",
                MASK if name in product.sensitive else ", ".join(str(value) for value in allowed),
                name,
                column=name,
                value_set=list(allowed),
            )
        if name in rules.ranges:
            limits = rules.ranges[name]
            yield _between(product, "range", name, limits.minimum, limits.maximum)


def _kept_columns(product: Product, data_set: DataSet) -> Sequence[str]:
    """The columns that the contract's rules are about: with the source's values, or over trailing windows."""
    if data_set == "ards":
        return list(product.columns)
    kept = [name for name, rule in product.mrds.aggregate.items() if rule in ("min", "max", "first", "last")]
    mrds = product.mrds
    return [*product.entity, *kept, *mrds.trailing, *mrds.made, *mrds.ahead]


def _unique(product: Product, key: Sequence[str]) -> Expectation:
    words = f"{', '.join(key)} identifies a row"
    arguments: dict[str, Any] = {"column_list": list(key)}
    type_ = "expect_compound_columns_to_be_unique"
    if len(key) == 1:
        type_, arguments = "expect_column_values_to_be_unique", {"column": key[0]}
    wrong = f"several rows have the same {', '.join(key)}"
    return _make(product, "unique", type_, words, wrong, "no duplicates", *key, **arguments)


def _not_null(product: Product, rule: Rule, name: str, mostly: float, expected: str) -> Expectation:
    arguments: dict[str, Any] = {"column": name}
    if mostly < 1.0:
        arguments["mostly"] = mostly
    return _make(
        product,
        rule,
        "expect_column_values_to_not_be_null",
        f"{name} is {'never' if mostly == 1.0 else 'seldom'} null",
        f"{name} is null" if mostly == 1.0 else f"{name} is null too often",
        expected,
        name,
        **arguments,
    )


def _between(product: Product, rule: Rule, name: str, low: float | None, high: float | None) -> Expectation:
    limits: dict[str, Any] = {}
    if low is not None:
        limits["min_value"] = low
    if high is not None:
        limits["max_value"] = high
    text = " and ".join(
        f"{word} {number(value)}"
        for word, value in (("at least", low), ("at most", high))
        if value is not None
    )
    origin = "its range" if rule == "range" else "what its inputs allow"
    return _make(
        product,
        rule,
        "expect_column_values_to_be_between",
        f"{name} is within {origin}",
        f"{name} is outside {origin}",
        MASK if name in product.sensitive else text,
        name,
        column=name,
        **limits,
    )


# -- what follows from the rules of aggregation ------------------------------------------------------


def _of_aggregation(product: Product, source: Profile | None) -> Iterator[Expectation]:
    if source is None or not source.rows or product.mrds.population is not None:
        return  # of entities without rows of the day nothing follows from these
    yield _make(
        product,
        "aggregation",
        "expect_table_row_count_to_be_between",
        "there are no more rows than in the ARDS",
        "there are more rows than in the ARDS",
        f"at most {source.rows:,}",
        max_value=source.rows,
    )
    for name, rule in product.mrds.aggregate.items():
        if name == product.label:
            continue
        inputs = source.columns.get(name)
        if rule == "count":
            yield _between(product, "aggregation", name, 0, source.rows)
        elif inputs is not None:
            yield from _of_inputs(product, name, rule, source.rows, inputs)


def _of_inputs(
    product: Product, name: str, rule: str, rows: int, inputs: ColumnProfile
) -> Iterator[Expectation]:
    """A feature has a value for every entity with one, within what the day's values can give."""
    if inputs.nulls == 0:
        yield _not_null(product, "aggregation", name, 1.0, "no nulls, as in the ARDS")
    low, high = inputs.minimum, inputs.maximum
    if low is None or high is None or product.columns[name].type not in NUMERIC_TYPES:
        return
    if rule == "sum":
        # A sum has at least one term and at most all rows of the day.
        low, high = (low if low >= 0 else low * rows), (high if high <= 0 else high * rows)
    yield _between(product, "aggregation", name, _slack(low, -1), _slack(high, 1))


def _slack(value: float, direction: int) -> float:
    """A bound that the rounding of stored figures, or of a mean, can't break."""
    return value + direction * abs(value) * 1e-8


def _custom(product: Product, added: CustomExpectation) -> Expectation:
    masked = product.sensitive.intersection(added.columns)
    shown = {key: value for key, value in added.kwargs.items() if key not in ("column", "column_list")}
    arguments = ", ".join(f"{key}: {value}" for key, value in shown.items())
    name = added.type.removeprefix("expect_").replace("_", " ")
    words = added.description or " ".join([*(", ".join(added.columns),), name]).strip()
    return Expectation(
        type=added.type,
        kwargs=dict(added.kwargs),
        words=words,
        wrong=f"not fulfilled: {words}",
        expected=MASK if masked else arguments or "as named",
        dimension=_dimension_of(added.type),
        severity=added.severity,
        columns=tuple(added.columns),
    )


def _dimension_of(type_: str) -> Dimension:
    """The dimension that an expectation of the library belongs to, by its name."""
    if "null" in type_:
        return "completeness"
    if "unique" in type_ or "distinct" in type_:
        return "uniqueness"
    if "row_count" in type_:
        return "volume"
    if "type" in type_ or "table_column" in type_ or type_ == "expect_column_to_exist":
        return "schema"
    return "validity"
