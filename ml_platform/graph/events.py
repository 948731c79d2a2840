"""The one adapter that turns a step's result into Dagster's events, whatever engine ran the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from ml_platform.contract.assets import CATALOGUE, PERFORMANCE_ABOVE_THRESHOLD, Asset
from ml_platform.contract.days import month_of
from ml_platform.contract.product import Product
from ml_platform.engine.report_targets import REPORT_FILE
from ml_platform.engine.step import Check, DayResult, StepResult, result_of
from ml_platform.graph import bad_days
from ml_platform.storage.ledger import NOT_DONE, DayRecord, Ledger

#: The tag of the runs of a backfill over several days by the command; its value are the days.
BACKFILL_TAG = "ml_platform/backfill"
BACKFILL_TAGS = ("dagster/backfill", BACKFILL_TAG)

#: Outcomes under which nothing could be checked, but which are no defect of the asset's own.
_NOT_TO_BLAME = frozenset({"held_back", "no_model"})


def report(
    context: dg.AssetExecutionContext,
    product: Product,
    asset: Asset,
    result: StepResult,
    metadata: Mapping[str, Any],
) -> Iterator[dg.MaterializeResult[None] | dg.Output[None]]:
    """Yield the materialization, each day with its own metadata and settled checks.

    Raises:
        dagster.Failure: the run is of one partition, and that one can't be used (:func:`failure_of`); or it
            is the run's last step, and some days can't be used (:mod:`.bad_days`).
    """
    checks = [spec.name for spec in context.assets_def.check_specs]
    if failure := failure_of(context, result):
        _settle(context, result, checks)
        raise dg.Failure(failure, metadata=dagster_metadata(result.days[0].metadata), allow_retries=False)

    bad = bad_days.RunDays(context, product, asset, result.days)
    # A figure of the run as a whole would be plotted as one of each day; a link to it belongs to each.
    shared = {name: value for name, value in result.metadata.items() if not isinstance(value, (int, float))}
    for day in result.days:
        facts = dagster_metadata({**day.metadata, **shared})
        context.add_asset_metadata(facts, partition_key=day.day.isoformat())
    withheld = bad.withheld()
    if withheld:
        bad_days.materialize_apart(
            context, [day.day for day in result.days], withheld, dagster_metadata(metadata)
        )
    else:
        yield dg.MaterializeResult(metadata=dagster_metadata(metadata))
    bad.plan_again()
    _settle(context, result, checks)
    if failed := bad.failure(withheld):
        raise failed
    for name in checks:
        # The checks are settled by the events above, one a day; their outputs carry nothing.
        yield dg.Output(None, output_name=f"{'__'.join(context.asset_key.path)}_{name}")


def failure_of(context: dg.AssetExecutionContext, result: StepResult) -> str | None:
    """What a run ends with that is of one partition, which can't be used; None for any other run.

    A run of a backfill may happen to have one partition; its result is an outcome among others.
    """
    if len(result.days) > 1 or any(tag in context.run.tags for tag in BACKFILL_TAGS):
        return None
    return result.days[0].failure if result.days else None


def not_shown(
    instance: dg.DagsterInstance | None, product: Product, ledger: Ledger, asset: str
) -> list[date]:
    """The partitions of an asset that the ledger knows as written and Dagster doesn't show, ascending.

    Dagster's database was lost (all of it, where ``instance`` is None), or a run was killed after it had
    written days and before it had said so.
    """
    # A day that couldn't be used may have ended its run, which leaves no event of it.
    known = ledger.latest(asset, details=False)
    written = [day for day, record in known.items() if record.outcome == "written"]
    key = dg.AssetKey([product.name, asset])
    shown = instance.get_materialized_partitions(key) if instance else ()
    partitions = {month_of(day) if CATALOGUE[asset].period == "month" else day for day in written}
    return sorted(partitions - {date.fromisoformat(key) for key in shown})


def report_verdict(instance: dg.DagsterInstance, product: Product, record: DayRecord) -> None:
    """Show the verdict that the ledger has of a day now, outside of any run; a day that is good is done."""
    day = result_of(record)
    key, partition = dg.AssetKey([product.name, record.asset]), day.day.isoformat()
    if record.outcome not in NOT_DONE:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=partition, metadata=dagster_metadata(day.metadata))
        )
    target = _newest_materializations(instance, key, [partition]).get(partition)
    for evaluation in _evaluations(key, day, [check.name for check in day.checks], target):
        instance.report_runless_asset_event(evaluation)


def _settle(context: dg.AssetExecutionContext, result: StepResult, checks: Sequence[str]) -> None:
    """Log one evaluation a day and check.

    Dagster takes an evaluation for outdated unless it names the newest materialization of its
    partition, so this comes after the materialization.
    """
    if not checks:
        return
    partitions = [day.day.isoformat() for day in result.days]
    targets = _newest_materializations(context.instance, context.asset_key, partitions)
    for day in result.days:
        for evaluation in _evaluations(context.asset_key, day, checks, targets.get(day.day.isoformat())):
            context.log_event(evaluation)


def _newest_materializations(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partitions: Sequence[str]
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    newest: dict[str, AssetCheckEvaluationTargetMaterializationData] = {}
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=list(partitions)),
        limit=len(partitions),
    ).records
    for record in records:
        newest.setdefault(
            record.partition_key or "",
            AssetCheckEvaluationTargetMaterializationData(
                storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
            ),
        )
    return newest


def _evaluations(
    asset_key: dg.AssetKey,
    day: DayResult,
    names: Sequence[str],
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> Iterator[dg.AssetCheckEvaluation]:
    found = {check.name: check for check in day.checks}
    for name in names:
        check = found.get(name) or _unchecked(name, day)
        yield dg.AssetCheckEvaluation(
            asset_key=asset_key,
            check_name=name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity[check.severity],
            description=check.description or None,
            metadata=dagster_metadata(check.metadata),
            partition=day.day.isoformat(),
            target_materialization_data=target,
        )


def _unchecked(name: str, day: DayResult) -> Check:
    not_evaluated = name == PERFORMANCE_ABOVE_THRESHOLD and day.outcome in ("missing", "no_model")
    if not_evaluated or day.outcome == "not_due":
        return Check(name=name, passed=True, description=day.reason)
    severity = "WARN" if day.outcome in _NOT_TO_BLAME else "ERROR"
    return Check(name=name, passed=False, severity=severity, description=f"{day.outcome}: {day.reason}")


def dagster_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as Dagster shows them best: addresses as links, markdown and lists of rows as tables."""
    return {
        name: dg.MetadataValue.path(value) if _is_file(name, value) else _value(value)
        for name, value in values.items()
        if value is not None
    }


def _is_file(name: str, value: Any) -> bool:
    """Whether a value is shown to be copied: browsers follow no link to a file from Dagster's pages."""
    return isinstance(value, str) and (name == REPORT_FILE or value.startswith("file:///"))


def _value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dg.MetadataValue.url(value)
    if isinstance(value, str) and value.startswith("| "):
        return dg.MetadataValue.md(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return dg.MetadataValue.table([dg.TableRecord(record) for record in value])
    return value
