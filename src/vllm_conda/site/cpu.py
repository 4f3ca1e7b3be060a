"""What archspec knows about a CPU name: its family and its microarchitecture level."""

from __future__ import annotations

import re
from functools import cache

import archspec.cpu  # type: ignore[import-untyped]

# conda's names for the machine part of a platform, where they differ from archspec's family.
_FAMILIES = {"64": "x86_64"}


def family_of(platform: str) -> str:
    """``linux-64`` -> ``x86_64``."""
    machine = platform.partition("-")[2]
    return _FAMILIES.get(machine, machine)


@cache
def cpus(family: str) -> tuple[str, ...]:
    """Every CPU name of ``family``, a CPU after those that it is compatible with."""
    return tuple(name for name, cpu in archspec.cpu.TARGETS.items() if cpu.family.name == family)


def all_cpus() -> tuple[str, ...]:
    return tuple(archspec.cpu.TARGETS)


def family(cpu: str) -> str:
    return str(archspec.cpu.TARGETS[cpu].family.name)


@cache
def levels(family: str) -> tuple[str, ...]:
    """The names that stand for a level of ``family``, lowest first.

    x86_64 and aarch64 have generic names; a level of POWER is a processor generation.
    """
    names = cpus(family)
    if family == "ppc64le":
        return names
    return tuple(name for name in names if archspec.cpu.TARGETS[name].vendor == "generic")


def runs(cpu: str, code_for: str) -> bool:
    """Whether ``cpu`` runs what is compiled for ``code_for``."""
    return bool(archspec.cpu.TARGETS[cpu] >= archspec.cpu.TARGETS[code_for])


def level_of(cpu: str) -> str:
    """The highest level name that ``cpu`` runs."""
    return [name for name in levels(family(cpu)) if runs(cpu, name)][-1]


def level_words(level: str) -> str:
    """``x86_64_v3`` -> ``x86_64 level 3``, ``power9le`` -> ``ppc64le level 9``."""
    if match := re.fullmatch(r"x86_64(?:_v(\d))?", level):
        return f"x86_64 level {match[1] or 1}"
    if match := re.fullmatch(r"power(\d+)le", level):
        return f"ppc64le level {match[1]}"
    if match := re.fullmatch(r"armv([\d.]+)a", level):
        return f"Armv{match[1]}-A"
    return f"the {level} baseline"


def common(first: str, second: str) -> str | None:
    """The best level name whose code both CPUs run; None across families."""
    if family(first) != family(second):
        return None
    both = [name for name in levels(family(first)) if runs(first, name) and runs(second, name)]
    return both[-1] if both else None
