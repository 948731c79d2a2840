"""Every aggregation of the MRDS, against DuckDB on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ml_platform.contract.product import Product
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform_tests.small_platform import shop
from ml_platform_tests.typed_rows import DAY, TYPED, typed_rows

NAMES = ("min", "max", "sum", "mean", "count", "first", "last")


def rows(seed: int = 3) -> pd.DataFrame:
    """Rows of an ARDS with ties in the order, nulls everywhere they may be, and labels that are missing."""
    draw = np.random.default_rng(seed)
    n = 400
    frame = pd.DataFrame(
        {
            "visit": np.arange(n),
            "day": [date(2024, 1, 1 + int(d)) for d in draw.integers(0, 3, n)],
            "customer": [f"c{c}" for c in draw.integers(0, 25, n)],
            "spend": np.where(draw.random(n) < 0.2, None, draw.normal(0, 1e6, n).round(3)),
            "pages": draw.integers(0, 4, n),  # many ties
            "channel": draw.choice(["web", "app", "other"], n),
            "bought": pd.array(draw.integers(0, 2, n), dtype="Int64"),
        }
    )
    frame.loc[draw.random(n) < 0.1, "bought"] = pd.NA
    frame["spend"] = frame["spend"].astype(float)
    frame["event_day"] = frame["day"]
    known = [pd.Timestamp(2024, 1, 3 + int(d)).date() for d in draw.integers(0, 5, n)]
    frame["label_known_on"] = [
        k if b is not pd.NA else None for k, b in zip(known, frame["bought"], strict=True)
    ]
    return frame


def aggregated(product: Product, frame: pd.DataFrame) -> pd.DataFrame:
    """What is made of the days of some rows, to the bit the same of each day and of buckets of it."""
    schema = pa.schema(
        [
            ("visit", pa.int64()),
            ("day", pa.date32()),
            ("customer", pa.string()),
            ("spend", pa.float64()),
            ("pages", pa.int32()),
            ("channel", pa.string()),
            ("bought", pa.int32()),
            ("label_known_on", pa.date32()),
        ]
    )
    found = []
    for day, of_day in frame.groupby("event_day"):
        given = pa.Table.from_pandas(of_day.drop(columns="event_day"), schema, preserve_index=False)
        found.append(in_buckets(product, day, given))
    result: pd.DataFrame = pa.concat_tables(found).to_pandas()
    return result.sort_values(["event_day", "customer"], ignore_index=True)


def in_buckets(product: Product, day: date, rows_: pa.Table) -> pa.Table:
    """The rows of a day's MRDS, which are the same to the bit in however many buckets they are made."""
    whole = aggregation.aggregate(product, day, rows_)
    keys = [name for name in product.entity if name != "event_day"]
    by = [(name, "ascending") for name in keys]
    for count in (2, 7, 1000):
        bucket = buckets.assigned([rows_[name] for name in keys], len(rows_)) % np.uint64(count)
        assert len(np.unique(bucket)) > 1 or len(whole) == 1 or count < 1000
        parts = [
            aggregation.aggregate(product, day, rows_.filter(pa.array(bucket == number)))
            for number in np.unique(bucket)
        ]
        # As texts, of which NaN has one; a number has its own to the last bit.
        assert repr(pa.concat_tables(parts).sort_by(by).to_pylist()) == repr(whole.sort_by(by).to_pylist())
    return whole


@pytest.mark.parametrize("rule", NAMES)
def test_a_number_is_aggregated_as_duckdb_does_it(rule: str) -> None:
    product = shop(
        mrds__aggregate={"spend": rule, "bought": "last"},
        mrds__order_by=["pages"],
        model__features={"numeric": ["spend"]},
        validation={"minimum_rows": 0},
    )
    frame = rows()
    expression = {
        "mean": "avg(spend)",
        "first": "arg_min_null(spend, struct_pack(pages := pages, day := day, visit := visit))",
        "last": "arg_max_null(spend, struct_pack(pages := pages, day := day, visit := visit))",
    }.get(rule, f"{rule}(spend)")
    expected = duckdb.sql(
        f"SELECT customer, event_day, {expression} AS spend FROM frame "
        "GROUP BY ALL ORDER BY event_day, customer"
    ).df()
    found = aggregated(product, frame)
    assert list(found["customer"]) == list(expected["customer"])
    np.testing.assert_allclose(
        found["spend"].astype(float), expected["spend"].astype(float), rtol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize("rule", ["min", "max", "first", "last"])
def test_a_label_is_null_until_every_row_it_depends_on_is_labelled(rule: str) -> None:
    product = shop(mrds__aggregate={"spend": "sum", "bought": rule}, model__features={"numeric": ["spend"]})
    frame = rows()
    found = aggregated(product, frame)
    for (day, customer), group in frame.sort_values("visit").groupby(["event_day", "customer"]):
        ends = {"first": group.iloc[[0]], "last": group.iloc[[-1]]}.get(rule, group)
        complete = ends["bought"].notna().all()
        row = found[(found["event_day"] == day) & (found["customer"] == customer)].iloc[0]
        if not complete:
            assert pd.isna(row["bought"])
            assert row["label_known_on"] is None
            continue
        expected = ends["bought"].min() if rule == "min" else ends["bought"].max()
        assert row["bought"] == expected
        assert row["label_known_on"] == ends["label_known_on"].max()


def test_sums_of_doubles_are_the_same_bits_for_every_order_of_rows() -> None:
    product = shop(mrds__aggregate={"spend": "sum", "bought": "last"}, model__features={"numeric": ["spend"]})
    frame = rows()
    first = aggregated(product, frame)
    for seed in range(3):
        shuffled = frame.sample(frac=1, random_state=seed)
        again = aggregated(product, shuffled)
        np.testing.assert_array_equal(first["spend"].to_numpy(), again["spend"].to_numpy())


def test_a_sum_of_nothing_is_null() -> None:
    product = shop(mrds__aggregate={"spend": "sum", "bought": "last"}, model__features={"numeric": ["spend"]})
    frame = rows().assign(spend=np.nan)
    assert aggregated(product, frame)["spend"].isna().all()


@pytest.mark.parametrize("seed", range(4))
def test_every_type_is_aggregated_as_duckdb_does_it(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows_ = typed_rows(seed)
    numbers, others = ["amount", "count", "big"], ["name", "flag", "born", "seen"]
    rules = {name: str(draw.choice(NAMES)) for name in numbers}
    rules |= {name: str(draw.choice(["min", "max", "first", "last", "count"])) for name in others}
    label_rule = str(draw.choice(["min", "max", "first", "last"]))
    entity = ["who"] if seed else ["who", "name"]
    rules = {name: rule for name, rule in rules.items() if name not in entity}
    by = str(draw.choice([name for name in (*numbers, *others) if name not in entity]))
    product = shop(
        source=TYPED,
        mrds={"entity": entity, "order_by": [by], "aggregate": {**rules, "bought": label_rule}},
        model__features={"numeric": ["amount", "big"]},
        validation={"minimum_rows": 0},
    )
    # Null is the least in the order; the rows have no NaN, and infinite sums are none.
    order = f"struct_pack(given := {by} IS NOT NULL, value := {by}, id := id)"
    ends = {"first": "arg_min_null({0}, {1})", "last": "arg_max_null({0}, {1})"}
    calls = {"mean": "CAST(sum({0}) AS DOUBLE) / count({0})", **ends}
    expressions = [
        calls.get(rule, f"{rule}({{0}})").format(name, order) + f" AS {name}" for name, rule in rules.items()
    ]
    expected = duckdb.sql(
        f"SELECT {', '.join(entity)}, {', '.join(expressions)} FROM rows_ GROUP BY ALL "
        f"ORDER BY {', '.join(f'{name} NULLS FIRST' for name in entity)}"
    ).arrow()
    expected = expected.read_all() if isinstance(expected, pa.RecordBatchReader) else expected
    found = in_buckets(product, DAY, rows_)
    found = found.sort_by([(name, "ascending") for name in entity])
    for name, rule in rules.items():
        given, wanted = found[name].combine_chunks(), expected[name].cast(found[name].type).combine_chunks()
        # DuckDB orders by null last in Arrow's sort: groups are matched by their keys.
        keys = list(zip(*[found[key].to_pylist() for key in entity], strict=True))
        known = dict(
            zip(
                zip(*[expected[key].to_pylist() for key in entity], strict=True),
                wanted.to_pylist(),
                strict=True,
            )
        )
        for key, value in zip(keys, given.to_pylist(), strict=True):
            if rule in ("sum", "mean") and isinstance(value, float):
                assert value == pytest.approx(known[key], rel=1e-9, nan_ok=True), (name, rule, key)
            else:
                assert value == known[key], (name, rule, key)


@pytest.mark.parametrize("rule", ["min", "max", "sum", "first", "last"])
def test_nan_is_the_greatest_number(rule: str) -> None:
    product = typed_product(rule, order_by=["amount"])
    nan = float("nan")
    rows_ = extreme_rows([(1, 1, 5.0), (1, 2, nan), (1, 3, None), (2, 4, nan), (2, 5, nan), (3, 6, 2.0)])
    found = in_buckets(product, DAY, rows_).sort_by("who")["amount"].to_pylist()
    expected = {
        "min": [5.0, nan, 2.0],
        "max": [nan, nan, 2.0],
        "sum": [nan, nan, 2.0],
        "first": [None, nan, 2.0],
        "last": [nan, nan, 2.0],
    }[rule]
    assert found == pytest.approx(expected, nan_ok=True)


def extreme_rows(values: list[tuple[int, int | None, float | None]]) -> pa.Table:
    """Rows of ``TYPED`` with these entities, values of ``big`` and of ``amount``."""
    rows_ = typed_rows(0).slice(0, len(values))
    given = {
        "who": pa.array([who for who, _, _ in values], pa.int32()),
        "big": pa.array([big for _, big, _ in values], pa.int64()),
        "amount": pa.array([amount for _, _, amount in values], pa.float64()),
    }
    return pa.table({name: given.get(name, rows_[name]) for name in rows_.column_names})


def typed_product(rule: str, order_by: Sequence[str] = ()) -> Product:
    return shop(
        source=TYPED,
        mrds={
            "entity": ["who"],
            "order_by": list(order_by),
            "aggregate": {"big": rule, "amount": rule, "bought": "last"},
        },
        model__features={"numeric": ["big", "amount"]},
        validation={"minimum_rows": 0},
    )


LEAST, MOST = -(2**63), 2**63 - 1
LARGEST = 1.7976931348623157e308


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_sums_at_the_ends_of_a_long_are_exact_in_any_order(rule: str) -> None:
    """Partial sums of these are beyond a long, their totals are not."""
    product = typed_product(rule)
    values: list[tuple[int, int | None, float | None]] = [
        *[(1, big, None) for big in (MOST, MOST, LEAST, LEAST, 1)],
        *[(2, big, LARGEST) for big in (MOST,)],
        *[(3, big, -LARGEST) for big in (LEAST,)],
        *[(4, big, None) for big in (-1, -(2**40), 2**62, 2**62 - 1, None)],
        (5, None, None),
    ]
    expected = {
        who: [big for whose, big, _ in values if whose == who and big is not None] for who in range(1, 6)
    }
    exact = {
        who: None if not bigs else sum(bigs) if rule == "sum" else float(sum(bigs)) / len(bigs)
        for who, bigs in expected.items()
    }
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(values))
        rows_ = extreme_rows([values[n] for n in order])
        found = in_buckets(product, DAY, rows_)
        assert dict(zip(found["who"].to_pylist(), found["big"].to_pylist(), strict=True)) == exact


@pytest.mark.parametrize(
    ("rule", "values", "reason"),
    [
        (
            "sum",
            [(1, MOST, 1.0), (1, 1, 1.0)],
            "values of who = 1 add up to 9,223,372,036,854,775,808",
        ),
        ("sum", [(1, 0, 1.0), (2, LEAST, 0.5), (2, -2, 0.5)], "who = 2 add up to -9,223,372,036,854,775,810"),
        ("sum", [(1, 0, LARGEST), (1, 0, LARGEST)], "amount: the values of who = 1 add up to inf"),
        ("mean", [(1, MOST, -LARGEST), (1, MOST, -LARGEST)], "amount: the values of who = 1 add up to -inf"),
        ("sum", [(3, MOST, LARGEST), (3, MOST, LARGEST)], "big: the values of who = 3"),
    ],
)
def test_a_sum_beyond_its_type_is_named_with_its_entity(
    rule: str, values: list[tuple[int, int | None, float | None]], reason: str
) -> None:
    with pytest.raises(TooLargeError) as refused:
        aggregation.aggregate(typed_product(rule), DAY, extreme_rows(values))
    assert reason in str(refused.value)


def test_a_reason_masks_what_is_sensitive() -> None:
    columns = TYPED["columns"]
    assert isinstance(columns, dict)
    hidden = {name: {**columns[name], "sensitive": True} for name in ("who", "big")}
    product = shop(
        source=TYPED | {"columns": {**columns, **hidden}},
        mrds={"entity": ["who"], "aggregate": {"big": "sum", "bought": "last"}},
        model__features={"numeric": ["big"]},
        validation={"minimum_rows": 0},
    )
    with pytest.raises(TooLargeError) as refused:
        aggregation.aggregate(product, DAY, extreme_rows([(98765, MOST, None), (98765, MOST, None)]))
    assert "who = ••• add up to •••" in str(refused.value)
    assert "98765" not in str(refused.value)
