"""The build matrix: one job, and one variant file, per platform and CPU level or GPU slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vllm_conda.errors import ConfigError, UsageError, did_you_mean
from vllm_conda.packages import CPU as CPU
from vllm_conda.packages import CUDA as CUDA
from vllm_conda.packages import ROCM as ROCM
from vllm_conda.platforms import host_platform
from vllm_conda.targets import Targets
from vllm_cuda_plan.arch import Code, parse_code, parse_version
from vllm_cuda_plan.rocm import arch_version

CUDA_COMPILER = "cuda-nvcc"
# conda-forge's spelling of "no CUDA" on the axis cuda_compiler_version, and of "no HIP" on its kin.
NO_CUDA = "None"
ALL_SLICE = "all"
# On platforms without an engine: the recipe skips what serves, so it is in no output's variant.
ENGINE_KEY = "vllm_engine"
# As the channels that have ROCm's packages call it.
HIP_KEY = "hip_compiler_version"
ALL_PLATFORMS = "all"


@dataclass(frozen=True)
class Job:
    """One CI job: everything that one variant file builds.

    Attributes:
        level: CPU microarch level; of a GPU's job the platform's floor, which its host code has.
        cuda: CUDA version; empty for other jobs.
        slice: Name of the GPU slice; empty for jobs without CUDA.
        hip: Major version of HIP; empty for jobs without ROCm.
    """

    name: str
    platform: str
    device: str
    level: int
    cuda: str = ""
    slice: str = ""
    hip: str = ""

    @property
    def toolkit(self) -> str:
        """What the job compiles GPU code with: a CUDA version, or ``rocm``; empty without any."""
        return ROCM if self.device == ROCM else self.cuda

    @property
    def variant_file(self) -> str:
        return f"variants/{self.name}.yaml"

    @property
    def opt_in(self) -> bool:
        """Made for one kind of GPU, by whoever asks for it; no feedstock builds it."""
        return self.slice not in ("", ALL_SLICE)

    def axes(self) -> dict[str, str]:
        """What the job chooses on each axis, by variant key.

        Each job holds every axis, the ones that its packages do not depend on too: the recipe is
        one for all, and the lint shows that they reach no hash.
        """
        return {
            "microarch_level": str(self.level),
            "cuda_compiler_version": self.cuda or NO_CUDA,
            "cuda_slice": self.slice or ALL_SLICE,
            HIP_KEY: self.hip or NO_CUDA,
        }


def jobs(targets: Targets) -> list[Job]:
    """All jobs, platform by platform in the table's order: CPU, ROCm, CUDA."""
    found: list[Job] = []
    for platform, entry in targets.platforms.items():
        for level in entry.levels:
            march = entry.compiler_name(level)
            found.append(Job(f"{platform}-{CPU}-{march}", platform, CPU, level))
        if platform in targets.rocm.platforms:
            hip = targets.rocm.hip
            found.append(Job(f"{platform}-{ROCM}-{hip}", platform, ROCM, entry.levels[0], hip=hip))
        found += _cuda_jobs(targets, platform, entry.levels[0])
    return found


def _cuda_jobs(targets: Targets, platform: str, floor: int) -> Iterator[Job]:
    for version, toolkit in targets.cuda.toolkits.items():
        if platform in toolkit.platforms:
            for name in slices(targets, version, platform):
                job = f"{platform}-{CUDA}-{version}-{name}"
                yield Job(job, platform, CUDA, floor, version, name)


def variant_keys(targets: Targets, job: Job) -> dict[str, str]:
    """Every variant key of a job: its axes, what follows from them, and the compilers."""
    entry = targets.platforms[job.platform]
    # Lets the recipe tell the one job of several levels that makes what no level touches.
    keys = {**job.axes(), "microarch_floor": str(entry.levels[0]), "cuda_compiler": CUDA_COMPILER}
    if not entry.engine:
        keys[ENGINE_KEY] = "none"
    if job.device == CUDA:
        keys["cuda_arch_bound"] = arch_bound(targets, job)
        keys["cuda_driver_bound"] = driver_bound(targets, job)
        for name, package in targets.packages.items():
            if package.slice and makes_slice(targets, job, package.slice):
                alone = dataclasses.replace(job, slice=package.slice)
                keys[bound_key(name)] = arch_bound(targets, alone)
    if job.device == ROCM:
        keys["amdgpu_arch_bound"] = amdgpu_bound(targets)
    return {**keys, **dataclasses.asdict(entry.variant)}


def amdgpu_bound(targets: Targets) -> str:
    """Which ``__amdgpu_arch`` a ROCm job's packages run on: no code of one gfx target runs on
    another."""
    return "|".join(f"=={arch_version(name)}" for name in targets.rocm.archs)


def bound_key(package: str) -> str:
    """The variant key with the ``__cuda_arch`` of a package for one kind of GPU."""
    return f"{package.replace('-', '_')}_arch_bound"


def makes_slice(targets: Targets, job: Job, name: str) -> bool:
    """Whether a CUDA job makes a package that holds code for the slice ``name`` alone."""
    return job.slice in (ALL_SLICE, name) and name in slices(targets, job.cuda, job.platform)


def compiled_archs(targets: Targets, job: Job) -> tuple[str, ...]:
    """What a CUDA job is asked to compile."""
    own = targets.cuda.slices[job.slice].archs
    return own or targets.cuda.default_archs(job.cuda, job.platform)


def arch_bound(targets: Targets, job: Job) -> str:
    """Which ``__cuda_arch`` a CUDA job's packages run on: ``>=9.0,<9.1``."""
    lacking = [f"!={gpu}" for gpu in unserved_gpus(targets, job)]
    return ",".join([arch_range(targets, job), *lacking])


def arch_range(targets: Targets, job: Job) -> str:
    """From the lowest to the highest ``__cuda_arch`` of a CUDA job's packages."""
    lowest, below = _range(targets, job)
    return f">={lowest}" + (f",<{below}" if below else "")


def unserved_gpus(targets: Targets, job: Job) -> list[str]:
    """GPUs within a CUDA job's range that run nothing of it: systems on chip, mostly."""
    lowest, below = _range(targets, job)
    request = compiled_archs(targets, job)
    return [
        gpu
        for gpu in targets.cuda.gpus(job.platform)
        if parse_version(lowest) <= parse_version(gpu)
        and (not below or parse_version(gpu) < parse_version(below))
        and not targets.cuda.serves(request, gpu)
    ]


def driver_bound(targets: Targets, job: Job) -> str:
    """Which ``__cuda`` a CUDA job's packages run on: ``>=12``, ``>=12.8``.

    A driver runs every toolkit of its major version. So the oldest of a major asks for the major
    alone, and a newer one for a driver of its own version: an older driver has the older toolkit,
    which was made for it. But a GPU that only the newer one has code for asks for no newer driver
    than the first that knows the GPU.
    """
    version = parse_version(job.cuda)
    older = [
        other
        for other, toolkit in targets.cuda.toolkits.items()
        if job.platform in toolkit.platforms
        and parse_version(other)[0] == version[0]
        and parse_version(other) < version
    ]
    if not older:
        return f">={version[0]}"
    own = targets.cuda.default_archs(job.cuda, job.platform)
    known = [
        targets.cuda.archs[gpu].since
        for gpu in targets.cuda.gpus(job.platform)
        if targets.cuda.has_code(own, gpu)
        and not any(
            targets.cuda.has_code(targets.cuda.default_archs(other, job.platform), gpu)
            for other in older
        )
    ]
    return f">={min([job.cuda, *known], key=parse_version)}"


def _range(targets: Targets, job: Job) -> tuple[str, str]:
    piece = targets.cuda.slices[job.slice]
    capabilities = [_code(arch).capability for arch in compiled_archs(targets, job)]
    return piece.lowest or min(capabilities, key=parse_version), piece.below


def slices(targets: Targets, version: str, platform: str) -> list[str]:
    """Names of the slices that the toolkit ``version`` compiles, for GPUs of its list there."""
    cuda = targets.cuda
    listed = {_code(arch).capability for arch in cuda.default_archs(version, platform)}
    return [
        name
        for name, piece in cuda.slices.items()
        if (not piece.cuda or parse_version(piece.cuda) <= parse_version(version))
        and all(
            cuda.compiles(version, _code(arch)) and _code(arch).capability in listed
            for arch in piece.archs
        )
    ]


def _code(arch: str) -> Code:
    return parse_code(arch.removesuffix("+PTX"))


def default_jobs(targets: Targets) -> list[Job]:
    """What a build makes unless asked otherwise: this machine's platform, CPU.

    Raises:
        ConfigError: No platform of the table is this machine's.
    """
    subdir = host_platform()
    chosen = [job for job in jobs(targets) if (job.platform, job.device) == (subdir, CPU)]
    if not chosen:
        raise ConfigError(
            f"No packages are made for this machine's platform, {subdir}.",
            f"Choose with --variant. Platforms: {', '.join(targets.platforms)}.",
        )
    return chosen


def select(
    targets: Targets,
    names: Sequence[str] = (),
    *,
    platforms: Sequence[str] = (),
    devices: Sequence[str] = (),
    cuda: Sequence[str] = (),
    slices: Sequence[str] = (),
) -> list[Job]:
    """The jobs that all of the given filters let through; an empty filter lets everything.

    Raises:
        UsageError: A word that names no job, platform, device, CUDA version or slice, or filters
            that leave nothing.
    """
    every = jobs(targets)
    if ALL_PLATFORMS in platforms:
        platforms = ()
    _known("variant", names, [job.name for job in every])
    _known("platform", platforms, targets.platforms)
    _known("device", devices, targets.devices)
    for version in cuda:
        if version in targets.cuda.refused:
            raise UsageError(f"CUDA {version} cannot be used: {targets.cuda.refused[version]}.")
    _known("CUDA version", cuda, targets.cuda.toolkits)
    _known("slice", slices, targets.cuda.slices)
    chosen = [
        job
        for job in every
        if (not names or job.name in names)
        and (not platforms or job.platform in platforms)
        and (not devices or job.device in devices)
        and (not cuda or job.cuda in cuda)
        and (not slices or job.slice in slices)
    ]
    if not chosen:
        words = " ".join([*names, *platforms, *devices, *cuda, *slices])
        raise UsageError(f"No job is all of: {words}.", "See `vllm-conda matrix`.")
    return chosen


def _known(what: str, words: Iterable[str], choices: Iterable[str]) -> None:
    known = list(choices)
    for word in words:
        if word not in known:
            raise UsageError(
                f"Unknown {what} {word!r}.{did_you_mean(word, known)}",
                f"Known: {', '.join(known)}.",
            )
