"""Old packages go; what locks name, the newest of each kind, and what those need stay."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rattler import LockFile, MatchSpec, PackageRecord, Version
from rattler.exceptions import InvalidMatchSpecError, ParseCondaLockError
from rattler.package.build_string import BuildString

from vllm_conda.channel.folder import NOARCH, ChannelFolder, Package
from vllm_conda.channel.publish import GRACE_SECONDS, locked, publish, workplace
from vllm_conda.channel.retire import remove_packages
from vllm_conda.errors import ConfigError, reason

REASON = "pruned"
_HASH = re.compile(r"h[0-9a-f]{7,}")


@dataclass(frozen=True)
class Pruned:
    """``SUBDIR/FILE`` of what goes, the bytes that it frees, and how many stay."""

    removed: tuple[str, ...]
    size: int
    kept: int


def prune(
    folder: ChannelFolder,
    keep: int,
    locks: Sequence[Path],
    grace: float = GRACE_SECONDS,
    dry_run: bool = False,
) -> Pruned:
    """Remove what is neither locked nor among the newest.

    Args:
        keep: How many of each kind stay. Of one kind are packages of one name for the same
            machines: those that differ in version, hash and build number alone.
        locks: Lock files (pixi, rattler) and explicit files.
        grace: Seconds until the files go.

    Raises:
        ConfigError: A lock file that cannot be read; nothing has been removed.
    """
    named = frozenset(hash_ for lock in locks for hash_ in locked_packages(lock))
    with workplace(folder) as place, locked(folder):
        packages = folder.packages()
        kept = _kept(packages, keep, named)
        gone = [one for one in packages if one.key not in kept]
        if not dry_run:
            remove_packages(folder, gone, REASON, grace)
            publish(folder, place)
    size = sum(one.size for one in gone)
    return Pruned(tuple(one.key for one in gone), size, len(packages) - len(gone))


def locked_packages(path: Path) -> set[str]:
    """What a lock or explicit file names, as ``SUBDIR/FILE``.

    Raises:
        ConfigError: It is neither, or names no package.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"The lock {path} cannot be read: {reason}.") from None
    lines = [line.strip() for line in text.splitlines()]
    if "@EXPLICIT" in lines:
        urls = [line for line in lines if "://" in line and not line.startswith("#")]
    else:
        urls = _lock_addresses(path)
    found = {_key(url) for url in urls}
    if not found:
        raise ConfigError(f"The lock {path} names no package.", "Leave it out, or write it anew.")
    return found


def _lock_addresses(path: Path) -> list[str]:
    try:
        lock = LockFile.from_path(path)
    except (ParseCondaLockError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is no lock file: {reason(error)}.",
            "Name files of `vllm-conda solve --lock`, of pixi or of `conda list --explicit`.",
        ) from None
    return [
        package.location
        for _, environment in lock.environments()
        for packages in environment.packages_by_platform().values()
        for package in packages
    ]


def _key(url: str) -> str:
    """The last two parts of an address; explicit files have a hash after ``#``."""
    return "/".join(url.partition("#")[0].rstrip("/").split("/")[-2:])


def _kept(packages: Sequence[Package], keep: int, named: frozenset[str]) -> set[str]:
    groups: dict[tuple[object, ...], list[Package]] = defaultdict(list)
    for package in packages:
        if package.key in named:
            continue
        if not package.yanked:
            groups[_kind(package)].append(package)
    newest = [one for group in groups.values() for one in sorted(group, key=_age)[-keep:] if keep]
    kept = {one.key: one for one in newest}
    kept |= {one.key: one for one in packages if one.key in named}
    waiting = list(kept.values())
    by_name: dict[str, list[Package]] = defaultdict(list)
    for package in packages:
        by_name[str(package.record["name"])].append(package)
    while waiting:
        for needed in _needed(waiting.pop(), by_name, kept):
            kept[needed.key] = needed
            waiting.append(needed)
    return set(kept)


def _needed(
    package: Package, by_name: dict[str, list[Package]], kept: Iterable[str]
) -> list[Package]:
    """For each dependency that none of the kept packages meets, the newest that does."""
    found = []
    for text in package.record.get("depends", ()):
        try:
            spec = MatchSpec(text)
        except InvalidMatchSpecError:
            continue
        rivals = by_name.get(spec.name.normalized, [])
        fitting = [one for one in rivals if _meets(one, spec, package)]
        if fitting and not any(one.key in kept for one in fitting):
            found.append(max(fitting, key=_age))
    return found


def _meets(one: Package, spec: MatchSpec, wanting: Package) -> bool:
    if NOARCH not in (one.subdir, wanting.subdir) and one.subdir != wanting.subdir:
        return False
    row = one.record
    record = PackageRecord(
        name=str(row["name"]),
        version=str(row["version"]),
        build=BuildString(str(row["build"])),
        build_number=int(row["build_number"]),
        subdir=one.subdir,
    )
    return spec.matches(record)


def _kind(package: Package) -> tuple[object, ...]:
    """Names beginning with ``_`` are of the machine (``__cuda``) or stand for one (CPU levels)."""
    record = package.record
    machine = tuple(
        sorted(
            text
            for key in ("depends", "constrains")
            for text in record.get(key, ())
            if text.startswith("_")
        )
    )
    build = _HASH.sub("", str(record["build"]).removesuffix(f"_{record['build_number']}"))
    return package.subdir, record["name"], build, machine


def _age(package: Package) -> tuple[Version, int, int, str]:
    record = package.record
    return (
        Version(str(record["version"])),
        int(record["build_number"]),
        int(record.get("timestamp", 0)),
        package.file_name,
    )
