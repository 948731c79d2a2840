"""What is wrong with a product's runs: those that have failed, until their days have been made by others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import dagster as dg

from ml_platform.contract.assets import (
    CATALOGUE,
    DRIFT_REPORT,
    MAINTENANCE,
    MODEL,
    Period,
    daily,
    names,
)
from ml_platform.contract.days import add_months
from ml_platform.contract.product import Product
from ml_platform.graph.run_history import FinishedRun, RunHistory
from ml_platform.mlops.alerts.findings import Finding
from ml_platform.mlops.remedies import RUN_FAILED


def findings(
    product: Product, instance: dg.DagsterInstance, now: datetime, known: set[tuple[str, str]]
) -> tuple[list[Finding], dict[str, str]]:
    """The newest run over each job and range of days, if it failed and its day isn't known to be bad.

    Nor if other runs have made all that it was to make since, whatever ranges they were over.
    """
    history = RunHistory.of(instance)
    wrong: list[Finding] = []
    well: dict[str, str] = {}
    seen = set()
    done: list[FinishedRun] = []
    for run in history.runs(instance, now):  # the newest first
        assets = _assets_of(run, product)
        key = f"run/{run.job}/{','.join(assets)}/{run.first}/{run.last}"
        if not assets or key in seen:
            continue
        if history.has_done_its_work(instance, run):
            seen.add(key)
            done.append(run)
            well[key] = f"succeeded in run {run.run_id[:8]}"
            continue
        if run.first == run.last and any((asset, run.first) in known for asset in assets):
            seen.add(key)
            continue
        if _is_made_since(product, run, done):
            seen.add(key)
            well[key] = "made by other runs since"
            continue
        reason = history.why_failed(instance, run)
        if reason is None:
            continue
        seen.add(key)
        wrong.append(
            Finding(
                key=key,
                kind="run",
                asset=", ".join(assets),
                partition=run.first if run.first == run.last else f"{run.first} to {run.last}",
                severity="error",
                subject=RUN_FAILED,
                what=reason,
                since=f"{datetime.fromtimestamp(run.created, tz=now.tzinfo):%Y-%m-%d %H:%M %Z}",
                run_id=run.run_id,
            )
        )
    return wrong, well


def _is_made_since(product: Product, failed: FinishedRun, done: Sequence[FinishedRun]) -> bool:
    """Whether the runs that were done since have made all that a failed one was to make."""
    wanted = _made_by(failed, product)
    made = [(_made_by(run, product), run) for run in done]
    return bool(failed.first and wanted) and all(
        _covers([run for assets, run in made if asset in assets], failed, CATALOGUE[asset].period)
        for asset in wanted
    )


def _covers(runs: Sequence[FinishedRun], failed: FinishedRun, period: Period) -> bool:
    """Whether the ranges of some runs together hold that of a failed one."""
    at, last = date.fromisoformat(failed.first), date.fromisoformat(failed.last)
    while at <= last:
        reached = [run.last for run in runs if run.first and run.first <= str(at) <= run.last]
        if not reached:
            return False
        reach = date.fromisoformat(max(reached))
        at = reach + timedelta(days=1) if period == "day" else add_months(reach, 1)
    return True


def _made_by(run: FinishedRun, product: Product) -> set[str]:
    """The assets of the catalogue that a run was to make."""
    by_job = {"daily": daily(), "model": [MODEL], "drift": [DRIFT_REPORT]}
    found = _assets_of(run, product)
    return {asset for name in found for asset in by_job.get(name, [name]) if asset in CATALOGUE}


def _assets_of(run: FinishedRun, product: Product) -> list[str]:
    """The product's assets that a run was to make, in the graph's order; or what its job is for."""
    if not run.assets:
        jobs = {f"{product.name}_{job}": job for job in ("daily", "model", "drift", MAINTENANCE)}
        return [jobs[run.job]] if run.job in jobs else []
    chosen = [path[1] for path in run.assets if len(path) == 2 and path[0] == product.name]
    order = names()
    return sorted(chosen, key=lambda name: order.index(name) if name in order else len(order))
