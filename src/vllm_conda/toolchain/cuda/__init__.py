"""A CUDA toolkit as a local channel, beside the embedded toolchain channel.

One data file a CUDA major version (``13.toml``); a channel is made when a CUDA job asks for it.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.resources import files as resource_files
from pathlib import Path

from vllm_conda.errors import ConfigError, MissingToolError
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel, finished, request_file
from vllm_conda.toolchain.model import Catalog
from vllm_conda.toolchain.store import Store, default_cache

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONDA_FORGE_HINT = "Build against conda-forge: --channel conda-forge."


def offered() -> list[str]:
    """The CUDA versions that the machine's registries offer a whole toolkit of."""
    folder = resource_files(__package__)
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".toml"))
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    return [version for text in texts for version in tomllib.loads(text)["pins"]]


def catalog_text(version: str) -> str:
    """Text of the data file with the version filled in.

    Raises:
        ConfigError: The registries offer no such toolkit.
    """
    major = version.partition(".")[0]
    file = resource_files(__package__) / f"{major}.toml"
    if version not in offered():
        raise ConfigError(
            f"The embedded toolchain channel has no CUDA {version}: the package registries offer "
            f"its compiler for {', '.join(offered())} only.",
            CONDA_FORGE_HINT,
        )
    text = file.read_text(encoding="utf-8")
    variables = {"cuda": version, "cuda_major": major, "cuda_next": str(int(major) + 1)}
    for name, value in variables.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def load(version: str) -> Catalog:
    """The catalog of one toolkit; errors as :func:`catalog_text`."""
    data = tomllib.loads(catalog_text(version))
    data["pip"] = data.pop("pins")[version]
    return model.parse_data(data)


def ensure(
    version: str, platform: str, *, reporter: Reporter, cache: Path | None = None
) -> Channel:
    """Make the channel of one CUDA toolkit, or return the one that is there.

    Raises:
        ConfigError: The registries offer no such toolkit.
        MissingToolError: It does not work with this machine's C library.
        VllmCondaError: As the toolchain's ``ensure``.
    """
    host = host_module.detect(platform)
    text = catalog_text(version)
    store = Store(cache or default_cache())
    request = request_file(store, host, f"{version}\n{text}")
    if (channel := finished(store, request)) is not None:
        return channel
    with store.locked(reporter):
        if (channel := finished(store, request)) is not None:
            return channel
        catalog = load(version)
        _check_glibc(version, catalog)
        # Bytecode that a wheel holds is left out, as it should be; nobody has to hear of it.
        warnings.filterwarnings("ignore", "Skip installing .*__pycache__", RuntimeWarning)
        # Imported late: rattler-build and installer cost more than a finished answer does.
        from vllm_conda.toolchain.maker import Maker

        return Maker(store, host, reporter, catalog).make(request, f"CUDA {version} channel")


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
