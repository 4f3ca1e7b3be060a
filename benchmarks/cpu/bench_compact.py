"""All products of an engine's step with compact weights (csrc/cpu/gemm/gemm_table.h) and plain.

The matrices of the Llama of half a billion parameters that benchmarks/engine measures, bfloat16
with random weights, each layer its own: together they are larger than any cache. `--clock
processor` times what the process took, where other processes share the memory.

    vllm-conda exec --with vllm-kernels-cpu -- python -m benchmarks.cpu.bench_compact --threads 1
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

LAYERS = 24
# N, K of a layer, then of the logits.
LAYER = ((2048, 1024), (1024, 1024), (9728, 1024), (1024, 4864))
LOGITS = (32000, 1024)
ROWS = (1, 4, 8, 16, 32, 64, 128)


class Step:
    """The packed weights of a model."""

    def __init__(self, compact: bool) -> None:
        # Read when weights are packed.
        os.environ["VLLM_KERNELS_CPU_COMPACT"] = str(int(compact))
        torch.manual_seed(0)
        self._matrices = [self._pack(*shape) for shape in (*LAYER * LAYERS, LOGITS)]

    @staticmethod
    def _pack(n: int, k: int) -> tuple[torch.Tensor, int, int]:
        weight = (torch.randn(n, k) * 0.02).to(torch.bfloat16)
        number = ops.create_onednn_mm_handler(weight.t(), 0)
        return torch.tensor([number], dtype=torch.int64), n, k

    def call(self, rows: int) -> Call:
        inputs = {k: torch.randn(rows, k).to(torch.bfloat16) for _, _, k in self._matrices}
        outputs = {n: torch.empty(rows, n, dtype=torch.bfloat16) for _, n, _ in self._matrices}

        def run() -> None:
            for handle, n, k in self._matrices:
                ops.onednn_mm(outputs[n], inputs[k], None, handle)

        return run


def cases() -> Iterator[Case]:
    compact, plain = Step(True), Step(False)
    parameters = sum(n * k for n, k in (*LAYER * LAYERS, LOGITS))
    for rows in ROWS:

        def make(rows: int = rows) -> dict[str, Call]:
            return {"ours": compact.call(rows), "16 bits": plain.call(rows)}

        shape = {"rows": rows, "parameters": parameters}
        yield Case("step", shape, "bf16", make, load(rows))


if __name__ == "__main__":
    raise SystemExit(main("cpu", "compact", cases))
