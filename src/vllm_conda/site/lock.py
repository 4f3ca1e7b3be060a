"""Lock and explicit files of node types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rattler import Channel, LockChannel, LockFile, LockPlatform, PackageRecord, RepoDataRecord

from vllm_conda.paths import disk_errors, replacement, write_atomic
from vllm_conda.site import virtual
from vllm_conda.site.preflight import NodeResult

ENVIRONMENT = "default"


def write_locks(results: Sequence[NodeResult], channels: Sequence[str], folder: Path) -> list[Path]:
    """Write ``NODE.lock`` and ``NODE.txt`` into ``folder`` for each node type that is served.

    ``NODE.lock`` is a rattler (pixi) lock file with the node's virtual packages, ``NODE.txt``
    what `conda create --file` takes. Files of node types that are refused now are removed: an
    old one would be taken for theirs.

    Raises:
        DiskError: The folder cannot be written.
        ValueError: A node type was asked several requests one by one.
    """
    written = []
    with disk_errors("lock files", folder):
        folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        lock, explicit = folder / f"{result.name}.lock", folder / f"{result.name}.txt"
        if not result.served:
            with disk_errors("lock files", folder):
                lock.unlink(missing_ok=True)
                explicit.unlink(missing_ok=True)
            continue
        records = _records(result)
        _write_lock(lock, result, records, channels)
        write_atomic(explicit, explicit_text(result, records))
        written += [lock, explicit]
    return written


def _records(result: NodeResult) -> list[RepoDataRecord]:
    """Sorted by name; a lock file describes one environment, so one answer."""
    (answer,) = result.answers
    return sorted(answer.records, key=lambda record: record.name.normalized)


def explicit_text(result: NodeResult, records: Sequence[RepoDataRecord]) -> str:
    """The ``@EXPLICIT`` file: addresses with MD5, which every conda reads.

    Installing from it runs no solver, so the node's properties are written into it for the reader.
    """
    needs = " ".join(virtual.spec(name, value) for name, value in result.machine.items())
    lines = [
        f"# Packages of node type {result.name}, solved for",
        f"# {needs}",
        "# Nothing checks these again when this file is installed.",
        f"# platform: {result.node.platform}",
        "@EXPLICIT",
    ]
    # As `conda list --explicit`: a package after those that its install scripts may call.
    found = {record.name.normalized: record for record in records}
    for package in PackageRecord.sort_topologically(list(records)):
        record = found[package.name.normalized]
        md5 = f"#{record.md5.hex()}" if record.md5 else ""
        lines.append(f"{record.url}{md5}")
    return "\n".join(lines) + "\n"


def _write_lock(
    path: Path, result: NodeResult, records: Sequence[RepoDataRecord], channels: Sequence[str]
) -> None:
    specs = [virtual.spec(name, value) for name, value in result.machine.items()]
    platform = LockPlatform(result.node.platform, virtual_packages=specs)
    lock = LockFile([platform])
    lock.set_channels(ENVIRONMENT, [LockChannel(Channel(channel).base_url) for channel in channels])
    for record in records:
        lock.add_conda_package(ENVIRONMENT, platform, record)
    with disk_errors("a lock file", path), replacement(path) as draft:
        lock.to_path(draft)
