"""An expression's text as a syntax tree of sqlglot, and where in the text each part of it is written.

The text is looked at word by word before it is parsed: whatever the parser would pass over in silence, take
for a statement, or need too deep a stack for is refused here.
"""

from __future__ import annotations

import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.tokenizer_core import Token

#: Characters of an expression.
LONGEST_TEXT = 2_000
#: How deep parentheses, functions, cases and signs may lie within each other.
DEEPEST_TEXT = 25

_SPACE = r"[ \t\r\n]"
_BLANK = re.compile(rf"(?:{_SPACE}|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"[^\W\d]\w*")
_TEXT = re.compile(r"'(?:[^']|'')*'")
_NAME = re.compile(r'"(?:[^"]|"")+"')
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIGNS = frozenset(
    ["(", ")", ",", "+", "-", "*", "/", "%", "||", "::", "=", "<>", "!=", "<", "<=", ">", ">="]
)
_QUOTED = re.compile(rf"{_TEXT.pattern}|{_NAME.pattern}|--[^\n]*|/\*.*?\*/|.", re.DOTALL)

_INSTEAD = {
    ";": "an expression is one value; nothing is accepted after it",
    ".": "a column is named without its table; a name with a dot is written in double quotes, and a number "
    "begins with a digit",
    "//": "the accepted division is /, which gives a double; cast floor(a / b) to long",
    "**": "write power(a, b)",
    "^": "write power(a, b)",
    "==": "write =",
    "[": "lists aren't accepted",
    "{": "structs aren't accepted",
    "?": "parameters aren't accepted",
    "$": "parameters aren't accepted",
    "~": "regular expressions aren't accepted",
}
#: Words that are accepted nowhere without quotes, and what they would begin.
_NOT_HERE = {
    "select": "subqueries and statements aren't accepted; an expression is of the columns of one row",
    "exists": "subqueries aren't accepted; an expression is of the columns of one row",
    "over": "window functions aren't accepted; an expression is of the columns of one row",
    "ilike": "write lower(a) like 'b%'",
    "glob": "write like, with % and _",
    "similar": "regular expressions aren't accepted",
    "rlike": "regular expressions aren't accepted",
    "regexp": "regular expressions aren't accepted",
    "all": "nothing of that kind is accepted",
    "any": "nothing of that kind is accepted; write in (...)",
    "collate": "texts are compared by their characters' code points",
    "interval": "date + days and date_diff('day', a, b) are accepted",
    "isnull": "write is null",
    "notnull": "write is not null",
    "unknown": "write null",
    "symmetric": "write the smaller bound first",
}
#: Statements, by their first word; each is the name of a column if nothing but a sign follows.
_STATEMENTS = _words(
    "alter attach call copy create delete describe detach drop explain export from grant insert install load "
    "merge pragma set show truncate update use values with"
)
#: Words that a text follows which isn't of the type that they name.
_BEFORE_TEXT = _words("not and or when then else case is in like between from for escape")
_TYPES_WITH_SIZES = _words("varchar char bpchar text string")


class Place:
    """An expression's text, and how to say that something at a place in it is wrong."""

    def __init__(self, text: str) -> None:
        self.text = text

    def error(self, offset: int | None, message: str) -> ValueError:
        if offset is None:
            offset = len(self.text) - len(self.text.lstrip())
        line, column = self.text.count("\n", 0, offset) + 1, offset - self.text.rfind("\n", 0, offset)
        where = f"line {line}, column {column}" if "\n" in self.text.strip() else f"column {column}"
        return ValueError(f"{where}: {message}")

    def of(self, part: exp.Expr) -> int | None:
        """Where a part of the syntax tree begins, as far as that is known."""
        return min((node.meta["start"] for node in part.walk() if "start" in node.meta), default=None)

    def written(self, part: exp.Expr) -> str:
        """What the text says for a name, a number or a text."""
        return self.text[part.meta["start"] : part.meta["end"] + 1]


def syntax_tree(text: str) -> exp.Expr:
    """An expression's text as parsed.

    Raises:
        ValueError: it is no expression, or more than one, or one that is too long or nested too deep.
    """
    place = Place(text)
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"an expression of {len(text):,} characters; {LONGEST_TEXT:,} are accepted")
    _check_characters(place)
    tokens = _tokens(place)
    if not tokens:
        raise ValueError("an expression is empty; accepted is one like price * quantity")
    _check_tokens(place, tokens)
    _check_depth(place, tokens)
    try:
        return _parsed(place, tokens)
    except RecursionError:
        # Of the caller's stack too little is left; a thread has one of its own.
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(_parsed, place, tokens).result()


def kind(part: exp.Expr | None) -> str:
    """The name of a part's class."""
    return type(part).__name__


def is_text(part: exp.Expr) -> bool:
    """Whether a part is a text in quotes."""
    return kind(part) == "Literal" and bool(part.is_string)


def bare(part: exp.Expr) -> exp.Expr:
    """A part without the parentheses around it."""
    while kind(part) == "Paren":
        part = part.this
    return part


def shortened(source: str) -> str:
    """A piece of the text as it stands in a message."""
    return source if len(source) <= _LONGEST_SHOWN else f"{source[:_LONGEST_SHOWN]}..."


#: Characters of a piece of the text in a message.
_LONGEST_SHOWN = 60


def unquoted(written: str) -> str:
    """What a text in quotes says."""
    return written[1:-1].replace("''", "'")


def _check_characters(place: Place) -> None:
    for offset, character in enumerate(place.text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\r\n":
            raise place.error(offset, f"the character U+{ord(character):04X} isn't accepted")
    for match in _QUOTED.finditer(place.text):
        match match[0]:
            case "'":
                raise place.error(match.start(), "the text that begins here has no closing quote")
            case '"':
                raise place.error(
                    match.start(), "the name that begins here is empty, or has no closing double quote"
                )
            case "/" if place.text.startswith("/*", match.start()):
                raise place.error(match.start(), "the comment that begins here isn't closed by */")


def _tokens(place: Place) -> list[Token]:
    from sqlglot.errors import TokenError

    try:
        return _dialect()[0].tokenize(place.text)  # type: ignore[no-any-return]
    except TokenError as error:
        raise ValueError(f"{place.text!r} is no expression: {error}") from error


def _check_tokens(place: Place, tokens: list[Token]) -> None:
    """See that the text is made of known words and signs alone, with nothing else between them."""
    text, end = place.text, 0
    sources = [text[token.start : token.end + 1] for token in tokens]
    for number, (token, source) in enumerate(zip(tokens, sources, strict=True)):
        gap = _BLANK.match(text, end)
        if gap is None or gap.end() < token.start:
            raise _misplaced(place, gap.end() if gap else end)
        end = token.end + 1
        following = sources[number + 1] if number + 1 < len(sources) else ""
        lower = source.lower()
        if _WORD.fullmatch(source):
            if (why := _NOT_HERE.get(lower)) and not (lower == "any" and following == "("):
                raise place.error(token.start, f"{source} can't stand here: {why}; {_IF_A_NAME}")
            if number == 0 and lower in _STATEMENTS and following and _begins_operand(following):
                raise place.error(
                    token.start, f"{source} begins a statement; only an expression of columns is accepted"
                )
            if lower in _TYPES_WITH_SIZES and following == "(":
                raise place.error(token.start, f"the type {source} takes no length here")
            after = sources[number + 2] if number + 2 < len(sources) else ""
            if after == "::" and _TEXT.fullmatch(following) and lower not in _BEFORE_TEXT:
                # The parser would cast the text alone first.
                raise place.error(
                    tokens[number + 2].start,
                    "put what is cast in parentheses, as (DATE '2024-01-31')::string",
                )
            if lower == "if" and following != "(":
                raise place.error(token.start, f"write if(condition, value, other value); {_IF_A_NAME}")
        elif _WORD.match(source) and (quote := source[1:2]) in ("'", '"'):
            raise place.error(token.start, f"a text or a name has nothing before its {quote}")
        elif not (
            source in _SIGNS
            or _TEXT.fullmatch(source)
            or _NAME.fullmatch(source)
            or _number(source, text[end : end + 1])
        ):
            raise place.error(token.start, _not_accepted(source))
    rest = _BLANK.match(text, end)
    if rest is None or rest.end() < len(text):
        raise _misplaced(place, rest.end() if rest else end)


def _misplaced(place: Place, offset: int) -> ValueError:
    return place.error(offset, f"the character U+{ord(place.text[offset]):04X} isn't accepted here")


_IF_A_NAME = "if it is a column, write its name in double quotes"


def _begins_operand(source: str) -> bool:
    return bool(_WORD.match(source)) or source[0] in "'\"*" or source[0].isdigit()


def _number(source: str, after: str) -> bool:
    return bool(_NUMBER.fullmatch(source)) and not _WORD.fullmatch(after)


def _not_accepted(source: str) -> str:
    source = source if source.isprintable() else ascii(source)
    if source[:1].isdigit():
        return f"{shortened(source)} is followed by something, or no number; write one like 10, 2.5 or 1e-3"
    why = _INSTEAD.get(source) or _INSTEAD.get(source[:1])
    return f"{shortened(source)} isn't accepted" + (f"; {why}" if why else "")


def _check_depth(place: Place, tokens: list[Token]) -> None:
    """See that the parser, which calls itself for each level, can't run out of stack."""
    open_, signs = 0, 0
    before = ""
    for token in tokens:
        source = place.text[token.start : token.end + 1].lower()
        prefix = source == "not" or (source in ("-", "+") and (not before or before in _BEFORE_OPERAND))
        signs = signs + 1 if prefix else 0
        if source in ("(", "case"):
            open_ += 1
        elif source in (")", "end"):
            open_ = max(0, open_ - 1)
        if open_ + signs > DEEPEST_TEXT:
            raise place.error(token.start, f"nested deeper than {DEEPEST_TEXT} levels")
        before = source


_BEFORE_OPERAND = _SIGNS - {")"} | _words("not and or when then else case is in like between")


def _parsed(place: Place, tokens: list[Token]) -> exp.Expr:
    from sqlglot import exp
    from sqlglot.errors import ParseError

    dialect, parser = _dialect()
    try:
        (tree,) = parser(dialect=dialect).parse_into(exp.Condition, tokens, place.text)
    except ParseError as error:
        raise _syntax_error(place, tokens, error) from error
    if tree is None:
        raise place.error(tokens[0].start, "this isn't an expression")
    return tree  # type: ignore[no-any-return]


def _syntax_error(place: Place, tokens: list[Token], error: Any) -> ValueError:
    first = error.errors[0] if error.errors else {}
    at = [token for token in tokens if (token.line, token.col) == (first.get("line"), first.get("col"))]
    token = at[0] if at else tokens[-1]
    source = shortened(place.text[token.start : token.end + 1])
    description = str(first.get("description", ""))
    match description:
        case _ if description.startswith("position("):
            return place.error(token.start, description)
        case "Expecting )":
            return place.error(token.start, f"a closing parenthesis is missing after {source}")
        case "Expected END after CASE":
            return place.error(token.start, f"the end of a case is missing after {source}")
        case _ if source == ",":
            return place.error(token.start, "a comma, but an expression is one value")
        case _ if description.startswith("Required keyword"):
            return place.error(token.start, f"something is missing after {source}")
    return place.error(
        token.start,
        f"{source} can't stand here; a column whose name is a word of SQL, or has spaces or other signs, is "
        'written in double quotes, as "order"',
    )


@cache
def _dialect() -> tuple[Any, Any]:
    """DuckDB's dialect, and a parser that takes functions as written, but for those with keywords."""
    from sqlglot import exp
    from sqlglot.dialects.duckdb import DuckDB
    from sqlglot.parsers.duckdb import DuckDBParser
    from sqlglot.tokenizer_core import TokenType

    def position(parser: Any) -> exp.Expr:
        wanted = parser._parse_bitwise()
        if not parser._match(TokenType.IN):
            parser.raise_error("position('a' in b) is accepted, or strpos(b, 'a')")
        return exp.StrPosition(this=parser._parse_bitwise(), substr=wanted)

    class Parser(DuckDBParser):
        FUNCTIONS = {}
        NO_PAREN_FUNCTIONS = {}
        NO_PAREN_FUNCTION_PARSERS = {"CASE": DuckDBParser.NO_PAREN_FUNCTION_PARSERS["CASE"]}
        FUNCTION_PARSERS = {
            **{
                name: DuckDBParser.FUNCTION_PARSERS[name]
                for name in ("CAST", "TRY_CAST", "EXTRACT", "SUBSTRING")
            },
            "POSITION": position,
        }

    return DuckDB(), Parser
