"""Running the checks over packages, and silencing what audit.toml allows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Allowed, Finding, PackageReport, Report, error
from vllm_conda.audit.leaks import machine_secrets
from vllm_conda.audit.promise import Overrides, promise_of
from vllm_conda.audit.registry import ARCHIVE, CHECKS
from vllm_conda.audit.settings import Settings
from vllm_conda.audit.subject import Subject, open_subject
from vllm_conda.elf_tables import DAMAGED
from vllm_conda.errors import AuditFailure
from vllm_conda.targets import Targets


@dataclass(frozen=True)
class Request:
    """What one run checks and against what.

    ``secrets`` are words that name the building machine, besides those that the machine itself
    tells: kind and word.
    """

    checks: tuple[str, ...] = tuple(CHECKS)
    settings: Settings = field(default_factory=Settings)
    targets: Targets | None = None
    overrides: Overrides = field(default_factory=Overrides)
    secrets: tuple[tuple[str, str], ...] = ()


def audit(paths: Sequence[Path], request: Request) -> Report:
    """Check every package.

    Raises:
        UsageError: A path that is not there or nothing that the audit reads. A damaged package is
            a finding, so that the others are checked.
    """
    report = Report(request.checks)
    secrets = (*machine_secrets(), *request.secrets)
    with ExitStack() as stack:
        opened: list[tuple[Path, Subject | str]] = []
        for path in paths:
            try:
                opened.append((path, stack.enter_context(open_subject(path))))
            except AuditFailure as failure:
                opened.append((path, failure.message))
        subjects = [subject for _, subject in opened if isinstance(subject, Subject)]
        for path, subject in opened:
            if isinstance(subject, str):
                damaged = [error(ARCHIVE, "", subject, "get it again")]
                report.packages.append(PackageReport(path.name, "unknown", findings=damaged))
                continue
            context = Context(
                promise_of(subject, request.overrides),
                request.settings,
                request.targets,
                request.overrides,
                subjects,
                secrets,
            )
            report.packages.append(_package(subject, context, request.checks))
    return report


def _package(subject: Subject, context: Context, checks: Sequence[str]) -> PackageReport:
    started = time.monotonic()
    findings = list(subject.damaged)
    for name in checks:
        try:
            findings += CHECKS[name].load()(subject, context)
        except DAMAGED as failure:
            findings.append(_unreadable(subject, name, failure))
    package = PackageReport(subject.label, subject.kind, len(subject.libraries))
    for finding in findings:
        reason = _reason(subject, finding, context.settings)
        if reason is None:
            package.findings.append(finding)
        else:
            package.allowed.append(Allowed(finding, reason))
    package.seconds = time.monotonic() - started
    return package


def _unreadable(subject: Subject, check: str, failure: Exception) -> Finding:
    """What a check stumbled over: a file without permission, or tables of an ELF file."""
    name = getattr(failure, "filename", None)
    if name is None:
        reason = str(failure) or type(failure).__name__
        return error(check, "", f"an ELF file is damaged: {reason}")
    with suppress(ValueError):
        name = Path(name).relative_to(subject.root).as_posix()
    return error(check, str(name), f"cannot be read: {getattr(failure, 'strerror', failure)}")


def _reason(subject: Subject, finding: Finding, settings: Settings) -> str | None:
    for entry in settings.allow:
        if entry.matches(subject.package, finding):
            return entry.reason
    return None
