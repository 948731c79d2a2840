"""Where the records of a file stand that Arrow has read: in lines, counted with their quotes."""

from __future__ import annotations

import codecs
import io
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ml_platform.contract.source import QUOTE, Source
from ml_platform.data_engineering import files, limits
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.exact_reader import LONGEST_MARK, encoding_of, open_text, without_end
from ml_platform.data_engineering.quoting import QuoteCounter
from ml_platform.data_engineering.typed_records import Place

#: Bytes of a file up to which its lines are looked for in memory, all at once.
_IN_MEMORY_BYTES = 32 << 20


class _PlainLines:
    """The lines of a small file without any quote, in UTF-8: each is a record, but for blank ones."""

    def __init__(self, content: bytes, encoding: str) -> None:
        text = content.removeprefix(codecs.BOM_UTF8) if encoding == "utf-8-sig" else content
        self._content = text
        codes = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(codes == ord("\n")) + 1
        self._ends = ends if text.endswith(b"\n") or not text else np.append(ends, len(text))
        self._starts = np.concatenate([[0], self._ends[:-1]]).astype(np.intp)[: len(self._ends)]
        lengths = self._ends - self._starts
        is_blank = lengths == 1
        two = np.flatnonzero(lengths == 2)
        is_blank[two] = codes[self._starts[two]] == ord("\r")
        # The file may end without a line break, in one character.
        is_blank[-1:] &= text.endswith(b"\n")
        self._lines = np.flatnonzero(~is_blank)
        self.longest = int(lengths.max(initial=0))

    @classmethod
    def of(cls, file: DeliveryFile, source: Source) -> _PlainLines | None:
        """Those of a file, if it is one whose lines are found like that."""
        if file.likely_bytes > _IN_MEMORY_BYTES and file.rules.part is None:
            return None
        with files.open_bytes(file.path, file.rules) as stream:
            content = b"" if stream.packed else stream.read()
        encoding = encoding_of(content[:LONGEST_MARK], source)
        breaks_alone = content.count(b"\r") != content.count(b"\r\n")
        if encoding not in ("utf-8", "utf-8-sig") or QUOTE.encode() in content or breaks_alone or not content:
            return None
        lines = cls(content, encoding)
        return lines if lines.longest <= min(file.rules.line_characters, limits.RECORD_CHARACTERS) else None

    def find(self, numbers: Sequence[int]) -> list[Place]:
        """Where the records of these numbers stand; the header is that before number 0.

        Raises:
            pa.ArrowInvalid: there are not so many.
        """
        if numbers and max(numbers) + 1 >= len(self._lines):
            raise pa.ArrowInvalid("only the exact tokenizer knows where its records end")
        found = []
        for line in self._lines[np.asarray(numbers, dtype=np.intp) + 1].tolist():
            raw = self._content[self._starts[line] : self._ends[line]].decode("utf-8", "surrogateescape")
            found.append(Place(line + 1, without_end(raw)))
        return found


class RecordLines:
    """The lines of a file in which every quote opens or closes: they tell where its records stand."""

    def __init__(self, file: DeliveryFile, source: Source) -> None:
        self._file = file
        self._source = source
        self._quotes = QuoteCounter(source)
        self._records: Iterator[Place] | None = None
        self._text: io.TextIOWrapper | None = None
        self._next = -1  # the header
        self._plain: _PlainLines | None = None
        self._looked = False

    def find(self, numbers: Sequence[int]) -> list[Place]:
        """Where the records of these numbers stand; they ascend, from one call to the next too.

        Raises:
            pa.ArrowInvalid: one of them is longer than a record can be.
        """
        if not self._looked:
            self._looked, self._plain = True, _PlainLines.of(self._file, self._source)
        if self._plain is not None:
            return self._plain.find(numbers)
        if self._records is None:
            self._records = self._read()
        found = []
        for number in numbers:
            skipped = number - self._next
            place = next(itertools.islice(self._records, skipped, None), None)
            if place is None or not _is_possible(place.raw):
                raise pa.ArrowInvalid("only the exact tokenizer knows where its records end")
            found.append(Place(place.line, without_end(place.raw)))
            self._next = number + 1
        return found

    def _read(self) -> Iterator[Place]:
        """The records, with the line breaks at their ends; a blank line is none."""
        self._text = open_text(self._file.path, self._source, self._file.rules)
        first, taken = 0, ""
        for number, line in enumerate(files.text_lines(self._text, self._file.rules), start=1):
            if taken:
                taken += line
                if len(taken) > limits.RECORD_CHARACTERS and not _is_possible(taken):
                    raise pa.ArrowInvalid("a record goes on for too long")
            elif line in ("\n", "\r\n", "\r"):
                continue
            else:
                first, taken, is_open = number, line, False
            is_open ^= self._quotes.toggles(line)
            if not is_open:
                yield Place(first, taken)
                taken = ""

    def close(self) -> None:
        if self._text is not None:
            self._text.close()


def _is_possible(raw: str) -> bool:
    """Whether a record can be that long."""
    lines = raw.count("\n") + raw.count("\r")
    return lines < limits.RECORD_LINES and (lines < 2 or len(raw) < limits.RECORD_CHARACTERS)
