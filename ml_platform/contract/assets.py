"""The catalogue: what is to be known of each asset but how it is made.

The graph, the order of a backfill, maintenance, what a remote step needs, and the command line read it. How
an asset is made is its step, which a row names and nothing imports before it is needed. An asset is added by
a row here and a step (docs/architecture.md shows both).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

if TYPE_CHECKING:
    from ml_platform.contract.product import Product

Group = Literal["data_engineering", "machine_learning", "mlops"]
Period = Literal["day", "month"]
#: What of an input a partition reads: its own day or month, or a window of days.
Window = Literal[
    "same",
    "days_of_report",
    "days_evaluated",
    "days_learned_from",
    "month_of_day",
    "month_and_the_one_before",
]
#: What a run may ask for: to do again what is up to date, to score again, to train as of a date.
Option = Literal["force", "rescore", "as_of"]

LANDING = "landing"
ARDS, QUARANTINE, MRDS, PREDICTIONS = "ards", "quarantine", "mrds", "predictions"
#: States of rows that a later delivery has changed, and what models learn from instead.
ARDS_VERSIONS, MRDS_SERVED = "ards_versions", "mrds_served"
#: What is kept of the rows of each entity and day for features over trailing windows; and its earlier states.
DAILY_AGGREGATES, DAILY_AGGREGATES_VERSIONS = "daily_aggregates", "daily_aggregates_versions"
ONLINE_FEATURES = "online_features"
MODEL = "model"
MODEL_PERFORMANCE = "model_performance"
VALIDATION_REPORT = "validation_report"
DRIFT_REPORT = "drift_report"
#: The step that makes no asset, has no days, and makes nothing new.
MAINTENANCE = "maintenance"

DATA_QUALITY = "data_quality"
CHALLENGER_BEATS_CHAMPION = "challenger_beats_champion"
PERFORMANCE_ABOVE_THRESHOLD = "performance_above_threshold"
NO_DRIFT = "no_drift"
#: The asset checks, with what each says to people.
CHECKS: Mapping[str, str] = {
    DATA_QUALITY: (
        "The day fulfils what the contract expects: schema, completeness, validity, uniqueness, volume and "
        "timeliness, by Great Expectations. A failed error blocks the day; a warning doesn't."
    ),
    CHALLENGER_BEATS_CHAMPION: "The new model is better on held-out entities than the champion before it.",
    NO_DRIFT: "No column has drifted from the month before, or from the model's training data.",
    PERFORMANCE_ABOVE_THRESHOLD: (
        "The metric over the window is not below the contract's threshold or, of an error, not above it."
    ),
}

#: The version of the verdict on a day's content, which is given again without writing the day.
VALIDATION_VERSION = "2"
#: How many days a validation report looks back on, its own included.
REPORT_DAYS = 30


@dataclass(frozen=True)
class Reads:
    """An asset that another one reads, and which of its partitions."""

    asset: str
    over: Window = "same"


@dataclass(frozen=True)
class Table:
    """A Delta table whose days a step replaces.

    ``schema`` names the function that gives its Arrow schema for a product, as ``module:function``, if its
    columns follow the contract; ``key`` are those of its columns that tell the rows of a day apart.
    """

    name: str
    schema: str | None = None
    key: Callable[[Product], Collection[str]] = lambda product: product.entity

    def schema_of(self, product: Product) -> Any:
        """The Arrow schema under the product's contract; None if the table is none that follows it."""
        return None if self.schema is None else _imported(self.schema)(product)


@dataclass(frozen=True)
class Column:
    """A column of an asset's table, as people see it.

    Attributes:
        made_from: the assets and their columns that its values come from.
    """

    name: str
    type: str
    nullable: bool = True
    description: str = ""
    made_from: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Asset:
    """One asset.

    Attributes:
        describe: what it holds, one row per what, and when it is complete.
        in_words: what the contract makes of it, in a line.
        step: how it is made: a :class:`ml_platform.engine.run_partitions.Step`, as ``module:class``.
        version: to be raised when the step makes something else of the same inputs: what it made before is
            out of date then.
        sections: the parts of the contract (dotted paths) that the result depends on.
        small_tables: the tables of a few rows that it writes.
        settings: the settings of places that a remote step can't do without.
        with_current_month: whether a month has a partition before it is over.
        after: assets that it isn't made from, and that are drawn before it all the same, so that a backfill
            finds the days of these before the month of its model, and targets no month twice.
        steers: whether runs are requested by what it says, so that a replay can't go on without it.
        columns: the columns of its table.
    """

    name: str
    group: Group
    period: Period
    reads: tuple[Reads, ...]
    describe: Callable[[Product], str]
    in_words: Callable[[Product], str]
    step: str
    version: str
    sections: tuple[str, ...]
    kinds: frozenset[str] = frozenset()
    checks: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    small_tables: tuple[str, ...] = ()
    options: frozenset[Option] = frozenset({"force"})
    settings: tuple[str, ...] = ()
    with_current_month: bool = False
    after: tuple[str, ...] = ()
    steers: bool = False
    columns: Callable[[Product], list[Column]] | None = None

    @property
    def is_validated(self) -> bool:
        """Whether its days get a verdict of their own."""
        return DATA_QUALITY in self.checks

    @property
    def table_names(self) -> tuple[str, ...]:
        return tuple(table.name for table in self.tables)

    @property
    def step_class(self) -> Any:
        """The class of the step; it is imported now."""
        return _imported(self.step)


def _imported(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


# -- the assets, in the order in which they are made -----------------------------------------------------

_SOURCE_TO_FEATURES = ("source", "mrds")


def _ards_columns(product: Product) -> list[Column]:
    delivered = product.source.columns
    own = [
        Column(
            name,
            declared.type,
            declared.nullable,
            declared.description,
            tuple((LANDING, of) for of in sorted(product.made_of([name])) if of in delivered),
        )
        for name, declared in product.columns.items()
    ]
    return [*own, *_clock_columns({*product.columns})]


def _mrds_columns(product: Product) -> list[Column]:
    rules, declared = product.mrds.aggregate, product.columns
    names = [*product.entity, *rules]
    own = [
        Column(
            name,
            product.mrds_type(name),
            description="; ".join(
                said
                for said in (
                    declared[name].description if name in declared else "",
                    f"{rules[name]} of the day's rows" if name in rules else "",
                )
                if said
            ),
            made_from=((ARDS, name),),
        )
        for name in names
    ]
    trailing = [
        Column(
            name,
            product.mrds_type(name),
            description=product.definition_of(name) or "",
            made_from=tuple(
                (ARDS, column)
                for column in sorted(product.made_of([name]))
                if column in declared and column != name
            ),
        )
        for name in (*product.mrds.trailing, *product.mrds.made, *product.mrds.ahead)
    ]
    return [*own, *trailing, *_clock_columns({*names})]


def _prediction_columns(product: Product) -> list[Column]:
    entity = [
        Column(name, product.mrds_type(name), description="", made_from=((MRDS, name),))
        for name in product.entity
        if name != "event_day"
    ]
    features = tuple((MRDS, name) for name in product.model.features.all)
    return [
        *entity,
        Column("event_day", "date", description="the day the row belongs to"),
        *[
            Column(
                output.name,
                output.type,
                output.nullable,
                output.description,
                features if output.is_of_features else (),
            )
            for output in product.task.outputs(product)
        ],
        Column("model_name", "string", False, "in MLflow"),
        Column("model_version", "string", False, "in MLflow"),
        Column("model_as_of", "date", False, "the day whose knowledge the model has"),
        Column("model_fingerprint", "string", False, "what the model was made from, as a hash"),
    ]


def _clock_columns(present: Collection[str]) -> list[Column]:
    clocks = [
        Column("event_day", "date", description="the day the row belongs to"),
        Column("label_known_on", "date", description="the day the row's label arrived"),
    ]
    return [column for column in clocks if column.name not in present]


def _describe_model(product: Product) -> str:
    return (
        "One scikit-learn pipeline a month, registered in MLflow: trained as of the month's first day "
        f"on {product.model.training_months} months, or, as a retrain, as of a later day on the recent "
        "past; both end with the last day whose labels can be known by then. It is promoted if it beats "
        "the champion on entities that neither has learned from."
    )


def _model_in_words(product: Product) -> str:
    model = product.model
    named = [
        candidate.class_ + (f" (searched: {candidate.search.in_words})" if candidate.search else "")
        for candidate in model.candidates
    ]
    which = named[0]
    if len(named) > 1:
        which = (
            f"the best of {len(named)} by {product.metric_in_words} on folds of what is learned from: "
            f"{'; '.join(named)}; each"
        )
    return f"{which} on {', '.join(model.features.all)}, learning from {model.training_months} months."


def _describe_performance(product: Product) -> str:
    return (
        f"How good the predictions of {product.evaluation.window_days} event days were, as it was "
        f"known on the morning after the day: {product.metric_in_words} with a 95 % interval, "
        "beside what the retrain decision looks at (`champion_*`: only rows that the current "
        "champion scored or, where labels come too late for that, that it never learned from)."
    )


def _predictions_in_words(product: Product) -> str:
    scored = "scored with the model that served the day"
    highest = product.model.decision_highest
    if highest is None:
        return f"{scored}."
    return f"{scored}; the {highest:,} highest rows of each day are decided to be 1, all if it has fewer."


def _performance_in_words(product: Product) -> str:
    rules = product.evaluation
    return (
        f"{product.metric_in_words} over {rules.window_days} days, {product.metric.bound} {rules.threshold}; "
        f"{product.metric.beyond} it the model is "
        f"trained again, at most every {product.retrain.cooldown_days} days; after "
        f"{product.retrain.back_off_after} retrains that lost in a row each further one waits twice as long "
        "as the one before."
    )


def _drift_in_words(product: Product) -> str:
    references = {"month_before": "the month before", "training": "what its model has learned from"}
    return f"each month against {' and '.join(references[name] for name in product.drift.against)}."


_ROWS: tuple[Asset, ...] = (
    Asset(
        name=ARDS,
        group="data_engineering",
        period="day",
        reads=(Reads(LANDING),),
        describe=lambda _: (
            "The analytics-ready data set: one row per key of the day's delivery, typed, the latest "
            "row winning; the label is null until it has arrived.\n\n"
            "Complete when the day's labels have come. Rows that can't be used are in the table "
            "`quarantine`, each with file, line and reason: delivered = rows + superseded + labels "
            "applied + labels not yet known + quarantined."
        ),
        in_words=lambda product: (
            f"one row per {', '.join(product.ards_key)}; what is unfit goes to the quarantine."
        ),
        step="ml_platform.engine.steps.ards:Ards",
        version="3",
        sections=("source",),
        kinds=frozenset({"spark", "deltalake"}),
        checks=(DATA_QUALITY,),
        tables=(
            Table(
                ARDS,
                "ml_platform.data_engineering.resolution:rows_schema",
                key=lambda product: product.source.key,
            ),
            Table(QUARANTINE),
            Table(
                ARDS_VERSIONS,
                "ml_platform.data_engineering.row_versions:ards_schema",
                key=lambda product: (*product.source.key, "known_from"),
            ),
        ),
        columns=_ards_columns,
    ),
    Asset(
        name=MRDS,
        group="data_engineering",
        period="day",
        reads=(Reads(ARDS),),
        describe=lambda product: (
            f"The model-ready data set: one row per {', '.join(product.entity)} and event day, "
            "aggregated from the ARDS by the contract's rules. Training and scoring both read it."
        ),
        in_words=lambda product: (
            f"one row per {', '.join(product.entity)} and day: "
            + ", ".join(f"{rule} of {name}" for name, rule in product.mrds.aggregate.items())
            + "".join(f"; {name}: {feature.in_words}" for name, feature in product.mrds.features.items())
            + "."
        ),
        step="ml_platform.engine.steps.mrds:Mrds",
        version="1",
        sections=_SOURCE_TO_FEATURES,
        kinds=frozenset({"spark", "deltalake"}),
        checks=(DATA_QUALITY,),
        tables=(
            Table(MRDS, "ml_platform.data_engineering.aggregation:schema"),
            Table(
                MRDS_SERVED,
                "ml_platform.data_engineering.served_states:served_schema",
                key=lambda product: (*product.entity, "known_from"),
            ),
        ),
        columns=_mrds_columns,
    ),
    Asset(
        name=ONLINE_FEATURES,
        group="data_engineering",
        period="day",
        reads=(Reads(MRDS),),
        describe=lambda _: (
            "The newest features of each entity in the SQL online store, for look-ups. "
            "A day that is published again never hides a newer one."
        ),
        in_words=lambda product: f"{len(product.features)} features of each entity's newest day.",
        step="ml_platform.engine.steps.online_features:OnlineFeatures",
        version="1",
        sections=_SOURCE_TO_FEATURES,
        kinds=frozenset({"sql"}),
        settings=("online_store_url",),
    ),
    Asset(
        name=VALIDATION_REPORT,
        group="mlops",
        period="day",
        reads=(Reads(ARDS, "days_of_report"), Reads(MRDS, "days_of_report")),
        describe=lambda _: (
            "A page for people, and its JSON: the verdicts over the day's ARDS and MRDS, each "
            f"expectation with what was observed and the last {REPORT_DAYS} days, and what was quarantined. "
            "There is one for a blocked or refused day too; `report` in the metadata leads to it."
        ),
        in_words=lambda _: f"the checks of each day, with the {REPORT_DAYS} days before.",
        step="ml_platform.engine.steps.validation_report:ValidationReport",
        version="1",
        sections=("name", "description"),
        kinds=frozenset({"greatexpectations"}),
        settings=("report_targets",),
    ),
    Asset(
        name=MODEL,
        group="machine_learning",
        period="month",
        reads=(Reads(MRDS, "days_learned_from"),),
        describe=_describe_model,
        in_words=_model_in_words,
        step="ml_platform.engine.steps.model:Model",
        version="1",
        sections=("source", "mrds", "model", "evaluation.metric"),
        kinds=frozenset({"scikitlearn", "mlflow"}),
        checks=(CHALLENGER_BEATS_CHAMPION,),
        small_tables=("models", "comparisons", "decisions", "rollbacks", "selections"),
        options=frozenset({"force", "as_of"}),
        with_current_month=True,
        steers=True,
    ),
    Asset(
        name=PREDICTIONS,
        group="machine_learning",
        period="day",
        reads=(Reads(MRDS), Reads(MODEL, "month_of_day")),
        after=(ARDS,),
        describe=lambda product: (
            f"One row per row of the MRDS: {product.task.outputs_in_words}, and the model that made "
            "them, the one that served the day. Predictions once written stay, unless the run asks "
            "to rescore or the day's delivery is withdrawn; rows that came later are added."
        ),
        in_words=_predictions_in_words,
        step="ml_platform.engine.steps.predictions:Predictions",
        version="1",
        sections=("mrds", "model.features"),
        kinds=frozenset({"spark", "scikitlearn", "deltalake"}),
        tables=(Table(PREDICTIONS, "ml_platform.machine_learning.predicted_rows:schema"),),
        columns=_prediction_columns,
        options=frozenset({"force", "rescore"}),
    ),
    Asset(
        name=MODEL_PERFORMANCE,
        group="machine_learning",
        period="day",
        reads=(Reads(PREDICTIONS, "days_evaluated"), Reads(MRDS, "days_evaluated")),
        describe=_describe_performance,
        in_words=_performance_in_words,
        step="ml_platform.engine.steps.model_performance:ModelPerformance",
        version="3",
        sections=("source", "mrds", "evaluation"),
        kinds=frozenset({"spark", "deltalake"}),
        checks=(PERFORMANCE_ABOVE_THRESHOLD,),
        small_tables=(MODEL_PERFORMANCE,),
        steers=True,
    ),
    Asset(
        name=DRIFT_REPORT,
        group="mlops",
        period="month",
        reads=(
            Reads(ARDS, "month_and_the_one_before"),
            Reads(MRDS, "month_and_the_one_before"),
            Reads(PREDICTIONS, "month_and_the_one_before"),
        ),
        describe=lambda product: (
            "How far the month's columns, labels and predictions lie from those of the month before, and "
            f"from the training data of the model that served it: {product.drift.method} of each column, "
            "by Evidently, and the changes of nulls, range and categories.\n\n"
            "Complete when the month is over and its labels have come. `report` in the metadata leads to "
            "the page."
        ),
        in_words=_drift_in_words,
        step="ml_platform.engine.steps.drift_report:DriftReport",
        version="2",
        sections=("source", "mrds", "model.features", "drift", "description"),
        kinds=frozenset({"evidently"}),
        checks=(NO_DRIFT,),
        settings=("report_targets",),
    ),
)

#: Every asset but the deliveries, by name, in the order in which they are made.
CATALOGUE: dict[str, Asset] = {asset.name: asset for asset in _ROWS}

#: What the MRDS keeps of days for the windows of later ones. The graph doesn't draw it: it is brought up to
#: date with the MRDS, of products whose contracts have features over trailing windows.
KEPT_FOR_WINDOWS = Asset(
    name=DAILY_AGGREGATES,
    group="data_engineering",
    period="day",
    reads=(Reads(ARDS),),
    describe=lambda product: (
        f"What is kept of each {', '.join(product.entity)} and day for trailing windows."
    ),
    in_words=lambda _: "sums, counts and the like of each day, for trailing windows.",
    step="ml_platform.engine.steps.daily_aggregates:DailyAggregates",
    version="1",
    sections=("source", "mrds.entity", "mrds.order_by"),
    tables=(
        Table(DAILY_AGGREGATES, "ml_platform.data_engineering.daily_aggregates:schema"),
        Table(
            DAILY_AGGREGATES_VERSIONS,
            "ml_platform.data_engineering.daily_aggregates:versions_schema",
            key=lambda product: (*product.entity, "known_from"),
        ),
    ),
)


# -- what is asked of the catalogue ------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """The assets, in the order in which they are made."""
    return tuple(CATALOGUE)


def brought_up_to_date_with(name: str, product: Product) -> tuple[Asset, ...]:
    """What the step of an asset of the catalogue makes: the asset, and before it what is kept for that."""
    keeps = name == MRDS and bool(product.mrds.over_days)
    return (KEPT_FOR_WINDOWS, CATALOGUE[name]) if keeps else (CATALOGUE[name],)


def drawn(name: str) -> str:
    """The asset of the catalogue whose step makes an asset: itself, but for what is kept for another one."""
    return MRDS if name == DAILY_AGGREGATES else name


def daily() -> tuple[str, ...]:
    """The assets with a partition a day, in the order in which they are made."""
    return tuple(asset.name for asset in CATALOGUE.values() if asset.period == "day")


def validated() -> tuple[str, ...]:
    """The data sets that get a verdict of their own each day."""
    return tuple(asset.name for asset in CATALOGUE.values() if asset.is_validated)


def stages() -> Iterator[tuple[str, ...]]:
    """The assets that can be made in one run, in order: neighbouring daily ones, and each monthly one."""
    for period, assets in groupby(CATALOGUE.values(), key=lambda asset: asset.period):
        made = tuple(asset.name for asset in assets)
        yield from [made] if period == "day" else [(name,) for name in made]


def nothing_made_from() -> frozenset[str]:
    """The assets that nothing is made from, nor decided by. When one fails, all else can go on."""
    read = {reads.asset for asset in CATALOGUE.values() for reads in asset.reads}
    return frozenset(
        asset.name for asset in CATALOGUE.values() if asset.name not in read and not asset.steers
    )


def table_names() -> tuple[str, ...]:
    """The Delta tables of all assets that hold rows of the data."""
    return tuple(name for asset in (*CATALOGUE.values(), KEPT_FOR_WINDOWS) for name in asset.table_names)


def small_table_names() -> tuple[str, ...]:
    """The tables of a few rows that assets write."""
    return tuple(name for asset in CATALOGUE.values() for name in asset.small_tables)


def _step_name(name: str) -> str:
    if name not in CATALOGUE and name != MAINTENANCE:
        raise ValueError(f"{name!r} is no step; accepted are {', '.join((*CATALOGUE, MAINTENANCE))}")
    return name


#: What computes, by the name of the asset it makes.
StepName = Annotated[str, AfterValidator(_step_name)]
