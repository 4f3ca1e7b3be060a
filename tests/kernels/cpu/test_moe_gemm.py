"""Mixtures of experts against float64 PyTorch, per tier."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from vllm_kernels.reference.moe_gemm import fused

ops = torch.ops.vllm_kernels

ACTS = ("silu", "gelu", "gelu_tanh", "swigluoai")
# Unit roundoffs of what the activation and the output are rounded to.
EPS = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def activated(act: str, x: torch.Tensor, alpha: float = 1.702, limit: float = 7.0) -> torch.Tensor:
    if act == "swigluoai":
        gate, up = x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
        return (up + 1) * gate * torch.sigmoid(alpha * gate)
    gate, up = x.chunk(2, -1)
    if act == "silu":
        return F.silu(gate) * up
    return F.gelu(gate, approximate="tanh" if act == "gelu_tanh" else "none") * up


@dataclass
class Layer:
    """Experts of `hidden` x `inner` and what a router decided for `tokens` tokens."""

    x: torch.Tensor
    w13: torch.Tensor
    w2: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor
    w13_bias: torch.Tensor | None = None
    w2_bias: torch.Tensor | None = None
    act: str = "silu"
    skip_weighted: bool = False

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        out = torch.empty(weight.shape, dtype=weight.dtype)
        ops.prepack_moe_weight(weight, out, "vec")
        return out

    def run(self, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is None:
            out = torch.full(self.x.shape, float("nan"), dtype=self.x.dtype)
        ops.cpu_fused_moe(
            out, self.x, self.packed(self.w13), self.packed(self.w2), self.w13_bias, self.w2_bias,
            self.weights, self.ids, self.skip_weighted, self.act, "vec",
        )  # fmt: skip
        return out

    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """In float64, and the size of what is added up, to which the error is relative."""
        result = torch.zeros(self.x.shape, dtype=torch.float64)
        size = torch.zeros_like(result)
        for expert in range(self.w13.shape[0]):
            token, slot = (self.ids == expert).nonzero(as_tuple=True)
            up = self.x[token].double() @ self.w13[expert].double().t()
            if self.w13_bias is not None:
                up = up + self.w13_bias[expert].double()
            inner = activated(self.act, up)
            down = inner @ self.w2[expert].double().t()
            terms = inner.abs() @ self.w2[expert].double().abs().t()
            if self.w2_bias is not None:
                down = down + self.w2_bias[expert].double()
                terms = terms + self.w2_bias[expert].double().abs()
            weight = self.weights[token, slot].double()[:, None]
            if self.skip_weighted:
                weight = torch.ones_like(weight)
            result.index_add_(0, token, weight * down)
            size.index_add_(0, token, weight.abs() * terms)
        return result, size

    def check(self) -> None:
        exact, size = self.exact()
        got = self.run().double()
        eps = EPS[self.x.dtype]
        # Gate and up cancel too, hence the constant; roundings of the inner values average out.
        bound = eps * (size + exact.abs()) + torch.finfo(self.x.dtype).tiny
        wrong = ~((got - exact).abs() <= bound)
        assert not wrong.any(), (got[wrong][:5], exact[wrong][:5], wrong.nonzero()[:5])


def layer(
    tokens: int,
    experts: int,
    slots: int,
    hidden: int,
    inner: int,
    dtype: torch.dtype,
    bias: bool = False,
) -> Layer:
    order = torch.rand(tokens, experts).argsort(1)[:, :slots]
    return Layer(
        x=torch.randn(tokens, hidden).to(dtype),
        w13=(torch.randn(experts, 2 * inner, hidden) / max(1, hidden) ** 0.5).to(dtype),
        w2=(torch.randn(experts, hidden, inner) / max(1, inner) ** 0.5).to(dtype),
        weights=torch.rand(tokens, slots).softmax(-1),
        ids=order.to(torch.int32),
        w13_bias=torch.randn(experts, 2 * inner).to(dtype) if bias else None,
        w2_bias=torch.randn(experts, hidden).to(dtype) if bias else None,
    )


# Whole panels, panels of 32 columns, odd depths, more rows than one chunk of an expert.
SHAPES = [
    (1, 8, 2, 128, 64),
    (5, 4, 3, 96, 80),
    (3, 3, 1, 37, 19),
    (1, 2, 2, 1, 1),
    (40, 4, 2, 65, 96),
    (300, 2, 1, 64, 48),
    (20, 60, 4, 160, 32),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_shapes(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int, int], bias: bool
) -> None:
    layer(*shape, dtype, bias).check()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("tokens", [1, 7, 33])
def test_activations(tier: str, dtype: torch.dtype, act: str, tokens: int) -> None:
    case = layer(tokens, 4, 2, 128, 96, dtype, bias=True)
    case.x *= 5
    case.act = act
    case.check()


@pytest.mark.parametrize("tokens", [*range(1, 20), 24, 25, 31, 32, 33, 48, 64, 127, 128, 129, 257])
def test_rows_of_one_expert(tier: str, dtype: torch.dtype, tokens: int) -> None:
    """K is split from some number of rows on; every height of a strip and of tiles."""
    case = layer(tokens, 1, 1, 288, 64, dtype)
    case.check()


def test_passes(tier: str) -> None:
    """More tokens than scratch memory is allowed for: equal passes over the weights."""
    case = layer(1300, 2, 2, 16, 16384, torch.float32)
    got = case.run()
    expected = torch.empty_like(got)
    fused.cpu_fused_moe(
        expected,
        case.x,
        case.w13,
        case.w2,
        None,
        None,
        case.weights,
        case.ids,
        False,
        "silu",
        "vec",
    )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_only_chosen_experts_are_read(tier: str, dtype: torch.dtype) -> None:
    case = layer(6, 8, 2, 64, 64, dtype)
    case.ids = torch.tensor([[1, 5]] * 6, dtype=torch.int32)
    for expert in set(range(8)) - {1, 5}:
        case.w13[expert] = float("nan")
        case.w2[expert] = float("nan")
    assert case.run().isfinite().all()
    case.check()


def test_nan_stays_with_its_token(tier: str, dtype: torch.dtype) -> None:
    case = layer(20, 4, 2, 96, 64, dtype)
    clean = case.run()
    case.x[7, 3] = float("nan")
    got = case.run()
    assert got[7].isnan().all()
    keep = torch.arange(20) != 7
    assert torch.equal(got[keep], clean[keep])


def test_one_expert_twice(tier: str) -> None:
    case = layer(4, 3, 2, 64, 32, torch.float32)
    case.ids = torch.tensor([[2, 2], [0, 0], [1, 2], [2, 1]], dtype=torch.int32)
    case.check()


def test_strides_and_int64_ids(tier: str, dtype: torch.dtype) -> None:
    case = layer(9, 5, 3, 64, 48, dtype)
    want = case.run()
    wide = torch.zeros(9, 100, dtype=dtype)
    wide[:, 10:74] = case.x
    case.x = wide[:, 10:74]
    case.ids = case.ids.long().t().contiguous().t()
    case.weights = torch.stack((case.weights, case.weights), -1)[..., 0]
    out = torch.full((9, 90), 7.0, dtype=dtype)
    assert torch.equal(case.run(out[:, 5:69]), want)
    assert (out[:, :5] == 7).all()
    assert (out[:, 69:] == 7).all()


def test_weight_of_any_strides_packs_alike(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 96, 50).to(dtype)
    want, got = torch.empty_like(weight), torch.empty_like(weight)
    ops.prepack_moe_weight(weight, want, "amx")
    ops.prepack_moe_weight(weight.permute(2, 0, 1).contiguous().permute(1, 2, 0), got, "vec")
    assert torch.equal(want, got)
    assert torch.equal(want.flatten().sort()[0], weight.flatten().sort()[0])


def test_tiers_share_the_layout(tier: str) -> None:
    """Weights packed on one tier serve the others: packing does not look at the tier."""
    weight = torch.randn(2, 96, 64).bfloat16()
    got = torch.empty_like(weight)
    ops.prepack_moe_weight(weight, got, "vec")
    panel = got.flatten()[: 64 * 64].view(32, 64, 2)
    assert torch.equal(panel, weight[0, :64].t().reshape(32, 2, 64).transpose(1, 2))


def test_skip_weighted(tier: str, dtype: torch.dtype) -> None:
    case = layer(5, 4, 1, 64, 32, dtype)
    case.weights = torch.full((5, 1), float("nan"))
    case.skip_weighted = True
    case.check()


@pytest.mark.parametrize("shape", [(0, 4, 2, 64, 32), (3, 4, 0, 64, 32), (2, 4, 2, 64, 0)], ids=str)
def test_empty(tier: str, shape: tuple[int, int, int, int, int]) -> None:
    case = layer(*shape, torch.float32)
    assert torch.equal(case.run(), torch.zeros(case.x.shape))


def test_matches_reference(tier: str, dtype: torch.dtype) -> None:
    case = layer(11, 6, 3, 128, 64, dtype, bias=True)
    expected = torch.empty_like(case.x)
    fused.cpu_fused_moe(
        expected, case.x, case.w13, case.w2, case.w13_bias, case.w2_bias, case.weights, case.ids,
        False, "silu", "vec",
    )  # fmt: skip
    rtol = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(case.run(), expected, rtol=rtol, atol=rtol)


# Bad input: one sentence that names op and argument


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, r"weight has shape \[2, 3\], want 3 dimensions"),
        ({"weight": torch.zeros(2, 3, 4).int()}, "weight is int32, want float32 or bfloat16"),
        ({"packed_weight": torch.zeros(2, 4, 3)}, r"packed_weight has shape \[2, 4, 3\], want"),
        ({"packed_weight": torch.zeros(2, 3, 4).half()}, "packed_weight is float16, want float32"),
        ({"packed_weight": torch.zeros(4, 3, 2).permute(2, 1, 0)}, "packed_weight is not contigu"),
        ({"isa": "sse2"}, "isa is 'sse2', want amx, vec, neon or vsx"),
    ],
)
def test_bad_prepack(changed: dict[str, object], message: str) -> None:
    good = {"weight": torch.zeros(2, 3, 4), "packed_weight": torch.zeros(2, 3, 4), "isa": "vec"}
    with pytest.raises(RuntimeError, match=f"prepack_moe_weight: {message}"):
        ops.prepack_moe_weight(**{**good, **changed})


def test_prepack_in_place_is_refused() -> None:
    weight = torch.zeros(2, 3, 4)
    with pytest.raises(RuntimeError, match="packed_weight shares memory with weight"):
        ops.prepack_moe_weight(weight, weight, "vec")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": torch.zeros(2, 8).double()}, "input is float64, want float32"),
        ({"input": torch.zeros(8, 2).t()}, "input has stride 2 in its last dimension"),
        ({"output": torch.zeros(3, 8)}, r"output has shape \[3, 8\]"),
        ({"output": torch.zeros(2, 8).half()}, "output is float16, want float32 as input"),
        ({"w13": torch.zeros(3, 4, 6)}, r"w13 has shape \[3, 4, 6\], want 8 in dimension 2"),
        ({"w13": torch.zeros(3, 4, 8).half()}, "w13 is float16, want float32 as input"),
        ({"w2": torch.zeros(4, 8, 2)}, r"w2 has shape \[4, 8, 2\], want 3 in dimension 0"),
        ({"w2": torch.zeros(3, 8, 3)}, r"w13 has shape \[3, 4, 8\] and w2 \[3, 8, 3\], want"),
        ({"w13_bias": torch.zeros(3, 8)}, r"w13_bias has shape \[3, 8\], want 4 in dimension 1"),
        ({"w2_bias": torch.zeros(3, 8).half()}, "w2_bias is float16, want float32 as input"),
        ({"topk_weights": torch.zeros(2, 2).half()}, "topk_weights is float16, want float32"),
        ({"topk_weights": torch.zeros(2, 1)}, r"topk_weights has shape \[2, 1\]"),
        ({"topk_id": torch.zeros(2, 2)}, "topk_id is float32, want int32 or int64"),
        ({"topk_id": torch.zeros(3, 2).int()}, r"topk_id has shape \[3, 2\], want 2 in dimension"),
        ({"topk_id": torch.tensor([[0, 1], [2, 3]])}, r"topk_id\[1, 1\] is 3, want an expert from"),
        ({"topk_id": torch.tensor([[0, -1], [2, 2]])}, r"topk_id\[0, 1\] is -1, want an expert"),
        ({"skip_weighted": True}, "skip_weighted with 2 experts a token, want one"),
        ({"act": "relu2"}, "act is 'relu2', want silu, gelu, gelu_tanh or swigluoai"),
        ({"isa": "none"}, "isa is 'none', want amx, vec, neon or vsx"),
    ],
)
def test_bad_call(changed: dict[str, object], message: str) -> None:
    good = {
        "output": torch.zeros(2, 8),
        "input": torch.zeros(2, 8),
        "w13": torch.zeros(3, 4, 8),
        "w2": torch.zeros(3, 8, 2),
        "w13_bias": None,
        "w2_bias": None,
        "topk_weights": torch.zeros(2, 2),
        "topk_id": torch.zeros(2, 2, dtype=torch.int32),
        "skip_weighted": False,
        "act": "silu",
        "isa": "vec",
    }
    with pytest.raises(RuntimeError, match=f"cpu_fused_moe: {message}"):
        ops.cpu_fused_moe(**{**good, **changed})


def test_output_must_not_be_the_input() -> None:
    case = layer(2, 3, 2, 64, 32, torch.float32)
    with pytest.raises(RuntimeError, match="cpu_fused_moe: output shares memory with input"):
        case.run(case.x)
