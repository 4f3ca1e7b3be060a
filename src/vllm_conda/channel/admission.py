"""What a package must be to enter a channel: whole, itself, and inside its prefix."""

from __future__ import annotations

import bz2
import json
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import zstandard
from rattler.exceptions import ParseSubdirError
from rattler.platform import Subdir

from vllm_conda.archives import DAMAGED, MALFORMED
from vllm_conda.channel.folder import PACKAGE_SUFFIXES
from vllm_conda.errors import IntegrityError, UsageError, reason

# An archive may unpack to this many times its size, small ones to more. Libraries full of zeros
# reach some hundreds; what is made to fill a disk, ten thousands.
_LARGEST_RATIO = 1000
_SMALL = 1 << 28
_LARGEST_METADATA = 1 << 28
_BLOCK = 1 << 20
_METADATA = ("info/index.json", "info/paths.json", "info/link.json")


class _Limited:
    """A stream that refuses to give more than ``left`` bytes."""

    def __init__(self, stream: Any, left: int) -> None:
        self.stream, self.left = stream, left

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left:
            raise _Hostile("unpacks to far more than its size")
        block: bytes = self.stream.read(size)
        self.left -= len(block)
        return block


class _Hostile(Exception):
    """Why a file is refused, as the rest of a sentence that begins with its name."""


def check_package(path: Path, subdir: str | None = None) -> str:
    """Read a package from end to end.

    Args:
        subdir: The folder of the channel that it comes from, if it comes from one.

    Returns:
        The subdir that it belongs to.

    Raises:
        UsageError: The file is no package by its name, or not there.
        IntegrityError: It is damaged, not what its name says, or would write outside its prefix.
    """
    if not path.name.endswith(PACKAGE_SUFFIXES):
        raise UsageError(
            f"{path} is no package: its name ends in neither .conda nor .tar.bz2.",
            "Name packages, or folders that hold a channel.",
        )
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Name a package or a folder.")
    try:
        metadata, files = _read(path)
        own = _identity(path.name, metadata)
        _same_files(metadata, files)
        _entry_points(metadata)
    except _Hostile as error:
        raise IntegrityError(
            f"{path.name} is refused: it {error}.", "Do not install it; ask who made it."
        ) from None
    except DAMAGED as error:
        raise IntegrityError(
            f"{path.name} is damaged: {reason(error)}.", "Copy or build it again."
        ) from None
    except MALFORMED as error:
        raise IntegrityError(
            f"{path.name} is damaged: a document in info/ is malformed "
            f"({type(error).__name__}: {reason(error)}).",
            "Build it again.",
        ) from None
    if subdir not in (None, own):
        raise IntegrityError(
            f"{path.name} lies in {subdir}, but it is a package for {own}.",
            f"Move it to {own}, or leave it out.",
        )
    return own


def _read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """The metadata, and size and SHA-256 of each file that is installed."""
    metadata: dict[str, Any] = {}
    files: dict[str, tuple[int, str]] = {}
    for archive, member in _members(path):
        _check_member(member)
        stream = archive.extractfile(member) if member.isfile() else None
        if stream is None:
            continue
        if member.name in _METADATA:
            if member.size > _LARGEST_METADATA:
                raise _Hostile(f"holds a {member.name} of {member.size} bytes")
            metadata[member.name] = json.loads(stream.read())
        elif not member.name.startswith("info/"):
            digest = sha256()
            while block := stream.read(_BLOCK):
                digest.update(block)
            files[member.name] = (member.size, digest.hexdigest())
    return metadata, files


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    for stream in _components(path):
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                yield archive, member
        while stream.read(_BLOCK):  # what follows the archive is checked too
            pass


def _components(path: Path) -> Iterator[Any]:
    """The tar streams of a package, each with a limit."""
    limit = max(_SMALL, _LARGEST_RATIO * path.stat().st_size)
    if path.name.endswith(".tar.bz2"):
        with bz2.open(path) as stream:
            yield _Limited(stream, limit)
        return
    stem = path.name.removesuffix(".conda")
    with zipfile.ZipFile(path) as outer:
        for component in ("info", "pkg"):
            with _opened(outer, f"{component}-{stem}.tar.zst") as stream:
                yield _Limited(stream, limit)


@contextmanager
def _opened(outer: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    try:
        member = outer.open(name)
    except KeyError:
        raise zipfile.BadZipFile(f"it has no {name}") from None
    with (
        member,
        zstandard.ZstdDecompressor().stream_reader(member, read_across_frames=True) as stream,
    ):
        yield stream
        while member.read(_BLOCK):  # to its end, where its checksum is
            pass


def _check_member(member: tarfile.TarInfo) -> None:
    name = member.name
    if not _inside(name):
        raise _Hostile(f"holds {name!r}, a path outside its prefix")
    if member.issym():
        goal = posixpath.join(posixpath.dirname(name), member.linkname)
        if member.linkname.startswith("/") or not _inside(posixpath.normpath(goal)):
            raise _Hostile(f"holds a link {name} to {member.linkname!r}, outside its prefix")
    elif member.islnk():
        if not _inside(member.linkname):
            raise _Hostile(f"holds a link {name} to {member.linkname!r}, outside its prefix")
    elif not (member.isfile() or member.isdir()):
        raise _Hostile(f"holds {name}, which is neither a file nor a link")


def _inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def _identity(file_name: str, metadata: dict[str, Any]) -> str:
    """The subdir; that the package is the one of its name."""
    row = metadata.get("info/index.json")
    if not isinstance(row, dict):
        raise _Hostile("has no info/index.json")
    stem = file_name.removesuffix(".conda").removesuffix(".tar.bz2")
    own = "-".join(str(row.get(key)) for key in ("name", "version", "build"))
    if own != stem:
        raise _Hostile(f"says of itself that it is {own}")
    subdir = str(row.get("subdir"))
    try:
        Subdir(subdir)
    except ParseSubdirError:
        raise _Hostile(f"is for the platform {subdir!r}, which conda does not know") from None
    return subdir


def _same_files(metadata: dict[str, Any], files: dict[str, tuple[int, str]]) -> None:
    """The files are those that ``info/paths.json`` lists; old packages have none."""
    listed = metadata.get("info/paths.json", {}).get("paths", [])
    for row in listed:
        name = str(row["_path"])
        if not _inside(name):
            raise _Hostile(f"lists {name!r}, a path outside its prefix")
        if row.get("path_type", "hardlink") != "hardlink":
            continue
        if name not in files:
            raise _Hostile(f"lacks {name}, which it lists")
        size, digest = files[name]
        if row.get("sha256", digest) != digest or row.get("size_in_bytes", size) != size:
            raise _Hostile(f"holds another {name} than it lists")


def _entry_points(metadata: dict[str, Any]) -> None:
    """Their names become files in ``bin``."""
    link = metadata.get("info/link.json") or {}
    for point in (link.get("noarch") or {}).get("entry_points") or []:
        name = str(point).partition("=")[0].strip()
        if "/" in name or name in ("", ".", ".."):
            raise _Hostile(f"has an entry point {name!r}, outside its prefix")
