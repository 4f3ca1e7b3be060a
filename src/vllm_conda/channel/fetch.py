"""Package files of other channels, by rattler's client, each checked against its record."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from hashlib import md5
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rattler import Client, RepoDataRecord
from rattler.package import RunExportsJson
from rattler.package_streaming import PackageArchive, download_to_path

from vllm_conda.channel.files import sync
from vllm_conda.channel.index import export_row
from vllm_conda.downloads.store import disk_failed, sha256
from vllm_conda.errors import DiskError, IntegrityError, NetworkError, reason
from vllm_conda.paths import disk_errors
from vllm_conda.progress import Reporter

# What is left free on a disk; a full one stops more than this command.
_SPARE = 1 << 26


def local(record: RepoDataRecord) -> Path | None:
    """The file of a record of a channel in a folder."""
    parts = urlsplit(record.url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def problem(path: Path, record: RepoDataRecord) -> str:
    """Why a file is not the record's, as the rest of a sentence; empty if it is."""
    if not path.is_file():
        return "is not there"
    if record.size and path.stat().st_size != record.size:
        return f"has {path.stat().st_size} bytes, not {record.size}"
    if record.sha256:
        return "" if sha256(path) == record.sha256.hex() else "does not have its recorded SHA-256"
    if record.md5:
        digest = md5(path.read_bytes(), usedforsecurity=False).digest()
        return "" if digest == record.md5 else "does not have its recorded MD5"
    return "has no hash in its channel's index"


def need_space(place: Path, size: int, what: str) -> None:
    """Say before the work starts that there is no room for it.

    Raises:
        DiskError: ``size`` bytes do not fit.
    """
    free = shutil.disk_usage(place).free - _SPARE
    if size > free:
        raise DiskError(
            f"{what} needs {size} bytes, and {place} has {max(free, 0)} free.",
            "Free space there, or name another place.",
        )


def fetch(records: Mapping[str, RepoDataRecord], folder: Path, reporter: Reporter) -> None:
    """Bring each file to ``folder/SUBDIR/FILE``; one that is there and whole stays.

    Raises:
        NetworkError, DiskError: The files that came stay for the next run.
        IntegrityError: A file that is not the one of its record.
    """
    client = Client.default_client()
    todo = {key: one for key, one in records.items() if problem(folder / key, one)}
    with disk_errors("packages", folder):
        folder.mkdir(parents=True, exist_ok=True)
    size = sum(record.size or 0 for record in todo.values())
    need_space(folder, size, f"Fetching {len(todo)} packages")
    if not todo:
        return
    with reporter.task(f"fetch {len(todo)} packages", size) as task:
        for key, record in todo.items():
            partial = folder / f"{key}.part"
            with disk_errors("a package", folder):
                partial.parent.mkdir(exist_ok=True)
                _bring(record, partial, client)
                if reason := problem(partial, record):
                    partial.unlink(missing_ok=True)
                    raise IntegrityError(
                        f"{record.url} {reason}.", "Tell the channel's keeper, then run this again."
                    )
                sync(partial)
                partial.replace(folder / key)
            task.advance(record.size or 0)


def remote_run_exports(record: RepoDataRecord) -> dict[str, list[str]]:
    """The run exports of a package on a server, of which only that part is fetched."""

    async def read() -> RunExportsJson | None:
        archive = await PackageArchive.from_url(Client.default_client(), record.url)
        return await archive.run_exports_json()

    try:
        return export_row(asyncio.run(read()))
    except (RuntimeError, OSError) as error:
        raise unreachable(record, error) from None


def unreachable(record: RepoDataRecord, error: Exception) -> NetworkError:
    """What to raise where a server does not give a package."""
    return NetworkError(
        f"Cannot fetch {record.url}: {reason(error)}.",
        "Run the same command again: what has come is kept.",
    )


def _bring(record: RepoDataRecord, target: Path, client: Client) -> None:
    source = local(record)
    if source is not None:
        if not source.is_file():
            raise IntegrityError(
                f"{source} is gone, which its channel's index lists.",
                "Index that channel again: `vllm-conda channel index`.",
            )
        shutil.copyfile(source, target)
        return
    try:
        asyncio.run(download_to_path(client, record.url, target))
    except (RuntimeError, OSError) as error:  # the latter without errno for the network too
        if full := disk_failed(str(error), target.parent):
            raise full from None
        raise unreachable(record, error) from None
