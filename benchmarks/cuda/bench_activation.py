"""Activations on a GPU, gated and quantised, against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
# Tokens and intermediate size: decode, prefill; an expert of Qwen3 MoE, Llama 8B, Llama 70B.
SHAPES = [(64, 14336), (32768, 768), (4096, 14336), (4096, 28672)]


def silu(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def gelu(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate) * up


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def swiglu_oai(x: torch.Tensor) -> torch.Tensor:
    gate, up = x[..., ::2].clamp(max=7.0), x[..., 1::2].clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(1.702 * gate))


def situ(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.float().chunk(2, dim=-1)
    return (torch.tanh(gate) * torch.sigmoid(gate) * up).to(x.dtype)


def static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (silu(x).float() * (1.0 / scale)).clamp(-448, 448).to(FLOAT8)


def grouped(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = silu(x).float().unflatten(-1, (-1, 128))
    scale = (y.abs().amax(-1, keepdim=True) / 448).clamp_min(1 / (448 * 512))
    return (y / scale).clamp(-448, 448).to(FLOAT8).flatten(-2), scale


PEERS: dict[str, Callable[..., object]] = {
    "silu_and_mul": silu,
    "gelu_and_mul": gelu,
    "gelu_tanh_and_mul": gelu_tanh,
    "swigluoai_and_mul": swiglu_oai,
    "situ_and_mul": situ,
    "silu_and_mul_quant": static,
    "silu_and_mul_per_block_quant": grouped,
}
COMPILED = {name: torch.compile(function, dynamic=False) for name, function in PEERS.items()}


def _case(name: str, tokens: int, width: int) -> Case:
    quantised = name.endswith("quant")

    def make() -> dict[str, Call]:
        x = torch.randn(tokens, 2 * width, dtype=torch.bfloat16, device="cuda")
        dtype = FLOAT8 if quantised else x.dtype
        out = torch.empty(tokens, width, dtype=dtype, device="cuda")
        scale = torch.tensor([0.02], device="cuda")
        scales = torch.empty(tokens, width // 128, device="cuda")
        op, peer, fast = getattr(ops, name), PEERS[name], COMPILED[name]
        if name == "silu_and_mul_quant":
            return {
                "ours": lambda: op(out, x, scale),
                "eager": lambda: peer(x, scale),
                "compile": lambda: fast(x, scale),
            }
        more = (scales, 128) if quantised else ()
        return {
            "ours": lambda: op(out, x, *more),
            "eager": lambda: peer(x),
            "compile": lambda: fast(x),
        }

    traffic = tokens * width * (5 if quantised else 6)
    shape = {"tokens": tokens, "width": width}
    return Case(name, shape, "bf16", make, load(tokens), bytes_moved=traffic)


def _plain(tokens: int, width: int) -> Case:
    def make() -> dict[str, Call]:
        x = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda")
        out = torch.empty_like(x)
        return {
            "ours": lambda: ops.gelu_new(out, x),
            "eager": lambda: F.gelu(x, approximate="tanh"),
        }

    shape = {"tokens": tokens, "width": width}
    return Case("gelu_new", shape, "bf16", make, load(tokens), bytes_moved=4 * tokens * width)


def _rows_in_use(experts: int, rows: int, count: int, width: int) -> Case:
    """``count`` of each expert's ``rows``, as the masked grouped products have them."""

    def make() -> dict[str, Call]:
        x = torch.randn(experts, rows, 2 * width, dtype=torch.bfloat16, device="cuda")
        used = torch.full((experts,), count, dtype=torch.int32, device="cuda")
        out = torch.empty(experts, rows, width, device="cuda", dtype=FLOAT8)
        scales = torch.empty(experts, width // 128, rows, device="cuda").mT
        part, fast = x[:, :count].contiguous(), COMPILED["silu_and_mul_per_block_quant"]
        return {
            "ours": lambda: ops.persistent_masked_m_silu_mul_quant(x, used, out, scales, False),
            "compile": lambda: fast(part),
        }

    tokens = experts * count
    shape = {"tokens": tokens, "experts": experts, "slots": rows, "width": width}
    name = "persistent_masked_m_silu_mul_quant"
    return Case(name, shape, "bf16", make, load(tokens), bytes_moved=tokens * width * 5)


def cases() -> Iterator[Case]:
    for count in (1, 64):
        yield _rows_in_use(32, 1024, count, 2048)
    for tokens, width in SHAPES:
        for name in PEERS:
            if name != "silu_and_mul" and (tokens, width) not in ((64, 14336), (4096, 14336)):
                continue
            yield _case(name, tokens, width)
    yield _plain(4096, 14336)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "activation", cases))
