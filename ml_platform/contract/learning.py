"""The sections of a contract that say how rows become features, and features a model in service."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ml_platform.contract import boosting, estimators
from ml_platform.contract.calendars import WEEKDAYS, Weekdays, weekday_of, weekdays_in_words
from ml_platform.contract.fields import ColumnName, Days, Month, Months, Rows, Section
from ml_platform.contract.labels_ahead import LabelAhead
from ml_platform.contract.searching import Search
from ml_platform.contract.tasks import AT_K, MAXIMUM_CLASSES, METRICS, MOST_HIGHEST, Metric, TaskName
from ml_platform.contract.trailing import MAXIMUM_FEATURES, Feature, Window, windows_of

Aggregation = Literal["min", "max", "sum", "mean", "count", "first", "last"]


Holdout = Literal["entities", "time"]
"""What models are compared on: entities that none learns from, or the days after they have learned."""


AGGREGATIONS_OF_NUMBERS: frozenset[str] = frozenset({"sum", "mean"})


#: Labelled days before a product's first model, unless its contract names the month: the shortest month
#: but for the one day that labels take in most products.
FIRST_LABELLED_DAYS = 27


#: Days on which a challenger is compared forward in time at least: an interval needs ten weeks.
LEAST_DAYS_FORWARD = 70


#: Estimators among which the best is taken: each costs as much training as the first.
MAXIMUM_ESTIMATORS = 20


class Population(Section):
    """Who has a row on a day, beside the entities with rows of the day."""

    active_within_days: Annotated[Days, Field(ge=1)] = Field(
        description="entities with rows on so many days, the last of which is the event day"
    )
    weekdays: Weekdays = Field(default=WEEKDAYS, description="event days on which anybody is scored")

    def why_not_scored(self, day: date) -> str | None:
        """Why nobody is scored on an event day, in words; None if its entities are."""
        if weekday_of(day) in self.weekdays:
            return None
        return f"the population is scored on {weekdays_in_words(self.weekdays)} only (mrds.population)"


class Mrds(Section):
    """How rows of the ARDS become one row per entity and event day."""

    entity: tuple[str, ...] = Field(min_length=1)
    order_by: tuple[str, ...] = ()
    aggregate: dict[str, Aggregation] = {}
    label: LabelAhead | None = Field(
        default=None,
        description="what an entity does on the days after an event day, where no label is delivered",
    )
    population: Population | None = Field(
        default=None, description="who is scored beside the entities that have rows of the day"
    )
    features: dict[ColumnName, Feature] = Field(
        default={},
        max_length=MAXIMUM_FEATURES,
        description="what an entity did over the days up to the event day, by name, and what is made of it",
    )

    @cached_property
    def windowed(self) -> dict[str, Feature]:
        """The features over trailing windows, by name."""
        return {name: feature for name, feature in self.features.items() if feature.expression is None}

    @cached_property
    def over_days(self) -> dict[str, Feature]:
        """What is made of other days than its own, by name: features over trailing windows, a label ahead."""
        ahead: dict[str, Feature] = {} if self.label is None else {self.label.name: self.label.feature}
        return self.windowed | ahead

    @cached_property
    def looks_back(self) -> tuple[Window, ...]:
        """The windows of the days up to an event day: those of features, and who is scored."""
        of_features = [feature.window for feature in self.windowed.values()]
        population = [] if self.population is None else [Window(self.population.active_within_days, "today")]
        return tuple(dict.fromkeys([*of_features, *population]))

    @cached_property
    def looks(self) -> tuple[Window, ...]:
        """The same with that of a label that looks ahead."""
        return (*self.looks_back, *([] if self.label is None else [self.label.window]))

    @cached_property
    def has_sql(self) -> bool:
        """Whether the contract has an expression or a condition in SQL."""
        features = (*self.features.values(), *self.over_days.values())
        return any(feature.expression or feature.where for feature in features)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The windows whose usable days are counted in columns of the MRDS."""
        return windows_of(self.windowed.values())

    @cached_property
    def trailing(self) -> tuple[str, ...]:
        """The columns of the MRDS of trailing windows: the features over them, and the days they had."""
        return (*self.windowed, *(window.column for window in self.windows))

    @cached_property
    def made(self) -> tuple[str, ...]:
        """The columns of the MRDS that are made of others."""
        return tuple(name for name, feature in self.features.items() if feature.expression is not None)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the MRDS beside the entity's and the days'."""
        return (*self.aggregate, *self.trailing, *self.made, *self.ahead)

    @cached_property
    def ahead(self) -> tuple[str, ...]:
        """The column of a label that looks ahead, if there is one."""
        return () if self.label is None else (self.label.name,)


class Features(Section):
    """The columns of the MRDS that a model sees."""

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical)


Encoding = Literal["native", "onehot", "ordinal", "target"]
"""How an estimator gets categories: as they are, or as numbers."""


class Estimator(Section):
    """A classifier or regressor, its parameters, and how it gets categories."""

    # `class` is what scikit-learn users expect to write, and no Python name.
    class_: Annotated[str, AfterValidator(estimators.check_named_class)] = Field(alias="class")
    params: dict[str, Any] = {}
    categorical: Encoding | None = Field(
        default=None,
        description="how categories are given to it; by default native for LightGBM, XGBoost and CatBoost, "
        "and onehot for all others",
    )
    search: Search | None = Field(
        default=None, description="parameters whose values are searched when a model is trained"
    )

    @field_validator("params")
    @classmethod
    def _of_like_keys(cls, params: dict[str, Any]) -> dict[str, Any]:
        for name, value in params.items():
            if (odd := _odd(value)) is not None:
                raise ValueError(
                    f"{name}: {odd} is no value of a parameter; accepted are texts, numbers up to 64 bits, "
                    "true, false, null, and lists and mappings of them"
                )
            kinds = {isinstance(key, str): key for key in value} if isinstance(value, dict) else {}
            if len(kinds) > 1:
                raise ValueError(
                    f"{name}: {kinds[False]!r} is a number and {kinds[True]!r} a text; write all of its keys "
                    "as the label's classes are"
                )
        return params

    @model_validator(mode="after")
    def _constructible(self, info: ValidationInfo) -> Self:
        if estimators.are_tried(info):
            estimators.check(self.class_, self.params)
        if self.categorical == "native":
            if not boosting.takes_categories(self.class_):
                raise ValueError(
                    f"categorical and class: {self.class_} takes numbers only, so categorical can't be "
                    "native; accepted are onehot, ordinal, target"
                )
            if boosting.library_of(self.class_) is None and "categorical_features" in self.params:
                raise ValueError(
                    "categorical and params.categorical_features: with native, which columns are categories "
                    "follows from model.features; leave the parameter out"
                )
        return self

    @model_validator(mode="after")
    def _searchable(self, info: ValidationInfo) -> Self:
        if self.search is not None:
            self.search.check(self.class_, self.params, are_tried=estimators.are_tried(info))
        return self

    @property
    def name(self) -> str:
        """The class without its module, for people."""
        return self.class_.rpartition(".")[2]

    @property
    def corners(self) -> list[dict[str, Any]]:
        """The parameters as they are or, of a search, with the values at the ends of its ranges."""
        if self.search is None:
            return [self.params]
        return [{**self.params, **values} for values in self.search.corners]

    def with_params(self, values: Mapping[str, Any]) -> Estimator:
        """The estimator with values that were found for the parameters that are searched."""
        return self.model_copy(update={"params": {**self.params, **values}, "search": None})

    @property
    def encoding(self) -> Encoding:
        """How categories are given to the estimator.

        Those of scikit-learn get them one-hot unless the contract says otherwise, also histogram trees, which
        could take them as they are: another default would give existing contracts other models.
        """
        return self.categorical or ("onehot" if boosting.library_of(self.class_) is None else "native")

    def build(self) -> Any:
        """A new, unfitted estimator."""
        return estimators.build(self.class_, self.params)


def _odd(value: object) -> str | None:
    """What of a parameter can't be told another process as it is, as its type; None if all can."""
    if isinstance(value, list | tuple):
        return next((odd for part in value if (odd := _odd(part)) is not None), None)
    if isinstance(value, dict):
        return _odd([*value, *value.values()])
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a number of more than 64 bits"
    is_plain = value is None or isinstance(value, str | int | float | date)
    return None if is_plain else f"what is of the type {type(value).__name__}"


class Model(Section):
    """The model: what kind of label it predicts, features, estimator, and the days it learns from."""

    task: TaskName | None = Field(default=None, description="the kind of label; by default by its type")
    features: Features
    estimator: Estimator | None = None
    estimators: tuple[Estimator, ...] = Field(
        default=(), max_length=MAXIMUM_ESTIMATORS, description="instead of one; the best of them is taken"
    )
    learns_from: Literal["served", "corrected"] = Field(
        default="served",
        description="rows as they were when they were scored, or as later deliveries have corrected them",
    )
    training_months: Months = Field(default=24, ge=1)
    holdout: Holdout | Literal["auto"] = Field(
        default="auto", description="what models are compared on; auto: time where entities are few"
    )
    holdout_days: Days = Field(default=31, ge=1)
    maximum_rows: Rows = Field(default=5_000_000, ge=1)
    minimum_rows: Rows = Field(default=100, ge=1)
    minimum_positives: Rows = Field(default=10, ge=1)
    decision_threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["tuned"] = "tuned"
    decision_highest: Annotated[int, Field(ge=1, le=MOST_HIGHEST)] | None = Field(
        default=None, description="instead of a threshold: how many rows of a day, the highest, are decided 1"
    )
    first_month: Month | None = None
    partial_windows: bool = Field(
        default=False,
        description="whether it learns from days whose windows reach before the start of the history",
    )
    transform: Literal["log1p"] | None = Field(
        default=None, description="of a number, before it is learned; undone in predictions"
    )
    interval: Annotated[float, Field(ge=0.5, le=0.99)] | None = Field(
        default=None, description="the share of a number's values that an interval around each holds"
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if (self.estimator is None) == (not self.estimators):
            found = "neither is given" if self.estimator is None else "both are given"
            raise ValueError(
                f"estimator and estimators: {found}; write estimator for one, or estimators for a list of "
                "which the best is taken each month"
            )
        for place, estimator in enumerate(self.estimators):
            if estimator in self.estimators[:place]:
                first = self.estimators.index(estimator)
                raise ValueError(f"estimators.{place}: it is the same as estimators.{first}; leave one out")
        return self

    @property
    def candidates(self) -> tuple[Estimator, ...]:
        """What is trained as of a date, in the order in which the first of equals is taken."""
        return self.estimators or (self.one,)

    @property
    def one(self) -> Estimator:
        """The estimator of a contract that has only one, or that one has been chosen for."""
        if self.estimator is None:
            raise ValueError(
                f"the contract has {len(self.estimators)} estimators, of which none is chosen yet"
            )
        return self.estimator

    @property
    def selects(self) -> bool:
        """Whether what is trained has to be found first: among several estimators, or by a search."""
        return len(self.candidates) > 1 or any(candidate.search is not None for candidate in self.candidates)

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        is_given = "holdout_days" in self.model_fields_set
        if self.holdout == "time" and is_given and self.holdout_days < LEAST_DAYS_FORWARD:
            raise ValueError(
                f"holdout: time compares models on weeks, and needs holdout_days of at least "
                f"{LEAST_DAYS_FORWARD}, not {self.holdout_days}"
            )
        if self.decision_highest is not None and "decision_threshold" in self.model_fields_set:
            raise ValueError(
                "decision_highest and decision_threshold: a day's decisions are either its highest rows or "
                "those from a threshold on; leave one out"
            )
        return self


class Promotion(Section):
    """When a challenger becomes champion."""

    rule: Literal["superior", "non_inferior"] = "superior"
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rule == "superior" and self.margin:
            raise ValueError("a margin goes with the rule non_inferior")
        if self.rule == "non_inferior" and not self.margin:
            raise ValueError(
                "non_inferior needs a margin above 0, how much worse a challenger may be; without one it "
                "would ask for the same as superior"
            )
        return self


class Evaluation(Section):
    """When the model counts as good enough, and on how much evidence."""

    metric: Metric = "f1"
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="that the metric pinball is of"
    )
    k: Annotated[int, Field(ge=1, le=MOST_HIGHEST)] | None = Field(
        default=None,
        description="how many classes top_k_accuracy looks at, and how many rows of a day precision_at_k, "
        "recall_at_k and lift_at_k do; of these by default model.decision_highest",
    )
    threshold: float = Field(allow_inf_nan=False)
    window_days: Days = Field(default=31, ge=1)
    minimum_rows: Rows = Field(default=1000, ge=1)
    minimum_positives: Rows = Field(default=50, ge=1)
    maximum_rows: Rows = Field(
        default=2_000_000, ge=1, description="rows a window; above it, a sample by hash of the entity"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rule = METRICS[self.metric]
        if rule.least is not None and self.threshold < rule.least:
            raise ValueError(
                f"threshold: {self.threshold:g} is less than any {self.metric}; the least is {rule.least:g}"
            )
        if rule.greatest is not None and self.threshold > rule.greatest:
            raise ValueError(
                f"threshold: {self.threshold:g} is greater than any {self.metric}; the greatest is "
                f"{rule.greatest:g}"
            )
        if (self.metric == "pinball") != (self.quantile is not None):
            raise ValueError(
                "quantile and metric: a quantile goes with the metric pinball, and the metric needs one, for "
                "instance 0.9"
            )
        is_of_classes = self.metric == "top_k_accuracy"
        if is_of_classes and self.k is None:
            raise ValueError("k and metric: top_k_accuracy needs k, for instance 3")
        if self.k is not None and not is_of_classes and self.metric not in AT_K:
            raise ValueError(
                "k and metric: k goes with precision_at_k, recall_at_k and lift_at_k, and of many classes "
                f"with top_k_accuracy, not with {self.metric}"
            )
        if is_of_classes and self.k is not None and self.k > MAXIMUM_CLASSES:
            raise ValueError(
                f"k and metric: top_k_accuracy looks at {MAXIMUM_CLASSES} classes at most, not {self.k:,}"
            )
        return self


class Retrain(Section):
    """How often a failed evaluation may train again, and on how much of the past."""

    cooldown_days: Days = Field(default=7, ge=0)
    back_off_after: int = Field(
        default=3, ge=1, description="retrains lost in a row, from which on each doubles the cooldown"
    )
    training_months: Months = Field(default=3, ge=1)
    training_days: Days | None = Field(
        default=None, ge=1, description="instead of training_months, when even they are too long"
    )
