"""A product as a component of a Dagster project of somebody's own: ``type: ml_platform.ProductComponent``.

The attributes are those of a contract, or the path of one. What a product is made of is :mod:`.build`'s
business, and how a folder of components is read is Dagster's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster.components import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.build import graph_of, quiet_drawing, resources_of, shared_definitions
from ml_platform.contract.loading import ContractError, load_product, parse_product
from ml_platform.contract.product import Product
from ml_platform.settings import Settings

#: The name that a scaffolded contract has, beside the file that names it.
CONTRACT = "contract.yaml"


class ProductAttributes(BaseModel):
    """The path of a contract, or its keys."""

    model_config = ConfigDict(extra="allow")

    contract: str | None = Field(
        default=None,
        description="a contract, a YAML file; a path from the folder of this file. Without it the keys of a "
        "contract (name, start, source, …) stand here",
    )
    in_process: bool = Field(
        default=True,
        description="whether runs of this code location do their steps in one process, which shares a Spark "
        "session; false in a project that has an executor of its own",
    )


class ProductParams(BaseModel):
    """What ``dg scaffold defs`` accepts."""

    contract: str | None = Field(
        default=None, description="A contract that is there already, like one of ml-platform init."
    )


class ProductScaffolder(Scaffolder[ProductParams]):
    """Writes a component for a contract, or with an example of one."""

    @classmethod
    def get_scaffold_params(cls) -> type[ProductParams]:
        return ProductParams

    def scaffold(self, request: ScaffoldRequest[ProductParams]) -> None:
        """Write ``defs.yaml``, and an example of a contract unless there is one.

        Raises:
            ValueError: the contract that is named isn't valid, or Python is asked for.
        """
        if request.scaffold_format != "yaml":
            raise ValueError("a product is described by YAML: leave --format out")
        folder = request.target_path.parent if request.append else request.target_path
        named = request.params.contract
        if named is None:
            path = folder / CONTRACT
            if path.exists():
                raise ValueError(f"{path} is there already: name it, or another one, with --contract")
            path.write_text(_EXAMPLE.format(name=_name(folder)), encoding="utf-8")
        else:
            path = Path(named).absolute()
            load_product(path)
        relative = Path(os.path.relpath(path, folder)).as_posix()
        content = yaml.safe_dump(
            {"type": request.type_name, "attributes": {"contract": relative}}, sort_keys=False
        )
        target = request.target_path if request.append else folder / "defs.yaml"
        with target.open("a" if request.append else "w", encoding="utf-8") as file:
            file.write(f"---\n{content}" if request.append else content)


@dg.scaffold_with(ProductScaffolder)
class ProductComponent(dg.Component):
    """A product of ml_platform: its assets, checks, jobs, sensors and schedules."""

    def __init__(self, product: Product, *, in_process: bool = True) -> None:
        self.product = product
        self.in_process = in_process

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return ProductAttributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(
            description="Batch machine learning in production, from CSV deliveries to predictions."
        )

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> ProductComponent:
        """The product of the attributes.

        Raises:
            DagsterInvalidDefinitionError: there is no valid contract; names the key, and what is accepted.
        """
        assert isinstance(attributes, ProductAttributes), "Dagster has read them by this model"
        folder = context.path if context.path.is_dir() else context.path.parent
        try:
            product = _product(attributes, folder)
        except ContractError as error:
            raise dg.DagsterInvalidDefinitionError(str(error)) from error
        return cls(product, in_process=attributes.in_process)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The graph of the product, with the resources that all products of a code location share."""
        settings = Settings()
        with quiet_drawing():
            graph = graph_of(self.product, settings)
        shared = shared_definitions(_shared_resources(settings), in_process=self.in_process)
        return dg.Definitions.merge(shared, graph)


#: The resources of this process, by their settings: Dagster merges products that have the same ones.
_RESOURCES: list[tuple[Settings, dict[str, Any]]] = []


def _shared_resources(settings: Settings) -> dict[str, Any]:
    for known, found in _RESOURCES:
        if known == settings:
            return found
    _RESOURCES.append((settings, resources_of(settings)))
    return _RESOURCES[-1][1]


def _product(attributes: ProductAttributes, folder: Path) -> Product:
    keys = attributes.model_extra or {}
    if attributes.contract is None:
        origin = str(folder / "defs.yaml")
        _refuse_words(keys, origin)
        return parse_product(dict(keys), origin, try_estimators=False)
    if keys:
        raise ContractError(
            f"{folder / 'defs.yaml'}: contract names a file, so {', '.join(keys)} can't stand here too"
        )
    return load_product(folder / attributes.contract, try_estimators=False)


def _refuse_words(content: object, origin: str) -> None:
    """Refuse words for true and false that are no words any more.

    Dagster reads ``yes`` and ``no`` without quotes as booleans; in a file of its own a contract has words.

    Raises:
        ContractError: there are such.
    """
    for place, value in _lists_of_words(content):
        if any(isinstance(word, bool) for word in value):
            raise ContractError(
                f"{origin}: {place}: words like yes and no need quotes in this file, as Dagster reads them "
                "as booleans; or put the contract into a file of its own and name it by contract"
            )


def _lists_of_words(content: object, place: str = "") -> Iterator[tuple[str, list[Any]]]:
    """The lists under keys ``true`` and ``false``, and where they stand."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        inner = f"{place}{'.' if place else ''}{key}"
        if str(key).lower() in ("true", "false") and isinstance(value, list):
            yield inner, value
        yield from _lists_of_words(value, inner)


def _name(folder: Path) -> str:
    """A name for a product, as near to the folder's as one may be."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.name.lower()).strip("_")
    return name if name[:1].isalpha() else f"product_{name}".rstrip("_")


_EXAMPLE = """\
# An example. `ml-platform init` writes one from CSV files of your own; docs/contract.md has every key.
name: {name}
description: Will a customer order again within a month?
start: 2024-01-01
timezone: UTC
source:
  key: [order]                # what tells the rows of a day apart
  event_day: day
  label: again                # 0 or 1; empty if not known yet
  label_delay_days: 1
  columns:
    order:    {{type: long}}
    day:      {{type: date}}
    customer: {{type: string}}
    amount:   {{type: double}}
    again:    {{type: integer, nullable: true, allowed: [0, 1]}}
mrds:
  entity: [customer]          # what is scored
  aggregate: {{amount: sum, again: last}}
model:
  features: {{numeric: [amount]}}
  estimator: {{class: sklearn.linear_model.LogisticRegression}}
evaluation: {{metric: f1, threshold: 0.6}}
"""
