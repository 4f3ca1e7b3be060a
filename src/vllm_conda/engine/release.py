"""A release of the engine for `engine diff` and `engine add`: fetched by name, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.workspace import workspace_for
from vllm_conda.engine import channel, sdist
from vllm_conda.engine.interface import advice, facts, sources, table
from vllm_conda.engine.interface.difference import differences
from vllm_conda.errors import ConfigError, UsageError
from vllm_conda.progress import Reporter

NEWEST = "newest"


@dataclass(frozen=True)
class Release:
    """A version and every fact of it."""

    version: str
    facts: dict[table.Key, str]


def find(
    wanted: str, root: Path, platform: str, channels: tuple[str, ...], reporter: Reporter
) -> Release:
    """Read a release.

    Args:
        wanted: A version, ``newest``, or the path of a source distribution.

    Raises:
        UsageError: Neither a version nor a file.
        NetworkError: pip could not fetch it.
        ConfigError: The file is no source distribution.
    """
    path = Path(wanted)
    if path.suffix == ".gz" or "/" in wanted:
        if not path.is_file():
            raise ConfigError(f"{wanted} is not there.", "Give a version or a source distribution.")
    else:
        if wanted != NEWEST and not sources.NAME.fullmatch(f"vllm-{wanted}"):
            raise UsageError(
                f"{wanted!r} is neither a version, such as 0.33.0, nor a file.",
                f"`{NEWEST}` is the newest of the registry.",
            )
        toolchain = toolchain_for(platform, channels, reporter)
        others = (channel.ensure(platform, reporter=reporter).url, *toolchain.channels)
        registry = sdist.Registry(others, platform, workspace_for(root), reporter)
        path = registry.fetch(registry.newest() if wanted == NEWEST else wanted).path
    found = sources.read(path)
    digest = sha256(path.read_bytes()).hexdigest()
    return Release(found.version, facts.facts(found, digest))


@dataclass(frozen=True)
class Report:
    """A release against the table: with which of its releases, and what is to be done."""

    version: str
    nearest: str
    tasks: list[advice.Task]


def compare(release: Release, root: Path) -> Report:
    """Differences of a release from the nearest one of the table, with what each asks for.

    Raises:
        ConfigError: The table or our ops cannot be read.
    """
    engines = table.load(root)
    nearest = engines.nearest(release.version)
    found = differences(engines.releases[nearest], release.facts)
    return Report(release.version, nearest, advice.tasks(found, release.facts, advice.ours(root)))


def add(release: Release, root: Path) -> bool:
    """Write the release's part of the table; whether anything changed."""
    engines = table.load(root)
    changed = engines.with_release(release.version, release.facts)
    if changed == engines:
        return False
    table.save(root, changed)
    return True
