"""What a header means: names, aliases, columns that come and go, against an independent oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.data_engineering import delivery_file, fast_reader, headers, landing, parsing
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform.mlops.quality import expectations
from ml_platform_tests.small_platform import CARRIERS, SHOP, D, Platform, carry_by, days, shop

BEFORE, SINCE, AFTER = D("2024-01-02"), D("2024-01-03"), D("2024-01-05")
ALL = ["visit", "day", "customer", "spend", "pages", "channel"]


def contract(changed: Mapping[str, Mapping[str, Any]] | None = None, **source: Any) -> Product:
    """The product ``shop`` with changes of columns; ``pages`` is the feature that must have a value."""
    columns = {name: dict(declared) for name, declared in SHOP["source"]["columns"].items()}
    for name, keys in (changed or {}).items():
        columns.setdefault(name, {}).update(keys)
    return shop(**{f"source__{key}": value for key, value in source.items()}, source__columns=columns)


def problem(product: Product, names: list[str], day: date = AFTER) -> str:
    return headers.resolve(product, names, day).problem or ""


# -- an oracle ---------------------------------------------------------------------------------------

NAMES = {
    "visit": ["Visit No"],
    "day": [],
    "customer": ["Kunde", "client"],
    "spend": ["Ümsatz"],
    "pages": ["Old Pages"],
    "channel": [],
    "bought": ["Target"],
}
#: Which columns a file may lack, before their first day and after it.
MAY_LACK = {
    "before": {"spend", "channel", "pages", "bought"},
    "after": {"spend", "channel", "bought"},
}


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    match = draw(st.sampled_from(["exact", "relaxed"]))
    extra = draw(st.sampled_from(["refuse", "ignore", ["note", "Old Score"]]))
    # Mostly whole files, so that many are accepted.
    if draw(st.booleans()):
        chosen = [name for name in NAMES if draw(st.integers(0, 9))]
    else:
        chosen = draw(
            st.sampled_from([["visit", "day", "bought"], ALL, ["visit", "day", "customer", "pages"], []])
        )
    header = []
    for column in chosen:
        name = draw(st.sampled_from([column, *NAMES[column]]))
        style = draw(st.sampled_from(["as it is", "as it is", "upper", "spaces"]))
        header.append({"upper": name.upper(), "spaces": f" {name}\t"}.get(style, name))
    header += draw(st.lists(st.sampled_from(["note", "Old Score", "x", ""]), max_size=2))
    if header and draw(st.integers(0, 9)) == 0:
        header.append(draw(st.sampled_from(header)))
    return {
        "match": match,
        "extra": extra,
        "header": draw(st.permutations(header)),
        "day": draw(st.sampled_from([BEFORE, AFTER])),
    }


def meaning(case: dict[str, Any]) -> tuple[dict[int, str], bool]:
    """The column at each place that has one, and whether the file is accepted."""
    relaxed = case["match"] == "relaxed"

    def same(one: str, other: str) -> bool:
        return one.strip().lower() == other.strip().lower() if relaxed else one == other

    at, others = {}, []
    for place, given_name in enumerate(case["header"]):
        found = [
            name
            for name, aliases in NAMES.items()
            if any(same(given_name, known) for known in [name, *aliases])
        ]
        if found:
            at[place] = found[0]
        else:
            others.append(given_name)
    read = list(at.values())
    if len(set(read)) < len(read) or not read:
        return at, False
    if case["extra"] == "refuse" and others:
        return at, False
    if isinstance(case["extra"], list) and not all(
        any(same(name, accepted) for accepted in case["extra"]) for name in others
    ):
        return at, False
    if set(read) == {"visit", "day", "bought"}:
        return at, True
    lacking = set(NAMES) - set(read)
    return at, lacking <= MAY_LACK["before" if case["day"] < SINCE else "after"]


VALUES = {
    "customer": ["ann", "bob"],
    "spend": ["1.5", "2"],
    "pages": ["3", "4"],
    "channel": ["web", "app"],
    "bought": ["1", "0"],
    "visit": ["7", "8"],
}
TYPED: dict[str, list[Any]] = {
    **VALUES,
    "spend": [1.5, 2.0],
    "pages": [3, 4],
    "bought": [1, 0],
    "visit": [7, 8],
}


@settings(max_examples=250, deadline=None, derandomize=True)
@given(files())
def test_any_header_is_read_as_its_names_say_or_refused(case: dict[str, Any]) -> None:
    product = contract(
        {name: {"aliases": aliases} for name, aliases in NAMES.items()}
        | {"pages": {"since": SINCE, "aliases": ["Old Pages"]}},
        header_match=case["match"],
        extra_columns=case["extra"],
    )
    at, accepted = meaning(case)
    with tempfile.TemporaryDirectory() as folder:
        day_folder = Path(folder) / "shop" / str(case["day"])
        day_folder.mkdir(parents=True)
        values = {**VALUES, "day": [str(case["day"])] * 2}
        lines = [
            ",".join(
                values[at[place]][row] if place in at else "junk" for place in range(len(case["header"]))
            )
            for row in range(2)
        ]
        text = "\n".join([",".join(case["header"]), *lines]) + "\n"
        (day_folder / "a.csv").write_text(text)
        # A label file alone is no delivery yet.
        rows_beside = ",".join(ALL) + "\n" + f"1,{case['day']},eve,1,1,web\n"
        (day_folder / "0.csv").write_text(rows_beside)
        delivery = landing.scan(product, Path(folder), [case["day"]])[case["day"]]
        assert (delivery.problem is None) == accepted, delivery.problem
        if not accepted:
            return
        (file,) = [file for file in delivery.files if file.name == "a.csv"]
        assert file.labels_only == (set(at.values()) == {"visit", "day", "bought"})
        fast = parsed(file, product)
        with mock.patch.object(fast_reader, "read_fast", side_effect=pa.ArrowInvalid("not in this test")):
            assert parsed(file, product) == fast
    unnamed = "other" if not file.labels_only else None  # the column's fill_null
    for row, record in enumerate(fast):
        expected = {
            name: TYPED[name][row] if name in at.values() else {"channel": unnamed}.get(name)
            for name in TYPED
        }
        assert {name: record[name] for name in TYPED} == expected
        assert record["_kind"] == ("label" if file.labels_only else "row")


def parsed(file: delivery_file.DeliveryFile, product: Product) -> list[dict[str, Any]]:
    return [row for batch in parsing.parse_file(file, product) for row in batch.to_pylist()]


# -- what is refused, and what would accept it ---------------------------------------------------------


def test_a_missing_column_names_the_keys_that_would_accept_it() -> None:
    names = [name for name in ALL if name != "pages"]
    assert problem(contract(), names) == (
        "missing columns: pages. Expected are visit, day, customer, spend, pages, channel, bought. "
        "In the contract, a column that older files lack needs nullable, fill_null or since"
    )
    assert "missing columns: pages (since 2024-01-03)" in problem(
        contract({"pages": {"since": SINCE}}), names
    )
    assert not problem(contract({"pages": {"since": SINCE}}), names, BEFORE)


def test_an_unexpected_column_names_the_key_that_would_accept_it() -> None:
    found = problem(contract(), [*ALL, "score"])
    assert "unexpected columns: score" in found
    assert "source.extra_columns: [score]" in found
    assert not problem(contract(extra_columns=["score"]), [*ALL, "score"])
    assert "unexpected columns: rank" in problem(contract(extra_columns=["score"]), [*ALL, "score", "rank"])
    assert not problem(contract(extra_columns="ignore"), [*ALL, "score", "rank"])


def test_a_name_in_another_case_names_the_key_that_would_accept_it() -> None:
    names = [*ALL[:-1], " Channel"]
    assert "source.header_match: relaxed" in problem(contract(), names)
    assert not problem(contract(header_match="relaxed"), names)


def test_a_column_with_two_names_in_one_header_is_refused() -> None:
    product = contract({"spend": {"aliases": ["Old Spend"]}})
    assert problem(product, [*ALL, "Old Spend"]) == "the header names spend twice (as 'spend', 'Old Spend')"


def test_a_first_day_holds_for_nullable_and_filled_columns_too() -> None:
    for changed in ({"nullable": True}, {"fill_null": 0}):
        product = contract({"pages": {"since": SINCE, **changed}})
        names = [name for name in ALL if name != "pages"]
        assert not problem(product, names, BEFORE)
        assert "missing columns: pages (since 2024-01-03)" in problem(product, names, SINCE)


def test_the_key_and_the_entity_are_in_every_file() -> None:
    product = contract({"customer": {"nullable": True}, "visit": {"fill_null": 0}})
    for name in ("visit", "day", "customer"):
        assert f"missing columns: {name}" in problem(product, [one for one in ALL if one != name], BEFORE)


def test_a_header_wider_than_any_sheet_is_refused_in_few_words() -> None:
    product = contract(extra_columns="ignore")
    assert problem(product, [*ALL, *map(str, range(20_000))]) == (
        "the header has 20,006 columns; at most 16,384 can be read"
    )
    assert len(problem(contract(), [*ALL, *("x" * 1000 for _ in range(10_000))])) < 5_000


@pytest.mark.parametrize(
    ("changed", "source", "message"),
    [
        ({"spend": {"aliases": ["pages"]}}, {}, "'pages' would name both the columns 'spend' and 'pages'"),
        ({"spend": {"aliases": ["x"]}, "pages": {"aliases": ["x"]}}, {}, "'x' would name both"),
        ({"spend": {"aliases": ["Pages "]}}, {"header_match": "relaxed"}, "'pages' would name both"),
        ({}, {"extra_columns": ["spend"]}, "extra_columns: 'spend' names the column 'spend', which is read"),
        ({}, {"extra_columns": "drop"}, "accepted are refuse, ignore, or a list of column names"),
        ({}, {"header_match": "loose"}, "header_match"),
        ({"visit": {"since": "2024-01-03"}}, {}, "'visit' belongs to the key or is the label"),
        ({"bought": {"since": "2024-01-03"}}, {}, "'bought' belongs to the key or is the label"),
        ({"customer": {"since": "2024-01-03"}}, {}, "'customer' is what is scored"),
    ],
)
def test_a_contract_that_could_mean_two_things_is_refused(
    changed: dict[str, Any], source: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        contract(changed, **source)


# -- training, rules, and days that are written --------------------------------------------------------


def test_days_before_a_required_feature_are_not_learned_from() -> None:
    product = contract({"pages": {"since": SINCE}, "spend": {"since": AFTER}})  # spend is nullable
    assert product.required_since == SINCE
    assert [product.trainable(day) for day in (BEFORE, SINCE, AFTER)] == [False, True, True]
    assert contract({"pages": {"since": SINCE, "fill_null": 0}}).required_since is None
    assert contract().trainable(date.min)


def test_rules_about_a_column_count_from_its_first_day_on() -> None:
    mean = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "pages", "min_value": 1}}
    product = shop(
        source__columns__pages={"type": "integer", "since": SINCE},
        validation={"not_null": ["pages"], "ranges": {"pages": {"minimum": 0}}, "expectations": [mean]},
    )

    def about_pages(day: date) -> list[str]:
        suite = expectations.suite(product, "ards", day=day)
        return [one.type for one in suite if one.columns == ("pages",) and not one.of_schema]

    assert about_pages(BEFORE) == []
    assert about_pages(SINCE) == [
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_be_between",
        "expect_column_mean_to_be_between",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_contract_that_has_changed_reads_both_halves_of_a_history(
    platform: Platform, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_by(carrier, monkeypatch)
    old = "visit,day,client,score\n1,{day},ann,x\n2,{day},bob,\n"
    new = "visit,day,customer,spend,pages,channel\n3,{day},ann,1.5,3,web\n4,{day},bob,,4,\n"
    chosen = days("2024-01-01", "2024-01-04")
    for day in chosen:
        platform.deliver(day, "a.csv", (old if day < SINCE else new).format(day=day))
    refused = platform.run("ards", chosen).days
    assert [one.outcome for one in refused] == ["refused", "refused", "written", "written"]

    changed = contract(
        {"pages": {"since": SINCE}, "customer": {"aliases": ["client"]}}, extra_columns=["score"]
    )
    again = Platform(platform.settings, platform.spark, changed)
    results = again.run("ards", chosen).days
    assert [one.outcome for one in results] == ["written"] * 4
    assert [one.outcome for one in again.run("mrds", chosen).days] == ["written"] * 4
    assert results[0].metadata["ignored_columns"] == "score (1 of 1 files)"
    assert results[0].metadata["missing_columns"] == (
        "spend (1 of 1 files), pages (1 of 1 files), channel (1 of 1 files)"
    )
    assert "missing_columns" not in results[2].metadata
    rows = again.rows("ards", ["event_day", "visit"])
    assert list(rows["customer"]) == ["ann", "bob"] * 4
    assert rows["pages"].isna().tolist() == [True] * 4 + [False] * 4
    assert list(rows["channel"]) == ["other"] * 4 + ["web", "other"] * 2
    features = again.rows("mrds", ["event_day", "customer"])
    assert features["pages"].isna().tolist() == [True] * 4 + [False] * 4
    assert features["spend"].isna().tolist() == [True] * 4 + [False, True] * 2


def test_a_null_before_the_first_day_is_no_defect_and_one_after_it_is(tmp_path: Path) -> None:
    product = contract({"pages": {"since": SINCE}})
    kinds = {}
    for day in (BEFORE, SINCE):
        folder = tmp_path / "shop" / str(day)
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text(",".join(ALL) + f"\n1,{day},ann,1,,web\n")
        (file,) = landing.scan(product, tmp_path, [day])[day].files
        kinds[day] = parsed(file, product)[0]["_reason"]
    assert kinds[BEFORE] is None
    assert kinds[SINCE].startswith("missing required value in pages")


def test_a_history_is_split_by_the_same_rules(tmp_path: Path) -> None:
    product = contract({"pages": {"since": SINCE}, "visit": {"aliases": ["Nr"]}}, extra_columns=["note"])
    path = tmp_path / "history.csv"
    lines = ["Nr,day,customer,note,bought", "1,2024-01-01,ann,x,1", "2,2024-01-02,bob,,0"]
    path.write_text("\n".join(lines) + "\n")
    summary = split_history(product, [path], tmp_path / "landing")
    assert (summary.rows, summary.labels) == (2, 2)
    found = landing.scan(product, tmp_path / "landing", days("2024-01-01", "2024-01-02"))
    assert [delivery.refusal for delivery in found.values()] == [None, None]
    records = [row for day in found for file in found[day].files for row in parsed(file, product)]
    assert [(row["visit"], row["bought"]) for row in records] == [(1, None), (1, 1), (2, None), (2, 0)]

    path.write_text("\n".join([*lines, "3,2024-01-03,eve,,1"]) + "\n")
    with pytest.raises(SplitError, match="line 4: day: files of 2024-01-03 must have the columns pages"):
        split_history(product, [path], tmp_path / "other")


def test_a_name_with_control_characters_is_shown_in_one_printable_line(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "2024-01-01"
    folder.mkdir(parents=True)
    names = ("day\0", '"visit\n"', "\x1b[31mspend", "\u202ebought", "day\0")
    (folder / "a.csv").write_text(",".join(names) + "\n")
    day = D("2024-01-01")
    refusal = str(landing.scan(shop(), tmp_path, [day])[day].refusal)
    assert refusal.isprintable()
    assert "day\\x00,visit\\n,\\x1b[31mspend" in refusal
    (folder / "a.csv").write_text(f"visit,day,customer,pages,channel,{','.join(names)}\n")
    refusal = str(landing.scan(shop(), tmp_path, [day])[day].refusal)
    assert refusal.isprintable()
    ignoring = landing.scan(shop(source__extra_columns="ignore"), tmp_path, [day])[day]
    assert ignoring.refusal is None
    assert all(name.isprintable() for name in ignoring.ignored_columns)
    with pytest.raises(SplitError) as error:
        split_history(shop(), [folder / "a.csv"], tmp_path / "other")
    assert str(error.value).isprintable()
