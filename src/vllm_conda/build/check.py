"""Proving the packages: their own tests, and a fresh installation from the output channel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rattler import RepoDataRecord

from vllm_conda.errors import SolveError, TestFailure
from vllm_conda.paths import disk_errors
from vllm_conda.solve import install_records, solve_specs, virtual_packages

_TAIL = 12


def host_refusal(channels: Sequence[str], depends: Sequence[str], platform: str) -> str:
    """Why this machine cannot run a package with ``depends``, or an empty string.

    A level-4 package is built on any machine of its platform, but its tests need the CPU.
    """
    levels = [spec for spec in depends if "microarch-level" in spec.split()[0]]
    if not levels:
        return ""
    try:
        solve_specs(channels, levels, platform, virtual_packages())
    except SolveError:
        return f"this CPU is below {levels[0]}"
    return ""


def installation(channels: Sequence[str], spec: str, platform: str) -> list[RepoDataRecord]:
    """Solve ``spec`` under the host's virtual packages."""
    return solve_specs(channels, [spec], platform, virtual_packages())


def identity(records: Sequence[RepoDataRecord]) -> str:
    """Hash of exactly which packages an installation holds."""
    lines = sorted(f"{r.file_name} {r.sha256.hex() if r.sha256 else ''}" for r in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def install_fresh(records: list[RepoDataRecord], prefix: Path, platform: str) -> None:
    """Install into an emptied ``prefix`` and run the smoke test as a user would.

    Raises:
        TestFailure: The installed package does not import or compute.
    """
    with disk_errors("an environment", prefix):
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.parent.mkdir(parents=True, exist_ok=True)
    install_records(records, prefix, platform)
    code = "import torch, vllm_kernels; print(len(dir(torch.ops.vllm_kernels)))"
    done = subprocess.run(
        [prefix / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        cwd=prefix,
        # The caller's Python settings must not reach into the new environment.
        env={"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(prefix)},
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_TAIL:]
        block = "\n  ".join(lines)
        raise TestFailure(
            f"The packages install but do not run:\n  {block}\n",
            f"Try it in the environment {prefix}.",
        )
