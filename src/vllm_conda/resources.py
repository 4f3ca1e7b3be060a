"""What building a job takes of a machine: for CI's machines and for a cluster's scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_conda.costs import Build
from vllm_conda.feedstock_table import Runner
from vllm_conda.jobs import CUDA, Job
from vllm_conda.targets import Targets

# For the linker, packaging and the tests beside the compilers.
_BESIDE_MIB = 2048
_MIB = 1024


@dataclass(frozen=True)
class Resources:
    """What one job asks for.

    Attributes:
        cores: Processors, and compiles at once.
        memory_mib: Of all its processes together.
        minutes: After which it may be ended.
    """

    cores: int
    memory_mib: int
    minutes: int


def runner_name(targets: Targets, job: Job) -> str:
    """The CI machine that builds a job."""
    build_platform = targets.platforms[job.platform].cross_from or job.platform
    return targets.feedstock.devices[job.device].runner(job.platform, build_platform)


def compile_jobs(targets: Targets, job: Job) -> int:
    """Parallel compile jobs that the CI machine's cores and memory allow.

    A CUDA job counts with the family whose nvcc needs most; the build's own pools hold the
    families apart, this bounds them together.
    """
    machine = _runner(targets, job)
    if job.device != CUDA:
        return machine.cores
    return max(1, min(machine.cores, machine.memory_gib * _MIB // _largest_nvcc(targets)))


def resources(
    targets: Targets, job: Job, cost: Build | None, cores: int | None = None
) -> Resources:
    """What a task of a cluster asks for to build ``job``.

    Memory is that of the largest compiler process, as measured or as the families' tables say, once
    a core; where neither is known, the CI machine's, by core.

    Args:
        cost: What the job's build was measured to take.
        cores: Instead of the CI machine's.
    """
    machine = _runner(targets, job)
    count = cores or compile_jobs(targets, job)
    if cost is not None and cost.memory_mib:
        largest = cost.memory_mib
    elif job.device == CUDA:
        largest = _largest_nvcc(targets)
    else:
        largest = machine.memory_gib * _MIB // machine.cores
    minutes = targets.feedstock.devices[job.device].minutes
    return Resources(count, count * largest + _BESIDE_MIB, minutes)


def _runner(targets: Targets, job: Job) -> Runner:
    return targets.feedstock.runners[runner_name(targets, job)]


def _largest_nvcc(targets: Targets) -> int:
    return max(
        max([family.mib, *(part.mib for part in family.parts.values())])
        for family in targets.cuda.families.values()
    )
