"""Sums over GPUs: ours against NCCL, checked against float64, in CUDA graphs and outside.

    python -m benchmarks.cuda.bench_all_reduce --ranks 2 [--checks 10000] [--json FILE]

One process a GPU. Every size and dtype is timed in turn with NCCL in the same run: a graph of 20
calls, the median of 20 replays; outside of graphs 20 calls between two events. NVLink multicast
(NVLS) is off. Exit status 1 where a sum is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import vllm_kernels  # noqa: F401  registers the ops

ops = torch.ops.vllm_kernels
LARGEST = 64 << 20
SIZES = [1 << shift for shift in range(10, 27)]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CALLS, ROUNDS = 20, 20


class Direct:
    """Our communicator of this rank, made as the engine makes it."""

    def __init__(self, group: dist.ProcessGroup, rank: int, ranks: int) -> None:
        self.group, self.rank, self.ranks = group, rank, ranks
        self.signals = self._shared(ops.meta_size() + LARGEST)
        self.buffers = self._shared(LARGEST)
        self.data = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
        self.communicator = ops.init_custom_ar(self.signals, self.data, rank, True)
        ops.register_buffer(self.communicator, self.buffers)

    def _shared(self, size: int) -> list[int]:
        mine, handle = ops.allocate_shared_buffer_and_handle(size)
        handles: list[Any] = [None] * self.ranks
        dist.all_gather_object(handles, handle, group=self.group)
        return [
            mine if i == self.rank else ops.open_mem_handle(one) for i, one in enumerate(handles)
        ]

    def staged(self, x: torch.Tensor, out: torch.Tensor) -> None:
        ops.all_reduce(self.communicator, x, out, self.buffers[self.rank], LARGEST)

    def captured(self, x: torch.Tensor, out: torch.Tensor) -> None:
        ops.all_reduce(self.communicator, x, out, 0, 0)

    def share_graph_inputs(self) -> None:
        handle, offset = ops.get_graph_buffer_ipc_meta(self.communicator)
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, (handle, offset), group=self.group)
        handles, offsets = zip(*found, strict=True)
        ops.register_graph_buffers(self.communicator, list(handles), list(offsets))


def _graph(call: Callable[[], object], prepare: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    prepare()
    return graph


def _microseconds(run: Callable[[], None], calls: int) -> float:
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / calls)
    return statistics.median(times)


def _right(out: torch.Tensor, x: torch.Tensor, ranks: int) -> bool:
    every = [torch.empty_like(x) for _ in range(ranks)]
    dist.all_gather(every, x)
    exact = torch.stack(every).double().sum(0)
    bound = torch.finfo(x.dtype).eps * torch.stack(every).double().abs().sum(0)
    return bool(((out.double() - exact).abs() <= bound).all())


def _measure(direct: Direct, size: int, dtype: torch.dtype) -> dict[str, object]:
    x = torch.randn(size // (torch.finfo(dtype).bits // 8), device="cuda").to(dtype)
    out, nccl = torch.empty_like(x), x.clone()
    direct.staged(x, out)
    torch.cuda.synchronize()
    right = _right(out, x, direct.ranks)
    ours = _graph(lambda: direct.captured(x, out), direct.share_graph_inputs)
    out.zero_()
    ours.replay()
    torch.cuda.synchronize()
    right = right and _right(out, x, direct.ranks)
    theirs = _graph(lambda: dist.all_reduce(nccl), lambda: None)

    def eager(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                call()

        return run

    row = {
        "bytes": size,
        "dtype": str(dtype).removeprefix("torch."),
        "right": right,
        "graph_us": _microseconds(ours.replay, CALLS),
        "nccl_graph_us": _microseconds(theirs.replay, CALLS),
        "us": _microseconds(eager(lambda: direct.staged(x, out)), CALLS),
        "nccl_us": _microseconds(eager(lambda: dist.all_reduce(nccl)), CALLS),
    }
    row["graph_ratio"] = row["nccl_graph_us"] / row["graph_us"]  # type: ignore[operator]
    row["ratio"] = row["nccl_us"] / row["us"]  # type: ignore[operator]
    return row


def _check(direct: Direct, count: int) -> int:
    """How many of ``count`` sums of random sizes and dtypes are wrong."""
    chosen, wrong = random.Random(0), 0  # noqa: S311 - the same sizes on every rank
    for _ in range(count):
        dtype = chosen.choice(DTYPES)
        size = 16 * chosen.randint(1, 1 << chosen.randint(0, 19))
        x = torch.randn(size // (torch.finfo(dtype).bits // 8), device="cuda").to(dtype)
        out = torch.empty_like(x)
        direct.staged(x, out)
        wrong += not _right(out, x, direct.ranks)
    return wrong


def _rank(rank: int, ranks: int, port: int, checks: int, file: Path | None) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NCCL_NVLS_ENABLE": "0"}
    torch.cuda.set_device(rank)
    torch.manual_seed(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=rank, world_size=ranks)
    direct = Direct(dist.new_group(backend="gloo"), rank, ranks)
    rows = [_measure(direct, size, dtype) for dtype in DTYPES for size in SIZES]
    wrong = _check(direct, checks)
    wrong += sum(not row["right"] for row in rows)
    if rank == 0:
        for row in rows:
            print(json.dumps(row))
        print(f"{ranks} ranks: {wrong} wrong of {checks + len(rows)}")
        if file:
            record = {"gpu": torch.cuda.get_device_name(), "ranks": ranks, "rows": rows}
            file.write_text(json.dumps(record, indent=1) + "\n")
    dist.barrier()
    ops.dispose(direct.communicator)
    dist.destroy_process_group()
    sys.exit(wrong > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, choices=(2, 4, 6, 8), default=2)
    parser.add_argument("--checks", type=int, default=10000, help="sums of random sizes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if torch.cuda.device_count() < args.ranks:
        parser.error(f"{args.ranks} ranks need as many GPUs; found {torch.cuda.device_count()}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (args.ranks, port, args.checks, args.json), nprocs=args.ranks)


if __name__ == "__main__":
    main()
