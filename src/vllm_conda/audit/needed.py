"""`needed`: every library that is linked comes with the package, a dependency or the system."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources

from vllm_conda import platforms
from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error, warning
from vllm_conda.audit.promise import requirement
from vllm_conda.audit.subject import CONDA, WHEEL, Subject

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@cache
def providers() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Patterns of sonames, of the system and of packages, and of functions without a version."""
    text = resources.files("vllm_conda.audit").joinpath("data/providers.toml").read_text("utf-8")
    data = tomllib.loads(text)
    return {
        kind: {name: tuple(patterns) for name, patterns in table.items()}
        for kind, table in data.items()
    }


def check_needed(subject: Subject, context: Context) -> Iterator[Finding]:
    """Each NEEDED library is in the package, in a dependency or part of the system."""
    own = {name for one in subject.libraries for name in (one.name, one.soname) if name}
    own |= {name.rpartition("/")[2] for name in subject.files if ".so" in name}
    depends = {requirement(spec)[0] for spec in subject.depends}
    patterns = [p for group in providers()["system"].values() for p in group]
    patterns += [entry.loader for entry in platforms.table().values()]
    patterns += context.promise.system
    table = providers()["wheel" if subject.kind == WHEEL[0] else "conda"]
    for name in depends:
        patterns += table.get(name, ())
        # Such as nvidia-cublas-cu12.
        patterns += table.get(name.rstrip("0123456789").removesuffix("-cu"), ())
    for other in context.subjects:
        if other.package in depends:
            own |= {n for one in other.libraries for n in (one.name, one.soname) if n}
    packaged = subject.kind in (CONDA[0], WHEEL[0])
    for library in subject.libraries:
        for name in library.needed:
            if name in own or matches(name, patterns):
                continue
            brings = sorted(p for p, sonames in table.items() if matches(name, sonames))
            hint = f"add {' or '.join(brings)} to its requirements" if brings else (
                "add the package that brings it, or a line to audit/data/providers.toml"
            )  # fmt: skip
            if packaged:
                yield error(
                    "needed",
                    library.file,
                    f"links to {name}, which neither the package nor a dependency brings",
                    hint,
                )
            else:
                yield warning("needed", library.file, f"links to {name}, which is not there", "")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns, which are a shell's, is the name's."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
