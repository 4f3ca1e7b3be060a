"""Gated delta nets against the recurrence in float64, per tier."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

ops = torch.ops.vllm_kernels

# One rounding of the result. In float32, and for what cancels: the state's error grows with the
# tokens by a part in 2^23 of its size each, a sum of `key_size` products.
RTOL = {torch.float32: 2e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
ATOL = 2e-5
# key heads, value heads, key size, value size
SHAPES = [(1, 1, 1, 1), (2, 4, 40, 35), (1, 3, 64, 64), (2, 2, 128, 128), (1, 2, 33, 257)]


def exact(
    rows: tuple[torch.Tensor, ...],
    gates: tuple[torch.Tensor, torch.Tensor],
    state: torch.Tensor,
    epsilon: float | None = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Results [tokens, heads, size] and the states behind each token, one token at a time."""
    q, k, v = (x.double() for x in rows)
    if epsilon is not None:
        q, k = (x / ((x * x).sum(-1, keepdim=True) + epsilon).sqrt() for x in (q, k))
    group = v.shape[1] // q.shape[1]
    q = q.repeat_interleave(group, 1) / q.shape[-1] ** 0.5
    k = k.repeat_interleave(group, 1)
    g, beta = (x.double() for x in gates)
    state = state.double()
    results, states = [], []
    for t in range(len(q)):
        state = state * g[t].exp()[:, None, None]
        correction = beta[t][:, None] * (v[t] - torch.einsum("hkv,hk->hv", state, k[t]))
        state = state + torch.einsum("hk,hv->hkv", k[t], correction)
        results.append(torch.einsum("hkv,hk->hv", state, q[t]))
        states.append(state)
    return torch.stack(results), torch.stack(states)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    size = float(expected.abs().max())
    torch.testing.assert_close(
        actual.double(), expected, rtol=RTOL[actual.dtype], atol=ATOL * max(1.0, size)
    )


def inputs(
    tokens: int, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    key_heads, heads, key, value = shape
    q, k = torch.randn(2, tokens, key_heads, key).to(dtype)
    return q, k, torch.randn(tokens, heads, value).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalise", [True, False])
def test_prompts(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int], normalise: bool
) -> None:
    """Sequences of 0, 1, 31 and 70 tokens, a skipped one; the pool's other slots stay."""
    starts, slots = [0, 1, 1, 32, 40, 110], [5, 1, 0, -1, 2]
    _, heads, key, value = shape
    rows = inputs(112, shape, dtype)
    if not normalise:
        rows = (rows[0], rows[1] / key**0.5, rows[2])
    g = -torch.rand(1, 112, heads) * 2
    beta = torch.rand(1, 112, heads).to(dtype)
    states = torch.randn(6, heads, key, value)
    before = states.clone()
    out, final = ops.chunk_gated_delta_rule_cpu(
        *(x[None] for x in rows), g, beta, states, True, torch.tensor(starts).int(), False,
        normalise, torch.tensor(slots).int(),
    )  # fmt: skip
    assert (out.shape, out.dtype) == ((1, *rows[2].shape), dtype)
    want = before.clone().double()
    for s, slot in enumerate(slots):
        at = slice(starts[s], starts[s + 1])
        if slot < 0:
            assert not out[0, at].any()
            assert not final[s].any()
        elif starts[s] < starts[s + 1]:
            results, all_states = exact(
                tuple(x[at] for x in rows), (g[0, at], beta[0, at]), before[slot],
                1e-5 if normalise else None,
            )  # fmt: skip
            close(out[0, at], results)
            want[slot] = all_states[-1]
            assert torch.equal(final[s], states[slot])
    close(states, want)
    for slot in (1, 3, 4):
        assert torch.equal(states[slot], before[slot])
    assert not out[0, 110:].any()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_states_of_16_bits(tier: str, half: torch.dtype) -> None:
    rows, g, beta = inputs(33, (1, 2, 48, 40), half), -torch.rand(1, 33, 2), torch.rand(1, 33, 2)
    states = torch.randn(2, 2, 48, 40).to(half)
    before = states.clone()
    starts, slots = torch.tensor([0, 33]).int(), torch.tensor([1]).int()
    out, _ = ops.chunk_gated_delta_rule_cpu(
        *(x[None] for x in rows), g, beta, states, False, starts, False, True, slots
    )
    results, all_states = exact(rows, (g[0], beta[0]), before[1])
    close(out[0], results)
    close(states[1], all_states[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_next_token(tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    """One token of each of three sequences, rows cut out of a fused projection."""
    key_heads, heads, key, value = shape
    fused = torch.randn(3, 2 * key_heads * key + heads * value).to(dtype)
    q, k, v = fused.split([key_heads * key, key_heads * key, heads * value], 1)
    rows = (q.view(3, key_heads, key), k.view(3, key_heads, key), v.view(3, heads, value))
    logs, bias = torch.randn(heads), torch.randn(heads).to(dtype)
    a, b = torch.randn(2, 3, heads).to(dtype)
    states = torch.randn(4, heads, key, value)
    before = states.clone()
    slots = torch.tensor([[3, 7], [0, 7], [2, 7]], dtype=torch.int32)[:, 0]
    out = ops.fused_sigmoid_gating_delta_rule_update_cpu(
        logs, bias, *(x[None] for x in rows), a, b, states, slots, torch.arange(4).int(), True
    )
    assert out.shape == (3, 1, heads, value)
    g = -logs.double().exp() * F.softplus(a.double() + bias.double())
    beta = b.double().sigmoid()
    for s, slot in enumerate(slots.tolist()):
        at = slice(s, s + 1)
        results, all_states = exact(tuple(x[at] for x in rows), (g[at], beta[at]), before[slot])
        close(out[s, 0], results[0])
        close(states[slot], all_states[0])
    assert torch.equal(states[1], before[1])


def test_drafted_tokens(tier: str, dtype: torch.dtype) -> None:
    """Each token's state goes to its slot; the next call goes on behind the accepted one."""
    shape = (2, 4, 40, 35)
    rows = inputs(5, shape, dtype)
    logs, bias = torch.randn(4), torch.randn(4)
    a, b = torch.randn(2, 5, 4).to(dtype)
    states = torch.randn(8, 4, 40, 35)
    before = states.clone()
    slots = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]], dtype=torch.int32)
    accepted, starts = torch.tensor([2, 1]).int(), torch.tensor([0, 3, 5]).int()
    out = ops.fused_sigmoid_gating_delta_rule_update_spec_cpu(
        logs, bias, *rows, a, b, states, slots, accepted, starts, True
    )
    assert out.shape == rows[2].shape
    g = -logs.double().exp() * F.softplus(a.double() + bias.double())
    beta = b.double().sigmoid()
    for s, first in enumerate((1, 4)):
        at = slice(int(starts[s]), int(starts[s + 1]))
        results, all_states = exact(tuple(x[at] for x in rows), (g[at], beta[at]), before[first])
        close(out[at], results)
        for t, state in enumerate(all_states):
            close(states[int(slots[s, t])], state)
    for slot in (3, 6, 7):
        assert torch.equal(states[slot], before[slot])


@pytest.mark.parametrize("heads", [1, 5, 32])
def test_gating(tier: str, dtype: torch.dtype, heads: int) -> None:
    """Also where the softplus is linear, underflows, or its argument is no number."""
    special = [0.0, 30.0, 19.9, 20.1, -30.0, -100.0, float("inf"), float("-inf"), float("nan")]
    a = torch.cat((torch.randn(3, heads) * 4, torch.tensor(special)[:, None].expand(-1, heads)))
    a = a.to(dtype)
    b = a.flip(0).contiguous()
    logs, bias = torch.randn(heads), torch.zeros(heads)
    g, beta = ops.fused_gdn_gating_cpu(logs, a, b, bias)
    assert (g.dtype, beta.dtype) == (torch.float32, dtype)
    # Exponential, softplus and product: 1, 3 and 1 units in the last place, doubled.
    want = -logs.double().exp() * F.softplus(a.double(), threshold=1000.0)
    torch.testing.assert_close(g[0].double(), want, rtol=1.2e-6, atol=1e-37, equal_nan=True)
    share = b.double().sigmoid()
    torch.testing.assert_close(
        beta[0].double(), share, rtol=max(RTOL[dtype], 6e-7), atol=2.0**-24, equal_nan=True
    )


def test_softplus_of_another_slope(tier: str) -> None:
    a, b, states = torch.randn(4, 2) * 3, torch.randn(4, 2), torch.randn(1, 2, 8, 8)
    rows, starts, slots = inputs(4, (2, 2, 8, 8), torch.float32), torch.tensor([0, 4]).int(), [0]
    before = states.clone()
    out = ops.fused_sigmoid_gating_delta_rule_update_cpu(
        torch.zeros(2), torch.zeros(2), *(x[None] for x in rows), a, b, states,
        torch.tensor(slots).int(), starts, True, 0.5, 1.0,
    )  # fmt: skip
    g = -F.softplus(a.double(), 0.5, 1.0)
    results, _ = exact(rows, (g, b.double().sigmoid()), before[0])
    close(out[:, 0], results)


def test_one_slot_twice(tier: str) -> None:
    """The second sequence of a slot goes on where the first has ended."""
    rows, g, beta = inputs(40, (1, 2, 16, 24), torch.float32), -torch.rand(40, 2), torch.rand(40, 2)
    states = torch.zeros(1, 2, 16, 24)
    out, _ = ops.chunk_gated_delta_rule_cpu(
        *(x[None] for x in rows), g[None], beta[None], states, False,
        torch.tensor([0, 35, 40]).int(), False, True, torch.zeros(2).int(),
    )  # fmt: skip
    results, _ = exact(rows, (g, beta), torch.zeros(2, 16, 24))
    close(out[0], results)


def test_infinite_values_stay_in_their_head(tier: str) -> None:
    rows = inputs(3, (2, 2, 8, 8), torch.float32)
    rows[2][1, 0, 3] = float("inf")
    states = torch.randn(1, 2, 8, 8)
    before = states.clone()
    g, beta = -torch.rand(1, 3, 2), torch.rand(1, 3, 2)
    out, _ = ops.chunk_gated_delta_rule_cpu(
        *(x[None] for x in rows), g, beta, states, False, torch.tensor([0, 3]).int(), False, True,
        torch.zeros(1).int(),
    )  # fmt: skip
    rows[2][1, 0, 3] = 0.0
    results, _ = exact(rows, (g[0], beta[0]), before[0])
    close(out[0, :, 1], results[:, 1])
    close(out[0, 0], results[0])
    assert not out[0, 1:, 0, 3].isfinite().any()


def _prompt_arguments() -> dict[str, object]:
    return {
        "query": torch.zeros(1, 5, 2, 8),
        "key": torch.zeros(1, 5, 2, 8),
        "value": torch.zeros(1, 5, 4, 6),
        "g": torch.zeros(1, 5, 4),
        "beta": torch.zeros(1, 5, 4),
        "initial_state": torch.zeros(3, 4, 8, 6),
        "output_final_state": True,
        "cu_seqlens": torch.tensor([0, 5], dtype=torch.int32),
        "head_first": False,
        "use_qk_l2norm_in_kernel": True,
        "initial_state_indices": torch.tensor([1], dtype=torch.int32),
    }


@pytest.mark.parametrize(
    ("sentence", "changed"),
    [
        ("query is int8", {"query": torch.zeros(1, 5, 2, 8, dtype=torch.int8)}),
        ("query has shape", {"query": torch.zeros(2, 5, 2, 8)}),
        ("key has shape", {"key": torch.zeros(1, 5, 2, 7)}),
        ("value has 3 heads and key 2", {"value": torch.zeros(1, 5, 3, 6)}),
        ("want 1 to 1024", {"value": torch.zeros(1, 5, 4, 1025)}),
        ("g has shape", {"g": torch.zeros(1, 4, 4)}),
        ("beta is bfloat16", {"beta": torch.zeros(1, 5, 4, dtype=torch.bfloat16)}),
        ("value has shape", {"value": torch.zeros(0, 5, 4, 6)}),
        ("g has shape", {"g": torch.zeros(0, 5, 4)}),
        ("beta has shape", {"beta": torch.zeros(0, 5, 4)}),
        ("initial_state has shape", {"initial_state": torch.zeros(3, 4, 6, 8)}),
        ("initial_state has gaps", {"initial_state": torch.zeros(3, 4, 8, 7)[..., :6]}),
        ("initial_state is float16", {"initial_state": torch.zeros(3, 4, 8, 6).half()}),
        ("cu_seqlens ends at 6", {"cu_seqlens": torch.tensor([0, 6], dtype=torch.int32)}),
        ("head_first is true", {"head_first": True}),
        (
            "initial_state_indices has 3 at index 0",
            {"initial_state_indices": torch.tensor([3], dtype=torch.int32)},
        ),
    ],
)
def test_bad_prompts(sentence: str, changed: dict[str, object]) -> None:
    with pytest.raises(RuntimeError, match=f"^chunk_gated_delta_rule_cpu: .*{sentence}"):
        ops.chunk_gated_delta_rule_cpu(*{**_prompt_arguments(), **changed}.values())


def test_bad_drafts() -> None:
    rows = inputs(3, (1, 1, 4, 4), torch.float32)
    zeros, states = torch.zeros(3, 1), torch.zeros(3, 1, 4, 4)
    update = ops.fused_sigmoid_gating_delta_rule_update_spec_cpu
    starts = torch.tensor([0, 3], dtype=torch.int32)
    for slots, accepted, sentence in (
        ([[0, 1]], 1, "sequence 0 has 3 tokens and num_accepted_tokens 1, want at most 2"),
        ([[0, 1, 2]], 0, "num_accepted_tokens 0"),
        ([[0, 1, 3]], 1, "spec_state_indices has 3 at index 2"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            update(
                torch.zeros(1), torch.zeros(1), *rows, zeros, zeros, states,
                torch.tensor(slots).int(), torch.tensor([accepted]).int(), starts, True,
            )  # fmt: skip
    with pytest.raises(RuntimeError, match="softplus_beta is 0, want"):
        update(
            torch.zeros(1), torch.zeros(1), *rows, zeros, zeros, states,
            torch.tensor([[0, 1, 2]]).int(), torch.ones(1).int(), starts, True, 0.0,
        )  # fmt: skip
