"""The ranks of a day's rows by probability: who is among the highest, whatever parts the day is scored in.

Of equal probabilities the smaller hash of the row's key goes first, so that neither files nor parts decide,
and not the same entity every day. Rows that were scored before keep their ranks; those that come later are
ranked after all of them, however probable they are, since the day has been acted on. A part of a day needs to
know the day's highest keys alone, of which there are as many as the contract's deepest rank.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_platform.contract.product import Product
from ml_platform.contract.tasks import RANK
from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.storage.fingerprints import hashes_of

_KEY = np.dtype([("low", np.float64), ("tie", np.int64)])
_SEED = "rank"

Keys = NDArray[np.void]
"""What rows are ranked by: how low the probability is, and the hash that breaks ties."""


@dataclass(frozen=True)
class Ranks:
    """The ranks that the new rows of a day get, or of a part of it. It travels between tasks as text.

    Attributes:
        taken: how many rows were ranked before.
        packed: the keys of the highest new rows, in order.
    """

    taken: int = 0
    packed: str = ""

    @property
    def keys(self) -> Keys:
        """The keys of the highest new rows, in order."""
        return np.frombuffer(b64decode(self.packed), _KEY)

    @classmethod
    def of(cls, product: Product, rows: pa.Table, probability: Floats, taken: int) -> Ranks:
        """The ranks among some new rows.

        Args:
            rows: with the columns of the product's identity.
            probability: as it is stored.
        """
        return cls(taken, _packed(_first(keys_of(product, rows, probability), _deepest(product))))

    @classmethod
    def together(cls, product: Product, parts: Iterable[Ranks]) -> Ranks:
        """The ranks of a day whose rows lie in several parts."""
        taken, keys = 0, np.empty(0, _KEY)
        for part in parts:
            taken += part.taken
            keys = _first(np.concatenate([keys, part.keys]), _deepest(product))
        return cls(taken, _packed(keys))

    def columns(self, product: Product, keys: Keys) -> dict[str, pa.Array]:
        """The rank of each row, null beyond the deepest, and its decision if that is of the highest."""
        highest = self.keys
        place = np.full(len(keys), len(highest))
        if len(highest):
            may_be = keys["low"] <= highest["low"][-1]
            place[may_be] = np.searchsorted(highest, keys[may_be])
        rank = self.taken + 1 + place
        is_ranked = (place < len(highest)) & (rank <= _deepest(product))
        found = {RANK: pa.array(rank, pa.int64(), mask=~is_ranked)}
        decided = product.model.decision_highest
        if decided is not None:
            found["decision"] = pa.array((is_ranked & (rank <= decided)).astype(np.int32))
        return found


def keys_of(product: Product, rows: pa.Table, probability: Floats) -> Keys:
    """The key of each row."""
    keys = np.empty(len(rows), _KEY)
    keys["low"], keys["tie"] = -probability, ties(product, rows)
    return keys


def ties(product: Product, rows: pa.Table) -> Integers:
    """The hash of each row's key that goes before a greater one of the same probability."""
    values = [rows[name] for name in product.identity]
    found: Integers = hashes_of((_SEED,), [*values, *(value.is_null() for value in values)])[0]
    return found


def _packed(keys: Keys) -> str:
    return b64encode(keys.tobytes()).decode()


def _first(keys: Keys, number: int) -> Keys:
    if len(keys) > number:
        keys = keys[keys["low"] <= np.partition(keys["low"], number - 1)[number - 1]]
    found: Keys = keys[np.lexsort((keys["tie"], keys["low"]))][:number]
    return found


def _deepest(product: Product) -> int:
    assert product.deepest_rank is not None, "the product's predictions are ranked"
    return product.deepest_rank
