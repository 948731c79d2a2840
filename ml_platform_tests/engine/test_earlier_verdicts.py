"""A corrected day that is made on each morning, and the same day made once at the end, both without Spark."""

from __future__ import annotations

import copy
import gzip
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest

from ml_platform.contract.product import Product
from ml_platform.data_engineering import aggregation, served_rows
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform.engine.acceptance import accept
from ml_platform.engine.earlier_verdicts import mornings_of
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.engine import test_whole_histories as whole_histories
from ml_platform_tests.small_platform import CARRIERS, D, Platform, carry_by, shop, visits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = D("2024-01-10")
SHOP = shop()
HEADER = "visit,day,customer,spend,pages,channel\n"
Files = dict[str, str | bytes]


def rows(first: int, last: int, spend: float = 1.0) -> str:
    lines = (f"{n},{DAY},c{n},{spend},1,web\n" for n in range(first, last))
    return HEADER + "".join(lines)


def labels(first: int, last: int, label: int = 1) -> str:
    return "visit,day,bought\n" + "".join(f"{n},{DAY},{label}\n" for n in range(first, last))


def replacing(name: str, text: str) -> Files:
    return {name: text, f"{name}.manifest.yaml": "replaces: true\n"}


@dataclass(frozen=True)
class Case:
    """Files by their names, which begin with the morning on which they come, and what becomes of the day.

    ``usable`` is of each morning on which rows came; ``scored`` the spend of each customer as it was scored.
    """

    files: Files
    usable: list[bool] | None
    scored: dict[str, float]
    product: Product = SHOP


def blocked_in_mrds() -> Product:
    least = {
        "on": "mrds",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "spend", "max_value": 50},
    }
    return shop(validation__expectations=[least])


UNUSABLE = "".join(f"x{n},{DAY},c1,1,1,web\n" for n in range(20))


def cut_off(text: str) -> bytes:
    """A packed file that can be read but for its end: the same rows again and again."""
    header, records = text.split("\n", 1)
    return gzip.compress(f"{header}\n{records * 50_000}".encode())[:-8]


CASES = {
    "a fix": Case(
        {"2024-01-11_a.csv": rows(0, 4), "2024-01-13_b.csv": rows(0, 2, 9)},
        [True, True],
        dict.fromkeys(("c0", "c1", "c2", "c3"), 1.0),
    ),
    "rows that come late, and are corrected": Case(
        {
            "2024-01-11_a.csv": rows(0, 2),
            "2024-01-13_b.csv": rows(2, 4, 5),
            "2024-01-15_c.csv": rows(0, 4, 9),
        },
        [True] * 3,
        {"c0": 1.0, "c1": 1.0, "c2": 5.0, "c3": 5.0},
    ),
    "the same rows again": Case({"2024-01-11_a.csv": rows(0, 4), "2024-01-13_b.csv": rows(0, 4)}, None, {}),
    "too few rows at first": Case(
        {"2024-01-11_a.csv": rows(0, 2, 9), "2024-01-13_b.csv": rows(0, 4)},
        [False, True],
        dict.fromkeys(("c0", "c1", "c2", "c3"), 1.0),
        shop(validation__minimum_rows=3),
    ),
    "rows that break a rule of the MRDS at first": Case(
        {"2024-01-11_a.csv": rows(0, 4, 80), "2024-01-13_b.csv": rows(0, 4, 16)},
        [True, True],
        dict.fromkeys(("c0", "c1", "c2", "c3"), 16.0),
        blocked_in_mrds(),
    ),
    "a replaced file with many records that can't be used": Case(
        {"2024-01-11_a.csv": rows(0, 5, 5) + UNUSABLE, **replacing("2024-01-13_b.csv", rows(0, 5))},
        [False, True],
        dict.fromkeys(("c0", "c1", "c2", "c3", "c4"), 1.0),
    ),
    "a replaced file that can't be read to its end": Case(
        {
            "2024-01-11_a.csv.gz": cut_off(rows(0, 2, 7)),
            **replacing("2024-01-13_b.csv", rows(0, 2)),
        },
        [False, True],
        dict.fromkeys(("c0", "c1"), 1.0),
    ),
    "the same rows without what couldn't be used, then a fix": Case(
        {
            "2024-01-11_a.csv": rows(0, 5) + UNUSABLE,
            **replacing("2024-01-13_b.csv", rows(0, 5)),
            "2024-01-15_c.csv": rows(0, 2, 9),
        },
        [False, True, True],
        dict.fromkeys(("c0", "c1", "c2", "c3", "c4"), 1.0),
    ),
    "the same rows from a file that can be read to its end, then a fix": Case(
        {
            "2024-01-11_a.csv.gz": cut_off(rows(0, 3)),
            **replacing("2024-01-13_b.csv", rows(0, 3)),
            "2024-01-15_c.csv": rows(0, 2, 9),
        },
        [False, True, True],
        dict.fromkeys(("c0", "c1", "c2"), 1.0),
    ),
    "a file without rows that replaces the day": Case(
        {"2024-01-11_a.csv": rows(0, 3), **replacing("2024-01-13_b.csv", HEADER)},
        [True, True],
        dict.fromkeys(("c0", "c1", "c2"), 1.0),
    ),
    "two files that replace the day": Case(
        {
            "2024-01-11_a.csv": rows(0, 2),
            **replacing("2024-01-13_b.csv", rows(0, 3, 2)),
            **replacing("2024-01-14_c.csv", rows(0, 1, 3)),
            "2024-01-15_labels.csv": labels(0, 3),
        },
        [True] * 3,
        {"c0": 1.0, "c1": 1.0, "c2": 2.0},
    ),
}


def at_once(platform: Platform, files: Files) -> None:
    for name, text in files.items():
        platform.deliver(DAY, name, text)
    for step in ("ards", "mrds"):
        platform.run(step, DAY)


def on_each_morning(platform: Platform, files: Files) -> None:
    for morning in sorted({name[:10] for name in files}):
        at_once(platform, {name: text for name, text in files.items() if name.startswith(morning)})


def without_spark(home: Path, product: Product) -> Platform:
    return Platform(settings_in(home), None, product)  # type: ignore[arg-type]


def usable(platform: Platform) -> list[bool] | None:
    mornings = mornings_of(platform.ledger.latest("ards")[DAY])
    return None if mornings is None else [morning.is_usable for morning in mornings]


def served(platform: Platform) -> pa.Table:
    name = platform.product.name
    files = platform.tables.day_files(name, "mrds_served")
    assert files is not None
    if not platform.tables.has_days(name, "mrds_served", [DAY]):
        return pa.table({"customer": [], "spend": [], IS_SCORED: pa.array([], pa.bool_())})
    names = [*aggregation.schema(platform.product).names, KNOWN_FROM, KNOWN_TO, IS_SCORED]
    ((_, found),) = files.read(platform.tables.version(name, "mrds_served"), [DAY], names)
    return found.sort_by([("customer", "ascending"), (KNOWN_FROM, "ascending")])


QUICK = ("a fix", "the same rows again", "a file without rows that replaces the day")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES]
)
def test_a_day_made_at_once_is_served_as_on_each_morning(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    live, replay = (without_spark(tmp_path / how, case.product) for how in ("live", "replay"))
    on_each_morning(live, case.files)
    at_once(replay, copy.copy(case.files))
    for platform in (live, replay):
        assert usable(platform) == case.usable
        found = served(platform)
        scored = found.filter(found[IS_SCORED]).to_pylist()
        assert {row["customer"]: row["spend"] for row in scored} == case.scored
    assert served(replay).equals(served(live))
    assert replay.fingerprints("ards", "mrds") == live.fingerprints("ards", "mrds")


@pytest.mark.slow
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    "name", ["two files that replace the day", "a file without rows that replaces the day"]
)
def test_what_was_served_is_the_same_whatever_writes_it(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, carrier: str, name: str
) -> None:
    one_by_one = without_spark(tmp_path / "here", SHOP)
    files = CASES[name].files
    if "two" in name:
        files = files | {"2024-01-16_d.csv": rows(0, 6, 4)}
    at_once(one_by_one, files)
    expected = served(one_by_one)
    carry_by(carrier, monkeypatch)
    other = Platform(settings_in(tmp_path / "there"), spark)
    at_once(other, files)
    found = other.rows("mrds_served", ["customer", KNOWN_FROM])
    names = [name for name in expected.column_names if name != "event_day"]
    pd.testing.assert_frame_equal(
        found[names], expected.select(names).to_pandas(), check_dtype=False, check_like=True
    )
    assert other.fingerprints("ards", "mrds") == one_by_one.fingerprints("ards", "mrds")
    days = served_rows.corrected_days(lambda: spark, SHOP, other.tables, [DAY])
    assert days == frozenset([DAY])


def learned(platform: Platform, as_of: date) -> dict[str, float]:
    product = platform.product
    schema = aggregation.schema(product)
    found = served_rows.learned(platform._session, product, platform.tables, [DAY], as_of, schema)
    known = [
        row
        for row in found.map(lambda rows: rows, schema).to_pylist()
        if row["bought"] is not None and row["label_known_on"] <= as_of
    ]
    return {row["customer"]: row["spend"] for row in known}


@pytest.mark.slow
def test_a_verdict_that_was_given_stands_though_labels_came_and_rules_changed(tmp_path: Path) -> None:
    lenient, strict = shop(), shop(validation__minimum_rows=5)
    platform = without_spark(tmp_path, lenient)
    at_once(platform, {"2024-01-11_a.csv": rows(0, 3, 9)})
    at_once(platform, {"2024-01-12_labels.csv": labels(0, 3)})
    changed = without_spark(tmp_path, strict)
    at_once(changed, {"2024-01-13_b.csv": rows(0, 6, 1)})
    assert usable(changed) == [True, True]
    assert learned(changed, D("2024-01-20")) == dict.fromkeys(("c0", "c1", "c2"), 9.0)
    # Of another platform, which has never seen the day as it was, today's rules say that it was too small.
    other = without_spark(tmp_path / "other", strict)
    files: Files = {"2024-01-11_a.csv": rows(0, 3, 9), "2024-01-12_labels.csv": labels(0, 3)}
    at_once(other, files | {"2024-01-13_b.csv": rows(0, 6, 1)})
    assert usable(other) == [False, True]


def test_rows_that_come_after_their_labels_are_learned_from_their_own_morning_on(tmp_path: Path) -> None:
    platform = without_spark(tmp_path, shop())
    at_once(platform, {"2024-01-20_a.csv": rows(0, 3), "2024-01-12_labels.csv": labels(0, 3)})
    assert learned(platform, D("2024-01-19")) == {}
    assert set(learned(platform, D("2024-01-20"))) == {"c0", "c1", "c2"}


@pytest.mark.slow
def test_what_a_fix_left_behind_goes_with_it(tmp_path: Path) -> None:
    platform = without_spark(tmp_path, shop())
    at_once(platform, {"2024-01-11_a.csv": rows(0, 3), "2024-01-13_b.csv": rows(0, 1, 9)})
    assert len(served(platform)) == 3
    (platform.folder(DAY) / "2024-01-13_b.csv").unlink()
    at_once(platform, {})
    assert usable(platform) is None
    assert not len(served(platform))


@pytest.mark.parametrize(("learns_from", "spend"), [("served", 1.0), ("corrected", 9.0)])
def test_the_contract_says_whether_corrections_are_learned(
    tmp_path: Path, learns_from: str, spend: float
) -> None:
    changes: dict[str, Any] = {"model__learns_from": learns_from}
    platform = without_spark(tmp_path, shop(**changes))
    files: Files = {"2024-01-11_a.csv": rows(0, 1), "2024-01-12_labels.csv": labels(0, 1)}
    at_once(platform, files | {"2024-01-13_b.csv": rows(0, 1, 9)})
    assert learned(platform, D("2024-01-12")) == {"c0": spend}


def test_rows_that_a_person_accepted_in_the_mrds_stay_what_was_learned_when_others_come(
    platform: Platform,
) -> None:
    """They break a rule of the MRDS alone, can be used from the acceptance on, and are replaced later."""
    platform.product = whole_histories.product()
    day, accepted_on, replaced_on = D("2024-01-20"), D("2024-01-25"), D("2024-01-30")
    frame = visits(day, rows=30)
    rows = frame.drop(columns="bought")
    platform.deliver(day, "2024-01-21T0600_visits.csv", rows.to_csv(index=False))
    platform.deliver(day, "2024-01-22T0600_labels.csv", frame[["visit", "day", "bought"]].to_csv(index=False))
    much = rows.assign(spend=whole_histories.LIMIT_OF_DAY + 1.0)
    platform.deliver(day, "2024-01-23T0600_fix.csv", much.head(4).to_csv(index=False))
    for step in ("ards", "mrds"):
        (done,) = platform.run(step, day).days
    assert done.outcome == "blocked"
    accept(platform.ledger, day, reason="so it was", by="ann", on=accepted_on)
    for step in ("ards", "mrds"):
        (done,) = platform.run(step, day).days
    assert done.outcome == "written"

    def learned() -> dict[date, list[float]]:
        served = platform.rows("mrds_served")
        ended = pd.to_datetime(served["known_to"]).fillna(pd.Timestamp("2100-01-01"))
        found = {}
        for morning in (D("2024-01-22"), D("2024-01-24"), accepted_on, replaced_on):
            at = pd.Timestamp(morning)
            stood = (pd.to_datetime(served["known_from"]) <= at) & (at < ended)
            found[morning] = sorted(served["spend"][stood])
        return found

    before = learned()
    assert [len(rows_) > 0 for rows_ in before.values()] == [True, False, True, True]
    assert max(before[accepted_on]) == max(before[D("2024-01-22")]), "rows stay as they were scored first"
    platform.deliver(day, "2024-01-30T0600_again.csv", rows.tail(20).to_csv(index=False))
    platform.deliver(day, "2024-01-30T0600_again.csv.manifest.yaml", "replaces: true\n")
    for step in ("ards", "mrds"):
        platform.run(step, day)
    after = learned()
    assert {morning: after[morning] for morning in after if morning < replaced_on} == {
        morning: before[morning] for morning in before if morning < replaced_on
    }
    assert len(after[replaced_on]) < len(before[replaced_on])
