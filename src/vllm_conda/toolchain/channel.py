"""A finished channel, and the cache's record of the request that it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from vllm_conda import __version__
from vllm_conda.downloads.store import Store, key_of, read_json
from vllm_conda.toolchain.host import Host

# Modules that decide what a package holds: an edit there makes new packages.
_CONTENT_MODULES = (
    "activation", "assemble", "cpython", "elf", "maker", "model", "stage", "stub", "unpack",
    "variables",
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


def load(path: Path, fingerprint: str, rows: object) -> Channel | None:
    """The channel that an earlier run finished, if all its files are still there."""
    if not isinstance(rows, list):
        return None
    packages = []
    for row in rows:
        package = PackageFile(**row)
        try:
            if (path / package.subdir / package.file_name).stat().st_size != package.size:
                return None
        except OSError:
            return None
        packages.append(package)
    if not (path / "noarch" / "repodata.json").is_file():
        return None
    return Channel(path, path.as_uri(), tuple(packages), fingerprint)


def request_file(store: Store, host: Host, text: str) -> Path:
    """Where the cache keeps the answer to this request."""
    return store.requests / f"{host.platform}-{request_key(host, text)}.json"


def finished(store: Store, request: Path) -> Channel | None:
    """The channel that answers the request, if it is whole."""
    known = read_json(request)
    if not isinstance(known, dict) or "fingerprint" not in known:
        return None
    fingerprint = str(known["fingerprint"])
    return load(store.channels / fingerprint, fingerprint, known.get("packages"))
