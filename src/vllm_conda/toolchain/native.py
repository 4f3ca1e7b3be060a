"""This machine's compilers, libraries and Python as a channel, under conda-forge's names."""

from __future__ import annotations

from pathlib import Path

from vllm_conda.downloads.store import Store
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.making import make_packages, once

TITLE = "Toolchain channel"


def ensure(platform: str, *, reporter: Reporter, cache: Path | None = None) -> Channel:
    """Make the toolchain channel, or return it at once when it is already there.

    Args:
        platform: conda subdir.
        reporter: Where progress goes.
        cache: Cache folder; the default is ``$VLLM_CONDA_CACHE`` or the user's cache.

    Raises:
        ConfigError: the platform or the data file is wrong.
        MissingToolError: apt, pip or a part of the running Python is missing.
        NetworkError: a download failed and the cache does not hold the file.
        IntegrityError: a damaged download could not be fetched again.
        DiskError: the disk is full or not writable.
        BusyError: another process holds the cache.
        BuildFailure: a package could not be assembled.
    """
    host, text = host_module.detect(platform), model.catalog_text()

    def make(store: Store, request: Path) -> Channel:
        return make_packages(store, host, reporter, model.parse(text), request, TITLE)

    return once(host, text, make, reporter=reporter, cache=cache)
