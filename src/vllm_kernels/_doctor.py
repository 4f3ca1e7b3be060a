"""What is installed, what is in use, and what stands in the way."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from vllm_kernels import (
    _backends,
    _doctor_cuda,
    _doctor_flashinfer,
    _doctor_rocm,
    _libraries,
    _startup,
)
from vllm_kernels._doctor_cuda import CudaReport
from vllm_kernels._doctor_flashinfer import FlashinferReport
from vllm_kernels._doctor_rocm import RocmReport
from vllm_kernels._metadata import torch_minimum, version

ISA_VARIABLE = "VLLM_KERNELS_CPU_ISA"
# The engine's: which plugins it loads, all where it is not set; and ours among them.
_PLUGINS, _PLUGIN = "VLLM_PLUGINS", "vllm_kernels"
# OpenMP runtimes: two in one process are two thread pools that fight for the cores.
_OPENMP = ("libgomp", "libiomp5", "libomp")


@dataclass(frozen=True)
class LibraryReport:
    """One native library: where it lies, and whether it loads."""

    name: str
    path: str | None
    loaded: bool
    abi_version: int | None = None


@dataclass(frozen=True)
class CpuReport:
    """Tiers of the installed CPU kernels; `blocked` says why a tier cannot run."""

    active: str | None
    forced: str | None
    tiers: list[str]
    blocked: dict[str, str]
    features: dict[str, bool]


@dataclass(frozen=True)
class Report:
    """What ``python -m vllm_kernels`` prints. `problems` decides its exit code."""

    version: str
    python: str
    torch: str
    torch_minimum: str
    torch_cxx11_abi: bool
    libc: str
    backends: list[str]
    reference_ops: list[str]
    libraries: list[LibraryReport]
    cpu: CpuReport | None
    cuda: CudaReport | None
    rocm: RocmReport | None
    flashinfer: FlashinferReport | None
    openmp: list[str]
    shadowing: list[str]
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """The report as JSON types."""
        return asdict(self)


def mapped_libraries(maps: str) -> list[str]:
    """Distinct files of an OpenMP runtime in the text of ``/proc/self/maps``."""
    files: dict[tuple[str, str], str] = {}
    for line in maps.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) == 6 and Path(columns[5]).name.startswith(_OPENMP):
            files[columns[3], columns[4]] = columns[5]
    return sorted(files.values())


def _openmp() -> list[str]:
    try:
        return mapped_libraries(Path("/proc/self/maps").read_text())
    except OSError:
        return []


def _library_reports() -> list[LibraryReport]:
    return [_library_report(name) for name in _libraries.ALL]


def _library_report(name: str) -> LibraryReport:
    path = _libraries.find_library(name)
    if path is None:
        return LibraryReport(name, None, loaded=False)
    if name not in (_libraries.CORE, _libraries.CPU):
        loaded = os.path.realpath(path) in torch.ops.loaded_libraries
        return LibraryReport(name, str(path), loaded=loaded)
    try:
        return LibraryReport(
            name, str(path), loaded=True, abi_version=_libraries.Library(path).abi_version()
        )
    except _libraries.LoadError:
        return LibraryReport(name, str(path), loaded=False)


def _blocked(kernels: _libraries.CpuKernels, tiers: dict[str, bool]) -> dict[str, str]:
    """Why each tier that cannot run cannot. A refused request does not change the active tier."""
    reasons = {}
    for name, runnable in tiers.items():
        if not runnable:
            try:
                kernels.set_isa(name)
            except RuntimeError as refusal:
                reasons[name] = str(refusal)
    return reasons


def _cpu_report(problems: list[str]) -> CpuReport | None:
    try:
        features = _libraries.core().features()
        kernels = _libraries.cpu_kernels()
    except _libraries.LoadError:
        return None  # the start has reported it already
    active: str | None = None
    tiers: dict[str, bool] = {}
    blocked: dict[str, str] = {}
    if kernels:
        tiers = kernels.tiers()
        try:
            active = kernels.isa()
        except RuntimeError as error:
            problems.append(f"no CPU kernel can run: {error}")
        blocked = _blocked(kernels, tiers)
    forced = os.environ.get(ISA_VARIABLE) or None
    return CpuReport(active, forced, list(tiers), blocked, features)


def _problems() -> Iterator[str]:
    if error := _startup.error():
        yield str(error)
    if _release(torch.__version__) < _release(torch_minimum()):
        yield f"torch {torch.__version__} is older than {torch_minimum()}, which the kernels need"
    plugins = os.environ.get(_PLUGINS)
    if plugins is not None and _PLUGIN not in plugins.split(","):
        yield (
            f"{_PLUGINS}={plugins[:60]} does not name {_PLUGIN}: the engine runs without these "
            f'kernels, and one that has no others ends with "Device string must not be empty"; '
            f"add it, or unset {_PLUGINS}"
        )


def _release(text: str) -> tuple[int, ...]:
    """(2, 11) of "2.11.0a0+git"."""
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])


def diagnose() -> Report:
    """Examine the environment that this process runs in. Raises nothing of its own."""
    problems = list(_problems())
    cpu = _cpu_report(problems)
    cuda, cuda_problems = _doctor_cuda.examine()
    problems += cuda_problems
    rocm, rocm_problems = _doctor_rocm.examine()
    problems += rocm_problems
    flashinfer, flashinfer_problems = _doctor_flashinfer.examine()
    problems += flashinfer_problems
    shadowing = _doctor_cuda.shadowing()
    problems += shadowing
    openmp = _openmp()
    if len(openmp) > 1:
        problems.append(
            f"{len(openmp)} OpenMP runtimes are loaded ({', '.join(openmp)}): their threads "
            "compete for the cores"
        )
    return Report(
        version=version(),
        python=platform.python_version(),
        torch=torch.__version__,
        torch_minimum=torch_minimum(),
        torch_cxx11_abi=bool(torch.compiled_with_cxx11_abi()),
        libc=os.confstr("CS_GNU_LIBC_VERSION") or "no glibc",
        backends=[] if _startup.error() else list(_backends.backends()),
        reference_ops=list(_backends.reference_ops()),
        libraries=_library_reports(),
        cpu=cpu,
        cuda=cuda,
        rocm=rocm,
        flashinfer=flashinfer,
        openmp=openmp,
        shadowing=shadowing,
        problems=problems,
    )


def _cpu_lines(cpu: CpuReport) -> Iterator[str]:
    if cpu.tiers:
        forced = f" ({ISA_VARIABLE}={cpu.forced})" if cpu.forced else ""
        yield f"CPU tier      {cpu.active or 'none'}{forced}, of {', '.join(cpu.tiers)}"
        for reason in cpu.blocked.values():
            yield f"              {reason}"
    for word, wanted in (("offered", True), ("lacking", False)):
        names = [name for name, present in cpu.features.items() if present is wanted]
        if names:
            yield f"  {word:<11} {' '.join(names)}"


def text(report: Report) -> str:
    """The report for people, one fact a line."""
    backends = ", ".join(report.backends) or "none"
    lines = [
        f"vllm_kernels  {report.version}",
        f"Python        {report.python}, {report.libc}",
        f"torch         {report.torch} (>= {report.torch_minimum} wanted)",
        f"backends      {backends}",
    ]
    if report.reference_ops:
        lines.append(f"  references  {' '.join(report.reference_ops)}")
    for library in report.libraries:
        state = "" if library.loaded else " (not loaded)"
        lines.append(f"library       lib{library.name}.so: {library.path or 'not installed'}")
        lines[-1] += state if library.path else ""
    if report.cpu:
        lines += _cpu_lines(report.cpu)
    lines += _doctor_cuda.lines(report.cuda)
    lines += _doctor_rocm.lines(report.rocm)
    lines += _doctor_flashinfer.lines(report.flashinfer)
    lines.append(f"OpenMP        {', '.join(report.openmp) or 'none loaded'}")
    lines += [f"problem       {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("no problem found")
    return "\n".join(lines)
