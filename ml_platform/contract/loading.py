"""Reading contracts from files, and their errors in words that name the file and the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from ml_platform.contract import estimators
from ml_platform.contract.fields import listed
from ml_platform.contract.product import Product
from ml_platform.contract.yaml_text import YamlError, read_yaml


class ContractError(Exception):
    """A contract is wrong; the message names the file, the key path and what is accepted."""


# -- reading ---------------------------------------------------------------------------------------


def load_product(path: Path, *, try_estimators: bool = True) -> Product:
    """Read and validate one contract.

    Args:
        try_estimators: import and build its estimators, and have them learn made-up rows; otherwise
            their classes are looked at by name.

    Raises:
        ContractError: the file can't be read as YAML, or breaks a rule; names file and key path.
    """
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise ContractError(f"{path}: {error}") from error
    return parse_product(content, str(path), try_estimators=try_estimators)


def parse_product(content: object, origin: str, *, try_estimators: bool = True) -> Product:
    """Validate the content of a contract; ``origin`` names it in errors.

    Raises:
        ContractError: as for :func:`load_product`.
    """
    if not isinstance(content, dict):
        raise ContractError(
            f"{origin}: a contract is a mapping of keys like name, start, source; this is not"
        )
    try:
        return Product.model_validate(content, context=estimators.TRY if try_estimators else None)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(problem) for problem in problems[:_PROBLEMS_SHOWN]]
        if len(problems) > _PROBLEMS_SHOWN:
            lines.append(f"and {len(problems) - _PROBLEMS_SHOWN} more")
        raise ContractError("\n".join(f"{origin}: {line}" for line in lines)) from error
    except (Exception, SystemExit) as error:  # one contract never takes the others down with it
        raise ContractError(f"{origin}: can't be understood: {type(error).__name__}: {error}") from error


#: Of a wrong contract so many problems are said, each with so much of what was found.
_PROBLEMS_SHOWN = 50


_FOUND_SHOWN = 200


def _explain(problem: Any) -> str:
    """One line of key path and reason for one of pydantic's errors."""
    location = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key; accepted are {_accepted_keys(problem['loc'])}"
    elif problem["type"] == "missing":
        message = "this key is required"
    elif problem["type"] not in ("value_error",):
        found = repr(problem["input"])
        found = found if len(found) <= _FOUND_SHOWN else f"{found[:_FOUND_SHOWN]}…"
        message = f"{message} (found {found})"
    return f"{location}: {message}" if location else message


def _accepted_keys(location: tuple[int | str, ...]) -> str:
    section: Any = Product
    for part in location[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            fields = {f.alias or name: f.annotation for name, f in section.model_fields.items()}
            section = _without_none(fields.get(str(part)))
            if get_origin(section) in (dict, tuple):
                # Of a mapping by name, and of a list, each value is a section.
                section = {"": get_args(section)[1 if get_origin(section) is dict else 0]}
        elif isinstance(section, dict):
            section = section[""]
    if isinstance(section, type) and issubclass(section, BaseModel):
        return listed([f.alias or name for name, f in section.model_fields.items()])
    return "those of docs/contract.md"


def _without_none(annotation: Any) -> Any:
    """The section that an optional key holds."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in get_args(annotation) else annotation


def contract_text(product: Product) -> str:
    """A contract as YAML, from which it is read again as it is: only what it says itself is said."""
    return yaml.safe_dump(_as_yaml(product.model_dump(by_alias=True, exclude_unset=True)), sort_keys=False)


def _as_yaml(value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_yaml(key): _as_yaml(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml(part) for part in value]
    return str(value) if isinstance(value, str) else value


def try_estimators(product: Product) -> None:
    """See that the estimators of a product whose contract was read by names can be built, and learn.

    Raises:
        ContractError: one can't; names the key path.
    """
    parse_product(product.model_dump(by_alias=True, exclude_unset=True), product.name)


#: Where the contracts of the package's samples lie.
SAMPLE_CONTRACTS = Path(__file__).parents[1] / "products"


def is_sample(path: Path) -> bool:
    """Whether a contract is one of the package's samples."""
    return path.parent == SAMPLE_CONTRACTS


def contract_files(folders: Sequence[Path]) -> list[Path]:
    """The contracts in ``folders``, by name; the package's samples after all others."""
    found = [path for folder in folders for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern)]
    return sorted(found, key=lambda path: (is_sample(path), path.name))


def load_products(folders: Sequence[Path]) -> tuple[dict[str, Product], dict[Path, ContractError]]:
    """Every valid product by name, and the error of each contract that is not valid.

    Estimators are looked at by name, as the graph of many products is drawn from this.

    Two contracts with one name are both errors: which of them is meant can't be known. But one of the
    package's samples makes way for any other of its name, also for one that is not valid.
    """
    products: dict[str, Product] = {}
    origins: dict[str, list[Path]] = {}
    errors: dict[Path, ContractError] = {}
    broken: set[str] = set()
    for path in contract_files(folders):
        try:
            product = load_product(path, try_estimators=False)
        except ContractError as error:
            errors[path] = error
            broken |= _names_meant(path)
            continue
        if is_sample(path) and product.name in {*products, *broken}:
            continue
        origins.setdefault(product.name, []).append(path)
        products[product.name] = product
    for name, paths in origins.items():
        if len(paths) > 1:
            del products[name]
            for path in paths:
                others = listed([str(other) for other in paths if other != path])
                errors[path] = ContractError(f"{path}: name: {name!r} is also the name of {others}")
    return dict(sorted(products.items())), errors


def _names_meant(path: Path) -> set[str]:
    """The product of a contract that is not valid: what it says, and what its file is called."""
    try:
        content = read_yaml(path)
    except YamlError:
        content = None
    said = content.get("name") if isinstance(content, dict) else None
    return {path.stem, str(said)}
