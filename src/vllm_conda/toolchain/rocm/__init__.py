"""clang for AMD GPUs and HIP as a local channel, beside the embedded toolchain channel.

Made when a ROCm job asks for it: to compile with. No registry offers a PyTorch for ROCm.
"""

from __future__ import annotations

from importlib.resources import files as resource_files
from pathlib import Path

from vllm_conda.downloads.store import Store
from vllm_conda.errors import ConfigError
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.making import make_packages, once

DATA_FILE = "packages.toml"
TITLE = "Channel of clang and HIP"
# What stands for it among the toolkits of a build.
ROCM = "rocm"


def catalog_text() -> str:
    """Text of the data file."""
    return (resource_files(__package__) / DATA_FILE).read_text(encoding="utf-8")


def names() -> frozenset[str]:
    """The packages of the channel."""
    return frozenset(package.name for package in model.parse(catalog_text()).packages)


def check_offered(platform: str) -> None:
    """Refuse a platform that has none.

    Raises:
        ConfigError: Nothing is compiled for AMD GPUs there.
    """
    offered = model.parse(catalog_text()).platforms
    if platform not in offered:
        raise ConfigError(
            f"The embedded toolchain channel has no clang and HIP for {platform}, only for "
            f"{', '.join(offered)}.",
            "Build against a channel that has them: --channel conda-forge.",
        )


def ensure(platform: str, *, reporter: Reporter, cache: Path | None = None) -> Channel:
    """Make the channel, or return the one that is there.

    Raises:
        ConfigError: As :func:`check_offered`.
        MissingToolError: apt is missing, or the machine's suite has no such clang.
        VllmError: As the toolchain's ``ensure``.
    """
    check_offered(platform)
    text = catalog_text()
    host = host_module.detect(platform)

    def make(store: Store, request: Path) -> Channel:
        return make_packages(store, host, reporter, model.parse(text), request, TITLE)

    return once(host, text, make, reporter=reporter, cache=cache)
