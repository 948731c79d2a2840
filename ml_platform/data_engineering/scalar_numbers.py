"""Arithmetic of expressions: whole numbers of 64 bits, and doubles.

What is beyond 64 bits, or isn't finite, is null. Doubles are computed with the functions of C that Arrow
calls one value at a time, since those of numpy differ in the last digit from one processor to another; where
IEEE 754 leaves nothing open, as for sums and square roots, either may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.scalar_tree import Call

#: What evaluates a call, of the values of its arguments.
Operation = Callable[[Call, Sequence[pa.Array]], pa.Array]
Numbers = np.ndarray[Any, Any]

_LEAST, _GREATEST = -(2**63), 2**63 - 1
#: The greatest power of ten within 64 bits.
_MOST_ZEROS = 18


def numbers(values: pa.Array) -> tuple[Numbers, Numbers]:
    """Values as numpy's, with anything where there is none, and whether there is one."""
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    return pc.fill_null(values, 0).to_numpy(zero_copy_only=False), valid


def array(values: Numbers, valid: Numbers) -> pa.Array:
    """Values of numpy as Arrow's, null where they aren't valid, and where a double isn't finite."""
    if values.dtype.kind == "f":
        valid = valid & np.isfinite(values)
    return pa.array(values, mask=~valid)


def finite(values: pa.Array) -> pa.Array:
    """Doubles, and null instead of those that aren't finite."""
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))


def plus(first: pa.Array, second: pa.Array) -> pa.Array:
    """The sums of two columns of longs, or of doubles."""
    (a, a_valid), (b, b_valid) = numbers(first), numbers(second)
    with np.errstate(all="ignore"):
        sums = a + b
    valid = a_valid & b_valid
    return array(sums, valid & (((a ^ sums) & (b ^ sums)) >= 0) if sums.dtype.kind == "i" else valid)


def minus(first: pa.Array, second: pa.Array) -> pa.Array:
    """The differences of two columns of longs, or of doubles."""
    (a, a_valid), (b, b_valid) = numbers(first), numbers(second)
    with np.errstate(all="ignore"):
        differences = a - b
    valid = a_valid & b_valid
    return array(
        differences,
        valid & (((a ^ b) & (a ^ differences)) >= 0) if differences.dtype.kind == "i" else valid,
    )


def _times(first: pa.Array, second: pa.Array) -> pa.Array:
    (a, a_valid), (b, b_valid) = numbers(first), numbers(second)
    with np.errstate(all="ignore"):
        products = a * b
        valid = a_valid & b_valid
        if products.dtype.kind == "i":
            # Of a product that has wrapped around, no factor's quotient is the other factor.
            divisor = np.where((a == 0) | (a == -1), 1, a)
            exact = np.where(a == -1, b != _LEAST, (a == 0) | (products // divisor == b))
            valid &= exact
    return array(products, valid)


def _divided(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    (a, a_valid), (b, b_valid) = map(numbers, operands)
    with np.errstate(all="ignore"):
        return array(a / b, a_valid & b_valid)


def _remainder(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    (a, a_valid), (b, b_valid) = map(numbers, operands)
    valid = a_valid & b_valid & (b != 0)
    if a.dtype.kind == "i":
        b = np.where((b == 0) | (b == -1), 1, b)  # the least long has no quotient by -1
    with np.errstate(all="ignore"):
        return array(np.fmod(a, b), valid)


def _negative(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    values, valid = numbers(operands[0])
    with np.errstate(all="ignore"):
        return array(-values, valid & _has_opposite(values))


def _absolute(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    values, valid = numbers(operands[0])
    with np.errstate(all="ignore"):
        return array(np.abs(values), valid & _has_opposite(values))


def _has_opposite(values: Numbers) -> Numbers:
    return values != _LEAST if values.dtype.kind == "i" else np.ones(len(values), dtype=bool)


def _sign(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    values, valid = numbers(operands[0])
    return array(np.sign(values).astype("int64"), valid)


def _rounded(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    values, valid = numbers(operands[0])
    digits = call.arguments[1].value if len(call.arguments) == 2 else 0  # type: ignore[union-attr]
    assert isinstance(digits, int)
    if values.dtype.kind == "i":
        return _rounded_longs(values, valid, digits) if digits < 0 else operands[0]
    with np.errstate(all="ignore"):
        power = 10.0 ** abs(digits)
        if digits >= 0:
            rounded = half_away(values * power) / power
            return array(np.where(np.isfinite(rounded), rounded, values), valid)
        return array(half_away(values / power) * power, valid)


def _rounded_longs(values: Numbers, valid: Numbers, digits: int) -> pa.Array:
    if -digits > _MOST_ZEROS + 1:
        return array(np.zeros_like(values), valid)
    half = 5 * 10 ** (-digits - 1)
    rest = np.fmod(values, 2 * half) if -digits <= _MOST_ZEROS else values
    away = (rest >= half) | (rest <= -half)
    if -digits > _MOST_ZEROS:
        return array(np.zeros_like(values), valid & ~away)
    whole = array(values - rest, valid)
    return plus(whole, pa.array(np.where(away, np.sign(values) * (2 * half), 0)))


def half_away(values: Numbers) -> Numbers:
    """Doubles rounded to whole numbers, halves away from zero."""
    whole = np.trunc(values)
    away = np.abs(values - whole) >= 0.5
    result: Numbers = np.where(away, whole + np.copysign(1.0, values), whole)
    return result


def _of_doubles(compute: Callable[..., pa.Array]) -> Operation:
    """An operation by a function of Arrow, whose results that aren't finite are null."""
    return lambda call, operands: finite(compute(*operands))


def _from_left(combine: Callable[[pa.Array, pa.Array], pa.Array]) -> Operation:
    return lambda call, operands: reduce(combine, operands)


OPERATIONS: Mapping[str, Operation] = {
    "+": _from_left(plus),
    "-": _from_left(minus),
    "*": _from_left(_times),
    "/": _divided,
    "%": _remainder,
    "negative": _negative,
    "abs": _absolute,
    "sign": _sign,
    "round": _rounded,
    "floor": _of_doubles(pc.floor),
    "ceil": _of_doubles(pc.ceil),
    "sqrt": _of_doubles(pc.sqrt),
    "ln": _of_doubles(pc.ln),
    "log10": _of_doubles(pc.log10),
    "exp": _of_doubles(pc.exp),
    "power": _of_doubles(pc.power),
}
