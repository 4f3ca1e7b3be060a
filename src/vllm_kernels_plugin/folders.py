"""Folders for what an engine keeps below the home, where nothing can be written there."""

from __future__ import annotations

import importlib.util
import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vllm_kernels_plugin.errors import PluginError


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
    """Name a folder in :func:`_own` for each of ``KEPT`` that has none which can be written.

    What the user has set stays.

    Raises:
        PluginError: Such a folder is needed, and is not the user's alone.
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
    folder = _own()
    found = {one.variable: folder / one.package for one in wanted}
    for variable, path in found.items():
        path.mkdir(exist_ok=True)
        os.environ[variable] = str(path)
    words = ", ".join(f"{variable}={path}" for variable, path in found.items())
    logger.info("the home cannot be written: %s", words)


def _own() -> Path:
    """The user's folder in the temporary one, where the next start finds what this one leaves.

    What lies there is run as the user: nobody else may write it.
    """
    user = os.geteuid()
    folder = Path(tempfile.gettempdir()) / f"vllm-kernels-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if (found.st_uid, found.st_mode & 0o777) != (user, 0o700) or not stat.S_ISDIR(found.st_mode):
        names = ", ".join(one.variable for one in KEPT)
        raise PluginError(
            f"the home cannot be written, and {folder} is not a folder that only user {user} can "
            f"enter: remove it, or name folders by {names}"
        )
    return folder


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
