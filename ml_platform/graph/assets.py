"""The assets of a product: thin shells over the steps, drawn from the catalogue.

An asset takes the whole range of its run at once; what a step found of each day comes back in its result
and is reported by :mod:`.events`.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ml_platform.contract.assets import (
    ARDS,
    CATALOGUE,
    CHECKS,
    DATA_QUALITY,
    LANDING,
    MODEL,
    ONLINE_FEATURES,
    VALIDATION_REPORT,
    Asset,
    Column,
    Option,
    names,
)
from ml_platform.contract.product import Product
from ml_platform.data_engineering import day_folders
from ml_platform.data_engineering.object_store import landing_of
from ml_platform.engine.step import StepRequest, StepResult
from ml_platform.graph import partitions, run_processes, timeline
from ml_platform.graph.bad_days import plan_again
from ml_platform.graph.events import dagster_metadata, failure_of, report
from ml_platform.graph.resources import MlflowRuns, StepRunner
from ml_platform.graph.retries import retrying
from ml_platform.online_store.names import FEATURES, table_name
from ml_platform.settings import Settings
from ml_platform.storage.path_locations import PathLocation
from ml_platform.storage.table_location import TableLocation
from ml_platform.storage.tables import Tables


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


#: Columns that the description of another names as its sources; the lineage has all of them.
_SOURCES_NAMED = 5

#: The launchpad's form for what a run of an asset may ask for.
_CONFIGS: dict[frozenset[Option], type[dg.Config]] = {
    frozenset({"force"}): DailyConfig,
    frozenset({"force", "rescore"}): PredictionsConfig,
    frozenset({"force", "as_of"}): ModelConfig,
}


def asset_key(product: Product, asset: str) -> dg.AssetKey:
    """The key of one of a product's assets."""
    return dg.AssetKey([product.name, asset])


def build_assets(product: Product, settings: Settings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Every asset of a product, with the checks that belong to it."""
    location = Tables.of(settings).location
    return [
        _landing(product, settings),
        *[_asset(product, asset, location, settings) for asset in CATALOGUE.values()],
    ]


def _and_labels(product: Product) -> str:
    """When the labels of a day come, if any are delivered."""
    delay = product.source.label_delay_days
    return f", and its labels {delay} day(s) later" if product.source.label is not None else ""


def _landing(product: Product, settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(product, LANDING),
        group_name="data_engineering",
        partitions_def=partitions.daily(product),
        kinds={"csv"},
        owners=list(product.owners) or None,
        freshness_policy=_freshness(product),
        description=(
            f"The files of one event day, as they were delivered: {product.description}\n\n"
            f"Complete when the day's rows have come{_and_labels(product)}. Observed by the landing sensor, "
            "and by the runs that read it."
        ),
        metadata={"dagster/uri": str(landing_of(settings, product) / product.name)},
    )


def _asset(
    product: Product, asset: Asset, location: TableLocation, settings: Settings
) -> dg.AssetsDefinition:
    key, name = asset_key(product, asset.name), asset.name
    partitions_def = partitions.of(product, asset)
    config_of = _CONFIGS[asset.options]
    schema = _schema_of_table(asset, product)
    metadata: dict[str, Any] = {"dagster/column_schema": schema} if schema else {}

    def materialize(context: dg.AssetExecutionContext) -> Iterator[Any]:
        config = config_of(**context.op_execution_context.op_config)
        as_of = _as_of(getattr(config, "as_of", None))
        if as_of:
            context.instance.add_run_tags(context.run_id, {"ml_platform/as_of": as_of.isoformat()})
        with _mlflow_parent(context, product, asset, as_of) as parent_run_id:
            request = StepRequest(
                step=name,
                product=product.name,
                days=partitions.asked_for(asset, context.partition_key_range),
                run_id=context.run_id,
                force=config.force,  # type: ignore[attr-defined]
                rescore=getattr(config, "rescore", False),
                as_of=as_of,
                mlflow_parent_run_id=parent_run_id,
            )
            result = _run(context, request, product)
            if asset.is_validated and failure_of(context, result):
                _report_on_failure(context, request, product, result)
            if result.metadata:
                # The run as a whole; its figures are not those of a day.
                facts = ", ".join(
                    f"{fact.replace('_', ' ')}: {value}" for fact, value in result.metadata.items()
                )
                context.log.info(f"{name}: {facts}")
            if name == ARDS:
                _observe_deliveries(context, product, settings, result)
            yield from report(context, product, asset, result, metadata)

    materialize.__name__ = name
    return _made(
        materialize,
        config=config_of,
        key=key,
        group_name=asset.group,
        description=asset.describe(product),
        partitions_def=partitions_def,
        backfill_policy=partitions.SINGLE_RUN,
        deps=[
            dg.AssetDep(
                asset_key(product, reads.asset), partition_mapping=partitions.mapping(product, reads.over)
            )
            for reads in asset.reads
        ]
        + [dg.AssetDep(asset_key(product, earlier)) for earlier in asset.after],
        check_specs=[
            dg.AssetCheckSpec(
                check,
                asset=key,
                partitions_def=partitions_def,
                description=CHECKS[check],
                # Its days' evaluations are logged one by one, so that no run stops at them: the steps hold
                # back what is made of a blocked day themselves.
                blocking=check == DATA_QUALITY,
            )
            for check in asset.checks
        ],
        kinds=set(asset.kinds),
        owners=list(product.owners) or None,
        code_version=asset.version,
        freshness_policy=_freshness(product) if asset.period == "day" else None,
        metadata=metadata | _lineage(asset, product) | _place(asset, product, location) or None,
        # The last asset of the catalogue is the last of its run too, as far as it can be (bad_days).
        op_tags={"dagster/priority": str(-names().index(name))},
        required_resource_keys={"step_runner", "mlflow"} if name == MODEL else {"step_runner"},
    )


@contextlib.contextmanager
def _mlflow_parent(
    context: dg.AssetExecutionContext, product: Product, asset: Asset, as_of: date | None
) -> Iterator[str | None]:
    """The MLflow run of this run, under which each model's is nested."""
    if asset.name != MODEL:
        yield None
        return
    runs: MlflowRuns = context.resources.mlflow
    months = context.partition_key_range
    ends = dict.fromkeys(key[: len("yyyy-mm")] for key in (months.start, months.end))
    named = f"as of {as_of}" if as_of else " … ".join(ends)
    with retrying(context), runs.parent(product, named) as parent_run_id:
        yield parent_run_id


def _place(asset: Asset, product: Product, location: TableLocation) -> dict[str, Any]:
    """Where an asset's table is, and what it is called there."""
    if asset.name == ONLINE_FEATURES:
        return {"dagster/table_name": table_name(product, FEATURES)}
    if not asset.tables:
        return {}
    table = asset.tables[0].name
    named = {"dagster/table_name": location.sql_name(product.name, table)}
    if isinstance(location, PathLocation):
        named["dagster/uri"] = location.address(product.name, table)
    return named


def _observe_deliveries(
    context: dg.AssetExecutionContext, product: Product, settings: Settings, result: StepResult
) -> None:
    """Show what the run has read of each day's delivery; its records are those of all its files."""
    for day in result.days:
        files = day.metadata.get("files")
        if day.up_to_date or files is None:
            continue
        facts = {
            "folder": str(day_folders.folder_of(product, landing_of(settings, product), day.day)),
            "files": files,
            "bytes": day.metadata["bytes"],
            "records": day.metadata.get("delivered"),
        }
        context.log_event(
            dg.AssetMaterialization(
                asset_key(product, LANDING), partition=day.day.isoformat(), metadata=dagster_metadata(facts)
            )
        )


def _schema_of_table(asset: Asset, product: Product) -> dg.TableSchema | None:
    if asset.columns is None:
        return None
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type,
                description=_described(column) or None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in asset.columns(product)
        ]
    )


def _described(column: Column) -> str:
    """What a column means, and where it comes from: Dagster's own pages don't show the lineage of columns."""
    sources = [f"{asset}.{name}" for asset, name in column.made_from]
    listed = ", ".join(sources[:_SOURCES_NAMED])
    more = f" and {len(sources) - _SOURCES_NAMED} more" if len(sources) > _SOURCES_NAMED else ""
    return "; ".join(part for part in (column.description, f"from {listed}{more}" if sources else "") if part)


def _lineage(asset: Asset, product: Product) -> dict[str, dg.TableColumnLineage]:
    """The columns that each column of an asset's table is made from, as metadata."""
    columns = asset.columns(product) if asset.columns else []
    found = {
        column.name: [dg.TableColumnDep(asset_key(product, made), name) for made, name in column.made_from]
        for column in columns
        if column.made_from
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(found)} if found else {}


def _made(
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
    timeline.show(context.instance, context.run_id)
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
    if day.outcome in ("missing", "not_due"):
        return  # nothing was delivered, so there is nothing to report
    result.days[0].metadata |= {name: day.metadata[name] for name in ("report",) if name in day.metadata}
    context.log_event(
        dg.AssetMaterialization(
            asset_key(product, VALIDATION_REPORT),
            partition=day.day.isoformat(),
            metadata=dagster_metadata(day.metadata),
        )
    )
    # The report is there, and the day isn't done.
    plan_again(context, asset_key(product, VALIDATION_REPORT), [day.day])


def _as_of(text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise dg.Failure(
            f"as_of {text!r} is not a date; accepted is yyyy-mm-dd", allow_retries=False
        ) from error


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
