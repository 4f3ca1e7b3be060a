"""The causal convolution before state-space layers against float64 PyTorch, per tier."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

ops = torch.ops.vllm_kernels

# Products and their sum in float32, in other orders; then one rounding, after the activation.
RTOL = {torch.float32: 4e-6, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
ATOL = 1e-5
DIMS = [1, 33, 131]


def exact(
    history: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    silu: bool,
) -> torch.Tensor:
    """[dim, tokens] of a history and inputs, in float64, by the definition."""
    inputs = torch.cat((history, x), 1).double()
    width = weight.shape[1]
    out = sum(weight[:, i, None].double() * inputs[:, i : i + x.shape[1]] for i in range(width))
    assert isinstance(out, torch.Tensor)
    if bias is not None:
        out = out + bias.double()[:, None]
    return F.silu(out) if silu else out


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=RTOL[actual.dtype], atol=ATOL)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("width", [1, 4, 7])
@pytest.mark.parametrize("silu", [True, False])
def test_prompts(tier: str, dtype: torch.dtype, dim: int, width: int, silu: bool) -> None:
    """Sequences of 0, 1, 2 and 37 tokens, with a history or none; a skipped one; spare slots."""
    starts = [0, 5, 5, 6, 8, 45]
    slots = [4, 3, -1, 0, 2]
    initial = [True, True, True, False, True]
    x = torch.randn(47, dim).to(dtype).t()
    weight, bias = torch.randn(dim, width).to(dtype), torch.randn(dim).to(dtype)
    states = torch.randn(6, width + 2, dim).to(dtype).transpose(1, 2)
    before = states.clone()
    out = ops.causal_conv1d_fwd_cpu(
        x, weight, bias, states, torch.tensor(starts).int(), torch.tensor(slots).int(),
        torch.tensor(initial), silu, -1, False,
    )  # fmt: skip
    assert out.stride() == (1, dim)
    kept = width - 1
    want_states = before.clone()
    for s, slot in enumerate(slots):
        part = x[:, starts[s] : starts[s + 1]]
        got = out[:, starts[s] : starts[s + 1]]
        if slot < 0:
            assert not got.any()
            continue
        history = before[slot, :, :kept] if initial[s] else torch.zeros(dim, kept, dtype=dtype)
        close(got, exact(history, part, weight, bias, silu))
        inputs = torch.cat((history, part), 1)
        if part.shape[1]:
            want_states[slot, :, :kept] = inputs[:, inputs.shape[1] - kept :]
    assert not out[:, 45:].any()
    assert torch.equal(states, want_states)


@pytest.mark.parametrize("dim", DIMS)
def test_next_token(tier: str, dtype: torch.dtype, dim: int) -> None:
    """Token after token gives what the prompt at once gives, whatever the weight's layout."""
    x = torch.randn(9, 2, dim).to(dtype)
    weight = torch.randn(dim, 4).to(dtype)
    packed = ops.causal_conv1d_weight_pack(weight)
    assert torch.equal(packed, weight)
    slots = torch.tensor([2, 0], dtype=torch.int32)
    for given in (weight, packed, weight[:, None]):
        states = torch.zeros(3, dim, 3, dtype=dtype)
        narrow = states.clone()
        steps, others = [], []
        for t in range(9):
            steps.append(
                ops.causal_conv1d_update_cpu(x[t], states, given, None, True, None, slots, -1, True)
            )
            others.append(
                ops.causal_conv1d_update_cpu_vec(x[t], narrow, given, None, "silu", slots, None, -1)
            )
        assert torch.equal(torch.stack(steps), torch.stack(others))
        assert torch.equal(states, narrow)
        for s in range(2):
            history = torch.zeros(dim, 3, dtype=dtype)
            close(torch.stack(steps)[:, s].t(), exact(history, x[:, s].t(), weight, None, True))
            assert torch.equal(states[int(slots[s])], x[-3:, s].t())
        assert not states[1].any()


def test_slots_in_the_first_of_several_columns(tier: str) -> None:
    """The engine's state indices of next tokens are a column, of drafted ones a row each."""
    x, weight = torch.randn(2, 8), torch.randn(8, 4)
    table = torch.tensor([[2, 0, 9], [0, 1, 9]], dtype=torch.int32)
    states, others = (torch.zeros(3, 3, 8).transpose(1, 2) for _ in range(2))
    update = ops.causal_conv1d_update_cpu_vec
    for _ in range(3):
        one = update(x, states, weight, None, "silu", table, None, -1)
        two = update(x, others, weight, None, "silu", table[:, 0].contiguous(), None, -1)
        assert torch.equal(one, two)
    assert torch.equal(states, others)
    with pytest.raises(RuntimeError, match=r"conv_state_indices has shape \[2, 0\]"):
        update(x, states, weight, None, "silu", table[:, :0], None, -1)


@pytest.mark.parametrize("dim", [5, 64])
def test_drafted_tokens(tier: str, dtype: torch.dtype, dim: int) -> None:
    """Three tokens a call, of which one to three are accepted: as if the rest had not been."""
    weight, bias = torch.randn(dim, 4).to(dtype), torch.randn(dim).to(dtype)
    states = torch.zeros(2, 5, dim, dtype=dtype).transpose(1, 2)
    history: list[list[torch.Tensor]] = [[torch.zeros(dim, dtype=dtype)] * 3 for _ in range(2)]
    accepted = [1, 1]
    slots = torch.tensor([1, 0], dtype=torch.int32)
    for call in range(6):
        x = torch.randn(2, 3, dim).to(dtype)
        out = ops.causal_conv1d_update_cpu(
            x, states, weight, bias, True, torch.tensor(accepted).int(), slots, -1, False
        )
        for s in range(2):
            close(out[s].t(), exact(torch.stack(history[s][-3:], 1), x[s].t(), weight, bias, True))
            accepted[s] = (call + s) % 3 + 1
            history[s] += list(x[s, : accepted[s]])


def test_strided(tier: str, dtype: torch.dtype) -> None:
    """Channels apart in every tensor give what dense ones give; slots of a table's column."""
    dim = 37
    x = torch.randn(dim, 11).to(dtype)
    weight = torch.randn(dim, 2, 8).to(dtype)[:, 1, ::2]
    bias = torch.randn(dim, 3).to(dtype)[:, 1]
    wide = torch.randn(4, dim, 7).to(dtype)
    states, dense = wide[:, :, 1:4], wide[:, :, 1:4].contiguous()
    starts = torch.tensor([0, 4, 11], dtype=torch.int32)
    slots = torch.tensor([[3, 9], [1, 9]], dtype=torch.int32)[:, 0]
    out = ops.causal_conv1d_fwd_cpu(x, weight, bias, states, starts, slots, None, True, -1, False)
    other = ops.causal_conv1d_fwd_cpu(
        x.t().contiguous().t(), ops.causal_conv1d_weight_pack(weight), bias.contiguous(), dense,
        starts, slots.contiguous(), None, True, -1, True,
    )  # fmt: skip
    assert torch.equal(out, other)
    assert torch.equal(states, dense)


def test_one_token_of_any_stride(tier: str) -> None:
    """The engine's [sequences, dim, 1], turned: the stride of one token means nothing."""
    x, weight = torch.randn(3, 20, 1).transpose(1, 2), torch.randn(20, 4)
    states, plain = torch.randn(2, 3, 20, 3)[:1].expand(2, -1, -1, -1).clone().unbind()
    found = ops.causal_conv1d_update_cpu(x, states, weight, None, True, None, None, -1, False)
    same = x.clone(memory_format=torch.contiguous_format)
    expected = ops.causal_conv1d_update_cpu(same, plain, weight, None, True, None, None, -1, False)
    assert x.stride() != same.stride()
    assert torch.equal(found, expected)
    assert torch.equal(states, plain)


def test_one_slot_twice(tier: str) -> None:
    """The second sequence of a slot goes on where the first has ended."""
    x, weight = torch.randn(70, 8), torch.randn(70, 4)
    states, starts = torch.zeros(1, 70, 3), torch.tensor([0, 5, 8], dtype=torch.int32)
    slots = torch.zeros(2, dtype=torch.int32)
    out = ops.causal_conv1d_fwd_cpu(x, weight, None, states, starts, slots, None, False, -1, False)
    close(out, exact(torch.zeros(70, 3), x, weight, None, False))


def test_any_byte_but_zero_is_true(tier: str) -> None:
    """Booleans that were bytes: PyTorch's views keep them as they are."""
    x, weight = torch.randn(70, 8), torch.randn(70, 4)
    starts, slots = torch.tensor([0, 5, 8]).int(), torch.tensor([0, 1]).int()

    def run(initial: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.ones(2, 70, 3)
        out = ops.causal_conv1d_fwd_cpu(
            x, weight, None, states, starts, slots, initial, False, -1, False
        )
        return out, states

    found = run(torch.tensor([251, 0], dtype=torch.uint8).view(torch.bool))
    for result, expected in zip(found, run(torch.tensor([True, False])), strict=True):
        assert torch.equal(result, expected)


def test_extreme_values(tier: str, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = [info.max, -info.max, info.tiny, 0.0, float("inf"), float("-inf"), float("nan")]
    x = torch.tensor(values, dtype=dtype)[:, None]
    weight = torch.ones(len(values), 1, dtype=dtype)
    starts = torch.tensor([0, 1], dtype=torch.int32)
    out = ops.causal_conv1d_fwd_cpu(x, weight, None, None, starts, None, None, False, -1, False)
    assert torch.equal(out.nan_to_num(7.0), x.nan_to_num(7.0))
    out = ops.causal_conv1d_fwd_cpu(x, weight, None, None, starts, None, None, True, -1, False)
    want = torch.tensor([info.max, 0.0, info.tiny / 2, 0.0, float("inf")], dtype=dtype)
    assert torch.equal(out[:5, 0], want)
    assert out[5:].isnan().all()


BAD = [
    ("weight is float64", {"weight": torch.zeros(4, 4, dtype=torch.float64)}),
    ("weight has shape", {"weight": torch.zeros(5, 4)}),
    ("weight has 1 dimensions", {"weight": torch.zeros(4)}),
    ("1 to 16 elements", {"weight": torch.zeros(4, 17)}),
    ("bias has shape", {"bias": torch.zeros(5)}),
    ("conv_states has shape", {"states": torch.zeros(2, 4, 2)}),
    ("conv_states is bfloat16", {"states": torch.zeros(2, 4, 3, dtype=torch.bfloat16)}),
    ("query_start_loc ends at 6", {"starts": torch.tensor([0, 6], dtype=torch.int32)}),
    ("goes from 3 to 2", {"starts": torch.tensor([3, 2], dtype=torch.int32)}),
    ("query_start_loc is int64", {"starts": torch.tensor([0, 5])}),
    ("slot 2, want -1", {"slots": torch.tensor([2], dtype=torch.int32)}),
    ("slot -2, want -1", {"slots": torch.tensor([-2], dtype=torch.int32)}),
    ("cache_indices has shape", {"slots": torch.tensor([0, 1], dtype=torch.int32)}),
    ("has_initial_state has shape", {"initial": torch.tensor([True, True])}),
]


@pytest.mark.parametrize(("sentence", "changed"), BAD)
def test_bad_input(sentence: str, changed: dict[str, torch.Tensor]) -> None:
    given = {
        "x": torch.zeros(4, 5),
        "weight": torch.zeros(4, 4),
        "bias": torch.zeros(4),
        "states": torch.zeros(2, 4, 3),
        "starts": torch.tensor([0, 5], dtype=torch.int32),
        "slots": torch.tensor([1], dtype=torch.int32),
        "initial": torch.tensor([True]),
        **changed,
    }
    with pytest.raises(RuntimeError, match=f"^causal_conv1d_fwd_cpu: .*{sentence}"):
        ops.causal_conv1d_fwd_cpu(*given.values(), True, -1, False)


def test_bad_updates() -> None:
    x, weight, states = torch.zeros(2, 3, 4), torch.zeros(4, 4), torch.zeros(2, 4, 5)
    update = ops.causal_conv1d_update_cpu
    for accepted in (0, 4):
        with pytest.raises(RuntimeError, match=f"num_accepted_tokens has {accepted} at index 1"):
            update(x, states, weight, None, True, torch.tensor([1, accepted]).int(), None, -1, True)
    with pytest.raises(RuntimeError, match="sequence 0 has 4 tokens, want at most 3"):
        update(
            torch.zeros(2, 4, 4), states, weight, None, True, torch.ones(2).int(), None, -1, True
        )
    vec = ops.causal_conv1d_update_cpu_vec
    with pytest.raises(RuntimeError, match='activation is "tanh", want silu'):
        vec(x[:, 0], states[:, :, :3], weight, None, "tanh", None, None, -1)
    with pytest.raises(RuntimeError, match="conv_state has shape"):
        vec(x[:, 0], states, weight, None, None, None, None, -1)
