"""Facts about the machine that makes the channel: suite, glibc, CPython, registry clients.

Only the toolchain reads them. What a vllm package contains never depends on them: the
glibc floor reaches a recipe through ``sysroot_linux-64``, not through this module.
"""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from vllm_conda import platforms
from vllm_conda.errors import ConfigError, MissingToolError, did_you_mean

PYTHON_RANGE = ((3, 10), (3, 13))


@dataclass(frozen=True)
class Host:
    """What the channel depends on.

    Attributes:
        platform: conda subdir, for example ``linux-64``.
        deb_arch: Debian architecture, for example ``amd64``.
        triplet: GNU triplet of the Debian packages.
        conda_triplet: Triplet in conda-forge's tool names.
        family: archspec family.
        suite: Debian or Ubuntu code name; empty on other systems.
        python: ``major.minor.patch`` of the running CPython.
        python_home: ``sys.base_prefix`` of it.
        python_build: ``sys.version``: changes when the interpreter is rebuilt.
        apt: apt-get and dpkg-deb are there.
        build_platform: conda subdir of the machine itself.
        build_deb_arch: Debian architecture of the machine itself.
    """

    platform: str
    deb_arch: str
    triplet: str
    conda_triplet: str
    family: str
    suite: str
    python: str
    python_home: str
    python_build: str
    apt: bool
    build_platform: str
    build_deb_arch: str

    @property
    def py(self) -> str:
        """``major.minor`` of the CPython."""
        return ".".join(self.python.split(".")[:2])


def _os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    rows = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            rows[key] = value.strip().strip('"')
    return rows


@cache
def detect_cross(subdir: str) -> Host:
    """Describe this machine for a channel of cross compilers to ``subdir``.

    Raises:
        ConfigError: no cross compiler is known for it.
        MissingToolError: as :func:`detect`.
    """
    if subdir not in platforms.cross():
        known = [*platforms.native(), *platforms.cross()]
        raise ConfigError(
            f"The toolchain channel cannot be made for {subdir!r}.{did_you_mean(subdir, known)}",
            f"Platforms: {', '.join(known)}.",
        )
    entry = platforms.table()[subdir]
    return replace(
        detect(entry.cross_from),
        platform=subdir,
        deb_arch=entry.deb_arch,
        triplet=entry.triplet,
        conda_triplet=entry.conda_triplet,
        family=entry.family,
    )


@cache
def detect(subdir: str) -> Host:
    """Describe this machine for a channel of ``subdir``.

    Raises:
        ConfigError: a platform that the toolkit cannot make.
        MissingToolError: another machine type, or a Python outside 3.10-3.13.
    """
    if subdir not in platforms.native():
        raise ConfigError(
            f"The toolchain channel cannot be made for {subdir!r}."
            f"{did_you_mean(subdir, platforms.native())}",
            f"Platforms: {', '.join(platforms.native())}.",
        )
    entry = platforms.table()[subdir]
    if platforms.host_platform() != subdir:
        raise MissingToolError(
            f"A {subdir} toolchain needs a Linux {entry.machine} machine; this is "
            f"{sys.platform} {platform.machine()}."
        )
    low, high = PYTHON_RANGE
    if not low <= sys.version_info[:2] <= high or sys.implementation.name != "cpython":
        raise MissingToolError(
            f"The channel packages the running interpreter, which must be CPython "
            f"{low[0]}.{low[1]}-{high[0]}.{high[1]}; this is {sys.implementation.name} "
            f"{platform.python_version()}.",
            "Run the same command with such a Python.",
        )
    release = _os_release()
    return Host(
        platform=subdir,
        deb_arch=entry.deb_arch,
        triplet=entry.triplet,
        conda_triplet=entry.conda_triplet,
        family=entry.family,
        suite=release.get("VERSION_CODENAME", ""),
        python=platform.python_version(),
        python_home=sys.base_prefix,
        python_build=sys.version,
        apt=bool(shutil.which("apt-get") and shutil.which("dpkg-deb")),
        build_platform=subdir,
        build_deb_arch=entry.deb_arch,
    )
