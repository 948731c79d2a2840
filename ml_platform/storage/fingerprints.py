"""The hash of rows' content: one that ignores their order, and that parts of the rows add up to.

It is made from XXH64 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), chained as Spark's ``xxhash64`` does
it: the hash of a column is the seed of the next one's, nulls are passed over. It is written out here since
fingerprints are kept for years, and what libraries offer changes between versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: The fingerprint of no rows.
EMPTY = "empty"
_SEEDS = ("a", "b")
_SPARKS_SEED = 42
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class ContentSums:
    """How many rows there are, and what their 64-bit hashes with each of the seeds add up to.

    The sums of parts of some rows add up to those of all.
    """

    rows: int = 0
    totals: tuple[int, ...] = (0,) * len(_SEEDS)

    @classmethod
    def of(cls, rows: pa.Table, columns: Sequence[str]) -> Self:
        """The sums of rows. The null flags are hashed too: the hash skips nulls, and could not tell
        ``(null, 1)`` from ``(1, null)``.

        Raises:
            TypeError: a column has a type that data sets don't have.
        """
        values = [one_chunk(rows[name]) for name in sorted(columns)]
        totals = [0] * len(_SEEDS)
        # A row takes up to 250 bytes on the way.
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = [value.slice(start, _ROWS_AT_ONCE) for value in values]
            hashes = hashes_of(_SEEDS, [*part, *(value.is_null() for value in part)])
            # The sums are exact: of each half in 64 bits, of both in Python's integers.
            high, low = (hashes >> 32).sum(axis=1), (hashes & 0xFFFFFFFF).sum(axis=1)
            totals = [
                total + (int(upper) << 32) + int(lower)
                for total, upper, lower in zip(totals, high, low, strict=True)
            ]
        return cls(len(rows), tuple(totals))

    def __add__(self, other: ContentSums) -> ContentSums:
        totals = (left + right for left, right in zip(self.totals, other.totals, strict=True))
        return ContentSums(self.rows + other.rows, tuple(totals))

    def fingerprint(self, columns: Sequence[str]) -> str:
        """The hash of the content of rows with these columns, which the sums are of."""
        if not self.rows:
            return EMPTY
        parts = "|".join([",".join(sorted(columns)), str(self.rows), *map(str, self.totals)])
        return hashlib.sha256(parts.encode()).hexdigest()[:32]


def hashes_of(literals: Sequence[str], columns: Sequence[pa.Array | pa.ChunkedArray]) -> NDArray[np.int64]:
    """What Spark's ``xxhash64(literal, *columns)`` is, of each literal and each row that is held in memory.

    Returns:
        (literals, rows)

    Raises:
        TypeError: a column has a type that data sets don't have.
    """
    seed = np.full((1, 1), _SPARKS_SEED, _U64)
    seeds = np.concatenate([_string_hashes(pa.array([literal]), seed) for literal in literals])
    hashes = np.repeat(seeds, len(columns[0]), axis=1)
    for column in columns:
        hashes = _chained(one_chunk(column), hashes)
    return hashes.view(np.int64)


# -- XXH64 of many values, each with a seed of its own -------------------------------------------------

_U64 = np.uint64
_Array = NDArray[np.uint64]
_P1, _P2, _P3, _P4, _P5 = (
    _U64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_STRIPE = 32
_NAN = _U64(0x7FF8000000000000)


def _chained(values: pa.Array, seeds: _Array) -> _Array:
    """The hashes of a column's values; of a null it is the seed.

    Args:
        seeds: (seeds of the row hash, rows), as are the hashes.
    """
    hashes = _hashes(values, seeds)
    if not values.null_count:
        return hashes
    return np.where(values.is_null().to_numpy(zero_copy_only=False), seeds, hashes)


def _hashes(values: pa.Array, seeds: _Array) -> _Array:
    type_ = values.type
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return _string_hashes(values, seeds)
    if pa.types.is_boolean(type_):
        return _of_ints(values.fill_null(False).cast(pa.uint32()).to_numpy(), seeds)
    if pa.types.is_int32(type_) or pa.types.is_date32(type_):
        return _of_ints(values.cast(pa.int32()).fill_null(0).to_numpy().view(np.uint32), seeds)
    # Whatever a timestamp's time zone is, its value is one of UTC.
    if pa.types.is_int64(type_) or (pa.types.is_timestamp(type_) and type_.unit == "us"):
        return _of_longs(values.cast(pa.int64()).fill_null(0).to_numpy().view(_U64), seeds)
    if pa.types.is_float64(type_):
        doubles = values.fill_null(0.0).to_numpy()
        # Spark takes the two zeros for one, and every NaN for one.
        bits = np.where(doubles == 0.0, 0.0, doubles).view(_U64)
        return _of_longs(np.where(np.isnan(doubles), _NAN, bits), seeds)
    raise TypeError(f"rows with values of the type {type_} have no content hash")


def _of_ints(values: _Array, seeds: _Array) -> _Array:
    return _avalanche(_with_4_bytes(seeds + _P5 + _U64(4), values.astype(_U64)))


def _of_longs(values: _Array, seeds: _Array) -> _Array:
    return _avalanche(_with_8_bytes(seeds + _P5 + _U64(8), values))


def _string_hashes(values: pa.Array, seeds: _Array) -> _Array:
    """Strings of one length at a time, so that every value takes the same steps."""
    if not len(values):
        return np.empty_like(seeds)
    texts = values.cast(pa.large_binary())
    _, ends, content = texts.buffers()
    offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    starts, lengths = offsets[:-1], np.diff(offsets)
    by_length = np.argsort(lengths, kind="stable")
    present, firsts = np.unique(lengths[by_length], return_index=True)
    hashes = np.empty_like(seeds)
    for length, rows in zip(present, np.split(by_length, firsts[1:]), strict=True):
        hashes[:, rows] = _of_bytes(content or pa.py_buffer(b""), starts[rows], int(length), seeds[:, rows])
    return hashes


def _of_bytes(content: pa.Buffer, starts: NDArray[np.int64], length: int, seeds: _Array) -> _Array:
    """The hashes of byte strings of one length.

    Args:
        content: what the strings are parts of.
        starts: (rows,), where in it each begins.
        length: of each, in bytes.
        seeds: (seeds of the row hash, rows), as are the hashes.
    """
    position = 0

    def word(size: int) -> _Array:
        """The next ``size`` bytes of each string as an integer, the first byte the lowest."""
        nonlocal position
        at_every_byte = np.ndarray(len(content) - size + 1, f"<u{size}", content, strides=(1,))
        read = at_every_byte[starts + position].astype(_U64)
        position += size
        return read

    if length >= _STRIPE:
        lanes = [seeds + _P1 + _P2, seeds + _P2, seeds.copy(), seeds - _P1]
        for _ in range(length // _STRIPE):
            lanes = [_round(lane, word(8)) for lane in lanes]
        hashes = np.zeros_like(seeds)
        for lane, by in zip(lanes, (1, 7, 12, 18), strict=True):
            hashes = hashes + _rotated(lane, by)
        for lane in lanes:
            hashes = (hashes ^ _round(_U64(0), lane)) * _P1 + _P4
    else:
        hashes = seeds + _P5
    hashes = hashes + _U64(length)
    while length - position >= 8:
        hashes = _with_8_bytes(hashes, word(8))
    if length - position >= 4:
        hashes = _with_4_bytes(hashes, word(4))
    while position < length:
        hashes = _rotated(hashes ^ (word(1) * _P5), 11) * _P1
    return _avalanche(hashes)


def _with_8_bytes(hashes: _Array, values: _Array) -> _Array:
    return _rotated(hashes ^ _round(_U64(0), values), 27) * _P1 + _P4


def _with_4_bytes(hashes: _Array, values: _Array) -> _Array:
    return _rotated(hashes ^ (values * _P1), 23) * _P2 + _P3


def _round(lane: _Array | np.uint64, values: _Array) -> _Array:
    return _rotated(lane + values * _P2, 31) * _P1


def _rotated(values: _Array, by: int) -> _Array:
    return (values << _U64(by)) | (values >> _U64(64 - by))


def _avalanche(hashes: _Array) -> _Array:
    hashes = (hashes ^ (hashes >> _U64(33))) * _P2
    hashes = (hashes ^ (hashes >> _U64(29))) * _P3
    return hashes ^ (hashes >> _U64(32))


def one_chunk(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column's values as one array."""
    if isinstance(values, pa.Array):
        return values
    combined = values.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
