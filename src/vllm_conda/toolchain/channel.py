"""A finished channel, and the cache's record of the request that it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cattrs

from vllm_conda import __version__
from vllm_conda.downloads.store import Store, key_of, read_json
from vllm_conda.structure import GROUPS
from vllm_conda.toolchain.host import Host

# Modules that decide what a package holds: an edit there makes new packages.
_CONTENT_MODULES = (
    "activation", "assemble", "cpython", "elf", "maker", "model", "stage", "stub",
    "sysroot/__init__", "sysroot/abilist", "sysroot/headers", "unpack", "variables",
)  # fmt: skip


@dataclass(frozen=True)
class PackageFile:
    """One package of the channel.

    Attributes:
        subdir: ``noarch`` or the platform.
        source: Where its content comes from, for example ``pip:numpy``.
        sha256: Hash of the ``.conda`` file.
        size: Bytes.
    """

    name: str
    version: str
    build: str
    subdir: str
    source: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}-{self.build}.conda"


@dataclass(frozen=True)
class Channel:
    """A finished, indexed local channel.

    Attributes:
        path: Folder that holds the subdirs.
        url: ``file://`` address of it.
        packages: Its packages, by name and version.
        fingerprint: Changes when any input of any package does.
    """

    path: Path
    url: str
    packages: tuple[PackageFile, ...]
    fingerprint: str


@cache
def code_key() -> str:
    """Key of the code that decides what packages hold."""
    folder = Path(__file__).parent
    texts = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in _CONTENT_MODULES]
    return key_of(__version__, *texts)


def request_key(host: Host, text: str) -> str:
    """Key of everything that is known before any download."""
    return key_of(text, code_key(), *(str(value) for value in asdict(host).values()))


def folder_for(store: Store, fingerprint: str, packages: Iterable[PackageFile]) -> Path:
    """Where a channel of exactly these files lies.

    The same inputs give the same fingerprint, but a package that is made again has another
    timestamp: an address names bytes, so that what a client read there stays true.
    """
    files = (f"{one.subdir}/{one.file_name} {one.sha256}" for one in packages)
    return store.channels / key_of(fingerprint, *sorted(files))


def load(store: Store, fingerprint: str, packages: Sequence[PackageFile]) -> Channel | None:
    """The channel that an earlier run finished, if all its files are still there."""
    path = folder_for(store, fingerprint, packages)
    for package in packages:
        try:
            if (path / package.subdir / package.file_name).stat().st_size != package.size:
                return None
        except OSError:
            return None
    if not (path / "noarch" / "repodata.json").is_file():
        return None
    return Channel(path, path.as_uri(), tuple(packages), fingerprint)


def request_file(store: Store, host: Host, text: str) -> Path:
    """Where the cache keeps the answer to this request."""
    return store.requests / f"{host.platform}-{request_key(host, text)}.json"


def finished(store: Store, request: Path) -> Channel | None:
    """The channel that answers the request, if it is whole."""
    known: Any = read_json(request)
    try:
        packages = cattrs.structure(known["packages"], list[PackageFile])
        return load(store, str(known["fingerprint"]), packages)
    except (LookupError, TypeError, *GROUPS):  # of another version of the toolkit, or none
        return None
