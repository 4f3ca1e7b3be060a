"""What this machine has for a build, what it lacks, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.paths import cache_root
from vllm_conda.platforms import host_platform, native, table

MIN_PYTHON = (3, 10)
MAX_PYTHON = (3, 13)
# Toolchain channel, its downloads and package cache, one build's environments.
NEEDED_DISK_GIB = 12
# Peak of the largest compile, see cmake/Jobs.cmake.
NEEDED_MEMORY_GIB = 2
MIN_GLIBC = (2, 28)
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Finding:
    """One check.

    ``state`` is ``ok``, ``warn`` (works, slower or partly) or ``missing`` (a build fails);
    ``hint`` says how to get it.
    """

    name: str
    state: str
    detail: str
    hint: str = ""


def diagnose(embedded: bool = True) -> list[Finding]:
    """Check this machine; reads only, installs nothing.

    Args:
        embedded: Also check what the embedded toolchain channel is made with (pip, apt).
    """
    found = [_system(), _python(), *_libraries(), _disk(), _memory(), _cpu()]
    if embedded:
        found += [_glibc(), _pip(), _apt(), _compiler()]
    found.append(_pixi())
    return found


def _system() -> Finding:
    name = f"{platform.system()} {platform.machine()}"
    if host_platform() in native():
        return Finding("system", "ok", name)
    machines = " or ".join(table()[one].machine for one in native())
    return Finding("system", "missing", name, f"Builds run on Linux {machines} machines.")


def _python() -> Finding:
    version = platform.python_version()
    if sys.implementation.name != "cpython":
        return Finding("python", "missing", f"{sys.implementation.name} {version}", "Use CPython.")
    if MIN_PYTHON <= sys.version_info[:2] <= MAX_PYTHON:
        return Finding("python", "ok", f"CPython {version}")
    return Finding("python", "missing", f"CPython {version}", "Use CPython 3.10 to 3.13.")


def _libraries() -> Iterator[Finding]:
    for name in ("py-rattler", "py-rattler-build"):
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", "not installed", "Start through ./run, it installs it.")


def _disk() -> Finding:
    folder = cache_root()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("disk", "missing", f"{folder} is not writable", "Set VLLM_CONDA_CACHE.")
    free = shutil.disk_usage(folder).free / 2**30
    detail = f"{free:.1f} GiB free at {folder}"
    if free >= NEEDED_DISK_GIB:
        return Finding("disk", "ok", detail)
    hint = f"Free {NEEDED_DISK_GIB} GiB, or set VLLM_CONDA_CACHE to a larger disk."
    return Finding("disk", "missing" if free < NEEDED_DISK_GIB / 2 else "warn", detail, hint)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's, v2 and v1
        with suppress(OSError, ValueError):
            text = Path("/sys/fs/cgroup", file).read_text(encoding="utf-8")
            total = min(total, int(text) / 2**30)
    detail = f"{total:.1f} GiB, {len(os.sched_getaffinity(0))} cores"
    if total >= NEEDED_MEMORY_GIB:
        return Finding("memory", "ok", detail)
    return Finding("memory", "warn", detail, "Set MAX_JOBS=1, or add swap.")


def _cpu() -> Finding:
    """Levels matter for the tests of the packages only; builds do not look at the CPU."""
    from vllm_conda.solve import virtual_packages

    found = {package.name.normalized: str(package) for package in virtual_packages()}
    spec = found.get("__archspec", "")
    if spec:
        return Finding("cpu", "ok", spec.split('"')[1] if '"' in spec else spec)
    return Finding("cpu", "warn", "unknown to archspec", "Packages above the level are not tested.")


def _glibc() -> Finding:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2]) if version else (0, 0)
    detail = f"{name or 'unknown C library'} {version}".strip()
    if name == "glibc" and numbers >= MIN_GLIBC:
        return Finding("glibc", "ok", detail)
    return Finding("glibc", "missing", detail, "A distribution with glibc 2.28 or newer is needed.")


def _pip() -> Finding:
    command = [sys.executable, "-m", "pip", "--version"]
    output = _output(command)
    if output:
        return Finding("pip", "ok", " ".join(output.split()[:2]))
    return Finding("pip", "missing", "not usable", "python3 -m ensurepip, or python3-pip.")


def _apt() -> Finding:
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        sources = [*Path("/etc/apt").glob("sources.list*"), *Path("/etc/apt").glob("*/*.sources")]
        if sources:
            return Finding(
                "apt", "ok", (_output(["apt-get", "--version"]) or "apt").splitlines()[0]
            )
        return Finding("apt", "missing", "no package sources", "Add them to /etc/apt/sources.list.")
    hint = "Use a Debian or Ubuntu machine, or --channel with a conda channel that has compilers."
    return Finding("apt", "missing", "apt-get or dpkg-deb not found", hint)


def _compiler() -> Finding:
    path = shutil.which("g++")
    if path:
        version = _output([path, "-dumpfullversion"]).strip()
        return Finding("host g++", "ok", f"{version} at {path}")
    return Finding(
        "host g++",
        "ok",
        "none; the embedded channel brings its own through apt",
    )


def _pixi() -> Finding:
    path = shutil.which("pixi")
    if path:
        return Finding("pixi", "ok", _output([path, "--version"]).strip() or path)
    return Finding("pixi", "ok", "none; ./run uses pip and the embedded channel")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
