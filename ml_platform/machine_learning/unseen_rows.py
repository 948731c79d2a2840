"""A champion judged on rows that it has never learned from, where labels of what it scored come too late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from ml_platform.contract.learning import Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering import aggregation, served_rows
from ml_platform.data_engineering.day_rows import Kernel, subschema
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.machine_learning.evaluation import Evaluation, has_evidence, of_rows, ordinals, rounded
from ml_platform.machine_learning.kind import ROWS_OF_DAY, Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.training_data import HELD_OUT, is_held_out, sampled, share_of
from ml_platform.storage.tables import Tables

#: Days that labels may take so that a new model's own rows are enough to judge it before the next month's.
#: Beyond it a champion is judged on rows that it has never learned from, until it has scored enough.
SOON_ENOUGH = 7


def needs_unseen_rows(product: Product, found: Evaluation) -> bool:
    """Whether the day's champion has scored too few labelled rows because labels come late."""
    late = product.label_takes > SOON_ENOUGH
    return late and not has_evidence(product, found.champion_rows, found.champion_positives)


class Learned(Protocol):
    """What the judgement of a model on unseen rows needs to know of it."""

    @property
    def first_day(self) -> date: ...

    @property
    def last_day(self) -> date: ...

    @property
    def threshold(self) -> float | None: ...

    @property
    def compared_by(self) -> Holdout: ...


def judge_on_unseen(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    pipeline: Any,
    model: Learned,
    found: Sequence[Evaluation],
    labelled: Mapping[date, Mapping[date, int]],
) -> dict[date, Evaluation]:
    """Evaluations with the champion judged on the rows of their windows that it has never learned from.

    These are the rows of all entities on days after those it learned from, and of the held-out entities on
    these days. Days before don't count: a retrain has learned from the recent past alone. Each is scored
    here, as it would have been served, with the labels known on the morning after the evaluated day.

    Args:
        session: gives the Spark session if one is needed.
        found: evaluations of one champion.
        labelled: for each evaluated day the event days whose labels may be counted, with their numbers of
            rows in the MRDS.
    """
    kind = kind_of(product)
    judged: dict[date, Evaluation] = {}
    learned_from = getattr(pipeline, "feature_names_in_", product.model.features.all)
    if set(learned_from) != set(product.model.features.all):
        return judged  # the contract has other features since: the champion is judged by what it has scored
    chosen = {
        part.event_day: _unseen_days(product, part.event_day, model, labelled[part.event_day])
        for part in found
    }
    counts = {day: rows for part in found for day, rows in labelled[part.event_day].items()}
    maximum = product.evaluation.maximum_rows
    sizes = {day: sum(size.values()) for day, size in chosen.items()}
    together = {evaluated_day for days in chosen.values() for evaluated_day in days}
    scored: dict[tuple[date, ...], _Scored] = {}
    # What is sampled depends on the window alone, not on what else is evaluated in this run.
    at_once = sum(counts[day] for day in together) <= maximum
    for part in found:
        days = tuple(sorted(together if at_once else chosen[part.event_day]))
        share = share_of(maximum, sizes[part.event_day])
        if days not in scored:
            scored.clear()  # at most one window's rows are held
            scored[days] = _score_unseen(session, product, tables, pipeline, model, days, share, counts)
        rows = scored[days]
        inside = np.isin(rows.event_day, [day.toordinal() for day in chosen[part.event_day]])
        known = inside & rows.known(part.event_day.toordinal() + 1)
        label, outputs = rows.label[known], of_rows(rows.outputs, known)
        if len(label) <= part.champion_rows:
            continue
        judged[part.event_day] = replace(
            part,
            champion_judged_on="unseen",
            champion_rows=len(label),
            champion_positives=kind.positives(label),
            champion_value=rounded(kind.score(label, kind.decided(outputs, model.threshold))),
        )
    return judged


def _unseen_days(
    product: Product, day: date, model: Learned, labelled: Mapping[date, int]
) -> dict[date, float]:
    """The days of a window that hold rows a model hasn't learned from, with about how many."""
    inside = days_evaluated(product, day)
    first = model.first_day if model.compared_by == "entities" else model.last_day + timedelta(days=1)
    return {
        candidate: rows if candidate > model.last_day else rows / HELD_OUT
        for candidate, rows in labelled.items()
        if rows and candidate in inside and candidate >= first
    }


@dataclass(frozen=True)
class _Scored:
    """Labelled rows, in all their states, and what a model says of them; days are ordinals."""

    event_day: npt.NDArray[np.int64]
    known_on: npt.NDArray[np.int64]
    known_from: npt.NDArray[np.int64]
    known_to: npt.NDArray[np.int64]
    label: npt.NDArray[np.float64]
    outputs: Predictions

    def known(self, as_of: int) -> npt.NDArray[np.bool_]:
        """The rows as they stood on a morning, with a label that was known then."""
        stood = (self.known_from <= as_of) & (as_of < self.known_to)
        found: npt.NDArray[np.bool_] = stood & (self.known_on <= as_of)
        return found


def _score_unseen(
    session: Callable[[], SparkSession],
    product: Product,
    tables: Tables,
    pipeline: Any,
    model: Learned,
    days: Sequence[date],
    share: int,
    labelled: Mapping[date, int],
) -> _Scored:
    """The labelled rows of ``days`` that a model has not learned from, of some millionths of the entities."""
    names = [*product.identity, *product.model.features.all, product.label, LABEL_KNOWN_ON]
    schema = subschema(aggregation.schema(product), names)
    rows = served_rows.states(session, product, tables, days, schema)
    made = served_rows.with_states(product, schema)
    frame: pd.DataFrame = rows.map(_unseen(product, model.last_day, share), made).to_pandas()
    kind = kind_of(product)
    if kind.uses_rows_of_day:
        frame = frame.assign(**{ROWS_OF_DAY: frame[EVENT_DAY].map(labelled)})
    return _Scored(
        ordinals(frame[EVENT_DAY]),
        ordinals(frame[LABEL_KNOWN_ON]),
        np.where(frame[KNOWN_FROM].isna(), 0, ordinals(frame[KNOWN_FROM])),
        ordinals(frame[KNOWN_TO]),
        kind.labels(frame[product.label]),
        kind.in_days(kind.rounded(kind.predict(pipeline, frame)), frame),
    )


def _unseen(product: Product, learned_to: date, share: int) -> Kernel:
    """Of rows of the MRDS the labelled ones that a model has not learned from."""

    def choose(rows: pa.Table) -> pa.Table:
        rows = sampled(product, rows.filter(rows[product.label].is_valid()), "sample", share)
        later = pc.greater(rows[EVENT_DAY], pa.scalar(learned_to, pa.date32())).to_numpy()
        return rows.filter(pa.array(is_held_out(product, rows) | later))

    return choose
