"""`glibc`, `libstdcxx`: no newer symbol version than the package's floor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Library, Version
from vllm_conda.audit.finding import Finding, error, note, warning
from vllm_conda.audit.promise import LIBSTDCXX, Floor, dotted
from vllm_conda.audit.subject import CONDA, Subject

_TABLE = "targets.toml"


@cache
def glibc_functions(family: str) -> Mapping[str, Version]:
    """Functions and variables of glibc that came after 2.17, with the version that brought each.

    data/glibc_symbols.tsv, which scripts/glibc_symbols.py writes from glibc's own lists.
    """
    text = resources.files("vllm_conda.audit").joinpath("data/glibc_symbols.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    column = rows[0].index(family)
    return {row[0]: _numbers(row[column]) for row in rows[1:] if row[column]}


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def check_glibc(subject: Subject, context: Context) -> Iterator[Finding]:
    """Highest GLIBC symbol version at most the declared `__glibc` (wheel: manylinux tag)."""
    floor = context.promise.glibc
    built_for = context.built_for(subject)
    hint = "raise the sysroot and __glibc, or do without the function"
    if built_for is not None and context.overrides.glibc is None:
        # Ours run where the table says, whatever sysroot they were built with.
        named = Floor(_numbers(built_for.glibc), _TABLE)
        hint = f"build with sysroot_{subject.subdir} {named}, or do without the function"
        if floor is not None and floor.version > named.version:
            yield error(
                "glibc", "", f"requires {floor.source}, and {_TABLE} promises glibc {named}", hint
            )
        if floor is None or floor.version > named.version:
            floor = named
    yield from _compare("glibc", subject, "GLIBC", floor, "__glibc", hint)
    family = context.promise.family
    if floor is not None and family:
        yield from _missing(subject, floor, glibc_functions(family), hint)


def _missing(
    subject: Subject, floor: Floor, functions: Mapping[str, Version], hint: str
) -> Iterator[Finding]:
    """Functions that a library was linked without: the loader would look for them in vain."""
    for library in subject.libraries:
        for name in sorted(library.unversioned - subject.exports):
            since = functions.get(name)
            if since is not None and since > floor.version:
                yield error(
                    "glibc",
                    library.file,
                    f"needs {name}, which glibc has since {dotted(since)}, the package promises "
                    f"GLIBC_{floor} ({floor.source})",
                    hint,
                )


def check_libstdcxx(subject: Subject, context: Context) -> Iterator[Finding]:
    """Highest GLIBCXX, CXXABI and GCC symbol versions at most those of libstdcxx and libgcc."""
    promise = context.promise
    built_for = context.built_for(subject)
    glibcxx, cxxabi = promise.glibcxx, promise.cxxabi
    if built_for is not None:
        newest, abi = LIBSTDCXX[built_for.libstdcxx]
        glibcxx, cxxabi = _lower(glibcxx, newest), _lower(cxxabi, abi)
    hint = "raise libstdcxx and libgcc in the requirements, or compile with an older GCC"
    for name, floor, package in (
        ("GLIBCXX", glibcxx, "libstdcxx"),
        ("CXXABI", cxxabi, "libstdcxx"),
        ("GCC", promise.gcc, "libgcc"),
    ):
        yield from _compare("libstdcxx", subject, name, floor, package, hint)


def _lower(floor: Floor | None, version: Version) -> Floor | None:
    """The floor, at most the one that the table gives our packages; None stays undeclared."""
    if floor is None or floor.version <= version:
        return floor
    return Floor(version, _TABLE)


def _compare(
    check: str, subject: Subject, name: str, floor: Floor | None, package: str, hint: str
) -> Iterator[Finding]:
    highest: tuple[Version, Library] | None = None
    for library in subject.libraries:
        versions = library.versions.get(name)
        if not versions:
            continue
        needed = max(versions)
        if highest is None or needed > highest[0]:
            highest = needed, library
        if floor is not None and needed > floor.version:
            symbols = [f"{versions[v]}@{name}_{dotted(v)}" for v in sorted(versions, reverse=True)]
            above = [s for v, s in zip(sorted(versions, reverse=True), symbols, strict=True)
                     if v > floor.version]  # fmt: skip
            yield error(
                check,
                library.file,
                f"needs {name}_{dotted(needed)} ({above[0]}), the package promises "
                f"{name}_{floor} ({floor.source})",
                hint,
            )
    if highest is None:
        return
    what = f"{name}_{dotted(highest[0])}"
    if floor is None and subject.kind == CONDA[0]:
        yield warning(
            check,
            highest[1].file,
            f"needs {what}, and the package depends on no {package}",
            f"add {package} with a lower bound to its run requirements",
        )
    elif floor is None or highest[0] <= floor.version:
        promised = f", promised is {name}_{floor}" if floor else ""
        yield note(check, highest[1].file, f"needs {what}{promised}")
