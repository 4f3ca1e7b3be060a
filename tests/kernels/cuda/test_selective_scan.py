"""The selective scan against the recurrence in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

ops = torch.ops.vllm_kernels

# One rounding of the result. In float32, and for what cancels: the state's error grows with the
# tokens by parts in 2^22 of its size (the product and a decay of 2 units in the last place each).
RTOL = {torch.float32: 5e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
ATOL = 5e-5
# rows, groups, state
SHAPES = [(1, 1, 1), (96, 1, 16), (66, 2, 16), (50, 2, 24), (40, 1, 64), (17, 1, 100), (9, 1, 256)]


def exact(
    state: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """y [rows, tokens] and the state behind each token; delta is the step itself."""
    group = len(u) // len(b)
    b, c = (x.double().repeat_interleave(group, 0) for x in (b, c))
    state, results, states = state.double(), [], []
    for t in range(u.shape[1]):
        step, value = delta[:, t].double(), u[:, t].double()
        state = state * (step[:, None] * a.double()).exp() + (step * value)[:, None] * b[:, :, t]
        y = (state * c[:, :, t]).sum(1)
        results.append(y if d is None else y + d.double() * value)
        states.append(state)
    return torch.stack(results, 1), states


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual.double(), expected, rtol=RTOL[actual.dtype], atol=ATOL * size)


class Inputs:
    """Tensors of a call, cut out of fused projections as the engine has them."""

    def __init__(self, shape: tuple[int, int, int], tokens: int, dtype: torch.dtype) -> None:
        rows, groups, dstate = shape
        fused = torch.randn(2 * rows, tokens, device="cuda").to(dtype)
        self.u, self.z = fused[:rows], fused[rows:]
        self.delta = torch.randn(rows, tokens, device="cuda").to(dtype)
        weights = torch.randn(2 * groups, dstate, tokens, device="cuda").to(dtype)
        self.b, self.c = weights[:groups], weights[groups:]
        self.a = -torch.rand(rows, dstate, device="cuda")
        self.d, self.bias = torch.randn(2, rows, device="cuda")

    def steps(self, softplus: bool) -> torch.Tensor:
        step = self.delta.double() + self.bias.double()[:, None]
        return F.softplus(step) if softplus else step


def scan(inputs: Inputs, states: torch.Tensor, softplus: bool, **more: Any) -> None:
    names = (
        "query_start_loc", "cache_indices", "has_initial_state", "block_idx_first_scheduled_token",
        "block_idx_last_scheduled_token", "initial_state_idx", "cu_chunk_seqlen",
        "last_chunk_indices",
    )  # fmt: skip
    given = {name: more.get(name) for name in names}
    ops.selective_scan_fwd(
        u=inputs.u, delta=inputs.delta, A=inputs.a, B=inputs.b, C=inputs.c, D_=inputs.d,
        z_=more.get("z"), delta_bias_=inputs.bias, delta_softplus=softplus, ssm_states=states,
        null_block_id=more.get("null_block_id", 0), block_size=more.get("block_size", 1024),
        **given,
    )  # fmt: skip


def integers(*values: object) -> torch.Tensor:
    return torch.tensor(*values, dtype=torch.int32, device="cuda")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("half_states", [True, False])
def test_prompts(
    dtype: torch.dtype, shape: tuple[int, int, int], gated: bool, half_states: bool
) -> None:
    """Sequences of 1, 0, 64, 129 and 5 tokens, one of which has no slot."""
    starts, slots = [0, 1, 1, 65, 194, 199], [3, 1, 4, 5, 0]
    inputs = Inputs(shape, 200, dtype)
    delta, z, step = inputs.delta.clone(), inputs.z.clone(), inputs.steps(True)
    states = torch.randn(7, shape[0], shape[2], device="cuda")
    states = states.to(dtype if half_states else torch.float32)
    before, begun = states.clone(), [True, True, False, True, True]
    scan(
        inputs, states, True, z=inputs.z if gated else None, query_start_loc=integers(starts),
        cache_indices=integers(slots), has_initial_state=torch.tensor(begun, device="cuda"),
    )  # fmt: skip
    for s, slot in enumerate(slots):
        at = slice(starts[s], starts[s + 1])
        if slot == 0:
            assert torch.equal(inputs.delta[:, at], delta[:, at])
            continue
        if starts[s] == starts[s + 1]:
            continue
        first = before[slot] if begun[s] else torch.zeros_like(before[slot])
        y, all_states = exact(
            first, inputs.u[:, at], step[:, at], inputs.a, inputs.b[:, :, at], inputs.c[:, :, at],
            inputs.d,
        )  # fmt: skip
        close(inputs.delta[:, at], y)
        close(states[slot], all_states[-1])
        if gated:
            close(inputs.z[:, at], y * F.silu(z[:, at].double()))
    assert torch.equal(inputs.delta[:, 199:], delta[:, 199:])
    for slot in (0, 1, 2, 6):
        assert torch.equal(states[slot], before[slot])


def test_a_batch_of_equal_lengths(dtype: torch.dtype) -> None:
    """Steps are taken as they are: positive ones, as with others states grow without bound."""
    rows, groups, dstate = 34, 2, 16
    u, delta, z = torch.randn(3, 2, rows, 70, device="cuda").to(dtype)
    delta = delta.abs()
    b, c = torch.randn(2, 2, groups, dstate, 70, device="cuda").to(dtype)
    a, states = -torch.rand(rows, dstate, device="cuda"), torch.zeros(2, rows, dstate).cuda()
    step, gate = delta.clone(), z.clone()
    ops.selective_scan_fwd(
        u, delta, a, b, c, None, z, None, False, None, None, None, states, 0, 1024, *[None] * 5
    )
    for s in range(2):
        zeros = torch.zeros(rows, dstate, device="cuda")
        y, all_states = exact(zeros, u[s], step[s], a, b[s], c[s], None)
        close(delta[s], y)
        close(z[s], y * F.silu(gate[s].double()))
        close(states[s], all_states[-1])


@pytest.mark.parametrize("listed", [True, False])
def test_states_of_blocks(listed: bool) -> None:
    """Prefix caching: the state behind each block of 16 tokens is kept, and the last one."""
    shape, block = (40, 1, 16), 16
    # The first sequence goes on 6 tokens before the end of its block 1, the second begins.
    starts, chunks = [0, 30, 70], [[10, 16, 4] if listed else [16, 14], [16, 16, 8]]
    inputs = Inputs(shape, 70, torch.float32)
    step, states = inputs.steps(True), torch.randn(12, 40, 16, device="cuda")
    before = states.clone()
    table = [[1, 2, 3, 4], [5, 6, 7, 8]]
    more: dict[str, Any] = {}
    first, last = ([1, 0], [3, 2]) if listed else ([0, 0], [1, 2])
    if listed:
        more["cu_chunk_seqlen"] = integers([0, 10, 26, 30, 46, 62, 70])
        more["last_chunk_indices"] = integers([2, 5])
    scan(
        inputs, states, True, query_start_loc=integers(starts), cache_indices=integers(table),
        has_initial_state=torch.tensor([True, False], device="cuda"), null_block_id=-1,
        block_size=block, block_idx_first_scheduled_token=integers(first),
        block_idx_last_scheduled_token=integers(last), initial_state_idx=integers([0, 0]), **more,
    )  # fmt: skip
    written = set()
    for s in range(2):
        at = slice(starts[s], starts[s + 1])
        begin = before[table[s][0]] if s == 0 else torch.zeros_like(before[0])
        y, all_states = exact(
            begin, inputs.u[:, at], step[:, at], inputs.a, inputs.b[:, :, at], inputs.c[:, :, at],
            inputs.d,
        )  # fmt: skip
        close(inputs.delta[:, at], y)
        token = 0
        for i, size in enumerate(chunks[s]):
            token += size
            column = last[s] if i + 1 == len(chunks[s]) else first[s] + i
            slot = table[s][column]
            written.add(slot)
            close(states[slot], all_states[token - 1])
    for slot in set(range(12)) - written:
        assert torch.equal(states[slot], before[slot])


def test_numbers_that_are_out_of_range_do_no_harm() -> None:
    inputs = Inputs((40, 1, 16), 10, torch.float32)
    delta, states = inputs.delta.clone(), torch.zeros(3, 40, 16, device="cuda")
    least, most = -(1 << 31), (1 << 31) - 1
    for starts, slots in (([0, 5, 10], [3, -7]), ([5, least, least], [1, 2])):
        scan(inputs, states, True, query_start_loc=integers(starts), cache_indices=integers(slots))
        assert torch.equal(inputs.delta, delta)
        assert not states.any()
    for chunks in ([most, most], [2, least], [2, most], [-2, 7]):
        scan(
            inputs, states, True, query_start_loc=integers([0, 0, 10]), null_block_id=-1,
            cache_indices=integers([[0], [1]]), block_size=4, initial_state_idx=integers([0, 0]),
            block_idx_first_scheduled_token=integers([0, 0]),
            block_idx_last_scheduled_token=integers([0, 0]), last_chunk_indices=integers(chunks),
            cu_chunk_seqlen=integers([0, 4, 8, 10]),
        )  # fmt: skip
        assert torch.equal(inputs.delta, delta)
        assert not states.any()


def test_bad_input(subtests: pytest.Subtests) -> None:
    def arguments() -> dict[str, Any]:
        inputs = Inputs((40, 2, 16), 10, torch.float32)
        return {
            "u": inputs.u, "delta": inputs.delta, "A": inputs.a, "B": inputs.b, "C": inputs.c,
            "D_": inputs.d, "z_": inputs.z, "delta_bias_": inputs.bias, "delta_softplus": True,
            "query_start_loc": integers([0, 10]), "cache_indices": integers([1]),
            "has_initial_state": None, "ssm_states": torch.zeros(3, 40, 16, device="cuda"),
            "null_block_id": 0, "block_size": 16, "block_idx_first_scheduled_token": None,
            "block_idx_last_scheduled_token": None, "initial_state_idx": None,
            "cu_chunk_seqlen": None, "last_chunk_indices": None,
        }  # fmt: skip

    zeros = torch.zeros(40, 10, device="cuda")
    for changed, message in (
        ({"u": zeros.double()}, "u is float64"),
        ({"delta": zeros[:30].contiguous()}, r"delta has shape \[30, 10\]"),
        ({"z_": zeros.half()}, "z is float16"),
        ({"A": torch.zeros(40, 257, device="cuda")}, r"A has shape \[40, 257\], want 1 to 256"),
        ({"B": torch.zeros(3, 16, 10, device="cuda")}, "u has 40 rows and B 3 groups"),
        ({"C": torch.zeros(2, 8, 10, device="cuda")}, r"C has shape \[2, 8, 10\]"),
        ({"D_": torch.zeros(39, device="cuda")}, "D has shape"),
        ({"delta_bias_": torch.zeros(40, device="cuda").half()}, "delta_bias is float16"),
        ({"ssm_states": torch.zeros(3, 40, 8, device="cuda")}, "ssm_states has shape"),
        ({"ssm_states": torch.zeros(3, 40, 16, device="cuda").half()}, "ssm_states is float16"),
        ({"cache_indices": integers([1, 2])}, "cache_indices has shape"),
        ({"query_start_loc": integers([])}, "query_start_loc is empty"),
        ({"block_idx_first_scheduled_token": integers([0])}, "initial_state_idx is missing"),
    ):
        with (
            subtests.test(message),
            pytest.raises(RuntimeError, match=f"^selective_scan_fwd: .*{message}"),
        ):
            ops.selective_scan_fwd(**{**arguments(), **changed})
