"""Typed model of ``targets.toml``, the one table of platforms, levels and tiers."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs

from vllm_conda import families
from vllm_conda.errors import ConfigError, check_known, did_you_mean
from vllm_conda.feedstock_table import Feedstock, check_feedstock_table
from vllm_conda.flashinfer_table import Flashinfer, check_flashinfer_table
from vllm_conda.packages import Package
from vllm_conda.platforms import Platform
from vllm_conda.structure import GROUPS, Mismatch, first_mistake, read_toml
from vllm_cuda_plan.arch import parse_version
from vllm_cuda_plan.rocm import Rocm, check_rocm_table
from vllm_cuda_plan.table import Cuda, check_cuda_table, family_file

TARGETS_FILE = "targets.toml"
SCHEMA = 1
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")
# Compared with that of the CUDA toolkits: major and minor.
_GLIBC = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}(\.[0-9]{1,9})*")


@dataclass(frozen=True)
class EngineTable:
    """``release``: the engine that is packaged and tested by default."""

    release: str


@dataclass(frozen=True)
class Project:
    """``version``: of our packages, whichever engines they serve."""

    version: str
    torch_target: str
    python_min: str


@dataclass(frozen=True)
class Level:
    tiers: tuple[str, ...]


@dataclass(frozen=True)
class Tier:
    """One instruction-set tier.

    Attributes:
        above: The tier whose needs it has besides its own; empty: the one before it.
        only: Its kernel families; empty: all.
        switch: Build option that leaves the tier out; empty: none does.
        flag_switches: By build option, the flag that it leaves out, in the tiers above too.
        qemu: The emulated CPU that its kernels are tested on; empty where they are tested natively.
    """

    flags: tuple[str, ...]
    needs: tuple[str, ...]
    above: str = ""
    only: tuple[str, ...] = ()
    switch: str = ""
    flag_switches: dict[str, str] = field(default_factory=dict)
    qemu: str = ""


@dataclass(frozen=True)
class Targets:
    """The whole table; mappings keep the file's order (tiers: lowest first).

    ``families``: the CPU library's kernel families, with their titles.
    """

    schema: int
    engine: EngineTable
    project: Project
    packages: dict[str, Package]
    platforms: dict[str, Platform]
    levels: dict[str, dict[str, Level]]
    families: dict[str, str]
    tiers: dict[str, dict[str, Tier]]
    cuda: Cuda
    flashinfer: Flashinfer
    rocm: Rocm
    feedstock: Feedstock

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices with kernels, those that the solver prefers last."""
        return tuple(dict.fromkeys(one.device for one in self.packages.values() if one.device))

    def level(self, family: str, number: int) -> Level:
        return self.levels[family][str(number)]

    def platform_of(self, family: str) -> Platform:
        """The platform of a CPU family."""
        return next(entry for entry in self.platforms.values() if entry.family == family)

    def tiers_below(self, family: str, tier: str) -> list[str]:
        """The tiers that ``tier`` stands on, lowest first."""
        names = list(self.tiers[family])
        before = names.index(tier) - 1
        below = self.tiers[family][tier].above or (names[before] if before >= 0 else "")
        return [*self.tiers_below(family, below), below] if below else []

    def features(self, family: str, tier: str) -> list[str]:
        """CPU features that ``tier`` needs, those of the tiers below it first."""
        names = [*self.tiers_below(family, tier), tier]
        return list(
            dict.fromkeys(need for name in names for need in self.tiers[family][name].needs)
        )

    def kernel_families(self, tier: Tier) -> list[str]:
        """The kernel families that ``tier`` has kernels of its own for."""
        return [name for name in self.families if not tier.only or name in tier.only]


def load_targets(root: Path) -> Targets:
    """Read and check ``targets.toml`` in ``root``, with the CUDA families' tables.

    Raises:
        ConfigError: Missing file, TOML syntax, unknown or missing key, wrong type, or a
            name that points nowhere. The message names file, table and key.
    """
    return parse_targets(read_table(root))


def read_table(root: Path) -> dict[str, Any]:
    """The parsed TOML of ``targets.toml`` and of the families; errors as in load_targets."""
    data = read_toml(root, TARGETS_FILE)
    cuda = data.get("cuda")
    if isinstance(cuda, dict):
        if "families" in cuda:
            raise ConfigError(
                f"{TARGETS_FILE}: [cuda.families] belongs in files of the families' own.",
                f"Move each to {family_file('FAMILY')}.",
            )
        cuda["families"] = families.read_families(root)
    return data


def parse_targets(data: dict[str, Any]) -> Targets:
    """Turn parsed TOML into :class:`Targets`; errors as in :func:`load_targets`."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for scalar in (str, int, bool):
        converter.register_structure_hook(scalar, _exactly)
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is tuple,
        lambda value, kind: _array(value, typing.get_args(kind)[0], converter),
    )
    try:
        targets = converter.structure(data, Targets)
    except GROUPS as error:
        raise _explain(error) from None
    _check_names(targets)
    return targets


def _exactly(value: Any, kind: type) -> Any:
    """Take no conversions: ``levels = ["3"]`` or ``version = 1`` is a mistake."""
    if type(value) is not kind:
        raise Mismatch(f"expected {kind.__name__}, got {type(value).__name__} {value!r}")
    return value


def _array(value: Any, kind: type, converter: cattrs.Converter) -> tuple[Any, ...]:
    if type(value) is not list:
        raise Mismatch(f"expected an array, got {type(value).__name__} {value!r}")
    return tuple(converter.structure(item, kind) for item in value)


def _explain(error: BaseException) -> ConfigError:
    mistake = first_mistake(error)
    place = families.place(mistake.keys)
    if place is None:
        place = f"{TARGETS_FILE}: [{'.'.join(mistake.keys)}]" if mistake.keys else TARGETS_FILE
    if mistake.kind == "unknown":
        key = mistake.text[0]
        return ConfigError(
            f"{place}: unknown key {key!r}.{did_you_mean(key, mistake.known)}",
            f"Known keys: {', '.join(mistake.known)}.",
        )
    if mistake.kind == "missing":
        return ConfigError(f"{place}: the key is missing.", "Add it; see the comments in the file.")
    if mistake.kind == "mapping":
        return ConfigError(f"{place}: expected a table, got a single value.")
    return ConfigError(f"{place}: {mistake.text[0]}.")


def _check_names(targets: Targets) -> None:
    check_cuda_table(targets.cuda, TARGETS_FILE)
    check_flashinfer_table(targets.flashinfer, TARGETS_FILE, targets.cuda.slices)
    check_rocm_table(targets.rocm, TARGETS_FILE)
    if targets.schema != SCHEMA:
        raise ConfigError(
            f"{TARGETS_FILE}: schema is {targets.schema}, this toolkit reads {SCHEMA}.",
            "Update the toolkit.",
        )
    for where, version in (
        ("[project]: version", targets.project.version),
        ("[engine]: release", targets.engine.release),
    ):
        if not _VERSION.fullmatch(version):
            raise ConfigError(f"{TARGETS_FILE}: {where}: {version!r} is no version, such as 1.2.3.")
    for name, platform in targets.platforms.items():
        where = f"{TARGETS_FILE}: [platforms.{name}]"
        for key, value in dataclasses.asdict(platform.variant).items():
            pattern = _GLIBC if key == "c_stdlib_version" else _VERSION
            if key.endswith("_version") and not pattern.fullmatch(value):
                raise ConfigError(f"{where}: variant.{key}: {value!r} is no version, such as 2.28.")
        check_known(where, "family", platform.family, targets.levels)
        if not platform.levels or list(platform.levels) != sorted(set(platform.levels)):
            raise ConfigError(
                f"{where}: levels must be distinct and ascending, got {list(platform.levels)}."
            )
        for number in platform.levels:
            check_known(where, "level", str(number), targets.levels[platform.family])
        _check_machine(where, targets, name, platform)
    native = [name for name, entry in targets.platforms.items() if not entry.cross_from]
    check_feedstock_table(targets.feedstock, TARGETS_FILE, native, targets.devices)
    _check_toolkit_platforms(targets)
    for family, levels in targets.levels.items():
        check_known(f"{TARGETS_FILE}: [levels.{family}]", "family", family, targets.tiers)
        for key, level in levels.items():
            where = f"{TARGETS_FILE}: [levels.{family}.{key}]"
            if not level.tiers:
                raise ConfigError(f"{where}: tiers is empty, so the package would hold no code.")
            for tier in level.tiers:
                check_known(where, "tier", tier, targets.tiers[family])
    for family, tiers in targets.tiers.items():
        lower: dict[str, Any] = {}
        for name, entry in tiers.items():
            where = f"{TARGETS_FILE}: [tiers.{family}.{name}]"
            if entry.above:
                check_known(where, "above", entry.above, lower)
            for kernels in entry.only:
                check_known(f"{where} only", "kernel family", kernels, targets.families)
            for flag in entry.flag_switches.values():
                check_known(f"{where} flag_switches", "flag", flag, dict.fromkeys(entry.flags))
            lower[name] = entry


def _check_machine(where: str, targets: Targets, name: str, platform: Platform) -> None:
    if not platform.machines:
        raise ConfigError(f"{where}: machines is empty, so no machine would be known as {name}.")
    plain = [entry for entry in platform.cpu_levels if not entry.numbered]
    numbered = [entry for entry in platform.cpu_levels if entry.numbered and entry.compiler]
    if len(plain) != 1 or len(numbered) != 1:
        raise ConfigError(
            f"{where}: cpu_levels needs one name without `*`, that of every CPU of the family, and "
            "one compiler's name with it."
        )
    if not platform.cross_from:
        return
    check_known(where, "cross_from", platform.cross_from, targets.platforms)
    if targets.platforms[platform.cross_from].cross_from:
        raise ConfigError(f"{where}: cross_from is {platform.cross_from}, itself cross compiled.")


def _check_toolkit_platforms(targets: Targets) -> None:
    check_known(
        f"{TARGETS_FILE}: [cuda]", "platform", targets.cuda.tegra_platform, targets.platforms
    )
    for version, toolkit in targets.cuda.toolkits.items():
        where = f"{TARGETS_FILE}: [cuda.toolkits.{version!r}]"
        for name in toolkit.platforms:
            check_known(where, "platform", name, targets.platforms)
            floor = targets.platforms[name].variant.c_stdlib_version
            if parse_version(toolkit.c_stdlib_version or "0.0") > parse_version(floor):
                raise ConfigError(
                    f"{where}: c_stdlib_version {toolkit.c_stdlib_version} is newer than "
                    f"{name}'s {floor}, and vllm-core is one package for all CUDA versions.",
                    f"Raise c_stdlib_version in [platforms.{name}.variant].",
                )
