"""CPU names of each microarchitecture level, from the archspec library.

A level package must be installable on every CPU of that level or a higher one, so its
``__archspec`` matcher lists the names that archspec knows at or above it.
"""

from __future__ import annotations

import re
from functools import cache

import archspec.cpu  # type: ignore[import-untyped]

from vllm_conda.errors import ConfigError


@cache
def levels(family: str) -> dict[str, int]:
    """CPU name -> level of every CPU in ``family`` (``x86_64``: 1 to 4)."""
    found = {}
    for name, cpu in archspec.cpu.TARGETS.items():
        if cpu.family.name != family:
            continue
        match = re.fullmatch(rf"{family}(?:_v(\d+))?", cpu.generic.name)
        if match:
            found[name] = int(match[1] or 1)
    return found


def build_matcher(family: str, level: int) -> str:
    """Regular expression on the ``__archspec`` build string for CPUs of ``level`` or above."""
    names = sorted(name for name, found in levels(family).items() if found >= level)
    if not names:
        raise ConfigError(f"archspec knows no {family} CPU of level {level}.")
    return f"^({'|'.join(names)})$"
