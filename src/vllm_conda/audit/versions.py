"""`glibc`, `libstdcxx`: no newer symbol version than the package's floor."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Library, Version
from vllm_conda.audit.finding import Finding, error, note, warning
from vllm_conda.audit.promise import Floor, dotted
from vllm_conda.audit.subject import CONDA, Subject


def check_glibc(subject: Subject, context: Context) -> Iterator[Finding]:
    """Highest GLIBC symbol version at most the declared `__glibc` (wheel: manylinux tag)."""
    hint = "raise the sysroot and __glibc, or do without the function"
    yield from _compare("glibc", subject, "GLIBC", context.promise.glibc, "__glibc", hint)


def check_libstdcxx(subject: Subject, context: Context) -> Iterator[Finding]:
    """Highest GLIBCXX, CXXABI and GCC symbol versions at most those of libstdcxx and libgcc."""
    promise = context.promise
    hint = "raise libstdcxx and libgcc in the requirements, or compile with an older GCC"
    for name, floor, package in (
        ("GLIBCXX", promise.glibcxx, "libstdcxx"),
        ("CXXABI", promise.cxxabi, "libstdcxx"),
        ("GCC", promise.gcc, "libgcc"),
    ):
        yield from _compare("libstdcxx", subject, name, floor, package, hint)


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
