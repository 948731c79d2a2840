"""Which columns a model could learn to predict, and what a contract says of a label of each kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.tasks import LARGEST_CLASS, MAXIMUM_CLASSES, TASKS, Metric, TaskName
from ml_platform.data_engineering.onboarding.columns import ColumnLook, Marks

#: Of the texts that are classes the longest one: it stands in messages and plots.
LONGEST_CLASS = 100
#: Texts of which each stands in fewer records on average are names, and no classes.
LEAST_ROWS_EACH = 2
_WHOLE = re.compile(r"([+-]?[0-9]+)(?:[.]0*)?")
_ZERO_OR_ONE = re.compile(r"[01](?:[.]0*)?")
#: Of what a model could be better than a guess so much must it be.
_BETTER = 0.1
#: Values that a message names.
_NAMED = 5
#: What most files call the column that is to be predicted.
USUAL_NAMES = frozenset({"label", "target", "outcome", "y"})


@dataclass(frozen=True)
class LabelFacts:
    """What the rows with a label say of it.

    Attributes:
        rows: how many rows have a label.
        mean: of the labels; of 0 and 1 it is the share of 1.
        spread: their standard deviation.
        classes: rows of each class, of a label that is one of several.
    """

    rows: int
    mean: float
    spread: float
    classes: Mapping[str, int] = field(default_factory=dict)

    @property
    def most(self) -> tuple[str, float]:
        """The class of the most rows, and its share of them."""
        name = max(self.classes, key=lambda name: (self.classes[name], name))
        return name, self.classes[name] / self.rows


@dataclass(frozen=True)
class LabelKind:
    """A kind of label, and what a contract says of one.

    Attributes:
        task: as the contract's key.
        in_words: what its values are.
        column: keys of its column.
        estimator: the section ``model.estimator``.
        aggregation: how the labels of an entity's rows of a day become one.
        evaluation: the metric, a threshold, and why it is that.
        says: what its rows show, in words.
    """

    task: TaskName
    in_words: str
    column: Mapping[str, Any]
    estimator: Mapping[str, Any]
    aggregation: str
    evaluation: Callable[[LabelFacts], tuple[Metric, float, str]]
    says: Callable[[LabelFacts], str]

    @property
    def has_positives(self) -> bool:
        """Whether rows of label 1 are counted."""
        return TASKS[self.task].has_positives


def _above(guess: float) -> float:
    """A share that is better than that of a guess, with so many digits that it stays so."""
    wanted = guess + (1 - guess) * _BETTER
    rounded = (round(wanted, digits) for digits in (2, 4, 6))
    return next((value for value in rounded if guess < value < 1), wanted)


def _of_two_classes(facts: LabelFacts) -> tuple[Metric, float, str]:
    guess = 2 * facts.mean / (1 + facts.mean)
    return "f1", _above(guess), f"to call every row 1 has an f1 of {guess:.2f}"


def _of_numbers(facts: LabelFacts) -> tuple[Metric, float, str]:
    threshold = float(f"{facts.spread * (1 - _BETTER):.3g}")
    return "rmse", threshold, f"to predict the mean, {facts.mean:.4g}, has an rmse of {facts.spread:.4g}"


def _of_classes(facts: LabelFacts) -> tuple[Metric, float, str]:
    name, share = facts.most
    return "accuracy", _above(share), f"to call every row {name} has an accuracy of {share:.2f}"


def _say_classes(facts: LabelFacts) -> str:
    name, share = facts.most
    return f"{len(facts.classes)} classes, the most frequent of them {name} in {share:.1%} of rows"


BINARY = LabelKind(
    task="binary",
    in_words="0 and 1",
    column={"allowed": [0, 1]},
    estimator={
        "class": "sklearn.linear_model.LogisticRegression",
        "params": {"C": 1.0, "max_iter": 200, "random_state": 1},
    },
    aggregation="max",
    evaluation=_of_two_classes,
    says=lambda facts: f"1 in {facts.mean:.1%} of rows",
)
REGRESSION = LabelKind(
    task="regression",
    in_words="numbers",
    column={},
    estimator={"class": "sklearn.linear_model.Ridge", "params": {"alpha": 1.0}},
    aggregation="mean",
    evaluation=_of_numbers,
    says=lambda facts: f"{facts.mean:.4g} on average, with a spread of {facts.spread:.4g}",
)


def kinds_of(
    look: ColumnLook, type_: ColumnType, marks: Marks, null_values: Sequence[str]
) -> dict[TaskName, LabelKind]:
    """The kinds of label that a column of a type can be, the likely one first.

    Args:
        marks: how numbers are written.
        null_values: texts that stand for no value.
    """
    found: dict[TaskName, LabelKind] = {}
    texts = [_plain(text, marks) for text in look.distinct if text not in look.null_texts]
    if type_ == "integer" and look.is_few and all(map(_ZERO_OR_ONE.fullmatch, texts)):
        if len({text[0] for text in texts}) > 1:
            found["binary"] = BINARY
        return found
    is_constant = look.is_few and len(texts) < 2
    if type_ in TASKS["regression"].label_types and not is_constant:
        found["regression"] = REGRESSION
    if type_ in (*TASKS["multiclass"].label_types, "boolean") and look.is_few:
        classes = _classes([text for text in look.distinct if text not in null_values], type_, marks)
        if 1 < len(classes) <= MAXIMUM_CLASSES and len(classes) * LEAST_ROWS_EACH <= look.values:
            found["multiclass"] = LabelKind(
                task="multiclass",
                in_words="classes",
                column={"allowed": classes},
                estimator=BINARY.estimator,
                aggregation="last",
                evaluation=_of_classes,
                says=_say_classes,
            )
    return found


def _plain(text: str, marks: Marks) -> str:
    """A number as Python writes it."""
    text = text.strip()
    if marks.thousands is not None:
        text = text.replace(marks.thousands, "")
    return text.replace(marks.decimal, ".")


def _classes(texts: Sequence[str], type_: ColumnType, marks: Marks) -> list[Any]:
    """The values of a label that texts stand for; none if one of them can't be a class."""
    if type_ in ("string", "boolean"):
        is_short = all(len(text) <= LONGEST_CLASS and text.isprintable() and text.strip() for text in texts)
        return sorted(texts) if is_short else []
    whole = [_WHOLE.fullmatch(_plain(text, marks)) for text in texts]
    found = sorted({int(match[1]) for match in whole if match}) if all(whole) else []
    return [] if any(abs(value) > LARGEST_CLASS for value in found) else found


def why_not(
    look: ColumnLook, type_: ColumnType, kinds: Mapping[TaskName, LabelKind], task: str | None
) -> str:
    """Why a column can't be the label, or not one of the kind that is asked for."""
    values = ", ".join(sorted(look.distinct)[:_NAMED])
    more = " …" if not look.is_few or len(look.distinct) > _NAMED else ""
    held = (
        f"its values are {values}{more}" if values else f"it is {'an' if type_ == 'integer' else 'a'} {type_}"
    )
    if task is not None and kinds:
        return f"{held}, and it is no label of {task}; --task may be {' or '.join(kinds)}"
    return (
        f"{held}, and a label is 0 or 1, a number that isn't always the same, or one of "
        f"2 to {MAXIMUM_CLASSES} classes"
    )
