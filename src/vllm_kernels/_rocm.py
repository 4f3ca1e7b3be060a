"""The kernel families for AMD GPUs: which are installed, and why they do not serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from vllm_kernels import _amd, _libraries

PACKAGE = "vllm-kernels-rocm"
# Written by vllm_cuda_plan.rocm beside the libraries.
SUMMARY = "rocm.json"
PREFIX = "vllm_kernels_rocm_"
_SCHEMA = 1


@dataclass(frozen=True)
class Family:
    """One installed family."""

    name: str
    title: str

    @property
    def library(self) -> str:
        return PREFIX + self.name


@dataclass(frozen=True)
class Build:
    """What is installed, as its summary says.

    Attributes:
        hip: Version of HIP that it was built with.
        targets: gfx targets that every library has code for; that of one runs on no other.
        state: What is known of it: that it has never run.
        report: Address of the sources, where to say how it went; empty where nobody named one.
    """

    path: Path
    hip: str
    targets: tuple[str, ...]
    state: str
    report: str
    families: Mapping[str, Family]

    @property
    def request(self) -> str:
        """What whoever runs it is asked to do."""
        place = f"at {self.report}" if self.report else "to whoever made the package"
        return f"say how it went {place}"


@lru_cache(maxsize=1)
def build() -> Build | None:
    """What is installed, or None. LoadError where the summary cannot be read."""
    paths = (folder / SUMMARY for folder in _libraries.library_dirs())
    path = next((one for one in paths if one.is_file()), None)
    return None if path is None else _libraries.read_summary(path, _SCHEMA, PACKAGE, _parse)


def _parse(path: Path, data: dict[str, Any]) -> Build:
    families = {name: Family(name, one["title"]) for name, one in data["families"].items()}
    targets = tuple(data["targets"])
    return Build(path, data["hip"], targets, data["state"], data["report"], families)


def mismatch() -> str | None:
    """Why the installed packages do not go together, one clause; None where they do."""
    installed = build()
    if installed is None:
        return None
    if torch.version.hip is None:
        return (
            f"PyTorch {torch.__version__} was built without ROCm; install a ROCm build of pytorch"
        )
    if _major(torch.version.hip) != _major(installed.hip):
        return (
            f"{PACKAGE} was built with HIP {installed.hip} and PyTorch with {torch.version.hip}; "
            "both must be of one major version"
        )
    return None


def _major(version: str) -> str:
    return version.partition(".")[0]


def no_gpu() -> str | None:
    """Why this process sees no GPU, one clause; None where it sees one, or nobody can tell."""
    if variable := _amd.hidden():
        return f"{variable} hides every GPU"
    if _amd.gpus() == ():
        return "the amdgpu driver finds no GPU"
    return None


def foreign_gpu() -> str | None:
    """Why the libraries serve none of the GPUs here, one clause; None where they serve one."""
    installed, gpus = build(), _amd.gpus()
    if installed is None or not gpus or any(gpu.target in installed.targets for gpu in gpus):
        return None
    return f"this build has {' '.join(installed.targets)}; this GPU is {gpus[0].target}"


def unusable() -> str | None:
    """Why no kernel can be used in this process, one clause; None where they can."""
    if build() is None:
        return f"{PACKAGE} is not installed; it has never run on a GPU"
    return mismatch() or no_gpu() or foreign_gpu()


def reason(name: str) -> str:
    """Why the family ``name`` is not in use, for messages."""
    if why := unusable():
        return why
    installed = build()
    if installed is None or name not in installed.families:
        return f"{name}: is made of NVIDIA's instructions, and has no kernels for AMD GPUs"
    return f"{name}: has no kernel for this op"


def wanted() -> list[Family]:
    """The families to load."""
    installed = build()
    return [] if installed is None or unusable() else list(installed.families.values())
