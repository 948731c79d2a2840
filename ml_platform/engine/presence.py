"""Whether what the ledger calls done is still there: the look that comes before "nothing to do".

Tables are deleted, databases are lost, backups are restored. The ledger knows nothing of that, so each step
compares what it asks of its days with what their places say of themselves, in milliseconds: a table's log and
files, a database's list of days, a report's page. No rows are read. ``ml-platform doctor`` reports all of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date

from ml_platform.contract.assets import MODEL, drawn
from ml_platform.contract.days import month_of
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.promotion import Decision
from ml_platform.machine_learning.registry import Registry
from ml_platform.storage.ledger import HISTORY, DayRecord
from ml_platform.storage.reports import ReportStore

#: Outcomes of days whose own rows are in the tables.
WITH_ROWS = frozenset({"written", "empty", "blocked"})
#: Those of days that may have earlier rows: what was served of a day stays when a later delivery blocks it.
WITH_STATES = WITH_ROWS | {"held_back"}


def lost_rows(
    context: StepContext, table: str, records: Mapping[date, DayRecord], count: str = "rows"
) -> dict[date, str]:
    """The days whose rows a table doesn't hold as the ledger says, each with what is wrong.

    Args:
        count: the name of the count that tells how many rows of a day the table has.

    Raises:
        DamagedTableError: the table's log can't be read.
    """
    held = {day: record for day, record in records.items() if record.outcome in WITH_ROWS}
    return _lost(
        context,
        table,
        held,
        lambda record: (record.counts.get(count, 0), record.delta_version if count == "rows" else None),
    )


def lost_states(context: StepContext, table: str, records: Mapping[date, DayRecord]) -> dict[date, str]:
    """The days whose earlier rows a table doesn't hold as the ledger says. Raises as :func:`lost_rows`."""
    held = {day: record for day, record in records.items() if record.outcome in WITH_STATES}
    return _lost(
        context, table, held, lambda record: (record.details.get(HISTORY, {}).get("versions", 0), None)
    )


def _lost(
    context: StepContext,
    table: str,
    records: Mapping[date, DayRecord],
    rows_of: Callable[[DayRecord], tuple[int, int | None]],
) -> dict[date, str]:
    if not records or (is_elsewhere(context, records) and context.tables.location.locks):
        return {}
    expected = {day: rows_of(record) for day, record in records.items()}
    return context.tables.losses(context.product.name, table, expected) if expected else {}


def is_elsewhere(context: StepContext, records: Mapping[date, DayRecord]) -> bool:
    """Whether the step works on another machine, whose folders and databases can't be seen from here."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return False  # this is the other machine
    asset = next(iter(records.values())).asset if records else context.request.step
    engine = context.product.engine.of(drawn(asset), context.settings.engine)
    return engine != "local"


def lost_reports(
    context: StepContext, records: Mapping[date, DayRecord], store: ReportStore, page: str
) -> dict[date, str]:
    """The days, or months, whose report isn't in a folder that should have it, each with what is wrong."""
    if is_elsewhere(context, records):
        return {}
    paths = {
        f"{context.product.name}/{record.asset}/{day}": day
        for day, record in records.items()
        if record.outcome == "written"
    }
    return {
        paths[path]: f"the reports' target {target} has no page of it"
        for path, target in store.missing(paths, page).items()
    }


def grouped(lost: Mapping[date, str]) -> dict[str, list[date]]:
    """What is wrong, with the days of which it is true; of a table all that differs is one thing."""
    found: dict[str, list[date]] = {}
    for day in sorted(lost):
        found.setdefault(_GENERAL.sub(r"\1 lacks rows", lost[day]), []).append(day)
    return found


#: What is said of one day's rows, of which many days have as many kinds.
_GENERAL = re.compile(r"^(\S+) (?:has [\d,]+ whole rows|is at version \d+).*$")


def lost_models(context: StepContext, records: Mapping[date, DayRecord]) -> dict[date, str]:
    """The as-of dates whose model isn't there as the ledger says, each with what is wrong."""
    written = {as_of: record for as_of, record in records.items() if record.outcome == "written"}
    if not written:
        return {}
    history = ModelHistory(context.tables, context.product)
    known, decided = history.by_fingerprint(), {decision.as_of for decision in history.decisions()}
    lost = {}
    for as_of, record in written.items():
        if record.fingerprint not in known:
            lost[as_of] = f"{context.tables.control.address(context.product.name, 'models')} doesn't know it"
        elif as_of not in decided:
            lost[as_of] = (
                f"{context.tables.control.address(context.product.name, 'decisions')} has none of it"
            )
    versions = {
        as_of: known[record.fingerprint].version
        for as_of, record in written.items()
        if as_of not in lost and record.fingerprint
    }
    if versions:
        wanted = {version: records[as_of].fingerprint or "" for as_of, version in versions.items()}
        absent = Registry.of(context.settings).absent(context.product, wanted)
        lost |= {as_of: absent[version] for as_of, version in versions.items() if version in absent}
    return lost


def undecided(context: StepContext) -> list[date]:
    """The as-of dates of models that the ledger calls trained, and that nothing was decided about."""
    return _undecided(context, ModelHistory(context.tables, context.product).decisions())


def _undecided(context: StepContext, decisions: Iterable[Decision]) -> list[date]:
    decided = {decision.as_of for decision in decisions}
    trained = context.ledger.latest(MODEL, details=False)
    return [
        as_of for as_of, record in trained.items() if record.outcome == "written" and as_of not in decided
    ]


def require_decisions(context: StepContext) -> list[Decision]:
    """The decisions about all models, which must be as many as the ledger calls trained.

    With the table gone every day would turn into one that no model serves.

    Raises:
        PermanentError: decisions about models that are in the ledger are missing, or models that were
            decided about.
    """
    history = ModelHistory(context.tables, context.product)
    decisions, known = history.decisions(), history.by_fingerprint()

    def require(table: str, missing: Sequence[date], why: str) -> None:
        if not missing:
            return
        name, month = context.product.name, month_of(missing[0])
        raise PermanentError(
            f"{context.tables.control.address(name, table)} lacks the model as of {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f", {why} by: ml-platform backfill {name} --from {month} --to {month} --select model"
        )

    missing = _undecided(context, decisions)
    require("decisions", missing, "which the ledger calls trained; all is decided again")
    unknown = [decision.as_of for decision in decisions if decision.fingerprint not in known]
    require("models", unknown, "which was decided about; it is put back")
    return decisions


def require_rollbacks(context: StepContext, history: ModelHistory) -> None:
    """Make sure that every promotion that was rolled back is known as such, before all is decided again.

    Raises:
        PermanentError: the table of the rollbacks has lost some; to decide now would promote them again.
    """
    if missing := lost_rollbacks(history):
        name = context.product.name
        raise PermanentError(
            f"{context.tables.control.address(name, 'rollbacks')} lacks the rollback of the model as of "
            f"{missing[0].as_of}; deciding now would promote it again: run ml-platform doctor {name} --repair"
        )


def lost_rollbacks(history: ModelHistory) -> list[Decision]:
    """The decisions that say of a promotion that it was rolled back, for which no rollback is recorded."""
    known = {row["as_of"] for row in history.rollbacks()}
    return [
        decision for decision in history.decisions() if decision.taken_back and decision.as_of not in known
    ]


def restore_models(context: StepContext, history: ModelHistory) -> list[date]:
    """Put back what the table of the models has lost, from the ledger; returns the as-of dates.

    Deciding without them would forget that they were ever promoted.
    """
    known = history.by_fingerprint()
    restored = []
    for as_of, record in sorted(context.ledger.latest(MODEL, outcomes=["written"]).items()):
        if record.fingerprint is None or record.fingerprint in known:
            continue
        model = _model_of(record)
        if model is not None:
            history.add(model)
            restored.append(as_of)
    return restored


def _model_of(record: DayRecord) -> ModelRecord | None:
    """A model by what the ledger tells of it; None if the record lacks something."""
    details = record.details
    facts = details.get("metadata", {})
    days = re.findall(r"\d{4}-\d{2}-\d{2}", str(facts.get("training_days", "")))
    try:
        return ModelRecord(
            as_of=record.day,
            month=record.day.replace(day=1),
            kind=facts["kind"],
            fingerprint=record.fingerprint or "",
            version=facts["model_version"],
            mlflow_run_id=str(facts["mlflow_run"]).rpartition("/")[2],
            threshold=facts.get("decision_threshold"),
            rows=facts["training_rows"],
            rows_available=facts["training_rows_available"],
            first_day=date.fromisoformat(days[0]),
            last_day=date.fromisoformat(days[-1]),
            run_id=record.run_id,
            holdout=facts.get("holdout"),
            columns=details.get("columns"),
            selection=details.get("selection"),
            manifest=details.get("manifest"),
            remark=details.get("remark"),
        )
    except (KeyError, IndexError):
        return None
