"""Compact bfloat16 weights give the very products of plain ones, per tier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

ops = torch.ops.vllm_kernels

VARIABLE = "VLLM_KERNELS_CPU_COMPACT"


def both(monkeypatch: Any, a: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """The product with plain weights and with compact ones."""
    products = []
    for compact in ("0", "1"):
        monkeypatch.setenv(VARIABLE, compact)
        number = ops.create_onednn_mm_handler(weight.t(), 32)
        c = torch.full((a.shape[0], weight.shape[0]), float("nan"), dtype=torch.bfloat16)
        ops.onednn_mm(c, a, None, torch.tensor([number]))
        ops.release_dnnl_matmul_handler(number)
        products.append(c)
    return products


def check(monkeypatch: Any, a: torch.Tensor, weight: torch.Tensor) -> None:
    plain, compact = both(monkeypatch, a, weight)
    # Bits, since NaN is not itself.
    assert torch.equal(plain.view(torch.int16), compact.view(torch.int16))


@pytest.mark.parametrize("m", [*range(1, 20), 31, 32, 33, 47, 64, 65, 255, 257])
def test_every_row_count(tier: str, monkeypatch: Any, m: int) -> None:
    weight = (torch.randn(200, 190) * 0.02).bfloat16()
    check(monkeypatch, torch.randn(m, 190).bfloat16(), weight)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 700])
@pytest.mark.parametrize("k", [1, 2, 31, 33, 64, 1000, 2300, 4500])
def test_shapes(tier: str, monkeypatch: Any, k: int, n: int) -> None:
    weight = (torch.randn(n, k) * 0.02).bfloat16()
    for m in (1, 5, 20, 70):
        check(monkeypatch, torch.randn(m, k).bfloat16(), weight)


def test_many_rows(tier: str, monkeypatch: Any) -> None:
    """Chunks of rows for several threads and parts of K."""
    weight = (torch.randn(1100, 2300) * 0.02).bfloat16()
    check(monkeypatch, torch.randn(600, 2300).bfloat16(), weight)


@pytest.mark.parametrize("m", [1, 8, 17, 32, 40, 300])
def test_values_without_a_code(tier: str, monkeypatch: Any, m: int) -> None:
    """Zeros, subnormals and huge values amid others, in the first and the last places too."""
    weight = (torch.randn(130, 1400) * 0.02).bfloat16()
    rare = torch.tensor([0.0, -0.0, 1e-40, 3e38, -1e-30, 1e20, -7e-39, 2.0**-60])
    flat = weight.view(-1)
    places = torch.randperm(flat.numel())[:256]
    flat[places] = rare.repeat(32).bfloat16()
    flat[0], flat[-1], weight[63, 0], weight[64, -1] = 1e30, -1e-35, 1e25, -1e28
    check(monkeypatch, torch.randn(m, 1400).bfloat16() * 1e-9, weight)


@pytest.mark.parametrize("m", [1, 20, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights(tier: str, monkeypatch: Any, m: int, value: float) -> None:
    weight = (torch.randn(130, 300) * 0.02).bfloat16()
    weight[77, 123] = value
    check(monkeypatch, torch.rand(m, 300).bfloat16() + 0.5, weight)


def test_every_exponent_stays_plain(tier: str, monkeypatch: Any) -> None:
    bits = torch.randint(-(2**15), 2**15, (128, 256), dtype=torch.int16)
    weight = torch.where(bits.view(torch.bfloat16).isfinite(), bits, 0).view(torch.bfloat16)
    check(monkeypatch, torch.zeros(3, 256).bfloat16(), weight)


@pytest.mark.parametrize("kind", ["zeros", "one"])
def test_one_exponent(tier: str, monkeypatch: Any, kind: str) -> None:
    weight = torch.zeros(70, 96) if kind == "zeros" else torch.ones(70, 96)
    check(monkeypatch, torch.randn(9, 96).bfloat16(), weight.bfloat16())


def test_a_handle_serves_every_tier(monkeypatch: Any) -> None:
    from vllm_kernels.engine_api import cpu_kernels

    kernels = cpu_kernels()
    assert kernels is not None
    monkeypatch.setenv(VARIABLE, "1")
    weight, a = (torch.randn(320, 512) * 0.02).bfloat16(), torch.randn(7, 512).bfloat16()
    number = ops.create_onednn_mm_handler(weight.t(), 32)
    exact = a.double() @ weight.double().t()
    try:
        for name, runnable in kernels.tiers().items():
            if not runnable:
                continue
            kernels.set_isa(name)
            c = torch.empty(7, 320, dtype=torch.bfloat16)
            ops.onednn_mm(c, a, None, torch.tensor([number]))
            torch.testing.assert_close(c.double(), exact, rtol=2**-7, atol=1e-2)
    finally:
        kernels.set_isa(None)
        ops.release_dnnl_matmul_handler(number)
