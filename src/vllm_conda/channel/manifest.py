"""``bundle.json``: what a bundle holds, and what it needs besides."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import cattrs

from vllm_conda.channel.envelope import members
from vllm_conda.channel.folder import Package
from vllm_conda.errors import ConfigError, IntegrityError

MANIFEST = "bundle.json"
SCHEMA = 1
CHANNEL = "channel"
LOCKS = "locks"
# Stands in locks for where the bundle is unpacked; a name that never resolves.
PLACE = "https://vllm-conda-bundle.invalid"
_LARGEST = 1 << 28


@dataclass(frozen=True)
class File:
    """A file of the bundle besides packages; ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Carried:
    """A package of the bundle.

    Attributes:
        record: Its row in ``repodata.json``.
        carried: False for one that the site has already (incremental bundles).
    """

    record: dict[str, Any]
    run_exports: dict[str, Any]
    carried: bool


@dataclass(frozen=True)
class NodeType:
    """A node type of the site: its platform, and the bytes of its packages."""

    platform: str
    virtual_packages: tuple[str, ...]
    packages: int
    size: int


@dataclass(frozen=True)
class Manifest:
    """The whole of it; packages by ``SUBDIR/FILE``, files by their path in the bundle."""

    schema: int
    site: str
    created: int
    nodes: dict[str, NodeType]
    packages: dict[str, Carried]
    files: dict[str, File] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def package(self, key: str) -> Package:
        subdir, _, file_name = key.partition("/")
        one = self.packages[key]
        return Package(subdir, file_name, one.record, one.run_exports)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        IntegrityError: It has none, or a damaged or hostile one.
        ConfigError: It is of a newer schema.
    """
    with members(path) as files:
        name, size, stream = next(files, ("", 0, None))
        if name != MANIFEST or stream is None or size > _LARGEST:
            raise IntegrityError(
                f"{path} is no bundle: it does not begin with {MANIFEST}.",
                "Make one with `vllm-conda channel bundle`.",
            )
        return parse_manifest(stream, path)


def parse_manifest(stream: IO[bytes], path: Path) -> Manifest:
    try:
        data = json.loads(stream.read())
        schema = data["schema"]
        if schema != SCHEMA:
            raise ConfigError(
                f"{path} is a bundle of schema {schema!r}, this toolkit reads {SCHEMA}.",
                "Update the toolkit.",
            )
        manifest = cattrs.structure(data, Manifest)
        for key in manifest.packages:
            manifest.package(key).sha256, manifest.package(key).size
    except (ValueError, KeyError, TypeError, RecursionError, cattrs.BaseValidationError):
        raise IntegrityError(f"{path} has a damaged {MANIFEST}.", "Make it again.") from None
    for name in (*manifest.packages, *manifest.files, *manifest.nodes):
        if name != posixpath.normpath(name) or name.startswith(("/", "..", ".vllm-conda")):
            raise IntegrityError(
                f"{path} is refused: its {MANIFEST} names {name!r}, a path outside the bundle.",
                "Do not unpack it; ask who made it.",
            )
    return manifest


def virtual_packages(values: Mapping[str, str]) -> tuple[str, ...]:
    """As lock files write them."""
    from vllm_conda.site import virtual

    return tuple(virtual.spec(name, value) for name, value in values.items())
