"""What a drafting model is given, per tier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference.sampling import drafting as reference

ops = torch.ops.vllm_kernels
REQUESTS = [0, 1, 3, 17]


def same(name: str, written: dict[int, torch.Tensor], arguments: tuple[Any, ...]) -> None:
    """Call the op and its reference on equal outputs, which stand at those places."""
    ours, theirs = list(arguments), list(arguments)
    for at, output in written.items():
        ours[at], theirs[at] = output.clone(), output.clone()
    getattr(ops, name)(*ours)
    getattr(reference, name)(*theirs)
    for at in written:
        assert torch.equal(ours[at], theirs[at]), at


@pytest.mark.parametrize("requests", REQUESTS)
def test_prepare_inputs(tier: str, requests: int) -> None:
    drafted = torch.arange(requests) % 4
    valid = torch.minimum(torch.arange(requests) % 3 + 1, drafted + 1)
    starts = torch.cat((torch.zeros(1), (drafted + 1).cumsum(0))).int()
    same(
        "eagle_prepare_inputs_padded_kernel_impl",
        {3: torch.full((requests + 2,), 7, dtype=torch.int32), 4: torch.full((requests + 2,), 7)},
        (drafted.cumsum(0), valid, starts, None, None, requests),
    )


@pytest.mark.parametrize("requests", REQUESTS)
def test_prepare_next_token(tier: str, requests: int) -> None:
    sampled = torch.randint(-1, 6, (requests + 1, 6))[:, 1:]
    sampled[:1] = -1
    same(
        "eagle_prepare_next_token_padded_kernel_impl",
        {3: torch.full((requests + 2,), 7), 4: torch.full((requests + 2,), 7)},
        (sampled, torch.arange(requests) % 5 == 2, torch.arange(requests) + 100, None, None, 4, 4,
         requests),
    )  # fmt: skip


@pytest.mark.parametrize("requests", REQUESTS)
def test_step_slot_mapping(tier: str, requests: int) -> None:
    positions = torch.arange(requests) * 13 % 70 - 1
    same(
        "eagle_step_slot_mapping_metadata_kernel_impl",
        {
            2: (torch.arange(requests) + 60).int(),
            3: torch.full((requests,), 7),
            4: torch.full((requests + 3,), 7),
        },
        (positions, torch.randint(99, (requests, 5)).int()[:, :4], None, None, None, 16, 64, -1),
    )


def test_step_from_the_largest_numbers(tier: str) -> None:
    int64, int32 = 2**63 - 1, 2**31 - 1
    positions = torch.tensor([int64, 62, 61, 0])
    lengths = torch.tensor([5, int32, int32, int32], dtype=torch.int32)
    moved, slots = torch.full((4,), 7), torch.full((5,), 7)
    table = torch.full((4, 2), int32, dtype=torch.int32)
    ops.eagle_step_slot_mapping_metadata_kernel_impl(
        positions, table, lengths, moved, slots, int32, 63, -1
    )
    assert moved.tolist() == [0, 0, 62, 1]
    assert lengths.tolist() == [1, 1, 63, 63]
    assert slots.tolist() == [-1, -1, int32**2 + 62, int32**2 + 1, -1]


def test_bad_input(tier: str, subtests: pytest.Subtests) -> None:
    two = torch.zeros(2, dtype=torch.int64)
    short, mask = torch.zeros(3, dtype=torch.int32), torch.zeros(2, dtype=torch.bool)
    table = torch.zeros(2, 4, dtype=torch.int32)
    prepare = "eagle_prepare_inputs_padded_kernel_impl"
    choose = "eagle_prepare_next_token_padded_kernel_impl"
    step = "eagle_step_slot_mapping_metadata_kernel_impl"
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        (prepare, (two, two, short, short, two, 3), "cu_num_draft_tokens has shape"),
        (prepare, (two, two, short[:2], short, two, 2), "query_start_loc_gpu has shape"),
        (prepare, (two, two, short, two, two, 2), "token_indices_to_sample"),
        (prepare, (two, two, short, short, two, -1), "num_reqs is -1"),
        (choose, (table.long(), mask, two, two, two, 9, 5, 2), "sampled_token_ids has shape"),
        (choose, (table, mask, two, two, two, 9, 4, 2), "sampled_token_ids"),
        (choose, (table.long(), two, two, two, two, 9, 4, 2), "discard_request_mask"),
        (choose, (table.long(), mask, two[:1], two, two, 9, 4, 2), "backup_next_token_ids"),
        (prepare, (two - 1, two, short, short, two, 2), "cu_num_draft_tokens has -1 at index 0"),
        (prepare, (two + 2**31, two, short, short, two, 2), "cu_num_draft_tokens has 2147483648"),
        (prepare, (two, two - 2**63, short, short, two, 2), "valid_sampled_tokens_count has -9"),
        (prepare, (torch.tensor([1, 0]), two, short, short, two, 2), "cu_num_draft_tokens has 0"),
        (step, (two, table, short, two, two, 0, 64, -1), "block_size is 0"),
        (step, (two, table, short, two, two, 2**31, 64, -1), "block_size is 2147483648"),
        (step, (two, table, short, two, two, 16, 0, -1), "max_model_len is 0"),
        (step, (two, table, short, two, two, 16, 2**63 - 1, -1), "max_model_len is 9"),
        (step, (two, table[:1], short, two, two, 16, 64, -1), "block_table has shape"),
        (step, (two, table[:, :0], short, two, two, 16, 64, -1), "block_table has shape"),
        (step, (two, table, short, two, two[:1], 16, 64, -1), "out_slot_mapping has shape"),
        (step, (two - 2, table, short, two, two, 16, 64, -1), "positions has -2 at index 0"),
    ]
    for name, arguments, message in cases:
        own = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
        with (
            subtests.test(name, message=message),
            pytest.raises(RuntimeError, match=f"{name}: .*{message}"),
        ):
            getattr(ops, name)(*own)
