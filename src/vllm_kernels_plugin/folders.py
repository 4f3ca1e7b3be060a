"""Folders for what an engine keeps below the home, where nothing can be written there."""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple


class Kept(NamedTuple):
    """What is kept in a folder.

    Attributes:
        variable: It names the folder.
        package: What keeps it, and need not be installed.
        base: A variable that moves the default.
        below: The default, below the folder that ``base`` names.
        home: The same without ``base``, below the home.
    """

    variable: str
    package: str
    base: str
    below: str
    home: str


KEPT = (
    # Its import fails without.
    Kept("FLASHINFER_WORKSPACE_BASE", "flashinfer", "", "", ".cache/flashinfer"),
    # The engine always runs Triton kernels on a GPU.
    Kept("TRITON_CACHE_DIR", "triton", "TRITON_HOME", ".triton/cache", ".triton/cache"),
    # torch.compile's code and what is known of models.
    Kept("VLLM_CACHE_ROOT", "vllm", "XDG_CACHE_HOME", "vllm", ".cache/vllm"),
)


def give(logger: logging.Logger) -> None:
    """Name a temporary folder for each of ``KEPT`` that has none which can be written.

    What the user has set stays. Child processes use the same folders.
    """
    wanted = [
        one
        for one in KEPT
        if one.variable not in os.environ
        and _is_installed(one.package)
        and not _can_be_written(one)
    ]
    if not wanted:
        return
    folder = Path(tempfile.mkdtemp(prefix="vllm-kernels-"))
    atexit.register(_remove, folder, os.getpid())
    found = {one.variable: folder / one.package for one in wanted}
    for variable, path in found.items():
        path.mkdir()
        os.environ[variable] = str(path)
    words = ", ".join(f"{variable}={path}" for variable, path in found.items())
    logger.info("the home cannot be written; until this process ends: %s", words)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked
        shutil.rmtree(folder, ignore_errors=True)


def _is_installed(package: str) -> bool:
    # The engine is what calls.
    return package == "vllm" or importlib.util.find_spec(package) is not None


def _can_be_written(one: Kept) -> bool:
    """Whether the default folder can be written, or made."""
    if one.base and (base := os.environ.get(one.base)):
        path = Path(base) / one.below
    else:
        try:
            path = Path.home() / one.home
        except RuntimeError:  # a user without a home
            return False
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
    except PermissionError:  # a folder above it that cannot be entered
        return False
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
