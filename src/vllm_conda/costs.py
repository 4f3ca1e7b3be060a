"""What builds cost, as benchmarks/toolkit measures it and benchmarks/results/build records it.

Standard library only: the benchmarks of the kernels, whose environment has no more, share the file
format.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

# The name of the case that renders every job.
RENDERING = "render --all"


@dataclass(frozen=True)
class FamilyCost:
    """Compiling one kernel family for all architectures of a job.

    Attributes:
        files: Source files compiled.
        cpu_seconds: Processor time of all of them.
        longest_cpu_seconds: Processor time of the largest.
        memory_mib: Largest resident memory of one process.
    """

    files: int
    cpu_seconds: float
    longest_cpu_seconds: float
    memory_mib: int


@dataclass(frozen=True)
class Build:
    """One command that builds or renders, alone on a machine with ``cores`` cores.

    Attributes:
        name: The job, or what else was done.
        seconds: Wall clock of configuring, compiling and packaging each package, by name, or of
            the whole command.
        limit_seconds: What it may take.
        cpu_seconds: Processor time of all of it.
        memory_mib: Largest resident memory of one process.
        package_mib: Size of each package, by name.
        counts: How many things the command made, by name.
        families: Compiles of each kernel family.
    """

    name: str
    cores: int
    seconds: dict[str, float]
    limit_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_mib: int | None = None
    package_mib: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    families: dict[str, FamilyCost] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As a file of results has it."""
        return dataclasses.asdict(self)
