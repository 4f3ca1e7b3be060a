"""merge_attn_states: two partial results become one."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.attention import cuda as reference

from .attention import FP8, Problem, make

ops = torch.ops.vllm_kernels

MERGES = ((65, 5, 0), (1, 1, 64), (3, 5, 128), (17, 8, 100), (127, 2, 33), (512, 16, 128))


@pytest.mark.parametrize("shape", MERGES, ids=str)
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_merge(dtype: torch.dtype, quantised: bool, shape: tuple[int, int, int]) -> None:
    tokens, heads, _ = shape
    prefix, suffix = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    lse = torch.randn(2, heads, tokens, device="cuda") * 3
    lse[0].masked_fill_(torch.rand(heads, tokens, device="cuda") < 0.1, float("inf"))
    lse[1].masked_fill_(torch.rand(heads, tokens, device="cuda") < 0.1, -float("inf"))
    scale = torch.tensor([0.01], device="cuda") if quantised else None
    for count in (None, 0, tokens // 2):
        got, want = (
            torch.empty(shape, dtype=FP8 if quantised else dtype, device="cuda") for _ in "ab"
        )
        got_lse, want_lse = (torch.full_like(lse[0], float("nan")) for _ in "ab")
        args = (prefix, lse[0], suffix, lse[1], count, scale)
        ops.merge_attn_states(got, got_lse, *args)
        reference.merge_attn_states(want, want_lse, *args)
        if quantised:
            # One step of float8 where the rounding of the sum differs.
            torch.testing.assert_close(got.float(), want.float(), rtol=0.13, atol=0.01)
        else:
            torch.testing.assert_close(got, want)
        torch.testing.assert_close(got_lse, want_lse)


def test_split_and_merge_is_whole() -> None:
    """Attention over two halves of the keys, merged, is attention over all."""
    whole = make(Problem(((9, 400),), block_size=0, causal=False))
    want, want_lse = (x.clone() for x in whole.run())
    parts = []
    for first, last in ((0, 150), (150, 400)):
        bounds = torch.tensor([0, last - first], dtype=torch.int32, device="cuda")
        keys = {name: whole.args[name][first:last] for name in ("key", "value")}
        parts.append([x.clone() for x in whole.run(key_start_loc=bounds, **keys)])
    out, lse = torch.empty_like(want), torch.empty_like(want_lse)
    ops.merge_attn_states(out, lse, *parts[0], *parts[1], None, None)
    torch.testing.assert_close(out, want, rtol=0, atol=2e-2)
    torch.testing.assert_close(lse, want_lse, rtol=1e-4, atol=1e-3)
