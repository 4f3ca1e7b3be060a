"""Packages come into a channel, from files and from other machines' channels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vllm_conda.channel import index
from vllm_conda.channel.admission import check_package
from vllm_conda.channel.files import sync
from vllm_conda.channel.folder import PACKAGE_SUFFIXES, ChannelFolder, Package
from vllm_conda.channel.publish import locked, publish, workplace
from vllm_conda.downloads.store import sha256
from vllm_conda.errors import IntegrityError, UsageError, reason
from vllm_conda.paths import disk_errors


@dataclass(frozen=True)
class Source:
    """A package file to add; ``sha256`` and ``subdir`` where a channel's index says them."""

    path: Path
    subdir: str | None = None
    sha256: str | None = None


@dataclass
class Added:
    """Which packages came, and which were there: ``SUBDIR/FILE``."""

    added: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    serial: int = 0


def sources(paths: Iterable[Path]) -> list[Source]:
    """The packages behind files, and behind folders that hold channels.

    Raises:
        UsageError: A path that is neither.
        IntegrityError: A channel whose index cannot be read.
    """
    found: list[Source] = []
    for path in paths:
        if path.is_dir():
            inside = list(_of_channel(path))
            if not inside:
                raise UsageError(
                    f"{path} holds no packages.", "Name packages, or a folder such as output/."
                )
            found += inside
        else:
            found.append(Source(path))
    return found


def _of_channel(folder: Path) -> Iterator[Source]:
    """What the index lists: beside it may lie what a build has not finished."""
    for repodata in sorted(folder.glob("*/repodata.json")):
        try:
            data = json.loads(repodata.read_bytes())
            rows = {**data.get("packages", {}), **data.get("packages.conda", {})}
            for name, row in rows.items():
                yield Source(repodata.parent / name, repodata.parent.name, row.get("sha256"))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise IntegrityError(
                f"{repodata} is damaged: {reason(error)}.",
                "Copy or index that channel again.",
            ) from None


def add(folder: ChannelFolder, wanted: Sequence[Source]) -> Added:
    """Check every package, then publish them all; a bad one leaves the channel as it was.

    Raises:
        IntegrityError: A package is damaged, hostile, not the one of its index, or has the name
            of another that is there.
        VllmError: As :func:`vllm_conda.channel.publish.publish`.
    """
    with workplace(folder) as place:
        packages = bring(folder, wanted, place)
        return enter_packages(folder, packages, place)


@dataclass(frozen=True)
class Brought:
    """A checked package and the copy of its file on the channel's file system."""

    package: Package
    copy: Path


def bring(folder: ChannelFolder, wanted: Sequence[Source], place: Path) -> list[Brought]:
    """Copy packages into ``place`` and check the copies: a source may change meanwhile."""
    copies: list[tuple[str, Path]] = []
    for number, source in enumerate(wanted):
        check_name(source.path)
        copy = place / "copies" / str(number) / source.path.name
        with disk_errors("a package", folder.path):
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy(source.path, copy)
        if source.sha256 and sha256(copy) != source.sha256:
            raise IntegrityError(
                f"{source.path} is not the file that its channel's index lists.",
                "Copy that channel again.",
            )
        copies.append((check_package(copy, source.subdir), copy))
    with disk_errors("the channel", folder.path):
        packages = index.index_files(copies, place / "index")
    return [Brought(package, copy) for package, (_, copy) in zip(packages, copies, strict=True)]


def check_name(path: Path) -> None:
    """Fail early, in the caller's own words for the file."""
    if not path.name.endswith(PACKAGE_SUFFIXES) or not path.is_file():
        check_package(path)


def _copy(source: Path, copy: Path) -> None:
    shutil.copyfile(source, copy)
    sync(copy)


def enter_packages(folder: ChannelFolder, packages: Sequence[Brought], place: Path) -> Added:
    """Publish checked packages."""
    report = Added()
    with locked(folder):
        known = {one.key: one for one in folder.packages()}
        removed = folder.marks("removed")
        for one in packages:
            _same_bytes(folder, known.get(one.package.key), one)
        for one in packages:
            there = known.get(one.package.key)
            if there and _whole(folder, there):
                report.present.append(one.package.key)
                if _row(there) == _row(one.package):
                    continue
            else:
                report.added.append(one.package.key)
                _enter(folder, one)
            folder.write_record(_with_time(one.package, there))
            if one.package.key in removed:
                folder.unmark("removed", one.package.key)
        report.serial = publish(folder, place).serial
    return report


def _row(package: Package) -> tuple[dict[str, object], dict[str, object]]:
    """What a record says of the package itself; the time of indexing is not of it."""
    row = {key: value for key, value in package.record.items() if key != "indexed_timestamp"}
    return row, dict(package.run_exports)


def _with_time(package: Package, there: Package | None) -> Package:
    if there is None or "indexed_timestamp" not in there.record:
        return package
    stamp = there.record["indexed_timestamp"]
    return replace(package, record={**package.record, "indexed_timestamp": stamp})


def _same_bytes(folder: ChannelFolder, there: Package | None, one: Brought) -> None:
    if there is not None and there.sha256 != one.package.sha256:
        raise IntegrityError(
            f"{one.package.key} is in {folder.path} with other bytes, and a published file name "
            "never changes its bytes.",
            "Build it with another build number, or leave it out.",
        )


def _whole(folder: ChannelFolder, package: Package) -> bool:
    path = folder.package_path(package)
    try:
        return path.stat().st_size == package.size and sha256(path) == package.sha256
    except OSError:
        return False


def _enter(folder: ChannelFolder, one: Brought) -> None:
    target = folder.package_path(one.package)
    with disk_errors("the package", folder.path):
        target.parent.mkdir(exist_ok=True)
        # By a rename of what is synced; what has the name is damaged, or was never listed.
        one.copy.replace(target)
        sync(target.parent)
