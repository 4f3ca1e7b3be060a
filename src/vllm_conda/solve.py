"""Solving and installing with py-rattler under stated virtual packages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import url2pathname

from rattler import (
    Channel,
    Gateway,
    GenericVirtualPackage,
    MatchSpec,
    PackageName,
    RepoDataRecord,
    Version,
    VirtualPackage,
    VirtualPackageOverrides,
    install,
    solve,
)
from rattler.exceptions import (
    DetectVirtualPackageError,
    FetchRepoDataError,
    GatewayError,
    InvalidChannelError,
    InvalidMatchSpecError,
    InvalidPackageNameError,
    InvalidUrlError,
    InvalidVersionError,
    SolverError,
    VirtualPackageOverrideError,
)
from rattler.package.build_string import BuildString
from rattler.platform import Subdir

from vllm_conda.errors import NetworkError, SolveError, UsageError
from vllm_conda.paths import limit_error
from vllm_cuda_plan.errors import shortened

_LONGEST = 300  # a line of what repeats an index


def virtual_packages(specs: Sequence[str] = ()) -> list[GenericVirtualPackage]:
    """The host's virtual packages, with those of ``specs`` replaced.

    Args:
        specs: Such as ``__archspec=1=haswell`` or ``__glibc=2.28``; ``__cuda=`` removes one.
    """
    found = {generic.name.normalized: generic for generic in _detected()}
    for spec in specs:
        name, _, rest = spec.partition("=")
        version, _, build = rest.partition("=")
        if not version:
            found.pop(name, None)
            continue
        try:
            tag = BuildString(build or "0")
            found[name] = GenericVirtualPackage(PackageName(name), Version(version), tag)
        except (InvalidVersionError, InvalidPackageNameError, ValueError) as error:
            raise UsageError(
                f"{spec!r} is no virtual package: {error}.", "Write NAME=VERSION, as __cuda=13.0."
            ) from None
    return list(found.values())


def _detected() -> list[GenericVirtualPackage]:
    try:
        overrides = VirtualPackageOverrides.from_env()
        return [package.into_generic() for package in VirtualPackage.detect(overrides)]
    except (DetectVirtualPackageError, VirtualPackageOverrideError, ValueError) as error:
        named = [key for key in os.environ if key.startswith("CONDA_OVERRIDE_")]
        values = ", ".join(f"{key}={os.environ[key]}" for key in sorted(named))
        raise UsageError(
            f"The machine cannot be described with {values}: {error}.",
            "Give versions such as 12.4, or unset them.",
        ) from None


def solve_specs(
    channels: Sequence[str],
    specs: Sequence[str],
    platform: str,
    virtual: Sequence[GenericVirtualPackage],
    gateway: Gateway | None = None,
) -> list[RepoDataRecord]:
    """Solve ``specs`` against ``channels``, the first channel preferred.

    Args:
        gateway: Keeps the channels' indices between solves; the default reads them anew.

    Raises:
        UsageError: A spec that is none.
        SolveError: No solution; the message is the solver's explanation.
        NetworkError: A channel cannot be read.
    """
    try:
        for spec in specs:
            MatchSpec(spec, strict=True)
    except InvalidMatchSpecError as error:
        raise UsageError(
            f"{spec!r} is no package to install: {error}.",
            "Write NAME, NAME VERSION, or NAME[build=GLOB].",
        ) from None
    try:
        with channel_errors(channels):
            return asyncio.run(
                solve(
                    [Channel(channel) for channel in channels],
                    list(specs),
                    gateway=gateway,
                    platforms=[Subdir(platform), Subdir("noarch")],
                    virtual_packages=list(virtual),
                )
            )
    except SolverError as error:
        reason = str(error).strip()
        text = shortened(f"Cannot install {', '.join(specs)}: {reason}", _LONGEST)
        raise SolveError(text) from None


def channel_address(channel: str, base: Path) -> str:
    """A local folder, relative to ``base``, as an address; other names as they are."""
    try:
        path = base / folder_of(channel).expanduser()
    except RuntimeError as error:
        raise UsageError(f"Channel {channel}: {str(error).rstrip('.')}.") from None
    if path.is_dir():
        return path.resolve().as_uri()
    if channel.startswith((".", "/", "~", "file:")):
        raise UsageError(f"Channel {channel}: there is no such folder.", "Check its spelling.")
    return channel


def folder_of(channel: str) -> Path:
    """The folder that a ``file://`` address stands for, or that has the name ``channel``."""
    if channel.startswith("file://"):
        return Path(url2pathname(channel.removeprefix("file://")))
    return Path(channel)


@contextmanager
def channel_errors(channels: Sequence[str]) -> Iterator[None]:
    """Turn py-rattler's errors on reading ``channels`` into one sentence."""
    try:
        yield
    except (GatewayError, FetchRepoDataError, InvalidChannelError, InvalidUrlError) as error:
        if limit := limit_error(error, "Reading the channels"):
            raise limit from None
        text = str(error).partition("\n\nBody:")[0]  # of a server's answer
        reason = text.splitlines()[-1].removeprefix("Caused by: ").rstrip(".")
        raise NetworkError(
            shortened(f"Cannot read the channels {', '.join(channels)}: {reason}.", _LONGEST),
            "Check the channel's address and the network.",
        ) from None


def install_records(
    records: list[RepoDataRecord], prefix: Path, platform: str, cache: Path | None = None
) -> None:
    """Link ``records`` into ``prefix``; packages come from rattler's cache, or from ``cache``."""
    own = os.environ.get("RATTLER_CACHE_DIR")
    cache = cache or (Path(own) if own else None)
    asyncio.run(
        install(
            records,
            target_prefix=prefix,
            cache_dir=cache / "pkgs" if cache else None,
            platform=Subdir(platform),
            show_progress=False,
        )
    )
