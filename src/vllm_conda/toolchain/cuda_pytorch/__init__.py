"""A CUDA build of PyTorch as a local channel: what vllm-kernels-cuda runs on without conda-forge.

Several GB, so it is made only when an environment with vllm-kernels-cuda is asked for.
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
TITLE = "Channel of PyTorch for CUDA"
# The toolkit's version whose run time the wheels were built with and load.
CUDA = "13.0"


def catalog_text() -> str:
    """Text of the data file."""
    return (resource_files(__package__) / DATA_FILE).read_text(encoding="utf-8")


def ensure(platform: str, *, reporter: Reporter, cache: Path | None = None) -> Channel:
    """Make the channel, or return the one that is there.

    Raises:
        ConfigError: No registry offers such a PyTorch for the platform.
        VllmError: As the toolchain's ``ensure``.
    """
    text = catalog_text()
    catalog = model.parse(text)
    if platform not in catalog.platforms:
        raise ConfigError(
            f"The embedded toolchain channel has no CUDA build of PyTorch for {platform}.",
            "Name a channel that has one: --channel conda-forge.",
        )
    host = host_module.detect(platform)

    def make(store: Store, request: Path) -> Channel:
        return make_packages(store, host, reporter, catalog, request, TITLE)

    return once(host, text, make, reporter=reporter, cache=cache)
