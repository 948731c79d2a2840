"""Labels that look ahead: what an entity does on the days after an event day.

What a contract may say of one. Since when it is known is the business of
:mod:`ml_platform.engine.usable_days`; its window is put together like those of features.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from ml_platform.contract.column_types import NUMERIC_TYPES, ColumnType
from ml_platform.contract.fields import ColumnName, Days, Section, listed
from ml_platform.contract.scalar_syntax import LONGEST_TEXT
from ml_platform.contract.trailing import AHEAD, Feature, Window

#: The share of the days of a window that have to have come if others of them never do.
LEAST_SHARE = 0.9
#: How long a day that is missing is waited for, unless the contract says otherwise.
PATIENCE_DAYS = 7

RULES = ("any", "none", "sum")


class FeatureAhead(Feature):
    """What a label is made of: a feature over the days after the event day."""

    @property
    def window(self) -> Window:
        return Window(int(self.days or 0), AHEAD)


class LabelAhead(Section):
    """The label of an entity on an event day, 0 or 1, from its own rows on the days after it.

    It is known for all entities of a day at once: when the window is over and its days have come.
    """

    name: ColumnName = Field(default="label", description="of the label's column")
    any: ColumnName | None = Field(
        default=None, description="1 if the entity has any row with a value in this column"
    )
    none: ColumnName | None = Field(default=None, description="1 if it has no such row")
    sum: ColumnName | None = Field(
        default=None, description="1 if the values of this column add up to at_least or more"
    )
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    within_days: Annotated[Days, Field(ge=1)]
    where: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = Field(
        default=None, description="a condition in SQL: only rows that fulfil it count"
    )
    patience_days: Days = Field(
        default=PATIENCE_DAYS,
        ge=0,
        description="how long after the window a day of it that is missing is waited for",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [rule for rule in RULES if getattr(self, rule) is not None]
        if len(given) != 1:
            found = f"found are {listed(given)}" if given else "there is none"
            raise ValueError(
                f"one rule is needed, for instance `any: order`; accepted are {listed(RULES)} ({found})"
            )
        if (self.sum is None) != (self.at_least is None):
            raise ValueError("sum and at_least go together: the label is 1 if the sum is so much or more")
        if self.at_least is not None and self.at_least <= 0:
            raise ValueError(
                f"at_least: {self.at_least:g} is what entities without any rows have as well; it must be "
                "above 0"
            )
        return self

    @property
    def rule(self) -> str:
        return next(rule for rule in RULES if getattr(self, rule) is not None)

    @property
    def column(self) -> str:
        """The column of the deliveries that it is of."""
        found: str = getattr(self, self.rule)
        return found

    @cached_property
    def feature(self) -> FeatureAhead:
        """What it is made of."""
        rule = {"sum": self.column} if self.rule == "sum" else {"count": self.column}
        return FeatureAhead(**rule, days=self.within_days, where=self.where)

    @property
    def window(self) -> Window:
        return self.feature.window

    @property
    def said(self) -> str:
        """What makes it 1, in words."""
        match self.rule:
            case "any":
                return f"any {self.column}"
            case "none":
                return f"no {self.column}"
            case _:
                return f"{self.column} of {self.at_least:g} or more"

    @property
    def condition(self) -> str:
        """Which rows count, in words; nothing if all do."""
        return f", where {self.where}" if self.where is not None else ""

    @property
    def in_words(self) -> str:
        """What it is, with all that decides its values."""
        waits = "" if self.patience_days == PATIENCE_DAYS else f", waiting {self.patience_days} days"
        return f"{self.said} in {self.window.in_words}{self.condition}{waits}"

    def accepts(self, declared: ColumnType) -> bool:
        """Whether it can be of a column of this type."""
        return self.rule != "sum" or declared in NUMERIC_TYPES
