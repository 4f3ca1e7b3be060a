"""Environments solved from our channels, kept in the cache by exactly what they hold."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from filelock import FileLock
from rattler import GenericVirtualPackage
from rattler.shell import ActivationVariables, activate

from vllm_conda.builder.check import identity
from vllm_conda.builder.workspace import Workspace
from vllm_conda.paths import disk_errors
from vllm_conda.processes import run
from vllm_conda.progress import Reporter
from vllm_conda.solve import install_records, solve_specs, virtual_packages

COMPLETE = ".complete"
# The kernels' own, and for each emulated platform its packages and the emulator.
KEPT = 6
# What of the caller's environment a command in the new one may see: the rest (PYTHONPATH,
# LD_LIBRARY_PATH, another prefix's variables) would shadow what was just installed.
PASSED_ON = ("HOME", "LANG", "TERM", "TMPDIR", "USER", "CI", "XDG_CACHE_HOME", "OMP_NUM_THREADS",
             "CUDA_VISIBLE_DEVICES", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY",
             "HTTPS_PROXY", "NO_PROXY")  # fmt: skip
PASSED_ON_PREFIXES = ("VLLM_", "LC_", "HF_")


def ensure_environment(
    channels: Sequence[str],
    specs: Sequence[str],
    platform: str,
    workspace: Workspace,
    reporter: Reporter,
    virtual: Sequence[GenericVirtualPackage] | None = None,
) -> Path:
    """Solve ``specs`` and install them once.

    The prefix is named after the very packages in it, so a rebuilt package gives a new one; the
    least recently used beyond a few are removed.

    Args:
        virtual: Virtual packages to solve under; the default is this machine's.

    Raises:
        SolveError: No set of packages satisfies the specs on this machine.
        NetworkError: A channel cannot be read.
        DiskError: No space for the prefix.
    """
    found = virtual_packages() if virtual is None else virtual
    records = solve_specs(channels, specs, platform, found)
    home = workspace.folder / "envs"
    prefix = home / identity(records)[:16]
    with disk_errors("an environment", home):
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"):
            if not (prefix / COMPLETE).is_file():
                shutil.rmtree(prefix, ignore_errors=True)
                with reporter.task(f"install {', '.join(specs)}") as task:
                    task.status(f"{len(records)} packages")
                    install_records(records, prefix, platform)
                (prefix / COMPLETE).touch()
            os.utime(prefix)
            _remove_oldest(home)
    return prefix


def _remove_oldest(home: Path) -> None:
    prefixes = [path for path in home.iterdir() if path.is_dir()]
    prefixes.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for prefix in prefixes[KEPT:]:
        shutil.rmtree(prefix, ignore_errors=True)


def run_in(
    prefix: Path,
    command: Sequence[str],
    folder: Path,
    log: IO[str] | None = None,
    extra: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> int:
    """Run ``command`` in the activated ``prefix`` from ``folder``; returns its exit status.

    Args:
        log: Takes what the command prints; the default is the caller's own output.
        extra: Variables besides those of the caller that are passed on; an empty value takes the
            caller's away.
        timeout: Seconds until it is ended.

    Raises:
        subprocess.TimeoutExpired: It was not over by then.
    """
    variables = ActivationVariables(None, ["/usr/bin", "/bin"])
    script = activate(prefix, variables).script
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    for name, value in (extra or {}).items():
        environment.pop(name, None)
        environment |= {name: value} if value else {}
    # The caller's PATH stays out: a compiler or a Python of the machine must not be found first.
    environment["PATH"] = "/usr/bin:/bin"
    shell = shutil.which("bash") or "/bin/bash"
    done = run(
        [shell, "-c", f'{script}\nexec "$@"', "bash", *command],
        timeout,
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
    )
    return done.returncode
