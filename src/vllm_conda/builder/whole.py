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


def make_local(store: Store, spec: str, records: Iterable[RepoDataRecord]) -> None:
    """Make ``output/local``: all that ``output/`` offers this machine, and what it runs on.

    What an earlier call brought for another spec stays.

    Args:
        records: An installation of ``spec`` out of folders; others stay where they are.
    """
    folder = local_folder(store.folder)
    sources = {
        f"{subdir}/{path.name}": path
        for subdir in (store.platform, NOARCH)
        for path in (store.folder / subdir).glob("*.conda")
    }
    needed = {_key(path): path for path in _files(records) if _key(path) not in sources}
    with disk_errors("the channel for this machine", folder):
        store.mark_local(spec, needed)
        for key in (key for keys in store.state.local.values() for key in keys):
            if (folder / key).is_file():
                sources[key] = folder / key
        sources |= needed
        waiting = store.workspace.outgoing
        paths: dict[str, list[Path]] = {store.platform: [], NOARCH: []}
        for key, source in sources.items():
            target = folder / key
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source, target, waiting_place(folder, waiting))
            paths[target.parent.name].append(target)
        write_index(folder, paths, store.workspace.folder)
        for old in (path for path in folder.glob("*/*.conda") if _key(path) not in sources):
            old.unlink()


def _key(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _files(records: Iterable[RepoDataRecord]) -> Iterator[Path]:
    addresses = (str(record.url) for record in records)
    return (folder_of(address) for address in addresses if address.startswith("file:"))


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
