"""A site's packages out of any channels into one of its own."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.channel import index, sidecars
from vllm_conda.channel.add import Brought, enter_packages
from vllm_conda.channel.admission import check_package
from vllm_conda.channel.closure import Closure, row
from vllm_conda.channel.fetch import fetch
from vllm_conda.channel.folder import ChannelFolder, Package
from vllm_conda.channel.publish import DAY, workplace
from vllm_conda.channel.rebuild import file_problem
from vllm_conda.progress import Reporter


@dataclass(frozen=True)
class Mirrored:
    """What a mirror brought; sizes in bytes."""

    fetched: tuple[str, ...]
    present: tuple[str, ...]
    size: int
    serial: int


def mirror(folder: ChannelFolder, wanted: Closure, reporter: Reporter) -> Mirrored:
    """Fetch, check and publish what ``wanted`` names and the channel lacks, all at once.

    A run that was stopped leaves whole files in the channel's state, which the next one takes.
    Rows are those of the source's index, so that its corrections of dependencies stay. Signatures
    come along, of packages that are there already too.

    Raises:
        VllmError: The channel is as it was.
    """
    known = {one.key: one for one in folder.packages()}
    present = [
        key for key in wanted.records if key in known and not file_problem(folder, known[key])
    ]
    todo = {key: one for key, one in wanted.records.items() if key not in present}
    fetched = folder.state / "fetched"
    fetch(todo, fetched, reporter)
    signatures = sidecars.bring(wanted.records, fetched)
    with workplace(folder) as place:
        packages = []
        for key, record in todo.items():
            check_package(fetched / key, record.subdir)
            exports = index.run_exports(fetched / key)
            packages.append(Package(record.subdir, record.file_name, row(record), exports))
        packages = index.normalised(packages, place / "index")
        brought = [Brought(one, fetched / one.key) for one in packages]
        report = enter_packages(folder, brought, place)
    sidecars.enter(folder, signatures)
    for path in signatures.values():
        if path.is_relative_to(fetched):
            path.unlink()
    _forget_abandoned(fetched)
    size = sum(one.size for one in packages)
    return Mirrored(tuple(todo), tuple(present), size, report.serial)


def _forget_abandoned(fetched: Path) -> None:
    """Files that no run came back for."""
    for path in fetched.glob("*/*"):
        if time.time() - path.stat().st_mtime > 30 * DAY:
            path.unlink(missing_ok=True)
    if not any(fetched.glob("*/*")):
        shutil.rmtree(fetched, ignore_errors=True)
