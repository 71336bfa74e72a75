"""In which line of a TOML document each of its keys and elements stands. The values come from `tomllib`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tree_sitter import Node

Path: TypeAlias = tuple[str | int, ...]
"""The keys and the indices, from 0, that lead to a value."""


class Positions:
    """The lines of one document, counted from 1.

    A key stands where it is first mentioned, an element of an array where it begins, a table under a header
    where its header is.
    """

    def __init__(self, text: str) -> None:
        """Read a document that `tomllib` has accepted. Raise `RecursionError` if it is nested too deeply."""
        import tree_sitter_toml  # noqa: PLC0415 - only for who has a file
        from tree_sitter import Language, Parser  # noqa: PLC0415 - the same

        tree = Parser(Language(tree_sitter_toml.language())).parse(text.encode(errors="replace"))
        self._lines: dict[Path, int] = {(): 1}
        self._elements: dict[Path, int] = {}
        self._document(tree.root_node)

    def line(self, path: Path) -> int:
        """Return the line of a value, or of the nearest thing around it whose line is known."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _document(self, document: Node) -> None:
        for node in document.named_children:
            if node.type == "pair":
                self._pair((), node)
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def _table(self, table: Node) -> None:
        """Note a table with a header, or another element of an array of tables."""
        header, *pairs = (node for node in table.named_children if node.type != "comment")
        path: Path = ()
        keys = list(_keys(header))
        for index, key in enumerate(keys):
            path = (*path, key)
            self._note(path, header)
            if table.type == "table_array_element" and index == len(keys) - 1:
                self._elements[path] = self._elements.get(path, 0) + 1
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
                self._note(path, header)
        for pair in pairs:
            self._pair(path, pair)

    def _pair(self, path: Path, pair: Node) -> None:
        """Note a key and what is inside its value."""
        if pair.type != "pair":
            return
        key, *values = (node for node in pair.named_children if node.type != "comment")
        for part in _keys(key):
            path = (*path, part)
            self._note(path, key)
        for value in values:
            self._value(path, value)

    def _value(self, path: Path, value: Node) -> None:
        if value.type == "inline_table":
            for pair in value.named_children:
                self._pair(path, pair)
        elif value.type == "array":
            elements = (node for node in value.named_children if node.type != "comment")
            for index, element in enumerate(elements):
                self._note((*path, index), element)
                self._value((*path, index), element)

    def _note(self, path: Path, node: Node) -> None:
        self._lines.setdefault(path, node.start_point.row + 1)


def _keys(node: Node) -> Iterator[str]:
    """Return the parts of a key, which is bare, quoted or dotted."""
    if node.type == "dotted_key":
        yield from _all_keys(node.named_children)
    elif node.type == "quoted_key":
        yield _unquoted(_text(node))
    else:
        yield _text(node)


def _unquoted(key: str) -> str:
    try:
        return next(iter(tomllib.loads(f"{key} = 0")))
    except tomllib.TOMLDecodeError:
        return key  # not a document that it has accepted


def _all_keys(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        yield from _keys(node)


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")
