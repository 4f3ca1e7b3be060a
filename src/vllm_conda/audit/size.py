"""`size`, `licence`: what packages carry besides code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error, note, warning
from vllm_conda.audit.subject import CONDA, WHEEL, Subject

MIB = 1024 * 1024
_LICENCE = re.compile(r"(^|/)(licen[cs]es?/.+|(licen[cs]e|copying|notice)[^/]*)$", re.IGNORECASE)


def check_size(subject: Subject, context: Context) -> Iterator[Finding]:
    """Archive and installed size within the package's budget in audit.toml."""
    installed = subject.installed_size / MIB
    archive = (subject.size or 0) / MIB
    found = context.settings.budget(subject.package, subject.label)
    if found is None and context.own(subject) and context.targets is not None:
        yield error(
            "size",
            "",
            f"{archive:.2f} MiB, {installed:.2f} MiB installed, without a budget",
            f"add [budgets.{subject.package}] to audit.toml",
        )
        return
    if found is None:
        yield note("size", "", f"{archive:.2f} MiB, {installed:.2f} MiB installed; no budget")
        return
    name, budget = found
    for what, size, limit in (
        ("archive", archive, budget.archive_mib),
        ("installed", installed, budget.installed_mib),
    ):
        if size > limit:
            yield error(
                "size",
                "",
                f"{what} size is {size:.2f} MiB, the budget {limit:g} MiB",
                f"find out what grew, or raise [budgets.{name}]",
            )
        else:
            yield note("size", "", f"{what} size {size:.2f} of {limit:g} MiB")


def check_licence(subject: Subject, context: Context) -> Iterator[Finding]:
    """The licence is named, and its text is in the package."""
    if subject.kind not in (CONDA[0], WHEEL[0]) or not subject.files:
        return
    if not subject.license:
        yield warning("licence", "", "the metadata names no licence", "add about.license")
    if not any(_LICENCE.search(name) for name in subject.metadata):
        yield error("licence", "", "holds no licence file", "add about.license_file")
