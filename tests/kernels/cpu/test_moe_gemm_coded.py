"""Mixtures of experts with weights of 16, 8 and 4 bits against float64 PyTorch, per tier."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch

from vllm_kernels.reference.moe_gemm import experts

from ..common.sampled import with_dtypes
from .test_moe_gemm import activated

ops = torch.ops.vllm_kernels
E4M3 = torch.float8_e4m3fn
E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])

# Unit roundoffs of what the activation and the output are rounded to.
EPS = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
BLOCK = (32, 64)
# By act_method.
ACTS = ("silu", "swigluoai", "gelu", "gelu_tanh")


def coded(method: int, shape: tuple[int, int, int]) -> tuple[torch.Tensor, object, torch.Tensor]:
    """Stored weights, their scales, and what they mean, in float64."""
    experts, n, k = shape
    if method == 0:
        weight = torch.randn(shape) / k**0.5
        return weight, None, weight.double()
    if method == 1:
        weight = torch.randint(-128, 128, shape, dtype=torch.int8)
        scale = torch.rand(experts, n, 1) / 64 / k**0.5 + 1e-4
        return weight, scale, weight.double() * scale.double()
    if method == 2:
        weight = torch.randn(shape).to(E4M3)
        scale = torch.rand(experts, -(-n // BLOCK[0]), -(-k // BLOCK[1])) / k**0.5 + 1e-3
        wide = scale.double().repeat_interleave(BLOCK[0], 1)[:, :n]
        return weight, scale, weight.double() * wide.repeat_interleave(BLOCK[1], 2)[..., :k]
    weight = torch.randint(0, 256, (experts, n, k // 2), dtype=torch.uint8)
    scale = torch.randint(118, 124, (experts, n, k // 32), dtype=torch.uint8)
    table = torch.cat((E2M1, -E2M1)).double()
    values = table[torch.stack((weight & 15, weight >> 4), -1).long()].flatten(-2)
    return weight, scale, values * torch.exp2(scale.double() - 127).repeat_interleave(32, -1)


@dataclass
class Layer:
    method: int
    x: torch.Tensor
    w1: tuple[torch.Tensor, object, torch.Tensor]
    w2: tuple[torch.Tensor, object, torch.Tensor]
    weights: torch.Tensor
    ids: torch.Tensor
    bias1: torch.Tensor | None = None
    bias2: torch.Tensor | None = None
    act: int = 0
    alpha: float | None = None
    limit: float | None = None

    def run(self) -> torch.Tensor:
        out = torch.full(self.x.shape, float("nan"), dtype=self.x.dtype)
        weights = [w[0].to(self.x.dtype) if self.method == 0 else w[0] for w in (self.w1, self.w2)]
        scales = [
            ops.convert_scale_packed(w[1]) if self.method == 4 else w[1] for w in (self.w1, self.w2)
        ]
        ops.fused_experts_cpu(
            out, self.x, *map(ops.convert_weight_packed, weights), self.weights, self.ids,
            self.method, *scales, None, None, None, list(BLOCK) if self.method == 2 else None,
            self.bias1, self.bias2, self.alpha, self.limit, True, self.act,
        )  # fmt: skip
        return out

    def check(self) -> None:
        result = torch.zeros(self.x.shape, dtype=torch.float64)
        size = torch.zeros_like(result)
        meant = [
            w[2].to(self.x.dtype).double() if self.method == 0 else w[2] for w in (self.w1, self.w2)
        ]
        for expert in range(self.w1[0].shape[0]):
            token, slot = (self.ids == expert).nonzero(as_tuple=True)
            up = self.x[token].double() @ meant[0][expert].t()
            if self.bias1 is not None:
                up = up + self.bias1[expert].double()
            inner = activated(ACTS[self.act], up, self.alpha or 1.702, self.limit or 7.0)
            down, terms = inner @ meant[1][expert].t(), inner.abs() @ meant[1][expert].abs().t()
            if self.bias2 is not None:
                down, terms = (
                    down + self.bias2[expert].double(),
                    terms + self.bias2[expert].double().abs(),
                )
            weight = self.weights[token, slot].double()[:, None]
            result.index_add_(0, token, weight * down)
            size.index_add_(0, token, weight.abs() * terms)
        # Roundings of the activation's result and of the output; sums in float32.
        bound = 2 * EPS[self.x.dtype] * (size + result.abs()) + 1e-6
        got = self.run().double()
        wrong = ~((got - result).abs() <= bound)
        assert not wrong.any(), (got[wrong][:5], result[wrong][:5], wrong.nonzero()[:5])


def layer(
    method: int, tokens: int, hidden: int, inner: int, dtype: torch.dtype, experts: int = 5
) -> Layer:
    weights, ids = torch.rand(tokens, experts).topk(2)
    return Layer(
        method,
        torch.randn(tokens, hidden).to(dtype),
        coded(method, (experts, 2 * inner, hidden)),
        coded(method, (experts, hidden, inner)),
        weights,
        ids.to(torch.int32),
    )


METHODS = {"plain": 0, "int8": 1, "fp8": 2, "mxfp4": 4}


@with_dtypes("case", itertools.product(METHODS, [1, 4, 37, 130]))
def test_tokens(tier: str, dtype: torch.dtype, case: tuple[str, int]) -> None:
    method, tokens = METHODS[case[0]], case[1]
    layer(method, tokens, 96, 160, dtype).check()


@pytest.mark.parametrize("method", [1, 2], ids=["int8", "fp8"])
def test_odd_sizes(tier: str, dtype: torch.dtype, method: int) -> None:
    layer(method, 7, 75, 43, dtype).check()


@with_dtypes("case", itertools.product(METHODS, [0, 1, 2, 3]))
def test_activations_and_biases(tier: str, dtype: torch.dtype, case: tuple[str, int]) -> None:
    method, act = METHODS[case[0]], case[1]
    biases = {"bias1": torch.randn(5, 192), "bias2": torch.randn(5, 64).to(dtype)}
    replace(layer(method, 6, 64, 96, dtype), act=act, **biases).check()


def test_limit(tier: str, dtype: torch.dtype) -> None:
    case = layer(4, 6, 64, 96, dtype)
    replace(case, act=1, alpha=1.2, limit=0.5).check()


def test_no_tokens(tier: str, dtype: torch.dtype) -> None:
    assert layer(2, 0, 64, 96, dtype).run().shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": 5}, "is 5, want 0 (16 bits), 1 (INT8), 2 (FP8), 3 (INT4) or 4 (MXFP4)"),
        ({"act": 4}, "act_method is 4, want a number from 0 to 3"),
        ({"ids": torch.full((3, 2), 5)}, "topk_ids[0, 0] is 5, want an expert from 0 to 4"),
        ({"weights": torch.ones(3, 1)}, "topk_weights has shape [3, 1]"),
        ({"method": 1}, "w1 is float8_e4m3fn, want int8"),
        ({"bias1": torch.ones(5, 191)}, "w1_bias has shape [5, 191]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals(change: dict[str, object], sentence: str) -> None:
    case = layer(2, 3, 64, 96, torch.float32)
    with pytest.raises(RuntimeError) as caught:
        replace(case, **change).run()  # type: ignore[arg-type]
    assert str(caught.value).startswith("fused_experts_cpu: ")
    assert sentence in str(caught.value)


def test_scales_keep_every_value() -> None:
    scale = torch.randint(0, 256, (2, 64, 3), dtype=torch.uint8)
    packed = ops.convert_scale_packed(scale)
    assert torch.equal(packed.view(2, 2, 3, 32), scale.view(2, 2, 32, 3).transpose(2, 3))
    with pytest.raises(RuntimeError, match="want a multiple of 32 columns"):
        ops.convert_scale_packed(scale[:, :31])


@pytest.mark.parametrize("act", range(4))
@pytest.mark.parametrize(("tokens", "hidden", "inner"), [(1, 96, 64), (7, 33, 17), (40, 128, 96)])
def test_int8_by_the_names_of_arm_and_power(
    tier: str, dtype: torch.dtype, tokens: int, hidden: int, inner: int, act: int
) -> None:
    """What ``fused_experts_cpu`` gives for the same weights; and without those of the router."""
    one = layer(1, tokens, hidden, inner, dtype)
    one = replace(one, bias2=torch.randn(5, hidden), act=act)
    packed = []
    for weight, _, _ in (one.w1, one.w2):
        packed.append(torch.empty_like(weight))
        ops.prepack_moe_weight_int8(weight, packed[-1], "vsx")
        assert torch.equal(packed[-1], ops.convert_weight_packed(weight))

    def run(weights: torch.Tensor, ids: torch.Tensor, skip: bool) -> torch.Tensor:
        out = torch.full_like(one.x, float("nan"))
        ops.cpu_fused_moe_int8(
            out, one.x, *packed, one.w1[1], one.w2[1], one.bias1, one.bias2, weights, ids, skip,
            ACTS[act], "neon",
        )  # fmt: skip
        return out

    assert torch.equal(run(one.weights, one.ids, False), one.run())
    alone = replace(one, weights=torch.ones(tokens, 1), ids=one.ids[:, :1].contiguous())
    assert torch.equal(run(torch.full((tokens, 1), 3.0), alone.ids, True), alone.run())


def test_int8_by_those_names_refuses() -> None:
    one = layer(1, 3, 32, 32, torch.float32)
    good = {
        "output": torch.empty_like(one.x), "input": one.x, "w13": one.w1[0], "w2": one.w2[0],
        "w13_scale": one.w1[1], "w2_scale": one.w2[1], "w13_bias": None, "w2_bias": None,
        "topk_weights": one.weights, "topk_id": one.ids, "skip_weighted": False, "act": "silu",
        "isa": "neon",
    }  # fmt: skip
    for changes, message in (
        ({"w13": one.w1[0].float()}, "w13 is float32, want int8"),
        ({"w2_scale": torch.ones(5, 31)}, r"w2_scale has shape \[5, 31\], want 32 in dimension 1"),
        ({"skip_weighted": True}, "skip_weighted with 2 experts a token, want one"),
        ({"act": "relu"}, "act is 'relu', want silu, gelu, gelu_tanh or swigluoai"),
        ({"isa": "sve"}, "isa is 'sve', want amx, vec, neon or vsx"),
    ):
        with pytest.raises(RuntimeError, match=f"cpu_fused_moe_int8: {message}"):
            ops.cpu_fused_moe_int8(*(good | changes).values())
        if not changes.keys() <= {"act", "isa"}:
            continue  # the reference leaves shapes and dtypes to PyTorch
        with pytest.raises(RuntimeError, match=f"cpu_fused_moe_int8: {message}"):
            experts.cpu_fused_moe_int8(**(good | changes))
    weight = torch.zeros(2, 4, 4)
    with pytest.raises(RuntimeError, match="prepack_moe_weight_int8: isa is 'sve', want amx"):
        experts.prepack_moe_weight_int8(weight.char(), weight.char(), "sve")
    with pytest.raises(RuntimeError, match="prepack_moe_weight_int8: weight is float32, want int8"):
        ops.prepack_moe_weight_int8(weight, weight.clone(), "neon")
