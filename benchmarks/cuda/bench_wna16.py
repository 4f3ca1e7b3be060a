"""Products with 4-bit and 8-bit weights against a bfloat16 F.linear, eager and compiled.

The traffic is that of weights, scales, activations and results. Cases "behind another kernel" time
each product together with a kernel before it, as decoding meets them. Products of experts: see
``wna16_experts.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.cuda.wna16_experts import expert_cases
from benchmarks.cuda.wna16_weights import FP4_GROUPS, TYPES, Layer
from benchmarks.harness import Call, Case, behind_another, compiled, load, main

SHAPES = [(8192, 8192), (4096, 14336), (14336, 4096), (5120, 5120)]  # K, N
TOKENS = [1, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 4096]
# torch.compile leaves F.linear to cuBLAS: a few rows show it.
COMPILED_TOKENS = (1, 16, 1024)


def _calls(layer: Layer, m: int, behind: bool) -> dict[str, Call]:
    a = torch.randn(m, layer.k, device="cuda").bfloat16()
    dense = torch.randn(layer.n, layer.k, device="cuda").bfloat16()
    calls: dict[str, Call] = {"ours": layer.product(m), "linear": partial(F.linear, a, dense)}
    if behind:
        return behind_another(calls, torch.randn(m, layer.k, device="cuda").bfloat16())
    if m in COMPILED_TOKENS:
        calls["compile"] = compiled(F.linear, a, dense)
    return calls


def cases() -> Iterator[Case]:
    yield from layer_cases()
    yield from expert_cases()


def layer_cases() -> Iterator[Case]:
    for k, n in SHAPES:
        for kind in TYPES:
            if kind in FP4_GROUPS and (k, n) not in SHAPES[:2]:
                continue
            layer = Layer(kind, k, n)
            for m in TOKENS:
                for behind in (False, True):
                    variant = "behind another kernel" if behind else ""
                    yield Case(
                        "marlin_gemm",
                        {"m": m, "k": k, "n": n},
                        kind,
                        partial(_calls, layer, m, behind),
                        f"{load(m)}, {variant}" if behind else load(m),
                        variant=variant,
                        bytes_moved=layer.traffic(m) + (4 * m * k if behind else 0),
                        flops=2 * m * n * k,
                    )


if __name__ == "__main__":
    raise SystemExit(main("cuda", "wna16", cases))
