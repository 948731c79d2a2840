"""The documents name every key of a contract, with its default, and every setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from ml_platform.contract.labels_ahead import LEAST_SHARE, PATIENCE_DAYS, LabelAhead
from ml_platform.contract.labels_ahead import RULES as RULES_OF_LABELS
from ml_platform.contract.learning import Estimator, Population
from ml_platform.contract.loading import parse_product
from ml_platform.contract.monitoring import CustomExpectation
from ml_platform.contract.product import Product
from ml_platform.contract.searching import MAXIMUM_SECONDS, MAXIMUM_TRIALS, Search, Space
from ml_platform.contract.source import Column, Derived
from ml_platform.contract.trailing import DISTINCT_VALUES, MOST_DISTINCT_VALUES, Feature
from ml_platform.contract.trailing import RULES as RULES_OF_WINDOWS
from ml_platform.contract.yaml_text import parse_yaml
from ml_platform.mlops.quality.expectations import RULES
from ml_platform.settings import PACKAGE, Settings

TEXT = (PACKAGE.parent / "docs" / "contract.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
CONTRACT, DERIVED, WINDOWS, AHEAD, POPULATION, EXPECTATIONS = (parse_yaml(block) for block in BLOCKS)
NOTHING = PydanticUndefined


def keys(
    model: type[BaseModel], content: Any, place: str = "", defaults: Any = NOTHING
) -> Iterator[tuple[str, Any, Any]]:
    """Each key of a section: its place, what the reference says, and the default."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        # YAML takes the keys true and false for booleans.
        given = content.get({"true": True, "false": False}.get(key, key), NOTHING)
        default = (
            field.get_default(call_default_factory=True) if defaults is NOTHING else getattr(defaults, name)
        )
        section = next(
            (one for one in (field.annotation, *get_args(field.annotation)) if is_section(one)), None
        )
        if section is not None and section in (field.annotation, Column) and section is not Column:
            yield from keys(section, given, f"{place}{key}.", default)
        else:
            yield f"{place}{key}", given, default


def is_section(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, BaseModel)


OF_A_COLUMN = CONTRACT["source"]["columns"]["amount"]
FOUND = [
    *keys(Product, CONTRACT),
    *keys(Column, OF_A_COLUMN, "source.columns.amount."),
    *keys(Estimator, CONTRACT["model"]["estimator"], "model.estimator."),
]
#: Keys whose default is that there is nothing, which would make no contract.
WITH_AN_EXAMPLE = {"model.features.numeric", "model.estimator", "source.label", "mrds.aggregate"}


def test_the_reference_is_a_valid_contract() -> None:
    assert parse_product(CONTRACT, "docs/contract.md").name == "orders"


@pytest.mark.parametrize(("path", "given", "default"), FOUND, ids=[one[0] for one in FOUND])
def test_a_key_is_named_with_its_default(path: str, given: Any, default: Any) -> None:
    assert given is not NOTHING, f"{path} isn't in the reference"
    if default is not NOTHING and path not in WITH_AN_EXAMPLE:
        assert given == (list(default) if isinstance(default, tuple) else default)


def test_a_key_without_a_default_is_marked_as_required() -> None:
    marked = set(re.findall(r"^ *(\w+):[^#\n]*# required", BLOCKS[0], re.MULTILINE))
    required = {path.split(".")[-1] for path, _, default in FOUND if default is NOTHING}
    sections = {name for name, field in Product.model_fields.items() if field.is_required()}
    assert marked == required | sections | {"features", "estimator"}


def test_a_search_is_shown_with_its_keys_and_defaults() -> None:
    (text,) = re.findall(r"## Several estimators, and a search\n.*?```\n(.*?)```", TEXT, re.DOTALL)
    content = {**CONTRACT, "model": {**CONTRACT["model"], **parse_yaml(text)["model"]}}
    del content["model"]["estimator"]
    first, second = parse_product(content, "docs/contract.md").model.estimators
    assert first.search is not None
    assert second.search is not None
    written = parse_yaml(text)["model"]["estimators"][0]["search"]
    assert set(written) == set(Search.model_fields)
    assert (first.search.trials, first.search.seconds) == (second.search.trials, second.search.seconds)
    assert {key for space in written["params"].values() for key in space} == set(Space.model_fields)
    assert f"{MAXIMUM_TRIALS:,}" in text
    assert f"{MAXIMUM_SECONDS:,}" in text


def test_each_rule_is_listed_with_its_severity() -> None:
    (text,) = re.findall(r"## Severities\n(.*?)\n## ", TEXT, re.DOTALL)
    errors, warnings = text.split("are errors;")
    for rule, (_, severity) in RULES.items():
        assert f"`{rule}`" in (errors if severity == "error" else warnings)


def test_an_expectation_has_its_defaults() -> None:
    (one,) = EXPECTATIONS["expectations"]
    assert set(one) == set(CustomExpectation.model_fields)
    defaults = {name: field.default for name, field in CustomExpectation.model_fields.items()}
    assert all(one[name] == defaults[name] for name in ("on", "severity", "description"))


def test_every_setting_is_in_the_documents() -> None:
    checkout = PACKAGE.parent
    settings = (checkout / "docs" / "operating.md").read_text().split("## Settings")[1]
    named = set(re.findall(r"`([A-Z_]+)`", settings + (checkout / "docs" / "databricks.md").read_text()))
    assert {name.upper() for name in Settings.model_fields} <= named


def test_the_files_that_the_architecture_names_are_there() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text)) - {"ml_platform/engine/steps/day_totals.py"}
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*")]
    unknown = [
        name
        for name in named
        if not (PACKAGE.parent / name).exists()
        and not any(file == name.rstrip("/") or file.endswith(f"/{name.rstrip('/')}") for file in files)
    ]
    assert unknown == []
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert {f"{folder}/" for folder in folders} <= named, "every folder is in the table"


def test_derived_columns_are_shown_as_they_are_read() -> None:
    columns = {
        name: {"type": type_}
        for name, type_ in {"price": "double", "quantity": "long", "time": "timestamp"}.items()
    }
    source = {**CONTRACT["source"], **DERIVED}
    source["columns"] = {**source["columns"], **columns}
    found = parse_product({**CONTRACT, "source": source}, "docs/contract.md")
    assert set(found.derived) == {"total", "hour", "is_large"}
    assert set(DERIVED["derive"]["hour"]) == set(Derived.model_fields)


def test_a_label_ahead_is_shown_as_it_is_read() -> None:
    content = {**CONTRACT, **AHEAD, "mrds": {**AHEAD["mrds"], **POPULATION}}
    mrds = parse_product(content, "docs/contract.md").mrds
    label = mrds.label
    assert mrds.population is not None
    assert set(POPULATION["population"]) == set(Population.model_fields)
    assert label is not None
    assert all(f"`{rule}: " in TEXT for rule in RULES_OF_LABELS)
    assert f"`patience_days: {PATIENCE_DAYS}`" in TEXT
    assert "nine tenths" in TEXT
    assert LEAST_SHARE == 0.9
    named = set(re.findall(r"`(\w+)", TEXT.split("## Labels that look ahead")[1].split("\n## ")[0]))
    assert set(LabelAhead.model_fields) <= named


def test_the_features_of_the_reference_are_those_of_a_contract() -> None:
    features = WINDOWS["mrds"]["features"]
    read = TypeAdapter(dict[str, Feature]).validate_python(features)
    assert all(feature.expression or feature.rule in RULES_OF_WINDOWS for feature in read.values())
    assert all(f"`{rule}`" in TEXT for rule in RULES_OF_WINDOWS)
    assert f"`up_to: {DISTINCT_VALUES}`" in TEXT
    assert f"up to {MOST_DISTINCT_VALUES:,}" in TEXT
