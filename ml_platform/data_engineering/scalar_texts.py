"""Functions of expressions on texts, whose characters are code points.

- ``trim``, ``ltrim`` and ``rtrim`` take away spaces alone.
- Positions count from 1. ``substring`` from a position below zero counts from the end, and before the
  beginning there is nothing to take; with a count below zero it is null.
- ``left`` and ``right`` of a count below zero leave out as many characters at the other end.
- ``replace`` of nothing changes nothing; nothing is found at the beginning of every text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.contract.scalar_tree import Call, Value
from ml_platform.contract.scalar_values import SPACE
from ml_platform.data_engineering.scalar_numbers import Operation

#: More characters than a text has.
_ALL = 2**31 - 1


def _each(type_: pa.DataType, function: Callable[..., Any]) -> Operation:
    """An operation by a function of one row's values; null if one of them is."""

    def operation(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
        rows = zip(*(operand.to_pylist() for operand in operands), strict=True)
        return pa.array([None if None in row else function(*row) for row in rows], type_)

    return operation


def _with_plain(fast: Callable[..., pa.Array | None], otherwise: Operation) -> Operation:
    """An operation that is done at once if all arguments but the first are the same for all rows.

    Args:
        fast: of the texts and of those arguments; None if it can't after all.
    """

    def operation(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
        plain = [node.value for node in call.arguments[1:] if isinstance(node, Value)]
        if len(plain) == len(operands) - 1 and None not in plain:
            found = fast(operands[0], *plain)
            if found is not None:
                return found
        return otherwise(call, operands)

    return operation


def _substring(text: str, start: int, count: int | None = None) -> str | None:
    if count is not None and count < 0:
        return None
    begin = start - 1 if start >= 0 else len(text) + start
    end = len(text) if count is None else begin + count
    return text[max(begin, 0) : max(end, 0)]


def _slice(texts: pa.Array, start: int, count: int = _ALL) -> pa.Array | None:
    if start < 1 or count < 0:
        return None
    begin = min(start - 1, _ALL)
    return pc.utf8_slice_codeunits(texts, begin, min(begin + count, _ALL))


def _right(text: str, count: int) -> str:
    return text[-count:] if count else ""


def _replace(text: str, old: str, new: str) -> str:
    return text.replace(old, new) if old else text


def _replaced(texts: pa.Array, old: str, new: str) -> pa.Array:
    return pc.replace_substring(texts, old, new) if old else texts


def _like(call: Call, operands: Sequence[pa.Array]) -> pa.Array:
    _, pattern, escape = call.arguments
    assert isinstance(pattern, Value)
    assert isinstance(escape, Value)
    return pc.match_substring_regex(operands[0], pattern=_expression(str(pattern.value), str(escape.value)))


@cache
def _expression(pattern: str, escape: str) -> str:
    """A pattern of LIKE as a regular expression of RE2."""
    made, escaped = [], False
    for character in pattern:
        if not escaped and character == escape:
            escaped = True
            continue
        if escaped or character not in "%_":
            made.append(
                re.sub(r"([^\w])", r"\\\1", character, flags=re.ASCII) if character.isascii() else character
            )
        else:
            made.append(".*" if character == "%" else ".")
        escaped = False
    return rf"(?s)\A{''.join(made)}\z"


def _joined(operands: Sequence[pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(*operands, "", null_handling="emit_null")


def _trimmed(trim: Callable[..., pa.Array]) -> Operation:
    return lambda call, operands: trim(operands[0], characters=SPACE)


def _of_text(compute: Callable[[pa.Array], pa.Array]) -> Operation:
    return lambda call, operands: compute(operands[0])


OPERATIONS: Mapping[str, Operation] = {
    "||": lambda call, operands: _joined(operands),
    # Arrow leaves out the rows in which all are null, if it is to skip nulls itself.
    "concat": lambda call, operands: _joined([pc.fill_null(operand, "") for operand in operands]),
    "lower": _of_text(pc.utf8_lower),
    "upper": _of_text(pc.utf8_upper),
    "trim": _trimmed(pc.ascii_trim),
    "ltrim": _trimmed(pc.ascii_ltrim),
    "rtrim": _trimmed(pc.ascii_rtrim),
    "length": _of_text(lambda texts: pc.utf8_length(texts).cast(pa.int64())),
    "substring": _with_plain(_slice, _each(pa.string(), _substring)),
    "left": _with_plain(
        lambda texts, count: _slice(texts, 1, count), _each(pa.string(), lambda text, count: text[:count])
    ),
    "right": _each(pa.string(), _right),
    "replace": _with_plain(_replaced, _each(pa.string(), _replace)),
    "starts_with": _with_plain(pc.starts_with, _each(pa.bool_(), str.startswith)),
    "ends_with": _with_plain(pc.ends_with, _each(pa.bool_(), str.endswith)),
    "contains": _with_plain(pc.match_substring, _each(pa.bool_(), str.__contains__)),
    "strpos": _each(pa.int64(), lambda text, wanted: text.find(wanted) + 1),
    "like": _like,
}
