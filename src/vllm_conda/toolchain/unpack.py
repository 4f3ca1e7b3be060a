"""Sources as plain folders: wheels, Debian packages, the running CPython.

A wheel becomes what a prefix would hold (``lib/pythonX.Y/site-packages``, ``bin``); a set
of Debian packages one folder each, with merged ``/usr``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.records import RecordEntry
from installer.sources import WheelFile

from vllm_conda.downloads.fetch import Artifact
from vllm_conda.downloads.store import disk_errors, disk_failed, remove
from vllm_conda.errors import IntegrityError
from vllm_conda.processes import run
from vllm_conda.toolchain.cpython import PREFIX_TOKEN


@dataclass
class Wheel:
    """An unpacked wheel: its folder and its ``name = module:function`` entry points."""

    root: Path
    entry_points: list[str] = field(default_factory=list)


class _Destination(SchemeDictionaryDestination):
    """Notes the entry points: a noarch package declares them instead of holding scripts."""

    entry_points: list[str]

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:
        self.entry_points.append(f"{name} = {module}:{attr}")
        return super().write_script(name, module, attr, section)  # type: ignore[arg-type]


def unpack_wheel(file: Path, root: Path, site: str) -> Wheel:
    """Install a wheel below ``root``; scripts start with the prefix token.

    Args:
        site: Place of site-packages in a prefix, for example ``lib/python3.11/site-packages``.
    """
    schemes = {
        "purelib": str(root / site),
        "platlib": str(root / site),
        "scripts": str(root / "bin"),
        "headers": str(root / "include"),
        "data": str(root),
    }
    destination = _Destination(schemes, f"{PREFIX_TOKEN}/bin/python", "posix")
    destination.entry_points = []
    with disk_errors(root), WheelFile.open(file) as source:
        install(source, destination, {"INSTALLER": b"conda\n"})
    return Wheel(root, destination.entry_points)


def unpack_deb(file: Path, root: Path) -> None:
    """Extract a .deb below ``root`` with ``/bin``, ``/lib*`` and ``/sbin`` merged into ``/usr``."""
    raw = root.with_name(root.name + ".raw")
    with disk_errors(root):
        raw.mkdir(parents=True)
        done = run(["dpkg-deb", "--extract", str(file), str(raw)], capture_output=True, text=True)
        if done.returncode:
            if (full := disk_failed(done.stderr, root)) is not None:
                raise full
            raise IntegrityError(f"dpkg-deb cannot read {file}: {done.stderr.strip()}.")
        for top in sorted(raw.iterdir()):
            graft(top, root / _merged(top.name))
        _relative_links(root)
    remove(raw)


def _merged(path: str) -> str:
    """A path of the root folder with ``/bin``, ``/lib*`` and ``/sbin`` merged into ``/usr``."""
    top = path.split("/")[0]
    return f"usr/{path}" if top in ("bin", "sbin") or top.startswith("lib") else path


def _relative_links(root: Path) -> None:
    """Absolute links of a package mean its own root folder, not this machine's."""
    for base, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(base, name)
            if path.is_symlink() and (goal := path.readlink()).is_absolute():
                path.unlink()
                inside = goal.relative_to("/").as_posix()
                path.symlink_to(os.path.relpath(root / _merged(inside), base))


def graft(source: Path, target: Path) -> None:
    """Move a tree into another one that may hold some of the same folders."""
    for base, folders, names in os.walk(source):
        inside = target / os.path.relpath(base, source)
        inside.mkdir(parents=True, exist_ok=True)
        links = [name for name in folders if Path(base, name).is_symlink()]
        for name in [*names, *links]:
            Path(base, name).replace(inside / name)


def unpack_debs(artifacts: Iterable[Artifact], root: Path) -> None:
    """Extract each package into ``root/NAME``."""
    for artifact in artifacts:
        unpack_deb(artifact.path, root / artifact.name)
