"""The file format of a bundle: a plain tar archive that ends with the SHA-256 of all before.

``tar xf`` unpacks it. The last member holds the digest in the form of `sha256sum`; it and what
follows it to the end of the file are a function of the digest, so that no byte of a bundle can
change unseen.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from vllm_conda.errors import IntegrityError

TRAILER = "bundle.sha256"
_BLOCK = 1 << 20


class BundleWriter:
    """Writes members in order; every file gets the time ``moment``, in seconds."""

    def __init__(self, stream: IO[bytes], moment: int) -> None:
        self._stream, self._moment, self._digest = stream, moment, sha256()

    def add(self, name: str, source: IO[bytes], size: int, executable: bool = False) -> None:
        self._write(_header(name, size, self._moment, executable))
        left = size
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise EOFError(f"{name} became shorter while it was read")
            self._write(block)
            left -= len(block)
        self._write(bytes(-size % tarfile.BLOCKSIZE))

    def add_bytes(self, name: str, data: bytes, executable: bool = False) -> None:
        self.add(name, io.BytesIO(data), len(data), executable)

    def finish(self) -> None:
        self._stream.write(_tail(self._digest.hexdigest(), self._moment))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)


def overhead(names: int) -> int:
    """Bytes of a bundle besides its files' own, at most."""
    return names * 2 * tarfile.BLOCKSIZE + len(_tail("0" * 64, 0)) + tarfile.RECORDSIZE


def check_whole(path: Path) -> None:
    """Read a bundle from end to end.

    Raises:
        IntegrityError: It is not as it was written.
    """
    tail_size = len(_tail("0" * 64, 0))
    body = path.stat().st_size - tail_size
    digest = sha256()
    with path.open("rb") as stream:
        first = stream.read(tarfile.BLOCKSIZE)
        try:
            moment = int(tarfile.TarInfo.frombuf(first, "utf-8", "strict").mtime)
        except tarfile.TarError:
            raise IntegrityError(
                f"{path} is no bundle, or its beginning is damaged.",
                "Copy it again, or make one with `vllm-conda channel bundle`.",
            ) from None
        stream.seek(0)
        left = max(body, 0)
        while left and (block := stream.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
        if body < 0 or stream.read() != _tail(digest.hexdigest(), moment):
            raise IntegrityError(
                f"{path} is not whole: it was cut short or changed on its way.", "Copy it again."
            )


@contextmanager
def members(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Name, size and content of each file; each content is read before the next comes.

    Raises:
        IntegrityError: A member that is no plain file.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            yield _members(archive, path)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged: {error}.", "Copy it again.") from None


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, int, Any]]:
    for member in archive:
        if member.name == TRAILER:
            return
        stream = archive.extractfile(member) if member.isreg() else None
        if stream is None:
            raise IntegrityError(
                f"{path} is refused: it holds {member.name!r}, which is no plain file.",
                "Do not unpack it; ask who made it.",
            )
        yield member.name, member.size, stream


def _header(name: str, size: int, moment: int, executable: bool = False) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, moment
    member.mode = 0o755 if executable else 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def _tail(digest: str, moment: int) -> bytes:
    text = f"{digest}  everything before this file\n".encode()
    data = _header(TRAILER, len(text), moment) + text
    data += bytes(-len(text) % tarfile.BLOCKSIZE) + bytes(2 * tarfile.BLOCKSIZE)
    return data
