"""The channels that node types are solved against, each index read once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rattler import Channel, Gateway, MatchSpec, RepoDataRecord
from rattler.platform import Subdir

from vllm_conda import platforms
from vllm_conda.errors import ConfigError
from vllm_conda.paths import cache_root, private_folder
from vllm_conda.site import virtual
from vllm_conda.site.virtual import Machine
from vllm_conda.solve import channel_errors, solve_specs
from vllm_conda.structure import load_json


@dataclass(frozen=True)
class Defaults:
    """The channels of a checkout's own output.

    Attributes:
        output: What has been built.
        built_against: Where compilers and libraries came from.
        embedded: They are the embedded toolchain's, whose Python and PyTorch run on this machine's
            C library and are not published.
    """

    output: str
    built_against: tuple[str, ...]
    embedded: bool


def default_channels(root: Path) -> Defaults:
    """The checkout's output and the channels that it was built against.

    Raises:
        ConfigError: Nothing has been built yet.
    """
    output = root / "output"
    try:
        state = load_json((private_folder(output) / "build-state.json").read_bytes())
        built_against = [str(channel) for channel in state["channels"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{output} holds no finished build.",
            "Name the channels with --channel, or run `./run build` first.",
        ) from None
    made_here = (cache_root() / "channels").as_uri()
    return Defaults(
        output.resolve().as_uri(),
        tuple(built_against),
        any(address.startswith(made_here) for address in built_against),
    )


class Channels:
    """Solves against the same channels again and again."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)
        self._gateway = Gateway()
        self._names: dict[str, frozenset[str]] = {}
        self._bounds: dict[tuple[str, tuple[str, ...]], dict[str, set[str]]] = {}

    def solve(
        self,
        specs: Sequence[str],
        platform: str,
        machine: Machine,
        opened: Mapping[str, Sequence[str]] | None = None,
    ) -> list[RepoDataRecord]:
        """Solve for ``machine``; a property in ``opened`` may take any of its values.

        Raises:
            SolveError: No solution; the message holds the solver's explanation.
            NetworkError: A channel cannot be read.
        """
        described = virtual.packages(machine, opened)
        return solve_specs(self.addresses, specs, platform, described, self._gateway)

    def names(self, platform: str) -> frozenset[str]:
        """Every package name that ``platform`` can install."""
        if platform not in self._names:
            with channel_errors(self.addresses):
                names = asyncio.run(self._gateway.names(self._channels(), _subdirs(platform)))
            self._names[platform] = frozenset(name.normalized for name in names)
        return self._names[platform]

    def platforms_with(self, name: str) -> list[str]:
        return [platform for platform in platforms.table() if name in self.names(platform)]

    def bounds(self, specs: Sequence[str], platform: str) -> Mapping[str, set[str]]:
        """Virtual package -> the version specs on it of all that ``specs`` may bring."""
        key = (platform, tuple(specs))
        if key not in self._bounds:
            texts = set()
            for record in self.records(specs, platform, recursive=True):
                texts |= {t for t in (*record.depends, *record.constrains) if t.startswith("__")}
            found: dict[str, set[str]] = {}
            for text in texts:
                match = MatchSpec(text)
                found.setdefault(match.name.normalized, set()).add(match.version or "")
            self._bounds[key] = found
        return self._bounds[key]

    def records(
        self, specs: Sequence[str], platform: str, recursive: bool = False
    ) -> list[RepoDataRecord]:
        """All packages that match ``specs``; ``recursive``: and all that those may bring."""
        with channel_errors(self.addresses):
            found = asyncio.run(
                self._gateway.query(
                    self._channels(), _subdirs(platform), list(specs), recursive=recursive
                )
            )
        return [record for source in found for record in source]

    def _channels(self) -> list[Channel]:
        return [Channel(address) for address in self.addresses]


def _subdirs(platform: str) -> list[Subdir]:
    return [Subdir(platform), Subdir("noarch")]
