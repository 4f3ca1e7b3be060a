"""Drafted tokens through a gated delta net, against the recurrence in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from vllm_kernels.reference import gated_delta_rule as reference

ops = torch.ops.vllm_kernels

SIZE = 128
# Slots of each request's tokens: 0 is none.
Slots = list[list[int]]


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def numbers(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cuda")


class Drafts:
    """The arguments of one call, with gaps between rows."""

    def __init__(
        self,
        key_heads: int,
        heads: int,
        lengths: list[int],
        slots: Slots,
        accepted: list[int],
        dtype: torch.dtype = torch.bfloat16,
        state_dtype: torch.dtype = torch.float32,
        activation: str = "silu",
    ) -> None:
        tokens, width = sum(lengths), (2 * key_heads + heads) * SIZE
        self.key_heads, self.heads, self.lengths = key_heads, heads, lengths
        self.slots, self.accepted, self.activation = slots, accepted, activation
        self.qkv = randn(tokens, width + 64, dtype=dtype)[:, :width]
        self.a, self.b = (
            one.squeeze(1) for one in randn(tokens, 2, heads, dtype=dtype).split(1, dim=1)
        )
        self.a_log, self.dt_bias = randn(heads) * 0.5, randn(heads)
        self.gate = randn(tokens, 2 * heads, SIZE, dtype=dtype)[:, heads:]
        self.weight = randn(SIZE)
        self.scale = SIZE**-0.5
        most = max(max(row) for row in slots) + 2
        self.state = randn(most, heads, SIZE, SIZE, dtype=state_dtype) * 0.3
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        self.starts = starts

    def arguments(self, state: torch.Tensor, out: torch.Tensor) -> tuple[Any, ...]:
        indices = numbers(self.slots), numbers(self.starts), numbers(self.accepted)
        gates = self.a, self.b, self.a_log, self.dt_bias
        norm = self.gate, self.weight, out, self.scale, 1e-6, self.activation
        return (self.qkv, *gates, *indices, state, *norm)

    def run(self, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        state = self.state.clone()
        out = torch.full(self.gate.shape, float("nan"), dtype=self.qkv.dtype, device="cuda")
        module.fused_gdn_decode_post_conv_mtp(*self.arguments(state, out))
        return out, state

    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """In float64 but for the rounding of each result before its norm."""
        x, state = self.qkv.double(), self.state.double()
        q, k, v = x.split([n * SIZE for n in (self.key_heads, self.key_heads, self.heads)], 1)
        q, k = (
            y.unflatten(1, (-1, SIZE)).repeat_interleave(self.heads // self.key_heads, 1)
            for y in (q, k)
        )
        v = v.unflatten(1, (-1, SIZE))
        q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
        decay = (-self.a_log.double().exp() * F.softplus(self.a.double() + self.dt_bias)).exp()
        beta = self.b.double().sigmoid()
        results = torch.zeros(v.shape, dtype=torch.float64, device="cuda")
        for request, slots in enumerate(self.slots):
            count = self.accepted[request]
            source = slots[count - 1] if 0 < count <= len(slots) else 0
            if source <= 0:
                continue
            one = state[source].clone()  # [heads, values, keys]
            for place in range(self.lengths[request]):
                t = self.starts[request] + place
                one *= decay[t][:, None, None]
                known = (one * k[t][:, None]).sum(-1)
                one += ((v[t] - known) * beta[t][:, None])[..., None] * k[t][:, None]
                results[t] = (one * q[t][:, None]).sum(-1) * self.scale
                if place < len(slots) and slots[place] > 0:
                    state[slots[place]] = one
        results = results.to(self.qkv.dtype).double()
        norm = (results.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        z = self.gate.double()
        gate = z.sigmoid() if self.activation == "sigmoid" else z * z.sigmoid()
        return results * norm * self.weight.double() * gate, state


def check(drafts: Drafts, module: Any = ops) -> None:
    out, state = drafts.run(module)
    want, want_state = drafts.exact()
    # A result may be rounded to its neighbour before the norm: an ulp, and another of its own.
    ulp = 2.0**-8 if out.dtype == torch.bfloat16 else 2.0**-11
    torch.testing.assert_close(out.double(), want, rtol=3 * ulp, atol=2e-4)
    rtol = 2.0**-8 if state.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(state.double(), want_state, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
def test_requests(dtype: torch.dtype, state_dtype: torch.dtype, activation: str) -> None:
    """Of several lengths, with the first state anywhere, one without, and one without tokens."""
    slots = [[1, 2, 3, 4], [5, 6, 7, 8], [0, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    drafts = Drafts(2, 6, [4, 1, 3, 0, 2], slots, [4, 1, 1, 2, 3], dtype, state_dtype, activation)
    check(drafts)


def test_slots_that_are_not_there() -> None:
    """Tokens behind the last column, or of slot 0, leave no state; too many accepted: no state."""
    check(Drafts(1, 2, [5, 2, 3], [[1, 0, 2], [3, 4, 5], [6, 7, 8]], [1, 4, 2]))


def test_many_heads_and_requests() -> None:
    requests = 40
    slots = [[3 * r + 1, 3 * r + 2, 3 * r + 3] for r in range(requests)]
    accepted = [r % 3 + 1 for r in range(requests)]
    check(Drafts(16, 32, [3] * requests, slots, accepted))


def test_the_reference() -> None:
    check(Drafts(2, 4, [2, 3], [[1, 2, 3], [4, 5, 6]], [2, 3]), reference)


@pytest.mark.parametrize("module", [ops, reference], ids=["kernel", "reference"])
def test_tokens_of_no_request_keep_what_is_there(module: Any) -> None:
    """Such as those that pad a graph's."""
    drafts = Drafts(1, 2, [2, 3, 4], [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [1, 2, 1])
    for listed in (drafts.lengths, drafts.slots, drafts.accepted, drafts.starts):
        listed.pop()
    out, state = drafts.run(module)
    want, want_state = drafts.exact()
    torch.testing.assert_close(out[:5].double(), want[:5], rtol=3 * 2.0**-8, atol=2e-4)
    torch.testing.assert_close(state.double(), want_state, rtol=1e-5, atol=1e-5)
    assert bool(out[5:].isnan().all())


def test_bad_input(subtests: pytest.Subtests) -> None:
    drafts = Drafts(1, 2, [2], [[1, 2]], [1])
    out = torch.empty_like(drafts.gate.contiguous())
    good = list(drafts.arguments(drafts.state, out))
    for place, value, message in (
        (0, good[0][:, :384], "mixed_qkv has 384 columns and state 2 heads, want 128"),
        (0, good[0].float(), "mixed_qkv is float32, want bfloat16 or float16"),
        (8, good[8].half(), "state is float16, want float32 or bfloat16"),
        (6, good[6].long(), "cu_seqlens is int64, want int32"),
        (14, "tanh", 'output_gate_activation is "tanh", want silu or sigmoid'),
    ):
        with subtests.test(message):
            arguments = [*good[:place], value, *good[place + 1 :]]
            with pytest.raises(RuntimeError, match=f"fused_gdn_decode_post_conv_mtp: {message}"):
                ops.fused_gdn_decode_post_conv_mtp(*arguments)
