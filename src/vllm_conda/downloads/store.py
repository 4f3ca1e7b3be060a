"""The cache folder: atomic writes, hashes, one lock, and disk errors as one sentence.

Nothing in it is visible under its final name before it is whole: files and folders are
made under ``tmp/`` and renamed, so that a killed run leaves only rubbish in ``tmp/``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vllm_conda.errors import BusyError, DiskError
from vllm_conda.paths import CACHE_VARIABLE
from vllm_conda.progress import Reporter
from vllm_conda.structure import load_json

LOCK_WAIT_SECONDS = 900.0
FREE_SPACE = f"Free space there, or set {CACHE_VARIABLE} to a folder on another disk."
_DISK_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "it is not writable",
    errno.EPERM: "it is not writable",
    errno.EFBIG: "the file size limit is reached",
}


_NOTHING_FREE = 1 << 20
_DISK_TEXT = re.compile(
    r"no space left on device|disk quota exceeded|file too large|read-only file system|"
    r"enough free space|os error (?:27|28|30|122)",
    re.IGNORECASE,
)


def disk_failed(text: str, where: Path) -> OSError | None:
    """The OSError behind another program's message, when the disk caused it.

    A program that ran out of space does not always say so; then the disk itself tells.
    """
    full = _DISK_TEXT.search(text) or shutil.disk_usage(where).free < _NOTHING_FREE
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where)) if full else None


def disk_error(error: OSError, where: Path) -> DiskError | None:
    """The DiskError for an OSError that the disk caused, else None."""
    reason = _DISK_ERRNOS.get(error.errno or 0)
    if reason is None:
        return None
    return DiskError(f"Cannot write to {error.filename or where}: {reason}.", FREE_SPACE)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns disk-full and not-writable OSErrors into DiskError."""
    try:
        yield
    except OSError as error:
        if (known := disk_error(error, where)) is not None:
            raise known from error
        raise


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def key_of(*parts: str) -> str:
    """A 24-digit key that changes when any part does."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:24]


class Store:
    """The folders of one cache."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.downloads = self.root / "downloads"
        self.packages = self.root / "packages"
        self.channels = self.root / "channels"
        self.requests = self.root / "requests"
        self.tmp = self.root / "tmp"

    def prepare(self) -> None:
        """Make the folders; raises DiskError when that cannot be done."""
        with disk_errors(self.root):
            for folder in (self.downloads, self.packages, self.channels, self.requests, self.tmp):
                folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, reporter: Reporter, wait: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
        """Hold the cache alone; the kernel releases the lock of a killed process.

        Raises:
            BusyError: another process still holds it after ``wait`` seconds.
        """
        self.prepare()
        lock = FileLock(self.root / "lock")
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if wait <= 0:
                    raise
                reporter.line(f"Another run uses {self.root}; waiting up to {wait:.0f} s for it.")
                lock.acquire(timeout=wait)
        except Timeout as error:
            raise BusyError(
                f"Another process holds the cache {self.root}.",
                f"Wait for it, or set {CACHE_VARIABLE} to another folder.",
            ) from error
        try:
            # The lock is ours, so whatever lies in tmp/ was left by a killed run.
            for rubbish in self.tmp.iterdir():
                remove(rubbish)
            yield
        finally:
            lock.release()

    def scratch(self, name: str) -> Path:
        """A new empty folder on the cache's file system."""
        with disk_errors(self.tmp):
            return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.tmp))

    def write_json(self, path: Path, value: Any) -> None:
        """Write JSON atomically."""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.tmp)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(value, file, indent=1, sort_keys=True)
                share(Path(name))
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def complete(self, made: Path, final: Path, last: str) -> None:
        """Publish a folder whose name stands for its content, and which clients may be reading.

        Where a part of it was lost, each file enters by a rename of its own, and no moment is
        without what is whole already.

        Args:
            last: How the names of those files begin that say what the others are.
        """
        if not final.exists():
            self.publish(made, final)
            return
        with disk_errors(final):
            _share_all(made)
            files = (path for path in made.rglob("*") if path.is_file())
            for file in sorted(files, key=lambda path: (path.name.startswith(last), path)):
                target = final / file.relative_to(made)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        remove(made)

    def publish(self, made: Path, final: Path) -> None:
        """Rename a finished folder to its final name, replacing what is there."""
        with disk_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            _share_all(made)
            if final.exists():
                old = self.scratch("old")
                final.replace(old / "x")
                made.replace(final)
                remove(old)
            else:
                made.replace(final)


def _share_all(made: Path) -> None:
    for folder, _, names in os.walk(made):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            share(path)


def share(path: Path) -> None:
    """Let others read what a temporary file's mode keeps from them and the umask does not."""
    if path.is_symlink():
        return
    mode = path.stat().st_mode & 0o777
    wanted = mode | (((mode & 0o500) >> 3 | (mode & 0o500) >> 6) & ~_umask())
    if wanted != mode:
        path.chmod(wanted)


@cache
def _umask() -> int:
    """Reading it from the process's own calls would change it for the other threads."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


def read_json(path: Path) -> Any | None:
    """Parsed JSON, or None when the file is missing or damaged."""
    try:
        return load_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def remove(path: Path) -> None:
    """Delete a file or a folder tree, whatever is left of it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
