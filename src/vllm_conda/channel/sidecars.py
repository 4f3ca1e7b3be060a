"""Signatures travel with their packages: the ``.sigs`` beside each, wherever it is carried to.

Statements are about a package's name and bytes, not about a channel's index, so they hold on the
other side: ``vllm-conda channel verify FILE`` checks a package there by its maker's key, and a site
that signs its own channel adds its statements to them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from rattler import Client, RepoDataRecord
from rattler.package_streaming import download_to_path

from vllm_conda.channel.fetch import local, unreachable
from vllm_conda.channel.folder import ChannelFolder
from vllm_conda.channel.publish import locked
from vllm_conda.downloads.store import disk_failed
from vllm_conda.paths import disk_errors
from vllm_conda.signing import bundle

_MISSING = ("404", "410")


def bring(records: Mapping[str, RepoDataRecord], folder: Path) -> dict[str, Path]:
    """The sidecars of packages that have one, by ``SUBDIR/FILE``; from servers into ``folder``.

    Raises:
        NetworkError, DiskError: A server does not answer.
        IntegrityError: A sidecar that is none.
    """
    found = {}
    client = Client.default_client()
    with disk_errors("signatures", folder):
        for key, record in records.items():
            package = local(record)
            path = bundle.sidecar(package or folder / key)
            if package is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                _download(client, record, path)
            if bundle.load(path):
                found[key] = path
    return found


def _download(client: Client, record: RepoDataRecord, target: Path) -> None:
    try:
        asyncio.run(download_to_path(client, f"{record.url}{bundle.SUFFIX}", target))
    except (RuntimeError, OSError) as error:
        target.unlink(missing_ok=True)
        if full := disk_failed(str(error), target.parent):
            raise full from None
        if not any(status in str(error) for status in _MISSING):
            raise unreachable(record, error) from None


def enter(channel: ChannelFolder, sidecars: Mapping[str, Path]) -> list[str]:
    """Add the statements of ``SUBDIR/FILE``'s sidecars to those that lie in ``channel``.

    The caller has entered the packages. Returns those to which statements came.
    """
    with locked(channel):
        return [key for key, path in sidecars.items() if _add(channel.path / key, path)]


def _add(package: Path, path: Path) -> bool:
    there = bundle.load(bundle.sidecar(package))
    known = {json.dumps(one, sort_keys=True) for one in there}
    new = [one for one in bundle.load(path) if json.dumps(one, sort_keys=True) not in known]
    if new:
        bundle.write(package, [*there, *new])
    return bool(new)
