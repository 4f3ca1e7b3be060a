"""Timing on a CPU: blocks of calls by the wall clock, or by the processor time of the process."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.cpuinfo import cpu_model
from benchmarks.harness.case import Call
from benchmarks.harness.timer import Contender, Effort
from benchmarks.record import Machine, slug

# Far more than any cache holds.
READ_BYTES = 1 << 28
CLOCKS: dict[str, Callable[[], int]] = {
    "wall": time.perf_counter_ns,
    "processor": time.process_time_ns,
}


class CpuContender:
    """Calls that are repeated until timer resolution and loop cost vanish in a block."""

    def __init__(self, call: Call, clock_ns: Callable[[], int], block_seconds: float) -> None:
        self._call = call
        self._clock_ns = clock_ns
        self.repeats = self._repeats(block_seconds)

    def sample(self) -> float:
        return self._seconds(self.repeats)

    def _seconds(self, repeats: int) -> float:
        begin = self._clock_ns()
        for _ in range(repeats):
            self._call()
        return (self._clock_ns() - begin) * 1e-9 / repeats

    def _repeats(self, block_seconds: float) -> int:
        for _ in range(3):
            self._call()
        repeats = 1
        while (taken := self._seconds(repeats) * repeats) < block_seconds / 2:
            repeats *= 2
        return max(1, round(repeats * block_seconds / taken))


class CpuTimer:
    """One set of tensors, which the caches may hold, as they hold a model's activations."""

    full = Effort(block_seconds=1.5e-3, min_blocks=7, max_blocks=41, seconds=0.25)
    quick = Effort(block_seconds=1.5e-3, min_blocks=3, max_blocks=11, seconds=0.05)

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock_ns = clock_ns

    def now(self) -> float:
        return self._clock_ns() * 1e-9

    def sets(self, bytes_moved: int | None) -> int:
        del bytes_moved
        return 1

    def contender(self, calls: Sequence[Call], effort: Effort) -> Contender:
        (call,) = calls
        return CpuContender(call, self._clock_ns, effort.block_seconds)

    def copy_bytes_per_s(self, effort: Effort) -> float | None:
        del effort
        return None

    def read_bytes_per_s(self, effort: Effort) -> float | None:
        """The largest rate of several: a dot product with itself does little but read."""
        numbers = torch.ones(READ_BYTES // torch.float32.itemsize)
        reading = CpuContender(lambda: torch.dot(numbers, numbers), self._clock_ns, 0.0)
        return READ_BYTES / min(reading.sample() for _ in range(effort.max_blocks))

    def machine(self, name: str) -> Machine:
        import vllm_kernels

        cpu, tier = cpu_model(), vllm_kernels.cpu_isa() or "reference"
        return Machine(
            slug(name.replace("{tier}", tier)) or slug(cpu, tier),
            cpu=cpu,
            cores=len(os.sched_getaffinity(0)),
            threads=torch.get_num_threads(),
            tier=tier,
        )

    def versions(self) -> dict[str, str]:
        return {"python": platform.python_version(), "torch": torch.__version__}

    def tidy(self) -> None:
        torch._dynamo.reset()
