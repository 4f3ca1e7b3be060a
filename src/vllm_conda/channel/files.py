"""How files get into a channel: whole, synced and by one rename, the packages' list last.

A published file name never changes its bytes, and clients only see what the index lists. So new
packages come first, then the index, and only then are old packages removed: whenever the process
is killed, the channel is the old one or the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllm_conda.paths import private_folder
from vllm_conda.structure import load_json

# In the order in which they are replaced: a form that names others comes after them, and the
# packages' list, which every client reads, comes last.
INDEX_FILES = (
    "run_exports.json.zst",
    "run_exports.json",
    "repodata_shards.msgpack.zst",
    "repodata.json.zst",
    "repodata.json",
)
SHARDS = "shards"
_INCOMING = ".incoming"


def waiting_place(folder: Path, near: Path) -> Path:
    """Where files wait for their rename into ``folder``.

    It is ``near``, or where that is on another file system a dot folder of the channel, which
    clients never read.
    """
    near.mkdir(parents=True, exist_ok=True)
    if _same_disk(near, folder):
        return near
    waiting = folder / _INCOMING
    waiting.mkdir(exist_ok=True)
    return waiting


def enter(file: Path, target: Path, waiting: Path) -> None:
    """Copy ``file`` to ``target``, which is absent or whole at any moment."""
    copy = waiting / target.name
    shutil.copyfile(file, copy)
    sync(copy)
    copy.replace(target)
    sync(target.parent)


def link_or_copy(file: Path, target: Path) -> None:
    """Give ``file`` another name; on another file system, or one without links, a copy."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)


def listed(subdir: Path) -> dict[str, dict[str, Any]]:
    """Rows of the packages that a folder's index lists; none where it is absent or damaged."""
    try:
        rows = load_json((subdir / "repodata.json").read_bytes())["packages.conda"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: row for name, row in rows if isinstance(row, dict)}


def enter_index(folder: Path, draft: Path, subdirs: Iterable[str], waiting: Path) -> None:
    """Replace the index of ``subdirs`` by the one in ``draft``; old shards stay.

    Each form of the index is whole at any moment, and so is what it refers to.
    """
    for subdir in subdirs:
        (folder / subdir / SHARDS).mkdir(parents=True, exist_ok=True)
        for shard in sorted((draft / subdir / SHARDS).glob("*")):
            target = folder / subdir / SHARDS / shard.name
            # Its name is its hash; one that is there has other bytes if it is damaged.
            if not (target.is_file() and target.read_bytes() == shard.read_bytes()):
                enter(shard, target, waiting)
        for name in INDEX_FILES:
            enter(draft / subdir / name, folder / subdir / name, waiting)


def tidy(folder: Path) -> None:
    """Remove what a killed run left waiting in the channel."""
    shutil.rmtree(folder / _INCOMING, ignore_errors=True)
    for draft in private_folder(folder).glob(".*.json.*"):  # of write_atomic
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev
