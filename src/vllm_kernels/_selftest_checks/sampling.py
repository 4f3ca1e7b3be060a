from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("greedy_argmax", "fused_gumbel_argmax", dtypes=(torch.float32,))
def _choice(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    logits = torch.randn(5, 1003, dtype=dtype)
    return [ops.greedy_argmax(logits), ops.fused_gumbel_argmax(logits, torch.arange(5))]


@check(
    "rejection_greedy_sample_kernel_impl",
    "rejection_random_sample_kernel_impl",
    "sample_recovered_tokens_kernel_impl",
    "expand_kernel_impl",
    dtypes=(torch.float32,),
)
def _drafted(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Three requests with two, none and three drafted tokens."""
    vocabulary, ends = 83, torch.tensor([2, 2, 5])
    draft, bonus = torch.randint(vocabulary, (5,)), torch.randint(vocabulary, (3, 1))
    target = torch.where(torch.rand(5) < 0.6, draft, 0)
    probs = [torch.rand(5, vocabulary, dtype=dtype).softmax(1) for _ in range(2)]
    inv_q = torch.rand(3, vocabulary, dtype=dtype)
    greedy, random = torch.full((3, 4), -1), torch.full((3, 4), -1)
    recovered, spread = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    ops.rejection_greedy_sample_kernel_impl(greedy, ends, draft, target, bonus, None, 3)
    ops.sample_recovered_tokens_kernel_impl(
        recovered, ends, draft, *probs, inv_q, vocabulary, False
    )
    ops.rejection_random_sample_kernel_impl(
        random, ends, draft, *probs, bonus, recovered, torch.rand(5), None, 3, vocabulary, False
    )
    ops.expand_kernel_impl(spread, bonus.flatten(), ends, 0, 7)
    return [greedy, recovered, random, spread]


@check(
    "eagle_prepare_inputs_padded_kernel_impl",
    "eagle_prepare_next_token_padded_kernel_impl",
    "eagle_step_slot_mapping_metadata_kernel_impl",
    dtypes=(torch.int64,),
)
def _drafting(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Three requests with two, none and three drafted tokens."""
    ends, valid = torch.tensor([2, 2, 5]), torch.tensor([1, 1, 3])
    starts = torch.tensor([0, 3, 4, 8], dtype=torch.int32)
    index, rejected = torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=dtype)
    ops.eagle_prepare_inputs_padded_kernel_impl(ends, valid, starts, index, rejected, 3)
    sampled, discard = torch.randint(-1, 9, (3, 4)), torch.tensor([False, True, False])
    token, count = torch.zeros(3, dtype=dtype), torch.zeros(3, dtype=dtype)
    ops.eagle_prepare_next_token_padded_kernel_impl(sampled, discard, ends, token, count, 7, 4, 3)
    table, lengths = torch.randint(50, (3, 4)).int(), torch.tensor([9, 30, 63]).int()
    moved, slots = torch.zeros(3, dtype=dtype), torch.zeros(5, dtype=dtype)
    ops.eagle_step_slot_mapping_metadata_kernel_impl(
        torch.tensor([8, 29, 63]), table, lengths, moved, slots, 16, 64, -1
    )
    return [index, rejected, token, count, moved, slots, lengths]


@check("copy_and_expand_eagle_inputs_kernel_impl", dtypes=(torch.int64,))
def _expanded(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Three requests of three, one and four tokens, of which one, none and two are rejected."""
    ids, positions, next_ids = torch.randint(99, (8,)), torch.arange(8) + 5, torch.tensor([7, 8, 9])
    starts, ends = torch.tensor([0, 3, 4, 8]).int(), torch.tensor([1, 3, 5]).int()
    results: list[Tensor] = []
    for shift in (True, False):
        size = 8 + 3 * (4 - shift)
        out = [torch.zeros(size, dtype=dtype) for _ in range(2)]
        masks = [torch.zeros(size, dtype=torch.bool) for _ in range(2)]
        places = [torch.zeros(size, dtype=torch.int32) for size in (12, 8)]
        ops.copy_and_expand_eagle_inputs_kernel_impl(
            ids, positions, next_ids, *out, *masks, *places, starts, ends, 0, 50, 8, 4, shift
        )
        results += [*out, *masks, *places]
    return results


@check("copy_and_expand_dflash_inputs_kernel_impl", dtypes=(torch.int64,))
def _queried(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """The same requests, the last of which ends behind its blocks."""
    positions, table = torch.arange(8) * 5 + 9, torch.randint(50, (3, 3)).int()
    starts, rejected = torch.tensor([0, 3, 4, 8]).int(), torch.tensor([1, 0, 2])
    results: list[Tensor] = []
    for lost in (rejected, None):
        ids, query, query_slots = (torch.zeros(12, dtype=dtype) for _ in range(3))
        context, slots = (torch.zeros(8, dtype=dtype) for _ in range(2))
        index = torch.zeros(9, dtype=torch.int32)
        ops.copy_and_expand_dflash_inputs_kernel_impl(
            torch.tensor([7, 8, 9]), positions, ids, context, query, slots, query_slots, index,
            table, starts, lost, 50, 16, 4, 3, 8, lost is not None,
        )  # fmt: skip
        results += [ids, context, query, slots, query_slots, index]
    return results
