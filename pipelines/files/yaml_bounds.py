"""YAML within bounds: a text that may come from anyone takes no more memory and time than a large params.yaml would."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cgankd.config import ConfigError

MAX_YAML = 2**19
"""Letters of the largest YAML text that is read; the largest preset has 8,000, and this many take some seconds."""
MAX_DEPTH = 32
"""Levels of lists and mappings within each other; params.yaml has 6."""
MAX_WHOLE = 4 * MAX_YAML
"""Letters and nodes of a text with every alias written out."""
MAX_DIGITS = 100
"""Letters of a number."""


def bounded(kind: str, text: str, name: str) -> YAML:
    """A reader of this kind ("safe" or "rt") that refuses what is too deep or too large once its aliases are followed.

    `name` stands for the file. Raises ConfigError where the text alone is too long.
    """
    if len(text) > MAX_YAML:
        raise ConfigError(f"{name} has {len(text)} letters, more than the {MAX_YAML} that are read; shorten it")
    yaml = YAML(typ=kind, pure=True)

    class Named(BoundedComposer):
        source = name

    yaml.Composer = Named
    return yaml


class BoundedComposer(Composer):
    """A composer that counts, while it goes, how large a document is with every alias in its place.

    A few hundred bytes of aliases to lists of aliases stand for gigabytes to whoever prints or copies them.
    """

    source = ""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.sizes: dict[int, int] = {}
        self.levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node. Raises ConfigError, naming the line, where a bound is passed."""
        event = self.parser.peek_event()
        line = f"{self.source}, line {event.start_mark.line + 1}"
        if self.levels >= MAX_DEPTH:
            raise ConfigError(f"{line}: more than {MAX_DEPTH} lists and mappings within each other; flatten it")
        self.levels += 1
        node = super().compose_node(parent, index)
        self.levels -= 1
        if isinstance(event, AliasEvent) and id(node) not in self.sizes:
            raise ConfigError(f"{line}: the alias {str(event.anchor)[:40]!r} stands within what it names; write it out")
        size = self.sizes.setdefault(id(node), self._size(node, line))
        if size > MAX_WHOLE:
            raise ConfigError(f"{line}: aliases make this larger than {MAX_WHOLE} letters; write out what is meant")
        return node

    def _size(self, node: Node, line: str) -> int:
        """Nodes and letters below a node, of an alias those that it stands for."""
        if isinstance(node, MappingNode):
            return 1 + sum(self.sizes[id(key)] + self.sizes[id(value)] for key, value in node.value)
        if isinstance(node, SequenceNode):
            return 1 + sum(self.sizes[id(item)] for item in node.value)
        assert isinstance(node, ScalarNode)
        if len(node.value) > MAX_DIGITS and str(node.tag).endswith((":int", ":float")):
            raise ConfigError(f"{line}: a number of {len(node.value)} digits; at most {MAX_DIGITS} are read")
        return 1 + len(node.value)
