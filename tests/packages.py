"""Small packages, made in milliseconds, and the same with something wrong in them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import zstandard


@dataclass
class Recipe:
    """What a package is made from; ``members`` come after ``files`` as they are."""

    name: str
    version: str = "1"
    build: str = "h1234567_0"
    number: int = 0
    subdir: str = "noarch"
    depends: Sequence[str] = ()
    constrains: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    members: Sequence[tuple[tarfile.TarInfo, bytes]] = ()
    listed: Sequence[Mapping[str, Any]] = ()
    entry_points: Sequence[str] = ()
    run_exports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}-{self.build}.conda"

    @property
    def key(self) -> str:
        return f"{self.subdir}/{self.file_name}"


def make(folder: Path, recipe: Recipe) -> Path:
    """Write the package to ``folder/SUBDIR/FILE``."""
    path = folder / recipe.subdir / recipe.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(recipe))
    return path


def content(recipe: Recipe) -> bytes:
    stem = recipe.file_name.removesuffix(".conda")
    files = recipe.files or {f"share/{recipe.name}/{stem}": stem.encode() * 20}
    info = {
        "info/index.json": {
            "name": recipe.name,
            "version": recipe.version,
            "build": recipe.build,
            "build_number": recipe.number,
            "subdir": recipe.subdir,
            "depends": list(recipe.depends),
            "constrains": list(recipe.constrains),
            "timestamp": 1_700_000_000_000,
            **({"noarch": "generic"} if recipe.subdir == "noarch" else {}),
            **recipe.index,
        },
        "info/paths.json": {
            "paths_version": 1,
            "paths": [
                *(
                    {
                        "_path": name,
                        "path_type": "hardlink",
                        "sha256": sha256(data).hexdigest(),
                        "size_in_bytes": len(data),
                    }
                    for name, data in files.items()
                ),
                *recipe.listed,
            ],
        },
    }
    if recipe.entry_points:
        info["info/link.json"] = {
            "noarch": {"type": "python", "entry_points": list(recipe.entry_points)},
            "package_metadata_version": 1,
        }
    if recipe.run_exports:
        info["info/run_exports.json"] = dict(recipe.run_exports)
    texts = {name: json.dumps(value).encode() for name, value in info.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as outer:
        outer.writestr(zipfile.ZipInfo("metadata.json"), '{"conda_pkg_format_version": 2}')
        outer.writestr(zipfile.ZipInfo(f"pkg-{stem}.tar.zst"), packed(files, recipe.members))
        outer.writestr(zipfile.ZipInfo(f"info-{stem}.tar.zst"), packed(texts))
    return buffer.getvalue()


def tar(files: Mapping[str, bytes], members: Sequence[tuple[tarfile.TarInfo, bytes]] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def packed(
    files: Mapping[str, bytes], members: Sequence[tuple[tarfile.TarInfo, bytes]] = ()
) -> bytes:
    """The archive of :func:`tar` as a package holds it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(tar(files, members))


def unpacked(data: bytes) -> bytes:
    """What zstandard packed, whether or not it wrote the size."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)
