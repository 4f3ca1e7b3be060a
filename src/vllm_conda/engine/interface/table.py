"""The table of engines: what each release that is served asks, as changes from the one before.

It lies in the plugin's package, which reads the ops from it at run time. A row says that from a
release on a fact has a value, ``-`` where it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from vllm_conda.errors import ConfigError
from vllm_conda.paths import disk_errors, write_atomic

FILE = Path("src/vllm_kernels_plugin/engines.tsv")
GONE = "-"
RELEASE = "release"
SDIST = "sdist_sha256"
HEAD = """\
# Engines that are served: since which release a fact of their interface has which value (- : gone).
# Written by `vllm-conda engine add`, explained in docs/developers/engines.md.
# since, kind, place, name, value
"""

# kind, place, name: what a value is of.
Key = tuple[str, str, str]
Facts = Mapping[Key, str]


@dataclass(frozen=True)
class Table:
    """Every fact of every release, oldest first."""

    releases: dict[str, dict[Key, str]]

    @property
    def versions(self) -> list[str]:
        return list(self.releases)

    def minors(self) -> list[str]:
        """The minor versions that are served, such as ``1.2``, oldest first."""
        return list(dict.fromkeys(minor(version) for version in self.releases))

    def range(self) -> str:
        """The minor versions that are served as a version constraint: ``>=0.26,<0.34``."""
        minors = self.minors()
        major, _, last = minors[-1].rpartition(".")
        return f">={minors[0]},<{major}.{int(last) + 1}"

    def of_minor(self, version: str) -> str | None:
        """The newest release in the table of the same minor version."""
        same = [one for one in self.releases if minor(one) == minor(version)]
        return same[-1] if same else None

    def nearest(self, version: str) -> str:
        """The release to compare ``version`` with: the last before it, else the first."""
        before = [one for one in self.releases if Version(one) <= Version(version)]
        return before[-1] if before else self.versions[0]

    def sdist_sha256(self, version: str) -> str:
        return self.releases[version][RELEASE, "vllm", SDIST]

    def with_release(self, version: str, facts: Facts) -> Table:
        """A table that holds ``version`` as well, in its place by age."""
        releases = {**self.releases, version: dict(facts)}
        return Table({one: releases[one] for one in sorted(releases, key=Version)})

    def text(self) -> str:
        """The file: a row a change."""
        lines: list[str] = []
        before: Facts = {}
        for version, facts in self.releases.items():
            for key in sorted(before.keys() | facts.keys()):
                value = facts.get(key, GONE)
                if before.get(key, GONE) != value:
                    lines.append("\t".join((version, *key, value)))
            before = facts
        return HEAD + "".join(f"{line}\n" for line in lines)


def minor(version: str) -> str:
    """``1.2`` of ``1.2.3``."""
    return ".".join(version.split(".")[:2])


def load(root: Path) -> Table:
    """Read the table of a checkout.

    Raises:
        ConfigError: It is missing or a row is malformed; names the line.
    """
    path = root / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{FILE} cannot be read: {error}.") from None
    return parse(lines)


def parse(lines: list[str]) -> Table:
    """The table of a file's lines; errors as in :func:`load`."""
    releases: dict[str, dict[Key, str]] = {}
    facts: dict[Key, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) != 5:
            raise ConfigError(f"{FILE}:{number}: expected 5 columns, got {len(cells)}.")
        since, kind, place, name, value = cells
        if since not in releases:
            facts = releases[since] = dict(facts)
        elif since != next(reversed(releases)):
            raise ConfigError(f"{FILE}:{number}: rows of {since} stand in two places.")
        if value == GONE:
            facts.pop((kind, place, name), None)
        else:
            facts[kind, place, name] = value
    try:
        ordered = sorted(releases, key=Version)
    except InvalidVersion as error:
        raise ConfigError(f"{FILE}: {error}.") from None
    if ordered != list(releases) or not releases:
        raise ConfigError(f"{FILE}: releases must be there, oldest first.")
    for version, found in releases.items():
        if (RELEASE, "vllm", SDIST) not in found:
            raise ConfigError(f"{FILE}: {version} has no {SDIST}.")
    return Table(releases)


def save(root: Path, table: Table) -> None:
    """Write the table of a checkout, whole or not at all."""
    with disk_errors("the table of engines", root / FILE):
        write_atomic(root / FILE, table.text())
