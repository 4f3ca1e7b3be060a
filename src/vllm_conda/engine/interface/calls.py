"""Where the engine's Python names an op, and which native modules it imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_conda.engine.interface.sources import Sources, tree

# Of a call site: the op is only named; it is named while its module is imported.
NAMED, IMPORT = "named", "import"
# Of an op: the engine asks somewhere whether it exists.
ASKED = "asked"
# How upstream names its extension modules.
_NATIVE = re.compile(r"\b_(?:\w+_)?C(?:_AVX\w+|_\w*libtorch)?\b")


@dataclass(frozen=True)
class Site:
    """A place that names an op.

    Attributes:
        how: ``named``, or the number of positional arguments and the keywords of the call.
        at_import: Whether it runs while the module is imported.
    """

    namespace: str
    op: str
    path: str
    how: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.how}" + (f"@{IMPORT}" if self.at_import else "")


def calls(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """Namespace and name of every op that the engine names, and its sites in one line.

    The line begins with ``asked`` where some place asks whether the op exists.
    """
    sites: dict[tuple[str, str], set[str]] = {}
    asked: set[tuple[str, str]] = set()
    for path, text in sources.under("vllm", ".py"):
        if "torch.ops" not in text:
            continue
        visitor = _Visitor(path.as_posix())
        visitor.visit(tree(path, text))
        for site in visitor.sites:
            sites.setdefault((site.namespace, site.op), set()).add(str(site))
        asked |= visitor.asked
    for namespace, op in sorted(sites.keys() | asked):
        words = [ASKED] if (namespace, op) in asked else []
        yield namespace, op, " ".join([*words, *sorted(sites.get((namespace, op), ()))])


class _Visitor(ast.NodeVisitor):
    def __init__(self, path: str) -> None:
        self.path = path
        self.sites: list[Site] = []
        self.asked: set[tuple[str, str]] = set()
        self._inside = 0
        self._seen: set[int] = set()

    def _function(self, node: ast.AST) -> None:
        self._inside += 1
        self.generic_visit(node)
        self._inside -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            self._ask(node.args)
        elif (op := _op(node.func)) is not None:
            keywords = sorted(word.arg or "**" for word in node.keywords)
            self._add(op, "+".join([str(len(node.args)), *keywords]))
            self._seen.add(id(node.func))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if id(node) in self._seen:
            return
        if (op := _op(node)) is not None:
            self._add(op, NAMED)
            return
        self.generic_visit(node)

    def _ask(self, arguments: list[ast.expr]) -> None:
        names = _dotted(arguments[0]) if arguments else None
        word = arguments[1] if len(arguments) > 1 else None
        if not names or names[:2] != ["torch", "ops"] or len(names) != 3:
            return
        if isinstance(word, ast.Constant) and isinstance(word.value, str):
            self.asked.add((names[2], word.value))

    def _add(self, op: tuple[str, str], how: str) -> None:
        self.sites.append(Site(*op, self.path, how, not self._inside))


def _op(node: ast.expr) -> tuple[str, str] | None:
    """Namespace and name of `torch.ops.NAMESPACE.NAME`, with or without an overload."""
    names = _dotted(node)
    if not names or names[:2] != ["torch", "ops"] or len(names) not in (4, 5):
        return None
    # Upstream's namespaces; the others are Python's own ops.
    return (names[2], names[3]) if names[2].startswith("_") else None


def _dotted(node: ast.expr) -> list[str] | None:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return [node.id, *reversed(names)]


def native_modules(sources: Sources) -> Iterator[tuple[str, str]]:
    """Modules `vllm….NAME` that the engine imports and its sources lack, and by which files."""
    found: dict[str, set[str]] = {}
    for path, text in sources.under("vllm", ".py"):
        # Parsing all of them would take a minute.
        if not _NATIVE.search(text):
            continue
        package = ".".join(path.parent.parts)
        for node in ast.walk(tree(path, text)):
            for name in _imports(node, package):
                native = _NATIVE.fullmatch(name.rpartition(".")[2])
                if native and not sources.has(name.replace(".", "/") + ".py"):
                    found.setdefault(name, set()).add(path.as_posix())
    for name in sorted(found):
        yield name, " ".join(sorted(found[name]))


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.startswith("vllm."))
    if isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        if module.split(".")[0] == "vllm":
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
