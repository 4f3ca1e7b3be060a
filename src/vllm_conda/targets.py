"""Typed model of ``targets.toml``, the one table of platforms, levels and tiers."""

from __future__ import annotations

import dataclasses
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from vllm_conda.errors import ConfigError, did_you_mean
from vllm_conda.feedstock.table import Feedstock, check_feedstock_table
from vllm_cuda_plan.arch import parse_version
from vllm_cuda_plan.table import Cuda, check_cuda_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TARGETS_FILE = "targets.toml"
SCHEMA = 1


@dataclass(frozen=True)
class Project:
    version: str
    torch_target: str
    python_min: str


@dataclass(frozen=True)
class CompilerKeys:
    """Variant keys that choose compiler and C library, by conda-forge's names."""

    c_compiler: str
    cxx_compiler: str
    c_stdlib: str
    c_stdlib_version: str


@dataclass(frozen=True)
class Platform:
    """A conda subdir that gets packages.

    ``levels`` are the CPU microarchitecture levels with a package each, the lowest is the
    floor; ``variant`` holds the compiler keys of every variant file of the platform.
    """

    family: str
    levels: tuple[int, ...]
    variant: CompilerKeys


@dataclass(frozen=True)
class Level:
    march: str
    tiers: tuple[str, ...]


@dataclass(frozen=True)
class Tier:
    """One instruction-set tier.

    ``above``: the tier whose needs it has besides its own; empty: the one before it. ``qemu``: the
    emulated CPU that its kernels are tested on; empty where they are tested natively.
    """

    flags: tuple[str, ...]
    needs: tuple[str, ...]
    families: tuple[str, ...]
    above: str = ""
    qemu: str = ""


@dataclass(frozen=True)
class Targets:
    """The whole table; mappings keep the file's order (tiers: lowest first)."""

    schema: int
    project: Project
    platforms: dict[str, Platform]
    levels: dict[str, dict[str, Level]]
    tiers: dict[str, dict[str, Tier]]
    cuda: Cuda
    feedstock: Feedstock

    def level(self, family: str, number: int) -> Level:
        return self.levels[family][str(number)]

    def features(self, family: str, tier: str) -> list[str]:
        """CPU features that ``tier`` needs, those of the tiers below it first."""
        names = list(self.tiers[family])
        entry = self.tiers[family][tier]
        before = names.index(tier) - 1
        below = entry.above or (names[before] if before >= 0 else "")
        found = self.features(family, below) if below else []
        return found + [need for need in entry.needs if need not in found]


@dataclass(frozen=True)
class _Place:
    """Where in the file a value stands, for messages."""

    file: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: [{'.'.join(self.keys)}]" if self.keys else self.file


def load_targets(root: Path) -> Targets:
    """Read and check ``targets.toml`` in ``root``.

    Raises:
        ConfigError: Missing file, TOML syntax, unknown or missing key, wrong type, or a
            name that points nowhere. The message names file, table and key.
    """
    path = root / TARGETS_FILE
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.", "Run in a checkout of the project.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{TARGETS_FILE} is not UTF-8: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{TARGETS_FILE} is not valid TOML: {error}.") from None
    return parse_targets(data)


def parse_targets(data: dict[str, Any]) -> Targets:
    """Turn parsed TOML into :class:`Targets`; errors as in :func:`load_targets`."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for scalar in (str, int, bool):
        converter.register_structure_hook(scalar, _exactly)
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is tuple,
        lambda value, kind: _array(value, typing.get_args(kind)[0]),
    )
    try:
        targets = converter.structure(data, Targets)
    except (ClassValidationError, IterableValidationError) as error:
        raise _explain(error, _Place(TARGETS_FILE, ())) from None
    _check_names(targets)
    return targets


def _exactly(value: Any, kind: type) -> Any:
    """Take no conversions: ``levels = ["3"]`` or ``version = 1`` is a mistake."""
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__} {value!r}")
    return value


def _array(value: Any, kind: type) -> tuple[Any, ...]:
    if type(value) is not list:
        raise TypeError(f"expected an array, got {type(value).__name__} {value!r}")
    return tuple(_exactly(item, kind) for item in value)


def _explain(error: BaseException, place: _Place) -> ConfigError:
    """Find the first leaf of cattrs' exception group and say where it is."""
    if isinstance(error, ForbiddenExtraKeysError):
        key = sorted(error.extra_fields)[0]
        known = [field.name for field in dataclasses.fields(error.cl)]
        return ConfigError(
            f"{place}: unknown key {key!r}.{did_you_mean(key, known)}",
            f"Known keys: {', '.join(known)}.",
        )
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        if isinstance(error, ClassValidationError):
            # An unknown key often comes with a missing one: the misspelling is the cause.
            extra = [e for e in error.exceptions if isinstance(e, ForbiddenExtraKeysError)]
            if extra:
                return _explain(extra[0], place)
        first = error.exceptions[0]
        return _explain(first, _Place(place.file, place.keys + _note(first)))
    if isinstance(error, KeyError):
        return ConfigError(f"{place}: the key is missing.", "Add it; see the comments in the file.")
    if isinstance(error, AttributeError):  # cattrs asks a non-table for its items
        return ConfigError(f"{place}: expected a table, got a single value.")
    return ConfigError(f"{place}: {error}.")


def _note(error: BaseException) -> tuple[str, ...]:
    for note in getattr(error, "__notes__", []):
        name = getattr(note, "name", None)  # AttributeValidationNote
        if name is None:
            name = getattr(note, "index", None)  # IterableValidationNote
        if name is not None:
            return (str(name),)
    return ()


def _check_names(targets: Targets) -> None:
    check_cuda_table(targets.cuda, TARGETS_FILE)
    check_feedstock_table(targets.feedstock, TARGETS_FILE)
    if targets.schema != SCHEMA:
        raise ConfigError(
            f"{TARGETS_FILE}: schema is {targets.schema}, this toolkit reads {SCHEMA}.",
            "Update the toolkit.",
        )
    for name, platform in targets.platforms.items():
        where = f"{TARGETS_FILE}: [platforms.{name}]"
        _known(where, "family", platform.family, targets.levels)
        if not platform.levels or list(platform.levels) != sorted(set(platform.levels)):
            raise ConfigError(
                f"{where}: levels must be distinct and ascending, got {list(platform.levels)}."
            )
        for number in platform.levels:
            _known(where, "level", str(number), targets.levels[platform.family])
    _check_toolkit_platforms(targets)
    for family, levels in targets.levels.items():
        _known(f"{TARGETS_FILE}: [levels.{family}]", "family", family, targets.tiers)
        for key, level in levels.items():
            where = f"{TARGETS_FILE}: [levels.{family}.{key}]"
            if not level.tiers:
                raise ConfigError(f"{where}: tiers is empty, so the package would hold no code.")
            for tier in level.tiers:
                _known(where, "tier", tier, targets.tiers[family])
    for family, tiers in targets.tiers.items():
        lower: dict[str, Any] = {}
        for name, entry in tiers.items():
            if entry.above:
                _known(f"{TARGETS_FILE}: [tiers.{family}.{name}]", "above", entry.above, lower)
            lower[name] = entry


def _check_toolkit_platforms(targets: Targets) -> None:
    for version, toolkit in targets.cuda.toolkits.items():
        where = f"{TARGETS_FILE}: [cuda.toolkits.{version!r}]"
        for name in toolkit.platforms:
            _known(where, "platform", name, targets.platforms)
            floor = targets.platforms[name].variant.c_stdlib_version
            if parse_version(toolkit.c_stdlib_version or "0.0") > parse_version(floor):
                raise ConfigError(
                    f"{where}: c_stdlib_version {toolkit.c_stdlib_version} is newer than "
                    f"{name}'s {floor}, and vllm-core is one package for all CUDA versions.",
                    f"Raise c_stdlib_version in [platforms.{name}.variant].",
                )


def _known(where: str, what: str, word: str, choices: dict[str, Any]) -> None:
    if word not in choices:
        raise ConfigError(
            f"{where}: unknown {what} {word!r}.{did_you_mean(word, choices)}",
            f"Known: {', '.join(choices)}.",
        )
