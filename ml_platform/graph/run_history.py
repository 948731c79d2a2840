"""The finished runs of the last days, of all products, kept in this process.

Every product's alerts need them every minute. Only runs that have ended since the last look are read, and
never a fixed number of them: how many runs other products have must not hide those of this one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from ml_platform.graph import bad_days
from ml_platform.graph.partitions import RANGE_TAGS

#: Runs that ended within so many days are known.
RUN_DAYS = 7
#: Machines that report the end of runs may have clocks so far apart.
_OVERLAP = timedelta(minutes=10)
#: Runs that are read at once; all are read.
PAGE = 500
#: Why a run has failed that has done all it could.
_BAD_DAYS = "some days can't be used"
_FINISHED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]


@dataclass(frozen=True)
class FinishedRun:
    """A run that has succeeded or failed; times are seconds since 1970."""

    run_id: str
    job: str
    assets: tuple[tuple[str, ...], ...]
    first: str
    last: str
    succeeded: bool
    created: float
    ended: float


class RunHistory:
    """The finished runs of one Dagster instance."""

    def __init__(self) -> None:
        self._runs: dict[str, FinishedRun] = {}
        self._reasons: dict[str, str] = {}
        self._seen_to: float | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, instance: dg.DagsterInstance) -> RunHistory:
        """The history of an instance; one in this process for all that share a storage."""
        with _lock:
            if not instance.is_persistent:
                return _ephemeral.setdefault(instance, cls())
            place = json.dumps(instance.get_ref().to_dict(), default=str, sort_keys=True)
            return _persistent.setdefault(place, cls())

    def runs(self, instance: dg.DagsterInstance, now: datetime) -> list[FinishedRun]:
        """The runs that have ended in the last days, the newest first."""
        with self._lock:
            horizon = (now - timedelta(days=RUN_DAYS)).timestamp()
            since = horizon
            if self._seen_to is not None:
                since = max(horizon, self._seen_to - _OVERLAP.total_seconds())
            for run in _ended_since(instance, datetime.fromtimestamp(since, tz=UTC)):
                self._runs[run.run_id] = run
                self._seen_to = max(self._seen_to or 0, run.ended)
            self._runs = {key: run for key, run in self._runs.items() if run.ended >= horizon}
            self._reasons = {key: reason for key, reason in self._reasons.items() if key in self._runs}
            return sorted(self._runs.values(), key=lambda run: run.created, reverse=True)

    def has_done_its_work(self, instance: dg.DagsterInstance, run: FinishedRun) -> bool:
        """Whether a run has succeeded, or failed only to show bad days, which the ledger knows."""
        return run.succeeded or self.why_failed(instance, run) == _BAD_DAYS

    def why_failed(self, instance: dg.DagsterInstance, run: FinishedRun) -> str | None:
        """Why a run has failed; None if it has been deleted since."""
        if not instance.has_run(run.run_id):
            with self._lock:
                self._runs.pop(run.run_id, None)
            return None
        reason = self._reasons.get(run.run_id)
        if reason is None:
            reason = self._reasons[run.run_id] = _why_failed(instance, run.run_id)
        return reason


_lock = threading.Lock()
_persistent: dict[str, RunHistory] = {}
_ephemeral: WeakKeyDictionary[Any, RunHistory] = WeakKeyDictionary()


def _ended_since(instance: dg.DagsterInstance, since: datetime) -> Iterator[FinishedRun]:
    filters = dg.RunsFilter(statuses=_FINISHED, updated_after=since)
    cursor = None
    while True:
        records = instance.get_run_records(filters=filters, limit=PAGE, cursor=cursor)
        for record in records:
            run = record.dagster_run
            first, last = (run.tags.get(tag, "") for tag in RANGE_TAGS)
            single = run.tags.get("dagster/partition", "")
            yield FinishedRun(
                run_id=run.run_id,
                job=run.job_name,
                assets=tuple(sorted(tuple(key.path) for key in run.asset_selection or ())),
                first=first or single,
                last=last or single,
                succeeded=run.status == dg.DagsterRunStatus.SUCCESS,
                created=record.create_timestamp.timestamp(),
                ended=record.update_timestamp.timestamp(),
            )
        if len(records) < PAGE:
            return
        cursor = records[-1].dagster_run.run_id


def _why_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    """Which step failed, and the reason if it is one of ours: other messages may hold anything."""
    is_only_of_bad_days = False
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for entry in logs:
        event = entry.dagster_event
        if event is None:
            continue
        if bad_days.shows_bad_days(event):
            is_only_of_bad_days = True
            continue
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return f"{event.step_key}: {data.user_failure_data.description}"
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        return f"{event.step_key}: {error.cls_name if error else 'failed'}"
    return _BAD_DAYS if is_only_of_bad_days else "the run ended before a step did"
