"""The packages that the recipe makes: the ``[packages]`` table of ``targets.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cattrs

from vllm_conda import generated

CPU, CUDA, ROCM = "cpu", "cuda", "rocm"
# Upstream's modules, compiled by us: of a recipe of its own (recipe/flashinfer).
FLASHINFER = "vllm-flashinfer"


@dataclass(frozen=True)
class Package:
    """An output of the recipe.

    Attributes:
        device: The device whose kernels it holds or brings, and whose jobs make it; empty: every
            job makes it.
        slices: Jobs for one kind of GPU make it too.
        slice: It holds code for this kind of GPU alone, whichever job makes it: one for all GPUs or
            for this kind.
        chooses: A metapackage for users who do not care which device: those that it chooses among,
            whose jobs make it.
        serves: It brings the engine too, so only platforms that have one get it.
    """

    device: str = ""
    slices: bool = True
    slice: str = ""
    chooses: tuple[str, ...] = ()
    serves: bool = False

    @property
    def compiled(self) -> bool:
        """Whether it holds kernels, and so differs from level to level of its device."""
        return bool(self.device) and not self.serves


@cache
def table() -> Mapping[str, Package]:
    """Every package by its name, in the recipe's order."""
    return cattrs.structure(generated.read("packages"), dict[str, Package])


def ours(name: str) -> bool:
    """Whether we compile what the package ``name`` holds, or choose it."""
    return name in table() or name == FLASHINFER


def of_device(device: str) -> str:
    """The package with the kernels of ``device``."""
    return _find(device, serves=False)


def serving(device: str) -> str:
    """The package that brings the engine and the kernels of ``device``; empty: none does."""
    return _find(device, serves=True)


def kernels_of(name: str) -> str:
    """The kernels that the package ``name`` brings beside the engine; empty: it brings none."""
    entry = table().get(name, Package())
    return of_device(entry.device) if entry.serves else ""


def _find(device: str, serves: bool) -> str:
    found = (name for name, one in table().items() if (one.device, one.serves) == (device, serves))
    return next(found, "")


def metapackage() -> str:
    """The package that chooses the device."""
    return next(name for name, entry in table().items() if entry.chooses)
