"""Whether the sections of a contract go together: columns, the label, features, estimators, limits, dates.

What a section can see by itself it checks itself; here are the rules across sections. The first that is
broken is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_platform.contract import boosting, estimators
from ml_platform.contract.column_types import NUMERIC_TYPES
from ml_platform.contract.days import add_months, month_from, month_of
from ml_platform.contract.fields import listed
from ml_platform.contract.learning import AGGREGATIONS_OF_NUMBERS, Estimator
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.contract.tasks import AT_K, BY_TYPE, LARGEST_CLASS, MAXIMUM_CLASSES, METRICS, RANK, TASKS
from ml_platform.contract.trailing import OF_NUMBERS, RULES

if TYPE_CHECKING:
    from ml_platform.contract.product import Product


#: Columns that the tables of the MRDS have beside the contract's.
_OF_TABLES = (EVENT_DAY, LABEL_KNOWN_ON, "known_from", "known_to", "is_scored")


def check(product: Product, *, are_tried: bool) -> None:
    """See that the sections of a contract go together.

    Args:
        are_tried: whether estimators are built and learn made-up rows.

    Raises:
        ValueError: they don't; the message names the keys.
    """
    _check_columns(product)
    _check_trailing(product)
    _check_task(product, are_tried=are_tried)
    _check_features(product)
    _check_learning(product, are_tried=are_tried)
    _check_validation(product)
    _check_drift(product)
    _check_dates(product)


def _check_columns(product: Product) -> None:
    columns = product.columns
    if product.end is not None and product.end < product.start:
        raise ValueError(f"end {product.end} lies before start {product.start}")
    _check_which_label(product)
    if set(product.source.columns) == product.label_file_columns:
        raise ValueError(
            "source: every column is the label, the event day or part of the key, so that files of rows "
            "and of labels look alike; declare another column of the files, or take one out of the key"
        )
    for name in product.mrds.entity:
        if name in product.derived:
            raise ValueError(
                f"mrds.entity: {name!r} is derived, and may be null; what is scored has to be delivered"
            )
        if name in columns and columns[name].since:
            raise ValueError(f"since: {name!r} is what is scored (mrds.entity), and has no first day")

    for place, names in {
        "mrds.entity": product.mrds.entity,
        "mrds.order_by": product.mrds.order_by,
        "mrds.aggregate": tuple(product.mrds.aggregate),
        "validation.not_null": product.validation.not_null,
        "validation.maximum_null_share": tuple(product.validation.maximum_null_share),
        "validation.ranges": tuple(product.validation.ranges),
    }.items():
        of_features = product.mrds.columns if place in ("validation.not_null", "validation.ranges") else ()
        for name in names:
            if name not in columns and name not in of_features:
                raise _undeclared(product, place, name)
    for name, rule in product.mrds.aggregate.items():
        if rule in AGGREGATIONS_OF_NUMBERS and columns[name].type not in NUMERIC_TYPES:
            raise ValueError(
                f"mrds.aggregate.{name}: {rule} needs a number, and {name!r} is a "
                f"{columns[name].type}; accepted are min, max, count, first, last"
            )
        if name in product.mrds.entity or name == product.source.event_day:
            raise ValueError(f"mrds.aggregate.{name}: the entity and the event day are kept as they are")
    if product.source.label is not None and product.source.label not in product.mrds.aggregate:
        raise ValueError(
            f"mrds.aggregate: the label {product.source.label!r} needs a rule, "
            f"for instance {product.source.label}: last"
        )


def _undeclared(product: Product, place: str, name: str) -> ValueError:
    """The error of a place in the contract that names a column which there isn't."""
    return ValueError(
        f"{place}: the column {name!r} is not declared in source.columns; "
        f"declared are {listed(product.columns)}"
    )


def _check_which_label(product: Product) -> None:
    """See that there is one label, delivered or ahead.

    Raises:
        ValueError: there is none, or there are two; the message names the keys.
    """
    delivered, ahead = product.source.label, product.mrds.label
    if delivered is None and ahead is None:
        raise ValueError(
            "source.label: this key is required: the column with the label; if none is delivered, and it "
            "follows from an entity's later rows, mrds.label says how"
        )
    if delivered is not None and ahead is not None:
        raise ValueError(
            f"source.label and mrds.label: the label is either delivered, as {delivered!r}, or looked for on "
            "the days ahead; leave one out"
        )
    if delivered is None and "label_delay_days" in product.source.model_fields_set:
        raise ValueError(
            "source.label_delay_days: it is of a label that is delivered; that of mrds.label is known when "
            "its days are over"
        )


def _check_label_ahead(product: Product, taken: Mapping[str, str]) -> None:
    """See that a label that looks ahead can be computed, and has a name of its own.

    Args:
        taken: what has which name.

    Raises:
        ValueError: it can't, or hasn't.
    """
    label, columns = product.mrds.label, product.columns
    if label is None:
        return
    if (other := taken.get(label.name.casefold())) is not None:
        raise ValueError(
            f"mrds.label.name: {label.name!r} is the name of {other}; choose another (case does not count)"
        )
    place = f"mrds.label.{label.rule}"
    if label.column not in columns:
        raise _undeclared(product, place, label.column)
    if label.column == product.source.event_day:
        raise ValueError(
            f"{place}: {label.column!r} is the event day; write a column that the rows have a value in"
        )
    if not label.accepts(columns[label.column].type):
        raise ValueError(
            f"{place}: a sum needs a number, and {label.column!r} is a {columns[label.column].type}; "
            "accepted are any, none"
        )
    if label.name in product.validation.not_null:
        raise ValueError(
            f"validation.not_null: {label.name!r} is null until its days are over, so that every newest day "
            "would be blocked; leave it out"
        )
    if product.end is not None and label.window.last(product.start) > product.end:
        raise ValueError(
            f"mrds.label.within_days: {label.within_days} days ahead of any day lie beyond the history, "
            f"which is from {product.start} to {product.end}"
        )


def _check_trailing(product: Product) -> None:
    """See that the features over trailing windows can be computed, and have names of their own.

    Raises:
        ValueError: they can't, or haven't; the message names the feature.
    """
    columns, features = product.columns, product.mrds.features
    taken = {name.casefold(): f"the column {name!r} of the deliveries" for name in columns}
    taken |= {name.casefold(): f"the column {name!r} of source.derive" for name in product.derived}
    taken |= {name: f"the column {name!r}, which is reserved" for name in _OF_TABLES}
    taken |= {
        window.column: f"the column that counts the usable days of {window.in_words}"
        for window in product.mrds.windows
        if window.column not in taken
    }
    for name, feature in features.items():
        place = f"mrds.features.{name}"
        if name.startswith("_"):
            raise ValueError(f"{place}: the name begins with an underscore, which is reserved")
        if (other := taken.get(name.casefold())) is not None:
            raise ValueError(f"{place}: the name is that of {other}; choose another (case does not count)")
        taken[name.casefold()] = f"the feature {name!r}"
        if feature.expression is not None:
            continue
        if feature.column not in columns:
            raise _undeclared(product, place, feature.column)
        if feature.column == product.source.label:
            raise ValueError(
                f"{place}: {feature.column!r} is the label, which comes later than the rows of its day, so "
                "no window can hold it"
            )
        if feature.column == product.source.event_day:
            raise ValueError(
                f"{place}: {feature.column!r} is the event day, the same in all rows of a day; for the days "
                "since an entity's last rows write days_since with a column of its rows"
            )
        if not feature.accepts(columns[feature.column].type):
            raise ValueError(
                f"{place}: {feature.rule} needs a number, and {feature.column!r} is a "
                f"{columns[feature.column].type}; accepted are "
                f"{listed([rule for rule in RULES if rule not in OF_NUMBERS])}"
            )
        if product.end is not None and feature.window.first_full(product.start) > product.end:
            raise ValueError(
                f"{place}: a window of {feature.window.in_words} is longer than the history from "
                f"{product.start} to {product.end}"
            )
    _check_label_ahead(product, taken)
    if product.mrds.population is not None and product.mrds.label is None:
        raise ValueError(
            "mrds.population: who has no rows of a day gets no label that is delivered for rows; it goes "
            "with a label that looks ahead (mrds.label)"
        )
    if product.mrds.population is not None:
        never = set(product.mrds.population.weekdays).isdisjoint(product.delivery.weekdays)
        if never:
            raise ValueError(
                "mrds.population.weekdays: no delivery is due for any of these weekdays (delivery.weekdays), "
                "and a day without rows has none of anybody"
            )
    if product.mrds.over_days and product.source.event_day in set(product.mrds.entity) - {EVENT_DAY}:
        place = "mrds.features" if product.mrds.windowed else "mrds.label"
        raise ValueError(
            f"mrds.entity and {place}: with the event day {product.source.event_day!r} an entity is another "
            "one on each day, so that its windows hold no other day; leave it out of mrds.entity"
        )
    _ = product.expressions, product.conditions  # which are read now
    folded = {name.casefold() for name in columns}
    for window in product.mrds.windows:
        if window.column in folded:
            raise ValueError(
                f"mrds.features: {window.column!r} counts the usable days of {window.in_words}, and is a "
                "column of the deliveries as well; give that column another name (source.columns.….aliases "
                "reads the one that the files have)"
            )


def _check_task(product: Product, *, are_tried: bool) -> None:
    """See that what the contract says of the label, the metric and the model is of one kind.

    Raises:
        ValueError: it isn't; the message names both keys.
    """
    label, model = product.label, product.model
    name = product.task_name
    says = f"model.task is {name}"
    task = TASKS[name]
    if (delivered := product.source.columns.get(product.source.label or "")) is None:
        if not task.has_positives:
            raise ValueError(f"model.task: a label that looks ahead (mrds.label) is 0 or 1, and {says}")
        allowed = task.allowed
    else:
        if model.task is None and name in BY_TYPE.values():
            says += f" (of a label of type {delivered.type}, unless the contract says otherwise)"
        allowed = delivered.allowed
        if delivered.type not in task.label_types or not _within(allowed, task.allowed):
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
            f"source.columns.{label}.allowed: {says}, which learns from 0 and 1, so that both must be allowed"
        )
    outputs = {column.name for column in task.outputs(product)}
    taken = outputs & {*product.mrds.entity, *product.mrds.columns}
    if task.has_positives:  # contracts of old may have the names of the columns there have always been
        taken &= {RANK}
    if taken:
        why = "they are ranked by evaluation.k or model.decision_highest" if task.has_positives else says
        raise ValueError(
            f"mrds: the name {min(taken)!r} is that of a column of the predictions, since {why}; give "
            "the column another name (source.columns.….aliases reads the one that the files have)"
        )
    if task.names_classes and (gone := set(map(str, allowed or ())) & set(product.source.null_values)):
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
    rule = product.mrds.aggregate.get(label)
    if rule is not None and rule not in task.aggregations:
        stay = " must stay 0 or 1" if task.has_positives else f" can't be the {rule} of rows, since {says}"
        raise ValueError(
            f"mrds.aggregate.{label}: the label{stay}; accepted are {', '.join(task.aggregations)}"
        )
    metric = product.evaluation.metric
    if metric not in task.metrics:
        raise ValueError(
            f"evaluation.metric: {metric!r} can't be measured, since {says}; accepted are "
            f"{', '.join(task.metrics)}"
        )
    for place, estimator in _candidates(product).items() if are_tried else ():
        estimators.check_class(estimator.class_, needs=task.needs, place=f"{place}.class, {says}")
    if METRICS[metric].greatest == 1 and product.promotion.margin > 1:
        raise ValueError(
            f"promotion.margin: {product.promotion.margin:g} is more than any {metric} can differ"
        )
    if not task.is_number:
        for key, value in {"transform": model.transform, "interval": model.interval}.items():
            if value is not None:
                raise ValueError(f"model.{key}: it is for numbers, and {says}")
    if task.has_positives:
        if metric in AT_K and product.highest is None:
            raise ValueError(
                f"evaluation.k and evaluation.metric: {metric} needs k, for instance 100, unless "
                "model.decision_highest says how many rows of a day are decided to be 1"
            )
        return
    for key, section, place in (
        ("decision_threshold", model, "model"),
        ("decision_highest", model, "model"),
        ("minimum_positives", model, "model"),
        ("minimum_positives", product.evaluation, "evaluation"),
    ):
        if key in section.model_fields_set:
            raise ValueError(f"{place}.{key}: it is for labels of 0 and 1, and {says}")
    if metric == "mape" and not _excludes_zero(product, label):
        raise ValueError(
            f"evaluation.metric: mape divides by the label, so validation.ranges.{label} must exclude 0, "
            "for instance by minimum: 1; otherwise take mae"
        )
    k, classes = product.evaluation.k, len(allowed or ())
    if metric == "top_k_accuracy" and k is not None and k >= classes:
        raise ValueError(
            f"evaluation.k and source.columns.{label}.allowed: of {classes} classes the right one is "
            f"always among the {k} most probable; k is at most {classes - 1}"
        )


def _check_features(product: Product) -> None:
    known = (*product.mrds.entity, *product.mrds.columns)
    for kind, names in (
        ("numeric", product.model.features.numeric),
        ("categorical", product.model.features.categorical),
    ):
        for name in names:
            place = f"model.features.{kind}"
            if name == product.label:
                raise ValueError(f"{place}: {name!r} is the label, and can't be a feature as well")
            if name not in known:
                raise ValueError(
                    f"{place}: {name!r} is no column of the MRDS; its columns are {listed(known)}"
                )
            if kind == "numeric" and product.mrds_type(name) not in NUMERIC_TYPES:
                raise ValueError(
                    f"{place}: {name!r} is a {product.mrds_type(name)}; list it under categorical"
                )
    if not product.model.features.all:
        raise ValueError("model.features: at least one feature is needed")
    if len(set(product.model.features.all)) < len(product.model.features.all):
        raise ValueError("model.features: a feature is listed twice")


def _check_learning(product: Product, *, are_tried: bool) -> None:
    """See that the estimator learns with its parameters, as far as that can be known without data.

    Raises:
        ValueError: it doesn't.
    """
    for place, estimator in _candidates(product).items():
        _check_positions(product, place, estimator)
        if not are_tried:
            continue
        within = f"{place}.search." if estimator.search is not None else f"{place}."
        try:
            _check_candidate(product, estimator)
        except ValueError as error:
            raise ValueError(f"{within}{error}") from error


def _check_positions(product: Product, place: str, estimator: Estimator) -> None:
    searched = estimator.search.params if estimator.search is not None else {}
    library = boosting.library_of(estimator.class_)
    by_position = boosting.BY_POSITION if library is None else library.by_position
    # A column of a target encoding is the share of one class.
    many = estimator.encoding == "target" and len(product.allowed_in(product.label) or ()) > 2
    if not product.model.features.categorical or not (estimator.encoding == "onehot" or many):
        return
    for name in sorted(by_position & {*estimator.params, *searched}):
        if library is None and isinstance(estimator.params.get(name), str | None) and name not in searched:
            continue  # it names no place
        within = "search.params" if name in searched else "params"
        how = "as many columns as there are classes" if many else "one-hot"
        raise ValueError(
            f"{place}.{within}.{name} and categorical: it tells columns by their places, which those of "
            f"categories that are encoded {how} don't keep; take native or ordinal"
        )


def _check_candidate(product: Product, estimator: Estimator) -> None:
    path, features = estimator.class_, product.model.features
    labels = None if product.task.is_number else product.allowed_in(product.label)
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


def _check_validation(product: Product) -> None:
    columns = product.columns
    for name in product.validation.ranges:
        type_ = columns[name].type if name in columns else product.mrds_type(name)
        if type_ not in NUMERIC_TYPES:
            raise ValueError(f"validation.ranges.{name}: a range is for numbers, not for a {type_}")
    for position, added in enumerate(product.validation.expectations):
        available = product.data_set_columns(added.on)
        for name in added.columns:
            if name not in available:
                raise ValueError(
                    f"validation.expectations.{position}: {name!r} is no column of the "
                    f"{added.on.upper()}; its columns are {listed(available)}"
                )


def _check_drift(product: Product) -> None:
    """See that limits of single columns are of columns that there are.

    Raises:
        ValueError: one isn't; the message names it.
    """
    compared = {*product.columns, *product.mrds.columns, product.task.measured[1]}
    for name in product.drift.thresholds:
        if name not in compared:
            raise ValueError(
                f"drift.thresholds: there is no column {name!r}; accepted are {listed(sorted(compared))}"
            )


def _check_dates(product: Product) -> None:
    if product.first_month <= month_of(product.start):
        raise ValueError(
            f"model.first_month: no whole month lies between {product.start} and "
            f"{product.first_month:%Y-%m}; the first possible is {add_months(product.start, 1):%Y-%m}"
        )
    if product.last_labelled_day(product.first_month) < product.first_full_day:
        raise ValueError(
            f"model.first_month: no label is known on {product.first_month}: those of the first day, "
            f"{product.first_full_day}, come {product.label_takes} days after it; the first "
            f"possible is {month_from(product.first_as_of(1)):%Y-%m}"
        )
    if product.end is not None and product.first_month > add_months(month_of(product.end), 1):
        raise ValueError(
            f"end: the history ends on {product.end}, before a first model can exist, that of "
            f"{product.first_month:%Y-%m}: labels come {product.label_takes} days after "
            "their rows"
        )


def _candidates(product: Product) -> dict[str, Estimator]:
    """The estimators of the contract, by the place where each is written."""
    if product.model.estimators:
        return {f"model.estimators.{at}": estimator for at, estimator in enumerate(product.model.estimators)}
    return {"model.estimator": product.model.one}


def _excludes_zero(product: Product, column: str) -> bool:
    """Whether the contract lets no value of a column be 0."""
    limits, allowed = product.validation.ranges.get(column), product.columns[column].allowed
    if allowed is not None and 0 not in allowed:
        # Values of both signs may add up to 0.
        adds_up = product.mrds.aggregate.get(column) in ("sum", "mean")
        if not adds_up or len({float(value) > 0 for value in allowed}) == 1:
            return True
    if limits is None:
        return False
    return (limits.minimum or 0) > 0 or (limits.maximum or 0) < 0


def _within(
    values: tuple[str | int | float | bool, ...] | None, accepted: tuple[str | int | float | bool, ...] | None
) -> bool:
    """Whether the values that a contract allows are among those that a kind of label can have."""
    return values is None or accepted is None or set(values) <= set(accepted)
