"""YAML as plain data that remembers where each value stands.

PyYAML composes the node graph; scalars stay text, because ``glibc: 2.30`` read as a number would
become 2.3. Tags, duplicate keys and documents that grow without bound through aliases are errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vllm_conda.errors import ConfigError

Keys = tuple[str, ...]

_LARGEST_FILE = 1 << 20
_MOST_VALUES = 20_000
_NULLS = ("", "~", "null", "Null", "NULL")
_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map"))


class _Loader(yaml.SafeLoader):
    """Resolves no plain scalar to a number, date or truth value."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own attribute


@dataclass
class Document:
    """``data`` holds dicts, lists, strings and None; ``lines`` the place of each key."""

    name: str
    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)

    def place(self, keys: Keys) -> str:
        """``file:line: nodes.a.glibc``, the line of the nearest parent where ``keys`` has none."""
        for size in range(len(keys), -1, -1):
            if keys[:size] in self.lines:
                line = f":{self.lines[keys[:size]]}"
                break
        else:
            line = ""
        return f"{self.name}{line}" + (f": {'.'.join(keys)}" if keys else "")


def read_text(path: Path) -> str:
    """Text of a YAML file.

    Raises:
        ConfigError: Not there, not a file, too large, or not UTF-8; names file and line.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist.",
            "Start from an example: `vllm-conda solve --example leonardo --show > site.yaml`.",
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{path} is larger than 1 MiB, so it is not a site file.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 ({error.reason}).") from None


def parse_document(text: str, name: str) -> Document:
    """Parse YAML ``text``; ``name`` stands for the file in messages.

    Raises:
        ConfigError: Not YAML, or what no site file holds; names file and line.
    """
    document = Document(name)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{name}{_line(error)}: not valid YAML: {_what(error)}.", _hint(error)
        ) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{name}: not valid YAML: {reason}.") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply for a site file.") from None
    if root is not None:
        document.data = _Converter(document).convert(root, (), frozenset())
    return document


def _line(error: yaml.MarkedYAMLError) -> str:
    """Where it begins: what is never closed is noticed at the end of the file only."""
    at_end = "end" in (error.problem or "") and "stream" in (error.problem or "")
    marks = [error.problem_mark, error.context_mark]
    mark = next((mark for mark in (reversed(marks) if at_end else marks) if mark), None)
    return f":{mark.line + 1}" if mark else ""


def _what(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    both = (context, problem) if problem.startswith("but ") else (problem, context)
    return " ".join(part for part in both if part)


def _hint(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if "\\t" in problem:
        return "Indent with spaces."
    if "mapping values are not allowed" in problem:
        return "Check the indentation, and quote text that holds a colon."
    return ""


class _Converter:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.values = 0

    def convert(self, node: yaml.Node, keys: Keys, parents: frozenset[int]) -> Any:
        self.values += 1
        self.document.lines.setdefault(keys, node.start_mark.line + 1)
        if id(node) in parents:
            raise self.error(keys, "the alias stands inside its own anchor")
        if self.values > _MOST_VALUES:
            raise self.error(keys, f"more than {_MOST_VALUES} values, so this is no site file")
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.error(keys, f"the tag {tag} is not allowed here")
        inside = parents | {id(node)}
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, keys, inside)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.convert(item, (*keys, str(index)), inside)
                for index, item in enumerate(node.value)
            ]
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return None if plain and node.value in _NULLS else node.value

    def mapping(
        self, node: yaml.MappingNode, keys: Keys, parents: frozenset[int]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if not key:
                raise ConfigError(f"{self.document.name}:{line}: a key must be a word.")
            place = (*keys, key)
            if key in found:
                first = self.document.lines[place]
                raise ConfigError(
                    f"{self.document.name}:{line}: {'.'.join(place)} stands twice, "
                    f"first in line {first}.",
                    "Remove one of them.",
                )
            self.document.lines[place] = line
            found[key] = self.convert(value_node, place, parents)
        return found

    def error(self, keys: Keys, reason: str) -> ConfigError:
        return ConfigError(f"{self.document.place(keys)}: {reason}.")
