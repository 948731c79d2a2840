"""The assets of a product: thin shells over the steps, drawn from its contract.

An asset takes the whole range of its run at once; what became of each day comes back in the step's
result and is reported by :mod:`.events`.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ml_platform.contract.assets import (
    CHALLENGER_BEATS_CHAMPION,
    CODE_VERSIONS,
    DATA_QUALITY,
    NO_DRIFT,
    PERFORMANCE_ABOVE_THRESHOLD,
    StepName,
)
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.engine.step import StepRequest, StepResult
from ml_platform.graph import partitions, run_processes
from ml_platform.graph.events import dagster_metadata, failure_of, report
from ml_platform.graph.resources import MlflowRuns, StepRunner
from ml_platform.graph.retries import retrying

ENGINEERING, LEARNING, OPERATIONS = "data_engineering", "machine_learning", "mlops"
DAILY_ASSETS: tuple[StepName, ...] = (
    "ards",
    "mrds",
    "online_features",
    "validation_report",
    "predictions",
    "model_performance",
)
MODEL: StepName = "model"
VALIDATION_REPORT: StepName = "validation_report"
DRIFT_REPORT: StepName = "drift_report"


class DailyConfig(dg.Config):
    """How days are done."""

    force: bool = False
    """Do days again although nothing they are made from has changed."""


class PredictionsConfig(DailyConfig):
    """How days are scored."""

    rescore: bool = False
    """Replace predictions that exist with those of the model that serves their day now."""


class ModelConfig(dg.Config):
    """How a month's model is trained."""

    as_of: str | None = None
    """For a retrain: the date within the month whose knowledge the model may use (yyyy-mm-dd)."""

    force: bool = False
    """Train again although nothing the model is made from has changed."""


@dataclass(frozen=True)
class _Shell:
    """What distinguishes one daily asset from another."""

    step: StepName
    group: str
    description: str
    kinds: frozenset[str]
    deps: Sequence[dg.AssetDep]
    checks: Sequence[str] = ()
    config: type[DailyConfig] = DailyConfig
    columns: dg.TableSchema | None = None


def asset_key(product: Product, asset: str) -> dg.AssetKey:
    """The key of one of a product's assets."""
    return dg.AssetKey([product.name, asset])


def build_assets(product: Product) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Every asset of a product, with the checks that belong to it."""
    return [
        _landing(product),
        *[_daily_asset(product, shell) for shell in _shells(product)],
        _model(product),
        _drift_report(product),
    ]


def _landing(product: Product) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(product, "landing"),
        group_name=ENGINEERING,
        partitions_def=partitions.daily(product),
        kinds={"csv"},
        owners=list(product.owners) or None,
        freshness_policy=_freshness(product),
        description=(
            f"The CSV files of one event day, as they were delivered: {product.description}\n\n"
            "Complete when the day's rows have come, and its labels "
            f"{product.source.label_delay_days} day(s) later. Observed by the landing sensor."
        ),
    )


def _shells(product: Product) -> list[_Shell]:
    def same_day(asset: str) -> dg.AssetDep:
        return dg.AssetDep(asset_key(product, asset))

    window = partitions.evaluation_window(product)
    return [
        _Shell(
            step="ards",
            group=ENGINEERING,
            description=(
                "The analytics-ready data set: one row per key of the day's delivery, typed, the latest "
                "row winning; the label is null until it has arrived.\n\n"
                "Complete when the day's labels have come. Rows that can't be used are in the table "
                "`quarantine`, each with file, line and reason: delivered = rows + superseded + labels "
                "applied + labels not yet known + quarantined."
            ),
            kinds=frozenset({"spark", "deltalake"}),
            deps=[same_day("landing")],
            checks=[DATA_QUALITY],
            columns=_ards_columns(product),
        ),
        _Shell(
            step="mrds",
            group=ENGINEERING,
            description=(
                f"The model-ready data set: one row per {', '.join(product.entity)} and event day, "
                "aggregated from the ARDS by the contract's rules. Training and scoring both read it."
            ),
            kinds=frozenset({"spark", "deltalake"}),
            deps=[same_day("ards")],
            checks=[DATA_QUALITY],
            columns=_mrds_columns(product),
        ),
        _Shell(
            step="online_features",
            group=ENGINEERING,
            description=(
                "The newest features of each entity in the SQL online store, for look-ups. "
                "A day that is published again never hides a newer one."
            ),
            kinds=frozenset({"sql"}),
            deps=[same_day("mrds")],
        ),
        _Shell(
            step=VALIDATION_REPORT,
            group=OPERATIONS,
            description=(
                "A page for people, and its JSON: the verdicts over the day's ARDS and MRDS, each "
                "expectation with what was observed and the last 30 days, and what was quarantined. "
                "There is one for a blocked or refused day too; `report` in the metadata leads to it."
            ),
            kinds=frozenset({"greatexpectations"}),
            deps=[
                dg.AssetDep(asset_key(product, asset), partition_mapping=partitions.report_window())
                for asset in ("ards", "mrds")
            ],
        ),
        _Shell(
            step="predictions",
            group=LEARNING,
            description=(
                "One row per row of the MRDS: the probability, the decision, and the model that made "
                "them, the one that served the day. Predictions once written stay, unless the run asks "
                "to rescore or the day's delivery is withdrawn; rows that came later are added."
            ),
            kinds=frozenset({"spark", "scikitlearn", "deltalake"}),
            deps=[
                same_day("mrds"),
                dg.AssetDep(asset_key(product, MODEL), partition_mapping=partitions.month_of_day()),
            ],
            config=PredictionsConfig,
        ),
        _Shell(
            step="model_performance",
            group=LEARNING,
            description=(
                f"How good the predictions of {product.evaluation.window_days} event days were, as it was "
                f"known on the morning after the day: {product.evaluation.metric} with a 95 % interval, "
                "beside what the retrain decision looks at (`champion_*`: only rows that the current "
                "champion scored or, where labels come too late for that, that it never learned from)."
            ),
            kinds=frozenset({"spark", "deltalake"}),
            deps=[
                dg.AssetDep(asset_key(product, asset), partition_mapping=window)
                for asset in ("predictions", "mrds")
            ],
            checks=[PERFORMANCE_ABOVE_THRESHOLD],
        ),
    ]


def _daily_asset(product: Product, shell: _Shell) -> dg.AssetsDefinition:
    key = asset_key(product, shell.step)
    days = partitions.daily(product)

    def materialize(context: dg.AssetExecutionContext) -> Iterator[Any]:
        config = shell.config(**context.op_execution_context.op_config)
        window = context.partition_key_range
        days_ = _days(window.start, window.end)
        request = StepRequest(
            step=shell.step,
            product=product.name,
            days=days_,
            run_id=context.run_id,
            force=config.force,
            rescore=getattr(config, "rescore", False),
        )
        metadata = {"dagster/column_schema": shell.columns} if shell.columns else {}
        result = _run(context, request, product)
        if failure_of(context, result) and DATA_QUALITY in shell.checks:
            _report_on_failure(context, request, product, result)
        yield from report(context, result, metadata)

    return _asset(
        materialize,
        config=shell.config,
        key=key,
        group_name=shell.group,
        description=shell.description,
        partitions_def=days,
        backfill_policy=partitions.SINGLE_RUN,
        deps=list(shell.deps),
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, partitions_def=days, description=_CHECKS[name])
            for name in shell.checks
        ],
        kinds=set(shell.kinds),
        owners=list(product.owners) or None,
        code_version=CODE_VERSIONS[shell.step],
        freshness_policy=_freshness(product),
        metadata={"dagster/column_schema": shell.columns} if shell.columns else None,
        required_resource_keys={"step_runner"},
    )


def _model(product: Product) -> dg.AssetsDefinition:
    key = asset_key(product, MODEL)
    months = partitions.monthly_models(product)

    def model(context: dg.AssetExecutionContext) -> Iterator[Any]:
        config = ModelConfig(**context.op_execution_context.op_config)
        window = context.partition_key_range
        months_ = [date.fromisoformat(key) for key in months.get_partition_keys_in_range(window)]
        as_of = _as_of(config.as_of)
        if as_of:
            context.instance.add_run_tags(context.run_id, {"ml_platform/as_of": as_of.isoformat()})
        runs: MlflowRuns = context.resources.mlflow
        with retrying(context), runs.parent(product) as parent_run_id:
            request = StepRequest(
                step=MODEL,
                product=product.name,
                days=tuple(months_),
                run_id=context.run_id,
                force=config.force,
                as_of=as_of,
                mlflow_parent_run_id=parent_run_id,
            )
            yield from report(context, _run(context, request, product), {})

    return _asset(
        model,
        config=ModelConfig,
        key=key,
        group_name=LEARNING,
        description=(
            "One scikit-learn pipeline a month, registered in MLflow: trained as of the month's first day "
            f"on {product.model.training_months} months, or, as a retrain, as of a later day on the recent "
            "past; both end with the last day whose labels can be known by then. It is promoted if it beats "
            "the champion on entities that neither has learned from."
        ),
        partitions_def=months,
        backfill_policy=partitions.SINGLE_RUN,
        deps=[dg.AssetDep(asset_key(product, "mrds"), partition_mapping=partitions.months_before(product))],
        check_specs=[
            dg.AssetCheckSpec(
                CHALLENGER_BEATS_CHAMPION,
                asset=key,
                partitions_def=months,
                description=_CHECKS[CHALLENGER_BEATS_CHAMPION],
            )
        ],
        kinds={"scikitlearn", "mlflow"},
        owners=list(product.owners) or None,
        code_version=CODE_VERSIONS[MODEL],
        required_resource_keys={"step_runner", "mlflow"},
    )


def _drift_report(product: Product) -> dg.AssetsDefinition:
    key = asset_key(product, DRIFT_REPORT)
    months = partitions.monthly_drift(product)

    def drift_report(context: dg.AssetExecutionContext) -> Iterator[Any]:
        config = DailyConfig(**context.op_execution_context.op_config)
        keys = months.get_partition_keys_in_range(context.partition_key_range)
        request = StepRequest(
            step=DRIFT_REPORT,
            product=product.name,
            days=tuple(date.fromisoformat(key) for key in keys),
            run_id=context.run_id,
            force=config.force,
        )
        yield from report(context, _run(context, request, product), {})

    return _asset(
        drift_report,
        config=DailyConfig,
        key=key,
        group_name=OPERATIONS,
        description=(
            "How far the month's columns, labels and predictions lie from those of the month before, and "
            f"from the training data of the model that served it: {product.drift.method} of each column, "
            "by Evidently, and the changes of nulls, range and categories.\n\n"
            "Complete when the month is over and its labels have come. `report` in the metadata leads to "
            "the page."
        ),
        partitions_def=months,
        backfill_policy=partitions.SINGLE_RUN,
        deps=[
            dg.AssetDep(asset_key(product, asset), partition_mapping=partitions.this_and_the_month_before())
            for asset in ("ards", "predictions")
        ],
        check_specs=[
            dg.AssetCheckSpec(NO_DRIFT, asset=key, partitions_def=months, description=_CHECKS[NO_DRIFT])
        ],
        kinds={"evidently"},
        owners=list(product.owners) or None,
        code_version=CODE_VERSIONS[DRIFT_REPORT],
        required_resource_keys={"step_runner"},
    )


def _asset(
    compute: Callable[[dg.AssetExecutionContext], Iterator[Any]],
    *,
    config: type[dg.Config],
    **attributes: Any,
) -> dg.AssetsDefinition:
    """What ``dg.asset`` makes of a function and attributes, in half the time.

    Dagster inspects an asset's function twenty times, and derives its schema from the type of its argument
    ``config``: both are the same for the assets of all products, and worked out once here.
    """
    compute.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
    made: dg.AssetsDefinition = dg.asset(config_schema=_schema_of(config), **attributes)(compute)
    return made


def _compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
    raise NotImplementedError


_SIGNATURE = inspect.signature(_compute)


@functools.cache
def _schema_of(config: type[dg.Config]) -> Any:
    return config.to_config_schema().as_field()


def _run(context: dg.AssetExecutionContext, request: StepRequest, product: Product) -> StepResult:
    run_processes.mark(context.instance, context.run_id)
    runner: StepRunner = context.resources.step_runner
    with retrying(context):
        return runner.run(request, product, context.op_execution_context)


def _report_on_failure(
    context: dg.AssetExecutionContext, request: StepRequest, product: Product, result: StepResult
) -> None:
    """Make the day's validation report before its run fails, and name it in the failure.

    The failure keeps Dagster from running the report's own asset, on the very day it is needed. That the
    report can't be made must not hide why the day failed.
    """
    try:
        made = _run(context, request.model_copy(update={"step": VALIDATION_REPORT, "force": True}), product)
    except Exception as error:
        context.log.error(f"the validation report could not be made: {error}")
        return
    (day,) = made.days
    result.days[0].metadata |= {name: day.metadata[name] for name in ("report",) if name in day.metadata}
    context.log_event(
        dg.AssetMaterialization(
            asset_key(product, VALIDATION_REPORT),
            partition=day.day.isoformat(),
            metadata=dagster_metadata(day.metadata),
        )
    )


def _as_of(text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise dg.Failure(
            f"as_of {text!r} is not a date; accepted is yyyy-mm-dd", allow_retries=False
        ) from error


def _days(first: str, last: str) -> tuple[date, ...]:
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return tuple(start + timedelta(days=n) for n in range((end - start).days + 1))


_CHECKS = {
    DATA_QUALITY: (
        "The day fulfils what the contract expects: schema, completeness, validity, uniqueness, volume and "
        "timeliness, by Great Expectations. A failed error blocks the day; a warning doesn't."
    ),
    CHALLENGER_BEATS_CHAMPION: "The new model is better on held-out entities than the champion before it.",
    NO_DRIFT: "No column has drifted from the month before, or from the model's training data.",
    PERFORMANCE_ABOVE_THRESHOLD: "The metric over the window is not below the contract's threshold.",
}


def _freshness(product: Product) -> dg.FreshnessPolicy | None:
    """A live product's day is due when it arrives, by its ``alerts.due_hour``; a finished history never.

    A cron knows no holidays: with them the longest break between two deliveries is what may pass.
    """
    if product.end is not None:
        return None
    delivery = product.delivery
    if delivery.holidays:
        days = timedelta(days=delivery.longest_break(product.start), hours=product.alerts.due_hour)
        return dg.FreshnessPolicy.time_window(fail_window=days)
    # Cron's week begins on Sunday, Python's on Monday.
    weekdays = ",".join(str((weekday + 1) % 7) for weekday in delivery.arrival_weekdays)
    deadline = f"0 {product.alerts.due_hour} * * {'*' if delivery.is_daily else weekdays}"
    return _due_daily(deadline, product.timezone)


@functools.cache
def _due_daily(deadline: str, timezone: str) -> dg.FreshnessPolicy:
    """Dagster goes through three years of a cron to check it, for every asset that has one."""
    return dg.FreshnessPolicy.cron(
        deadline_cron=deadline, lower_bound_delta=timedelta(hours=24), timezone=timezone
    )


def _ards_columns(product: Product) -> dg.TableSchema:
    own = [
        dg.TableColumn(name, declared.type, constraints=dg.TableColumnConstraints(nullable=declared.nullable))
        for name, declared in product.source.columns.items()
    ]
    return dg.TableSchema([*own, *_clock_columns(EVENT_DAY not in product.source.columns)])


def _mrds_columns(product: Product) -> dg.TableSchema:
    names = [*product.entity, *product.mrds.aggregate]
    rules = product.mrds.aggregate
    own = [dg.TableColumn(name, product.mrds_type(name), description=rules.get(name)) for name in names]
    return dg.TableSchema([*own, *_clock_columns(EVENT_DAY not in names)])


def _clock_columns(event_day: bool) -> list[dg.TableColumn]:
    known = dg.TableColumn(LABEL_KNOWN_ON, "date", description="the day the row's label arrived")
    if not event_day:
        return [known]
    return [dg.TableColumn(EVENT_DAY, "date", description="the day the row belongs to"), known]
