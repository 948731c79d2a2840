"""The history of a product's models: which were trained, compared, promoted and rolled back.

A model is named by its as-of date and its training fingerprint; MLflow's versions and run ids are
labels beside them. The decisions are a fold over the as-of dates, made again whenever a model or a
rollback is added; comparisons are kept, so that only new pairs are compared.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.assets import CATALOGUE, MODEL
from ml_platform.contract.faults import ends_the_run, in_words
from ml_platform.contract.learning import Holdout
from ml_platform.contract.product import Product
from ml_platform.machine_learning import holdout
from ml_platform.machine_learning.promotion import Candidate, Comparison, Decision, fold, serving
from ml_platform.machine_learning.retraining import Attempt
from ml_platform.machine_learning.selection import Selection
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.small_tables import COMMIT, ControlTable, in_order_of_commit
from ml_platform.storage.tables import Tables

Kind = Literal["monthly", "retrain"]

#: The tables of a :class:`ModelHistory`.
TABLES = CATALOGUE[MODEL].small_tables

#: What the ledger's record of a model has of the model's own record, beside the metadata.
RESTORED = ("columns", "selection", "manifest", "remark")
#: Where the record of a day of predictions has the models that scored it.
MODELS = "models"

_MODELS = pa.schema(
    [
        ("as_of", pa.date32()),
        ("month", pa.date32()),
        ("kind", pa.string()),
        ("fingerprint", pa.string()),
        ("version", pa.string()),
        ("mlflow_run_id", pa.string()),
        ("threshold", pa.float64()),
        ("rows", pa.int64()),
        ("rows_available", pa.int64()),
        ("first_day", pa.date32()),
        ("last_day", pa.date32()),
        ("run_id", pa.string()),
        ("recorded_at", pa.int64()),
        (COMMIT, pa.int64()),
        ("columns", pa.string()),
        ("holdout", pa.string()),
        ("selection", pa.string()),
        ("manifest", pa.string()),
        ("remark", pa.string()),
    ]
)
_COMPARISONS = pa.schema([("key", pa.string()), ("comparison", pa.string())])
_DECISIONS = pa.schema(
    [
        ("as_of", pa.date32()),
        ("fingerprint", pa.string()),
        ("champion_before", pa.string()),
        ("promoted", pa.bool_()),
        ("taken_back", pa.bool_()),
        ("reason", pa.string()),
        ("comparison", pa.string()),
        ("decided_on", pa.date32()),
        ("waiting", pa.bool_()),
    ]
)
_ROLLBACKS = pa.schema(
    [
        ("as_of", pa.date32()),
        ("fingerprint", pa.string()),
        ("reason", pa.string()),
        ("by", pa.string()),
        ("recorded_at", pa.int64()),
        (COMMIT, pa.int64()),
    ]
)
#: What was chosen before a model was trained, with all trials: before MLflow has anything of it.
_SELECTIONS = pa.schema(
    [("fingerprint", pa.string()), ("selection", pa.string()), ("recorded_at", pa.int64())]
)


@dataclass(frozen=True)
class ModelRecord:
    """A model that was trained as of a date, and where MLflow keeps it.

    ``columns`` is what it needs of the MRDS, a :class:`.model_columns.ModelColumns` as text, ``holdout`` how
    it is compared; older records lack both. ``selection`` is what was chosen before it was trained, a
    :class:`.selection.Selection` as text, if its contract left a choice. ``manifest`` is what it was made
    from beside its rows, as text, and ``remark`` why it was trained again, if it was.
    """

    as_of: date
    month: date
    kind: Kind
    fingerprint: str
    version: str
    mlflow_run_id: str
    threshold: float | None
    rows: int
    rows_available: int
    first_day: date
    last_day: date
    run_id: str
    recorded_at: int = 0
    commit: int | None = None
    columns: str | None = None
    holdout: Holdout | None = None
    selection: str | None = None
    manifest: str | None = None
    remark: str | None = None

    @property
    def compared_by(self) -> Holdout:
        """Which rows were left for comparisons; older records only know held-out entities."""
        return self.holdout or "entities"


class NotComparedNowError(Exception):
    """Whoever decides reads no rows to compare models on; the next run does.

    ``before`` is what the models' last comparison has shown, perhaps on other labels than there are now.
    """

    def __init__(self, before: Comparison | None) -> None:
        super().__init__("it is compared by the next run of the model")
        self.before = before


class ModelHistory:
    """The models of one product and what was decided about them."""

    def __init__(self, tables: Tables, product: Product) -> None:
        self._product = product
        schemas = (_MODELS, _COMPARISONS, _DECISIONS, _ROLLBACKS, _SELECTIONS)
        self._models, self._comparisons, self._decisions, self._rollbacks, self._selections = (
            ControlTable(tables, product.name, name, schema)
            for name, schema in zip(TABLES, schemas, strict=True)
        )

    def models(self) -> list[ModelRecord]:
        """The model that counts for each as-of date, ascending: the one recorded last."""
        newest = {model.as_of: model for model in self._recorded()}
        return [newest[as_of] for as_of in sorted(newest)]

    def by_fingerprint(self) -> dict[str, ModelRecord]:
        """Every model that was ever recorded, also those that others of the same as-of date have replaced.

        Decisions name such a model until they are made again.
        """
        return {model.fingerprint: model for model in self._recorded()}

    def _recorded(self) -> list[ModelRecord]:
        """All records, in the order in which they were made."""
        rows = sorted(self._models.read(), key=in_order_of_commit)
        return [ModelRecord(**row) for row in rows]

    def add(self, model: ModelRecord) -> None:
        """Record a model; it counts for its as-of date from now on."""
        values = asdict(model) | {"recorded_at": time.time_ns()}
        self._models.append([values])

    def keep_selection(self, fingerprint: str, selection: Selection) -> None:
        """Keep what was chosen for a training fingerprint, before the model is logged: a search is costly."""
        row = {"fingerprint": fingerprint, "selection": selection.whole, "recorded_at": time.time_ns()}
        self._selections.append([row])

    def kept_selection(self, fingerprint: str) -> Selection | None:
        """What :meth:`keep_selection` has kept, the first of several; None if nothing was."""
        rows = self._selections.scan(pc.field("fingerprint") == fingerprint).to_pylist()
        first = min(rows, key=lambda row: int(row["recorded_at"]), default=None)
        return Selection.read(first["selection"]) if first is not None else None

    def decisions(self) -> list[Decision]:
        """What the last fold decided, by as-of date ascending."""
        rows = sorted(self._decisions.read(), key=lambda row: row["as_of"])
        return [_decode(row) for row in rows]

    def rollbacks(self) -> list[dict[str, Any]]:
        """The promotions that people took back, oldest first."""
        return sorted(self._rollbacks.read(), key=in_order_of_commit)

    def serving(self, day: date) -> Decision | None:
        """The promotion that serves an event day."""
        return serving(self.decisions(), day)

    def take_back(self, *decisions: Decision, reason: str, by: str) -> None:
        """Record that promotions are rolled back, all at once; :meth:`decide` makes it count."""
        now = time.time_ns()
        self._rollbacks.append(
            [
                {
                    "as_of": decision.as_of,
                    "fingerprint": decision.fingerprint,
                    "reason": reason,
                    "by": by,
                    "recorded_at": now,
                }
                for decision in decisions
            ]
        )

    def decide(
        self,
        key_of: Callable[[ModelRecord, ModelRecord | None, date], str],
        compare: Callable[[ModelRecord, ModelRecord | None, date], Comparison],
        *,
        until: date = date.max,
        unusable: Collection[str] = (),
    ) -> list[Decision]:
        """Fold the models into decisions and keep them.

        Another process may record a model meanwhile, and keep its own decisions first; so they are made
        again until nothing has been recorded while they were made.

        Args:
            key_of: names what a comparison depends on; a pair whose key is known isn't compared again.
            compare: compares a challenger with the champion before it, or with nothing, on a morning. A
                challenger of which that fails isn't promoted, and compared again by the next call.
            until: the newest morning that has come.
            unusable: the fingerprints of the models that can't score under the present contract.
        """
        while True:
            models, rollbacks = self.models(), self.rollbacks()
            decisions = self._decide_once(models, rollbacks, key_of, compare, until, unusable)
            if (self.models(), self.rollbacks()) == (models, rollbacks):
                return decisions

    def _decide_once(
        self,
        models: list[ModelRecord],
        rollbacks: list[dict[str, Any]],
        key_of: Callable[[ModelRecord, ModelRecord | None, date], str],
        compare: Callable[[ModelRecord, ModelRecord | None, date], Comparison],
        until: date,
        unusable: Collection[str],
    ) -> list[Decision]:
        records = {(model.as_of, model.fingerprint): model for model in models}
        by_fingerprint = {model.fingerprint: model for model in models}
        known = {row["key"]: Comparison(**json.loads(row["comparison"])) for row in self._comparisons.read()}
        new: dict[str, Comparison] = {}
        taken_back = {row["as_of"] for row in rollbacks}
        decided = {
            decision.fingerprint: decision.comparison
            for decision in self.decisions()
            if decision.comparison is not None and not decision.comparison.failed
        }

        def compare_once(challenger: Candidate, champion: Candidate | None, day: date) -> Comparison:
            left = records[(challenger.as_of, challenger.fingerprint)]
            right = by_fingerprint[champion.fingerprint] if champion else None
            key = key_of(left, right, day)
            found = known.get(key) or new.get(key)
            if found is None and challenger.as_of in taken_back and challenger.fingerprint in decided:
                return decided[challenger.fingerprint]  # it doesn't serve, whatever it is compared with
            if found is None:
                try:
                    found = new[key] = compare(left, right, day)
                except NotComparedNowError as error:
                    failed = Comparison.that_failed(self._product.evaluation.metric, str(error))
                    found = error.before or failed
                except Exception as error:
                    if ends_the_run(error):
                        raise
                    logging.getLogger(__name__).exception("the comparison as of %s failed", challenger.as_of)
                    reason = f"the comparison failed: {in_words(error, quoting=not self._product.sensitive)}"
                    found = Comparison.that_failed(self._product.evaluation.metric, reason)
            return found

        candidates = [Candidate(model.as_of, model.fingerprint, model.compared_by) for model in models]
        decisions = fold(
            candidates,
            compare_once,
            taken_back,
            wait=holdout.wait_forward(self._product),
            until=until,
            unusable=unusable,
            at_once={
                decision.fingerprint for decision in self.decisions() if decision.decided_on == decision.as_of
            },
        )
        self._comparisons.append(
            [{"key": key, "comparison": json.dumps(asdict(comparison))} for key, comparison in new.items()]
        )
        if [_encode(decision) for decision in decisions] != [
            _encode(decision) for decision in self.decisions()
        ]:
            self._decisions.overwrite([_encode(decision) for decision in decisions])
        return decisions


def stamp(tables: Tables, product: Product) -> tuple[str | None, ...]:
    """Changes with everything that is recorded of a product's models. It takes milliseconds."""
    return tuple(tables.control.stamp(product.name, name) for name in TABLES)


def made_with(tables: Tables, product: Product) -> list[str]:
    """The packages that the models of a product were made with, with versions, as far as records say."""
    manifests = [model.manifest for model in ModelHistory(tables, product).models() if model.manifest]
    return sorted({package for manifest in manifests for package in json.loads(manifest)["libraries"]})


def attempts(tables: Tables, product: Product) -> list[Attempt]:
    """Every training of a product so far, also those that were refused, and whether it was lost."""
    decisions = {decision.as_of: decision for decision in ModelHistory(tables, product).decisions()}
    trained = Ledger(tables, product.name).latest("model", details=False)
    return [
        _attempt(as_of, decisions.get(as_of))
        for as_of, record in trained.items()
        if record.outcome != "not_due"
    ]


def _attempt(as_of: date, decision: Decision | None) -> Attempt:
    if decision is None:
        return Attempt(as_of, lost=True)
    lost = not decision.promoted and not decision.waiting
    return Attempt(as_of, lost=lost, decided_on=decision.decided_on)


def newest_morning(mrds: Mapping[date, DayRecord]) -> date:
    """The morning after the newest usable day: what can be decided by then is due."""
    usable = (day for day, record in mrds.items() if record.usable)
    return max(usable, default=date.min) + timedelta(days=1)


def decisions_due(tables: Tables, product: Product) -> list[ModelRecord]:
    """The models that wait for a comparison forward in time whose morning has come, by as-of date."""
    history = ModelHistory(tables, product)
    waiting = {decision.as_of: decision.decided_on for decision in history.decisions() if decision.waiting}
    if not waiting:
        return []
    newest = newest_morning(Ledger(tables, product.name).latest("mrds", details=False))
    return [model for model in history.models() if waiting.get(model.as_of, date.max) <= newest]


def scored_by(record: DayRecord) -> dict[str, int]:
    """The models that have scored a day's predictions: by fingerprint, the numbers of their rows."""
    known: dict[str, int] | None = record.details.get(MODELS)
    if known is not None:
        return known
    model = record.inputs.rpartition("/")[2]  # records of old say no more
    return {} if model == "kept" or not record.counts.get("rows") else {model: record.counts["rows"]}


def scored_otherwise(
    predictions: Iterable[DayRecord], decisions: Sequence[Decision]
) -> dict[date, dict[str, int]]:
    """The days with rows that another model has scored than the one that serves the day.

    Returns:
        For each such day these models, by fingerprint, with the numbers of their rows.
    """
    found = {}
    for record in predictions:
        if record.outcome != "written":
            continue
        model = serving(decisions, record.day)
        others = {
            fingerprint: rows
            for fingerprint, rows in scored_by(record).items()
            if model is None or fingerprint != model.fingerprint
        }
        if others:
            found[record.day] = others
    return found


def name_models(fingerprints: Iterable[str], records: Mapping[str, ModelRecord]) -> str:
    """Models as people know them: by version and as-of date, in their order."""
    known = sorted(
        (records[fingerprint] for fingerprint in fingerprints if fingerprint in records),
        key=lambda model: model.as_of,
    )
    return ", ".join(f"v{model.version} (as of {model.as_of})" for model in known)


def champion(decisions: Sequence[Decision]) -> Decision | None:
    """The newest promotion that stands."""
    return serving(decisions, date.max)


def _encode(decision: Decision) -> dict[str, Any]:
    values = asdict(decision)
    comparison = decision.comparison
    values["comparison"] = None if comparison is None else json.dumps(asdict(comparison), sort_keys=True)
    return values


def _decode(row: dict[str, Any]) -> Decision:
    values = dict(row)
    if values["comparison"] is not None:
        values["comparison"] = Comparison(**json.loads(values["comparison"]))
    values["decided_on"] = values["decided_on"] or values["as_of"]
    values["waiting"] = bool(values["waiting"])
    return Decision(**values)
