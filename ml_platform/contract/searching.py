"""The section of a contract that says which parameters of an estimator are searched, and where.

What is here needs no data: the values that are tried when the contract is read, and what is wrong with them.
How the search works is :mod:`ml_platform.machine_learning.search`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from ml_platform.contract import boosting, estimators
from ml_platform.contract.fields import Section

#: Bounds of a search, far beyond what is useful: each trial trains on every fold.
MAXIMUM_TRIALS = 1_000
MAXIMUM_SECONDS = 24 * 60 * 60
MAXIMUM_SEARCHED = 50
MAXIMUM_CHOICES = 100
#: Whole numbers up to here are exact as doubles, in which samplers and MLflow hold them.
LARGEST_END = 2**53

_FAST = "it says how an estimator works, and not what it learns"
_SEED = "one seed is no better than another, and the best of several is luck"
_CATEGORIES = "which columns are categories follows from model.features"
#: Parameters that no search can find a value for, and why.
NOT_SEARCHED: Mapping[str, str] = {
    **dict.fromkeys(
        ("n_jobs", "thread_count", "nthread", "verbose", "verbosity", "warm_start", "device", "task_type"),
        _FAST,
    ),
    **dict.fromkeys(("copy_X", "cache_size", "pre_dispatch", "used_ram_limit"), _FAST),
    **dict.fromkeys(("random_state", "random_seed", "seed"), _SEED),
    **dict.fromkeys(("categorical_features", "cat_features", "categorical_feature"), _CATEGORIES),
}


def _number(value: Any) -> Any:
    """An end of a range; YAML takes 1e-3, without a point, for a text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{value[:50]!r} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if not math.isfinite(value) or abs(value) > LARGEST_END:
        raise ValueError(f"{value!r} is no number between {-LARGEST_END} and {LARGEST_END}")
    return value


End = Annotated[int | float, BeforeValidator(_number)]


class Space(Section):
    """The values of one parameter that are tried: those from ``low`` to ``high``, or some ``choices``."""

    low: End | None = None
    high: End | None = None
    log: bool = Field(default=False, description="whether orders of magnitude count, and not differences")
    choices: tuple[Any, ...] | None = Field(default=None, min_length=1, max_length=MAXIMUM_CHOICES)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.choices is not None:
            given = [name for name in ("low", "high", "log") if name in self.model_fields_set]
            if given:
                raise ValueError(
                    f"choices and {given[0]}: a parameter has choices, or a range; leave one out"
                )
            for at, value in enumerate(self.choices):
                _check_choice(value)
                if any(value == other and type(value) is type(other) for other in self.choices[:at]):
                    raise ValueError(f"choices: {value!r} is there twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needed are low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low and high: {self.low} is not less than {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(
                f"low and log: {self.low} has no order of magnitude; with log it must be above 0"
            )
        return self

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are tried: both ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are tried when the contract is read: both ends, or all choices."""
        if self.choices is not None:
            return self.choices
        return (self.low, self.high) if self.is_whole else (float(self.low or 0), float(self.high or 0))

    def holds(self, value: object) -> bool:
        """Whether a value is one of those that may be tried."""
        if self.choices is not None:
            return any(value == other and type(value) is type(other) for other in self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high

    @property
    def in_words(self) -> str:
        """The values, for people."""
        if self.choices is not None:
            return " or ".join(str(value) for value in self.choices)
        whole = "whole numbers " if self.is_whole else ""
        return f"{whole}{self.low} to {self.high}{' (log)' if self.log else ''}"


class Search(Section):
    """Which parameters are searched, and how long at most."""

    params: dict[str, Space] = Field(min_length=1, max_length=MAXIMUM_SEARCHED)
    trials: int = Field(default=20, ge=1, le=MAXIMUM_TRIALS)
    seconds: int = Field(default=300, ge=1, le=MAXIMUM_SECONDS)

    @property
    def corners(self) -> list[dict[str, Any]]:
        """What is tried when the contract is read: each end once, with the others at their first."""
        first = {name: space.ends[0] for name, space in self.params.items()}
        others = [{**first, name: value} for name, space in self.params.items() for value in space.ends[1:]]
        return [first, *others]

    def check(self, path: str, params: Mapping[str, Any], *, are_tried: bool) -> None:
        """See that an estimator takes the parameters, with the values at the ends of their ranges.

        Args:
            path: the full name of the estimator's class.
            params: those that the contract gives it.
            are_tried: whether the estimator is built; otherwise it is seen that they may be searched.

        Raises:
            ValueError: it doesn't; the message names the parameter.
        """
        library = boosting.library_of(path)
        for name, space in self.params.items():
            place = f"search.params.{name}"
            if name in params:
                raise ValueError(
                    f"params.{name} and {place}: a parameter has one value, or is searched; leave one out"
                )
            if name in NOT_SEARCHED:
                raise ValueError(f"{place}: it can't be searched: {NOT_SEARCHED[name]}; give it in params")
            if are_tried and library is not None and space.choices is None and not space.is_whole:
                estimators.check_takes_fractions(path, name, place)
        for values in self.corners if are_tried else ():
            try:
                estimators.check(path, {**params, **values})
                estimators.check_values(path, {**params, **values})
            except ValueError as error:
                raise ValueError(f"search.{error}") from error

    @property
    def in_words(self) -> str:
        """What is searched and how long, for people."""
        found = ", ".join(f"{name} {space.in_words}" for name, space in self.params.items())
        return f"{found}, in {self.trials:,} trials or {self.seconds:,} s"


def _check_choice(value: object, depth: int = 0) -> None:
    """See that a choice is plain: a word, a number, true, false, null, or a list of these."""
    if isinstance(value, list) and depth == 0:
        for part in value:
            _check_choice(part, depth + 1)
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"choices: {value!r} is no finite number")
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError(
            f"choices: {type(value).__name__} is not accepted; accepted are texts, numbers, true, false, "
            "null and lists of them"
        )
