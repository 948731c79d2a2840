"""How many different values a column has, from sketches of its parts.

A sketch is the least hashes of the values (k minimum values: Bar-Yossef et al., "Counting distinct elements
in a data stream", 2002). It is bounded, and parts that share values add up to what all of them have: exactly
where there are fewer values than a sketch holds, and with a standard error of 3 % above.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_platform.storage.fingerprints import hashes_of

if TYPE_CHECKING:
    import pyarrow as pa

#: Hashes of a sketch. The error is the inverse of its root, and a sketch takes eight bytes for each.
SIZE = 1024
_HASHES = 1 << 64


def sketch_of(values: pa.ChunkedArray) -> str:
    """The sketch of values without nulls, as text."""
    import pyarrow.compute as pc

    (hashes,) = hashes_of(["values"], [pc.unique(values)])
    return base64.b64encode(_least(hashes.view(np.uint64)).tobytes()).decode()


def count(sketches: Sequence[str]) -> int:
    """How many different values the parts have together."""
    parts = [np.frombuffer(base64.b64decode(sketch), np.uint64) for sketch in sketches]
    least = reduce(lambda known, part: _least(np.concatenate([known, part])), parts, np.empty(0, np.uint64))
    if len(least) < SIZE:
        return len(least)
    return round((SIZE - 1) * _HASHES / int(least[-1]))


def _least(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = np.sort(hashes)
    found: NDArray[np.uint64] = ordered[np.diff(ordered, prepend=~ordered[:1]) != 0][:SIZE]
    return found
