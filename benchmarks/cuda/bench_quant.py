"""Quantisation on a GPU against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main
from vllm_kernels.reference import quant as reference

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
SHAPES = [(64, 4096), (4096, 4096), (4096, 8192), (16384, 8192), (4096, 28672)]
# Bytes an element, the least that one pass over the input needs; `dynamic_scaled` needs two.
TRAFFIC = {"dynamic_scaled_fp8_quant": 5}
OPS = (
    "static_scaled_fp8_quant",
    "dynamic_scaled_fp8_quant",
    "dynamic_per_token_scaled_fp8_quant",
    "per_token_group_fp8_quant",
    "static_scaled_int8_quant",
    "dynamic_scaled_int8_quant",
)
COMPILED = {name: torch.compile(getattr(reference, name), dynamic=False) for name in OPS}


def _case(name: str, tokens: int, width: int) -> Case:
    def make() -> dict[str, Call]:
        x = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda")
        dtype = torch.int8 if "int8" in name else FLOAT8
        q = torch.empty(x.shape, dtype=dtype, device="cuda")
        one, rows = torch.full((1,), 0.02, device="cuda"), torch.empty(tokens, 1, device="cuda")
        groups = torch.empty(tokens, width // 128, device="cuda")
        arguments: dict[str, tuple[object, ...]] = {
            "static_scaled_fp8_quant": (q, x, one),
            "dynamic_scaled_fp8_quant": (q, x, one),
            "dynamic_per_token_scaled_fp8_quant": (q, x, rows, None),
            "per_token_group_fp8_quant": (
                *(x, q, groups, 128, 1e-10, -448.0, 448.0),
                *(False, False, False),
            ),
            "static_scaled_int8_quant": (q, x, one, None),
            "dynamic_scaled_int8_quant": (q, x, rows, None),
        }
        chosen = arguments[name]
        eager: Callable[..., object] = getattr(reference, name)
        ours, fast = getattr(ops, name), COMPILED[name]
        return {
            "ours": lambda: ours(*chosen),
            "eager": lambda: eager(*chosen),
            "compile": lambda: fast(*chosen),
        }

    traffic = TRAFFIC.get(name, 3) * tokens * width
    shape = {"tokens": tokens, "width": width}
    return Case(name, shape, "bf16", make, load(tokens), bytes_moved=traffic)


def cases() -> Iterator[Case]:
    for tokens, width in SHAPES:
        for name in OPS:
            yield _case(name, tokens, width)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "quant", cases))
