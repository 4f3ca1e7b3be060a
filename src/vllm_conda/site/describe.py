"""The machine at hand as a site file with one node type."""

from __future__ import annotations

from vllm_conda import platforms
from vllm_conda.errors import UsageError
from vllm_conda.site.model import SCHEMA
from vllm_conda.site.virtual import AMDGPU_ARCH, ARCHSPEC, CUDA, CUDA_ARCH, GLIBC, LINUX
from vllm_conda.solve import virtual_packages
from vllm_cuda_plan.rocm import arch_name


def describe_machine() -> str:
    """A site file of what py-rattler detects here, ``CONDA_OVERRIDE_*`` included.

    Raises:
        UsageError: Not a Linux machine of a supported platform.
    """
    platform = platforms.host_platform()
    if platform not in platforms.table():
        raise UsageError(
            f"This machine is {platform}, node types are {', '.join(platforms.table())}.",
            "Run it on the node.",
        )
    found = {package.name.normalized: package for package in virtual_packages()}
    lines = [f"schema: {SCHEMA}", "site: here", "", "nodes:", "  this-node:", "    role: compute"]
    lines.append(f"    platform: {platform}")
    for key, name in (("glibc", GLIBC), ("linux", LINUX)):
        if name in found:
            lines.append(f"    {key}: {found[name].version}")
    if ARCHSPEC in found:
        lines.append(f"    archspec: {found[ARCHSPEC].build_string}")
    if CUDA in found and CUDA_ARCH in found:
        lines.append(f"    cuda: {found[CUDA].version}")
        lines.append("    # The lowest of this machine; name every kind of GPU in it.")
        lines.append(f"    cuda_arch: [{found[CUDA_ARCH].version}]")
    elif CUDA in found or CUDA_ARCH in found:
        here, missing = (CUDA, CUDA_ARCH) if CUDA in found else (CUDA_ARCH, CUDA)
        lines.append(
            f"    # A node without GPU: {here} is {found[here].version}, but {missing} is unknown."
        )
        lines.append(f"    # Set CONDA_OVERRIDE_{missing.strip('_').upper()} too.")
    if AMDGPU_ARCH in found:
        lines.append(f"    amdgpu: {arch_name(str(found[AMDGPU_ARCH].version))}")
    return "\n".join(lines) + "\n"
