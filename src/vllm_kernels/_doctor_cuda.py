"""The doctor's view of CUDA: driver, GPUs, which family serves them and why another does not."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vllm_kernels import _backends, _cuda, _driver, _libraries
from vllm_kernels._metadata import DISTRIBUTION

# Installed by pip into an environment of conda packages, these hide what conda installed.
_SHADOWING = ("torch", "vllm-kernels", "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12")


@dataclass(frozen=True)
class FamilyReport:
    """One kernel family.

    Attributes:
        library: Path of its library, or None.
        archs: What the library holds, such as ``8.0 9.0a 12.0+PTX``.
        gpus: For each GPU the code that runs there, or None.
        reason: Why it is not loaded; empty where it is.
        package: The package that it came with.
    """

    name: str
    title: str
    library: str | None
    archs: str
    loaded: bool
    gpus: list[str | None]
    reason: str
    package: str = _cuda.GENERAL


@dataclass(frozen=True)
class CudaReport:
    """vllm-kernels-cuda and the machine.

    Attributes:
        cuda: CUDA version that it was built with.
        torch_cuda: CUDA version of PyTorch, None for a CPU build.
        driver: Version of the NVIDIA driver, None without one.
        driver_cuda: Newest CUDA version that the driver serves.
        gpus: Name and compute capability of each GPU.
        unusable: Why nothing of it is in use; None where it is.
        runtimes: Files of libcudart in this process.
    """

    cuda: str
    summary: str
    torch_cuda: str | None
    driver: str | None
    driver_cuda: str | None
    gpus: list[dict[str, str]]
    unusable: str | None
    families: list[FamilyReport] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    runtimes: list[str] = field(default_factory=list)


def examine() -> tuple[CudaReport | None, list[str]]:
    """The report, None without vllm-kernels-cuda, and the problems. Raises nothing of its own."""
    try:
        installed = _cuda.build()
    except _libraries.LoadError as error:
        return None, [str(error)]
    if installed is None:
        return None, []
    driver = _driver.driver()
    families = [_family(one, driver) for one in installed.families.values()]
    runtimes = mapped_runtimes(_maps())
    report = CudaReport(
        cuda=installed.cuda,
        summary=str(installed.path),
        torch_cuda=torch.version.cuda,
        driver=driver.version if driver else None,
        driver_cuda=driver.cuda if driver else None,
        gpus=[{"name": g.name, "capability": g.capability} for g in driver.gpus] if driver else [],
        unusable=_cuda.unusable(),
        families=families,
        left_out=dict(installed.left_out),
        runtimes=runtimes,
    )
    return report, list(_problems(report))


def _family(family: _cuda.Family, driver: _driver.Driver | None) -> FamilyReport:
    path = _libraries.find_library(family.library)
    loaded = family.library in _backends.bindings()
    reason = ""
    if path is None:
        reason = f"lib{family.library}.so is missing; reinstall {family.package}"
    elif not loaded:
        backend = _backends.BACKEND_VARIABLE
        reason = _cuda.unusable() or _cuda.family_problem(family) or f"{backend} leaves it unused"
    gpus = [family.code_for(gpu.capability) for gpu in driver.gpus] if driver else []
    return FamilyReport(
        family.name,
        family.title,
        str(path) if path else None,
        family.content,
        loaded,
        gpus,
        reason,
        family.package,
    )


def _problems(report: CudaReport) -> Iterator[str]:
    # A machine without a GPU is no problem: a login node has the same packages as the compute
    # nodes.
    for problem in (_cuda.mismatch(), _cuda.old_driver()):
        if problem:
            yield f"no CUDA kernel can be used: {problem}"
    for family in report.families:
        if family.library is None:
            yield f"{family.name}: {family.reason}"
    for index, gpu in enumerate(report.gpus):
        if not any(family.gpus[index] for family in report.families):
            held = sorted({family.archs for family in report.families})
            yield (
                f"no installed CUDA kernel runs on GPU {index} ({gpu['name']}, "
                f"{gpu['capability']}): this build has {', '.join(held)}"
            )
    if len(report.runtimes) > 1:
        yield f"{len(report.runtimes)} CUDA run times are loaded ({', '.join(report.runtimes)})"


def _maps() -> str:
    try:
        return Path("/proc/self/maps").read_text()
    except OSError:
        return ""


def mapped_runtimes(maps: str) -> list[str]:
    """Distinct files of libcudart in the text of ``/proc/self/maps``."""
    files: dict[tuple[str, str], str] = {}
    for line in maps.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) == 6 and Path(columns[5]).name.startswith("libcudart.so"):
            files[columns[3], columns[4]] = columns[5]
    return sorted(files.values())


def shadowing() -> list[str]:
    """Sentences on pip's packages that hide conda's; none where pip installed this one too."""
    if _installer(DISTRIBUTION) != "conda":
        return []
    found = []
    for name in _SHADOWING:
        if _installer(name) == "pip":
            version = importlib.metadata.version(name)
            found.append(
                f"pip has installed {name} {version} over conda's packages; remove it with "
                f"`pip uninstall {name}` and install the conda package again"
            )
    return found


def _installer(name: str) -> str:
    try:
        text = importlib.metadata.distribution(name).read_text("INSTALLER")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return (text or "").strip()


def lines(report: CudaReport | None) -> Iterator[str]:
    """The report for people."""
    if report is None:
        return
    driver = "no NVIDIA driver"
    if report.driver:
        driver = f"driver {report.driver} (CUDA {report.driver_cuda})"
    yield f"CUDA          built with {report.cuda}, PyTorch with {report.torch_cuda}, {driver}"
    for index, gpu in enumerate(report.gpus):
        yield f"  GPU {index}       {gpu['name']}, {gpu['capability']}"
    if report.unusable:
        yield f"  not in use  {report.unusable}"
    for family in report.families:
        state = "loaded"
        if not family.loaded:
            state = "not loaded" + ("" if report.unusable else f": {family.reason}")
        owner = "" if family.package == _cuda.GENERAL else f" ({family.package})"
        yield f"  {family.name:<11} {family.archs}: {state}{owner}"
    for name, why in report.left_out.items():
        yield f"  {name:<11} not in this build: {why}"
