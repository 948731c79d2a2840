"""Exact sums of many overlapping stretches of numbers.

The sum of a stretch is the difference of two running totals, which costs the same however long the stretch
is. With doubles that would lose digits, and depend on where the running began. So a double is taken apart
into whole numbers of 32 bits ("limbs") on one scale, whose running totals are exact; a stretch's sum is put
together from these and rounded once. It is the double nearest to the true sum, as ``math.fsum`` gives, and
depends on nothing but the stretch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_BITS = 32
_MASK = (1 << _BITS) - 1
#: Bits of a double's mantissa.
_MANTISSA = 53


@dataclass(frozen=True)
class Stretches:
    """Stretches of numbers that stand in a row: each from a place to before another one.

    A running total of fewer than 2**31 numbers fits, so there may be no more numbers.
    """

    starts: Integers
    ends: Integers

    def of_doubles(self, numbers: Doubles) -> Doubles:
        """The sum of each stretch, rounded once; infinite if it is beyond all doubles.

        Args:
            numbers: finite ones.
        """
        limbs, scale = _limbs_of_doubles(numbers)
        return _rounded(self._totals(limbs), scale)

    def of_integers(self, numbers: Integers) -> tuple[Integers, Integers]:
        """The sum of each stretch as how many whole 2**32 are in it, and the rest."""
        low, high = self._totals(iter([numbers & _MASK, numbers >> _BITS]))
        return high + (low >> _BITS), low & _MASK

    def counts(self, numbers: Integers) -> Integers:
        """The sum of each stretch of small numbers, whose total fits 64 bits."""
        (found,) = self._totals(iter([numbers]))
        return found

    def _totals(self, limbs: Iterator[Integers]) -> list[Integers]:
        found = []
        for limb in limbs:
            running = np.zeros(len(limb) + 1, dtype=np.int64)
            np.cumsum(limb, out=running[1:])
            found.append(running[self.ends] - running[self.starts])
        return found


def as_doubles(high: Integers, low: Integers) -> Doubles:
    """Sums as :meth:`Stretches.of_integers` gives them, rounded to doubles once."""
    found: Doubles = (high * float(1 << _BITS) + low).astype(np.float64)
    return found


def _limbs_of_doubles(numbers: Doubles) -> tuple[Iterator[Integers], int]:
    """The limbs of each number, the lowest first, and the power of two that the lowest one counts."""
    fractions, exponents = np.frexp(numbers)
    mantissas = np.ldexp(np.abs(fractions), _MANTISSA).astype(np.uint64)
    is_some = mantissas != 0
    if not is_some.any():
        return iter([np.zeros(len(numbers), dtype=np.int64)]), 0
    exponents = exponents.astype(np.int64) - _MANTISSA
    scale = int(exponents[is_some].min())
    shifts = np.where(is_some, exponents - scale, 0)
    places, rest = shifts // _BITS, (shifts % _BITS).astype(np.uint64)
    mask = np.uint64(_MASK)
    lowest = (mantissas & mask) << rest
    middle = ((mantissas >> np.uint64(_BITS)) << rest) + (lowest >> np.uint64(_BITS))
    signs = np.where(numbers < 0, -1, 1)
    pieces = [
        (piece & mask).astype(np.int64) * signs for piece in (lowest, middle, middle >> np.uint64(_BITS))
    ]

    def limbs() -> Iterator[Integers]:
        for place in range(int(places.max()) + len(pieces)):
            limb = np.zeros(len(numbers), dtype=np.int64)
            for offset, piece in enumerate(pieces):
                np.add(limb, piece, out=limb, where=places == place - offset)
            yield limb

    return limbs(), scale


def _rounded(totals: list[Integers], scale: int) -> Doubles:
    """Numbers of limbs that may have carries and signs, as the nearest doubles."""
    signs = np.where(_carried(totals)[-1] < 0, -1, 1)
    limbs = np.stack(_carried([total * signs for total in totals]))
    # Two empty limbs below, so that the 96 bits from the highest one on can always be taken.
    limbs = np.concatenate([np.zeros((2, limbs.shape[1]), dtype=np.int64), limbs]).astype(np.uint64)
    count, numbers = limbs.shape
    highest = count - 1 - np.argmax(limbs[::-1] != 0, axis=0)
    highest = np.maximum(highest, 2)
    at = np.arange(numbers)
    high, middle, low = limbs[highest, at], limbs[highest - 1, at], limbs[highest - 2, at]
    below = np.cumsum(limbs != 0, axis=0)
    is_more = (highest >= 3) & (below[np.maximum(highest - 3, 0), at] > 0)
    # The highest limb is moved up until its first bit is the first of 32.
    length = np.frexp(high.astype(np.float64))[1]
    up = (_BITS - length).astype(np.uint64)
    up = np.where(high == 0, np.uint64(0), up)
    bits = np.uint64(_BITS)
    lead = (((high << bits) | middle) << up) | (low >> (bits - up))
    is_more |= (low & ((np.uint64(1) << (bits - up)) - np.uint64(1))) != 0
    # A last bit that says that there is more rounds a tie the right way.
    lead |= is_more.astype(np.uint64)
    exponents = scale + _BITS * (highest - 2 - 1) - up.astype(np.int64)
    with np.errstate(over="ignore"):
        found: Doubles = np.ldexp(lead.astype(np.float64), exponents) * signs
    return found + 0.0  # a sum of nothing is no negative zero


def _carried(totals: list[Integers]) -> list[Any]:
    """The same number with each limb but the highest from 0 to 2**32; the highest has the sign."""
    found: list[Any] = []
    carry: Any = 0
    for total in totals:
        value = total + carry
        found.append(value & _MASK)
        carry = value >> _BITS
    return [*found, carry]
