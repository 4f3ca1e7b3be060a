"""The output channel: what is in it, moving packages in whole, and its index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cattrs

from vllm_conda.builder.workspace import Workspace
from vllm_conda.channel.files import enter, listed, tidy, waiting_place
from vllm_conda.channel.folder import NOARCH
from vllm_conda.channel.publish import write_index
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.structure import GROUPS, load_json

STATE_FILE = "build-state.json"
STATE_SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """One published package.

    ``jobs`` are the jobs that hold it (vllm-core is one package for all of a platform);
    ``tested`` is ``"passed"`` or why its tests did not run on this machine; ``commit`` is that of
    the checkout, with a ``+`` where files were changed since, empty outside of git.
    """

    jobs: tuple[str, ...]
    fingerprint: str
    sha256: str
    size: int
    mtime_ns: int
    tested: str
    commit: str = ""


@dataclass(frozen=True)
class State:
    """What the last runs published.

    ``installed`` identifies the last checked installation; ``channels`` are those that the
    packages were built against and that a user needs besides this one; ``local`` says of each
    spec what ``output/local`` holds for it besides the packages, as ``SUBDIR/FILE``.
    """

    packages: dict[str, Entry]
    installed: str = ""
    channels: tuple[str, ...] = ()
    local: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_state(file: Path) -> State:
    """A missing or unreadable state file only means that everything is built again."""
    try:
        data = load_json(file.read_bytes())
        if data.pop("schema") != STATE_SCHEMA:
            return State({})
        return cattrs.structure(data, State)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, *GROUPS):
        return State({})


class Store:
    """The output folder as a channel of one platform."""

    def __init__(self, folder: Path, platform: str, workspace: Workspace) -> None:
        self.folder, self.platform, self.workspace = folder, platform, workspace
        self.state = read_state(self.state_file)

    @property
    def packages(self) -> Path:
        return self.folder / self.platform

    @property
    def state_file(self) -> Path:
        return private_folder(self.folder) / STATE_FILE

    @property
    def url(self) -> str:
        return self.folder.resolve().as_uri()

    def save(self) -> None:
        data = {"schema": STATE_SCHEMA, **asdict(self.state)}
        write_atomic(self.state_file, json.dumps(data, indent=1) + "\n")

    def holds(self, file_name: str, fingerprint: str) -> bool:
        """Whether the package is there, whole, and built from the same inputs."""
        entry = self.state.packages.get(file_name)
        if entry is None or entry.fingerprint != fingerprint:
            return False
        try:
            status = (self.packages / file_name).stat()
        except OSError:
            return False
        if (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns):
            return True
        return sha256(self.packages / file_name) == entry.sha256

    def publish(
        self, package: Path, job: str, fingerprint: str, tested: str, commit: str = ""
    ) -> None:
        """Record a finished package and move it in by one rename.

        A name stands for all that its package is made from, so a whole one that is there already
        stays: readers may have its hash from the index.
        """
        target = self.packages / package.name
        with disk_errors("the package", self.folder):
            self.packages.mkdir(parents=True, exist_ok=True)
            waiting = waiting_place(self.folder, self.workspace.outgoing)
            published = self._indexed(self.packages).get(package.name)
            whole = bool(published) and target.is_file() and sha256(target) == published
            source = target if whole else package
            entry = Entry(
                jobs=(job,),
                fingerprint=fingerprint,
                sha256=sha256(source),
                size=source.stat().st_size,
                mtime_ns=source.stat().st_mtime_ns,
                tested=tested,
                commit=commit,
            )
            # Before the file is there: what no record names would stay for ever after a kill.
            self._record(package.name, entry)
            if not whole:
                enter(package, target, waiting)
                self._record(package.name, replace(entry, mtime_ns=target.stat().st_mtime_ns))

    def _record(self, name: str, entry: Entry) -> None:
        self.state = replace(self.state, packages={**self.state.packages, name: entry})
        self.save()

    def mark_installed(self, identity: str, channels: tuple[str, ...]) -> None:
        self.state = replace(self.state, installed=identity, channels=channels)
        self.save()

    def mark_local(self, spec: str, files: Iterable[str]) -> None:
        self.state = replace(self.state, local={**self.state.local, spec: tuple(sorted(files))})
        self.save()

    def settle(self, uses: Mapping[str, set[str]], built: set[str]) -> list[str]:
        """Record which jobs hold which package, index, and only then remove the unused ones.

        Args:
            uses: For each current package, those of the jobs ``built`` that hold it.

        A package of a job outside ``built`` stays, with the core that it pins; packages that
        this toolkit did not publish are never touched. Returns the removed names.
        """
        left: dict[str, Entry] = {}
        gone = []
        for name, entry in self.state.packages.items():
            jobs = (set(entry.jobs) - built) | uses.get(name, set())
            left[name] = replace(entry, jobs=tuple(sorted(jobs)))
            if not jobs:
                gone.append(name)
        self._index(set(gone))
        for name in gone:
            (self.packages / name).unlink(missing_ok=True)
            del left[name]
        if left != self.state.packages:
            self.state = replace(self.state, packages=left)
            self.save()
        tidy(self.folder)
        return gone

    def _index(self, without: set[str]) -> None:
        """Write repodata where it does not list exactly the packages but ``without``.

        The index is made in the workspace, and every file of it enters by one rename, the
        packages' list last: a kill leaves the old index or the new one.
        """
        present = {path.name for path in self.packages.glob("*.conda")} - without
        levels = {path.name for path in (self.folder / NOARCH).glob("*.conda")}
        current = self._indexed(self.packages) == {name: self._hash(name) for name in present}
        if present and current and set(self._indexed(self.folder / NOARCH)) == levels:
            return
        with disk_errors("the channel's index", self.folder):
            files = {
                self.platform: [self.packages / name for name in present],
                NOARCH: [self.folder / NOARCH / name for name in levels],
            }
            write_index(self.folder, files, self.workspace.folder)

    def _hash(self, name: str) -> str:
        entry = self.state.packages.get(name)
        return entry.sha256 if entry else sha256(self.packages / name)

    def _indexed(self, folder: Path) -> dict[str, str]:
        """Hashes of what the index lists in a folder of the channel; none without a whole index."""
        if not (self.folder / NOARCH / "repodata.json").is_file():
            return {}
        return {name: str(row.get("sha256")) for name, row in listed(folder).items()}


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
