"""``ml-platform init``: a contract for a history of somebody's own, from what its files measurably are."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ml_platform.cli.console import fail, progress_of
from ml_platform.cli.layout import say, say_command
from ml_platform.contract.days import in_a_sentence
from ml_platform.contract.tasks import TASKS
from ml_platform.settings import PACKAGE, Settings

if TYPE_CHECKING:
    from ml_platform.contract.product import Product
    from ml_platform.data_engineering.onboarding.choices import Answers, Choices, Question
    from ml_platform.data_engineering.onboarding.columns import FirstLook
    from ml_platform.data_engineering.onboarding.draft import Draft

#: Where contracts go unless ML_PLATFORM_PRODUCTS or --to names a folder.
_FOLDER = Path("contracts")
Value = TypeVar("Value", bound=str)
#: Between a column and its format.
_SEPARATOR = "="


def init(
    name: Annotated[
        str, typer.Argument(metavar="PRODUCT", help="A name for the product: lower-case, like orders.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Its history: CSV, plain or gzip, Parquet or JSON lines."),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="The contract to write; PRODUCT.yaml in the first folder of ML_PLATFORM_PRODUCTS, or in "
            "contracts, without it."
        ),
    ] = None,
    event_day: Annotated[
        str | None, typer.Option(help="The column with the day that a row belongs to.")
    ] = None,
    date_format: Annotated[
        list[str] | None,
        typer.Option(help="How the dates of a column are written, COLUMN=%d/%m/%Y; may be repeated."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="The column that is to be predicted.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"What the label is: {', '.join(TASKS)}; without it what it looks like."),
    ] = None,
    label_delay_days: Annotated[
        int | None, typer.Option(min=0, help="Days from the end of the event day until a label is known.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A column that tells the rows of a day apart; may be repeated."),
    ] = None,
    entity: Annotated[
        list[str] | None, typer.Option(help="A column of what is scored, like customer; may be repeated.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="In which a day is over, like Europe/Paris.")] = None,
    description: Annotated[str | None, typer.Option(help="What is predicted, in words.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between fields; \\t for a tab.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of files without a byte order mark.")] = None,
    decimal: Annotated[str | None, typer.Option(help="The decimal mark of numbers, . or ,")] = None,
    thousands: Annotated[str | None, typer.Option(help="Between groups of three digits.")] = None,
    quote_escape: Annotated[
        str | None, typer.Option("--escape", help='What stands before a quote within quotes: \\ or "')
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a contract that is there.")] = False,
) -> None:
    """Write a contract from the files of a history, with what was seen beside each line.

    All records are looked at. What the files can't tell is asked; without a terminal nothing is asked, and
    the options that are missing are named.

    Example: `ml-platform init orders history.csv.gz --label returned`
    """
    from ml_platform.data_engineering.onboarding.choices import Answers
    from ml_platform.data_engineering.onboarding.dialect import FirstLookError

    settings = Settings()
    path = _target(name, to, settings, force=force)
    answers = Answers(
        encoding=encoding,
        delimiter=delimiter.replace("\\t", "\t") if delimiter else None,
        escape=quote_escape,
        decimal=_one_of("--decimal", decimal, (".", ",")),
        thousands=thousands,
        date_formats=_formats(date_format or []),
        event_day=event_day,
        label=label,
        task=_one_of("--task", task, TASKS),
        label_delay_days=label_delay_days,
        key=tuple(dict.fromkeys(key or ())),
        entity=tuple(dict.fromkeys(entity or ())),
        timezone=timezone,
        description=description,
    )
    try:
        drafted = _draft(name, files, answers, settings, path)
    except FirstLookError as error:
        fail(str(error))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.draft")
    try:
        unfinished.write_text(drafted.text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _say(drafted, path, files, settings)


def _target(name: str, to: Path | None, settings: Settings, *, force: bool) -> Path:
    """Where the contract goes; ends the command if it can't go there."""
    from pydantic import TypeAdapter, ValidationError

    from ml_platform.contract.fields import ProductName
    from ml_platform.contract.loading import ContractError, contract_files, is_sample, load_product

    try:
        TypeAdapter(ProductName).validate_python(name)
    except ValidationError as error:
        fail(str(error.errors()[0]["msg"]).removeprefix("Value error, "))
    folders = [folder for folder in settings.product_folders if not folder.is_relative_to(PACKAGE)]
    path = to or (folders[0] if folders else _FOLDER) / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        fail(f"{path}: a contract is a file named *.yaml")
    if path.exists() and not force:
        fail(f"{path} exists already; --force writes over it, and another PRODUCT or --to leaves it alone")
    for other in contract_files(settings.product_folders):
        if is_sample(other) or other.resolve() == path.resolve():
            continue
        try:
            taken = load_product(other, try_estimators=False).name == name
        except ContractError:
            continue
        if taken:
            fail(f"there is a product {name} already, in {other}; choose another name")
    return path


def _one_of(flag: str, given: str | None, accepted: Iterable[Value]) -> Value | None:
    found = next((value for value in accepted if value == given), None)
    if given is not None and found is None:
        fail(f"{flag} {given}: accepted are {', '.join(map(str, accepted))}")
    return found


def _formats(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in given:
        column, separator, format_ = pair.rpartition(_SEPARATOR)
        if not separator or not column or not format_:
            fail(f"--date-format {pair!r}: expected is COLUMN=FORMAT, like day=%d/%m/%Y")
        found[column] = format_
    return found


def _draft(name: str, files: Sequence[Path], answers: Answers, settings: Settings, path: Path) -> Draft:
    """Look at the files, ask what they can't tell, and write the contract's text.

    Raises:
        FirstLookError: the files can't be used.
    """
    from ml_platform.data_engineering import as_csv
    from ml_platform.data_engineering.files import FileRules, UnreadableFile, shown
    from ml_platform.data_engineering.onboarding.columns import look_at
    from ml_platform.data_engineering.onboarding.dialect import FirstLookError, dialect_of, source_of
    from ml_platform.data_engineering.onboarding.draft import draft
    from ml_platform.data_engineering.onboarding.identity import measure

    rules = FileRules.anywhere(settings)  # these files may lie anywhere
    with TemporaryDirectory(prefix=f"{name}-") as folder:
        given = []
        for file in files:
            try:
                given.append(as_csv.written(file, source_of(), rules, Path(folder)))
            except UnreadableFile as error:
                raise FirstLookError(f"{shown(str(file))}: {error}") from error
        with progress_of("rows looked at") as progress:
            dialect = dialect_of(
                given, rules, encoding=answers.encoding, delimiter=answers.delimiter, escape=answers.escape
            )
            look = look_at(given, dialect, rules, progress, answers.date_formats)
        choices, answers = _choose(look, answers)
        with progress_of("rows compared") as progress:
            facts = measure(look, choices, answers, rules, progress)
        return draft(name, look, choices, facts, answers, path=path, today=datetime.now(UTC).date())


def _choose(look: FirstLook, answers: Answers) -> tuple[Choices, Answers]:
    """What the contract says, with answers to what the files can't tell."""
    from ml_platform.data_engineering.onboarding.choices import NeedsAnswers, choose

    while True:
        try:
            return choose(look, answers), answers
        except NeedsAnswers as needs:
            if not _is_terminal():
                fail("\n".join(_unanswered(question) for question in needs.questions))
            for question in needs.questions:
                answers = _with_answer(answers, question, _ask(question))


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _unanswered(question: Question) -> str:
    """A question as an error: the option that is missing, and what it may be."""
    column = f"{question.about}{_SEPARATOR}" if question.about else ""
    options = "\n".join(
        f"  {question.flag} {shlex.quote(column + value)}  {why}" for value, why in question.options
    )
    return f"{question.flag} is missing: {question.text}\n{options}"


def _ask(question: Question) -> str:
    say(question.text)
    for number, (value, why) in enumerate(question.options, 1):
        say(f"{number}  {value}  {why}", indent=2, hanging=5)
    while True:
        said = typer.prompt(f"1 to {len(question.options)}")
        if said.isdecimal() and 1 <= int(said) <= len(question.options):
            return question.options[int(said) - 1][0]


def _with_answer(answers: Answers, question: Question, value: str) -> Answers:
    match question.flag:
        case "--date-format":
            return replace(answers, date_formats={**answers.date_formats, str(question.about): value})
        case "--decimal":
            return replace(answers, decimal=value)
        case "--event-day":
            return replace(answers, event_day=value)
        case _:
            return replace(answers, label=value)


def _say(drafted: Draft, path: Path, files: Sequence[Path], settings: Settings) -> None:
    """What was written, what to look at, and the commands to go on."""
    product = drafted.product
    say(f"{path} is written, and valid.", style="green")
    for assumed in drafted.assumed:
        say(f"Assumed: {assumed}", hanging=2, style="yellow")
    for note in drafted.notes:
        say(f"Attention: {note}", hanging=2, style="yellow")
    if missing := drafted.missing_days:
        days = f"{missing[0]}"
        if len(missing) > 1:
            days = f"{len(missing):,} days from {missing[0]} to {missing[-1]}"
        say(
            f"Attention: no rows on {days}. Unless `delivery` says that none are due, the backfill calls "
            "them missing; --allow-bad-days lets it end well all the same",
            hanging=2,
            style="yellow",
        )
    if poor := drafted.poor_months:
        say(
            f"Attention: no model in {in_a_sentence('month', poor)}, as too few labels are known by then "
            "(model.minimum_rows, model.minimum_positives)",
            hanging=2,
            style="yellow",
        )
    say("Look at the contract, then:")
    for command in _commands(product, drafted, path, files, settings):
        say_command(command)


def _commands(
    product: Product, drafted: Draft, path: Path, files: Sequence[Path], settings: Settings
) -> Iterator[str]:
    folder = path.parent.resolve()
    if folder not in [place.resolve() for place in settings.product_folders]:
        others = [str(place) for place in settings.products]
        yield f"export ML_PLATFORM_PRODUCTS={shlex.quote(os.pathsep.join([*others, str(folder)]))}"
    yield f"ml-platform check {shlex.quote(str(path))}"
    yield f"ml-platform land {product.name} {shlex.join(map(str, files))}"
    bad = " --allow-bad-days" if drafted.missing_days or drafted.poor_months else ""
    yield f"ml-platform backfill {product.name} --from {drafted.first} --to {drafted.last}{bad}"
