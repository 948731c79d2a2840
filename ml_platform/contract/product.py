"""A product as its contract describes it, and what follows from it without a look at its data.

The sections are :mod:`.source`, :mod:`.learning` and :mod:`.monitoring`; reading a file is :mod:`.loading`.
Spark and Dagster do not belong here; importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from ml_platform.contract import boosting, estimators
from ml_platform.contract.calendars import Delivery
from ml_platform.contract.column_types import NUMERIC_TYPES, ColumnType
from ml_platform.contract.compute import EngineChoice
from ml_platform.contract.days import add_months, month_from, month_of
from ml_platform.contract.fields import LONGEST_TEXT, Day, ProductName, Section, _timezone, listed
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import (
    AGGREGATIONS_OF_NUMBERS,
    FIRST_LABELLED_DAYS,
    Estimator,
    Evaluation,
    Model,
    Mrds,
    Promotion,
    Retrain,
)
from ml_platform.contract.monitoring import Alerts, DataSet, Drift, Validation
from ml_platform.contract.places import own_place
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON, Source
from ml_platform.contract.tasks import (
    AT_K,
    BY_TYPE,
    LARGEST_CLASS,
    MAXIMUM_CLASSES,
    METRICS,
    RANK,
    TASKS,
    MetricRule,
    Task,
    TaskName,
)


class Product(Section):
    """One ML use case, as its contract describes it."""

    name: ProductName
    description: str = Field(max_length=LONGEST_TEXT)
    owners: tuple[str, ...] = ()
    start: Day
    end: Day | None = None
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    delivery: Delivery = Delivery()
    landing: Annotated[str, AfterValidator(own_place)] | None = Field(
        default=None, description="where its deliveries lie, if not where ML_PLATFORM_LANDING says"
    )
    source: Source
    mrds: Mrds
    model: Model
    promotion: Promotion = Promotion()
    evaluation: Evaluation
    retrain: Retrain = Retrain()
    validation: Validation = Validation()
    drift: Drift = Drift()
    alerts: Alerts = Alerts()
    engine: EngineChoice = EngineChoice()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        columns = self.source.columns
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        if set(columns) == self.label_file_columns:
            raise ValueError(
                "source: every column is the label, the event day or part of the key, so that files of rows "
                "and of labels look alike; declare another column of the files, or take one out of the key"
            )
        for name in self.mrds.entity:
            if name in columns and columns[name].since:
                raise ValueError(f"since: {name!r} is what is scored (mrds.entity), and has no first day")

        for place, names in {
            "mrds.entity": self.mrds.entity,
            "mrds.order_by": self.mrds.order_by,
            "mrds.aggregate": tuple(self.mrds.aggregate),
            "validation.not_null": self.validation.not_null,
            "validation.maximum_null_share": tuple(self.validation.maximum_null_share),
            "validation.ranges": tuple(self.validation.ranges),
        }.items():
            for name in names:
                if name not in columns:
                    raise ValueError(
                        f"{place}: the column {name!r} is not declared in source.columns; "
                        f"declared are {listed(columns)}"
                    )
        for name, rule in self.mrds.aggregate.items():
            if rule in AGGREGATIONS_OF_NUMBERS and columns[name].type not in NUMERIC_TYPES:
                raise ValueError(
                    f"mrds.aggregate.{name}: {rule} needs a number, and {name!r} is a "
                    f"{columns[name].type}; accepted are min, max, count, first, last"
                )
            if name in self.mrds.entity or name == self.source.event_day:
                raise ValueError(f"mrds.aggregate.{name}: the entity and the event day are kept as they are")
        if self.source.label not in self.mrds.aggregate:
            raise ValueError(
                f"mrds.aggregate: the label {self.source.label!r} needs a rule, "
                f"for instance {self.source.label}: last"
            )
        self._check_task(are_tried=estimators.are_tried(info))

        known = (*self.mrds.entity, *self.mrds.aggregate)
        for kind, names in (
            ("numeric", self.model.features.numeric),
            ("categorical", self.model.features.categorical),
        ):
            for name in names:
                place = f"model.features.{kind}"
                if name == self.source.label:
                    raise ValueError(f"{place}: {name!r} is the label, and can't be a feature as well")
                if name not in known:
                    raise ValueError(
                        f"{place}: {name!r} is no column of the MRDS; its columns are {listed(known)}"
                    )
                if kind == "numeric" and self.mrds_type(name) not in NUMERIC_TYPES:
                    raise ValueError(
                        f"{place}: {name!r} is a {self.mrds_type(name)}; list it under categorical"
                    )
        if not self.model.features.all:
            raise ValueError("model.features: at least one feature is needed")
        if len(set(self.model.features.all)) < len(self.model.features.all):
            raise ValueError("model.features: a feature is listed twice")
        self._check_learning(are_tried=estimators.are_tried(info))
        for name in self.validation.ranges:
            type_ = columns[name].type
            if type_ not in NUMERIC_TYPES:
                raise ValueError(f"validation.ranges.{name}: a range is for numbers, not for a {type_}")
        for position, added in enumerate(self.validation.expectations):
            available = self.data_set_columns(added.on)
            for name in added.columns:
                if name not in available:
                    raise ValueError(
                        f"validation.expectations.{position}: {name!r} is no column of the "
                        f"{added.on.upper()}; its columns are {listed(available)}"
                    )
        if self.first_month <= month_of(self.start):
            raise ValueError(
                f"model.first_month: no whole month lies between {self.start} and "
                f"{self.first_month:%Y-%m}; the first possible is {add_months(self.start, 1):%Y-%m}"
            )
        if self.last_labelled_day(self.first_month) < self.start:
            raise ValueError(
                f"model.first_month: no label is known on {self.first_month}: those of the first day, "
                f"{self.start}, come {self.source.label_delay_days} days after it; the first possible is "
                f"{month_from(self.first_as_of(1)):%Y-%m}"
            )
        if self.end is not None and self.first_month > add_months(month_of(self.end), 1):
            raise ValueError(
                f"end: the history ends on {self.end}, before a first model can exist, that of "
                f"{self.first_month:%Y-%m}: labels come {self.source.label_delay_days} days after their rows"
            )
        return self

    def _check_task(self, *, are_tried: bool) -> None:
        """See that what the contract says of the label, the metric and the model is of one kind.

        Raises:
            ValueError: it isn't; the message names both keys.
        """
        label, declared, model = self.source.label, self.source.columns[self.source.label], self.model
        name = self._task_name
        says = f"model.task is {name}"
        if model.task is None and name in BY_TYPE.values():
            says += f" (of a label of type {declared.type}, unless the contract says otherwise)"
        task = TASKS[name]
        allowed = declared.allowed
        if declared.type not in task.label_types or not _within(allowed, task.allowed):
            raise ValueError(
                f"source.label: the label {label!r} must be {task.label_in_words}, since {says}; another "
                "kind of label is said by model.task"
            )
        if task.names_classes and not 2 <= len(allowed or ()) <= MAXIMUM_CLASSES:
            raise ValueError(
                f"source.columns.{label}.allowed: {len(allowed or ())} classes, and {says}, which needs 2 to "
                f"{MAXIMUM_CLASSES} of them named"
            )
        if task.has_positives and allowed is not None and not {0, 1} <= set(allowed):
            raise ValueError(
                f"source.columns.{label}.allowed: {says}, which learns from 0 and 1, so that both "
                "must be allowed"
            )
        taken = {column.name for column in task.outputs(self)} & {*self.mrds.entity, *self.mrds.aggregate}
        if task.has_positives:  # contracts of old may have the names of the columns there have always been
            taken &= {RANK}
        if taken:
            why = "they are ranked by evaluation.k or model.decision_highest" if task.has_positives else says
            raise ValueError(
                f"mrds: the name {min(taken)!r} is that of a column of the predictions, since {why}; give "
                "the column another name (source.columns.….aliases reads the one that the files have)"
            )
        if task.names_classes and (gone := set(map(str, allowed or ())) & set(self.source.null_values)):
            raise ValueError(
                f"source.columns.{label}.allowed and source.null_values: {min(gone)!r} stands for no value, "
                "and can't be a class as well"
            )
        if any("\0" in str(name) for name in allowed or ()) and task.names_classes:
            raise ValueError(f"source.columns.{label}.allowed: the name of a class can't hold a NUL")
        if task.names_classes:
            far = [name for name in allowed or () if isinstance(name, int) and abs(name) > LARGEST_CLASS]
            if far or len({str(name) for name in allowed or ()}) < len(allowed or ()):
                raise ValueError(
                    f"source.columns.{label}.allowed: {says}, whose classes are named once each, and as "
                    f"numbers by at most {LARGEST_CLASS}"
                )
        if self.mrds.aggregate[label] not in task.aggregations:
            rule = self.mrds.aggregate[label]
            stay = (
                " must stay 0 or 1" if task.has_positives else f" can't be the {rule} of rows, since {says}"
            )
            raise ValueError(
                f"mrds.aggregate.{label}: the label{stay}; accepted are {', '.join(task.aggregations)}"
            )
        metric = self.evaluation.metric
        if metric not in task.metrics:
            raise ValueError(
                f"evaluation.metric: {metric!r} can't be measured, since {says}; accepted are "
                f"{', '.join(task.metrics)}"
            )
        for place, estimator in self._candidates.items() if are_tried else ():
            estimators.check_class(estimator.class_, needs=task.needs, place=f"{place}.class, {says}")
        if METRICS[metric].greatest == 1 and self.promotion.margin > 1:
            raise ValueError(
                f"promotion.margin: {self.promotion.margin:g} is more than any {metric} can differ"
            )
        if not task.is_number:
            for key, value in {"transform": model.transform, "interval": model.interval}.items():
                if value is not None:
                    raise ValueError(f"model.{key}: it is for numbers, and {says}")
        if task.has_positives:
            if metric in AT_K and self.highest is None:
                raise ValueError(
                    f"evaluation.k and evaluation.metric: {metric} needs k, for instance 100, unless "
                    "model.decision_highest says how many rows of a day are decided to be 1"
                )
            return
        for key, section, place in (
            ("decision_threshold", model, "model"),
            ("decision_highest", model, "model"),
            ("minimum_positives", model, "model"),
            ("minimum_positives", self.evaluation, "evaluation"),
        ):
            if key in section.model_fields_set:
                raise ValueError(f"{place}.{key}: it is for labels of 0 and 1, and {says}")
        if metric == "mape" and not self._excludes_zero(label):
            raise ValueError(
                f"evaluation.metric: mape divides by the label, so validation.ranges.{label} must exclude 0, "
                "for instance by minimum: 1; otherwise take mae"
            )
        k, classes = self.evaluation.k, len(allowed or ())
        if metric == "top_k_accuracy" and k is not None and k >= classes:
            raise ValueError(
                f"evaluation.k and source.columns.{label}.allowed: of {classes} classes the right one is "
                f"always among the {k} most probable; k is at most {classes - 1}"
            )

    def _check_learning(self, *, are_tried: bool) -> None:
        """See that the estimator learns with its parameters, as far as that can be known without data.

        Raises:
            ValueError: it doesn't.
        """
        for place, estimator in self._candidates.items():
            self._check_positions(place, estimator)
            if not are_tried:
                continue
            within = f"{place}.search." if estimator.search is not None else f"{place}."
            try:
                self._check_candidate(estimator)
            except ValueError as error:
                raise ValueError(f"{within}{error}") from error

    def _check_positions(self, place: str, estimator: Estimator) -> None:
        searched = estimator.search.params if estimator.search is not None else {}
        library = boosting.library_of(estimator.class_)
        by_position = boosting.BY_POSITION if library is None else library.by_position
        # A column of a target encoding is the share of one class.
        many = estimator.encoding == "target" and len(self.allowed_in(self.label) or ()) > 2
        if not self.model.features.categorical or not (estimator.encoding == "onehot" or many):
            return
        for name in sorted(by_position & {*estimator.params, *searched}):
            if (
                library is None
                and isinstance(estimator.params.get(name), str | None)
                and name not in searched
            ):
                continue  # it names no place
            within = "search.params" if name in searched else "params"
            how = "as many columns as there are classes" if many else "one-hot"
            raise ValueError(
                f"{place}.{within}.{name} and categorical: it tells columns by their places, which those of "
                f"categories that are encoded {how} don't keep; take native or ordinal"
            )

    def _check_candidate(self, estimator: Estimator) -> None:
        path, features = estimator.class_, self.model.features
        labels = None if self.task.is_number else self.allowed_in(self.label)
        failures = []
        for params in estimator.corners:
            estimators.check_kind(path, params, is_number=labels is None, columns=len(features.all))
            try:
                estimators.check_learning(
                    path,
                    params,
                    labels=labels,
                    numeric=len(features.numeric),
                    categorical=len(features.categorical),
                    encoding=estimator.encoding,
                )
            except ValueError as error:
                # Values of a search needn't go together: of scikit-learn's, that is a trial that fails.
                if boosting.library_of(path) is not None:
                    raise
                failures.append(error)
        if len(failures) == len(estimator.corners):
            raise failures[0]

    @property
    def _candidates(self) -> dict[str, Estimator]:
        """The estimators of the contract, by the place where each is written."""
        if self.model.estimators:
            return {f"model.estimators.{at}": one for at, one in enumerate(self.model.estimators)}
        return {"model.estimator": self.model.one}

    def _excludes_zero(self, column: str) -> bool:
        """Whether the contract lets no value of a column be 0."""
        limits, allowed = self.validation.ranges.get(column), self.source.columns[column].allowed
        if allowed is not None and 0 not in allowed:
            # Values of both signs may add up to 0.
            adds_up = self.mrds.aggregate.get(column) in ("sum", "mean")
            if not adds_up or len({float(value) > 0 for value in allowed}) == 1:
                return True
        if limits is None:
            return False
        return (limits.minimum or 0) > 0 or (limits.maximum or 0) < 0

    # -- what follows from the contract ------------------------------------------------------------

    @property
    def _task_name(self) -> TaskName:
        return self.model.task or self._task_of_type

    @property
    def _task_of_type(self) -> TaskName:
        return BY_TYPE.get(self.source.columns[self.source.label].type, "binary")

    @property
    def task(self) -> Task:
        """The kind of label."""
        return TASKS[self._task_name]

    def with_estimator(self, estimator: Estimator) -> Product:
        """The product as if its contract had just this estimator."""
        model = self.model.model_copy(update={"estimator": estimator, "estimators": ()})
        return self.model_copy(update={"model": model})

    @property
    def metric(self) -> MetricRule:
        """What is better of the metric that is evaluated."""
        return METRICS[self.evaluation.metric]

    @property
    def highest(self) -> int | None:
        """How many rows of a day the metric counts as its highest, if it does: those decided 1, or its k."""
        if self.evaluation.metric in AT_K and self.evaluation.k is not None:
            return self.evaluation.k
        return self.model.decision_highest

    @property
    def metric_in_words(self) -> str:
        """The metric that is evaluated, with what it is of: so many rows of a day, or classes, or a quantile.

        Wherever people read of the metric it is called so.
        """
        metric, rules = self.evaluation.metric, self.evaluation
        k = self.highest if metric in AT_K else rules.k
        if k is not None:
            return f"{metric} (k = {k:,})"
        return metric if rules.quantile is None else f"{metric} (quantile = {rules.quantile:g})"

    @property
    def deepest_rank(self) -> int | None:
        """To which rank predictions are ranked; None if they aren't."""
        asked = [n for n in (self.highest, self.model.decision_highest) if n is not None]
        return max(asked, default=None)

    def allowed_in(self, name: str) -> tuple[str | int | float | bool, ...] | None:
        """The values that a column of the deliveries may have, None if it may have any."""
        declared = self.source.columns[name].allowed
        return self.task.allowed if name == self.source.label and declared is None else declared

    @property
    def first_month(self) -> date:
        """The first month that gets a model: the contract's, or the first with a whole month before it.

        Where labels come late, of that month the labels must be known, but for a day at most.
        """
        if self.model.first_month is not None:
            return self.model.first_month
        whole = add_months(self.start, 1 if self.start.day == 1 else 2)
        return max(whole, month_from(self.first_as_of(FIRST_LABELLED_DAYS)))

    def first_as_of(self, labelled_days: int) -> date:
        """The first morning on which the labels of so many days can be known."""
        return self.start + timedelta(days=labelled_days + self.source.label_delay_days)

    def last_labelled_day(self, as_of: date) -> date:
        """The newest event day whose labels are all known on the morning of ``as_of``, if none is late.

        Whatever means "the newest labelled days" ends here and has its full length before it: the days
        after it have rows by then, but no labels that could be known.
        """
        return as_of - timedelta(days=1 + self.source.label_delay_days)

    @cached_property
    def required_since(self) -> date | None:
        """The first day whose rows have all features that must have a value; None if all days' rows do.

        A feature has a first day if its column has a ``since`` and is neither nullable nor filled.
        """
        declared = (self.source.columns[name] for name in self.model.features.all)
        return max(
            (
                column.since
                for column in declared
                if column.since and not column.nullable and column.fill_null is None
            ),
            default=None,
        )

    def trainable(self, day: date) -> bool:
        """Whether a model may learn from the rows of ``day``: not before :attr:`required_since`."""
        return self.required_since is None or day >= self.required_since

    def due(self, day: date) -> bool:
        """Whether a delivery is due for an event day, by the contract's calendar.

        Rows may be delivered for other days as well and are used like any; but nobody waits for them.
        """
        return self.delivery.due(day)

    def due_days(self, days: Iterable[date]) -> list[date]:
        """Those of ``days`` for which a delivery is due."""
        return [day for day in days if self.due(day)]

    def rows_expected_on(self, day: date) -> date:
        """The date on which the rows of a due event day arrive, in the morning."""
        return self.delivery.expected_on(day + timedelta(days=1))

    def labels_expected_on(self, day: date) -> date:
        """The date on which the labels of a due event day arrive, in the morning."""
        return self.delivery.expected_on(day + timedelta(days=1 + self.source.label_delay_days))

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def entity(self) -> tuple[str, ...]:
        return self.mrds.entity

    @property
    def identity(self) -> list[str]:
        """The columns that tell rows of the MRDS apart: the entity and the event day."""
        return list(dict.fromkeys((*self.entity, EVENT_DAY)))

    @cached_property
    def ards_key(self) -> tuple[str, ...]:
        """What identifies a row of the ARDS: the contract's key within the event day."""
        return tuple(dict.fromkeys((self.source.event_day, *self.source.key)))

    @cached_property
    def label_file_columns(self) -> frozenset[str]:
        """The header that makes a file a label file."""
        return frozenset((*self.source.key, self.source.event_day, self.source.label))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Every aggregated column of the MRDS but the label: what scoring and the online store see."""
        return tuple(name for name in self.mrds.aggregate if name != self.source.label)

    def data_set_columns(self, data_set: DataSet) -> tuple[str, ...]:
        """The columns of the ARDS or the MRDS, in no order that matters."""
        own = self.source.columns if data_set == "ards" else (*self.mrds.entity, *self.mrds.aggregate)
        return tuple(dict.fromkeys((*own, EVENT_DAY, LABEL_KNOWN_ON)))

    @cached_property
    def meanings(self) -> dict[str, str]:
        """What the contract says of its columns, by name; those it says nothing of are left out."""
        return {
            name: declared.description
            for name, declared in self.source.columns.items()
            if declared.description
        }

    @cached_property
    def sensitive(self) -> frozenset[str]:
        """The columns whose values nobody but the tables may show."""
        return frozenset(name for name, declared in self.source.columns.items() if declared.sensitive)

    def mrds_type(self, name: str) -> ColumnType:
        """The type of a column of the MRDS."""
        declared = self.source.columns[name].type
        match self.mrds.aggregate.get(name):
            case "count":
                return "long"
            case "mean":
                return "double"
            case "sum" if declared == "integer":
                return "long"
            case _:
                return declared

    def hash_of(self, *sections: str) -> str:
        """A hash of the named sections (dotted paths), so that a change elsewhere changes nothing.

        Keys at their defaults don't count: a key that the contract's language gains makes nothing out of
        date. Whoever changes a default raises the version of the steps that follow it.
        """
        return fingerprint_of(self.content_of(*sections))

    def content_of(self, *sections: str) -> dict[str, Any]:
        """What :meth:`hash_of` hashes: the named sections as plain data, without keys at their defaults."""
        content = self.model_dump(
            mode="json",
            by_alias=True,
            exclude_defaults=True,
            exclude={"source": {"columns": {"__all__": {"sensitive", "description"}}}},
        )
        if self.model.task not in (None, self._task_of_type):
            # What a label may be follows from its kind: so does what is read of a delivery.
            content["source"]["task"] = self.model.task
        chosen: dict[str, Any] = {}
        for section in sections:
            value: Any = content
            for part in section.split("."):
                value = value.get(part, {})
            chosen[section] = value
        return chosen


def _within(
    values: tuple[str | int | float | bool, ...] | None, accepted: tuple[str | int | float | bool, ...] | None
) -> bool:
    """Whether the values that a contract allows are among those that a kind of label can have."""
    return values is None or accepted is None or set(values) <= set(accepted)
