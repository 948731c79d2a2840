"""Lines and tables that fit the window: nothing is cut off, and what is copied stays whole.

A word that is longer than the window, such as a path, has a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from ml_platform.cli.console import console

#: Between two columns of a table.
_GAP = "  "
#: How far the notes of a row stand in.
_INDENT = 4
#: How much farther the further lines of a note or a command stand in.
_HANGING = 2
#: A word of a command: what stands in quotes is not torn apart.
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+|["']""")


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: a value for each heading.
        notes: what is too long for a column; each begins on a line of its own below the cells.
    """

    cells: Sequence[str]
    notes: Sequence[str] = ()


def say(text: str, *, indent: int = 0, hanging: int | None = None, style: str = "") -> None:
    """Print a paragraph, broken between words.

    Args:
        indent: columns that the first line stands in.
        hanging: columns that the further lines stand in, if not as many as the first one.
    """
    rest = indent if hanging is None else hanging
    for paragraph in text.splitlines() or [""]:
        for number, line in enumerate(_filled(paragraph.split(), console.width - max(indent, rest))):
            _print(" " * (rest if number else indent) + line, style)


def say_command(command: str, *, indent: int = 2) -> None:
    """Print a command that can be copied as it stands: where it is broken, the line ends with a backslash."""
    words: list[str] = []
    for word in _WORD.findall(command):
        # An option and its value belong together.
        if words and words[-1].startswith("--") and " " not in words[-1] and not word.startswith(("-", "&")):
            words[-1] += f" {word}"
        else:
            words.append(word)
    whole = _filled(words, console.width - indent)
    lines = whole if len(whole) == 1 else _filled(words, console.width - indent - _HANGING - len(" \\"))
    for number, line in enumerate(lines):
        more = " \\" if number < len(lines) - 1 else ""
        _print(" " * (indent + _HANGING * bool(number)) + line + more, "")


def _filled(words: Sequence[str], room: int) -> list[str]:
    """Words in as few lines of so many columns as they need; a longer word has a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def print_table(
    title: str, headings: Sequence[str], rows: Sequence[Row], *, right: Sequence[str] = ()
) -> None:
    """Print a table; columns that the window has no room for become notes of their rows.

    Args:
        right: the headings of columns of numbers.
    """
    shown = _columns_that_fit(headings, rows)
    if title:
        say(title, style="italic")
    widths = _widths(headings, rows)[:shown]
    aligned = [heading in right for heading in headings]
    if rows:
        _print(_line(headings[:shown], widths, aligned), "bold")
    for row in rows:
        _print(_line(row.cells[:shown], widths, aligned), "")
        for heading, cell in zip(headings[shown:], row.cells[shown:], strict=True):
            say(f"{heading}: {cell}", indent=_INDENT, hanging=_INDENT + _HANGING)
        for note in row.notes:
            say(note, indent=_INDENT, hanging=_INDENT + _HANGING)


def _columns_that_fit(headings: Sequence[str], rows: Sequence[Row]) -> int:
    widths = _widths(headings, rows)
    shown = len(widths)
    while shown > 1 and sum(widths[:shown]) + len(_GAP) * (shown - 1) > console.width:
        shown -= 1
    return shown


def _widths(headings: Sequence[str], rows: Sequence[Row]) -> list[int]:
    return [
        max(cell_len(text) for text in (heading, *(row.cells[number] for row in rows)))
        for number, heading in enumerate(headings)
    ]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_right in zip(cells, widths, right, strict=False):
        blank = " " * (width - cell_len(cell))
        padded.append(blank + cell if to_right else cell + blank)
    return _GAP.join(padded).rstrip()


def _print(line: str, style: str) -> None:
    """Print one line as it is, whatever the width of the window."""
    console.print(Text(line, style=style), soft_wrap=True)
