"""A contract that is wrong in any way is that contract's error, and takes no other one down with it."""

from __future__ import annotations

import contextlib
import copy
import datetime
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract import estimators, yaml_text
from ml_platform.contract.expressions import check_expression
from ml_platform.contract.loading import (
    ContractError,
    contract_text,
    load_product,
    load_products,
    parse_product,
)
from ml_platform.contract.product import Product
from ml_platform.contract.windows import days_evaluated
from ml_platform.contract.yaml_text import MAXIMUM_BYTES, MAXIMUM_DEPTH, MAXIMUM_VALUES, YamlError, parse_yaml
from ml_platform.settings import PACKAGE, Settings
from ml_platform_tests.small_platform import SHOP, shop

#: A fuzz that ends within a minute on a slow machine; the seed is fixed, so that a failure comes back.
CASES, SEED = 200, 20240229
PLAIN_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / f"{name}.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text)
    return path


def bomb(levels: int, width: int = 10) -> str:
    """Aliases of aliases: ``width`` to the power of ``levels`` values when they are written out."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


def bomb_of_merged_keys(levels: int, width: int = 9) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


def with_estimator(class_: str, **params: Any) -> dict[str, Any]:
    content = copy.deepcopy(SHOP)
    content["model"]["estimator"] = {"class": class_, "params": params}
    return content


BROKEN = {
    "a folder of time zones": (SHOP | {"timezone": "Europe"}, "not a time zone"),
    "no time zone": (SHOP | {"timezone": "x" * 5000}, "not a time zone"),
    "a relative class": (with_estimator("..sklearn.X"), "not the full name of a class"),
    "a dot": (with_estimator("."), "not the full name of a class"),
    "another library": (with_estimator("os.system"), "was not imported"),
    "another class of a library": (with_estimator("lightgbm.LGBMRanker"), "accepted of lightgbm are"),
    "deep nesting": ("a: " + "[" * 20_000 + "]" * 20_000, f"nested deeper than {MAXIMUM_DEPTH} levels"),
    "deep mappings": ("".join("  " * n + "a:\n" for n in range(500)), "nested deeper than"),
    "an alias bomb": (bomb(30), f"more than {MAXIMUM_VALUES:,} values"),
    "a bomb of merged keys": (bomb_of_merged_keys(20), "more than"),
    "an alias of itself": ("a: &a [*a]", "contains itself"),
    "a long number": (f"start: {'9' * 5000}", "can't be read"),
    "no date": ("start: 2024-13-45", "can't be read"),
    "a list as a key": ("? [a, b]\n: 1", "a key is a word"),
    "too large": ("# " + "x" * MAXIMUM_BYTES, "larger than"),
    "a list": ("[1, 2]", "a mapping of keys"),
    "a tag that would run code": ("name: !!python/object/apply:os.system [exit]", "not valid YAML"),
    "nothing": ("", "a mapping of keys"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_hostile_contract_is_refused_and_its_neighbour_works(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    bad = write(tmp_path, "bad", content)
    write(tmp_path, "shop", SHOP)
    products, errors = load_products([tmp_path])
    assert set(products) == {"shop"}
    assert set(errors) == {bad}
    assert message in str(errors[bad])
    assert str(bad) in str(errors[bad])
    assert len(str(errors[bad])) < 5_000


def test_a_folder_and_a_pipe_that_are_called_like_contracts_are_refused(tmp_path: Path) -> None:
    import os

    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    _, errors = load_products([tmp_path])
    assert {path.name: "it is not a file" in str(error) for path, error in errors.items()} == {
        "folder.yaml": True,
        "pipe.yaml": True,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('broken')", "broken"),
        ("raise KeyboardInterrupt.__base__('odd')", "odd"),
        ("import sys; sys.exit(0)", "sys.exit(0)"),
        ("class Classifier:\n  def fit(self): ...\n  def predict_proba(self): ...\n"
         "  def __init__(self): raise SystemExit(0)", "sys.exit(0)"),
        ("class Classifier:\n  def fit(self): ...\n  def predict_proba(self): ...\n"
         "  def __init__(self): raise ZeroDivisionError('no')", "no"),
    ],
)  # fmt: skip
def test_a_module_that_ends_the_process_or_raises_anything_is_its_contracts_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    name = f"hostile_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(estimators, "_allowed", {name})
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    bad = write(contracts, "bad", with_estimator(f"{name}.Classifier") | {"name": "bad"})
    good = write(contracts, "shop", SHOP)
    products, errors = load_products([contracts])  # names alone: nobody's code is run
    assert set(products) == {"bad", "shop"}
    assert errors == {}
    assert name not in sys.modules
    with pytest.raises(ContractError, match=re.escape(message)):
        load_product(bad)
    assert load_product(good).name == "shop"


def test_a_module_that_no_setting_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unnamed_classifiers.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ContractError, match="ML_PLATFORM_ESTIMATOR_MODULES"):
        parse_product(with_estimator("unnamed_classifiers.Classifier"), "shop.yaml")
    assert "unnamed_classifiers" not in sys.modules


def test_a_module_that_a_setting_names_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_classifiers.py").write_text(
        "class Classifier:\n  def fit(self, *_): ...\n  def predict_proba(self, *_): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(estimators, "_allowed", set())
    Settings(home=tmp_path, estimator_modules="named_classifiers other.package")
    assert parse_product(with_estimator("named_classifiers.Classifier"), "shop.yaml").name == "shop"
    assert estimators.is_allowed("other.package.inner")
    assert not estimators.is_allowed("other.packages")


@pytest.mark.parametrize("name", ["not a module!", "a..b", "-x"])
def test_a_setting_that_names_no_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a module|not a module"):
        Settings(home=tmp_path, estimator_modules=(name,))


def test_the_command_line_works_beside_contracts_that_would_end_it(tmp_path: Path) -> None:
    """In a process of its own: what is tested is that it says what it should, and lives."""
    write(tmp_path, "zone", SHOP | {"timezone": "Europe"})
    write(tmp_path, "bomb", bomb(30))
    write(tmp_path, "shop", SHOP)
    code = (
        "from pathlib import Path; from ml_platform.contract.loading import load_products; "
        f"products, errors = load_products([Path({str(tmp_path)!r})]); print(sorted(products), len(errors))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['shop'] 2"


@pytest.mark.parametrize("text", ["^c[0-9]{4}$", r"^\w+@\w+\.[a-z]{2,}$", "(web|app)", r"^\d{1,3}(,\d{3})*$"])
def test_plain_expressions_are_accepted(text: str) -> None:
    check_expression(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("^(a+)+$", "may take for ever"),
        (r"^(\w+\s?)*$", "may take for ever"),
        ("^(a|aa)+$", "may take for ever"),
        ("(", "is no regular expression"),
        ("a{99999999999}", "is no regular expression"),
        ("(" * 5_000, "characters"),
    ],
)
def test_an_expression_that_is_none_or_takes_for_ever_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_expression(text)


def test_an_expectation_with_such_an_expression_is_its_contracts_error() -> None:
    wrong = {
        "type": "expect_column_values_to_match_regex",
        "kwargs": {"column": "customer", "regex": "^(a+)+$"},
    }
    with pytest.raises(ContractError, match="may take for ever"):
        shop(validation__expectations=[wrong])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model__training_months", 1_201),
        ("model__training_months", 10**30),
        ("model__holdout_days", 36_601),
        ("evaluation__window_days", 10**9),
        ("evaluation__minimum_rows", 10**13),
        ("evaluation__threshold", math.nan),
        ("retrain__cooldown_days", 10**10),
        ("source__label_delay_days", 10**9),
        ("start", datetime.date(1, 1, 1)),
        ("start", datetime.date(9999, 12, 31)),
        ("name", "x" * 61),
        ("name", "größe"),
        ("description", "x" * 2_001),
        ("source__delimiter", "\0"),
    ],
)
def test_numbers_dates_and_lengths_have_bounds(path: str, value: object) -> None:
    with pytest.raises(ContractError) as caught:
        shop(**{path: value})
    assert path.replace("__", ".").split(".")[0] in str(caught.value)


def test_values_of_a_column_fit_its_type() -> None:
    columns = copy.deepcopy(SHOP["source"]["columns"])
    columns["pages"]["allowed"] = [2**31]
    with pytest.raises(ContractError, match="is not a integer"):
        shop(source__columns=columns)


# -- the fuzz ----------------------------------------------------------------------------------------

HOSTILE: list[Any] = [
    *(
        None,
        "",
        " ",
        "\0",
        "\n",
        "x" * 3_000,
        "é",
        "..",
        "a.b",
        "*",
        "(a+)+$",
        "%Q",
        "1e999",
        "2024-02-30",
        "2024-02",
    ),
    *(
        "Europe",
        "day",
        "bought",
        "customer",
        "event_day",
        "sum",
        "integer",
        "date",
        "os.system",
        "sklearn.svm.SVC",
    ),
    *(True, False, 0, 1, -1, 2, 31, 10**6, 10**12 + 1, 10**30, -(10**30), 0.5, -0.5, 1e308),
    *(math.inf, -math.inf, math.nan, b"bytes"),
    *(
        [],
        [[]],
        {},
        {"": {}},
        [None],
        ["day", "day"],
        {"type": "double"},
        {"minimum": 3, "maximum": 1},
        {1: 2},
    ),
    *(datetime.date(1, 1, 1), datetime.date(2024, 2, 29), datetime.date(9999, 12, 31)),
    datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC),
]


#: What a slip of the finger puts anywhere into a text.
SCRAPS = ("\t", ":", "[", "}", "&a ", "*a", "!!x ", "\0", "é", "'")


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of a contract."""
    found = [above] if above else []
    if isinstance(content, dict):
        items: Any = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        items = ()
    for key, value in items:
        found += places(value, (*above, key))
    return found


def mutated(draw: random.Random, bases: list[dict[str, Any]]) -> dict[str, Any]:
    """A contract with some of its values replaced, removed, renamed, repeated, or copied elsewhere."""
    content = copy.deepcopy(draw.choice(bases))
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        every = places(content)
        path = draw.choice(every)
        holder: Any = content
        for key in path[:-1]:
            holder = holder[key]
        key = path[-1]
        match draw.randrange(6):
            case 0 | 1:
                holder[key] = copy.deepcopy(draw.choice(HOSTILE))
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[draw.choice(["x", "", "_a", "Day", "type", "x" * 200, "\n"])] = holder.pop(key)
            case 4:
                other: Any = content
                for part in draw.choice(every):
                    other = other[part] if isinstance(other, dict | list) and _has(other, part) else other
                holder[key] = copy.deepcopy(other) if other is not content else None
            case _:
                if isinstance(holder[key], list):
                    holder[key] = holder[key] * draw.choice([0, 2, 50])
                elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                    holder[key] = holder[key] * draw.choice([-1, 0, 2, 1000, 10**15])
    return content


def _has(holder: Any, key: Any) -> bool:
    try:
        holder[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def use(product: Product) -> None:
    """All that is asked of a product before it has any data."""
    from ml_platform.cli.contracts import in_words
    from ml_platform.data_engineering import aggregation, resolution
    from ml_platform.engine import training_plan
    from ml_platform.machine_learning import predicted_rows
    from ml_platform.mlops.quality import expectations

    assert product.hash_of("source", "mrds", "model") == product.hash_of("source", "mrds", "model")
    assert resolution.rows_schema(product).names
    assert aggregation.schema(product).names
    assert predicted_rows.schema(product).names
    assert in_words(product)
    day = product.start
    for data_set in ("ards", "mrds"):
        assert expectations.suite(product, data_set)
    assert len(days_evaluated(product, day)) == product.evaluation.window_days
    for kind, as_of in (
        ("monthly", product.first_month),
        ("retrain", product.first_month + datetime.timedelta(9)),
    ):
        assert training_plan.training_days(product, as_of, kind).first >= product.start
    assert parse_product(parse_yaml(contract_text(product)), "as it travels") == product


def test_random_contracts_end_in_an_error_that_names_the_file_or_in_a_product_that_works(
    tmp_path: Path,
) -> None:
    draw = random.Random(SEED)
    folder = Path(__file__).parents[2] / "ml_platform" / "products"
    bases = [copy.deepcopy(SHOP), *(parse_yaml(path.read_text()) for path in sorted(folder.glob("*.yaml")))]
    refused = 0
    for number in range(CASES):
        content = mutated(draw, bases)
        text = yaml.dump(content, sort_keys=False, allow_unicode=draw.random() < 0.5)
        if draw.random() < 0.15:
            place = draw.randrange(len(text))
            text = (
                text[:place]
                + draw.choice(["\t", ":", "[", "}", "&a ", "*a", "!!x ", "\0", "é", "'"])
                + text[place:]
            )
        path = write(tmp_path, f"case{number}", text)
        message = refusal(path)
        refused += bool(message)
        assert not message or str(path) in message
        assert len(message) < 20_000
        assert "can't be understood" not in message, text
        if not message:
            use(load_product(path))
    assert 50 < refused < CASES - 10


def refusal(path: Path) -> str:
    """What is wrong with a contract; nothing of a valid one."""
    try:
        load_product(path)
    except ContractError as error:
        return str(error)
    return ""


def test_an_error_of_yaml_has_its_place() -> None:
    with pytest.raises(YamlError, match="line 2, column"):
        parse_yaml("a: 1\nb: [1, 2")


#: What contracts are written with, and what breaks them.
_SIGNS = "abn01.:-,[]{}'\"#&*|>%@?!~= \t\n\ufeffé"


@given(st.one_of(st.text(_SIGNS, max_size=40), st.builds(yaml.safe_dump, PLAIN_DATA)))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_fast_parser_reads_what_the_slow_one_reads_to_the_same_values(text: str) -> None:
    slow: Any
    try:
        slow = yaml.load(text, Loader=yaml_text._Loader)
    except Exception:
        # libyaml takes some that the other refuses, such as a tab at the end of a line.
        with contextlib.suppress(YamlError):
            parse_yaml(text)
    else:
        assert repr(parse_yaml(text)) == repr(slow)


def test_contracts_are_read_by_the_fast_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    contracts = {path: parse_yaml(path.read_text()) for path in (PACKAGE / "products").glob("*.yaml")}
    assert len(contracts) == 3
    assert yaml_text._FastLoader is not None
    monkeypatch.setattr(yaml_text, "_Loader", None)
    assert {path: parse_yaml(path.read_text()) for path in contracts} == contracts
    monkeypatch.undo()
    monkeypatch.setattr(yaml_text, "_FastLoader", None)
    assert {path: parse_yaml(path.read_text()) for path in contracts} == contracts
