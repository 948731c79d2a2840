"""The folds on which estimators and parameters are chosen, all within the rows that a model learns from.

Held-out entities and rows from the as-of date on are none of these rows, so no choice can know them. A fold
looks like what a model is for: it learns from the days before, and is scored on days that come later.

- Where models are compared by entities, the entities are dealt into :data:`FOLDS` groups by a hash. Each fold
  is scored on one group's rows of the last fifth of the days, and learns from the other groups' rows before.
- Where they are compared forward in time, all entities are in each fold. The last three fifths of the days
  are scored, a fifth a fold, each by what was learned from the days before it.

Between the two lie the days whose labels would not have been known yet on the first scored day's morning. A
fold learns from a fifth of the days at least, or isn't made. Where labels take so long that none could be,
the entities alone tell the folds apart, and all days are both learned from and scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract.learning import Holdout
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.machine_learning.kind import Kind

if TYPE_CHECKING:
    import pandas as pd

#: Groups of entities; with fewer entities there are as many groups as entities.
FOLDS = 5
#: Parts of equal length that the days are cut into, of which the last are scored.
PARTS = 5
#: How many of them are scored where models are compared forward in time.
PARTS_FORWARD = 3


@dataclass(frozen=True)
class Fold:
    """Positions of rows: those that are learned from, and those that are scored."""

    learned: NDArray[np.int64]
    scored: NDArray[np.int64]


def folds(kind: Kind, rows: pd.DataFrame, holdout: Holdout) -> list[Fold]:
    """The folds of labelled rows; they depend on nothing but the rows and the contract.

    A fold on which nothing can be told is left out: one that has no rows to learn from or only one label
    among them, or on whose scored rows the metric is undefined. That depends on the labels alone, so that all
    that are compared are scored on the same folds.
    """
    product = kind.product
    day = _ordinals(rows[EVENT_DAY])
    label = kind.labels(rows[product.label])
    entity, delay = _entities(rows, product.entity), product.label_takes
    groups = min(FOLDS, len(np.unique(entity)))
    if groups > 1 and (holdout == "entities" or take_too_long(product, rows)):
        made = list(_by_entities(day, entity % groups, delay))
    else:
        made = list(_forward(day, delay))
    return [fold for fold in made if _can_tell(kind, label, fold)]


def take_too_long(product: Product, rows: pd.DataFrame) -> bool:
    """Whether labels take so long that no fold of some rows can go forward in time."""
    day = _ordinals(rows[EVENT_DAY])
    return not _is_long_enough(day, _cut(day, PARTS - 1, product.label_takes)[1])


def _by_entities(day: NDArray[np.int64], group: NDArray[np.int64], delay: int) -> list[Fold]:
    """A fold for each group of entities."""
    start, known = _cut(day, PARTS - 1, delay)
    is_scored, is_learned = day >= start, day <= known
    if not _is_long_enough(day, known):
        is_scored = is_learned = np.ones(len(day), dtype=bool)
    return [
        Fold(np.flatnonzero(is_learned & (group != number)), np.flatnonzero(is_scored & (group == number)))
        for number in np.unique(group)
    ]


def _forward(day: NDArray[np.int64], delay: int) -> Iterator[Fold]:
    for part in range(PARTS - PARTS_FORWARD, PARTS):
        start, known = _cut(day, part, delay)
        end = _start(day, part + 1)
        if not _is_long_enough(day, known):
            continue
        yield Fold(np.flatnonzero(day <= known), np.flatnonzero((day >= start) & (day < end)))


def _cut(day: NDArray[np.int64], part: int, delay: int) -> tuple[int, int]:
    """The first day of a part that is scored, and the last one that is learned from."""
    start = _start(day, part)
    return start, start - 1 - delay


def _is_long_enough(day: NDArray[np.int64], known: int) -> bool:
    """Whether the days up to one are a fifth of all, or there are too few for fifths."""
    length = int(day.max() - day.min()) + 1
    return length < PARTS or known - int(day.min()) + 1 >= length // PARTS


def _start(day: NDArray[np.int64], part: int) -> int:
    """The first day of one of the parts, as a number."""
    length = int(day.max() - day.min()) + 1
    return int(day.min()) + length * part // PARTS


def _can_tell(kind: Kind, label: NDArray[Any], fold: Fold) -> bool:
    if len(np.unique(label[fold.learned])) < 2 or not len(fold.scored):
        return False
    return kind.is_defined(label[fold.scored])


def _entities(rows: pd.DataFrame, names: Sequence[str]) -> NDArray[np.int64]:
    """A number from 0 on for each row's entity, in the order of their hashes: a fixed, but random one."""
    import pandas as pd

    hashes = pd.util.hash_pandas_object(rows[list(names)], index=False).to_numpy()
    return np.unique(hashes, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _ordinals(days: pd.Series[Any]) -> NDArray[np.int64]:
    import pandas as pd

    codes, values = pd.factorize(days)
    numbers = np.array([pd.Timestamp(value).toordinal() for value in values], dtype=np.int64)
    found: NDArray[np.int64] = numbers[codes]
    return found
