"""Sums over ranks of one machine: ours in shared memory against gloo, and checked.

    python -m benchmarks.cpu.bench_all_reduce --ranks 2 [--json FILE]

One process a rank, each on cores of its own. Every size is timed in turn with gloo in the same run:
the median of 20 rounds of 10 calls. Exit status 1 where a sum of rank 0 is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import vllm_kernels  # noqa: F401  registers the ops

ops = torch.ops.vllm_kernels
SIZES = [1 << shift for shift in range(10, 27, 2)]  # bytes
DTYPES = (torch.bfloat16, torch.float32)
CALLS, ROUNDS = 10, 20


def _microseconds(call: Callable[[], object]) -> float:
    """Of one call, the rounds starting together."""
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(times)


def _measure(handle: int, dtype: torch.dtype, size: int, ranks: int) -> dict[str, Any]:
    ours = torch.ones(size // dtype.itemsize, dtype=dtype)
    gloo = ours.clone()
    ops.shm_allreduce(handle, ours)
    right = bool((ours == ranks).all())
    for x in (ours, gloo):
        x.zero_()  # sums of sums stay finite
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": size,
        "right": right,
        "ours_us": _microseconds(lambda: ops.shm_allreduce(handle, ours)),
        "gloo_us": _microseconds(lambda: dist.all_reduce(gloo)),
    }


def _rank(rank: int, ranks: int, meeting: str, out: str) -> None:
    cores = sorted(os.sched_getaffinity(0))
    own = cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks] or cores
    os.sched_setaffinity(0, own)
    torch.set_num_threads(len(own))
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    name = f"benchmark-{Path(meeting).parent.name}"
    handle = ops.init_shm_manager(name, ranks, rank, len(own))
    dist.barrier()
    ops.join_shm_manager(handle, name)
    rows = [_measure(handle, dtype, size, ranks) for dtype in DTYPES for size in SIZES]
    if rank == 0:
        Path(out).write_text(json.dumps({"ranks": ranks, "threads": len(own), "rows": rows}))
    dist.destroy_process_group()


def main() -> int:
    """Measure; 1 where a sum of rank 0 was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        arguments = (options.ranks, f"{folder}/meeting", str(out))
        mp.spawn(_rank, arguments, nprocs=options.ranks)  # type: ignore[attr-defined, no-untyped-call]
        figures = json.loads(out.read_text())
    for row in figures["rows"]:
        print(
            "{dtype:>9} {bytes:>9} B  ours {ours_us:9.1f} us  gloo {gloo_us:9.1f} us".format(**row)
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not all(row["right"] for row in figures["rows"]))


if __name__ == "__main__":
    sys.exit(main())
