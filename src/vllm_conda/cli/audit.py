"""`vllm-conda audit`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_conda.cli.common import json_option, print_json

if TYPE_CHECKING:
    from vllm_conda.audit.finding import Report
    from vllm_conda.audit.settings import Settings
    from vllm_conda.targets import Targets


def _version(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)*", value):
        raise click.BadParameter(f"{value!r} is not a version such as 2.28.")
    return tuple(int(part) for part in value.split("."))


@click.command()
@click.argument("packages", nargs=-1, type=click.Path(path_type=Path), metavar="PACKAGE...")
@click.option("--checks", metavar="A,B", help="Run these only; `--list` names them.")
@click.option("--list", "list_checks", is_flag=True, help="List the checks.")
@click.option("--glibc", callback=_version, metavar="X.Y", help="The floor, whatever is declared.")
@click.option("--torch", callback=_version, metavar="X.Y", help="The oldest PyTorch promised.")
@click.option("--python", callback=_version, metavar="X.Y", help="The oldest Python promised.")
@click.option("--level", type=click.IntRange(1, 10), help="CPU microarchitecture level promised.")
@click.option("--notes", is_flag=True, help="Print also what is in order, such as versions needed.")
@click.option("--strict", is_flag=True, help="Warnings fail, too.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Budgets and allowed findings; default: audit.toml of the checkout.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The checkout whose targets.toml and audit.toml count.",
)
@json_option
def audit(
    packages: tuple[Path, ...],
    checks: str | None,
    list_checks: bool,
    glibc: tuple[int, ...] | None,
    torch: tuple[int, ...] | None,
    python: tuple[int, ...] | None,
    level: int | None,
    notes: bool,
    strict: bool,
    config: Path | None,
    root: Path | None,
    as_json: bool,
) -> int:
    """Check that packages keep what their metadata promises.

    \b
    PACKAGE is a .conda, .tar.bz2 or .whl file, a folder or a single library. Promises come from
    its dependencies or wheel tags, or from --glibc, --torch, --python and --level. Files of
    several packages are compared with each other. Exit code 12 says that a promise is broken.

    \b
    Example:
      vllm-conda audit output/linux-64/*.conda
      vllm-conda audit --checks glibc,needed --glibc 2.28 numpy-2.4.6-cp312-*.whl
    """
    from vllm_conda.audit.promise import Overrides
    from vllm_conda.audit.registry import CHECKS, select_checks
    from vllm_conda.audit.run import Request
    from vllm_conda.audit.run import audit as run
    from vllm_conda.errors import UsageError

    if list_checks:
        if as_json:
            print_json([{"name": c.name, "summary": c.summary} for c in CHECKS.values()])
        else:
            for check in CHECKS.values():
                click.echo(f"{check.name:<14}{check.summary}")
        return 0
    if not packages:
        raise UsageError("No package is named.", "Such as output/linux-64/*.conda.")
    settings, targets = _project(config, root)
    overrides = Overrides(glibc, torch, python, level)
    request = Request(select_checks((checks or "").split(",")), settings, targets, overrides)
    report = run(packages, request)
    if as_json:
        print_json(report.document())
    else:
        _print(report, notes)
    return _verdict(report, strict, as_json)


def _project(config: Path | None, root: Path | None) -> tuple[Settings, Targets | None]:
    """Outside a checkout there are no budgets and no tiers."""
    from vllm_conda.audit.registry import CHECKS
    from vllm_conda.audit.settings import SETTINGS_FILE, Settings, load_settings
    from vllm_conda.errors import ConfigError
    from vllm_conda.paths import project_root
    from vllm_conda.targets import load_targets

    names = tuple(CHECKS)
    try:
        found = project_root(root)
    except ConfigError:
        if root is not None:
            raise
        return (load_settings(config, names) if config else Settings()), None
    path = config or found / SETTINGS_FILE
    settings = load_settings(path, names) if path.is_file() else Settings()
    return settings, load_targets(found)


def _print(report: Report, notes: bool) -> None:
    from vllm_conda.audit.finding import Severity

    for package in report.packages:
        errors, warnings = package.count(Severity.ERROR), package.count(Severity.WARNING)
        verdict = "clean" if not errors + warnings else f"{errors} errors, {warnings} warnings"
        allowed = f", {len(package.allowed)} allowed" if package.allowed else ""
        libraries = f"{package.libraries} libraries"
        click.echo(f"{package.name}: {verdict}{allowed} ({libraries}, {package.seconds:.1f} s)")
        for finding in package.findings:
            if notes or finding.severity is not Severity.NOTE:
                click.echo(f"  {finding.line()}")
        for one in package.allowed if notes else ():
            click.echo(f"  allowed: {one.finding.line()} [{one.reason}]")


def _verdict(report: Report, strict: bool, as_json: bool) -> int:
    from vllm_conda.audit.finding import Severity
    from vllm_conda.errors import AuditFailure

    errors, warnings = report.count(Severity.ERROR), report.count(Severity.WARNING)
    failed = errors + (warnings if strict else 0)
    if not failed:
        return 0
    if as_json:  # the document says so already; a second one would break a reader
        return AuditFailure.exit_code
    what = f"{errors} errors" + (f" and {warnings} warnings" if strict else "")
    raise AuditFailure(
        f"The audit found {what} in {len(report.packages)} packages.",
        "The lines above say what; docs/packagers/audit.md how to repair or allow it.",
    )
