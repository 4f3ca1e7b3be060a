"""A bundle into a channel of the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from vllm_conda.channel import index, sidecars
from vllm_conda.channel.add import Brought, enter_packages
from vllm_conda.channel.admission import check_package
from vllm_conda.channel.envelope import check_whole, members
from vllm_conda.channel.fetch import need_space
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.channel.manifest import CHANNEL, LOCKS, MANIFEST, PLACE, Manifest, read_manifest
from vllm_conda.channel.publish import workplace
from vllm_conda.channel.rebuild import file_problem
from vllm_conda.errors import IntegrityError, UsageError
from vllm_conda.paths import disk_errors, write_atomic
from vllm_conda.signing.bundle import SUFFIX, load

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Unbundled:
    """Which packages came and which were there, and the lock files that were written."""

    added: tuple[str, ...]
    present: tuple[str, ...]
    locks: tuple[str, ...]
    serial: int


def check_bundle(path: Path) -> Manifest:
    """Verify that a bundle is whole.

    Raises:
        UsageError: No such file.
        IntegrityError: It is not as it was written.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Name a file of `vllm-conda channel bundle`.")
    check_whole(path)
    return read_manifest(path)


def unbundle(path: Path, channel: Path, address: str | None = None) -> Unbundled:
    """Verify a bundle, publish its packages, and write its locks into ``locks`` of the channel.

    Args:
        channel: Its folder, which is made if it is not there.
        address: What the site's nodes call the channel; default: its ``file://`` address.

    Raises:
        IntegrityError: The bundle is damaged or hostile, or needs a package that is not there.
        VllmError: The channel is as it was.
    """
    manifest = check_bundle(path)
    folder = create(channel)
    _check_present(path, manifest, folder)
    with disk_errors("the channel", folder.path):
        size = sum(manifest.package(key).size for key in manifest.packages)
        need_space(folder.path, size, "Unpacking")
    with workplace(folder) as place:
        copies, locks, signatures = _unpack(path, manifest, place)
        packages = index.normalised([manifest.package(key) for key in copies], place / "index")
        brought = [Brought(one, copies[one.key]) for one in packages]
        report = enter_packages(folder, brought, place)
        sidecars.enter(folder, signatures)
    written = []
    where = (address or folder.url).rstrip("/")
    for name, text in locks.items():
        target = folder.path / name
        write_atomic(target, text.replace(f"{PLACE}/{CHANNEL}", where))
        written.append(str(target))
    return Unbundled(tuple(report.added), tuple(report.present), tuple(written), report.serial)


def _check_present(path: Path, manifest: Manifest, folder: ChannelFolder) -> None:
    """What an incremental bundle leaves out has to be there, whole."""
    known = {one.key: one for one in folder.packages()}
    for key, carried in manifest.packages.items():
        if carried.carried:
            continue
        wanted, there = manifest.package(key), known.get(key)
        if there is None or there.sha256 != wanted.sha256 or file_problem(folder, there):
            raise IntegrityError(
                f"{path} is incremental and leaves out {key}, which {folder.path} does not have.",
                "Unbundle the one that it builds upon first, or make a whole one.",
            )


def _unpack(
    path: Path, manifest: Manifest, place: Path
) -> tuple[dict[str, Path], dict[str, str], dict[str, Path]]:
    """Packages as files below ``place``, locks as text, packages' signatures as files.

    Every file is one of the manifest's.
    """
    wanted = {
        f"{CHANNEL}/{key}": (manifest.package(key).sha256, manifest.package(key).size)
        for key, one in manifest.packages.items()
        if one.carried
    }
    wanted |= {name: (file.sha256, file.size) for name, file in manifest.files.items()}
    copies: dict[str, Path] = {}
    locks: dict[str, str] = {}
    signatures: dict[str, Path] = {}
    with members(path) as files, disk_errors("the channel", place):
        for name, size, stream in files:
            if name == MANIFEST:
                continue
            digest, expected = wanted.pop(name, ("", -1))
            if size != expected:
                raise _refused(path, f"holds {name!r} of {size} bytes, which it does not list")
            key = name.removeprefix(f"{CHANNEL}/")
            target = place / ("copies" if key in manifest.packages else "files") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if _copy(stream, target) != digest:
                raise _refused(path, f"holds another {name} than it lists")
            if key in manifest.packages:
                check_package(target, key.partition("/")[0])
                copies[key] = target
            elif name.startswith(f"{LOCKS}/"):
                locks[name] = target.read_text(encoding="utf-8")
            elif (package := key.removesuffix(SUFFIX)) != key and package in manifest.packages:
                load(target)  # refused before anything is published
                signatures[package] = target
    if wanted:
        raise _refused(path, f"lacks {min(wanted)}, which it lists")
    return copies, locks, signatures


def _copy(stream: IO[bytes], target: Path) -> str:
    digest = sha256()
    with target.open("wb") as copy:
        while block := stream.read(_BLOCK):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _refused(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is refused: it {reason}.", "Do not unpack it; ask who made it.")


def base_of(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """What a site has that has unpacked these bundles."""
    return {
        key: manifest.package(key).sha256
        for manifest in manifests.values()
        for key in manifest.packages
    }
