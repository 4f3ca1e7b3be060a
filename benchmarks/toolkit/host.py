"""The machine that builds."""

from __future__ import annotations

import os
import platform

from benchmarks.cpuinfo import cpu_model
from benchmarks.record import Machine, slug


def machine() -> Machine:
    """What the cost of a build depends on; nothing that identifies the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu, cores = cpu_model(), os.cpu_count() or 1
    return Machine(slug(cpu), cpu=cpu, cores=cores, memory_gib=round(memory))


def versions() -> dict[str, str]:
    return {"python": platform.python_version()}
