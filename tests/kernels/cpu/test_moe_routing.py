"""The experts of each token and their weights, per tier."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vllm_kernels.reference.moe_routing import topk as reference

ops = torch.ops.vllm_kernels
# Scores of a few ulp; a weight is their quotient.
TOLERANCE = 2e-6


def biased(logits: torch.Tensor, bias: torch.Tensor, topk: int, **changed: Any) -> Any:
    arguments: dict[str, Any] = {
        "hidden_states": logits,
        "gating_output": logits,
        "correction_bias": bias,
        "topk": topk,
        "renormalize": True,
        "scoring_func": "sqrtsoftplus",
        "num_fused_shared_experts": 0,
        "routed_scaling_factor": 2.5,
        "apply_routed_scaling_factor_on_output": True,
        **changed,
    }
    found = ops.biased_topk_cpu(**arguments)
    wanted = reference.biased_topk_cpu(**arguments)
    return found, wanted


def same(found: Any, wanted: Any) -> None:
    assert [x.dtype for x in found] == [torch.float32, torch.int32]
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found[0], wanted[0], rtol=TOLERANCE, atol=1e-30)


def apart(tokens: int, experts: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits that no rounding of their scores makes equal."""
    rows = [torch.randperm(experts) for _ in range(tokens)]
    wide = torch.stack(rows).to(dtype) if rows else torch.empty(0, experts, dtype=dtype)
    return wide * (8 / experts) - 4


@pytest.mark.parametrize("scoring", ["sigmoid", "sqrtsoftplus"])
@pytest.mark.parametrize(
    ("experts", "topk"), [(256, 8), (384, 6), (64, 6), (37, 37), (1, 1), (9, 0)]
)
@pytest.mark.parametrize("tokens", [0, 1, 70])
def test_biased(
    tier: str, dtype: torch.dtype, scoring: str, experts: int, topk: int, tokens: int
) -> None:
    wide = torch.zeros(tokens, experts + 3, dtype=dtype)
    wide[:, 1 : experts + 1] = apart(tokens, experts, dtype)
    bias = (torch.rand(experts) / 4096).to(dtype)
    logits = wide[:, 1 : experts + 1]
    for renormalize in (True, False):
        same(*biased(logits, bias, topk, scoring_func=scoring, renormalize=renormalize))


def test_against_eager(tier: str) -> None:
    """What the engine's other routers do in PyTorch."""
    logits = apart(9, 256, torch.float32)
    bias = torch.randn(256)
    scores = torch.nn.functional.softplus(logits).sqrt()
    ids = (scores + bias).topk(6, dim=-1).indices
    weights = scores.gather(1, ids)
    (found, experts), _ = biased(logits, bias, 6, routed_scaling_factor=1.5)
    assert torch.equal(experts, ids.int())
    wanted = weights / weights.sum(-1, keepdim=True) * 1.5
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bias_of_any_dtype(tier: str, dtype: torch.dtype, bias_dtype: torch.dtype) -> None:
    same(*biased(apart(5, 64, dtype), torch.randn(64).to(bias_dtype), 6))


def test_equal_experts_in_order(tier: str) -> None:
    logits = torch.zeros(3, 100)
    logits[1, ::7] = 1.0
    found, wanted = biased(logits, torch.zeros(100), 20)
    same(found, wanted)
    assert found[1][0].tolist() == list(range(20))


@pytest.mark.parametrize("experts", [5, 16, 33])
def test_extreme_values(tier: str, experts: int) -> None:
    inf, nan, most = math.inf, math.nan, torch.finfo(torch.float32).max
    values = (-inf, inf, nan, most, -most, -104.0, 90.0, 1e-40)
    logits = torch.zeros(len(values), experts)
    for row, value in enumerate(values):
        logits[row, row % experts] = value
    bias = torch.zeros(experts)
    bias[1], bias[2], bias[4] = -inf, nan, inf
    for scoring in ("sigmoid", "sqrtsoftplus"):
        for topk in (1, 3, experts):
            same(*biased(logits, bias, topk, scoring_func=scoring))
            # No expert has a rank.
            same(*biased(logits, torch.full((experts,), -inf), topk, scoring_func=scoring))
    same(*biased(torch.full((2, experts), -inf), bias, 2))


def test_factor(tier: str) -> None:
    logits, bias = apart(4, 32, torch.float32), torch.zeros(32)
    none = biased(logits, bias, 4, routed_scaling_factor=None)[0][0]
    torch.testing.assert_close(none.sum(1), torch.ones(4))
    not_applied = biased(logits, bias, 4, apply_routed_scaling_factor_on_output=False)[0][0]
    assert torch.equal(none, not_applied)
    same(*biased(logits, bias, 4, renormalize=False))


@pytest.mark.parametrize("scoring", ["sigmoid", "sqrtsoftplus", "softmax"])
@pytest.mark.parametrize(("experts", "topk"), [(256, 6), (37, 5), (17, 1), (8, 0)])
@pytest.mark.parametrize("tokens", [0, 1, 70])
def test_hash(
    tier: str, dtype: torch.dtype, scoring: str, experts: int, topk: int, tokens: int
) -> None:
    logits = torch.randn(tokens, experts).to(dtype) * 4
    named = torch.randint(experts, (tokens, topk + 2), dtype=torch.int32)[:, 1 : topk + 1]
    arguments = (logits, named, topk, scoring, 0, experts, 2.5)
    same(ops.hash_topk_cpu(*arguments), reference.hash_topk_cpu(*arguments))


def test_softmax_of_extreme_values(tier: str) -> None:
    logits = torch.tensor([[-math.inf] * 20, [math.inf] * 20, [0.0] * 20, [3e38] * 20])
    logits[2, 19], logits[3, 3] = math.nan, -3e38
    named = torch.arange(20, dtype=torch.int32).expand(4, 20)
    arguments = (logits, named, 20, "softmax", 0, 20, 1.0)
    same(ops.hash_topk_cpu(*arguments), reference.hash_topk_cpu(*arguments))


LOGITS, BIAS, NAMED = torch.zeros(3, 8), torch.zeros(8), torch.zeros(3, 2, dtype=torch.int32)
BAD_BIASED: dict[str, dict[str, Any]] = {
    "gating_output is float64, want float32": {"gating_output": LOGITS.double()},
    "gating_output has 1 dimension": {"gating_output": LOGITS[0]},
    "gating_output .* last dimension": {"gating_output": torch.zeros(8, 3).t()},
    "correction_bias has shape": {"correction_bias": torch.zeros(7)},
    "correction_bias is int64": {"correction_bias": torch.zeros(8).long()},
    "hidden_states has other tokens than gating_output": {"hidden_states": torch.zeros(4, 8)},
    "topk is 9, want at most the 8 experts": {"topk": 9},
    "topk_weights would be of shape": {"topk": -1},
    'scoring_func is "tanh", want sigmoid or sqrtsoftplus': {"scoring_func": "tanh"},
    "num_fused_shared_experts is 1, want 0": {"num_fused_shared_experts": 1},
}
BAD_HASH: dict[str, dict[str, Any]] = {
    r"tid2eid\[2, 1\] is 8, want 0 to 7": {
        "tid2eid": torch.tensor([[0, 1], [0, 1], [0, 8]], dtype=torch.int32)
    },
    r"tid2eid\[0, 0\] is -1, want 0 to 7": {"tid2eid": NAMED - 1},
    "tid2eid is int64, want int32": {"tid2eid": NAMED.long()},
    "tid2eid has shape": {"topk": 3},
    "num_experts is 9, want the 8 of gating_output": {"num_experts": 9},
    'scoring_func is "", want sigmoid, sqrtsoftplus or softmax': {"scoring_func": ""},
    "num_fused_shared_experts is 2, want 0": {"num_fused_shared_experts": 2},
}


@pytest.mark.parametrize("message", BAD_BIASED)
def test_bad_biased_input_is_refused_in_one_sentence(message: str) -> None:
    arguments: dict[str, Any] = {
        "hidden_states": LOGITS, "gating_output": LOGITS, "correction_bias": BIAS, "topk": 2,
        "renormalize": True, "scoring_func": "sigmoid", "num_fused_shared_experts": 0,
        "routed_scaling_factor": None, "apply_routed_scaling_factor_on_output": True,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=f"^biased_topk_cpu: {message}"):
        ops.biased_topk_cpu(**{**arguments, **BAD_BIASED[message]})


@pytest.mark.parametrize("message", BAD_HASH)
def test_bad_hash_input_is_refused_in_one_sentence(message: str) -> None:
    arguments: dict[str, Any] = {
        "gating_output": LOGITS, "tid2eid": NAMED, "topk": 2, "scoring_func": "sigmoid",
        "num_fused_shared_experts": 0, "num_experts": 8, "routed_scaling_factor": 1.0,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=f"^hash_topk_cpu: {message}"):
        ops.hash_topk_cpu(**{**arguments, **BAD_HASH[message]})
