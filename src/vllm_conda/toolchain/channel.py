"""Makes the channel: fetch, unpack, stage, assemble, index. Every step is resumable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from vllm_conda import __version__
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.store import Store, default_cache, key_of, read_json

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
    host = host_module.detect(platform)
    text = model.catalog_text()
    store = Store(cache or default_cache())
    request = request_file(store, host, text)
    if (channel := finished(store, request)) is not None:
        return channel
    with store.locked(reporter):
        if (channel := finished(store, request)) is not None:
            return channel
        # Imported late: rattler-build and installer cost more than a finished answer does.
        from vllm_conda.toolchain.maker import Maker

        return Maker(store, host, reporter, model.parse(text)).make(request)


def finished(store: Store, request: Path) -> Channel | None:
    """The channel that answers the request, if it is whole."""
    known = read_json(request)
    if not isinstance(known, dict) or "fingerprint" not in known:
        return None
    fingerprint = str(known["fingerprint"])
    return load(store.channels / fingerprint, fingerprint, known.get("packages"))
