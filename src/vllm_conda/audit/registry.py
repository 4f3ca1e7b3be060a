"""The checks by name, in the order that they are reported. A new one is one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding
from vllm_conda.audit.subject import Subject
from vllm_conda.errors import UsageError, did_you_mean

CheckFunction = Callable[[Subject, Context], Iterator[Finding]]

# This check cannot be left out: what cannot be read cannot be checked.
ARCHIVE = "archive"


@dataclass(frozen=True)
class Check:
    """``severities`` are those that it can report, for the table of docs/packagers/audit.md."""

    name: str
    module: str
    severities: str

    def load(self) -> CheckFunction:
        """The function; its docstring is the check's summary."""
        module = importlib.import_module(f"vllm_conda.audit.{self.module}")
        function: CheckFunction = getattr(module, f"check_{self.name}")
        return function

    @property
    def summary(self) -> str:
        return (self.load().__doc__ or "").strip().splitlines()[0]


CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("machine", "hardening", "error"),
        Check("glibc", "versions", "error; warning: no floor declared"),
        Check("libstdcxx", "versions", "error; warning: no floor declared"),
        Check("torch", "torch", "error; warning: no floor declared"),
        Check("python", "python", "error"),
        Check("needed", "needed", "error; warning: folders and single libraries"),
        Check("symbols", "symbols", "error"),
        Check("rpath", "rpath", "error"),
        Check("instructions", "instructions", "error; warning: foreign, no level declared"),
        Check("cuda", "cuda", "error"),
        Check("rocm", "rocm", "error"),
        Check("hardening", "hardening", "warning"),
        Check("debug", "hardening", "error; warning: symbol table left"),
        Check("paths", "leaks", "error; warning: home folder in a text file"),
        Check("licence", "size", "error; warning: no licence named"),
        Check("size", "size", "error"),
        Check("owners", "owners", "error"),
    )
}


def select_checks(names: Iterable[str]) -> tuple[str, ...]:
    """The named checks in the order of :data:`CHECKS`; all where none is named.

    Raises:
        UsageError: No check of that name.
    """
    wanted = [name.strip() for name in names if name.strip()]
    for name in wanted:
        if name not in CHECKS:
            raise UsageError(
                f"There is no check {name!r}.{did_you_mean(name, CHECKS)}",
                f"Checks: {', '.join(CHECKS)}.",
            )
    return tuple(name for name in CHECKS if not wanted or name in wanted)
