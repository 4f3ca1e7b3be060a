"""One publication: index what is there, then let go of what is old.

Publishers take turns by a lock where the file system has one. Where it has none (many a parallel
file system) nothing else changes: each indexes what the channel's own records say, and looks at
the channel again after it wrote. Of two that write at once the later one looks later, and writes
again if the other was first with something new. A process killed between writing and looking can
leave an older index there, whole and right in all that it lists; the next publication, or
``vllm-conda channel index``, brings the newest.
"""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from vllm_conda.channel import index
from vllm_conda.channel.files import INDEX_FILES, SHARDS, enter_index, waiting_place
from vllm_conda.channel.folder import (
    NOARCH,
    STATE,
    ChannelFolder,
    Mark,
    Package,
    Publication,
)
from vllm_conda.errors import BusyError, ConfigError, IntegrityError
from vllm_conda.paths import abandoned, disk_errors, process_name

DAY = 86400.0
GRACE_SECONDS = DAY
LOCK_WAIT_SECONDS = 900.0
# Without locks each round loses to another publisher; more than a few mean a crowd.
_ROUNDS = 100
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
_SHARD_MARK = "old-shards"


@contextmanager
def locked(folder: ChannelFolder, wait: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
    """Hold the channel alone where its file system has locks; elsewhere go on without.

    Raises:
        BusyError: Another publisher still holds it after ``wait`` seconds.
    """
    with disk_errors("the channel", folder.path):
        folder.state.mkdir(exist_ok=True)
    lock = FileLock(folder.state / "lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise BusyError(
            f"Another process publishes into {folder.path} for {wait:.0f} s.",
            "Wait for it, or stop it, and run the same command again.",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


@contextmanager
def workplace(folder: ChannelFolder) -> Iterator[Path]:
    """A folder of this process on the channel's file system; what killed ones left goes."""
    incoming = folder.state / "incoming"
    own = incoming / f"{process_name()}+{random.getrandbits(32):08x}"
    with disk_errors("the channel", folder.path):
        own.mkdir(parents=True)
    _tidy(folder, incoming)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _tidy(folder: ChannelFolder, incoming: Path) -> None:
    """Remove the folders and drafts of killed processes.

    Of other machines', folders that nothing came into for a week.
    """
    with suppress(OSError):
        for place in incoming.iterdir():
            gone = abandoned(place)
            if gone is None:
                gone = time.time() - place.stat().st_mtime > 7 * DAY
            if gone:
                shutil.rmtree(place, ignore_errors=True)
        for pattern in (".*+*", "*/.*+*", f"{STATE}/*/*/.*+*"):
            for draft in folder.path.glob(pattern):
                if abandoned(draft):
                    draft.unlink(missing_ok=True)


def now(folder: ChannelFolder) -> float:
    """The time, but never before the last publication: a clock may be set back."""
    try:
        return max(time.time(), folder.publication().time)
    except (ConfigError, IntegrityError):
        return time.time()


def publish(folder: ChannelFolder, place: Path) -> Publication:
    """Bring the index up to date with the records, then remove what nobody can want any more.

    The caller holds the lock.

    Args:
        place: Folder of this process from :func:`workplace`.

    Raises:
        BusyError: Others publish without end.
        DiskError: The old index, or some forms of the new one, are there.
    """
    with disk_errors("the channel's index", folder.path):
        for _ in range(_ROUNDS):
            if not _write_stale(folder, place):
                break
        else:
            raise BusyError(
                f"Others publish into {folder.path} faster than this process.",
                "Run the same command again.",
            )
        _release_old(folder)
        return _record_publication(folder)


def _write_stale(folder: ChannelFolder, place: Path) -> bool:
    """Write the index of each subdir that needs it; says whether there was one."""
    packages = _offered(folder)
    subdirs = _subdirs(folder, packages)
    todo = index.stale(folder.path, packages, subdirs)
    if not todo:
        return False
    draft, waiting = place / "index", place / "waiting"
    index.make_index(draft, [one for one in packages if one.subdir in todo], todo)
    waiting.mkdir(exist_ok=True)
    enter_index(folder.path, draft, todo, waiting)
    return True


def _offered(folder: ChannelFolder) -> list[Package]:
    return [one for one in folder.packages() if not one.yanked]


def _subdirs(folder: ChannelFolder, packages: list[Package]) -> list[str]:
    """noarch first: packages of the others need those in it."""
    there = {path.parent.name for path in folder.path.glob("*/repodata.json")}
    names = {one.subdir for one in packages} | there
    return [NOARCH, *sorted(names - {NOARCH})]


def _release_old(folder: ChannelFolder) -> None:
    """Delete files that no index lists, once clients that read the last one had their time."""
    moment = now(folder)
    for key, mark in folder.marks("removed").items():
        if (mark.until or 0.0) <= moment:
            package = folder.path / key
            package.unlink(missing_ok=True)
            for sidecar in package.parent.glob(f"{escape(package.name)}.*"):  # signatures
                sidecar.unlink(missing_ok=True)
            folder.forget(key)
    old = folder.marks(_SHARD_MARK)
    listed = {path.name: index.shards(path) for path in folder.path.iterdir() if path.is_dir()}
    for shard in folder.path.glob(f"*/{SHARDS}/*.msgpack.zst"):
        subdir = shard.parent.parent
        key = f"{subdir.name}/{shard.name}"
        if shard.name in listed[subdir.name]:
            folder.unmark(_SHARD_MARK, key)
        elif key not in old:
            mark = Mark("no longer in the index", moment, moment + GRACE_SECONDS)
            folder.mark(_SHARD_MARK, key, mark)
        elif (old[key].until or 0.0) <= moment:
            shard.unlink(missing_ok=True)
            folder.unmark(_SHARD_MARK, key)


def _record_publication(folder: ChannelFolder) -> Publication:
    hashes = {
        f"{path.name}/{name}": sha256((path / name).read_bytes()).hexdigest()
        for path in folder.path.iterdir()
        for name in INDEX_FILES
        if (path / name).is_file()
    }
    try:
        last = folder.publication()
    except (ConfigError, IntegrityError):
        # Lost or damaged: go on from a number that no count of publications comes near to.
        last = Publication(int(time.time()))
    if hashes == dict(last.index):
        return last
    made = Publication(last.serial + 1, now(folder), hashes)
    folder.write_publication(made)
    return made


def write_index(folder: Path, packages: Mapping[str, Iterable[Path]], near: Path) -> None:
    """Index exactly ``packages``, which are in a build's own output ``folder`` already.

    Args:
        packages: By subdir.
        near: Folder for drafts, outside the channel.
    """
    files = [(subdir, path) for subdir, paths in packages.items() for path in paths]
    subdirs = [NOARCH, *sorted(packages.keys() - {NOARCH})]
    draft = near / "index"
    index.index_files(files, draft, subdirs)
    enter_index(folder, draft, subdirs, waiting_place(folder, near / "outgoing"))
    shutil.rmtree(draft)
    for subdir in subdirs:
        for shard in (folder / subdir / SHARDS).glob("*"):
            if shard.name not in index.shards(folder / subdir):
                shard.unlink()
