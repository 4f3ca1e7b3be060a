"""The sizes of the experts' grouped products and where their rows are, against the references."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.moe_gemm import grouped as reference

ops = torch.ops.vllm_kernels

POISON = -77


def numbers(*shape: int) -> torch.Tensor:
    return torch.full(shape, POISON, dtype=torch.int32, device="cuda")


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("tokens", "topk"), [(1, 1), (5, 2), (32, 2), (33, 2), (1000, 8), (9000, 4)]
)
@pytest.mark.parametrize("experts", [1, 8, 60, 256, 1024])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("blocks", [False, True], ids=["plain", "blocks"])
def test_data(tokens: int, topk: int, experts: int, ids: torch.dtype, blocks: bool) -> None:
    topk_ids = torch.randint(-1, experts + 1, (tokens, topk), device="cuda").to(ids)
    outputs = []
    for library in (ops, reference):
        offsets, padded = numbers(experts + 1), numbers(experts + 1) if blocks else None
        sizes1, sizes2 = numbers(experts, 3), numbers(experts, 3)
        order, rows = numbers(tokens * topk), numbers(tokens * topk)
        library.get_cutlass_moe_mm_data(
            topk_ids, offsets, sizes1, sizes2, order, rows, experts, 96, 160, padded, not blocks
        )
        outputs.append(
            [offsets, sizes1, sizes2, order, rows, *([] if padded is None else [padded])]
        )
    same(*outputs)


def test_outputs_are_rows_of_numbers_whatever_their_shape() -> None:
    """What lies behind the numbers is not written, as the fuzzer found of the reference."""
    ids = torch.zeros(1, 1, dtype=torch.int32, device="cuda")
    outputs = []
    for library in (ops, reference):
        outputs.append([numbers(1, 3), numbers(1, 3), numbers(1, 3), numbers(1, 2), numbers(2, 1)])
        library.get_cutlass_moe_mm_data(ids, *outputs[-1], 1, 96, 160, None, True)
    same(*outputs)
    assert outputs[0][3].tolist() == [[0, numbers(1).item()]]


def test_data_of_no_tokens() -> None:
    offsets, sizes1, sizes2 = numbers(9), numbers(8, 3), numbers(8, 3)
    none = numbers(0)
    ids = torch.empty(0, 2, dtype=torch.int32, device="cuda")
    ops.get_cutlass_moe_mm_data(ids, offsets, sizes1, sizes2, none, none, 8, 32, 64, None, True)
    assert offsets.tolist() == [0] * 9
    assert sizes1.tolist() == [[64, 0, 64]] * 8
    assert sizes2.tolist() == [[64, 0, 32]] * 8


@pytest.mark.parametrize("experts", [1, 8, 300])
@pytest.mark.parametrize("swapped", [False, True])
def test_sizes_of_offsets(experts: int, swapped: bool) -> None:
    counts = torch.randint(0, 50, (experts,), device="cuda")
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    name = "get_cutlass_moe_mm_problem_sizes_from_expert_offsets"
    outputs = []
    for library in (ops, reference):
        sizes = [numbers(experts, 3), numbers(experts, 3)]
        getattr(library, name)(first, *sizes, 96, 160, swapped)
        outputs.append(sizes)
    same(*outputs)


@pytest.mark.parametrize(("experts", "padded"), [(1, 64), (8, 8), (8, 9), (300, 128), (5, 0)])
def test_batched_data(experts: int, padded: int) -> None:
    counts = torch.randint(0, padded + 1, (experts,), device="cuda").int()
    outputs = []
    for library in (ops, reference):
        tensors = [numbers(experts), numbers(experts, 3), numbers(experts, 3)]
        library.get_cutlass_batched_moe_mm_data(*tensors, counts, experts, padded, 96, 160)
        outputs.append(tensors)
    same(*outputs)


def test_bad_sizes_are_refused() -> None:
    ids = torch.zeros(3, 2, dtype=torch.int32, device="cuda")
    good = [numbers(9), numbers(8, 3), numbers(8, 3), numbers(6), numbers(6)]
    for at, bad, message in (
        (0, numbers(8), "expert_offsets"),
        (1, numbers(8, 2), "problem_sizes1"),
        (3, numbers(5), "input_permutation"),
        (4, numbers(6).float(), "output_permutation"),
    ):
        tensors = [*good]
        tensors[at] = bad
        with pytest.raises(RuntimeError, match=f"^get_cutlass_moe_mm_data: {message}"):
            ops.get_cutlass_moe_mm_data(ids, *tensors, 8, 32, 64, None, True)
    with pytest.raises(RuntimeError, match="number of experts is 1025"):
        ops.get_cutlass_moe_mm_data(ids, *good, 1025, 32, 64, None, True)
