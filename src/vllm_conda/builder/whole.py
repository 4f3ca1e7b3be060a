"""Channels that hold what their packages need, so that no line to install depends on a cache.

``output/`` is for publication: the project's packages, and the level packages that they ask for,
which conda-forge has for some CPU families only. What else they run on is conda-forge's. Where the
embedded toolchain stands in for conda-forge, ``output/local`` holds that too, for this machine: its
Python and PyTorch must not be published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rattler import RepoDataRecord

from vllm_conda.builder.store import Store
from vllm_conda.channel.files import enter, link_or_copy, listed, waiting_place
from vllm_conda.channel.folder import NOARCH
from vllm_conda.channel.publish import write_index
from vllm_conda.paths import disk_errors
from vllm_conda.platforms import table
from vllm_conda.solve import folder_of

LOCAL = "local"


def take_levels(store: Store, channels: Sequence[str]) -> None:
    """Put the level packages of the platform's family into the output channel, not yet indexed.

    A name keeps its bytes: what is there already stays.
    """
    name = f"_{table()[store.platform].family}-microarch-level"
    waiting = waiting_place(store.folder, store.workspace.outgoing)
    with disk_errors("the level packages", store.folder):
        for folder in _folders(channels):
            for file, row in listed(folder / NOARCH).items():
                target = store.folder / NOARCH / file
                if row.get("name") == name and not target.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    enter(folder / NOARCH / file, target, waiting)


def local_folder(output: Path) -> Path:
    return output / LOCAL


def is_made(output: Path, platform: str) -> bool:
    """Whether ``output/local`` lists packages."""
    return bool(listed(local_folder(output) / platform))


def make_local(store: Store, records: Iterable[RepoDataRecord]) -> None:
    """Make ``output/local``: all that ``output/`` offers this machine, and what it runs on.

    Args:
        records: An installation out of folders; others stay where they are.
    """
    folder = local_folder(store.folder)
    files = {
        subdir: {path.name: path for path in (store.folder / subdir).glob("*.conda")}
        for subdir in (store.platform, NOARCH)
    }
    for record in records:
        if str(record.url).startswith("file:"):
            path = folder_of(str(record.url))
            files[path.parent.name].setdefault(path.name, path)
    waiting = store.workspace.outgoing
    with disk_errors("the channel for this machine", folder):
        for subdir, found in files.items():
            (folder / subdir).mkdir(parents=True, exist_ok=True)
            for path in found.values():
                _link(path, folder / subdir / path.name, waiting_place(folder, waiting))
        paths = {
            subdir: [folder / subdir / name for name in found] for subdir, found in files.items()
        }
        write_index(folder, paths, store.workspace.folder)
        for subdir, found in files.items():
            for old in (folder / subdir).glob("*.conda"):
                if old.name not in found:
                    old.unlink()


def _link(file: Path, target: Path, waiting: Path) -> None:
    """``file`` under a second name, whole at any moment."""
    with suppress(OSError):
        if target.samefile(file):
            return
    draft = waiting / target.name
    draft.unlink(missing_ok=True)
    link_or_copy(file, draft)
    draft.replace(target)


def _folders(channels: Iterable[str]) -> Iterator[Path]:
    return (folder_of(channel) for channel in channels if channel.startswith("file:"))
