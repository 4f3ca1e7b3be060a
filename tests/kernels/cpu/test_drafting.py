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


def test_step_in_place(tier: str) -> None:
    """The engine lets the moved positions take the place of the old ones."""
    positions, table = torch.tensor([3, 70, -1, 62]), torch.randint(99, (4, 5)).int()
    lengths, moved = torch.tensor([4, 9, 1, 63], dtype=torch.int32), torch.empty(4).long()
    slots, others = torch.full((6,), 7), torch.full((6,), 8)
    step = ops.eagle_step_slot_mapping_metadata_kernel_impl
    step(positions, table, lengths.clone(), moved, slots, 16, 64, -1)
    step(positions, table, lengths, positions, others, 16, 64, -1)
    assert torch.equal(positions, moved)
    assert torch.equal(slots, others)


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


def _expanded(size: int, slots: int, requests: int, total: int) -> dict[int, torch.Tensor]:
    """Outputs of the expansion, with room behind them."""
    return {
        3: torch.full((size + 2,), 77),
        4: torch.full((size + 2,), 77),
        5: torch.ones(size + 2, dtype=torch.bool),
        6: torch.ones(size + 2, dtype=torch.bool),
        7: torch.full((requests * slots + 2,), 77, dtype=torch.int32),
        8: torch.full((total + 2,), 77, dtype=torch.int32),
    }


@pytest.mark.parametrize("requests", REQUESTS)
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("shift", [True, False])
def test_expand_for_parallel_drafting(tier: str, requests: int, slots: int, shift: bool) -> None:
    lengths = torch.arange(requests) * 3 % 7 + 1
    starts = torch.cat((torch.zeros(1), lengths.cumsum(0))).int()
    ends = starts[1:] - 1 - torch.minimum(torch.arange(requests) % 3, lengths - 1).int()
    total = int(starts[-1])
    same(
        "copy_and_expand_eagle_inputs_kernel_impl",
        _expanded(total + requests * (slots - shift), slots, requests, total),
        (torch.arange(total + 3) + 1000, torch.arange(total + 3) * 5, torch.arange(requests) + 500,
         *[None] * 6, starts, ends, -9, 300, total + 1, slots, shift),
    )  # fmt: skip


def test_expand_as_it_is_described(tier: str) -> None:
    """Two requests, of three tokens with one rejected and of one; three more slots each."""
    ids, positions = torch.tensor([10, 11, 12, 20]), torch.tensor([5, 6, 7, 40])
    starts, ends = torch.tensor([0, 3, 4]).int(), torch.tensor([1, 3]).int()
    outputs = _expanded(8, 3, 2, 4)
    ops.copy_and_expand_eagle_inputs_kernel_impl(
        ids, positions, torch.tensor([91, 92]), *outputs.values(), starts, ends, 0, 99, 4, 3, True
    )
    assert outputs[3].tolist() == [11, 91, 99, 99, 0, 92, 99, 99, 77, 77]
    assert outputs[4].tolist() == [5, 6, 7, 8, 0, 40, 41, 42, 77, 77]
    assert outputs[5].tolist() == [False] * 4 + [True] + [False] * 3 + [True] * 2
    assert outputs[6].tolist() == [*[False] * 2, True, True, *[False] * 2, *[True] * 4]
    assert outputs[7].tolist() == [1, 2, 3, 5, 6, 7, 77, 77]
    assert outputs[8].tolist() == [0, 1, 2, 5, 77, 77]


@pytest.mark.parametrize("requests", REQUESTS)
@pytest.mark.parametrize("rejected", [True, False])
@pytest.mark.parametrize(("queries", "speculated"), [(1, 0), (4, 3), (3, 5)])
def test_query_masked_tokens(
    tier: str, requests: int, rejected: bool, queries: int, speculated: int
) -> None:
    lengths = torch.arange(requests) * 3 % 7 + 1
    starts = torch.cat((torch.zeros(1), lengths.cumsum(0))).int()
    total = int(starts[-1])
    asked = requests * queries
    lost = torch.arange(requests) % 4 if rejected else None
    same(
        "copy_and_expand_dflash_inputs_kernel_impl",
        {
            2: torch.full((asked + 2,), 77),
            3: torch.full((total + 2,), 77),
            4: torch.full((asked + 2,), 77),
            5: torch.full((total + 2,), 77),
            6: torch.full((asked + 2,), 77),
            7: torch.full((requests * speculated + 2,), 77, dtype=torch.int32),
        },
        (torch.arange(requests) + 500, torch.arange(total + 1) * 3 % 67, *[None] * 6,
         torch.randint(99, (requests + 1, 5)).int()[:, :4], starts, lost, 300, 16, queries,
         speculated, total, rejected),
    )  # fmt: skip


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
    expand = "copy_and_expand_eagle_inputs_kernel_impl"
    starts, ends = torch.tensor([0, 2, 4]).int(), torch.tensor([1, 3]).int()
    four, eight = torch.zeros(4, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    places, flags = torch.zeros(6, dtype=torch.int32), torch.zeros(8, dtype=torch.bool)
    good = (four, four, two, eight, eight, flags, flags, places, places, starts, ends, 0, 9, 4, 3)
    for at, value, message in (
        (0, four[:3], r"target_token_ids has shape \[3\], want at least 4"),
        (1, four - 1, "target_positions has -1 at index 0"),
        (3, eight[:7], r"out_input_ids has shape \[7\], want at least 8"),
        (5, eight, "out_is_rejected_token_mask is int64"),
        (7, places[:5], "out_new_token_indices has shape"),
        (8, places[:3], "out_hidden_state_mapping has shape"),
        (9, starts[:2], "query_start_loc has shape"),
        (9, torch.tensor([0, 2, 2]).int(), "query_start_loc has 2 at indices 1 and 2"),
        (10, torch.tensor([2, 3]).int(), "query_end_loc has 2 at index 0, want 0 to 1"),
        (10, torch.tensor([-1, 3]).int(), "query_end_loc has -1 at index 0, want 0 to 1"),
        (13, 3, "query_start_loc ends at 4, want at most the 3 tokens"),
        (14, 0, "num_padding_slots_per_request is 0"),
        (14, 2**31 - 1, "2 requests of 2147483646 tokens pass int32"),
        (14, 2**30, "2 requests of 1073741823 tokens pass int32"),
    ):
        cases.append((expand, (*good[:at], value, *good[at + 1 :], True), message))
    query = "copy_and_expand_dflash_inputs_kernel_impl"
    good = (two, four, eight, four, eight, four, eight, places, table, starts, two, 9, 16, 4, 3, 4)
    for at, value, message in (
        (0, two[:1], "next_token_ids has shape"),
        (1, four - 1, "target_positions has -1 at index 0"),
        (4, eight[:7], "out_query_positions has shape"),
        (7, places[:5], "out_token_indices has shape"),
        (8, table[:1], "block_table has shape"),
        (8, table[:, :0], "block_table has shape"),
        (10, two - 1, "num_rejected_tokens has -1 at index 0"),
        (12, 0, "block_size is 0"),
        (13, 0, "num_query_per_req is 0"),
        (14, 2, "num_speculative_tokens is 2, want 3 to"),
        (15, 3, "query_start_loc ends at 4, want at most the 3 tokens"),
    ):
        cases.append((query, (*good[:at], value, *good[at + 1 :], True), message))
    for name, arguments, message in cases:
        own = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
        with (
            subtests.test(name, message=message),
            pytest.raises(RuntimeError, match=f"{name}: .*{message}"),
        ):
            getattr(ops, name)(*own)
