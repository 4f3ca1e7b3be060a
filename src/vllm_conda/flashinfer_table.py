"""Typed model of the ``[flashinfer]`` tables of ``targets.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vllm_conda.errors import ConfigError, check_known
from vllm_cuda_plan.table import Slice

_MODULE = re.compile(r"[a-z][a-z_]*|prefill-(?:bfloat16|float16)-[0-9]+-fa[23]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FlashinferRelease:
    """One of upstream's releases.

    Attributes:
        sha256: Of its wheel, which holds all sources.
        engines: The engines that pin it, as conda writes it.
    """

    sha256: str
    engines: str


@dataclass(frozen=True)
class Flashinfer:
    """The ``[flashinfer]`` tables.

    Attributes:
        release: What is packaged unless asked otherwise.
        slice: The kind of GPU that modules are compiled for: jobs for it can build the packages.
        modules: The set that is compiled unless asked otherwise.
        sets: Modules by set, fewer first, in the words of recipe/flashinfer/compile_modules.py.
    """

    release: str
    slice: str
    modules: str
    releases: dict[str, FlashinferRelease]
    sets: dict[str, tuple[str, ...]]


def check_flashinfer_table(table: Flashinfer, where: str, slices: Mapping[str, Slice]) -> None:
    """Refuse names that point nowhere and words that no module has.

    Raises:
        ConfigError: Names table and key.
    """
    place = f"{where}: [flashinfer]"
    check_known(place, "slice", table.slice, slices)
    if len(slices[table.slice].archs) != 1:
        raise ConfigError(f"{place}: the slice {table.slice} is not of one architecture.")
    check_known(place, "release", table.release, table.releases)
    check_known(place, "set", table.modules, table.sets)
    for name, release in table.releases.items():
        if not _SHA256.fullmatch(release.sha256):
            raise ConfigError(f"{where}: [flashinfer.releases.{name!r}]: sha256 is no SHA-256.")
    for name, words in table.sets.items():
        for word in words:
            if not _MODULE.fullmatch(word):
                raise ConfigError(
                    f"{where}: [flashinfer.sets]: {name}: {word!r} is no module, such as sampling "
                    "or prefill-bfloat16-128-fa3."
                )
        if len(set(words)) != len(words):
            raise ConfigError(f"{where}: [flashinfer.sets]: {name} names a module twice.")
