"""Wheels by name through the machine's own pip (its index, mirrors and proxies apply)."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from vllm_conda.downloads import fetch as downloads
from vllm_conda.downloads.store import FREE_SPACE, Store, disk_errors, disk_failed, key_of, remove
from vllm_conda.errors import ConfigError, DiskError, MissingToolError, NetworkError
from vllm_conda.progress import Reporter
from vllm_conda.toolchain.host import Host

# Minor version of the oldest glibc that packages are made for ([platforms.*.variant]).
OLDEST_GLIBC = 28
BATCH = 8  # wheels per pip process: start-up is paid once a batch, a kill loses one batch


def choose(name: str, rows: Iterable[str], python: str) -> str:
    """The one requirement of ``rows`` whose marker holds for CPython ``python`` (``3.11.7``).

    Raises:
        ConfigError: none or several apply, or a row is not ``name==version``.
    """
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
    }
    chosen = []
    for row in rows:
        requirement = Requirement(row)
        if len(requirement.specifier) != 1 or next(iter(requirement.specifier)).operator != "==":
            raise ConfigError(f"packages.toml: [pip] {name}: {row!r} is not pinned with ==.")
        if requirement.marker is None or requirement.marker.evaluate(environment):
            chosen.append(f"{requirement.name}{requirement.specifier}")
    if len(chosen) != 1:
        raise ConfigError(
            f"packages.toml: [pip] {name}: {len(chosen)} requirements apply to Python {python}."
        )
    return chosen[0]


def _tags(platform: str) -> list[str]:
    """pip's words for wheels of another platform than this machine's."""
    machine = platform.partition("-")[2]
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, OLDEST_GLIBC + 1))]
    return [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]


class PipClient:
    """Fetches pinned requirements.

    Args:
        foreign: Those whose wheel must be of the channel's platform; the others are this machine's,
            for what is in them is the same or runs here.
    """

    def __init__(
        self, store: Store, host: Host, reporter: Reporter, foreign: Iterable[str] = ()
    ) -> None:
        self.store, self.host, self.reporter = store, host, reporter
        cross = host.platform != host.build_platform
        self.foreign = frozenset(foreign if cross else ())

    def _key(self, requirement: str) -> str:
        host = self.host
        platform = host.platform if requirement in self.foreign else host.build_platform
        return f"{requirement}-{key_of(requirement, host.py, platform)[:8]}"

    def cached(self, requirement: str) -> downloads.Artifact | None:
        """The wheel of an earlier run."""
        return downloads.cached(self.store, "pip", self._key(requirement))

    def fetch(self, requirements: list[str]) -> dict[str, downloads.Artifact]:
        """Download wheels, at most ``BATCH`` a call.

        Raises:
            NetworkError: pip could not reach or find one.
            MissingToolError: the running Python has no pip.
        """
        found: dict[str, downloads.Artifact] = {}
        own = [row for row in requirements if row not in self.foreign]
        other = [row for row in requirements if row in self.foreign]
        for rows, words in ((own, []), (other, _tags(self.host.platform))):
            if rows:
                found.update(self._fetch(rows, words))
        return found

    def _fetch(self, requirements: list[str], words: list[str]) -> dict[str, downloads.Artifact]:
        scratch = self.store.scratch("pip")
        try:
            with disk_errors(scratch):
                (scratch / "tmp").mkdir()
                (scratch / "dl").mkdir()
            command = [
                sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
                "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
                "--only-binary", ":all:", "--dest", str(scratch / "dl"), *words, *requirements,
            ]  # fmt: skip
            env = {**os.environ, "TMPDIR": str(scratch / "tmp")}
            label = requirements[0] + (f" +{len(requirements) - 1}" if requirements[1:] else "")
            with downloads.growing(self.reporter, f"pip download {label}", scratch, None):
                code, text = downloads.run_client(command, env, scratch)
            if code:
                raise self._failure(requirements, text)
            return self._keep(requirements, scratch / "dl")
        finally:
            remove(scratch)

    def _keep(self, requirements: list[str], folder: Path) -> dict[str, downloads.Artifact]:
        wanted = {canonicalize_name(Requirement(row).name): row for row in requirements}
        found = {}
        for file in sorted(folder.iterdir()):
            name, version, _, _ = parse_wheel_filename(file.name)
            row = wanted[name]
            key = self._key(row)
            found[row] = downloads.record(self.store, "pip", key, name, str(version), file)
        return found

    def _failure(self, requirements: list[str], text: str) -> Exception:
        reason = downloads.last_error(text)
        if "No module named pip" in text:
            return MissingToolError(
                f"The running Python ({sys.executable}) has no pip.",
                f"Run: {shlex.quote(sys.executable)} -m ensurepip",
            )
        if disk_failed(text, self.store.root):
            return DiskError(f"pip could not write to {self.store.root}: {reason}.", FREE_SPACE)
        rows = shlex.join(requirements)
        return NetworkError(
            f"pip could not download {', '.join(requirements)}: {reason}.",
            "Run again with network, or on a connected machine run "
            f"`pip download --no-deps --only-binary :all: -d wheels {rows}`, copy the folder "
            "here and set PIP_FIND_LINKS to it.",
        )


def requirements_of(pins: Mapping[str, tuple[str, ...]], host: Host) -> dict[str, str]:
    """Name in ``[pip]`` -> the requirement for this Python."""
    return {name: choose(name, rows, host.python) for name, rows in pins.items()}
