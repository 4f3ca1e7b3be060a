"""Routing: the experts of each token and their weights, against the references."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.moe_routing import topk as routing

from ..common.moe_routing import DTYPES, Routed, logits, randn

ops = torch.ops.vllm_kernels

TOKENS = [1, 3, 17, 127, 1000]
EXPERTS = [1, 6, 8, 16, 60, 64, 128, 160, 256, 384, 512, 1000]


def route(name: str, tokens: int, topk: int, *args: object, indices: torch.dtype) -> Routed:
    ours, theirs = (Routed(tokens, topk, indices) for _ in range(2))
    getattr(ops, name)(*ours.all(), *args)
    getattr(routing, name)(*theirs.all(), *args)
    ours.check(theirs)
    return ours


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("experts", EXPERTS)
def test_topk_softmax(dtype: torch.dtype, tokens: int, experts: int) -> None:
    gate = logits(tokens, experts, torch.float32)
    if dtype != torch.float32:  # few enough steps that each is another number in 16 bits
        gate = gate if experts <= 128 else gate.clamp(-1, 1)
        gate = gate.to(dtype)
    for topk in {1, min(experts, 8), min(experts, 40)}:
        for renormalize in (False, True):
            route("topk_softmax", tokens, topk, gate, renormalize, None, indices=torch.int32)


@pytest.mark.parametrize("indices", [torch.int32, torch.int64, torch.uint32])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
def test_index_dtypes_and_strided_scores(indices: torch.dtype, biased: bool) -> None:
    gate = logits(37, 128, torch.float32)
    gate = torch.cat([gate, gate], 1)[:, :128]
    bias = randn(128) if biased else None
    route("topk_softmax", 37, 8, gate, True, bias, indices=indices)
    route("topk_sigmoid", 37, 8, gate, True, bias, 2.5, indices=indices)


@pytest.mark.parametrize("name", ["topk_sigmoid", "topk_softplus_sqrt"])
@pytest.mark.parametrize("experts", [8, 60, 256, 384])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
def test_other_scores(name: str, dtype: torch.dtype, experts: int, biased: bool) -> None:
    gate = logits(65, experts, dtype)
    bias = randn(experts) if biased else None
    for renormalize in (False, True):
        args = (renormalize, bias, 2.5) if name == "topk_sigmoid" else (renormalize, 2.5, bias)
        rest = () if name == "topk_sigmoid" else (None, None)
        route(name, 65, min(6, experts), gate, *args, *rest, indices=torch.int32)


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("table", [torch.int32, torch.int64])
def test_experts_of_a_table(ids: torch.dtype, table: torch.dtype) -> None:
    gate = randn(33, 64)
    experts = torch.rand(100, 64, device="cuda").argsort(-1)[:, :6].contiguous().to(table)
    tokens = torch.randint(0, 100, (33,), device="cuda").to(ids)
    args = (gate, True, 1.5, None, tokens, experts)
    route("topk_softplus_sqrt", 33, 6, *args, indices=torch.int64)
    tokens[::3] = torch.tensor([-1, 100, 2**31 - 1, -(2**31)] * 3, device="cuda")[:11].to(ids)
    routed = route("topk_softplus_sqrt", 33, 6, *args, indices=torch.int64)
    assert bool((routed.indices[::3] == -1).all())


@pytest.mark.parametrize("experts", [8, 100, 256])
def test_equal_scores_go_to_the_lower_expert(experts: int) -> None:
    gate = torch.zeros(5, experts, device="cuda")
    gate[1] = float("nan")
    gate[2] = float("-inf")
    gate[3, 5] = float("inf")
    gate[4, 3::2] = 1.0
    routed = route("topk_softmax", 5, 4, gate, True, None, indices=torch.int32)
    for row in (0, 1, 2, 3):
        assert routed.indices[row].tolist() == [0, 1, 2, 3]
    assert routed.indices[4].tolist()[:2] == [3, 5]


@pytest.mark.parametrize(
    ("experts", "groups", "group_topk", "topk"),
    [
        (256, 8, 4, 8),
        (160, 8, 3, 6),
        (64, 1, 1, 6),
        (384, 1, 1, 8),
        (512, 1, 1, 22),
        (128, 32, 5, 7),
        (96, 32, 32, 32),
        (16, 16, 4, 2),
        (720, 6, 2, 9),
    ],
)
@pytest.mark.parametrize("scoring", [0, 1])
@pytest.mark.parametrize("renormalize", [False, True])
def test_grouped_topk(
    dtype: torch.dtype,
    experts: int,
    groups: int,
    group_topk: int,
    topk: int,
    scoring: int,
    renormalize: bool,
) -> None:
    scores = randn(129, experts)
    scores = (scores.sigmoid() if scoring == 0 else scores).to(dtype)
    bias = randn(experts) * 0.3
    args = (groups, group_topk, topk, renormalize, 2.5)
    weights, indices = ops.grouped_topk(scores, *args, bias, scoring)
    assert weights.dtype == torch.float32
    assert indices.dtype == torch.int32
    exact = scores.double().sigmoid() if scoring else scores.double()
    choices = exact + bias.double()
    # Choices nearer than rounding may go either way: what is compared are their values.
    theirs, chosen = routing.grouped_topk(scores, *args, bias, scoring)
    torch.testing.assert_close(
        choices.gather(1, indices.long()), choices.gather(1, chosen.long()), rtol=0, atol=2e-6
    )
    same = (indices == chosen).all(-1)
    assert float(same.float().mean()) > 0.98
    torch.testing.assert_close(weights[same], theirs[same], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("bias", DTYPES)
def test_grouped_topk_bias_dtypes(bias: torch.dtype) -> None:
    scores, shift = logits(9, 64, torch.float32), randn(64).to(bias)
    ours = ops.grouped_topk(scores, 8, 4, 6, True, 1.0, shift, 1)
    theirs = routing.grouped_topk(scores, 8, 4, 6, True, 1.0, shift, 1)
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-5, atol=1e-7)


def test_topk_of_no_tokens() -> None:
    empty = torch.empty(0, 8, device="cuda")
    route("topk_softmax", 0, 2, empty, True, None, indices=torch.int32)
    weights, indices = ops.grouped_topk(empty, 2, 1, 2, True, 1.0, empty.new_zeros(8), 1)
    assert weights.shape == indices.shape == (0, 2)
