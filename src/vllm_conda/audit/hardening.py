"""`hardening`, `debug`, `machine`: how the libraries are linked."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_conda import platforms
from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error, note, warning
from vllm_conda.audit.subject import LIBRARY, Subject

_DEBUG = (".debug_", ".zdebug_", ".stab")


def check_hardening(subject: Subject, context: Context) -> Iterator[Finding]:
    """No executable stack; RELRO and BIND_NOW: relocated tables are read-only; ours have CET."""
    for library in subject.libraries:
        if library.executable_stack:
            yield warning(
                "hardening",
                library.file,
                "asks for an executable stack",
                "mark assembler files with .note.GNU-stack, or link with -Wl,-z,noexecstack",
            )
        missing = [
            name
            for name, there in (("RELRO", library.relro), ("BIND_NOW", library.bind_now))
            if library.dynamic and not there
        ]
        if missing:
            yield warning(
                "hardening",
                library.file,
                f"is linked without {' and '.join(missing)}",
                "link with -Wl,-z,relro,-z,now",
            )
        # Others' libraries are what their distribution makes of them.
        if context.own(subject) and library.machine == "EM_X86_64" and not library.shadow_stack:
            yield warning(
                "hardening",
                library.file,
                "is not marked for shadow stacks",
                "compile with -fcf-protection and link with -Wl,-z,shstk",
            )


def check_debug(subject: Subject, context: Context) -> Iterator[Finding]:
    """Debug information and local symbols are stripped."""
    for library in subject.libraries:
        if any(name.startswith(_DEBUG) for name in library.sections):
            yield error(
                "debug", library.file, "holds debug information", "strip it: strip --strip-debug"
            )
        elif ".symtab" in library.sections:
            yield warning("debug", library.file, "is not stripped", "strip it: strip --strip-all")


def check_machine(subject: Subject, context: Context) -> Iterator[Finding]:
    """Every library is for the package's platform: nothing of the build host came along."""
    family = context.promise.family
    machines: dict[str, str] = {}
    for library in subject.libraries:
        machines.setdefault(library.machine, library.file)
        # All families are little-endian.
        if family and (library.machine != _machine(family) or library.big_endian):
            order = " (big-endian)" if library.big_endian else ""
            yield error(
                "machine",
                library.file,
                f"is for {library.machine.removeprefix('EM_')}{order}, the package for {family}",
                "build it with the cross compiler",
            )
    if not subject.libraries and subject.kind != LIBRARY:
        yield note("machine", "", "holds no library: the checks of libraries have nothing to do")


def _machine(family: str) -> str:
    return platforms.families()[family].elf_machine if family in platforms.families() else ""
