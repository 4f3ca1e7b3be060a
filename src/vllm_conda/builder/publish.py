"""How files get into a channel: whole, synced and by one rename, the packages' list last.

A published file name never changes its bytes, and clients only see what the index lists. So new
packages come first, then the index, and only then are old packages removed: whenever the process
is killed, the channel is the old one or the new one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from rattler.index import index_fs

NOARCH = "noarch"
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
    _sync(copy)
    copy.replace(target)
    _sync(target.parent)


def write_index(folder: Path, packages: Mapping[str, Iterable[Path]], near: Path) -> None:
    """Index exactly ``packages``, which are in the channel ``folder`` already.

    Args:
        packages: By subdir.
        near: Folder for drafts, outside the channel.
    """
    draft = near / "index"
    shutil.rmtree(draft, ignore_errors=True)
    for subdir in {NOARCH, *packages}:
        (draft / subdir).mkdir(parents=True)
        for package in packages.get(subdir, ()):
            shutil.copy2(package, draft / subdir / package.name)
    asyncio.run(index_fs(draft, write_shards=False))
    waiting = waiting_place(folder, near / "outgoing")
    for subdir in sorted({NOARCH, *packages}, key=lambda name: bool(packages.get(name))):
        (folder / subdir).mkdir(parents=True, exist_ok=True)
        # repodata.json itself last of its other forms.
        for file in sorted((draft / subdir).glob("repodata*"), reverse=True):
            enter(file, folder / subdir / file.name, waiting)
    shutil.rmtree(draft)


def tidy(folder: Path) -> None:
    """Remove what a killed run left waiting in the channel."""
    shutil.rmtree(folder / _INCOMING, ignore_errors=True)
    for draft in folder.glob(".*.json.*"):  # of write_atomic
        draft.unlink(missing_ok=True)


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
