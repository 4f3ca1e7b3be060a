"""The doctor's view of ROCm: GPUs, what is installed for them, and why it does not serve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from vllm_kernels import _amd, _backends, _libraries, _rocm


@dataclass(frozen=True)
class RocmReport:
    """vllm-kernels-rocm and the machine.

    Attributes:
        hip: HIP version that it was built with.
        torch_hip: HIP version of PyTorch, None for other builds.
        targets: gfx targets that it has code for.
        gpus: gfx target of each GPU; None where the kernel has no list of them.
        unusable: Why nothing of it is in use; None where it is.
        families: Each family, and whether its library is loaded.
        state: What is known of it: that it has never run.
        request: What whoever runs it is asked to do.
    """

    hip: str
    summary: str
    torch_hip: str | None
    targets: list[str]
    gpus: list[str] | None
    unusable: str | None
    state: str
    request: str
    families: dict[str, bool] = field(default_factory=dict)


def examine() -> tuple[RocmReport | None, list[str]]:
    """The report, None without vllm-kernels-rocm, and the problems. Raises nothing of its own."""
    try:
        installed = _rocm.build()
    except _libraries.LoadError as error:
        return None, [str(error)]
    if installed is None:
        return None, []
    gpus = _amd.gpus()
    loaded = _backends.bindings()
    report = RocmReport(
        hip=installed.hip,
        summary=str(installed.path),
        torch_hip=torch.version.hip,
        targets=list(installed.targets),
        gpus=None if gpus is None else [gpu.target for gpu in gpus],
        unusable=_rocm.unusable(),
        state=installed.state,
        request=installed.request,
        families={one.name: one.library in loaded for one in installed.families.values()},
    )
    return report, list(_problems(installed))


def _problems(installed: _rocm.Build) -> Iterator[str]:
    # As with CUDA, a machine without a GPU is no problem.
    for problem in (_rocm.mismatch(), _rocm.foreign_gpu()):
        if problem:
            yield f"no kernel for AMD GPUs can be used: {problem}"
    for family in installed.families.values():
        if _libraries.find_library(family.library) is None:
            yield f"{family.name}: lib{family.library}.so is missing; reinstall {_rocm.PACKAGE}"


def lines(report: RocmReport | None) -> Iterator[str]:
    """The report for people."""
    if report is None:
        return
    yield (
        f"ROCm          built with HIP {report.hip} for {' '.join(report.targets)}, PyTorch with "
        f"{report.torch_hip}"
    )
    yield f"              {report.state}: {report.request}"
    for index, gpu in enumerate(report.gpus or []):
        yield f"  GPU {index}       {gpu}"
    if report.unusable:
        yield f"  not in use  {report.unusable}"
    for name, loaded in report.families.items():
        yield f"  {name:<11} {'loaded' if loaded else 'not loaded'}"
