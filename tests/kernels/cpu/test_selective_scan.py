"""Selective state spaces against the recurrence in float64, per tier."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

ops = torch.ops.vllm_kernels

# One rounding of the result. In float32, and for what cancels: the state's error grows with the
# tokens by a part in 2^23 of its size each, a sum of `dstate` products.
RTOL = {torch.float32: 2e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
ATOL = 2e-5
# heads, groups, rows, state
SHAPES = [(1, 1, 1, 1), (4, 2, 37, 24), (2, 1, 64, 128), (1, 1, 130, 16), (3, 3, 5, 257)]


def spread(value: torch.Tensor, *shape: int) -> torch.Tensor:
    """In float64, dimensions that are missing behind expanded."""
    wide = value.double()
    return wide.reshape(*wide.shape, *[1] * (len(shape) - wide.dim())).expand(shape)


def exact(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None,
    z: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Results [tokens, heads, dim] and the states behind each token."""
    tokens, heads, dim = x.shape
    group, dstate = heads // b.shape[1], b.shape[2]
    step, decay = spread(dt, tokens, heads, dim), spread(a, heads, dim, dstate)
    b, c = (value.double().repeat_interleave(group, 1) for value in (b, c))
    current, results, states = state.double(), [], []
    for t in range(tokens):
        current = current * (decay * step[t][..., None]).exp() + torch.einsum(
            "hd,hn->hdn", x[t].double() * step[t], b[t]
        )
        y = torch.einsum("hdn,hn->hd", current, c[t])
        if d is not None:
            y = y + spread(d, heads, dim) * x[t].double()
        if z is not None:
            y = y * F.silu(z[t].double())
        results.append(y)
        states.append(current)
    return torch.stack(results), torch.stack(states)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual.double(), expected, rtol=RTOL[actual.dtype], atol=ATOL * max(1.0, size)
    )


def inputs(
    tokens: int, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """x, B, C and z, cut out of fused projections."""
    heads, groups, dim, dstate = shape
    fused = torch.randn(tokens, 2 * heads * dim + 2 * groups * dstate).to(dtype)
    x, z, b, c = fused.split([heads * dim] * 2 + [groups * dstate] * 2, 1)
    rows, states = (tokens, heads, dim), (tokens, groups, dstate)
    return x.view(rows), b.view(states), c.view(states), z.view(rows)


def parameters(
    kind: str, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A, D and dt_bias: one number a head (Mamba 2), as it is or expanded, or each its own."""
    heads, _, dim, dstate = shape
    if kind == "own":
        return -torch.rand(heads, dim, dstate), torch.randn(heads, dim), torch.randn(heads, dim)
    a, d, bias = -torch.rand(heads) * 2, torch.randn(heads).to(dtype), torch.randn(heads).to(dtype)
    if kind == "head":
        return a, d, bias
    expanded = a[:, None, None].expand(heads, dim, dstate)
    return expanded, d[:, None].expand(heads, dim), bias[:, None].expand(heads, dim)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["head", "expanded", "own"])
@pytest.mark.parametrize("gated", [True, False])
def test_prompts(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int], kind: str, gated: bool
) -> None:
    """Sequences of 1, 0, 16 and 35 tokens, and a token behind them that stays."""
    starts, (heads, _, dim, dstate) = [0, 1, 1, 17, 52], shape
    x, b, c, z = inputs(53, shape, dtype)
    a, d, _ = parameters(kind, shape, dtype)
    dt = torch.rand(53, heads, dim) if kind == "own" else torch.rand(53, heads)
    states = torch.randn(4, heads, dim, dstate)
    before, out = states.clone(), torch.full((53, heads, dim), float("nan"), dtype=dtype)
    ops.mamba_chunk_scan_fwd_cpu(
        out, states, x, dt, a, b, c, d if gated else None, z if gated else None,
        torch.tensor(starts).int(),
    )  # fmt: skip
    assert torch.equal(states[1], before[1])
    assert out[52].isnan().all()
    for s, (first, behind) in enumerate(itertools.pairwise(starts)):
        if first == behind:
            continue
        at = slice(first, behind)
        results, all_states = exact(
            before[s],
            x[at],
            dt[at],
            a,
            b[at],
            c[at],
            d if gated else None,
            z[at] if gated else None,
        )
        close(out[at], results)
        close(states[s], all_states[-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["head", "expanded", "own"])
@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("half_states", [True, False])
def test_next_tokens(
    tier: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    kind: str,
    softplus: bool,
    half_states: bool,
) -> None:
    """Slots of a pool with gaps; one sequence has none, and one keeps its state elsewhere."""
    heads, _, dim, dstate = shape
    x, b, c, z = inputs(4, shape, dtype)
    a, d, bias = parameters(kind, shape, dtype)
    dt = torch.randn(4, heads, dim).to(dtype) if kind == "own" else torch.randn(4, heads).to(dtype)
    if kind == "expanded":
        dt = dt[..., None].expand(-1, -1, dim)
    pool = torch.randn(7, heads * dim * dstate + 3).to(dtype if half_states else torch.float32)
    states = pool[:, 1:-2].view(7, heads, dim, dstate)
    before, out = pool.clone(), torch.full((4, heads, dim), float("nan"), dtype=dtype)
    slots, to = torch.tensor([5, 0, 2, 3]).int(), torch.tensor([5, 6, 4, 0]).int()
    ops.selective_state_update_cpu(
        states, x, dt, a, b, c, d, z, bias, softplus, slots, to, 0, out, None, None
    )
    step = spread(dt, 4, heads, dim) + spread(bias, heads, dim)
    step = F.softplus(step) if softplus else step
    old, want = before[:, 1:-2].view(states.shape), before.clone()
    kept = want[:, 1:-2].view(states.shape)
    for s, (slot, last) in enumerate(zip(slots.tolist(), to.tolist(), strict=True)):
        if slot == 0:
            assert out[s].isnan().all()
            continue
        at = slice(s, s + 1)
        results, all_states = exact(old[slot], x[at], step[at], a, b[at], c[at], d, z[at])
        close(out[at], results)
        if last:
            close(states[last], all_states[-1])
            kept[last] = states[last]
    assert torch.equal(pool, want)


def test_drafted_tokens(tier: str, dtype: torch.dtype) -> None:
    """The state behind each token goes to its slot; the next call begins at the accepted one."""
    shape = (4, 2, 37, 24)
    x, b, c, z = inputs(5, shape, dtype)
    a, d, bias = parameters("expanded", shape, dtype)
    dt, states = torch.randn(5, 4).to(dtype), torch.randn(9, 4, 37, 24)
    before, out = states.clone(), torch.zeros(5, 4, 37, dtype=dtype)
    slots = torch.tensor([[1, 2, 3, 9], [5, 6, 0, 8]]).int()
    starts, accepted = torch.tensor([0, 3, 5]).int(), torch.tensor([2, 0]).int()
    ops.selective_state_update_cpu(
        states, x, dt, a, b, c, d, z, bias, True, slots, slots, 9, out, accepted, starts
    )
    step = F.softplus(spread(dt, 5, 4, 37) + spread(bias, 4, 37))
    for s, first in enumerate((2, 5)):
        at = slice(int(starts[s]), int(starts[s + 1]))
        results, all_states = exact(before[first], x[at], step[at], a, b[at], c[at], d, z[at])
        close(out[at], results)
        for t, state in enumerate(all_states):
            close(states[int(slots[s, t])], state)
    for slot in (0, 4, 7, 8):
        assert torch.equal(states[slot], before[slot])


def test_one_slot_twice(tier: str) -> None:
    """The second sequence of a slot goes on where the first has ended."""
    shape = (2, 1, 8, 16)
    x, b, c, _ = inputs(2, shape, torch.float32)
    a, dt, states = -torch.rand(2), torch.rand(2, 2), torch.zeros(1, 2, 8, 16)
    out, slots = torch.zeros_like(x), torch.zeros(2, dtype=torch.int32)
    ops.selective_state_update_cpu(
        states, x, dt, a, b, c, None, None, None, False, slots, None, -1, out, None, None
    )
    results, all_states = exact(torch.zeros(2, 8, 16), x, dt, a, b, c, None, None)
    close(out, results)
    close(states[0], all_states[-1])


def test_without_slots_a_sequence_has_its_own(tier: str) -> None:
    x, b, c, _ = inputs(2, (2, 1, 8, 16), torch.float32)
    a, dt, states = -torch.rand(2), torch.rand(2, 2), torch.randn(2, 2, 8, 16)
    before, out = states.clone(), torch.zeros_like(x)
    ops.selective_state_update_cpu(
        states, x, dt, a, b, c, None, None, None, False, None, None, 0, out, None, None
    )
    for s in range(2):
        at = slice(s, s + 1)
        results, all_states = exact(before[s], x[at], dt[at], a, b[at], c[at], None, None)
        close(out[at], results)
        close(states[s], all_states[-1])


def test_an_infinite_input_stays_infinite(tier: str) -> None:
    """Behind the end of a state whose size is no whole vector nothing becomes a NaN."""
    x, out, states = torch.ones(1, 1, 5), torch.zeros(1, 1, 5), torch.zeros(1, 1, 5, 3)
    x[0, 0, 2] = float("inf")
    ones = torch.ones(1, 1, 3)
    ops.mamba_chunk_scan_fwd_cpu(
        out, states, x, torch.ones(1, 1), -torch.ones(1), ones, ones, None, None,
        torch.tensor([0, 1]).int(),
    )  # fmt: skip
    assert out.flatten().tolist() == [3.0, 3.0, float("inf"), 3.0, 3.0]


def _update_arguments() -> dict[str, Any]:
    return {
        "state": torch.zeros(3, 4, 8, 6),
        "x": torch.zeros(2, 4, 8),
        "dt": torch.zeros(2, 4),
        "A": torch.zeros(4),
        "B": torch.zeros(2, 2, 6),
        "C": torch.zeros(2, 2, 6),
        "D": torch.zeros(4),
        "z": torch.zeros(2, 4, 8),
        "dt_bias": torch.zeros(4),
        "dt_softplus": True,
        "state_batch_indices": torch.tensor([1, 2]).int(),
        "dst_state_batch_indices": torch.tensor([1, 2]).int(),
        "null_block_id": 0,
        "out": torch.zeros(2, 4, 8),
        "num_accepted_tokens": None,
        "cu_seqlens": None,
    }


@pytest.mark.parametrize(
    ("sentence", "changed"),
    [
        ("x is int8", {"x": torch.zeros(2, 4, 8, dtype=torch.int8)}),
        ("out is bfloat16", {"out": torch.zeros(2, 4, 8).bfloat16()}),
        ("out has shape", {"out": torch.zeros(2, 4, 7)}),
        ("z has shape", {"z": torch.zeros(2, 4, 7)}),
        ("B has shape", {"B": torch.zeros(3, 2, 6)}),
        ("C has shape", {"C": torch.zeros(2, 2, 5)}),
        ("x has 4 heads and B 3 groups", {"B": torch.zeros(2, 3, 6), "C": torch.zeros(2, 3, 6)}),
        ("state is float16", {"state": torch.zeros(3, 4, 8, 6).half()}),
        ("state has shape", {"state": torch.zeros(3, 4, 6, 8)}),
        ("dt has shape", {"dt": torch.zeros(2, 3)}),
        ("A has shape", {"A": torch.zeros(4, 8)}),
        ("D has shape", {"D": torch.zeros(3)}),
        ("dt_bias has shape", {"dt_bias": torch.zeros(4, 7)}),
        ("state_batch_indices has 3 for", {"state_batch_indices": torch.tensor([1, 3]).int()}),
        (
            "dst_state_batch_indices has -1",
            {"dst_state_batch_indices": torch.tensor([-1, 1]).int()},
        ),
        ("state_batch_indices is int64", {"state_batch_indices": torch.tensor([1, 2])}),
        ("cu_seqlens ends at 3", {"cu_seqlens": torch.tensor([0, 1, 3]).int()}),
        ("num_accepted_tokens has 2 at", {"num_accepted_tokens": torch.tensor([1, 2]).int()}),
        (
            "sequence 0 has 2 tokens",
            {
                "num_accepted_tokens": torch.tensor([1]).int(),
                "cu_seqlens": torch.tensor([0, 2]).int(),
                "state_batch_indices": torch.tensor([1]).int(),
                "dst_state_batch_indices": torch.tensor([1]).int(),
            },
        ),
        (
            "state has 1 slots",
            {
                "state": torch.zeros(1, 4, 8, 6),
                "state_batch_indices": None,
                "dst_state_batch_indices": None,
            },
        ),
    ],
)
def test_bad_updates(sentence: str, changed: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=f"^selective_state_update_cpu: .*{sentence}"):
        ops.selective_state_update_cpu(*{**_update_arguments(), **changed}.values())


def test_bad_prompts() -> None:
    x, b = torch.zeros(2, 4, 8), torch.zeros(2, 2, 6)
    states, starts = torch.zeros(1, 4, 8, 6), torch.tensor([0, 2]).int()
    for changed, sentence in (
        ((x, states.half(), starts), "final_states is float16"),
        ((x, torch.zeros(2, 4, 8, 6), starts), "want a state for each of 1 sequences"),
        ((x, states, torch.tensor([0, 3]).int()), "cu_seqlens ends at 3"),
    ):
        rows, last, first = changed
        with pytest.raises(RuntimeError, match=f"^mamba_chunk_scan_fwd_cpu: .*{sentence}"):
            ops.mamba_chunk_scan_fwd_cpu(
                torch.zeros(2, 4, 8), last, rows, torch.zeros(2, 4), torch.zeros(4), b, b, None,
                None, first,
            )  # fmt: skip
