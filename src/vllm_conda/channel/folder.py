"""The model of a channel on disk.

::

    CHANNEL/
      publication.json         serial and time of the last publication, SHA-256 of each index file
      SUBDIR/                  noarch is always there
        NAME-VERSION-BUILD.conda
        repodata.json, .zst    what a solver may choose from
        repodata_shards.msgpack.zst, shards/    the same, a file a package name (CEP 16)
        run_exports.json, .zst (CEP 12)
      .vllm-conda/             what the index is made from; clients never read it
        records/SUBDIR/FILE.json    the index's row of a package, its run exports
        yanked/SUBDIR/FILE.json     offered to no solver, kept for locks that name it
        removed/SUBDIR/FILE.json    listed no more; the file goes when its readers had their time
        old-shards/SUBDIR/FILE.json    the same of a shard
        incoming/                   drafts of running commands

The index is a function of the files below ``.vllm-conda``, each of which is written once and by
one rename. So publishers need not agree on anything: whoever indexes last indexes all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from vllm_conda.errors import ConfigError, IntegrityError, UsageError
from vllm_conda.paths import write_atomic
from vllm_conda.structure import load_json

NOARCH = "noarch"
PUBLICATION = "publication.json"
SCHEMA = 1
STATE = ".vllm-conda"
PACKAGE_SUFFIXES = (".conda", ".tar.bz2")


@dataclass(frozen=True)
class Mark:
    """Why and when (seconds since the epoch) a package was yanked or removed.

    ``until`` is when the file of a removed one goes.
    """

    reason: str
    time: float
    until: float | None = None


@dataclass(frozen=True)
class Package:
    """One package of the channel.

    Attributes:
        record: Its row in ``repodata.json``.
        run_exports: As in ``run_exports.json``; empty where it exports nothing.
        yanked: Set for a package that no solver is offered.
    """

    subdir: str
    file_name: str
    record: Mapping[str, Any]
    run_exports: Mapping[str, Any] = field(default_factory=dict)
    yanked: Mark | None = None

    @property
    def key(self) -> str:
        return f"{self.subdir}/{self.file_name}"

    @property
    def sha256(self) -> str:
        return str(self.record["sha256"])

    @property
    def size(self) -> int:
        return int(self.record["size"])


@dataclass(frozen=True)
class Publication:
    """What ``publication.json`` holds.

    Attributes:
        serial: Grows by one with each publication that changes the index.
        time: Seconds since the epoch; never before an earlier publication's.
        index: SHA-256 of each index file by its path in the channel.
    """

    serial: int = 0
    time: float = 0.0
    index: Mapping[str, str] = field(default_factory=dict)


class ChannelFolder:
    """A channel in a folder of this machine; :func:`create` makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / STATE

    @property
    def url(self) -> str:
        return self.path.resolve().as_uri()

    def package_path(self, package: Package) -> Path:
        return self.path / package.subdir / package.file_name

    def publication(self) -> Publication:
        """The last publication.

        Raises:
            ConfigError: The folder is no channel of this command.
            IntegrityError: Its publication.json is damaged.
        """
        try:
            data = load_json((self.path / PUBLICATION).read_bytes())
            if data.pop("schema") != SCHEMA:
                raise ConfigError(
                    f"{self.path / PUBLICATION} is of another schema than {SCHEMA}.",
                    "Update the toolkit.",
                )
            serial, time = int(data["serial"]), float(data["time"])
            return Publication(serial, time, {str(k): str(v) for k, v in data["index"].items()})
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} is no channel: it has no {PUBLICATION}.",
                f"Make it one with `vllm-conda channel create {self.path}`.",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IntegrityError(
                f"{self.path / PUBLICATION} is damaged.",
                f"Write it anew with `vllm-conda channel index {self.path}`.",
            ) from None

    def write_publication(self, publication: Publication) -> None:
        data = {"schema": SCHEMA, **asdict(publication)}
        write_atomic(self.path / PUBLICATION, json.dumps(data, indent=1, sort_keys=True) + "\n")

    def packages(self) -> list[Package]:
        """All packages, the yanked ones too, without the removed ones; sorted.

        Raises:
            IntegrityError: A file below ``.vllm-conda`` is damaged.
        """
        removed, yanked = self.marks("removed"), self.marks("yanked")
        found = []
        for key, path in _files(self.state / "records"):
            if key in removed:
                continue
            subdir, _, file_name = key.partition("/")
            if (data := self._read(path)) is None:
                continue
            try:
                package = Package(
                    subdir, file_name, data["record"], data["run_exports"], yanked.get(key)
                )
                package.sha256, package.size  # noqa: B018 - both must be there
            except (KeyError, TypeError, ValueError):
                raise self._damaged(path) from None
            found.append(package)
        return found

    def marks(self, kind: str) -> dict[str, Mark]:
        """``SUBDIR/FILE`` -> the mark of ``kind``, which is ``yanked`` or ``removed``."""
        found = {}
        for key, path in _files(self.state / kind):
            if (data := self._read(path)) is None:
                continue
            try:
                until = data.get("until")
                found[key] = Mark(
                    str(data["reason"]),
                    float(data["time"]),
                    None if until is None else float(until),
                )
            except (KeyError, TypeError, ValueError):
                raise self._damaged(path) from None
        return found

    def mark(self, kind: str, key: str, mark: Mark) -> None:
        self._write(kind, key, asdict(mark))

    def unmark(self, kind: str, key: str) -> None:
        (self.state / kind / f"{key}.json").unlink(missing_ok=True)

    def write_record(self, package: Package) -> None:
        data = {"record": dict(package.record), "run_exports": dict(package.run_exports)}
        self._write("records", package.key, data)

    def forget(self, key: str) -> None:
        """Remove the record and marks of a package whose file is gone.

        The mark that hides it goes last.
        """
        for kind in ("records", "yanked", "removed"):
            self.unmark(kind, key)

    def find(self, name: str) -> list[Package]:
        """The packages whose file name is ``name``, or ``SUBDIR/name``.

        Raises:
            UsageError: There is none.
        """
        found = [one for one in self.packages() if name in (one.file_name, one.key)]
        if not found:
            raise UsageError(
                f"{self.path} has no package {name}.",
                f"`vllm-conda channel list {self.path}` lists them.",
            )
        return found

    def _write(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        whole = {"content": data, "sha256": _digest(data)}
        text = json.dumps(whole, indent=1, sort_keys=True) + "\n"
        write_atomic(self.state / kind / f"{key}.json", text)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """The file's content; None where another publisher took it away meanwhile."""
        try:
            whole = load_json(path.read_bytes())
            data: dict[str, Any] = whole["content"]
            if whole["sha256"] == _digest(data):
                return data
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        raise self._damaged(path)

    def _damaged(self, path: Path) -> IntegrityError:
        return IntegrityError(
            f"{path} is damaged.",
            f"Remove it and run `vllm-conda channel index {self.path}`, which makes it anew.",
        )


def _digest(data: Mapping[str, Any]) -> str:
    """So that a byte of a record cannot change unseen."""
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """``SUBDIR/FILE`` and path of each ``SUBDIR/FILE.json`` below ``folder``, sorted."""
    for path in sorted(folder.glob("*/[!.]*.json")):
        yield f"{path.parent.name}/{path.name.removesuffix('.json')}", path


def create(path: Path) -> ChannelFolder:
    """Make ``path`` a channel without packages; one that is there already stays as it is."""
    folder = ChannelFolder(path)
    if not (path / PUBLICATION).exists():
        (path / NOARCH).mkdir(parents=True, exist_ok=True)
        folder.write_publication(Publication())
    return folder


def open_channel(path: Path) -> ChannelFolder:
    """The channel in ``path``.

    Raises:
        ConfigError: It is none.
    """
    folder = ChannelFolder(path)
    folder.publication()
    return folder
