"""Timing on a GPU: CUDA graphs of many calls, between events.

Graphs, so that what is timed is the GPU's work and not Python's. Calls rotate over as many sets of
tensors as do not fit in the L2 cache together, as a model's layers do.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks.harness.case import Call
from benchmarks.harness.timer import Contender, Effort
from benchmarks.record import Machine, slug

MAX_SETS = 16
COPIED_BYTES = 1 << 30
# Until the clocks have settled.
WARM_UP_SECONDS = 0.05


def _seconds(run: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()  # while the GPU is busy with it, what is measured is launched
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


class CudaContender:
    """A graph that runs the calls of all sets in turn."""

    def __init__(self, calls: Sequence[Call], effort: Effort) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up where graphs are captured: compilation, autotuning
            for call in calls:
                for _ in range(3):
                    call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        once = self._capture(calls)
        once.replay()
        taken = min(_seconds(once.replay) for _ in range(3))
        rounds = max(1, round(effort.block_seconds / max(taken, 1e-9)))
        self._calls = rounds * len(calls)
        self._graph = once if rounds == 1 else self._capture([*calls] * rounds)
        settled = time.perf_counter() + WARM_UP_SECONDS
        while time.perf_counter() < settled:
            self._graph.replay()
            torch.cuda.synchronize()

    @staticmethod
    def _capture(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph

    def sample(self) -> float:
        return _seconds(self._graph.replay) / self._calls


class CudaTimer:
    """The yardstick of traffic is the faster of two copies in the same run, the driver's and a
    kernel's."""

    full = Effort(block_seconds=3e-3, min_blocks=21, max_blocks=21, seconds=0)
    quick = Effort(block_seconds=1.5e-3, min_blocks=7, max_blocks=7, seconds=0)

    def now(self) -> float:
        return time.perf_counter()

    def sets(self, bytes_moved: int | None) -> int:
        l2 = torch.cuda.get_device_properties().L2_cache_size
        return min(MAX_SETS, max(1, -(-3 * l2 // max(1, bytes_moved or 3 * l2))))

    def contender(self, calls: Sequence[Call], effort: Effort) -> Contender:
        return CudaContender(calls, effort)

    def copy_bytes_per_s(self, effort: Effort) -> float | None:
        source = torch.empty(COPIED_BYTES // 4, dtype=torch.float32, device="cuda").normal_()
        target = torch.empty_like(source)
        ways: list[Call] = [lambda: target.copy_(source), lambda: torch.neg(source, out=target)]
        contenders = [CudaContender([way], effort) for way in ways]
        samples = [[way.sample() for way in contenders] for _ in range(effort.min_blocks)]
        medians = [statistics.median(column) for column in zip(*samples, strict=True)]
        return 2 * COPIED_BYTES / min(medians)

    def read_bytes_per_s(self, effort: Effort) -> float | None:
        del effort
        return None  # the copy is the yardstick

    def machine(self, name: str) -> Machine:
        gpu = torch.cuda.get_device_properties()
        return Machine(
            name or slug(gpu.name),
            gpu=gpu.name,
            capability=f"{gpu.major}.{gpu.minor}",
            multiprocessors=gpu.multi_processor_count,
        )

    def versions(self) -> dict[str, str]:
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "",
        }

    def tidy(self) -> None:
        torch.cuda.empty_cache()
