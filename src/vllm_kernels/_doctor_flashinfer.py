"""The doctor's view of FlashInfer: its version, and which modules vllm-flashinfer brought."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# What vllm-flashinfer's modules are called as a distribution, which FlashInfer's own are too.
_MODULES = "flashinfer-jit-cache"


@dataclass(frozen=True)
class FlashinferReport:
    """FlashInfer and vllm-flashinfer.

    Attributes:
        compiled: Version of the distribution of compiled modules; None without one.
        archs: What the modules of vllm-flashinfer are compiled for; empty for others'.
        modules: Their names.
    """

    version: str
    compiled: str | None
    archs: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


def examine() -> tuple[FlashinferReport | None, list[str]]:
    """The report, None without FlashInfer, and the problems. Raises nothing of its own."""
    try:
        version = distribution("flashinfer-python").version
    except PackageNotFoundError:
        return None, []
    try:
        found = distribution(_MODULES)
    except PackageNotFoundError:
        return FlashinferReport(version, None), []
    problems = []
    if not found.version.startswith(version):
        problems.append(
            f"FlashInfer {version} refuses the modules of {_MODULES} {found.version}: install both "
            "of one version"
        )
    # lib/pythonX.Y/site-packages -> lib/vllm_flashinfer
    folder = Path(str(found.locate_file(""))).resolve().parent.parent / "vllm_flashinfer"
    if not folder.is_dir():
        return FlashinferReport(version, found.version), problems
    summary = folder / "modules.json"
    try:
        data = json.loads(summary.read_text(encoding="utf-8"))
        report = FlashinferReport(
            version, found.version, list(map(str, data["archs"])), list(map(str, data["modules"]))
        )
    except (OSError, ValueError, KeyError, TypeError):
        report = FlashinferReport(version, found.version)
        problems.append(f"{summary} cannot be read; reinstall vllm-flashinfer")
    for name in report.modules:
        if not (folder / name / f"{name}.so").is_file():
            problems.append(f"FlashInfer's module {name} is missing; reinstall vllm-flashinfer")
    return report, problems


def lines(report: FlashinferReport | None) -> Iterator[str]:
    """The report for people."""
    if report is None:
        return
    compiled = f"modules of {_MODULES} {report.compiled}"
    if report.compiled is None:
        compiled = "none of its modules compiled ahead of time"
    yield f"FlashInfer    {report.version}, {compiled}"
    for name in report.modules:
        yield f"  {name:<11} {' '.join(report.archs)}"
