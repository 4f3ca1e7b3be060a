"""The build matrix for people and for CI: what each job makes, and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs
from cattrs.errors import BaseValidationError

from vllm_conda.costs import RENDERING, Build
from vllm_conda.errors import ConfigError, reason
from vllm_conda.jobs import (
    CPU,
    CUDA,
    ROCM,
    Job,
    arch_bound,
    compiled_archs,
    driver_bound,
    jobs,
    makes_slice,
)
from vllm_conda.structure import load_json
from vllm_conda.targets import Targets
from vllm_cuda_plan.rocm import arch_version

COSTS_FILE = Path("benchmarks/results/build/jobs.json")
COSTS_COMMAND = "python -m benchmarks.toolkit.bench_jobs"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Costs:
    """What benchmarks/toolkit/bench_jobs.py has measured.

    Attributes:
        machine: Its properties, as words.
        jobs: Builds by job.
        render: Rendering all jobs by one process.
    """

    machine: str = ""
    jobs: Mapping[str, Build] = field(default_factory=dict)
    render: Build | None = None


@dataclass(frozen=True)
class Row:
    """One job of the matrix.

    Attributes:
        builds_for: Tiers of a CPU job, GPU architectures of a CUDA or ROCm job.
        runs_on: What the solver asks of the machine.
        cost: None where nobody measured it.
    """

    job: Job
    march: str
    builds_for: tuple[str, ...]
    runs_on: str
    packages: tuple[str, ...]
    cost: Build | None

    def document(self) -> dict[str, Any]:
        """The row as ``vllm-conda matrix --json`` prints it."""
        return {
            **dataclasses.asdict(self.job),
            "march": self.march,
            "builds_for": list(self.builds_for),
            "runs_on": self.runs_on,
            "packages": list(self.packages),
            "opt_in": self.job.opt_in,
            "variant_file": self.job.variant_file,
            "cost": dataclasses.asdict(self.cost) if self.cost else None,
        }


def packages(targets: Targets, job: Job) -> tuple[str, ...]:
    """Names of the packages that a job makes; the lint compares them with the rendered ones."""
    return tuple(
        name
        for name, entry in targets.packages.items()
        if entry.device in ("", job.device)
        and (not entry.chooses or job.device in entry.chooses)
        and (entry.slices or not job.opt_in)
        and (not entry.serves or targets.platforms[job.platform].engine)
        and (not entry.slice or makes_slice(targets, job, entry.slice))
    )


def load_costs(root: Path) -> Costs:
    """Read what was measured; nothing where there is no file.

    Raises:
        ConfigError: The file is malformed.
    """
    path = root / COSTS_FILE
    if not path.is_file():
        return Costs()
    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        document = load_json(path.read_bytes())
        cases = {case.name: case for case in converter.structure(document["cases"], list[Build])}
        machine = document["machine"]
        words = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory"
        return Costs(words, cases, cases.pop(RENDERING, None))
    except (ValueError, TypeError, LookupError, BaseValidationError) as error:
        raise ConfigError(
            f"{COSTS_FILE} is not what {COSTS_COMMAND} writes: {reason(error)}.", "Measure again."
        ) from None


def rows(targets: Targets, costs: Costs, chosen: Sequence[Job] | None = None) -> Iterator[Row]:
    """Rows of the chosen jobs, or of all."""
    for job in jobs(targets) if chosen is None else chosen:
        platform = targets.platforms[job.platform]
        march = platform.compiler_name(job.level)
        if job.device == CUDA:
            builds_for = compiled_archs(targets, job)
            driver, arch = driver_bound(targets, job), arch_bound(targets, job)
            runs_on = f"__cuda {driver}, __cuda_arch {arch}"
        elif job.device == ROCM:
            builds_for = targets.rocm.archs
            versions = " or ".join(arch_version(name) for name in builds_for)
            runs_on = f"__amdgpu, __amdgpu_arch {versions}"
        else:
            builds_for, runs_on = targets.level(platform.family, job.level).tiers, march
        yield Row(job, march, builds_for, runs_on, packages(targets, job), costs.jobs.get(job.name))


def cost_words(cost: Build | None) -> tuple[str, str]:
    """Time and memory of a job, for tables; the wall clock says what else the machine did."""
    if cost is None or cost.cpu_seconds is None:
        return NOT_MEASURED, NOT_MEASURED
    seconds = sum(cost.seconds.values())
    times = f"{seconds:.0f} s on {cost.cores} cores, {cost.cpu_seconds:.0f} s of processor time"
    return times, f"{cost.memory_mib} MiB"


def table(found: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines of the matrix as a table."""
    head = ("job", "builds for", "runs on", "packages", "processor time", "largest process")
    lines: list[tuple[str, ...]] = [
        (
            row.job.name,
            " ".join(row.builds_for),
            row.runs_on,
            " ".join(row.packages),
            *cost_words(row.cost),
        )
        for row in found
    ]
    return head, lines


def family_table(cost: Build) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines of what each kernel family of a job cost to compile."""
    head = ("family", "files", "processor time", "of the largest file", "largest process")
    rows = [
        (
            f"`{name}`",
            str(one.files),
            f"{one.cpu_seconds:.0f} s",
            f"{one.longest_cpu_seconds:.0f} s",
            f"{one.memory_mib} MiB",
        )
        for name, one in cost.families.items()
    ]
    total = sum(one.cpu_seconds for one in cost.families.values())
    files = sum(one.files for one in cost.families.values())
    return head, [*rows, ("all", str(files), f"{total:.0f} s", "", f"{cost.memory_mib} MiB")]


def summary(targets: Targets, costs: Costs) -> Mapping[str, str]:
    """Figures above the table in the documentation."""
    every = jobs(targets)
    found = {
        "jobs": str(len(every)),
        "CPU jobs": str(sum(job.device == CPU for job in every)),
        "CUDA jobs": str(sum(job.device == CUDA for job in every)),
        "ROCm jobs": str(sum(job.device == ROCM for job in every)),
        "platforms": ", ".join(targets.platforms),
    }
    if costs.render:
        counts = ", ".join(f"{number} {what}" for what, number in costs.render.counts.items())
        seconds = sum(costs.render.seconds.values())
        found["rendering all jobs"] = f"{seconds:.2f} s ({counts})"
    return found
