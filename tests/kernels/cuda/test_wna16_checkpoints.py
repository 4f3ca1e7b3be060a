"""Products with GPTQ's and AWQ's weights as checkpoints hold them, against the references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vllm_kernels.reference.wna16 import cuda as reference
from vllm_kernels.reference.wna16 import words

from ..common.wna16 import GROUPED, INTERLEAVE, UNIT, make, pack, pack_stream, permute

ops = torch.ops.vllm_kernels


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


def gptq(bit: int, k: int, n: int, group: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    groups = k // group
    return (
        pack_stream(torch.randint(0, 1 << bit, (k, n), device="cuda"), bit, 0),
        pack_stream(torch.randint(0, 1 << bit, (groups, n), device="cuda"), bit, 1),
        (torch.rand(groups, n, device="cuda") * 0.02 + 0.01).to(dtype),
    )


@pytest.mark.parametrize("bit", [2, 3, 4, 8])
@pytest.mark.parametrize("m", [1, 5, 32, 70])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("use_exllama", [False, True])
def test_gptq_gemm(
    bit: int, m: int, act_order: bool, use_exllama: bool, dtype: torch.dtype
) -> None:
    k, n, group = 1184, 352, 32
    weights, zeros, scales = gptq(bit, k, n, group, dtype)
    index = torch.empty(0, dtype=torch.int32, device="cuda")
    if act_order:
        index = (torch.arange(k, device="cuda") // group)[torch.randperm(k, device="cuda")].int()
        if use_exllama:
            index = torch.argsort(index).int()
    a = torch.randn(m, k, device="cuda").to(dtype)
    if use_exllama:
        expected_weights = weights.clone()
        reference.gptq_shuffle(expected_weights, index, bit)
        ops.gptq_shuffle(weights, index, bit)
        assert torch.equal(weights, expected_weights)
    for v2 in (False, True):
        arguments = (a, weights, zeros, scales, index, use_exllama, v2, bit)
        out, exact = ops.gptq_gemm(*arguments), reference.gptq_gemm(*arguments).double()
        assert (out.double() - exact).norm() / exact.norm() < 2 * UNIT[dtype]
        torch.testing.assert_close(
            out.double(), exact, rtol=4 * UNIT[dtype], atol=float(exact.std()) * 4 * UNIT[dtype]
        )


@pytest.mark.parametrize("group", [32, 64, 128, 1152])
@pytest.mark.parametrize("m", [1, 7, 32, 100])
def test_awq(group: int, m: int, dtype: torch.dtype) -> None:
    k, n = 1152, 520
    kernel = torch.randint(-(2**31), 2**31, (k, n // 8), device="cuda").int()
    zeros = torch.randint(-(2**31), 2**31, (k // group, n // 8), device="cuda").int()
    scales = (torch.rand(k // group, n, device="cuda") * 0.02 + 0.01).to(dtype)
    weight = ops.awq_dequantize(kernel, scales, zeros, 0, 0, 0)
    assert torch.equal(weight, reference.awq_dequantize(kernel, scales, zeros, 0, 0, 0))
    a = torch.randn(m, k, device="cuda").to(dtype)
    out = ops.awq_gemm(a, kernel, scales, zeros, 8)
    exact = reference.awq_gemm(a, kernel, scales, zeros, 8).double()
    assert (out.double() - exact).norm() / exact.norm() < 2 * UNIT[dtype]


def test_awq_marlin_equals_awq(dtype: torch.dtype) -> None:
    """One checkpoint both ways: as it is, and repacked as the engine repacks it."""
    m, n, k, group = 11, 256, 512, 128
    kernel = torch.randint(-(2**31), 2**31, (k, n // 8), device="cuda").int()
    zeros = torch.randint(-(2**31), 2**31, (k // group, n // 8), device="cuda").int()
    scales = (torch.rand(k // group, n, device="cuda") * 0.02 + 0.01).to(dtype)
    plain_zeros = words.awq_columns(zeros, 4)
    problem = make("u4", m, n, k, group, dtype)
    problem = replace(
        problem,
        weights=ops.awq_marlin_repack(kernel, k, n, 4, False),
        scales=permute(scales, GROUPED),
        zeros=pack(permute(permute(plain_zeros, GROUPED), INTERLEAVE), 4, -1),
        dense=reference._awq_weight(kernel, scales, zeros),
    )
    problem.check(problem.run())
