"""CPU names: their families and microarchitecture levels, from the archspec library.

Which names stand for a level is the platform's (``cpu_levels`` in ``targets.toml``). A CPU's level
is the highest whose name it is compatible with.
"""

from __future__ import annotations

import difflib
import re
from functools import cache

import archspec.cpu  # type: ignore[import-untyped]

from vllm_conda import platforms
from vllm_conda.errors import ConfigError


def family_of(platform: str) -> str:
    """``linux-64`` -> ``x86_64``."""
    return platforms.table()[platform].family


# The build of a level package that stands for every CPU of its level and above.
LEVEL_BUILD = "level"


@cache
def cpus(family: str) -> tuple[str, ...]:
    """Every CPU name of ``family``, a CPU after those that it is compatible with."""
    return tuple(name for name, cpu in archspec.cpu.TARGETS.items() if cpu.family.name == family)


def known(cpu: str) -> bool:
    return cpu in archspec.cpu.TARGETS


def near(word: str, family: str) -> str:
    """``" Did you mean 'zen4'?"`` for a misspelt CPU name, or an empty string.

    Another number is another CPU, and a newer one that archspec lacks resembles its predecessors.
    So only names with the same numbers and nearly the same letters are considered.
    """
    numbers = re.findall(r"\d+", word)
    same = [name for name in cpus(family) if re.findall(r"\d+", name) == numbers]
    close = difflib.get_close_matches(word.lower(), same, n=1, cutoff=0.85)
    return f" Did you mean {close[0]!r}?" if close else ""


def family(cpu: str) -> str:
    return str(archspec.cpu.TARGETS[cpu].family.name)


@cache
def level_names(family: str) -> tuple[str, ...]:
    """The names that stand for a level of ``family``, lowest first."""
    entry = platforms.families()[family]
    return tuple(name for name in cpus(family) if entry.level_of(name) is not None)


def runs(cpu: str, code_for: str) -> bool:
    """Whether ``cpu`` runs what is compiled for ``code_for``."""
    return bool(archspec.cpu.TARGETS[cpu] >= archspec.cpu.TARGETS[code_for])


def level_of(cpu: str) -> str:
    """The highest level name that ``cpu`` runs."""
    return [name for name in level_names(family(cpu)) if runs(cpu, name)][-1]


def level_words(level: str) -> str:
    """``x86_64_v3`` -> ``x86_64 level 3``."""
    return platforms.families()[family(level)].level_words(level)


def common(first: str, second: str) -> str | None:
    """The best level name whose code both CPUs run; None across families."""
    if family(first) != family(second):
        return None
    names = level_names(family(first))
    both = [name for name in names if runs(first, name) and runs(second, name)]
    return both[-1] if both else None


@cache
def levels(family: str) -> dict[str, int]:
    """CPU name -> level of every CPU in ``family`` (``x86_64``: 1 to 4); empty: no such family."""
    if family not in platforms.families():
        return {}
    found = {cpu: platforms.families()[family].level_of(level_of(cpu)) for cpu in cpus(family)}
    return {cpu: level for cpu, level in found.items() if level is not None}


def build_matcher(family: str, level: int) -> str:
    """Regular expression on the ``__archspec`` build string for CPUs of ``level`` or above.

    A level's package must be installable on every CPU of that level or a higher one, so it lists
    the names that archspec knows at or above it.

    Raises:
        ConfigError: archspec knows no such CPU.
    """
    names = sorted(name for name, found in levels(family).items() if found >= level)
    if not names:
        raise ConfigError(f"archspec knows no {family} CPU of level {level}.")
    return f"^({'|'.join(names)})$"


def level_builds(family: str) -> list[str]:
    """Builds of ``_FAMILY-microarch-level``: ``level3`` for each level, and one for each CPU."""
    found = levels(family)
    return [*(f"{LEVEL_BUILD}{level}" for level in sorted(set(found.values()))), *sorted(found)]


def level_cpu(family: str, level: int) -> str:
    """A CPU name of exactly ``level``, the most general one that archspec has."""
    return next(name for name, found in levels(family).items() if found == level)
