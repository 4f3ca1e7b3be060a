"""`python`: packages for every Python version use its stable ABI only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from abi3info import DATAS, FUNCTIONS

from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Version
from vllm_conda.audit.finding import Finding, error, note, some
from vllm_conda.audit.promise import dotted
from vllm_conda.audit.subject import Subject

_SYMBOL = re.compile(r"^_?Py[A-Z_]")
_VERSIONED = re.compile(r"\.cpython-3(\d+)t?-[\w-]+\.so$|\.cp3(\d+)-\w+\.pyd$")


@cache
def stable_symbols() -> Mapping[str, Version]:
    """Symbols of CPython's stable ABI and the version that brought each (abi3info)."""
    every = [*FUNCTIONS.values(), *DATAS.values()]
    return {entry.symbol.name: (entry.added.major, entry.added.minor) for entry in every}


def check_python(subject: Subject, context: Context) -> Iterator[Finding]:
    """In packages for every Python version: no symbol outside abi3, none newer than `python`."""
    stable = stable_symbols()
    floor = context.promise.python
    for library in subject.libraries:
        used = {name for name in library.imports - subject.exports if _SYMBOL.match(name)}
        bound = _VERSIONED.search(library.file)
        if not context.promise.abi3 and not library.name.endswith(".abi3.so"):
            if used - stable.keys():
                yield note(
                    "python",
                    library.file,
                    f"{len(used - stable.keys())} symbols outside abi3, for one Python version",
                )
            continue
        if bound:
            yield error(
                "python",
                library.file,
                f"is for Python 3.{bound[1] or bound[2]} alone, the package for every version",
                "build it with Py_LIMITED_API, or pin python_abi",
            )
        if unknown := used - stable.keys():
            yield error(
                "python",
                library.file,
                f"{len(unknown)} Python symbols outside abi3: {some(unknown)}",
                "compile with Py_LIMITED_API",
            )
        newer = {n for n in used & stable.keys() if floor and stable[n] > floor.version}
        if newer and floor:
            needed = max(stable[name] for name in newer)
            yield error(
                "python",
                library.file,
                f"needs Python {dotted(needed)} ({some(newer)}), the package promises {floor} "
                f"({floor.source})",
                "lower Py_LIMITED_API, or raise the requirement",
            )
