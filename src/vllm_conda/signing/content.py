"""Which files of a channel are signed, and what its index says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.channel.folder import PACKAGE_SUFFIXES, PUBLICATION
from vllm_conda.errors import IntegrityError, UsageError

INDEX = "repodata.json"


@dataclass(frozen=True)
class Record:
    """A package as the index lists it."""

    path: str
    name: str
    version: str
    build: str
    sha256: str
    size: int


def subdirs(folder: Path) -> list[Path]:
    """The channel's platforms, sorted.

    Raises:
        UsageError: ``folder`` is no channel.
    """
    found = sorted(one.parent for one in folder.glob(f"*/{INDEX}"))
    if not found:
        raise UsageError(
            f"{folder} is no channel: no folder in it has a {INDEX}.",
            "Name the folder above linux-64 and noarch.",
        )
    return found


def files(folder: Path) -> Iterator[Path]:
    """Every file that clients read, sorted; what starts with a dot is the publisher's own."""
    if (folder / PUBLICATION).is_file():
        yield folder / PUBLICATION
    for subdir in subdirs(folder):
        for path in sorted(subdir.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(subdir).parts)
            if path.is_file() and not hidden:
                yield path


def is_package(path: str) -> bool:
    return path.endswith(PACKAGE_SUFFIXES)


def records(folder: Path) -> dict[str, Record]:
    """All packages of the index, by path relative to the channel.

    Raises:
        IntegrityError: An index does not parse.
    """
    found = {}
    for subdir in subdirs(folder):
        file = subdir / INDEX
        try:
            data = json.loads(file.read_bytes())
            for group in ("packages", "packages.conda"):
                for name, record in data.get(group, {}).items():
                    path = f"{subdir.name}/{name}"
                    found[path] = _record(path, record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"The index {file} is damaged: {type(error).__name__}: {error}.",
                "Run `vllm-conda channel index` where the channel is made, or fetch it again.",
            ) from None
    return found


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _record(path: str, record: Mapping[str, object]) -> Record:
    size = record["size"]
    if not isinstance(size, int):
        raise TypeError("size is no number")
    return Record(
        path,
        str(record["name"]),
        str(record["version"]),
        str(record["build"]),
        str(record["sha256"]),
        size,
    )
