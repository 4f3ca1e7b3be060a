"""From logits to tokens, per tier."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vllm_kernels.reference.sampling import choose, speculative

ops = torch.ops.vllm_kernels
# Around whole vectors of every tier, and more than one piece of a row.
WIDTHS = (1, 3, 15, 16, 17, 63, 64, 67, 1000, 65536, 65537, 150001)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_greedy_argmax(tier: str, rows: int, width: int) -> None:
    wide = torch.randn(rows, width + 3)
    logits = wide[:, 1 : width + 1]
    assert torch.equal(
        ops.greedy_argmax(logits), logits.argmax(1) if rows else logits.sum(1).long()
    )
    # Few different values: of equal ones the first.
    equal = logits.round()
    assert torch.equal(ops.greedy_argmax(equal), choose.greedy_argmax(equal))


@pytest.mark.parametrize("width", [1, 16, 37, 70001])
def test_greedy_argmax_of_extreme_values(tier: str, width: int) -> None:
    lowest, most = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
    inf, nan = math.inf, math.nan
    for value, other in (
        (-inf, -inf), (lowest, -inf), (0.0, lowest), (-0.0, 0.0), (inf, most), (nan, inf),
        (nan, 0.0),
    ):  # fmt: skip
        for place in {0, width // 2, width - 1}:
            logits = torch.full((2, width), other)
            logits[1, place] = value
            want = choose.greedy_argmax(logits)
            assert torch.equal(ops.greedy_argmax(logits), want), (value, other, place)
            logits[1, width - 1] = value
            assert torch.equal(ops.greedy_argmax(logits), choose.greedy_argmax(logits))


def test_greedy_argmax_is_torchs(tier: str) -> None:
    logits = torch.randn(4, 33)
    logits[1, 7] = logits[1, 20] = math.nan
    logits[2].fill_(-math.inf)
    assert torch.equal(ops.greedy_argmax(logits), logits.argmax(1))


@pytest.mark.parametrize("width", WIDTHS)
def test_fused_gumbel_argmax(tier: str, width: int) -> None:
    logits = torch.randn(6, width) * 3
    logits[1] = 0.0
    logits[2, ::2] = -math.inf
    logits[3] = -math.inf
    logits[4, width // 2] = math.nan
    seeds = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 12345])
    found = ops.fused_gumbel_argmax(logits, seeds)
    assert torch.equal(found, choose.fused_gumbel_argmax(logits, seeds))
    assert torch.equal(found, ops.fused_gumbel_argmax(logits, seeds))


def test_fused_gumbel_argmax_draws_from_the_softmax(tier: str) -> None:
    draws = 20000
    row = torch.tensor([0.0, 1.0, 2.0, -1.0, -math.inf, math.nan, 0.5])
    seeds = torch.arange(draws) * 7919 - 5
    counts = ops.fused_gumbel_argmax(row.repeat(draws, 1), seeds).bincount(minlength=7)
    expected = torch.where(row.isnan(), -math.inf, row).softmax(0).double()
    assert int(counts[4]) == int(counts[5]) == 0
    # Five standard deviations of a binomial distribution.
    bound = 5 * (draws * expected * (1 - expected)).sqrt()
    assert bool(((counts - draws * expected).abs() <= bound).all()), counts


def test_fused_gumbel_argmax_of_large_logits_keeps_the_noise(tier: str) -> None:
    row = torch.full((2000, 2), torch.finfo(torch.float32).max)
    ones = int(ops.fused_gumbel_argmax(row, torch.arange(2000)).sum())
    assert 850 < ones < 1150
    row[:, 0] = math.inf
    assert int(ops.fused_gumbel_argmax(row, torch.arange(2000)).sum()) == 0


def batch(lengths: list[int], vocabulary: int) -> dict[str, Any]:
    """Drafted tokens of requests, and what the ops take besides."""
    tokens, requests = sum(lengths), len(lengths)
    draft_probs = torch.rand(tokens, vocabulary + 2).softmax(1)[:, :vocabulary]
    return {
        "ends": torch.tensor(lengths, dtype=torch.int64).cumsum(0),
        "draft": torch.randint(vocabulary, (tokens,)),
        "draft_probs": draft_probs,
        "target_probs": torch.rand(tokens, vocabulary).softmax(1),
        "bonus": torch.randint(vocabulary, (requests, 1)),
        "recovered": torch.randint(vocabulary, (tokens,)),
        "uniform": torch.rand(tokens) * 1.2,
        "greedy": torch.arange(requests) % 2 == 0,
    }


LENGTHS = ([3], [0, 4, 1, 0, 2], [5, 5, 5, 5], [0], [])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_expand(tier: str, lengths: list[int]) -> None:
    ends = torch.tensor(lengths, dtype=torch.int64).cumsum(0)
    values = torch.arange(len(lengths)) - 1
    for replace in ((-1, 9), (7, 8)):
        found = torch.full((sum(lengths) + 3,), 77)
        want = found.clone()
        ops.expand_kernel_impl(found, values, ends, *replace)
        speculative.expand_kernel_impl(want, values, ends, *replace)
        assert torch.equal(found, want)
        assert found[sum(lengths) :].tolist() == [77, 77, 77]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_rejection_greedy(tier: str, lengths: list[int], mask: bool) -> None:
    torch.manual_seed(len(lengths))
    one = batch(lengths, 50)
    target = torch.where(torch.rand(sum(lengths)) < 0.7, one["draft"], one["recovered"])
    found = torch.full((len(lengths), 9), -1)[:, :7]
    want = found.clone()
    rest = (target, one["bonus"], one["greedy"] if mask else None, 6)
    ops.rejection_greedy_sample_kernel_impl(found, one["ends"], one["draft"], *rest)
    speculative.rejection_greedy_sample_kernel_impl(want, one["ends"], one["draft"], *rest)
    assert torch.equal(found, want)


@pytest.mark.parametrize("no_draft_probs", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_rejection_random(tier: str, lengths: list[int], no_draft_probs: bool) -> None:
    torch.manual_seed(len(lengths))
    one = batch(lengths, 40)
    if sum(lengths):
        one["draft_probs"][0, one["draft"][0]] = 0.0  # never accepted
    found = torch.full((len(lengths), 6), -1)
    want = found.clone()
    for greedy in (None, one["greedy"]):
        arguments = (
            one["ends"], one["draft"], None if no_draft_probs else one["draft_probs"],
            one["target_probs"] * (40 if no_draft_probs else 1), one["bonus"].squeeze(1),
            one["recovered"], one["uniform"], greedy, 5, 40, no_draft_probs,
        )  # fmt: skip
        ops.rejection_random_sample_kernel_impl(found, *arguments)
        speculative.rejection_random_sample_kernel_impl(want, *arguments)
        assert torch.equal(found, want)


@pytest.mark.parametrize("vocabulary", [1, 2, 16, 67, 5003])
@pytest.mark.parametrize("no_draft_probs", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_sample_recovered(
    tier: str, lengths: list[int], no_draft_probs: bool, vocabulary: int
) -> None:
    one = batch(lengths, vocabulary)
    if sum(lengths):
        one["draft"][0] = 0
        one["draft"][-1] = vocabulary - 1
        one["target_probs"][0] = one["draft_probs"][0]  # nothing is left: the first token
    inv_q = torch.empty(len(lengths), vocabulary + 1).exponential_().reciprocal()[:, :vocabulary]
    found = torch.full((sum(lengths),), -1)
    want = found.clone()
    probs = None if no_draft_probs else one["draft_probs"]
    arguments = (one["ends"], one["draft"], probs, one["target_probs"], inv_q, vocabulary)
    ops.sample_recovered_tokens_kernel_impl(found, *arguments, no_draft_probs)
    speculative.sample_recovered_tokens_kernel_impl(want, *arguments, no_draft_probs)
    assert torch.equal(found, want)


# Neither refused nor normalised; products and quotients are in the range of float32. One NaN of
# each sign, since arithmetic makes both.
ODD = (0.0, -0.0, 0.5, 1.0, -0.5, -3.0, 1e18, math.inf, -math.inf, math.nan, -math.nan)


def odd(*shape: int) -> torch.Tensor:
    values = torch.tensor(ODD)
    return values[torch.randint(len(ODD), shape)]


@pytest.mark.parametrize("no_draft_probs", [False, True])
def test_rejection_of_what_is_no_probability(tier: str, no_draft_probs: bool) -> None:
    pairs = [(p, q, u) for p in ODD for q in ODD for u in ODD]
    count = len(pairs)
    numbers = torch.tensor(pairs)
    found = torch.full((count, 2), -1)
    ops.rejection_random_sample_kernel_impl(
        found, torch.arange(1, count + 1), torch.zeros(count, dtype=torch.int64), numbers[:, 1:2],
        numbers[:, :1], torch.full((count,), 7), torch.full((count,), 3),
        numbers[:, 2].contiguous(), None, 1, 1, no_draft_probs,
    )  # fmt: skip
    for (p, q, u), row in zip(pairs, found.tolist(), strict=True):
        chance = 1.0 if no_draft_probs else q
        # Of these numbers float32 compares as Python does.
        accepted = chance > 0 and p / chance >= u
        assert row == ([0, 7] if accepted else [3, -1]), (p, q, u)


@pytest.mark.parametrize("vocabulary", [1, 3, 16, 67])
@pytest.mark.parametrize("no_draft_probs", [False, True])
def test_recovery_from_what_is_no_probability(
    tier: str, no_draft_probs: bool, vocabulary: int
) -> None:
    tokens = 200
    target, draft, factor = odd(tokens, vocabulary), odd(tokens, vocabulary), odd(1, vocabulary)
    target[:20], draft[:10] = math.nan, 0.25
    drafted = torch.randint(vocabulary, (tokens,))
    found = torch.full((tokens,), -1)
    probs = None if no_draft_probs else draft
    ends = torch.tensor([tokens])
    ops.sample_recovered_tokens_kernel_impl(
        found, ends, drafted, probs, target, factor, vocabulary, no_draft_probs
    )
    for token in range(tokens):
        best, place = -1.0, 0
        for at in range(vocabulary):
            rest = float(target[token, at])
            if no_draft_probs:
                rest = 0.0 if at == drafted[token] else rest
            else:
                rest -= float(draft[token, at])
                rest = rest if rest > 0 else 0.0
            if rest * float(factor[0, at]) > best:
                best, place = rest * float(factor[0, at]), at
        assert found[token] == place, (token, target[token], draft[token], factor)


def test_bad_input(tier: str, subtests: pytest.Subtests) -> None:
    logits, seeds = torch.randn(2, 8), torch.zeros(2, dtype=torch.int64)
    one = batch([2, 1], 8)
    out = torch.zeros(2, 3, dtype=torch.int64)
    greedy = (one["ends"], one["draft"], one["draft"], one["bonus"], None, 2)
    random = (one["ends"], one["draft"], one["draft_probs"], one["target_probs"], one["bonus"],
              one["recovered"], one["uniform"], None, 2, 8, False)  # fmt: skip
    inv_q = torch.ones(2, 8)
    recovered = (
        one["ends"],
        one["draft"],
        one["draft_probs"],
        one["target_probs"],
        inv_q,
        8,
        False,
    )
    flat = torch.zeros(3, dtype=torch.int64)

    def put(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
        return (*values[:at], value, *values[at + 1 :])

    cases: list[tuple[str, tuple[Any, ...], str]] = [
        ("greedy_argmax", (logits.bfloat16(),), "logits"),
        ("greedy_argmax", (logits[0],), "logits"),
        ("greedy_argmax", (logits[:, :0],), "want a vocabulary of 1"),
        ("greedy_argmax", (logits.t(),), "logits"),
        ("fused_gumbel_argmax", (logits, seeds[:1]), "seeds"),
        ("fused_gumbel_argmax", (logits, seeds.int()), "seeds"),
        ("expand_kernel_impl", (flat, seeds, torch.tensor([2, 4]), 0, 1), "cu_num_tokens has 4"),
        ("expand_kernel_impl", (flat, seeds, torch.tensor([2, 1]), 0, 1), "cu_num_tokens has 1"),
        ("expand_kernel_impl", (flat, seeds[:1], torch.tensor([2, 3]), 0, 1), "input"),
    ]
    for name, arguments, changes in (
        (
            "rejection_greedy_sample_kernel_impl",
            greedy,
            [
                (0, torch.tensor([-1, 3]), "cu_num_draft_tokens has -1"),
                (1, one["draft"].int(), "draft_token_ids"),
                (2, one["draft"][:2], "target_argmax"),
                (3, one["bonus"][:1], "bonus_token_ids"),
                (3, one["bonus"].expand(2, 2), "bonus_token_ids"),
                (4, torch.zeros(3, dtype=torch.bool), "is_greedy"),
                (0, torch.tensor([0, 3]), "output_token_ids has shape"),
            ],
        ),
        (
            "rejection_random_sample_kernel_impl",
            random,
            [
                (1, torch.tensor([0, 8, 0]), "draft_token_ids has 8 at index 1"),
                (1, torch.tensor([0, 1, -1]), "draft_token_ids has -1 at index 2"),
                (2, None, "draft_probs is missing"),
                (2, one["draft_probs"][:2], "draft_probs"),
                (3, one["target_probs"].double(), "target_probs"),
                (6, one["uniform"][:1], "uniform_probs"),
                (9, 9, "want at least vocab_size 9 columns"),
            ],
        ),
        (
            "sample_recovered_tokens_kernel_impl",
            recovered,
            [
                (4, inv_q[:1], "inv_q"),
                (5, 0, "vocab_size 0"),
                (2, None, "draft_probs is missing"),
            ],
        ),
    ):
        first = flat if name.startswith("sample") else out
        getattr(ops, name)(first, *arguments)
        cases += [
            (name, (first, *put(arguments, at, value)), message) for at, value, message in changes
        ]
    for name, arguments, message in cases:
        with (
            subtests.test(name, message=message),
            pytest.raises(RuntimeError, match=f"{name}: .*{message}"),
        ):
            getattr(ops, name)(*arguments)
