"""A CUDA toolkit for one platform as a local channel, beside the embedded toolchain channel.

One data file a CUDA major version (``13.toml``); a channel is made when a CUDA job asks for it.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.resources import files as resource_files
from pathlib import Path

from vllm_conda import platforms
from vllm_conda.downloads.store import Store
from vllm_conda.errors import ConfigError, MissingToolError
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.making import make_packages, once
from vllm_conda.toolchain.model import Catalog

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONDA_FORGE_HINT = "Build against conda-forge: --channel conda-forge."


def offered(platform: str = "") -> list[str]:
    """The CUDA versions that the machine's registries offer a whole toolkit of.

    Args:
        platform: conda subdir to compile for; empty: any.
    """
    folder = resource_files(__package__)
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".toml"))
    tables = [tomllib.loads((folder / name).read_text(encoding="utf-8")) for name in names]
    return [
        version
        for table in tables
        if not platform or platform in table["platforms"]
        for version in table["pins"]
    ]


def check_offered(version: str, platform: str) -> None:
    """Refuse a toolkit that cannot be had.

    Raises:
        ConfigError: The registries offer no such toolkit, or not for the platform.
    """
    if version not in offered():
        raise ConfigError(
            f"The embedded toolchain channel has no CUDA {version}: the package registries offer "
            f"its compiler for {', '.join(offered())} only.",
            CONDA_FORGE_HINT,
        )
    if version not in offered(platform):
        raise ConfigError(
            f"The embedded toolchain channel has no CUDA {version} for {platform}: the package "
            f"registries offer {', '.join(offered(platform)) or 'none'} for it.",
            CONDA_FORGE_HINT,
        )


def host_for(platform: str) -> Host:
    """This machine as the compiler's, for packages of ``platform``; errors as the detection's."""
    cross = platform in platforms.cross()
    return host_module.detect_cross(platform) if cross else host_module.detect(platform)


def catalog_text(version: str, host: Host) -> str:
    """Text of the data file for one version and platform; errors as :func:`check_offered`."""
    check_offered(version, host.platform)
    major = version.partition(".")[0]
    text = (resource_files(__package__) / f"{major}.toml").read_text(encoding="utf-8")
    variables = {
        "cuda": version,
        "cuda_major": major,
        "cuda_next": str(int(major) + 1),
        "platform": host.platform,
        "target": platforms.table()[host.platform].cuda_target,
        "build_platform": host.build_platform,
        "build_deb": host.build_deb_arch,
    }
    for name, value in variables.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def load(version: str, host: Host) -> tuple[Catalog, list[str]]:
    """The catalog of one toolkit, and those of its wheels that are taken for its platform.

    Raises:
        ConfigError: As :func:`catalog_text`.
    """
    data = tomllib.loads(catalog_text(version, host))
    pins = data.pop("pins")[version]
    foreign = [pins[name] for name in data.pop("platform_wheels", ())]
    data["pip"] = pins
    return model.parse_data(data), foreign


def ensure(
    version: str, platform: str, *, reporter: Reporter, cache: Path | None = None
) -> Channel:
    """Make the channel of one CUDA toolkit, or return the one that is there.

    Args:
        platform: What it compiles for; the compiler runs on this machine.

    Raises:
        ConfigError: The registries offer no such toolkit.
        MissingToolError: It does not work with this machine's C library.
        VllmError: As the toolchain's ``ensure``.
    """
    host = host_for(platform)
    text = catalog_text(version, host)

    def make(store: Store, request: Path) -> Channel:
        catalog, foreign = load(version, host)
        _check_glibc(version, catalog)
        # Bytecode that a wheel holds is left out, as it should be; nobody has to hear of it.
        warnings.filterwarnings("ignore", "Skip installing .*__pycache__", RuntimeWarning)
        title = f"CUDA {version} channel for {platform}"
        return make_packages(store, host, reporter, catalog, request, title, foreign)

    return once(host, f"{version}\n{text}", make, reporter=reporter, cache=cache)


def _check_glibc(version: str, catalog: Catalog) -> None:
    found = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0.0").split()[-1]
    for wanted in catalog.apt.values():
        limit = wanted.glibc_below
        if limit and _numbers(found) >= _numbers(limit):
            raise MissingToolError(
                f"CUDA {version} does not compile with this machine's C library: glibc {found}, "
                f"and its headers need one before {limit}.",
                f"Build on an older system, or {CONDA_FORGE_HINT[0].lower()}{CONDA_FORGE_HINT[1:]}",
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
