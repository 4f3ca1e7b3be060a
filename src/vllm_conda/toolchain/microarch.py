"""CPU names of each microarchitecture level, from the archspec library.

A level package must be installable on every CPU of that level or a higher one, so its
``__archspec`` matcher lists the names that archspec knows at or above it.
"""

from __future__ import annotations

import re
from functools import cache

import archspec.cpu  # type: ignore[import-untyped]

from vllm_conda.errors import ConfigError

# What a family's level names look like in archspec, and the level of its bare family name. aarch64:
# ours, level N is Armv8.N-A; Armv9.0-A holds all of Armv8.5-A, and 9.2 of 8.7.
_NAMES = {
    "x86_64": (r"x86_64(?:_v(?P<level>\d+))?", 1),
    "aarch64": (r"aarch64|armv8\.(?P<level>\d+)a|armv9\.(?P<ninth>\d+)a", 0),
    "ppc64le": (r"ppc64le|power(?P<level>\d+)le", 8),
}
_NINTH = 5


@cache
def levels(family: str) -> dict[str, int]:
    """CPU name -> level of every CPU in ``family`` (``x86_64``: 1 to 4)."""
    if family not in _NAMES:
        return {}
    pattern, lowest = _NAMES[family]
    found = {}
    for name, cpu in archspec.cpu.TARGETS.items():
        # A POWER generation is a name of its own there, without a generic one above it.
        generic = name if family == "ppc64le" else cpu.generic.name
        match = re.fullmatch(pattern, generic)
        if cpu.family.name == family and match:
            numbers = match.groupdict()
            found[name] = int(numbers.get("level") or lowest)
            if numbers.get("ninth"):
                found[name] = _NINTH + int(numbers["ninth"])
    return found


def compiler_flag(family: str, level: int) -> str:
    """The option of GCC and Clang that compiles for a CPU of ``level``."""
    if family == "ppc64le":
        return f"-mcpu=power{level}"
    if family == "aarch64":
        return f"-march=armv8.{level}-a" if level else "-march=armv8-a"
    name = family.replace("_", "-")
    return f"-march={name}" if level == 1 else f"-march={name}-v{level}"


def build_matcher(family: str, level: int) -> str:
    """Regular expression on the ``__archspec`` build string for CPUs of ``level`` or above."""
    names = sorted(name for name, found in levels(family).items() if found >= level)
    if not names:
        raise ConfigError(f"archspec knows no {family} CPU of level {level}.")
    return f"^({'|'.join(names)})$"


def level_cpu(family: str, level: int) -> str:
    """A CPU name of exactly ``level``, the most general one that archspec has."""
    return next(name for name, found in levels(family).items() if found == level)
