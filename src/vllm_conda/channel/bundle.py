"""One file for a site without network: packages, index, locks, checksums and an installer."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files as resource_files
from pathlib import Path

from rattler import RepoDataRecord

from vllm_conda.channel import index, sidecars
from vllm_conda.channel.admission import check_package
from vllm_conda.channel.closure import Closure, row
from vllm_conda.channel.envelope import BundleWriter, overhead
from vllm_conda.channel.fetch import fetch, local, need_space, problem, remote_run_exports
from vllm_conda.channel.files import sync
from vllm_conda.channel.folder import Package
from vllm_conda.channel.manifest import (
    CHANNEL,
    LOCKS,
    MANIFEST,
    PLACE,
    SCHEMA,
    Carried,
    File,
    Manifest,
    NodeType,
    virtual_packages,
)
from vllm_conda.errors import IntegrityError
from vllm_conda.paths import disk_errors
from vllm_conda.progress import Reporter
from vllm_conda.signing.bundle import SUFFIX
from vllm_conda.site.lock import write_locks
from vllm_conda.site.preflight import Answer, NodeResult

INSTALLER = "install.sh"
SUMS = "SHA256SUMS"
# Index, locks and manifest, which are not known before they are made: a row takes 2 kB at most
# in each of the index's forms.
_ROW_BYTES = 16384


@dataclass(frozen=True)
class Estimate:
    """What a bundle will be; sizes in bytes.

    Attributes:
        carried: Packages in it, ``SUBDIR/FILE``.
        there: Packages that the site has.
        size: Of the file, at most.
    """

    carried: tuple[str, ...]
    there: tuple[str, ...]
    size: int


def estimate(wanted: Closure, base: Mapping[str, str]) -> Estimate:
    """Say how large a bundle becomes, before anything is fetched.

    Args:
        base: SHA-256 of each package that the site has, by ``SUBDIR/FILE``.
    """
    there = [
        key
        for key, record in wanted.records.items()
        if record.sha256 and base.get(key) == record.sha256.hex()
    ]
    carried = [key for key in wanted.records if key not in there]
    size = sum(wanted.records[key].size or 0 for key in carried)
    rows = len(wanted.records) * (len(wanted.results) + 1)
    names = len(carried) + len(wanted.records) + 2 * len(wanted.results) + 32
    size += rows * _ROW_BYTES + overhead(names)
    return Estimate(tuple(carried), tuple(there), size)


def bundle(target: Path, wanted: Closure, base: Mapping[str, str], reporter: Reporter) -> Manifest:
    """Write the bundle ``target``, which is absent, the old one or whole at any moment.

    Packages from the network come into ``TARGET.parts`` first and stay there for the next run
    if this one is stopped.

    Raises:
        VllmError: A package cannot be had, is damaged, or there is no room.
    """
    plan = estimate(wanted, base)
    parts = target.with_name(f"{target.name}.parts")
    with disk_errors("the bundle", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        need_space(target.parent, plan.size, "The bundle")
        parts.mkdir(exist_ok=True)
    away = {key: wanted.records[key] for key in plan.carried if local(wanted.records[key]) is None}
    fetch(away, parts, reporter)
    signatures = {
        f"{CHANNEL}/{key}{SUFFIX}": path.read_bytes()
        for key, path in sidecars.bring(wanted.records, parts).items()
    }
    sources = {key: _source(key, wanted.records[key], parts) for key in plan.carried}
    with disk_errors("the bundle", target):
        packages, files = _draft(wanted, sources, parts)
        files |= signatures
    manifest = _manifest(wanted, packages, files, set(plan.carried))
    partial = target.with_name(f".{target.name}.part")
    with disk_errors("the bundle", target):
        with partial.open("wb") as stream:
            _write(BundleWriter(stream, manifest.created), manifest, files, sources)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
        sync(target.parent)
        shutil.rmtree(parts)
    return manifest


def _source(key: str, record: RepoDataRecord, parts: Path) -> Path:
    """The checked file of a package."""
    path = local(record) or parts / key
    if reason := problem(path, record):
        raise IntegrityError(
            f"{path} {reason}.", "Index or copy that channel again, then run this again."
        )
    check_package(path, record.subdir)
    return path


def _run_exports(record: RepoDataRecord, source: Path | None) -> dict[str, list[str]]:
    """Of a package that the bundle leaves out too: its index lists it."""
    path = source or local(record)
    return index.run_exports(path) if path else remote_run_exports(record)


def _draft(
    wanted: Closure, sources: Mapping[str, Path], parts: Path
) -> tuple[list[Package], dict[str, bytes]]:
    """The packages with their rows, and every file of the bundle that is no package."""
    packages = [
        Package(
            record.subdir,
            record.file_name,
            row(record),
            _run_exports(record, sources.get(key)),
        )
        for key, record in wanted.records.items()
    ]
    packages = index.normalised(packages, parts / "index")
    names = {one.file_name for one in packages}
    files = {
        f"{CHANNEL}/{path.relative_to(parts / 'index')}": path.read_bytes()
        for path in sorted((parts / "index").rglob("*"))
        if path.is_file() and path.name not in names
    }
    write_locks(
        [_placed(result) for result in wanted.results], [f"{PLACE}/{CHANNEL}/"], parts / LOCKS
    )
    files |= {f"{LOCKS}/{path.name}": path.read_bytes() for path in (parts / LOCKS).iterdir()}
    files[INSTALLER] = (resource_files(__package__) / INSTALLER).read_bytes()
    sums = {f"{CHANNEL}/{one.key}": one.sha256 for one in packages}
    sums |= {name: sha256(data).hexdigest() for name, data in files.items()}
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    files[SUMS] = "".join(lines).encode()
    return packages, files


def _placed(result: NodeResult) -> NodeResult:
    """The same answer with addresses in the bundle."""
    return dataclasses.replace(result, answers=tuple(_moved(one) for one in result.answers))


def _moved(answer: Answer) -> Answer:
    channel = f"{PLACE}/{CHANNEL}/"
    records = [
        RepoDataRecord(one, one.file_name, f"{channel}{one.subdir}/{one.file_name}", channel)
        for one in answer.records
    ]
    return dataclasses.replace(answer, records=tuple(records))


def _manifest(
    wanted: Closure, packages: list[Package], files: Mapping[str, bytes], carried: set[str]
) -> Manifest:
    nodes = {
        result.name: NodeType(
            result.node.platform,
            virtual_packages(result.machine),
            len(result.answers[0].records),
            sum(record.size or 0 for record in result.answers[0].records),
        )
        for result in wanted.results
    }
    # Scratch file systems delete what is old by its date; and a clock may be wrong.
    newest = max((int(one.record.get("timestamp", 0)) // 1000 for one in packages), default=0)
    return Manifest(
        SCHEMA,
        wanted.site.site,
        max(int(time.time()), newest),
        nodes,
        {
            one.key: Carried(dict(one.record), dict(one.run_exports), one.key in carried)
            for one in packages
        },
        {name: File(sha256(data).hexdigest(), len(data)) for name, data in files.items()},
    )


def _write(
    writer: BundleWriter,
    manifest: Manifest,
    files: Mapping[str, bytes],
    sources: Mapping[str, Path],
) -> None:
    writer.add_bytes(MANIFEST, manifest.text().encode())
    for name, data in sorted(files.items()):
        writer.add_bytes(name, data, executable=name == INSTALLER)
    for key, path in sorted(sources.items()):
        with path.open("rb") as source:
            writer.add(f"{CHANNEL}/{key}", source, path.stat().st_size)
    writer.finish()
