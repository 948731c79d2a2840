"""The one adapter that turns a step's result into Dagster's events, whatever engine ran the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from ml_platform.engine.step import Check, DayResult, StepResult

Severities = Mapping[str, dg.AssetCheckSeverity]

#: Outcomes under which nothing could be checked, but which are no defect of the asset's own.
_NOT_TO_BLAME = frozenset({"held_back", "no_model"})


def report(
    context: dg.AssetExecutionContext, result: StepResult, metadata: Mapping[str, Any]
) -> Iterator[dg.MaterializeResult[None] | dg.Output[None]]:
    """Yield the materialization, each day with its own metadata and settled checks.

    Raises:
        dagster.Failure: the run is of one partition, and that one can't be used.
    """
    asset_key = context.asset_key
    checks = [spec.name for spec in context.assets_def.check_specs]
    for day in result.days:
        for evaluation in _evaluations(asset_key, day, checks):
            context.log_event(evaluation)

    if len(result.days) == 1 and (failure := result.days[0].failure):
        raise dg.Failure(failure, metadata=_metadata(result.days[0].metadata), allow_retries=False)

    for day in result.days:
        context.add_asset_metadata(_metadata(day.metadata), partition_key=day.day.isoformat())
    yield dg.MaterializeResult(metadata=_metadata({**result.metadata, **metadata}))
    for name in checks:
        # The checks are settled by the events above, one a day; their outputs carry nothing.
        yield dg.Output(None, output_name=f"{'__'.join(asset_key.path)}_{name}")


def _evaluations(
    asset_key: dg.AssetKey, day: DayResult, names: Sequence[str]
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
            metadata=_metadata(check.metadata),
            partition=day.day.isoformat(),
        )


def _unchecked(name: str, day: DayResult) -> Check:
    severity = "WARN" if day.outcome in _NOT_TO_BLAME else "ERROR"
    return Check(name=name, passed=False, severity=severity, description=f"{day.outcome}: {day.reason}")


def _metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in values.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dg.MetadataValue.url(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return dg.MetadataValue.table([dg.TableRecord(record) for record in value])
    return value
