"""Architectures as people write them.

Two spellings are in use: PyTorch's (``8.6``, ``9.0a``, ``12.0+PTX``, ``Hopper``) and CMake's
(``86-real``, ``90a-real``, ``120-virtual``, ``86`` for both).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_CODE = re.compile(r"(\d+)\.(\d)([af]?)")
_PYTORCH = re.compile(r"(\d+\.\d[af]?)(\+PTX)?", re.IGNORECASE)
_CMAKE = re.compile(r"(\d+)(\d)([af]?)(-real|-virtual)?")


@cache
def parse_version(text: str) -> tuple[int, int]:
    """(12, 4) of ``12.4``; later components are dropped. ValueError for anything else.

    Tables, plans and messages keep versions as they are written. Each is read once.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)*", text)
    if match is None:
        raise ValueError(f"{text!r} is no version")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Code:
    """Machine code for a capability: plain, ``a`` (it alone) or ``f`` (its family)."""

    capability: str
    suffix: str = ""

    def __str__(self) -> str:
        return self.capability + self.suffix

    @property
    def number(self) -> str:
        """``90a`` of 9.0a, as nvcc spells it."""
        return self.capability.replace(".", "") + self.suffix

    @property
    def rank(self) -> tuple[tuple[int, int], int]:
        """Orders by capability, then by how much of the hardware the code may use for how many."""
        return parse_version(self.capability), ("", "a", "f").index(self.suffix)


def parse_code(text: str) -> Code:
    """Read ``9.0a``. ValueError for anything else."""
    match = _CODE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no architecture, want one such as 8.0 or 9.0a")
    return Code(f"{int(match[1])}.{match[2]}", match[3])


@dataclass(frozen=True)
class Wish:
    """One entry of a request: machine code, PTX, or both."""

    code: Code
    real: bool
    ptx: bool


def parse_wish(text: str) -> Wish:
    """Read one entry in either spelling. ValueError for anything else."""
    if match := _PYTORCH.fullmatch(text):
        return Wish(parse_code(match[1].lower()), real=True, ptx=match[2] is not None)
    if (match := _CMAKE.fullmatch(text)) and len(text) > 1:
        code = Code(f"{int(match[1])}.{match[2]}", match[3])
        kind = match[4]
        # CMake compiles both for a bare number, but PTX of `a` and `f` code runs nowhere else.
        ptx = kind == "-virtual" or (kind is None and not match[3])
        return Wish(code, real=kind != "-virtual", ptx=ptx)
    raise ValueError(
        f"{text!r} is no architecture, want PyTorch's spelling (8.6, 9.0a, 12.0+PTX) or CMake's "
        "(86-real, 90a-real, 120-virtual)"
    )
