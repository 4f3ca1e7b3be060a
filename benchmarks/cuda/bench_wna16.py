"""Products with 4-bit and 8-bit weights against a bfloat16 F.linear, eager and compiled.

Every call is timed inside a CUDA graph of many calls that rotate through copies of the weights
larger than L2, as decoding meets them. `% of copy` is the traffic of weights, scales, activations
and results over the measured bandwidth of a device-to-device copy. `--sweep` times every block
shape, number of stages and number of blocks of the kernel for few tokens.

    VLLM_KERNELS_LIBRARY_DIR=build/lib PYTHONPATH=src python benchmarks/cuda/bench_wna16.py --quick
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from vllm_conda.paths import write_atomic
from vllm_kernels import engine_api
from vllm_kernels.reference.wna16 import cuda as reference

ops = torch.ops.vllm_kernels
LIBRARY = engine_api.find_library(engine_api.cuda_library("wna16"))
Call = Callable[[int], object]  # with the number of the copy of its weights

ROTATED_BYTES = 256 << 20
WARM_UP_S = 0.05
SHAPES = [(8192, 8192), (4096, 14336), (14336, 4096), (5120, 5120)]  # K, N
TOKENS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 4096]


def time_us(call: Call, copies: int, calls: int = 24, rounds: int = 15) -> float:
    """Median time of one call, over replays of a graph of `calls`."""
    for copy in range(3):
        call(copy % copies)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(calls):
            call(index % copies)
    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < WARM_UP_S:  # clocks settle
        graph.replay()
        torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()  # what is measured is then launched while this one runs
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / calls)
    del graph
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy of 1 GiB: the driver's way or a kernel's."""
    source = torch.zeros(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    ways: list[Call] = [lambda _: target.copy_(source), lambda _: torch.neg(source, out=target)]
    return 2 * source.nbytes / min(time_us(way, 1, calls=4) for way in ways) * 1e6


def after_another(call: Call, m: int, k: int) -> Call:
    """The call behind a kernel that lets it start no earlier than it must, as models have."""
    activations = torch.randn(m, k, device="cuda").bfloat16()

    def both(copy: int) -> object:
        activations.neg_()
        return call(copy)

    return both


class Weights:
    """Copies of random quantized weights, and as many of the same in bfloat16."""

    def __init__(self, kind: str, k: int, n: int, group: int) -> None:
        self.kind, self.k, self.n = kind, k, n
        bits = 8 if kind in ("u8b128", "fp8") else 4
        groups = 1 if group == -1 else k // group
        self.bytes = k * n * bits // 8 + groups * n * (2 if kind != "u4" else 2.5)
        self.copies = max(2, int(-(-ROTATED_BYTES // self.bytes)))
        empty = torch.empty(0, dtype=torch.int32, device="cuda")
        words = torch.randint(-(2**31), 2**31, (k * bits // 32, n), device="cuda").int()
        if kind == "fp8":
            words &= 0x3F3F3F3F
        packed = ops.gptq_marlin_repack(words, empty, k, n, bits, False)
        self.packed = [packed.clone() for _ in range(self.copies)]
        self.scales = [torch.rand(groups, n, device="cuda").bfloat16() for _ in range(self.copies)]
        self.zeros = empty
        if kind == "u4":
            self.zeros = torch.randint(-(2**31), 2**31, (groups, n // 8), device="cuda").int()
        self.empty = empty
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.workspace = torch.zeros(sms, dtype=torch.int32, device="cuda")
        self.type_id = {
            "u4b8": reference.U4B8,
            "u4": reference.U4,
            "u8b128": reference.U8B128,
            "fp8": reference.FP8_E4M3,
        }[kind]

    def product(self, a: torch.Tensor) -> Call:
        def call(copy: int) -> object:
            return ops.marlin_gemm(
                a, None, self.packed[copy], None, self.scales[copy], None, None, self.zeros,
                self.empty, self.empty, self.workspace, self.type_id, a.shape[0], self.n, self.k,
                True, False, True, False,
            )  # fmt: skip

        return call

    def traffic(self, m: int) -> float:
        return self.bytes + 2 * m * (self.k + self.n)


def linear(k: int, n: int, a: torch.Tensor, compiled: bool) -> tuple[Call, int]:
    copies = max(2, ROTATED_BYTES // (2 * k * n))
    dense = [torch.randn(n, k, device="cuda").bfloat16() for _ in range(copies)]
    if not compiled:
        return lambda copy: F.linear(a, dense[copy]), copies
    function = torch.compile(F.linear, dynamic=False)
    return lambda copy: function(a, dense[copy]), copies


def forced(shape: int, stages: int, blocks: int, prefetch: int = -1) -> int:
    assert LIBRARY is not None
    return int(ctypes.CDLL(str(LIBRARY)).vk_cuda_marlin_force(shape, stages, blocks, prefetch))


def sweep(k: int, n: int, tokens: Sequence[int], kinds: Sequence[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    for kind in kinds:
        weights = Weights(kind, k, n, 128)
        for m in tokens:
            call = weights.product(torch.randn(m, k, device="cuda").bfloat16())
            few = m <= 64
            for shape, stages, blocks, prefetch in itertools.product(
                range(forced(-1, -1, -1)),
                (3, 4, 6) if few else (-1,),
                (sms, 2 * sms) if few else (-1,),
                (-2, 0, 4, 8) if few else (-1,),
            ):
                forced(shape, stages, blocks, prefetch)
                us = time_us(call, weights.copies, rounds=5)
                rows.append(
                    {"kind": kind, "k": k, "n": n, "m": m, "shape": shape, "stages": stages,
                     "blocks": blocks, "prefetch": prefetch, "us": us}
                )  # fmt: skip
            forced(-1, -1, -1)
            mine = [row for row in rows if row["m"] == m and row["kind"] == kind]
            for row in sorted(mine, key=lambda row: float(str(row["us"])))[:8]:
                print("sweep", row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one matrix, fewer numbers of tokens")
    parser.add_argument("--sweep", action="store_true", help="also time every block shape")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.ops.load_library(str(LIBRARY))
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copy {bandwidth / 1e9:.0f} GB/s")
    results: list[dict[str, object]] = []
    report = {"gpu": torch.cuda.get_device_name(), "copy_bytes_per_s": bandwidth,
              "results": results}  # fmt: skip

    def save() -> None:  # case by case: what was measured stays if the run is cut
        if options.out:
            write_atomic(options.out, json.dumps(report, indent=1) + "\n")

    tokens = [1, 8, 16, 32, 64, 128, 512, 1024, 4096] if options.quick else TOKENS
    for k, n in SHAPES[:1] if options.quick else SHAPES:
        dense: dict[tuple[int, bool], float] = {}
        dense_mixed: dict[int, float] = {}
        for m in tokens:
            for compiled in (False, True):
                if compiled and (options.quick or m not in (1, 16, 1024)):
                    continue
                call, copies = linear(k, n, torch.randn(m, k, device="cuda").bfloat16(), compiled)
                dense[m, compiled] = time_us(call, copies)
                if not compiled:
                    dense_mixed[m] = time_us(after_another(call, m, k), copies)
        for kind in ("u4b8", "u4", "u8b128", "fp8"):
            weights = Weights(kind, k, n, 128 if kind != "fp8" else -1)
            for m in tokens:
                a = torch.randn(m, k, device="cuda").bfloat16()
                us = time_us(weights.product(a), weights.copies)
                mixed = time_us(after_another(weights.product(a), m, k), weights.copies)
                row = {"kind": kind, "k": k, "n": n, "m": m, "us": us,
                       "linear_us": dense[m, False], "compiled_us": dense.get((m, True)),
                       "ratio": dense[m, False] / us,
                       "mixed_us": mixed, "mixed_ratio": dense_mixed[m] / mixed,
                       "of_copy": weights.traffic(m) / us / 1e-6 / bandwidth,
                       "tflops": 2 * m * n * k / us / 1e6}  # fmt: skip
                results.append(row)
                save()
                print(
                    f"{kind:7} {k}x{n} m {m:5}: {us:8.1f} us, F.linear {dense[m, False]:8.1f} us "
                    f"= {dense[m, False] / us:.2f}x ({dense_mixed[m] / mixed:.2f}x behind another "
                    f"kernel), {100 * weights.traffic(m) / us / 1e-6 / bandwidth:.0f} % of copy, "
                    f"{2 * m * n * k / us / 1e6:.0f} TFLOP/s",
                    flush=True,
                )
            del weights
    if options.sweep:
        report["sweep"] = sweep(8192, 8192, (1, 8, 16, 32, 64, 256), ("u4b8",))
        save()


if __name__ == "__main__":
    main()
