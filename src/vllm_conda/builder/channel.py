"""Which channels a build takes compilers and libraries from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_conda.errors import IntegrityError
from vllm_conda.progress import Reporter
from vllm_conda.solve import channel_address, folder_of
from vllm_conda.structure import load_json

if TYPE_CHECKING:
    from vllm_conda.toolchain import Channel

_GLIBC = re.compile(r"__glibc >=(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Toolchain:
    """Channels, what identifies their content, and the variant keys that they dictate.

    Attributes:
        glibc: Of a machine that runs every package of the embedded channel; empty with others.
    """

    channels: tuple[str, ...]
    fingerprint: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    glibc: str = ""
    # CUDA version or `rocm` -> address and fingerprint of its own channel, where the embedded one
    # is used. Two toolkits are never in one list: the first would hide the other's packages.
    toolkits: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def channels_for(self, toolkit: str) -> tuple[str, ...]:
        """The channels of a job: of one CUDA version, of ``rocm``, or of the CPU (empty)."""
        own = self.toolkits.get(toolkit)
        return (*self.channels, own[0]) if own else self.channels

    def toolkit_fingerprint(self, toolkit: str) -> str:
        """What identifies the toolkit of a GPU's job; empty without one of our own."""
        own = self.toolkits.get(toolkit)
        return own[1] if own else ""


def toolchain_for(
    platform: str,
    channels: Sequence[str],
    reporter: Reporter,
    toolkits: Iterable[str] = (),
    pytorch: bool = False,
) -> Toolchain:
    """The given channels, or the embedded one, made if it is not there yet.

    Args:
        toolkits: Those of jobs that are needed too: CUDA versions, ``rocm``, empty of the CPU.
        pytorch: Put a CUDA build of PyTorch before the CPU build: to run, not to compile.
    """
    if channels:
        named = tuple(channel_address(channel, Path()) for channel in channels)
        digest = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        return Toolchain(named, f"channels-{digest}", _overrides_of(named, platform))
    # Imported here because a build against other channels needs none of it.
    from vllm_conda import toolchain

    wanted = filter(None, toolkits)
    made = toolchain.ensure(platform, wanted, reporter=reporter, pytorch=pytorch)
    first = [made.pytorch] if made.pytorch else []
    return Toolchain(
        tuple(channel.url for channel in (*first, *made.base)),
        _fingerprint(made.base),
        _sysroot_version(made.base[0].path, platform),
        _glibc(made.base[0].path, platform),
        {version: (one.url, one.fingerprint) for version, one in made.toolkits.items()},
    )


def _fingerprint(channels: Sequence[Channel]) -> str:
    """What identifies the content of the channels together."""
    if len(channels) == 1:
        return channels[0].fingerprint
    text = "\n".join(channel.fingerprint for channel in channels)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _overrides_of(channels: Sequence[str], platform: str) -> dict[str, str]:
    for channel in channels:
        if channel.startswith("file://"):
            found = _sysroot_version(folder_of(channel), platform, strict=False)
            if found:
                return found
    return {}


def _sysroot_version(folder: Path, platform: str, strict: bool = True) -> dict[str, str]:
    """The C library that the channel links for: an embedded channel has one."""
    sysroot = f"sysroot_{platform}"
    rows = _records(folder, platform)
    versions = {str(row.get("version")) for row in rows if row.get("name") == sysroot}
    if not versions and strict:
        raise IntegrityError(
            f"The toolchain channel {folder} has no sysroot_{platform}.",
            "Remove that folder and run `vllm-conda toolchain`.",
        )
    return {"c_stdlib_version": max(versions)} if len(versions) == 1 else {}


def _glibc(folder: Path, platform: str) -> str:
    """The highest C library that a package of the channel requires: Python and PyTorch's."""
    rows = _records(folder, platform)
    specs = (spec for row in rows for spec in row.get("depends") or ())
    floors = [match[1] for spec in specs if (match := _GLIBC.match(str(spec)))]
    return max(floors, key=lambda text: [int(part) for part in text.split(".")], default="")


def _records(folder: Path, platform: str) -> Iterator[dict[str, Any]]:
    """The index's rows; what is malformed there, the solver refuses where it needs it."""
    for subdir in (platform, "noarch"):
        try:
            data = load_json((folder / subdir / "repodata.json").read_bytes())
        except (OSError, ValueError):
            continue
        for group in ("packages", "packages.conda"):
            found = data.get(group) if isinstance(data, dict) else None
            rows = found.values() if isinstance(found, dict) else ()
            yield from (row for row in rows if isinstance(row, dict))
