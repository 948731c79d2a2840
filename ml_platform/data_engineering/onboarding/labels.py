"""Which columns a model could learn to predict, and what a contract says of a label of each kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ml_platform.data_engineering.onboarding.columns import ColumnLook

_ZERO_OR_ONE = re.compile(r"[01](?:[.,]0*)?")
#: What most files call the column that is to be predicted.
USUAL_NAMES = frozenset({"label", "target", "outcome", "y"})


@dataclass(frozen=True)
class LabelFacts:
    """What the rows with a label say of it.

    Attributes:
        rows: how many rows have a label.
        positives: how many of these are 1.
    """

    rows: int
    positives: int


@dataclass(frozen=True)
class LabelKind:
    """A kind of label.

    Attributes:
        in_words: what its values are.
        column: keys of its column.
        estimator: the section ``model.estimator``.
        aggregation: how the labels of an entity's rows of a day become one.
    """

    in_words: str
    column: dict[str, Any]
    estimator: dict[str, Any]
    aggregation: str

    def evaluation(self, facts: LabelFacts) -> tuple[dict[str, Any], str]:
        """The section ``evaluation``, and why it says so."""
        share = facts.positives / facts.rows if facts.rows else 0.0
        guess = 2 * share / (1 + share)
        threshold = round(min(guess + (1 - guess) / 10, 0.99), 2)
        return (
            {"metric": "f1", "threshold": threshold},
            f"1 in {share:.1%} of {facts.rows:,} labelled rows: to call every row 1 has an f1 of {guess:.2f}",
        )


BINARY = LabelKind(
    in_words="0 and 1",
    column={"allowed": [0, 1]},
    estimator={
        "class": "sklearn.linear_model.LogisticRegression",
        "params": {"C": 1.0, "max_iter": 200, "random_state": 1},
    },
    aggregation="max",
)


def kind_of(look: ColumnLook, type_: str) -> LabelKind | None:
    """The kind of label that a column of a type can be; None if none that a contract may have."""
    texts = [text.strip() for text in look.distinct if text not in look.null_texts]
    is_binary = type_ == "integer" and look.is_few and all(map(_ZERO_OR_ONE.fullmatch, texts))
    return BINARY if is_binary and len({text[0] for text in texts}) > 1 else None


def why_not(look: ColumnLook, type_: str) -> str:
    """Why a column can't be the label."""
    if look.is_few:
        values = ", ".join(sorted(look.distinct)[:5])
        return f"its values are {values}{' …' if len(look.distinct) > 5 else ''}, and a label is 0 or 1"
    return f"it is a {type_} with many values, and a label is 0 or 1"
