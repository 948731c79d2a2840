"""``ml-platform suggest``: limits for a product's validation, from the days that it has had."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml_platform.cli.console import AsJson, ProductName, console, fail, print_json, product_named
from ml_platform.cli.layout import say, say_command
from ml_platform.contract.days import counted

if TYPE_CHECKING:
    from ml_platform.mlops.quality.suggestions import Suggestion

#: Days that are named of those that a limit would have blocked.
_NAMED = 5


def suggest(
    name: ProductName,
    write: Annotated[
        bool, typer.Option("--write", help="Write the limits into the contract, which keeps its comments.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A key to show or write, like ranges.amount; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose limits for the validation of a product's days, and show what each would have blocked.

    They come from the stored profiles of each day; no data is read.

    Example: `ml-platform suggest flights`
    """
    from ml_platform.contract.assets import ARDS
    from ml_platform.mlops.quality.profiles import Profile
    from ml_platform.mlops.quality.suggestions import LEAST_DAYS
    from ml_platform.mlops.quality.suggestions import suggest as limits_of
    from ml_platform.storage.ledger import Ledger
    from ml_platform.storage.tables import Tables

    settings, product = product_named(name)
    records = Ledger(Tables.of(settings), name).latest(ARDS)
    profiles = {
        day: Profile.of(record.details.get("profile", {}))
        for day, record in records.items()
        if record.outcome in ("written", "blocked")
    }
    found = limits_of(product, profiles)
    if not found:
        fail(
            f"{name} has {counted(len(profiles), 'day')} with rows, and a proposal needs {LEAST_DAYS}: "
            f"ml-platform backfill {name} --from … --to …"
        )
    if unknown := sorted(set(only or ()) - {limit.key for limit in found}):
        keys = ", ".join(limit.key for limit in found)
        fail(f"no limit is proposed for {', '.join(unknown)}; there are {keys}")
    chosen = [
        limit
        for limit in found
        # A limit of a sensitive column tells its values, so a person has to ask for it by name.
        if limit.is_new and (limit.key in only if only else not limit.is_masked)
    ]
    hidden = [limit.key for limit in found if limit.is_masked and limit.is_new and not only]
    if write and chosen:
        path = _contract_of(name, settings.product_folders)
        _write(path, chosen)
    if as_json:
        print_json({"product": name, "limits": [_plain(limit) for limit in chosen], "not_shown": hidden})
        return
    for limit in chosen:
        for line in _in_words(limit):
            say(line.lstrip(), indent=len(line) - len(line.lstrip()), hanging=4)
    if hidden:
        named = " ".join(f"--only {key}" for key in hidden)
        say(f"Limits of sensitive columns are shown when they are asked for: {named}")
    if not chosen:
        console.print(f"The contract of {name} has these limits already: nothing to change.")
    elif write:
        say(f"{counted(len(chosen), 'limit')} written to {path}.", style="green")
    else:
        say("To write them into the contract:")
        say_command(f"ml-platform suggest {name} --write")


def _plain(limit: Suggestion) -> dict[str, Any]:
    return {
        "key": limit.key,
        "value": limit.value,
        "now": limit.now,
        "seen": limit.seen,
        "days": limit.days,
        "would_have_blocked": {str(day): figure for day, figure in limit.beyond.items()},
    }


def _in_words(limit: Suggestion) -> list[str]:
    shown = _flow(limit.value)
    now = f" (now {_flow(limit.now)})" if limit.now is not None else ""
    named = [f"{day}: {figure}" for day, figure in list(limit.beyond.items())[:_NAMED]]
    more = f", and {len(limit.beyond) - _NAMED} more" if len(limit.beyond) > _NAMED else ""
    blocked = f": {'; '.join(named)}{more}" if named else ""
    return [
        f"validation.{limit.key}: {shown}{now}",
        f"  seen: {limit.seen}; it would have blocked {len(limit.beyond)} of {limit.days} days{blocked}",
    ]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {part}" for key, part in value.items()) + "}"
    return str(value)


def _contract_of(name: str, folders: Sequence[Path]) -> Path:
    """The file of a product."""
    from ml_platform.contract.loading import ContractError, contract_files, load_product

    for path in contract_files(folders):
        with suppress(ContractError):
            if load_product(path, try_estimators=False).name == name:
                return path.resolve()
    raise AssertionError(f"{name} was loaded from one of these folders")


def _write(path: Path, limits: Sequence[Suggestion]) -> None:
    """Write limits into a contract, which keeps all else and its comments, but not how values are aligned.

    Nothing is written if the contract would not be valid.
    """
    from ruamel.yaml import YAML

    from ml_platform.contract.loading import ContractError, load_product

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    content = yaml.load(path.read_text(encoding="utf-8"))
    section = content.setdefault("validation", {})
    for limit in limits:
        key, _, column = limit.key.partition(".")
        if column:
            section.setdefault(key, {})[column] = limit.value
        else:
            section[key] = limit.value
    text = io.StringIO()
    yaml.dump(content, text)
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text.getvalue(), encoding="utf-8")
        shutil.copymode(path, draft)
        load_product(draft, try_estimators=False)
        draft.replace(path)
    except OSError as error:
        fail(f"the contract can't be written: {error}")
    except ContractError as error:
        fail(f"the contract would not be valid with these limits, and stays as it is: {error}")
    finally:
        draft.unlink(missing_ok=True)
