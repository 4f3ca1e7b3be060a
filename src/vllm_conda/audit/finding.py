"""What the audit says: findings and the report over all packages."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from vllm_cuda_plan.errors import shortened

# A message may repeat what a file holds.
_LONGEST = 300


class Severity(str, enum.Enum):
    """How much a finding matters: an error fails the audit, a note only states a fact."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One line of the audit.

    ``file`` is a path inside the package, empty where the package as a whole is meant; ``hint`` is
    what to do about it, empty where there is nothing to do.
    """

    severity: Severity
    check: str
    file: str
    message: str
    hint: str = ""

    def line(self) -> str:
        where = f"{self.file}: " if self.file else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.severity.value}: {self.check}: {where}{self.message}{hint}"


@dataclass(frozen=True)
class Allowed:
    """A finding that audit.toml silences, and its reason."""

    finding: Finding
    reason: str


@dataclass
class PackageReport:
    """The findings of one package; ``libraries`` counts its ELF files."""

    name: str
    kind: str
    libraries: int = 0
    findings: list[Finding] = field(default_factory=list)
    allowed: list[Allowed] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)


@dataclass
class Report:
    """All packages of one run and the checks that ran."""

    checks: tuple[str, ...]
    packages: list[PackageReport] = field(default_factory=list)

    def count(self, severity: Severity) -> int:
        return sum(package.count(severity) for package in self.packages)

    def document(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "checks": list(self.checks),
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "packages": [
                {
                    "package": package.name,
                    "kind": package.kind,
                    "libraries": package.libraries,
                    "seconds": round(package.seconds, 3),
                    "findings": [asdict(finding) for finding in package.findings],
                    "allowed": [
                        {**asdict(one.finding), "reason": one.reason} for one in package.allowed
                    ],
                }
                for package in self.packages
            ],
        }


def error(check: str, file: str, message: str, hint: str = "") -> Finding:
    return Finding(Severity.ERROR, check, file, shortened(message, _LONGEST), hint)


def warning(check: str, file: str, message: str, hint: str = "") -> Finding:
    return Finding(Severity.WARNING, check, file, shortened(message, _LONGEST), hint)


def note(check: str, file: str, message: str, hint: str = "") -> Finding:
    return Finding(Severity.NOTE, check, file, shortened(message, _LONGEST), hint)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, and how many more there are."""
    listed = sorted(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")
