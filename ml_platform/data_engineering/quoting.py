r"""How the fields and records of a CSV file are told apart: by a grammar that leaves nothing to guess.

A quote opens a field only at its head, and after a closing quote only the delimiter or the end of the line
may come. A quote within quotes is doubled; where the contract's ``escape`` says so it may also have the
escape before it, which then stands before itself too (``\"`` and ``\\``, as Spark and DuckDB write them).
What two programs would read as different values is a problem, never a guess.

:class:`Grammar` reads record by record. :class:`BlockGuard` finds of whole blocks of bytes whether a reader
that knows doubled quotes alone would read the same. Files and types do not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ml_platform.contract.source import BACKSLASH, QUOTE, Source

TEXT_AFTER_QUOTE = "text after a closing quote"
UNCLOSED = "quote opened and never closed"
QUOTE_IN_UNQUOTED = "a quote in an unquoted field, beside quoted fields"
LONE_ESCAPE = "an escape that stands before neither a quote nor an escape"
UNQUOTED_ESCAPE = "an escape in an unquoted field, which programs read differently"
AMBIGUOUS = "a backslash before a quote or a backslash, which programs read differently"

_BREAK = re.compile(r"[\r\n]")
_LINE_ENDS = ("", "\n", "\r\n", "\r")


class Lines(Protocol):
    """The lines of a file, with their line breaks; some can be put back."""

    def next(self) -> str | None:
        """The next line; None at the end of the file."""

    def put_back(self, lines: list[str]) -> None:
        """Let these lines, the last ones that were given, come again."""


class Split(NamedTuple):
    """A record: its lines, its fields, and what is wrong with it; if anything is, the fields before that."""

    lines: list[str]
    fields: list[str]
    problem: str | None = None


class Grammar:
    """Splits lines into records and fields.

    Args:
        delimiter: between fields, one character.
        escape: ``"`` if quotes are doubled and nothing else; None if they are, and a record that could be
            meant with backslashes as well is a problem; else what stands before quotes and before itself.
        maximum_lines: of a record; a quote that is open for longer was never closed.
        maximum_characters: of a record that has more than one line.
        trailing_delimiter: whether a good record may have one more field, which is empty.
    """

    def __init__(
        self,
        delimiter: str,
        escape: str | None,
        *,
        maximum_lines: int,
        maximum_characters: int,
        trailing_delimiter: bool = False,
    ) -> None:
        self._delimiter = delimiter
        self._trailing_delimiter = trailing_delimiter
        self._maximum_lines, self._maximum_characters = maximum_lines, maximum_characters
        self._escape = escape if escape != QUOTE else None
        # What a program that escapes would have meant; None if that is known.
        self._other: Grammar | None = None
        if escape is None and delimiter != BACKSLASH:
            self._other = Grammar(
                delimiter,
                BACKSLASH,
                maximum_lines=maximum_lines,
                maximum_characters=maximum_characters,
            )
        if self._escape is None:
            self._within = re.compile(r'[^"]*+(?:""[^"]*+)*+')
        else:
            at = re.escape(self._escape)
            self._within = re.compile(rf'[^"{at}]*+(?:(?:""|{at}["{at}])[^"{at}]*+)*+')
            self._marked = re.compile(rf'"(")|{at}(["{at}])')
            self._all_marked = re.compile(rf'(?:[^"{at}]|{at}["{at}])*+')

    @classmethod
    def of(cls, source: Source, *, maximum_lines: int, maximum_characters: int) -> Grammar:
        """The grammar of a contract's files."""
        return cls(
            source.delimiter,
            source.escape,
            maximum_lines=maximum_lines,
            maximum_characters=maximum_characters,
            trailing_delimiter=source.trailing_delimiter,
        )

    def next_record(self, lines: Lines, width: int | None = None) -> Split | None:
        """The next record, None at the end of the file.

        Where it can't be known where a record ends, it is its first line alone.

        Args:
            width: the number of fields of a good record, if that is known.
        """
        line = lines.next()
        if line is None:
            return None
        if QUOTE not in line and (self._escape is None or self._escape not in line):
            return Split([line], _without_end(line).split(self._delimiter))
        found = self._split(line, lines)
        if self._other is None or found.problem is not None or not any(map(_has_escapes, found.lines)):
            return found
        if not self._fits(found, width):
            return found
        lines.put_back(found.lines)
        first = lines.next()
        assert first is not None, "it has just been put back"
        other = self._other._split(first, lines)
        lines.put_back(other.lines)
        for _ in found.lines:
            lines.next()
        possible = other.problem in (None, UNQUOTED_ESCAPE) and self._fits(other, width)
        if possible and other.fields != found.fields:
            return Split(found.lines, found.fields, AMBIGUOUS)
        return found

    def _fits(self, found: Split, width: int | None) -> bool:
        """Whether a record may have as many fields as a good one."""
        if width is None or len(found.fields) == width:
            return True
        return (
            self._trailing_delimiter
            and len(found.fields) == width + 1
            and _without_end(found.lines[-1]).endswith(self._delimiter)
        )

    def _split(self, line: str, lines: Lines) -> Split:
        """The record that begins with ``line``."""
        taken, characters = [line], len(line)
        fields: list[str] = []
        problem = None
        quoted = bare = False
        text, at = line, 0

        def first_line(problem: str) -> Split:
            lines.put_back(taken[1:])
            return Split(taken[:1], fields, problem)

        while True:
            if not text.startswith(QUOTE, at):
                end = text.find(self._delimiter, at)
                value = text[at:end] if end >= 0 else _without_end(text[at:])
                if self._escape is not None and self._escape in value:
                    plain = self._unquoted(value, is_last=end < 0)
                    value, problem = (value, UNQUOTED_ESCAPE) if plain is None else (plain, problem)
                elif QUOTE in value:
                    bare = True
                fields.append(value)
                if end < 0:
                    break
                at = end + 1
                continue
            quoted = True
            at += 1
            pieces = []
            while True:
                found = self._within.match(text, at)
                assert found is not None, "it matches nothing as well"
                pieces.append(found.group())
                at = found.end()
                if at == len(text):
                    if len(taken) >= self._maximum_lines or characters > self._maximum_characters:
                        return first_line(UNCLOSED)
                    following = lines.next()
                    if following is None:
                        return first_line(UNCLOSED)
                    taken.append(following)
                    characters += len(following)
                    text, at = following, 0
                elif text[at] == QUOTE:
                    break
                else:
                    problem = LONE_ESCAPE
                    at += 1
            value = "".join(pieces)
            if self._escape is not None and self._escape in value:
                value = self._marked.sub(_marked_character, value)
            elif QUOTE in value:
                value = value.replace(QUOTE * 2, QUOTE)
            fields.append(value)
            at += 1
            if text.startswith(self._delimiter, at):
                at += 1
            elif text[at:] in _LINE_ENDS:
                break
            else:
                return first_line(TEXT_AFTER_QUOTE)
        if quoted and bare:
            return first_line(QUOTE_IN_UNQUOTED)
        if bare and self._other is not None and f"{BACKSLASH}{QUOTE}" in line:
            problem = AMBIGUOUS
        return Split(taken, fields, problem)

    def _unquoted(self, value: str, *, is_last: bool) -> str | None:
        r"""An unquoted field with an escape as it was meant; None if that can't be known.

        Python and pandas write escapes outside quotes too, Spark and DuckDB don't: a field with ``\"`` is by
        the former, one with an escape before anything else by the latter, and ``\\`` may be by either. At the
        end of a line an escape may stand before the line break.
        """
        assert self._escape is not None
        if self._all_marked.fullmatch(value):
            marked = f"{self._escape}{QUOTE}" in value
            return self._marked.sub(_marked_character, value) if marked else None
        if QUOTE in value or (is_last and value.endswith(self._escape)):
            return None
        return value


class QuoteCounter:
    """Tells whether a quote is open behind a line, of lines in which every quote opens or closes."""

    def __init__(self, source: Source) -> None:
        self._escape = source.escape if source.escape != QUOTE else None
        if self._escape is not None:
            at = re.escape(self._escape)
            self._escaped = re.compile(rf'{at}["{at}]')

    def toggles(self, line: str) -> bool:
        """Whether a quote is open behind the line if none was before it, and the other way round."""
        if self._escape is not None and self._escape in line:
            line = self._escaped.sub("", line)
        return line.count(QUOTE) % 2 == 1


def _marked_character(found: re.Match[str]) -> str:
    return found.group(1) or found.group(2)


def _has_escapes(line: str) -> bool:
    return f"{BACKSLASH}{BACKSLASH}" in line or f"{BACKSLASH}{QUOTE}" in line


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


class RecordWriter:
    """Writes records as :class:`Grammar` reads them under the same contract."""

    def __init__(self, source: Source) -> None:
        self._delimiter = source.delimiter
        self._escape = source.escape if source.escape != QUOTE else None
        self._grammar = Grammar.of(source, maximum_lines=1, maximum_characters=1)
        self._quoted = re.compile(f'["\r\n{re.escape(self._delimiter + (self._escape or ""))}]')
        self._unclear = source.escape is None
        self._trailing_delimiter = source.trailing_delimiter

    def line(self, values: list[str]) -> str:
        """A record with its line break."""
        quoted = [self._quote(value) if self._quoted.search(value) else value for value in values]
        if self._unclear and any(map(_has_escapes, quoted)):
            # What follows a quote at the head of each field tells that the backslashes are no escapes.
            quoted = [self._quote(value) for value in values]
        if self._trailing_delimiter and not values[-1]:
            quoted[-1] = QUOTE * 2  # so that no delimiter stands at the end
        return f"{self._delimiter.join(quoted) if len(values) > 1 or values[0] else QUOTE * 2}\n"

    def unreadable(self, raw: str) -> str:
        """A record whose fields can't be known as one that nobody can take for a good one."""
        found = self._grammar.next_record(_OneLine(raw))
        if found is not None and found.problem not in (None, UNCLOSED) and not _BREAK.search(raw):
            return f"{raw}\n"
        return f"{self._quote(raw)}\n"

    def _quote(self, value: str) -> str:
        if self._escape is not None:
            value = value.replace(self._escape, self._escape * 2).replace(QUOTE, self._escape + QUOTE)
        else:
            value = value.replace(QUOTE, QUOTE * 2)
        return f"{QUOTE}{value}{QUOTE}"


class _OneLine:
    """A line alone."""

    def __init__(self, line: str) -> None:
        self._lines = [line]

    def next(self) -> str | None:
        return self._lines.pop() if self._lines else None

    def put_back(self, lines: list[str]) -> None:
        self._lines.extend(reversed(lines))


class NotAsPlain(Exception):  # noqa: N818 - what it is, not what went wrong
    """A reader that knows doubled quotes alone would read a block otherwise, or might."""


class BlockGuard:
    """Sees to it that blocks mean the same to a reader that knows doubled quotes alone.

    The blocks are those of one file, in order; each begins and ends between two lines. ``quoted`` is
    whether any had a quote, ``bare`` whether any had one that neither opens nor closes, and ``open`` whether
    a quote is open behind the last one.

    Args:
        trailing_delimiter: whether a delimiter at the end of a line begins no field; it is taken away.
    """

    def __init__(self, source: Source, *, trailing_delimiter: bool = False) -> None:
        self.quoted = False
        self.bare = False
        self.open = False
        self._escape = source.escape
        self._escape_byte = (BACKSLASH if source.escape in (None, QUOTE) else source.escape).encode()
        self._trailing = source.delimiter.encode() if trailing_delimiter else None
        self._delimiter = ord(source.delimiter)
        self._before = _table(source.delimiter, "\n", "\r", QUOTE)
        self._at_head = _table(source.delimiter, "\n", "\r")
        self._marked = _table(QUOTE, self._escape_byte.decode())
        self._outside = _table(QUOTE, self._escape_byte.decode(), "\n", "\r")

    def plain(self, block: bytes) -> bytes:
        """The block with every quote within quotes doubled, and no escapes or trailing delimiters.

        Raises:
            NotAsPlain: the block has, or may have, what only :class:`Grammar` can judge.
        """
        if b'"' in block:
            self.quoted = True
        elif self._escape in (None, QUOTE) or self._escape_byte not in block:
            # Where a quote is open, the whole block is text.
            return block if self._trailing is None or self.open else self._cut(block, self._trailing)
        codes = np.frombuffer(block, np.uint8)
        if self._trailing is None and (self._escape == QUOTE or self._escape_byte not in block):
            was_open = self.open
            if all(self._is_strict(part) for part in _parts(block, codes)):
                return block
            self.open = was_open
        quotes = np.flatnonzero(codes == ord(QUOTE))
        escapes: NDArray[np.intp] | None = None
        if self._escape != QUOTE and self._escape_byte in block:
            escapes = np.flatnonzero(codes == ord(self._escape_byte))
            # Every second one of a run is what the one before it stands for.
            starts = np.flatnonzero(np.diff(escapes, prepend=-2) != 1)
            run = np.arange(len(escapes)) - np.repeat(starts, np.diff(np.append(starts, len(escapes))))
            escapes = escapes[run % 2 == 0]
        if self._escape is None and escapes is not None:
            self._refuse_ambiguous(codes, quotes, escapes)
        if self._escape in (None, QUOTE) or escapes is None:
            was_open = self.open
            is_bare = not self._check(codes, quotes, may_be_bare=True)
            trailing = self._trailing_in(codes, quotes[:0] if is_bare else quotes, was_open=was_open)
            return np.delete(codes, trailing).tobytes() if len(trailing) else block
        return self._doubled(codes, quotes, escapes)

    def _is_strict(self, codes: NDArray[np.uint8]) -> bool:
        """Whether each quote opens or closes, as :meth:`_check` has it, found for 64 bytes at once."""
        is_quote = codes == ord(QUOTE)
        is_beside = is_quote | (codes == ord("\n"))
        is_beside |= codes == ord("\r")
        is_beside |= codes == self._delimiter
        quote, beside = _words(is_quote), _words(is_beside)
        # Whether a quote is open behind each byte: the parity of the quotes up to there.
        is_open = quote.copy()
        for shift in (1, 2, 4, 8, 16, 32):
            is_open ^= is_open << np.uint64(shift)
        last = np.uint64(63)
        carried = np.bitwise_xor.accumulate(is_open >> last)
        carried ^= np.uint64(self.open)
        is_open[1:] ^= _ALL_BITS * carried[:-1]
        is_open[0] ^= _ALL_BITS * np.uint64(self.open)
        before, behind = beside << np.uint64(1), beside >> np.uint64(1)
        before[1:] |= beside[:-1] >> last
        before[0] |= np.uint64(1)  # a line break is before the first byte, and is the last one
        behind[:-1] |= beside[1:] << last
        self.open = bool(is_open[-1] >> last)
        return not ((quote & is_open & ~before).any() or (quote & ~is_open & ~behind).any())

    def _check(self, codes: NDArray[np.uint8], quotes: NDArray[np.intp], *, may_be_bare: bool) -> bool:
        """Keep track of open quotes: whether each one opens or closes, and has next to it what it needs."""
        first = int(self.open)
        opening, closing = quotes[first::2], quotes[1 - first :: 2]
        # The last byte of a block is a line break: it closes no quote, and what is before the first one too.
        before = codes[opening - 1]
        if self._before[before].all() and self._before[codes[closing + 1]].all():
            self.open = bool((len(quotes) + first) % 2)
            return True
        # Without a quote at the head of a field, each one is a character like any other.
        if not may_be_bare or self.open or self._at_head[codes[quotes - 1]].any():
            raise NotAsPlain
        self.bare = True
        return False

    def _cut(self, block: bytes, delimiter: bytes) -> bytes:
        """A block without quotes, without its trailing delimiters."""
        if b"\r" in block or block.startswith(delimiter + b"\n") or b"\n%b\n" % delimiter in block:
            codes = np.frombuffer(block, np.uint8)
            trailing = self._trailing_in(codes, np.empty(0, np.intp), was_open=False)
            return np.delete(codes, trailing).tobytes()
        return block.replace(delimiter + b"\n", b"\n")

    def _trailing_in(
        self, codes: NDArray[np.uint8], quotes: NDArray[np.intp], *, was_open: bool
    ) -> NDArray[np.intp]:
        """Where trailing delimiters stand outside ``quotes``, the first of which closes if ``was_open``."""
        if self._trailing is None:
            return np.empty(0, np.intp)
        # The last byte is a line break, so that each delimiter has a byte behind it.
        found = np.flatnonzero(codes == ord(self._trailing))
        found = found[_LINE_BREAKS[codes[found + 1]]]
        found = found[(np.searchsorted(quotes, found) + was_open) % 2 == 0]
        # A line of a delimiter alone would be a blank one.
        if len(found) and (found[0] == 0 or _LINE_BREAKS[codes[found - 1]].any()):
            raise NotAsPlain
        trailing: NDArray[np.intp] = found
        return trailing

    def _refuse_ambiguous(
        self, codes: NDArray[np.uint8], quotes: NDArray[np.intp], escapes: NDArray[np.intp]
    ) -> None:
        followed = codes[escapes + 1]
        if (followed == ord(QUOTE)).any():
            raise NotAsPlain
        doubled = escapes[followed == ord(self._escape_byte)]
        within = (np.searchsorted(quotes, doubled) + self.open) % 2 == 1
        if within.any():
            raise NotAsPlain

    def _doubled(
        self, codes: NDArray[np.uint8], quotes: NDArray[np.intp], escapes: NDArray[np.intp]
    ) -> bytes:
        marked = np.zeros(len(codes) + 1, dtype=bool)
        marked[escapes + 1] = True
        structural = quotes[~marked[quotes]]
        within = (np.searchsorted(structural, escapes) + self.open) % 2 == 1
        followed = codes[escapes + 1]
        if not self._marked[followed[within]].all() or self._outside[followed[~within]].any():
            raise NotAsPlain
        was_open = self.open
        self._check(codes, structural, may_be_bare=False)
        trailing = self._trailing_in(codes, structural, was_open=was_open)
        changed = codes.copy()
        before_quote = within & (followed == ord(QUOTE))
        changed[escapes[before_quote]] = ord(QUOTE)
        dropped = escapes[within & ~before_quote]
        return np.delete(changed, np.append(dropped, trailing)).tobytes()


def _parts(block: bytes, codes: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """A block in parts that end with line breaks."""
    at = 0
    while at < len(block):
        end = block.rfind(b"\n", at, at + _STRIDE_BYTES) + 1 or len(block)
        yield codes[at:end]
        at = end


def _words(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """A mask as bits of words, the first in the lowest place."""
    packed = np.packbits(mask, bitorder="little")
    return np.pad(packed, (0, -len(packed) % 8)).view("<u8").astype(np.uint64, copy=False)


def _table(*characters: str) -> NDArray[np.bool_]:
    """By byte, whether it is one of these characters."""
    table = np.zeros(256, dtype=bool)
    for character in characters:
        if character.isascii():
            table[ord(character)] = True
    return table


#: Bytes that are looked at together: as many as stay in the processor's cache with what is made of them.
_STRIDE_BYTES = 1 << 20
_ALL_BITS = np.uint64(2**64 - 1)
_LINE_BREAKS = _table("\n", "\r")
