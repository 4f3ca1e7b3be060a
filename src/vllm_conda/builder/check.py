"""Proving the packages: their own tests, and a fresh installation from the output channel."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from rattler import Gateway, RepoDataRecord
from rattler.index import index_fs

from vllm_conda.audit.finding import Severity
from vllm_conda.audit.registry import CHECKS
from vllm_conda.audit.run import Request, audit
from vllm_conda.audit.settings import SETTINGS_FILE, Settings, load_settings
from vllm_conda.errors import AuditFailure, SolveError, TestFailure
from vllm_conda.paths import disk_errors
from vllm_conda.processes import run
from vllm_conda.site.virtual import GPUS
from vllm_conda.solve import install_records, solve_specs, virtual_packages
from vllm_conda.targets import Targets

_TAIL = 12


def audit_package(package: Path, root: Path, targets: Targets, build: Path) -> list[str]:
    """Check a package just made, in the folder ``build``; returns the warnings.

    Raises:
        AuditFailure: It breaks a promise; every error is a line of the message.
    """
    path = root / SETTINGS_FILE
    settings = load_settings(path, tuple(CHECKS)) if path.is_file() else Settings()
    secrets = (("build folder", str(build)), ("checkout", str(root.resolve())))
    report = audit([package], Request(settings=settings, targets=targets, secrets=secrets))
    findings = [finding for one in report.packages for finding in one.findings]
    errors = [one.line() for one in findings if one.severity is Severity.ERROR]
    if errors:
        block = "\n  ".join(errors)
        raise AuditFailure(
            f"{package.name} breaks what it promises:\n  {block}\n",
            f"Look again with `vllm-conda audit {package}`; "
            "docs/packagers/audit.md says how to allow it.",
        )
    return [one.line() for one in findings if one.severity is Severity.WARNING]


def host_refusal(channels: Sequence[str], depends: Sequence[str], platform: str) -> str:
    """Why this machine cannot run a package with ``depends``, or an empty string.

    A level-4 package is built on any machine of its platform, but its tests need the CPU; a CUDA
    package likewise, and the GPU.
    """
    levels = [spec for spec in depends if "microarch-level" in name_of(spec)]
    gpu = [spec for spec in depends if name_of(spec) in itertools.chain(*GPUS)]
    # The package registries do not offer a CUDA build of it as one package, nor one for ROCm.
    torch = [spec for spec in depends if gpu and name_of(spec) == "pytorch"]
    for specs, what in (
        (levels, "this CPU is below"),
        (gpu, "this machine has no GPU that gives"),
        (torch, "the channels hold no"),
    ):
        if not specs:
            continue
        try:
            solve_specs(channels, specs, platform, virtual_packages())
        except SolveError:
            return f"{what} {', '.join(specs)}"
    return ""


def name_of(spec: str) -> str:
    """The package that a dependency is on; empty for an empty one."""
    return spec.strip().partition(" ")[0]


def index(folder: Path) -> None:
    """Index the channel ``folder`` anew, ignoring its present index."""
    asyncio.run(index_fs(folder, write_shards=False, force=True))


def installation(
    channels: Sequence[str], spec: str, platform: str, cache: Path
) -> list[RepoDataRecord]:
    """Solve ``spec`` under the host's virtual packages; ``cache`` is rattler's."""
    gateway = Gateway(cache_dir=cache / "repodata")
    return solve_specs(channels, [spec], platform, virtual_packages(), gateway)


def identity(records: Sequence[RepoDataRecord]) -> str:
    """Hash of exactly which packages an installation holds."""
    lines = sorted(f"{r.file_name} {r.sha256.hex() if r.sha256 else ''}" for r in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def install_fresh(records: list[RepoDataRecord], prefix: Path, platform: str, cache: Path) -> None:
    """Install into an emptied ``prefix`` and run the smoke test as a user would.

    Raises:
        TestFailure: The installed package does not import or compute.
    """
    with disk_errors("an environment", prefix):
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.parent.mkdir(parents=True, exist_ok=True)
    install_records(records, prefix, platform, cache)
    code = "import torch, vllm_kernels; print(len(dir(torch.ops.vllm_kernels)))"
    done = run(
        [prefix / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        cwd=prefix,
        # The caller's Python settings must not affect the new environment.
        env={"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(prefix)},
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_TAIL:]
        block = "\n  ".join(lines)
        raise TestFailure(
            f"The packages install but do not run:\n  {block}\n",
            f"Try it in the environment {prefix}.",
        )
