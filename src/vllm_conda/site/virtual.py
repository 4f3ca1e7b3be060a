"""Virtual packages of a node type: what the solver is told about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rattler import GenericVirtualPackage, PackageName, Version
from rattler.package.build_string import BuildString

from vllm_conda.site.model import Node
from vllm_cuda_plan.rocm import arch_version

# archspec has no name with a plus sign, so that what replaces other characters stays unknown to it.
_NO_BUILD_STRING = re.compile(r"[^A-Za-z0-9_.+]")

# Name -> version, for __archspec the CPU's name.
Machine = Mapping[str, str]

AMDGPU = "__amdgpu"
AMDGPU_ARCH = "__amdgpu_arch"
ARCHSPEC = "__archspec"
CUDA = "__cuda"
CUDA_ARCH = "__cuda_arch"
GLIBC = "__glibc"
LINUX = "__linux"
# By vendor: that there is a GPU, and which.
GPUS = ((CUDA, CUDA_ARCH), (AMDGPU, AMDGPU_ARCH))


def machine_of(node: Node) -> dict[str, str]:
    """``__cuda_arch`` is the lowest of a mixed node's GPUs; an undeclared kernel is version 0."""
    found = {
        "__unix": "0",
        LINUX: (node.linux or "0").partition("-")[0],
        GLIBC: node.glibc,
        ARCHSPEC: _NO_BUILD_STRING.sub("+", node.archspec),
    }
    if node.cuda and node.lowest_arch:
        found |= {CUDA: node.cuda, CUDA_ARCH: node.lowest_arch}
    if node.amdgpu:  # presence alone has a version, 0
        found |= {AMDGPU: "0", AMDGPU_ARCH: arch_version(node.amdgpu)}
    return found


def package(name: str, value: str) -> GenericVirtualPackage:
    version, build = ("1", value) if name == ARCHSPEC else (value, "0")
    return GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))


def packages(
    machine: Machine, opened: Mapping[str, Iterable[str]] | None = None
) -> list[GenericVirtualPackage]:
    """What the solver gets; a property in ``opened`` may have any of the values there."""
    found = []
    for name, value in machine.items():
        if name not in (opened or {}):
            found.append(package(name, value))
    for name, values in (opened or {}).items():
        found += [package(name, value) for value in dict.fromkeys(values)]
    return found


def spec(name: str, value: str) -> str:
    """As lock files and `--json` write it."""
    return f"{name}=1={value}" if name == ARCHSPEC else f"{name}={value}=0"
