"""Reading YAML that others have written: what a contract may be, within bounds, and nothing that runs.

The bounds are far beyond any real contract, and low enough that whatever they let through is read within a
second. What the content means is :mod:`.product`'s business.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

#: Bytes of a contract: a thousand columns with all their keys take about 100,000.
MAXIMUM_BYTES = 256 * 1024
#: Levels of nesting; a contract of today has six.
MAXIMUM_DEPTH = 24
#: Values of a contract when every alias is written out; a thousand columns have about 10,000.
MAXIMUM_VALUES = 50_000


class YamlError(Exception):
    """A text is not YAML, or is beyond the bounds; the message says where and what is accepted."""


class _Rules(Composer, SafeConstructor, Resolver):
    """No key twice, of words only true and false are booleans, as in YAML 1.2, and bounded nesting.

    Otherwise a country NO and the key ``on`` would be booleans, and a later key would replace an earlier one.
    """

    depth = 0
    peek_event: Callable[[], yaml.Event]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.depth >= MAXIMUM_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"is nested deeper than {MAXIMUM_DEPTH} levels",
                problem_mark=cast("yaml.Mark", self.peek_event().start_mark),
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_document(self, node: yaml.Node) -> Any:
        _refuse_large(node)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.MarkedYAMLError(problem="a key is a word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOLEAN = "tag:yaml.org,2002:bool"
_Rules.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Rules.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class _Loader(_Rules, yaml.SafeLoader):
    """PyYAML's own parser, whose errors quote the line."""

    def __init__(self, text: str) -> None:
        yaml.SafeLoader.__init__(self, text)


def _fast_loader() -> type[_Rules] | None:
    """The same rules on libyaml's parser, several times as fast; None where PyYAML was built without it."""
    if not yaml.__with_libyaml__:
        return None

    class FastLoader(_Rules, yaml.CSafeLoader):
        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)

    return FastLoader


_FastLoader = _fast_loader()
#: Tags, and byte order marks within a text: the parsers make different values of some.
_READ_DIFFERENTLY = frozenset("!\ufeff")


def _refuse_large(document: yaml.Node) -> None:
    """Refuse a document that is endless, or too large, when its aliases are written out.

    Raises:
        yaml.MarkedYAMLError: it is.
    """
    sizes: dict[int, int] = {}
    above: Counter[int] = Counter()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if above[id(node)]:
            raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
        above[id(node)] += 1
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        total = 1 + sum(size(child) for child in children)
        if total > MAXIMUM_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"holds more than {MAXIMUM_VALUES:,} values with its aliases written out",
                problem_mark=node.start_mark,
            )
        sizes[id(node)] = total
        return total

    size(document)


def read_yaml(path: Path) -> Any:
    """The content of a file.

    Raises:
        YamlError: it can't be read, is no regular file, is too large, or is not YAML.
    """
    try:
        if not path.is_file():
            raise YamlError("can't be read: it is not a file")
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except (OSError, ValueError) as error:
        raise YamlError(f"can't be read: {error}") from error
    if len(content) > MAXIMUM_BYTES:
        raise YamlError(f"is larger than {MAXIMUM_BYTES:,} bytes, which no contract is")
    try:
        return parse_yaml(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise YamlError(f"can't be read: {error}") from error


def parse_yaml(text: str) -> Any:
    """The content of a text.

    Raises:
        YamlError: it is not YAML, or beyond the bounds.
    """
    if _FastLoader is not None and _READ_DIFFERENTLY.isdisjoint(text):
        # Whatever it refuses is read again below, for a message that quotes the line.
        with contextlib.suppress(Exception):
            return yaml.load(text, Loader=cast("type[yaml.CSafeLoader]", _FastLoader))  # noqa: S506
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlError(f"is not valid YAML: {error or type(error).__name__}") from error
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:
        # What is written like a number or a date and is none: 2024-13-45, or a number of 5,000 digits.
        raise YamlError(f"is not valid YAML: a value can't be read: {error}") from error
