"""The CUDA kernel families: which are installed, which serve this machine's GPUs, and why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from vllm_kernels import _driver, _libraries

# Written by vllm_cuda_plan beside the libraries, one a package: cuda.json of the general one,
# cuda-flashmla.json and the like of those with single families.
SUMMARIES = "cuda*.json"
GENERAL = "vllm-kernels-cuda"
_SCHEMA = 1
PREFIX = "vllm_kernels_cuda_"


@dataclass(frozen=True)
class Family:
    """One installed family.

    Attributes:
        archs: Machine code in the library (``9.0a``).
        ptx: Capabilities that it has PTX of, which newer GPUs' drivers compile.
        serves: Capabilities known to the build, and the code that runs there.
        package: The package that it came with.
    """

    name: str
    title: str
    archs: tuple[str, ...]
    ptx: tuple[str, ...]
    serves: Mapping[str, str]
    package: str = GENERAL

    @property
    def library(self) -> str:
        return PREFIX + self.name

    def code_for(self, capability: str) -> str | None:
        """What would run on a GPU of ``capability``: ``9.0a``, ``PTX 12.0``, or None."""
        if not self.archs and not self.ptx:
            return "any"  # no GPU code of its own
        if code := self.serves.get(capability):
            return code
        newer = [base for base in self.ptx if _numbers(base) <= _numbers(capability)]
        return f"PTX {newer[-1]}" if newer else None

    @property
    def content(self) -> str:
        """``8.0 9.0a``, and PTX as PyTorch spells it; ``any`` for host code alone."""
        if not self.archs and not self.ptx:
            return "any"
        words = [f"{arch}+PTX" if arch in self.ptx else arch for arch in self.archs]
        return " ".join([*words, *(f"{a}+PTX" for a in self.ptx if a not in self.archs)])


@dataclass(frozen=True)
class Build:
    """What is installed, as the summaries say: the general package and those of single families.

    Attributes:
        path: The first package's summary; ``cuda`` and ``driver`` are its own too.
        packages: CUDA version of each package.
        left_out: Families that none of them holds, and why.
    """

    path: Path
    cuda: str
    driver: str
    families: Mapping[str, Family]
    left_out: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@lru_cache(maxsize=1)
def build() -> Build | None:
    """What is installed, or None. LoadError where a summary cannot be read."""
    paths: dict[str, Path] = {}
    for folder in _libraries.library_dirs():
        for path in folder.glob(SUMMARIES):
            paths.setdefault(path.stem, path)
    if not paths:
        return None
    found = [
        _libraries.read_summary(paths[stem], _SCHEMA, GENERAL, _parse) for stem in sorted(paths)
    ]
    families = {name: family for one in found for name, family in one.families.items()}
    return dataclasses.replace(
        found[0],
        families=families,
        left_out={
            name: why
            for one in reversed(found)
            for name, why in one.left_out.items()
            if name not in families
        },
        packages={name: cuda for one in found for name, cuda in one.packages.items()},
    )


def _parse(path: Path, data: dict[str, Any]) -> Build:
    package = data.get("package", GENERAL)
    families = {
        name: Family(
            name,
            entry["title"],
            tuple(entry["archs"]),
            tuple(entry["ptx"]),
            entry["serves"],
            package,
        )
        for name, entry in data["families"].items()
    }
    held = {package: data["cuda"]}
    return Build(path, data["cuda"], data["driver"], families, data["left_out"], held)


def mismatch() -> str | None:
    """Why the installed packages do not go together, one clause; None where they do."""
    installed = build()
    if installed is None:
        return None
    if torch.version.cuda is None:
        return (
            f"PyTorch {torch.__version__} was built without CUDA; install a CUDA build of pytorch"
        )
    for package, cuda in installed.packages.items():
        if _numbers(torch.version.cuda)[0] != _numbers(cuda)[0]:
            return (
                f"{package} was built with CUDA {cuda} and PyTorch with {torch.version.cuda}; "
                "both must be of one major version"
            )
    return None


def no_gpu() -> str | None:
    """Why this process sees no GPU, one clause; None where it sees one, or nobody can tell."""
    if not _driver.has_cuda():
        return "this machine has no NVIDIA driver (libcuda.so.1)"
    if _driver.hidden():
        return f"{_driver.VISIBLE_VARIABLE} hides every GPU"
    driver = _driver.driver()  # without NVML, only a launch will tell
    if driver is not None and not driver.gpus:
        return f"the NVIDIA driver ({driver.version}) finds no GPU"
    return None


def old_driver() -> str | None:
    """Why the driver does not run the installed build, one clause; None where it does."""
    installed, driver = build(), _driver.driver()
    if installed is None or driver is None:
        return None
    if _numbers(driver.cuda)[0] >= _numbers(installed.cuda)[0]:
        return None
    return (
        f"the NVIDIA driver {driver.version} serves CUDA {driver.cuda} at most, and CUDA "
        f"{installed.cuda} needs driver {installed.driver} or newer"
    )


def unusable() -> str | None:
    """Why no CUDA kernel can be used in this process, one clause; None where they can."""
    if build() is None:
        return (
            "vllm-kernels-cuda is not installed; install it with `conda install vllm-kernels-cuda`"
        )
    return mismatch() or no_gpu() or old_driver()


def family_problem(family: Family) -> str | None:
    """Why the family's library serves none of the GPUs here; None where it does serve one."""
    driver = _driver.driver()
    if driver is None:
        return None
    problems = [_gpu_problem(family, gpu, driver) for gpu in driver.gpus]
    return None if None in problems else problems[0]


def _gpu_problem(family: Family, gpu: _driver.Gpu, driver: _driver.Driver) -> str | None:
    code = family.code_for(gpu.capability)
    if code is None:
        return f"this build has {family.content}; this GPU is {gpu.capability} ({gpu.name})"
    installed = build()
    if code.startswith("PTX") and installed and _numbers(driver.cuda) < _numbers(installed.cuda):
        return (
            f"this build has {family.content}; this GPU is {gpu.capability} ({gpu.name}), which "
            f"needs a driver for CUDA {installed.cuda} to compile the PTX, and driver "
            f"{driver.version} serves {driver.cuda}"
        )
    return None


def reason(name: str) -> str:
    """Why the family ``name`` is not in use, for messages."""
    if why := unusable():
        return why
    installed = build()
    if installed is None or name not in installed.families:
        why = installed.left_out.get(name, "has no kernels in this version") if installed else ""
        return f"{name}: left out of this build: it {why}"
    family = installed.families[name]
    return f"{name}: {family_problem(family) or 'has no kernel for this op'}"


def wanted() -> list[Family]:
    """The families to load: those with code for a GPU of this machine."""
    installed = build()
    if installed is None or unusable():
        return []
    return [family for family in installed.families.values() if family_problem(family) is None]
