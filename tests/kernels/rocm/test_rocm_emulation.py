"""Families that are compiled for AMD GPUs, emulated with waves of 32 and 64 lanes.

The references say what is right. No AMD GPU has run these kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch

from vllm_kernels.reference import activation, norm, rope
from vllm_kernels.reference.sampling import select

from .emulated import call, compile_family

FLOAT8 = torch.float8_e4m3fn
Family = Callable[[str], ctypes.CDLL]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Family:
    found: dict[str, ctypes.CDLL] = {}

    def load(name: str) -> ctypes.CDLL:
        if name not in found:
            found[name] = compile_family(name, tmp_path_factory.mktemp(name))
        return found[name]

    return load


@pytest.fixture(params=[32, 64], ids=["wave32", "wave64"])
def family(request: pytest.FixtureRequest, compiled: Family) -> Family:
    """Function from a family to its library, on a GPU with waves of that many lanes."""

    def load(name: str) -> ctypes.CDLL:
        library = compiled(name)
        ctypes.c_int.in_dll(library, "vk_emulated_wave").value = request.param
        return library

    return load


def near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to a rounding of the type, or up to one step of a few quantised values."""
    assert actual.dtype == expected.dtype
    if actual.dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(actual, expected, rtol=1.6e-2, atol=1e-3)
    elif actual.dtype == FLOAT8:
        ours, theirs = actual.float(), expected.float()
        assert torch.equal(ours.isnan(), theirs.isnan())
        different = ours.nan_to_num() != theirs.nan_to_num()
        assert different.float().mean() < 0.01
        torch.testing.assert_close(ours.nan_to_num(), theirs.nan_to_num(), rtol=0.13, atol=2**-8)
    else:
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 64), (5, 257), (2, 1024), (1, 5120)])
def test_norm(family: Family, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    library = family("norm")
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype)
    residual = torch.randn(shape).to(dtype)
    ours, theirs = torch.empty_like(x), torch.empty_like(x)
    call(library, "rms_norm", ours, x, weight, 1e-6)
    norm.rms_norm(theirs, x, weight, 1e-6)
    near(ours, theirs)
    ours, theirs = x.clone(), x.clone()
    other = residual.clone()
    call(library, "fused_add_rms_norm", ours, residual, weight, 1e-6)
    norm.fused_add_rms_norm(theirs, other, weight, 1e-6)
    near(ours, theirs)
    assert torch.equal(residual, other)


@pytest.mark.parametrize("quantized", [FLOAT8, torch.int8])
def test_norm_per_token(family: Family, dtype: torch.dtype, quantized: torch.dtype) -> None:
    library = family("norm")
    x, weight = torch.randn(3, 640).to(dtype), torch.randn(640).to(dtype)
    ours, theirs = (torch.empty(3, 640, dtype=quantized) for _ in range(2))
    scale, other = torch.empty(3, 1), torch.empty(3, 1)
    call(library, "rms_norm_dynamic_per_token_quant", ours, x, weight, scale, 1e-6, None, None)
    norm.rms_norm_dynamic_per_token_quant(theirs, x, weight, other, 1e-6, None, None)
    near(scale, other)
    if quantized == torch.int8:
        assert (ours.int() - theirs.int()).abs().max() <= 1
    else:
        near(ours, theirs)


@pytest.mark.parametrize("op", ["silu_and_mul", "gelu_tanh_and_mul"])
@pytest.mark.parametrize("width", [64, 99])
def test_activation(family: Family, dtype: torch.dtype, op: str, width: int) -> None:
    x = torch.randn(5, 2 * width).mul(4).to(dtype)
    ours, theirs = (torch.empty(5, width, dtype=dtype) for _ in range(2))
    call(family("activation"), op, ours, x)
    getattr(activation, op)(theirs, x)
    near(ours, theirs)


def test_normal_distribution_of_float32_keeps_its_tail(family: Family) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4000), torch.tensor([float("inf"), 0.0])])
    ours = torch.empty_like(x)[None]
    call(family("activation"), "gelu_and_mul", ours, torch.cat([x, torch.ones_like(x)])[None])
    exact = torch.special.erfc(x.double() / -(2**0.5)) / 2 * x.double()
    torch.testing.assert_close(ours[0].double(), exact, rtol=2e-6, atol=0.0)


@pytest.mark.parametrize("neox", [True, False])
def test_rope(family: Family, dtype: torch.dtype, neox: bool) -> None:
    positions = torch.tensor([0, 3, 77, 5])
    cache = torch.randn(128, 64).to(dtype)
    query, key = torch.randn(4, 8 * 64).to(dtype), torch.randn(4, 2 * 64).to(dtype)
    others = query.clone(), key.clone()
    call(family("rope"), "rotary_embedding", positions, query, key, 64, cache, neox, 0, False)
    rope.rotary_embedding(positions, *others, 64, cache, neox, 0, False)
    near(query, others[0])
    near(key, others[1])


def test_top_k(family: Family) -> None:
    logits = torch.randn(3, 5000)
    starts = torch.tensor([0, 5, 100], dtype=torch.int32)
    ends = torch.tensor([5000, 700, 4100], dtype=torch.int32)
    ours = torch.empty(3, 512, dtype=torch.int32)
    call(family("sampling"), "top_k_per_row_prefill", logits, starts, ends, ours, 3, 5000, 1, 512)
    for row in range(3):
        valid = logits[row, starts[row] : ends[row]]
        assert set(ours[row].tolist()) == set(valid.topk(512).indices.tolist())


def test_penalties(family: Family, dtype: torch.dtype) -> None:
    logits = torch.randn(3, 1000).to(dtype)
    other = logits.clone()
    prompt, output = (torch.rand(3, 1000) < 0.1 for _ in range(2))
    penalties = torch.tensor([1.0, 1.3, 0.7]).to(dtype)
    arguments = (prompt, output, penalties)
    call(family("sampling"), "apply_repetition_penalties", logits, *arguments)
    select.apply_repetition_penalties_(other, *arguments)
    near(logits, other)
