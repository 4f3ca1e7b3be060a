"""`symbols`: what a library needs by name is there when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_conda.audit import modules
from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Library
from vllm_conda.audit.finding import Finding, error, some
from vllm_conda.audit.needed import matches, providers
from vllm_conda.audit.promise import requirement
from vllm_conda.audit.subject import Subject
from vllm_conda.audit.torch import qualified_name

_CXX = "_Z"
_LONGEST = 60


def check_symbols(subject: Subject, context: Context) -> Iterator[Finding]:
    """Our libraries define the C++ functions that no dependency has; FlashInfer's modules, all."""
    if not context.own(subject):
        return
    depends = {requirement(spec)[0] for spec in subject.depends}
    others = frozenset[str]().union(
        *(other.exports for other in context.subjects if other.package in depends)
    )
    table = providers()["functions"]
    functions = [pattern for name in depends for pattern in table.get(name, ())]
    # Each is loaded alone: what another of them defines is out of its reach.
    alone = modules.FILE in subject.files
    for library in subject.libraries:
        known = library.exports if alone else subject.exports | others
        lost = {
            name
            for name in library.unversioned - known
            if not matches(name, functions) and (alone or name.startswith(_CXX))
        }
        if lost:
            yield _finding(library, lost)


def _finding(library: Library, lost: set[str]) -> Finding:
    shown = {"::".join(qualified_name(name)) or name[:_LONGEST] for name in lost}
    count = f"{len(lost)} symbols" if len(lost) > 1 else "a symbol"
    return error(
        "symbols",
        library.file,
        f"needs {count} that neither it nor a dependency defines: {some(shown)}",
        "compile what defines it, or declare it weak; the loader refuses the library",
    )
