"""The packages that the recipe makes: the ``[packages]`` table of ``targets.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cattrs

from vllm_conda import generated

CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Package:
    """An output of the recipe.

    Attributes:
        device: The device whose kernels it holds and whose jobs make it; empty: every job makes it.
        slices: Jobs for one kind of GPU make it too.
        metapackage: For users who do not care which device.
    """

    device: str = ""
    slices: bool = True
    metapackage: bool = False


@cache
def table() -> Mapping[str, Package]:
    """Every package by its name, in the recipe's order."""
    return cattrs.structure(generated.read("packages"), dict[str, Package])


def of_device(device: str) -> str:
    """The package with the kernels of ``device``."""
    return next(name for name, entry in table().items() if entry.device == device)


def metapackage() -> str:
    """The package that chooses the device."""
    return next(name for name, entry in table().items() if entry.metapackage)
