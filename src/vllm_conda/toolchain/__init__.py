"""Conda packages made of what pip and apt offer, where conda-forge cannot be reached.

A product of its own that knows nothing of vLLM but lists of packages. What stands in ``__all__`` is
its door: nothing else of it is imported from outside. ``vllm-conda toolchain`` is its command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_conda import platforms
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import cross, cuda_pytorch, native, rocm
from vllm_conda.toolchain import cuda as cuda_toolkit
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.cuda import offered
from vllm_conda.toolchain.cuda_pytorch import CUDA as PYTORCH_CUDA
from vllm_conda.toolchain.rocm import names as rocm_names
from vllm_conda.toolchain.root import Root
from vllm_conda.toolchain.sysroot import glibc_symbols
from vllm_conda.toolchain.wheels import ensure_wheels, pinned_wheel

__all__ = [
    "PYTORCH_CUDA",
    "Channel",
    "Channels",
    "Root",
    "ensure",
    "ensure_root",
    "ensure_wheels",
    "glibc_symbols",
    "offered",
    "pinned_wheel",
    "rocm_names",
]


@dataclass(frozen=True)
class Channels:
    """The local channels of one platform.

    Attributes:
        base: Compilers, libraries and Python for it; for another platform than this machine's,
            what its packages are linked with, and then this machine's build tools.
        toolkits: CUDA toolkits by version, and ``rocm``. Two of them never stand in one list: the
            first would hide the other's packages.
        pytorch: A CUDA build of PyTorch, to run and not to compile; None unless asked for.
    """

    base: tuple[Channel, ...]
    toolkits: Mapping[str, Channel] = field(default_factory=dict)
    pytorch: Channel | None = None


def ensure(
    platform: str,
    toolkits: Iterable[str] = (),
    *,
    reporter: Reporter,
    pytorch: bool = False,
    cache: Path | None = None,
) -> Channels:
    """Make the channels of ``platform``, or return at once those that are there.

    Args:
        toolkits: CUDA versions whose toolkits are needed too, and ``rocm``.
        pytorch: Make the CUDA build of PyTorch too: several GB.
        cache: The default is ``$VLLM_CONDA_CACHE`` or the user's cache.

    Raises:
        ConfigError: The platform is unknown, or the registries offer no such toolkit for it.
        MissingToolError: apt, pip or a part of the running Python is missing, or a toolkit does not
            work with this machine's C library.
        NetworkError: A download failed and the cache does not hold the file.
        IntegrityError: A damaged download could not be fetched again.
        DiskError: The disk is full or not writable.
        BusyError: Another process holds the cache.
        BuildFailure: A package could not be assembled.
    """
    wanted = sorted(set(toolkits))
    for version in wanted:  # before the first download
        if version == rocm.ROCM:
            rocm.check_offered(platform)
        else:
            cuda_toolkit.check_offered(version, platform)
    base: tuple[Channel, ...]
    if platform in platforms.cross():
        tools = platforms.table()[platform].cross_from
        base = (
            cross.ensure(platform, reporter=reporter, cache=cache),
            native.ensure(tools, reporter=reporter, cache=cache),
        )
    else:
        base = (native.ensure(platform, reporter=reporter, cache=cache),)
    return Channels(
        base,
        {
            version: rocm.ensure(platform, reporter=reporter, cache=cache)
            if version == rocm.ROCM
            else cuda_toolkit.ensure(version, platform, reporter=reporter, cache=cache)
            for version in wanted
        },
        cuda_pytorch.ensure(platform, reporter=reporter, cache=cache) if pytorch else None,
    )


def ensure_root(platform: str, *, reporter: Reporter) -> Root:
    """PyTorch of another platform with all that it loads, to run under emulation.

    Raises:
        ConfigError: The platform is not cross compiled.
        MissingToolError, NetworkError, DiskError: It cannot be had here.
    """
    from vllm_conda.toolchain.cross import pytorch  # late: most runs need none

    return pytorch.ensure(platform, reporter)
