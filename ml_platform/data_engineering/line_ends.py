"""Delimiters at the ends of lines: which of them end a line, and which are followed by an empty field.

Some programs end every line with a delimiter, or every line but the header. Under a contract with
``trailing_delimiter`` such a delimiter begins no field. Of ``1,ann,`` in a file of three columns only the
file's other lines tell whether it has three fields or two; they are sampled, so that no value is guessed.
How fields are told apart is :mod:`.quoting`'s business.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ml_platform.contract.source import Source

#: Records, and characters of them, that are looked at to learn how a file's lines end. A program ends all of
#: its lines alike, so the first tells; more are for files whose first records are damaged.
SAMPLED_RECORDS = 100
SAMPLED_CHARACTERS = 1 << 18


class Record(NamedTuple):
    """A record of a file; ``raw`` is its text without the line break, bytes that are no text as surrogates.

    With a ``problem`` the fields are those that were found before it.
    """

    line: int
    raw: str
    fields: list[str]
    problem: str | None

    def ends_with(self, delimiter: str) -> bool:
        """Whether its last field is empty, and not in quotes."""
        return self.problem is None and len(self.fields) > 1 and self.raw.endswith(delimiter)


def sample(records: Iterator[Record]) -> list[Record]:
    """The first records, taken from the iterator."""
    taken, characters = [], 0
    for record in records:
        taken.append(record)
        characters += len(record.raw)
        if len(taken) == SAMPLED_RECORDS or characters >= SAMPLED_CHARACTERS:
            break
    return taken


def without_trailing(records: Iterable[Record], source: Source) -> Iterator[Record]:
    """The records of a file, the header first, without the fields that only seem to begin at line ends."""
    records = iter(records)
    first = sample(records)
    if not first:
        return
    is_trailing = ends_lines(first, source)
    width = len(_without_last(first[0]).fields if first[0].ends_with(source.delimiter) else first[0].fields)
    for number, record in enumerate(itertools.chain(first, records)):
        if record.ends_with(source.delimiter) and (
            number == 0 or is_trailing or len(record.fields) == width + 1
        ):
            yield _without_last(record)
        else:
            yield record


def ends_lines(first: Sequence[Record], source: Source) -> bool:
    """Whether a delimiter at the end of a line begins no field in a whole file, of which these come first."""
    header, *others = first
    if header.ends_with(source.delimiter):
        return True
    return any(_is_one_more(record, len(header.fields), source) for record in others)


def need_the_key(records: Sequence[Record], width: int, source: Source) -> bool:
    """Whether all of a file's first records would be right if ``trailing_delimiter`` were true."""
    return bool(records) and all(_is_one_more(record, width, source) for record in records)


def _is_one_more(record: Record, width: int, source: Source) -> bool:
    return len(record.fields) == width + 1 and record.ends_with(source.delimiter)


def _without_last(record: Record) -> Record:
    return record._replace(fields=record.fields[:-1])
