"""Typed model of the ``[feedstock]`` tables of ``targets.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_conda.errors import ConfigError, check_known

# conda-smithy's words (workflow_settings.free_disk_space).
DISK_LEVELS = ("skip", "quick", "max")
# Longest that a machine hosted by GitHub runs one job.
LONGEST_MINUTES = 360


@dataclass(frozen=True)
class Runner:
    """A CI machine; its label is the key."""

    cores: int
    memory_gib: int


@dataclass(frozen=True)
class DeviceJobs:
    """How a device's jobs run.

    Attributes:
        runners: Machine by conda platform; platforms without one are cross-compiled.
        minutes: Limit of one job.
        free_disk_space: How much preinstalled software is removed first: skip, quick or max.
        swap_gib: Swap space to add, GiB.
    """

    runners: dict[str, str]
    minutes: int
    free_disk_space: str
    swap_gib: int

    def runner(self, platform: str, build_platform: str) -> str:
        """Its own machine, else that of the platform that compiles for it."""
        return self.runners.get(platform, self.runners.get(build_platform, ""))


@dataclass(frozen=True)
class Feedstock:
    """The ``[feedstock]`` tables."""

    image: str
    pins: dict[str, str]
    devices: dict[str, DeviceJobs]
    runners: dict[str, Runner]


def check_feedstock_table(
    table: Feedstock, where: str, native: Sequence[str], devices: Sequence[str]
) -> None:
    """Refuse names that point nowhere and settings that no CI machine takes.

    Args:
        native: Platforms whose machines compile for the others.
        devices: Those that packages are made for.

    Raises:
        ConfigError: Names table and key.
    """
    for key in table.pins:
        if "-" in key:
            raise ConfigError(
                f"{where}: [feedstock.pins]: {key!r} is no variant key: write "
                f"{key.replace('-', '_')!r}."
            )
    for device in devices:
        if device not in table.devices:
            raise ConfigError(f"{where}: [feedstock.devices]: {device} is missing.")
    for device, entry in table.devices.items():
        place = f"{where}: [feedstock.devices.{device}]"
        check_known(place, "device", device, devices)
        check_known(place, "free_disk_space", entry.free_disk_space, DISK_LEVELS)
        if not 1 <= entry.minutes <= LONGEST_MINUTES:
            raise ConfigError(
                f"{place}: minutes must be 1 to {LONGEST_MINUTES}, got {entry.minutes}."
            )
        if entry.swap_gib < 0:
            raise ConfigError(f"{place}: swap_gib must not be negative, got {entry.swap_gib}.")
        for name in native:
            if name not in entry.runners:
                raise ConfigError(f"{place}: runners has no {name}, the machine of the rest.")
        for name in entry.runners.values():
            check_known(place, "runner", name, table.runners)
    for name, runner in table.runners.items():
        for key in ("cores", "memory_gib"):
            if getattr(runner, key) < 1:
                raise ConfigError(
                    f"{where}: [feedstock.runners.{name!r}]: {key} must be at least 1, got "
                    f"{getattr(runner, key)}."
                )
