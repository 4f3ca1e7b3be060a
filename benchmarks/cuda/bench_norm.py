"""Norms on a GPU, plain and fused, against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

EPSILON = 1e-6
FLOAT8 = torch.float8_e4m3fn
KINDS = ("rms_norm", "fused_add_rms_norm", "static_fp8", "per_token_fp8", "per_block_fp8")
# Tokens and hidden size: decode, prefill; Llama 8B, Qwen 14B, Llama 70B.
SHAPES = [(64, 4096), (4096, 4096), (16384, 4096), (4096, 5120), (4096, 8192), (16384, 8192)]


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def fused(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return norm(total, weight), total


def static(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (norm(x, weight).float() * (1.0 / scale)).clamp(-448, 448).to(FLOAT8)


def grouped(x: torch.Tensor, weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = norm(x, weight).float().unflatten(-1, (-1, group))
    scale = (y.abs().amax(-1, keepdim=True) / 448).clamp_min(1 / (448 * 512))
    return (y / scale).clamp(-448, 448).to(FLOAT8).flatten(-2), scale


compiled: dict[Callable[..., object], Callable[..., object]] = {
    function: torch.compile(function, dynamic=False) for function in (norm, fused, static, grouped)
}


def _peers(function: Callable[..., object], *args: object) -> dict[str, Call]:
    fast = compiled[function]
    return {"eager": lambda: function(*args), "compile": lambda: fast(*args)}


def _case(tokens: int, hidden: int, kind: str) -> Case:
    size = tokens * hidden

    def make() -> dict[str, Call]:
        x = torch.randn(tokens, hidden, dtype=torch.bfloat16, device="cuda")
        # Ours adds in place, call after call: a small weight keeps the growing sum finite.
        weight = torch.randn(hidden, dtype=x.dtype, device="cuda") * 1e-3
        scale = torch.tensor([1e-5], device="cuda")
        q = torch.empty(x.shape, dtype=FLOAT8, device="cuda")
        rows = torch.empty(tokens, 1, device="cuda")
        groups = torch.empty(tokens, hidden // 128, device="cuda")
        out, residual = torch.empty_like(x), torch.randn_like(x)
        calls: dict[str, tuple[Call, dict[str, Call]]] = {
            "rms_norm": (
                lambda: ops.rms_norm(out, x, weight, EPSILON),
                _peers(norm, x, weight),
            ),
            "fused_add_rms_norm": (
                lambda: ops.fused_add_rms_norm(out, residual, weight, EPSILON),
                _peers(fused, x, residual, weight),
            ),
            "static_fp8": (
                lambda: ops.rms_norm_static_fp8_quant(q, x, weight, scale, EPSILON),
                _peers(static, x, weight, scale),
            ),
            "per_token_fp8": (
                lambda: ops.rms_norm_dynamic_per_token_quant(
                    q, x, weight, rows, EPSILON, None, None
                ),
                _peers(grouped, x, weight, hidden),
            ),
            "per_block_fp8": (
                lambda: ops.rms_norm_per_block_quant(
                    q, x, weight, groups, EPSILON, None, None, 128, False
                ),
                _peers(grouped, x, weight, 128),
            ),
        }
        out.normal_()
        ours, peers = calls[kind]
        return {"ours": ours, **peers}

    traffic = {"rms_norm": 4, "fused_add_rms_norm": 8}.get(kind, 3)
    shape = {"tokens": tokens, "hidden": hidden}
    return Case(kind, shape, "bf16", make, load(tokens), bytes_moved=traffic * size)


def _heads(tokens: int, heads: int) -> Case:
    """The norm of query heads that are cut out of a wider projection."""

    def make() -> dict[str, Call]:
        wide = torch.randn(tokens, (heads + 16) * 128, dtype=torch.bfloat16, device="cuda")
        x = wide[:, : heads * 128].unflatten(-1, (heads, 128))
        weight = torch.randn(128, dtype=x.dtype, device="cuda")
        out = torch.empty(x.shape, dtype=x.dtype, device="cuda")
        return {"ours": lambda: ops.rms_norm(out, x, weight, EPSILON), **_peers(norm, x, weight)}

    return Case(
        "rms_norm",
        {"tokens": tokens, "heads": heads, "head": 128},
        "bf16",
        make,
        load(tokens),
        variant="of heads",
        bytes_moved=4 * tokens * heads * 128,
    )


def cases() -> Iterator[Case]:
    for tokens, hidden in SHAPES:
        for kind in KINDS:
            yield _case(tokens, hidden, kind)
    yield _heads(4096, 32)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "norm", cases))
