"""Mixtures of experts with 4-bit weights and activations rounded to int8, per tier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from ..common.sampled import with_dtypes
from .test_moe_gemm import activated
from .test_moe_gemm_coded import ACTS
from .test_packed_int4 import AWQ, EPS, GPTQ, Weights, rounded, weights

ops = torch.ops.vllm_kernels
EXPERTS = 5


@dataclass
class Layer:
    x: torch.Tensor
    w1: Weights
    w2: Weights
    weights: torch.Tensor
    ids: torch.Tensor
    act: int = 0
    bias1: torch.Tensor | None = None
    bias2: torch.Tensor | None = None

    def run(self, **changes: object) -> torch.Tensor:
        out = torch.full(self.x.shape, float("nan"), dtype=self.x.dtype)
        (w1, zero1, scale1), (w2, zero2, scale2) = self.w1.packed(), self.w2.packed()
        arguments: dict[str, object] = {
            "out": out, "hidden_states": self.x, "w1": w1, "w2": w2, "topk_weights": self.weights,
            "topk_ids": self.ids, "moe_comp_method": 3, "w1_scale": scale1, "w2_scale": scale2,
            "w1_zero": zero1, "w2_zero": zero2, "a1_scale": None, "block_size": None,
            "w1_bias": self.bias1, "w2_bias": self.bias2, "alpha": None, "limit": None,
            "is_vnni": True, "act_method": self.act,
        }  # fmt: skip
        ops.fused_experts_cpu(*(arguments | changes).values())
        return out

    def check(self) -> None:
        """Both products round as the contract says; next to a tie either side is right."""
        result = torch.zeros(self.x.shape, dtype=torch.float64)
        slack = torch.zeros_like(result)
        eps = EPS[self.x.dtype]
        one, two = self.w1.exact(), self.w2.exact()
        for expert in range(EXPERTS):
            token, slot = (self.ids == expert).nonzero(as_tuple=True)
            if len(token) == 0:
                continue
            integers, scale = rounded(self.x[token])
            up = integers.double() * scale.double() @ one[expert]
            if self.bias1 is not None:
                up = up + self.bias1[expert].double()
            inner = activated(ACTS[self.act], up)
            levels, inner_scale = rounded(inner.to(self.x.dtype))
            exact = inner / inner_scale.double()
            # What rounding to the dtype and float32's sums move, in levels; and one level where
            # that may cross a tie.
            moved = 4 * eps * exact.abs() + 2.0**-16 * (1 + exact.abs().amax(1, keepdim=True))
            tie = (exact - exact.floor() - 0.5).abs() <= moved
            apart = inner_scale.double() * (moved + tie)
            down = levels.double() * inner_scale.double() @ two[expert]
            terms = apart @ two[expert].abs()
            if self.bias2 is not None:
                down = down + self.bias2[expert].double()
            weight = self.weights[token, slot].double()[:, None]
            result.index_add_(0, token, weight * down)
            slack.index_add_(0, token, weight * (terms + 2.0**-18 * down.abs().amax()))
        bound = slack + 2 * eps * result.abs() + 1e-6
        got = self.run().double()
        wrong = ~((got - result).abs() <= bound)
        assert not wrong.any(), (got[wrong][:5], result[wrong][:5], wrong.nonzero()[:5])
        # The bound is worth something: of bfloat16 a rounding may be half a level of int8.
        worth = 0.05 if self.x.dtype == torch.float32 else 0.5
        assert slack.mean() < worth * result.abs().mean() + 1e-6


def layer(
    tokens: int, hidden: int, inner: int, group: int, dtype: torch.dtype, method: int = GPTQ
) -> Layer:
    chosen, ids = torch.rand(tokens, EXPERTS).topk(2)
    one = weights(hidden, 2 * inner, min(group, hidden), method, experts=(EXPERTS,))
    two = weights(inner, hidden, min(group, inner), method, experts=(EXPERTS,))
    for part in (one, two):
        part.scales /= part.values.shape[1] ** 0.5
    return Layer(torch.randn(tokens, hidden).to(dtype), one, two, chosen, ids.to(torch.int32))


@with_dtypes("tokens", [1, 2, 4, 19, 37, 130])
@pytest.mark.parametrize("method", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_tokens(tier: str, dtype: torch.dtype, tokens: int, method: int) -> None:
    layer(tokens, 96, 160, 32, dtype, method).check()


@with_dtypes("sizes", [(64, 32, 8), (128, 64, 64), (96, 40, 8), (512, 192, 64), (224, 96, 1 << 20)])
def test_sizes(tier: str, dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    """Gates and ups that share a panel, and groups of both products."""
    if 2 * sizes[1] % 32:
        sizes = (sizes[0], sizes[1] + 8, sizes[2])
    layer(9, *sizes, dtype).check()


@with_dtypes("act", [0, 1, 2, 3])
def test_activations_and_biases(tier: str, dtype: torch.dtype, act: int) -> None:
    bias1, bias2 = torch.randn(EXPERTS, 192), torch.randn(EXPERTS, 64).to(dtype)
    replace(layer(6, 64, 96, 32, dtype), act=act, bias1=bias1, bias2=bias2).check()


def test_refusals() -> None:
    case = layer(3, 64, 32, 32, torch.float32)
    packed = case.w1.packed()
    for change, sentence in (
        ({"w1_zero": None}, "w1_zero is missing"),
        ({"w1_scale": None}, "w1_scale is missing"),
        ({"w1": packed[0][0]}, "w1 has shape [2, 8, 128], want 4 dimensions"),
        ({"w1": packed[0][:4]}, "w1_scale has shape [5, 2, 2, 32], want 4 in dimension 0"),
        ({"w1": packed[0].char()}, "w1 is int8"),
        ({"w2": packed[0], "w2_zero": packed[1], "w2_scale": packed[2]}, "want twice as many"),
        ({"hidden_states": torch.ones(3, 32), "out": torch.ones(3, 32)}, "hidden_states' 32 col"),
        ({"moe_comp_method": 1}, "w1_zero is given for weights without zero points, want None"),
    ):
        with pytest.raises(RuntimeError) as caught:
            case.run(**change)
        assert str(caught.value).startswith("fused_experts_cpu: ")
        assert sentence in str(caught.value), (sentence, str(caught.value))
