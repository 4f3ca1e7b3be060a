"""int8 and float8 quantisation against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main
from vllm_kernels.reference import quant as reference

ops = torch.ops.vllm_kernels
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = (1, 8, 512, 2048)
WIDTH = 4096
AZP = "dynamic_int8_azp"

Quantized = tuple[torch.Tensor, torch.Tensor]


def torch_static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.float() * (1 / scale)).round().clamp(-128, 127).to(torch.int8)


def torch_symmetric(x: torch.Tensor) -> Quantized:
    scale = x.abs().amax(-1, keepdim=True).float() / 127
    return (x.float() * (1 / scale)).round().clamp(-128, 127).to(torch.int8), scale


def torch_asymmetric(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    low, high = x.aminmax(dim=-1, keepdim=True)
    scale = (high.float() - low.float()) / 255
    azp = (-128 - low.float() / scale).round()
    q = ((x.float() * (1 / scale)).round() + azp).clamp(-128, 127)
    return q.to(torch.int8), scale, azp.to(torch.int32)


def _case(op: str, tokens: int, dtype: str) -> Case:
    def make() -> dict[str, Call]:
        x = torch.randn(tokens, WIDTH).to(DTYPES[dtype])
        result = torch.empty(x.shape, dtype=torch.int8)
        one, scale = torch.tensor([0.03]), torch.empty(tokens, 1)
        azp = torch.empty(tokens, 1, dtype=torch.int32)
        if op == "static_int8":
            return {
                "ours": lambda: ops.static_scaled_int8_quant(result, x, one, None),
                "eager": lambda: torch_static(x, one),
                "compile": compiled(torch_static, x, one),
            }
        zeros, eager = (azp, torch_asymmetric) if op == AZP else (None, torch_symmetric)
        return {
            "ours": lambda: ops.dynamic_scaled_int8_quant(result, x, scale, zeros),
            "eager": lambda: eager(x),
            "compile": compiled(eager, x),
        }

    moved = tokens * WIDTH * (DTYPES[dtype].itemsize + 1)
    shape = {"tokens": tokens, "width": WIDTH}
    return Case(op, shape, dtype, make, load(tokens), bytes_moved=moved)


def _float8(op: str, tokens: int) -> Case:
    """Of weights with one scale, and of rows with a measured one."""

    def make() -> dict[str, Call]:
        x = torch.randn(tokens, WIDTH).bfloat16()
        result, other = (torch.empty(x.shape).to(torch.float8_e4m3fn) for _ in range(2))
        one, scale = torch.tensor([0.03]), torch.empty(tokens, 1)
        ours, theirs = getattr(ops, op), getattr(reference, op)
        last = (one,) if op == "static_scaled_fp8_quant" else (scale, None)
        return {
            "ours": lambda: ours(result, x, *last),
            "eager": lambda: theirs(other, x, *last),
            "compile": compiled(theirs, other, x, *last),
        }

    shape = {"tokens": tokens, "width": WIDTH}
    return Case(op, shape, "bf16", make, load(tokens), bytes_moved=tokens * WIDTH * 3)


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for tokens in TOKENS:
            for op in ("static_int8", "dynamic_int8", AZP):
                yield _case(op, tokens, dtype)
    for tokens in TOKENS:
        for op in ("static_scaled_fp8_quant", "dynamic_per_token_scaled_fp8_quant"):
            yield _float8(op, tokens)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "quant", cases))
