"""int8 quantisation against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import harness
import torch

import vllm_kernels  # noqa: F401  registers the ops

ops = torch.ops.vllm_kernels
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = {1: "decode", 8: "decode", 512: "prefill", 2048: "prefill"}
WIDTH = 4096

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


def _cases(tokens: int, group: str, name: str) -> Iterator[harness.Case]:
    x = torch.randn(tokens, WIDTH).to(DTYPES[name])
    result = torch.empty(x.shape, dtype=torch.int8)
    one, scale = torch.tensor([0.03]), torch.empty(tokens, 1)
    azp = torch.empty(tokens, 1, dtype=torch.int32)
    moved = x.nbytes + result.nbytes
    shape = f"{tokens}x{WIDTH} {name}"
    yield harness.Case(
        f"static int8 {shape}",
        group,
        lambda: ops.static_scaled_int8_quant(result, x, one, None),
        {
            "eager": lambda: torch_static(x, one),
            "compile": harness.compiled(torch_static, x, one),
        },
        bytes_moved=moved,
    )
    yield harness.Case(
        f"dynamic int8 {shape}",
        group,
        lambda: ops.dynamic_scaled_int8_quant(result, x, scale, None),
        {"eager": lambda: torch_symmetric(x), "compile": harness.compiled(torch_symmetric, x)},
        bytes_moved=moved,
    )
    yield harness.Case(
        f"dynamic int8 azp {shape}",
        group,
        lambda: ops.dynamic_scaled_int8_quant(result, x, scale, azp),
        {"eager": lambda: torch_asymmetric(x), "compile": harness.compiled(torch_asymmetric, x)},
        bytes_moved=moved,
    )


def cases() -> Iterator[harness.Case]:
    for name in DTYPES:
        for tokens, group in TOKENS.items():
            yield from _cases(tokens, group, name)


if __name__ == "__main__":
    raise SystemExit(harness.main("quant", cases))
