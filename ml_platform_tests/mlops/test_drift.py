"""Drift of columns: PSI worked out by hand, and data that fools the library when it is called naively."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_platform.contract.product import Product
from ml_platform.mlops.drift import drift_report, measures
from ml_platform.mlops.drift.drift_report import MonthDrift
from ml_platform.mlops.drift.measures import Column, ColumnDrift, Summary, Window
from ml_platform.mlops.links import Around, Links
from ml_platform_tests.small_platform import SHOP, D, shop

N = 5000
SPEND = Column("spend", "numeric", "feature")
CHANNEL = Column("channel", "categorical", "feature")
LABEL = Column("bought", "categorical", "label")

AROUND = Around(Links("http://dagster.example:3000"))


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def window(name: str, **columns: Any) -> Window:
    """A window whose sample is all there is."""
    sample = {key: pd.Series(values) for key, values in columns.items()}
    summaries = {}
    for key, values in sample.items():
        numeric = pd.api.types.is_numeric_dtype(values)
        finite = values[np.isfinite(values.astype("float64"))] if numeric else values.dropna()
        summaries[key] = Summary(
            rows=len(values),
            nulls=len(values) - len(finite),
            minimum=float(finite.min()) if numeric and len(finite) else None,
            maximum=float(finite.max()) if numeric and len(finite) else None,
        )
    return Window(name, sample, summaries)


def compare(column: Column, now: Any, before: Any, product: Product | None = None) -> ColumnDrift:
    (found,) = measures.compare(
        product or shop(),
        [column],
        window("2024-02", **{column.name: now}),
        window("2024-01", **{column.name: before}),
    ).columns
    return found


def naive(now: Any, before: Any, kind: str = "numeric") -> float:
    """The library called as its first example does."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = {"numerical_columns": ["x"]} if kind == "numeric" else {"categorical_columns": ["x"]}
    sides = [
        Dataset.from_pandas(pd.DataFrame({"x": values}), data_definition=DataDefinition(**names))
        for values in (now, before)
    ]
    report = Report([DataDriftPreset(columns=["x"], method="psi", threshold=0.15)]).run(*sides)
    (score,) = [one["value"] for one in report.dict()["metrics"] if "ValueDrift" in one["config"]["type"]]
    return float(score)


def psi(now: np.ndarray, before: np.ndarray) -> float:
    """PSI by its definition: sum of (p - q) ln(p / q) over bins of Sturges' width on both samples."""
    low, high = np.quantile(before, [0.001, 0.999])
    now, before = np.clip(now, low, high), np.clip(before, low, high)
    both = np.concatenate([before, now])
    bins = int(np.ceil(np.log2(len(both)) + 1))
    edges = np.linspace(both.min(), both.max(), bins + 1)
    p = np.bincount(np.clip(np.searchsorted(edges, before, "right") - 1, 0, bins - 1), minlength=bins)
    q = np.bincount(np.clip(np.searchsorted(edges, now, "right") - 1, 0, bins - 1), minlength=bins)
    p, q = p / len(before), q / len(now)
    p, q = np.where(p == 0, 1e-4, p), np.where(q == 0, 1e-4, q)
    return float(sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True)))


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5, 1.0])
def test_psi_of_numbers_is_that_of_its_definition(shift: float) -> None:
    before, now = draw(1).normal(size=N), draw(2).normal(shift, 1, size=N)
    found = compare(SPEND, now, before)
    assert found.score == pytest.approx(psi(now, before), rel=0.02, abs=1e-3)
    assert found.verdict == ("drifted" if psi(now, before) >= 0.15 else "stable")


def test_psi_of_categories_is_that_of_its_definition() -> None:
    before = ["web"] * 3000 + ["app"] * 2000
    now = ["web"] * 1500 + ["app"] * 3500
    expected = (0.6 - 0.3) * np.log(0.6 / 0.3) + (0.4 - 0.7) * np.log(0.4 / 0.7)
    found = compare(CHANNEL, now, before)
    assert found.score == pytest.approx(expected)
    assert found.verdict == "drifted"
    assert found.reasons == (f"psi {expected:.3f}, threshold 0.15",)


# -- what fools a naive call -------------------------------------------------------------------------


def test_an_outlier_does_not_hide_a_shift() -> None:
    before, now = draw(1).normal(size=N), draw(2).normal(1, 1, size=N)
    before[7] = 1e6
    assert naive(now, before) < 0.15
    found = compare(SPEND, now, before)
    assert found.verdict == "drifted"
    assert found.score is not None
    assert found.score > 0.5
    assert found.range_before.endswith("1,000,000")


def test_a_rise_of_nulls_is_seen() -> None:
    before, now = draw(1).normal(size=N), draw(2).normal(size=N)
    now[: N // 2] = np.nan
    assert naive(now, before) < 0.15
    found = compare(SPEND, now, before)
    assert found.verdict == "drifted"
    assert found.reasons == ("nulls 0.0% before, 50.0% now",)
    allowed = shop(drift={"maximum_null_change": 0.6})
    assert compare(SPEND, now, before, allowed).verdict == "stable"


def test_small_samples_are_insufficient_and_not_drifted() -> None:
    scores = [naive(draw(n).normal(size=100), draw(n + 500).normal(size=100)) for n in range(8)]
    assert max(scores) > 0.15, "small samples score high without any drift"
    for n in range(8):
        found = compare(SPEND, draw(n).normal(size=100), draw(n + 500).normal(size=100))
        assert found.verdict == "insufficient"
        assert found.score is None
    assert found.reasons == ("2024-02 has 100 values, needed are 1,000",)


def test_types_are_aligned() -> None:
    """The label comes as integers in one window and, with nulls among them, as floats in the other."""
    now = [0.0] * 3000 + [1.0] * 2000
    before = [0] * 3000 + [1] * 2000
    assert naive([str(one) for one in now], [str(one) for one in before], "categorical") > 1
    numbers = compare(Column("pages", "numeric", "feature"), now, before)
    assert (numbers.verdict, numbers.score) == ("stable", pytest.approx(0.0, abs=1e-9))
    for labels in (np.array([*now, np.nan]), pd.array([*before, None], dtype="Int64")):
        found = compare(LABEL, labels, np.array([*before, 0], dtype="int32"))
        assert found.verdict == "stable"
        assert found.score == pytest.approx(0.0, abs=1e-4)
        assert found.new_categories == found.gone_categories == ()


@pytest.mark.parametrize(
    ("now", "before"),
    [
        pytest.param([np.nan] * N, draw(1).normal(size=N), id="all null now"),
        pytest.param(draw(1).normal(size=N), [np.nan] * N, id="all null before"),
        pytest.param([np.inf] * N, draw(1).normal(size=N), id="all infinite now"),
        pytest.param([], draw(1).normal(size=N), id="empty now"),
    ],
)
def test_a_column_without_values_is_reported_and_takes_no_other_with_it(now: Any, before: Any) -> None:
    now, before = np.array(now, dtype="float64"), np.array(before, dtype="float64")
    now_spend = draw(3).normal(2, 1, size=N)
    found = measures.compare(
        shop(),
        [SPEND, Column("pages", "numeric", "feature")],
        window("2024-02", pages=now, spend=now_spend),
        window("2024-01", pages=before, spend=draw(4).normal(size=N)),
    )
    spend, pages = found.columns
    assert spend.verdict == "drifted"
    assert pages.score is None
    assert pages.verdict == ("drifted" if len(now) else "no values")
    assert "has no values" in pages.reasons[0]
    assert found.html is not None


def test_some_infinite_values_count_as_none() -> None:
    before, now = draw(1).normal(size=N), draw(2).normal(size=N)
    now[:10] = np.inf
    found = compare(SPEND, now, before)
    assert found.verdict == "stable"
    assert found.nulls_now == pytest.approx(10 / N)


@pytest.mark.parametrize(("now", "verdict"), [(7.0, "stable"), (8.0, "drifted")])
def test_a_constant_column_is_stable_until_its_value_changes(now: float, verdict: str) -> None:
    assert compare(SPEND, np.full(N, now), np.full(N, 7.0)).verdict == verdict


def test_a_column_of_zeros_that_fills_up_has_drifted() -> None:
    before, now = np.zeros(N), np.zeros(N)
    before[:3] = [1.0, 2.0, 3.0]
    now[: N // 5] = draw(1).gamma(2, 10, N // 5)
    assert compare(SPEND, now, before).verdict == "drifted"


def test_new_and_gone_categories_are_named_and_masked_if_sensitive() -> None:
    before = ["web"] * 4000 + ["app"] * 1000
    now = ["web"] * 4000 + ["phone"] * 1000
    found = compare(CHANNEL, now, before)
    assert (found.verdict, found.new_categories, found.gone_categories) == ("drifted", ("phone",), ("app",))
    columns = shop().model_dump(mode="json")["source"]["columns"]
    secret = shop(source__columns=columns | {"channel": {"type": "string", "sensitive": True}})
    masked = compare(CHANNEL, now, before, secret)
    assert (masked.new_categories, masked.gone_categories) == (("•••",), ("•••",))


def test_of_many_new_categories_a_page_names_a_few() -> None:
    places = [f"place {n:04d} {'x' * 100}" for n in range(2000)]
    *_, new, gone = drift_report.why(compare(CHANNEL, ["web", *places], ["web", "app"]))
    assert gone == "gone: app"
    assert new.startswith("new: place 0000 xxx")
    assert new.endswith("… and 1,995 more")
    assert len(new) < 300


def test_many_categories_are_compared_by_the_frequent_ones() -> None:
    """A thousand codes of five rows each differ by chance in every sample."""
    codes = [f"code{n}" for n in range(1000)]
    before, now = draw(1).choice(codes, N), draw(2).choice(codes, N)
    assert naive(now, before, "categorical") > 0.15
    assert compare(CHANNEL, now, before).verdict == "stable"


def test_the_order_of_rows_changes_nothing() -> None:
    codes = [f"code{n}" for n in range(50)]
    before, now = [*codes, "gone", "lost"] * 100, [*codes[:40], "new", "odd"] * 100
    for column, left, right in (
        (CHANNEL, now, before),
        (SPEND, draw(1).normal(size=N), draw(2).gamma(2, size=N)),
    ):
        shuffled = (draw(seed).permutation(values) for seed, values in ((3, left), (4, right)))
        assert compare(column, *shuffled) == compare(column, left, right)


def test_a_column_has_a_threshold_of_its_own() -> None:
    before, now = draw(1).normal(size=N), draw(2).normal(0.5, 1, size=N)
    assert compare(SPEND, now, before).verdict == "drifted"
    product = shop(drift={"thresholds": {"spend": 0.9}})
    found = compare(SPEND, now, before, product)
    assert (found.verdict, found.threshold) == ("stable", 0.9)
    assert found.score == compare(SPEND, now, before).score


# -- the report --------------------------------------------------------------------------------------


def month(**options: Any) -> MonthDrift:
    now = window("2024-02", spend=draw(2).normal(1, 1, size=N), channel=["web", "<script>"] * (N // 2))
    before = window("2024-01", spend=draw(1).normal(size=N), channel=["web", "app"] * (N // 2))
    found = measures.compare(shop(), [SPEND, CHANNEL], now, before)
    return MonthDrift(D("2024-02-01"), "v3", N, ["2024-02-03 (blocked)"], [found], **options)


def test_a_column_is_explained_in_the_report_if_the_contract_says_what_it_means() -> None:
    columns = copy.deepcopy(SHOP["source"]["columns"])
    columns["spend"]["description"] = "in euros, without tax"
    page = drift_report.build(shop(source__columns=columns), month(), AROUND)["report.html"].decode()
    assert page.count("in euros, without tax") == 1, "channel is in the report too, and has no description"


def test_the_report_opens_offline_and_escapes_what_it_shows() -> None:
    files = drift_report.build(shop(), month(), AROUND)
    assert list(files) == ["report.html", "report.json", "evidently_1.html"]
    page = files["report.html"].decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "2024-02-03 (blocked)" in page
    assert 'href="evidently_1.html"' in page
    for name in ("report.html", "evidently_1.html"):
        loads = re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?https?:", files[name].decode()
        )
        assert loads == []
    content = json.loads(files["report.json"])
    assert [one["column"] for one in content["comparisons"][0]["columns"]] == ["spend", "channel"]
    assert content["comparisons"][0]["share_of_drifted_columns"] == 1.0


def test_no_value_of_the_data_is_a_script_of_the_page_or_shows_what_is_sensitive() -> None:
    evil = "</script><script>alert(7531)</script>"
    before = ["web"] * 3000 + [evil] * 2000
    now = ["web"] * 2000 + [evil] * 3000
    found = measures.compare(
        shop(), [CHANNEL], window("2024-02", channel=now), window("2024-01", channel=before)
    )
    page = (found.html or b"").decode()
    assert "<script>alert(7531)" not in page
    assert "alert(7531)" in page, "the category is shown, as text"
    assert (
        found.columns[0].score
        == compare(CHANNEL, ["a"] * 2000 + ["b"] * 3000, ["a"] * 3000 + ["b"] * 2000).score
    )

    columns = shop().model_dump(mode="json", exclude_defaults=True)["source"]["columns"]
    for name in ("channel", "spend"):
        columns[name]["sensitive"] = True
    secret = shop(source__columns=columns)
    spend_now, spend_before = draw(2).normal(731_000, 10, N), draw(1).normal(730_990, 10, N)
    masked = measures.compare(
        secret,
        [SPEND, CHANNEL],
        window("2024-02", spend=spend_now, channel=["topsecret"] * N),
        window("2024-01", spend=spend_before, channel=["topsecret"] * (N - 2000) + ["hidden"] * 2000),
    )
    page = (masked.html or b"").decode()
    assert "topsecret" not in page
    assert masked.columns[0].score == pytest.approx(compare(SPEND, spend_now, spend_before).score)


def test_a_month_exceeds_what_the_contract_allows() -> None:
    found = month()
    assert [one.reference for one in drift_report.exceeds(shop(), found)] == ["2024-01"]
    assert drift_report.exceeds(shop(drift={"maximum_share": 1.0}), found) == []
    assert drift_report.summary(shop(), found).startswith("against 2024-01: 2 of 2 columns drifted: spend (")
    table = drift_report.table(found)
    assert table.splitlines()[0].startswith("| column | against | verdict |")
    assert len(table.splitlines()) == 4


def test_a_month_without_a_reference_has_nothing_to_compare() -> None:
    first = MonthDrift(D("2024-01-01"), None, N, [], [])
    assert drift_report.summary(shop(), first) == "nothing to compare with yet"
    assert b"Nothing to judge" in drift_report.build(shop(), first, AROUND)["report.html"]


@pytest.mark.parametrize(
    ("atom", "share", "moved"),
    [
        (0.0, 0.6, -50.0),
        (0.0, 0.3, -50.0),
        (0.0, 0.6, -0.5),
        (0.0, 0.6, 50.0),
        (5.0, 1.0, 3.0),
        (5.0, 1.0, 6.0),
    ],
)
def test_a_value_that_many_labels_have_is_seen_to_move_up_and_down(
    atom: float, share: float, moved: float
) -> None:
    rng = draw()
    others, is_atom = rng.random(4000) * 9 + 1, rng.random(4000) < share
    before, now = np.where(is_atom, atom, others), np.where(is_atom, moved, others)
    column = Column("spend", "quantiles", "label")
    assert compare(column, now, before).verdict == "drifted"
    again = compare(column, rng.permutation(before), before)
    assert (again.score, again.verdict) == (0.0, "stable")


def test_bins_are_called_by_what_they_hold() -> None:
    values = pd.Series([0.0] * 60 + [float(value) for value in range(1, 41)])
    pair = measures._in_bins(pd.Series([-1.0, 0.0, 0.1, 99.0]), values)
    assert pair.now.tolist() == ["1: below 0", "2: 0", "3: 0 to 0.4", "7: above 30.1"]
    middle = pd.Series([-2.0, -1.0, *[0.0] * 6, 1.0, 2.0])
    pair = measures._in_bins(pd.Series([-0.1, 0.0]), middle)
    assert [name.split(": ")[1] for name in pair.now] == ["-0.2 to below 0", "0"]
