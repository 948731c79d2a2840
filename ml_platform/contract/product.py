"""A product as its contract describes it, and what follows from it without a look at its data.

The sections are :mod:`.source`, :mod:`.learning` and :mod:`.monitoring`; that they go together is seen by
:mod:`.consistency`, and reading a file is :mod:`.loading`.
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

from ml_platform.contract import consistency, estimators, feature_expressions, trailing
from ml_platform.contract.calendars import Delivery
from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.compute import EngineChoice
from ml_platform.contract.days import add_months, month_from
from ml_platform.contract.fields import LONGEST_TEXT, Day, ProductName, Section, _timezone
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.learning import (
    FIRST_LABELLED_DAYS,
    Estimator,
    Evaluation,
    Model,
    Mrds,
    Promotion,
    Retrain,
)
from ml_platform.contract.monitoring import Alerts, DataSet, Drift, Validation
from ml_platform.contract.online import Online
from ml_platform.contract.places import own_place
from ml_platform.contract.scalar_sql import Expression
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON, Column, Source
from ml_platform.contract.tasks import (
    AT_K,
    BY_TYPE,
    METRICS,
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
    online: Online = Online()
    alerts: Alerts = Alerts()
    engine: EngineChoice = EngineChoice()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        consistency.check(self, are_tried=estimators.are_tried(info))
        return self

    @property
    def task_name(self) -> TaskName:
        """What the kind of label is called."""
        return self.model.task or self._task_of_type

    @property
    def _task_of_type(self) -> TaskName:
        if self.source.label is None:
            return "binary"
        return BY_TYPE.get(self.source.columns[self.source.label].type, "binary")

    @property
    def task(self) -> Task:
        """The kind of label."""
        return TASKS[self.task_name]

    @cached_property
    def derived(self) -> dict[str, Expression]:
        """What derives columns of the ARDS of the others of a row, each after those that it names."""
        return feature_expressions.derived(self.source) if self.source.derive else {}

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns of the ARDS but for the clock's: those of the deliveries, and the derived ones."""
        derived = {
            name: Column(
                type=expression.type,
                nullable=True,
                sensitive=self.source.derive[name].sensitive,
                description="; ".join(
                    said
                    for said in (
                        self.source.derive[name].description,
                        f"made of {self.source.derive[name].expression}",
                    )
                    if said
                ),
            )
            for name, expression in self.derived.items()
        }
        return {**self.source.columns, **{name: derived[name] for name in self.source.derive}}

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
        """The values that a column of the deliveries, or the label, may have; None if it may have any."""
        if name in self.mrds.ahead:
            return self.task.allowed
        declared = self.columns[name].allowed
        return self.task.allowed if name == self.source.label and declared is None else declared

    @property
    def first_month(self) -> date:
        """The first month that gets a model: the contract's, or the first with a whole month before it.

        Where labels come late, of that month the labels must be known, but for a day at most.
        """
        if self.model.first_month is not None:
            return self.model.first_month
        start = self.first_full_day
        whole = add_months(start, 1 if start.day == 1 else 2)
        return max(whole, month_from(self.first_as_of(FIRST_LABELLED_DAYS)))

    def first_as_of(self, labelled_days: int) -> date:
        """The first morning on which the labels of so many days can be known that a model learns from."""
        return self.first_full_day + timedelta(days=labelled_days + self.label_takes)

    @cached_property
    def first_full_day(self) -> date:
        """The first day that a model learns from: none of its windows reaches before the start.

        With ``partial_windows`` they may. Windows over all days have no length, and reach to the start.
        """
        if self.model.partial_windows:
            return self.start
        learned = self.made_of(self.model.features.all)
        windows = [window for window in self.mrds.windows if window.column in learned]
        windows += [feature.window for name, feature in self.mrds.windowed.items() if name in learned]
        return trailing.first_full(windows, self.start)

    def last_labelled_day(self, as_of: date) -> date:
        """The newest event day whose labels are all known on the morning of ``as_of``, if none is late.

        Whatever means "the newest labelled days" ends here and has its full length before it: the days
        after it have rows by then, but no labels that could be known.
        """
        return as_of - timedelta(days=1 + self.label_takes)

    @cached_property
    def required_since(self) -> date | None:
        """The first day whose rows have all features that must have a value; None if all days' rows do.

        A feature has a first day if its column has a ``since`` and is neither nullable nor filled.
        """
        columns = self.source.columns
        declared = (columns[name] for name in self.model.features.all if name in columns)
        return max(
            (
                column.since
                for column in declared
                if column.since and not column.nullable and column.fill_null is None
            ),
            default=None,
        )

    def trainable(self, day: date) -> bool:
        """Whether a model may learn from the rows of ``day``.

        Not before :attr:`required_since`, nor before :attr:`first_full_day`.
        """
        first = max(self.first_full_day, self.required_since or self.start)
        return first == self.start or day >= first

    def due(self, day: date) -> bool:
        """Whether a delivery is due for an event day, by the contract's calendar.

        Rows may be delivered for other days as well and are used like any; but nobody waits for them.
        """
        return self.delivery.due(day)

    def why_not_scored(self, day: date) -> str | None:
        """Why no entity has a row of the MRDS on an event day, in words; None if those with rows of it do."""
        return None if self.mrds.population is None else self.mrds.population.why_not_scored(day)

    def due_days(self, days: Iterable[date]) -> list[date]:
        """Those of ``days`` for which a delivery is due."""
        return [day for day in days if self.due(day)]

    def rows_expected_on(self, day: date) -> date:
        """The date on which the rows of a due event day arrive, in the morning."""
        return self.delivery.expected_on(day + timedelta(days=1))

    def labels_expected_on(self, day: date) -> date:
        """The date on which the labels of a due event day arrive, in the morning."""
        return self.delivery.expected_on(day + timedelta(days=1 + self.label_takes))

    @property
    def label(self) -> str:
        """The column of the MRDS with the label."""
        if self.mrds.label is not None:
            return self.mrds.label.name
        return self.source.label or ""

    @property
    def label_takes(self) -> int:
        """How many days after an event day's rows its labels can be known: delivered, or looked for ahead."""
        return self.source.label_delay_days if self.mrds.label is None else self.mrds.label.within_days

    @property
    def entity(self) -> tuple[str, ...]:
        return self.mrds.entity

    @property
    def entity_of_day(self) -> list[str]:
        """The columns that tell entities of one day apart."""
        return [name for name in self.entity if name != EVENT_DAY]

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
        """The header that makes a file a label file; none does if no label is delivered."""
        if self.source.label is None:
            return frozenset()
        return frozenset((*self.source.key, self.source.event_day, self.source.label))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Every column of the MRDS of an entity but the label: what scoring and the online store see."""
        return tuple(name for name in self.mrds.columns if name != self.label)

    def data_set_columns(self, data_set: DataSet) -> tuple[str, ...]:
        """The columns of the ARDS or the MRDS, in no order that matters."""
        own = self.columns if data_set == "ards" else (*self.mrds.entity, *self.mrds.columns)
        return tuple(dict.fromkeys((*own, EVENT_DAY, LABEL_KNOWN_ON)))

    @cached_property
    def meanings(self) -> dict[str, str]:
        """What the contract says of its columns, by name; those it says nothing of are left out."""
        said = {name: declared.description for name, declared in self.columns.items()}
        said |= {name: feature.in_words for name, feature in self.mrds.features.items()}
        if self.mrds.label is not None:
            said[self.mrds.label.name] = self.mrds.label.in_words
        return {name: meaning for name, meaning in said.items() if meaning}

    @cached_property
    def sensitive(self) -> frozenset[str]:
        """The columns whose values nobody but the tables may show."""
        declared = {name for name, column in self.columns.items() if column.sensitive}
        names = (*self.source.derive, *self.mrds.features, *self.mrds.ahead)
        return frozenset(declared | {name for name in names if not declared.isdisjoint(self.made_of([name]))})

    def mrds_type(self, name: str) -> ColumnType:
        """The type of a column of the MRDS."""
        return self.expressions[name].type if name in self.mrds.made else self.plain_type(name)

    @cached_property
    def expressions(self) -> dict[str, Expression]:
        """The expressions of the features that are made of others, each after those that it names."""
        return feature_expressions.expressions(self) if self.mrds.made else {}

    @cached_property
    def conditions(self) -> dict[str, Expression]:
        """The conditions of what is made of other days, by their text."""
        return feature_expressions.conditions(self)

    def made_of(self, names: Iterable[str]) -> set[str]:
        """Columns of the MRDS, and all columns of it and of the deliveries that their values come from."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            if name in self.mrds.made:
                waiting += self.expressions[name].columns
            elif name in self.mrds.over_days:
                feature = self.mrds.over_days[name]
                waiting.append(feature.column)
                if feature.where is not None:
                    waiting += self.conditions[feature.where].columns
            elif name in self.derived:
                waiting += self.derived[name].columns
        return found

    def plain_type(self, name: str) -> ColumnType:
        """The type of a column of the MRDS that isn't made of others."""
        if name in self.mrds.windowed:
            feature = self.mrds.windowed[name]
            return feature.type_of(self.columns[feature.column].type)
        if name in self.mrds.trailing:
            return "long"
        if name in self.mrds.ahead:
            return "integer"
        declared = self.columns[name].type
        match self.mrds.aggregate.get(name):
            case "count":
                return "long"
            case "mean":
                return "double"
            case "sum" if declared == "integer":
                return "long"
            case _:
                return declared

    def definition_of(self, name: str) -> str | None:
        """What a column of the MRDS is, in words that change with its values; None of one of the entity."""
        if name in self.mrds.made:
            # Its values change with those of the columns that it is made of.
            of = [column for column in self.expressions[name].columns if column in self.mrds.columns]
            meant = [f"{column}: {self.definition_of(column)}" for column in of]
            said = self.mrds.features[name].in_words
            return f"{said} ({'; '.join(meant)})" if meant else said
        if name in self.mrds.windowed:
            return f"{self.mrds.windowed[name].in_words}{self._derived_in_words(name)}"
        if name in self.mrds.ahead and self.mrds.label is not None:
            return f"{self.mrds.label.in_words}{self._derived_in_words(name)}"
        window = next((window for window in self.mrds.windows if window.column == name), None)
        if name in self.derived and name in self.mrds.aggregate:
            return f"{self.mrds.aggregate[name]}{self._derived_in_words(name)}"
        return self.mrds.aggregate.get(name) if window is None else f"usable days of {window.in_words}"

    def _derived_in_words(self, name: str) -> str:
        """What the derived columns are that a column comes from; nothing if it comes from none."""
        made_of = self.made_of([name])
        said = [f"{of}: {derived.expression}" for of, derived in self.source.derive.items() if of in made_of]
        return f" ({'; '.join(said)})" if said else ""

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
            exclude={
                "source": {
                    "columns": {"__all__": {"sensitive", "description"}},
                    "derive": {"__all__": {"sensitive", "description"}},
                }
            },
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
