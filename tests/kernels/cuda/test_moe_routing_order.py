"""The order of entries and moving rows, against the references."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch

from vllm_kernels.reference.moe_routing import order as reference
from vllm_kernels.reference.moe_routing import topk as routing

from ..common.moe_routing import POISON, Routed, logits, numbers, randn

ops = torch.ops.vllm_kernels


def expert_map(experts: int, local: int) -> torch.Tensor:
    mapped = torch.full((experts,), -1, dtype=torch.int32)
    chosen = torch.randperm(experts)[:local]
    mapped[chosen] = torch.arange(local, dtype=torch.int32)
    return mapped.cuda()


def aligned(ids: torch.Tensor, experts: int, block: int) -> list[torch.Tensor]:
    most = ids.numel() + experts * (block - 1)
    return [numbers(most), numbers(-(-most // block)), numbers(1)]


@pytest.mark.parametrize("block", [1, 7, 16, 64, 128])
@pytest.mark.parametrize(
    ("tokens", "topk", "experts"),
    [
        (1, 8, 128),
        (3, 2, 8),
        (127, 2, 8),
        (1000, 8, 60),
        (1, 1, 1000),
        (200, 8, 1000),
        (2048, 8, 256),
        (16385, 1, 8),
        (4097, 8, 128),
        (9000, 6, 513),
        (40000, 8, 1000),
        (0, 2, 8),
        (17, 1, 1),
    ],
)
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "map"])
def test_align(tokens: int, topk: int, experts: int, block: int, mapped: bool) -> None:
    ids = torch.randint(0, experts, (tokens, topk), device="cuda")
    ids = ids.int() if tokens % 2 else ids
    mapping = expert_map(experts, (experts + 1) // 2) if mapped else None
    ours, theirs = aligned(ids, experts, block), aligned(ids, experts, block)
    ops.moe_align_block_size(ids, experts, block, *ours, mapping)
    reference.moe_align_block_size(ids, experts, block, *theirs, mapping)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64, torch.uint32])
def test_align_leaves_out_ids_of_no_expert(id_dtype: torch.dtype) -> None:
    ids = torch.randint(-3, 12, (65, 4)).to(id_dtype).cuda()
    known = ids.to(torch.int64)
    ours, theirs = aligned(ids, 8, 16), aligned(ids, 8, 16)
    ops.moe_align_block_size(ids, 8, 16, *ours, None)
    reference.moe_align_block_size(known, 8, 16, *theirs, None)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("tokens", [0, 5, 3000])
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "map"])
def test_align_marks_what_is_sorted(tokens: int, mapped: bool) -> None:
    ids = torch.randint(-1, 70, (tokens, 8), device="cuda")
    mapping = expert_map(64, 20) if mapped else None
    ours, theirs = ([*aligned(ids, 64, 16), numbers(tokens * 8, 1)] for _ in range(2))
    ops.moe_align_block_size(ids, 64, 16, *ours[:3], mapping, ours[3])
    reference.moe_align_block_size(ids, 64, 16, *theirs[:3], mapping, theirs[3])
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("tokens", "received"), [(0, 0), (7, 5), (64, 900), (5000, 4096)])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_globalize_and_align(tokens: int, received: int, marked: bool, kind: torch.dtype) -> None:
    """The last rank's experts, of which one number is beyond all."""
    ids = torch.randint(-1, 33, (tokens, 6), device="cuda")
    psum = torch.tensor([1, 2, received], dtype=kind, device="cuda")
    outputs = []
    for library in (ops, reference):
        own = ids.clone()
        found = [*aligned(ids, 32, 64), numbers(tokens * 6, 1)]
        arguments = (own, psum, 96, 128, 32, 64, *found[:3], found[3] if marked else None)
        library.fused_globalize_align_block_size(*arguments)
        outputs.append([own, *found])
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("tokens", [1, 33, 3000])
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "map"])
def test_prepare_scatter(tokens: int, mapped: bool) -> None:
    ids = torch.randint(-1, 64, (tokens, 6), device="cuda").int()
    local = 20 if mapped else 64
    mapping = expert_map(64, local) if mapped else None
    entries = torch.arange(tokens * 6, dtype=torch.int32, device="cuda").view(tokens, 6)
    size = ops.moe_permute_sort_workspace_size(tokens * 6, 64)
    outputs = []
    for library in (ops, reference):
        memory = torch.empty(size, dtype=torch.int8, device="cuda")
        first, inverse = numbers(local + 1, dtype=torch.int64), numbers(tokens, 6)
        spare = [numbers(tokens, 6) for _ in range(3)]
        library.moe_prepare_scatter(
            ids, entries, mapping, 64, local, first, inverse, memory, *spare
        )
        outputs.append((first, inverse, spare[1]))
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


def test_align_of_one_expert_for_all() -> None:
    ids = torch.full((20000, 1), 5, dtype=torch.int32, device="cuda")
    ours, theirs = aligned(ids, 8, 128), aligned(ids, 8, 128)
    ops.moe_align_block_size(ids, 8, 128, *ours, None)
    reference.moe_align_block_size(ids, 8, 128, *theirs, None)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("tokens", "experts"), [(0, 8), (5, 8), (300, 64), (5000, 128)])
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "map"])
def test_lora_align(tokens: int, experts: int, mapped: bool) -> None:
    topk, block, loras = 4, 16, 4
    ids = torch.randint(0, experts, (tokens, topk), device="cuda").int()
    owners = torch.randint(-1, loras, (tokens,), device="cuda").int()
    enabled = torch.tensor([1, 0, 1, 1, 0], device="cuda").int()
    adapters = torch.tensor([-1, 0, 1, 3, 7], device="cuda").int()
    most = tokens * topk + experts * (block - 1)
    blocks = -(-most // block)
    mapping = expert_map(experts, experts // 2) if mapped else None
    ours, theirs = (
        [numbers(loras * most), numbers(loras * blocks), numbers(loras)] for _ in range(2)
    )
    args = (ids, owners, experts, block, loras, most, blocks)
    ops.moe_lora_align_block_size(*args, *ours, enabled, adapters, mapping)
    reference.moe_lora_align_block_size(*args, *theirs, enabled, adapters, mapping)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    assert int(ours[2][1]) == POISON


@pytest.mark.parametrize(
    ("experts", "most", "block"), [(5, 8, 4), (64, 100, 16), (256, 512, 128), (1024, 3, 16)]
)
def test_batched_align(experts: int, most: int, block: int) -> None:
    counts = torch.randint(0, most + 1, (experts,), device="cuda").int()
    places = experts * -(-most // block) * block
    ours, theirs = ([numbers(places), numbers(places // block), numbers(1)] for _ in range(2))
    ops.batched_moe_align_block_size(most, block, counts, *ours)
    reference.batched_moe_align_block_size(most, block, counts, *theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_batched_align_of_counts_that_cannot_be() -> None:
    counts = torch.tensor([-1000, 3, 2**31 - 1, -(2**31), 5], device="cuda", dtype=torch.int32)
    around = torch.full((40 + 2 * 4096,), POISON, dtype=torch.int32, device="cuda")
    ours = [around[4096:][:40], numbers(10), numbers(1)]
    theirs = [numbers(40), numbers(10), numbers(1)]
    ops.batched_moe_align_block_size(8, 4, counts, *ours)
    reference.batched_moe_align_block_size(8, 4, counts, *theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    assert int((around[:4096] != POISON).sum() + (around[4136:] != POISON).sum()) == 0


def test_batched_align_fills_as_much_as_full_experts_take() -> None:
    counts = torch.tensor([8, 0, 2, 6, 7], device="cuda", dtype=torch.int32)
    ours, theirs = ([numbers(516), numbers(129), numbers(1)] for _ in range(2))
    ops.batched_moe_align_block_size(8, 4, counts, *ours)
    reference.batched_moe_align_block_size(8, 4, counts, *theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    assert int((ours[0] == POISON).sum()) == 476


def test_only_the_first_number_of_places_is_written() -> None:
    ids = torch.randint(0, 32, (127, 8), device="cuda").int()
    total = numbers(4)
    ops.moe_align_block_size(ids, 32, 64, numbers(4096), numbers(64), total, None)
    assert total[1:].tolist() == [POISON] * 3
    assert int(total[0]) > 0


# --- moving rows ---


@pytest.mark.parametrize("tokens", [1, 33, 1000, 3000])
@pytest.mark.parametrize(("experts", "topk"), [(8, 2), (64, 6), (256, 8)])
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "map"])
@pytest.mark.parametrize("scratch", [False, True], ids=["plain", "scratch"])
def test_permute_and_back(
    dtype: torch.dtype, tokens: int, experts: int, topk: int, mapped: bool, scratch: bool
) -> None:
    hidden = 264
    x = randn(tokens, hidden, dtype=dtype)
    ids = torch.rand(tokens, experts, device="cuda").argsort(-1)[:, :topk].int().contiguous()
    local = experts // 2 if mapped else experts
    mapping = expert_map(experts, local) if mapped else None
    entries = torch.arange(tokens * topk, dtype=torch.int32, device="cuda").view(tokens, topk)
    outputs = []
    for library in (ops, reference):
        permuted = torch.full((tokens * topk, hidden), POISON, device="cuda", dtype=dtype)
        first = numbers(local + 1, dtype=torch.int64)
        inverse, index = numbers(tokens, topk), numbers(tokens * topk)
        args = (x, ids, entries, mapping, experts, local, topk, permuted, first, inverse, index)
        if scratch:
            size = ops.moe_permute_sort_workspace_size(tokens * topk, experts)
            assert size == reference.moe_permute_sort_workspace_size(tokens * topk, experts)
            memory = torch.empty(size, dtype=torch.int8, device="cuda")
            spare = [torch.empty_like(ids) for _ in range(3)]
            library.moe_permute_with_scratch(*args, memory, *spare)
        else:
            library.moe_permute(*args)
        outputs.append((permuted, first, inverse, index))
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)
    permuted, first, inverse, _ = outputs[0]
    weights = torch.rand(tokens, topk, device="cuda")
    back, expected = torch.full_like(x, float("nan")), torch.empty_like(x)
    permuted[int(first[-1]) :] = float("nan")  # not to be read
    ops.moe_unpermute(permuted, weights, inverse.flatten(), first, topk, back)
    reference.moe_unpermute(permuted, weights, inverse.flatten(), first, topk, expected)
    rtol = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(back, expected, rtol=rtol, atol=rtol)


def test_permute_with_entries_that_are_not_there() -> None:
    """Twice, none, or outside: nothing is written around the outputs."""
    tokens, topk, experts, hidden = 2, 17, 8, 5
    x = randn(tokens, hidden, dtype=torch.float16)
    ids = torch.randint(0, experts, (tokens, topk), device="cuda").int()
    entries = torch.tensor([0, 0, -1, 34, 2**31 - 1, -(2**31), 5], device="cuda").int().repeat(5)
    entries = entries[: tokens * topk].view(tokens, topk)
    around = torch.full((2 * 4096 + tokens * topk * hidden,), POISON, device="cuda").half()
    permuted = around[4096:-4096].view(tokens * topk, hidden)
    places = torch.full((2 * 4096 + tokens * topk,), POISON, device="cuda", dtype=torch.int32)
    inverse = places[4096:-4096].view(tokens, topk)
    first, index = numbers(experts + 1, dtype=torch.int64), numbers(tokens * topk)
    ops.moe_permute(x, ids, entries, None, experts, experts, topk, permuted, first, inverse, index)
    for memory in (around, places):
        assert bool((memory[:4096] == POISON).all())
        assert bool((memory[-4096:] == POISON).all())


def test_permute_moves_bytes_of_any_dtype() -> None:
    for dtype, hidden in ((torch.float8_e4m3fn, 128), (torch.int8, 33), (torch.bfloat16, 10)):
        x = randn(50, hidden).to(dtype)
        source = torch.randint(0, 50, (77,), device="cuda").int()
        out = torch.zeros(77, hidden, device="cuda").to(dtype)
        ops.shuffle_rows(x, source, out)
        expected = x.view(torch.uint8)[source.long()]
        assert torch.equal(out.view(torch.uint8), expected)


def test_indices_that_name_no_row() -> None:
    x = randn(3, 264)
    index = torch.tensor([0, 3, -1, 2, 2**31 - 1, -(2**31)], device="cuda", dtype=torch.int32)
    out, expected = (torch.full((6, 264), float(POISON), device="cuda") for _ in range(2))
    ops.shuffle_rows(x, index, out)
    reference.shuffle_rows(x, index, expected)
    assert torch.equal(out, expected)
    weights = torch.rand(3, 2, device="cuda")
    for end in (None, 2, 3, 2**40):
        first = None if end is None else torch.tensor([0, end], device="cuda")
        out, expected = (torch.full((3, 264), float("nan"), device="cuda") for _ in range(2))
        ops.moe_unpermute(x, weights, index, first, 2, out)
        reference.moe_unpermute(x, weights, index, first, 2, expected)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topk", [1, 2, 4, 6, 8, 9])
@pytest.mark.parametrize("hidden", [1, 100, 4096, 5120])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_moe_sum(dtype: torch.dtype, topk: int, hidden: int, layout: str) -> None:
    tokens = 65
    if layout == "contiguous":
        x = randn(tokens, topk, hidden, dtype=dtype)
    elif layout == "strided":
        x = randn(tokens, topk + 1, hidden + 8, dtype=dtype)[:, :topk, :hidden]
    else:
        x = randn(hidden, topk, tokens, dtype=dtype).permute(2, 1, 0)
    out, expected = torch.full((tokens, hidden), float("nan"), device="cuda", dtype=dtype), None
    ops.moe_sum(x, out)
    expected = x.double().sum(1)
    rtol = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "map"])
def test_moe_sum_leaves_out_padding(id_dtype: torch.dtype, mapped: bool) -> None:
    x = randn(33, 6, 512, dtype=torch.bfloat16)
    ids = torch.randint(-1, 16, (33, 6), device="cuda").to(id_dtype)
    mapping = expert_map(16, 8) if mapped else None
    out, expected = (torch.full((33, 512), 9.0, device="cuda").bfloat16() for _ in range(2))
    local = reference._local(ids, 16, mapping).view(33, 6)
    x[local < 0] = float("nan")
    ops.moe_sum(x, out, ids, mapping)
    reference.moe_sum(x, expected, ids, mapping)
    torch.testing.assert_close(out, expected, rtol=8e-3, atol=1e-5)


# --- small GEMM ---


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16])
@pytest.mark.parametrize(("n", "k"), [(256, 7168), (384, 7168), (256, 6144), (2112, 7168), (9, 96)])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_small_gemm(tokens: int, n: int, k: int, out_dtype: torch.dtype) -> None:
    a = randn(tokens, k, dtype=torch.bfloat16)
    b = randn(n, k, dtype=torch.bfloat16)
    exact = a.double() @ b.double().t()
    out = torch.full((tokens, n), float("nan"), device="cuda", dtype=out_dtype)
    ops.dsv3_router_gemm(out, a, b)
    rtol = 1e-4 if out_dtype == torch.float32 else 8e-3
    torch.testing.assert_close(out.double(), exact, rtol=rtol, atol=2e-3)
    other = torch.full_like(out, float("nan"))
    ops.dsv3_fused_a_gemm(other, a, b.t())
    assert torch.equal(out, other)


# --- graphs and bad input ---


def test_capture() -> None:
    gate = logits(64, 128, torch.float32)
    routed = Routed(64, 8)
    ids = aligned(routed.indices, 128, 16)
    x = randn(64, 8, 256)
    total = torch.empty(64, 256, device="cuda")

    def run() -> None:
        ops.topk_softmax(*routed.all(), gate, True, None)
        ops.moe_align_block_size(routed.indices, 128, 16, *ids, None)
        ops.moe_sum(x, total)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    gate.copy_(logits(64, 128, torch.float32))
    x.normal_()
    graph.replay()
    expected, theirs = Routed(64, 8), aligned(routed.indices, 128, 16)
    routing.topk_softmax(*expected.all(), gate, True, None)
    routed.check(expected)
    reference.moe_align_block_size(routed.indices, 128, 16, *theirs, None)
    for one, other in zip(ids, theirs, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(total, x.sum(1), rtol=1e-5, atol=1e-5)


def test_bad_input_is_refused() -> None:
    routed = Routed(4, 2)
    with pytest.raises(RuntimeError, match="topk_softmax: bias"):
        ops.topk_softmax(*routed.all(), randn(4, 8), True, randn(7))
    with pytest.raises(RuntimeError, match="want 1 to 1024 experts"):
        ops.topk_softmax(*routed.all(), randn(4, 1025), True, None)
    with pytest.raises(RuntimeError, match="n_group is 3, want 1 to 32 and a divisor"):
        ops.grouped_topk(randn(4, 8), 3, 1, 2, True, 1.0, randn(8), 1)
    ids = torch.zeros(4, 2, dtype=torch.int32, device="cuda")
    with pytest.raises(RuntimeError, match="experts_ids has shape"):
        ops.moe_align_block_size(ids, 8, 16, numbers(64), numbers(1), numbers(1), None)
    places = torch.full((64,), -7, dtype=torch.int32, device="cuda")
    with pytest.raises(RuntimeError, match=r"scatter_idx has shape \[7\]"):
        ops.moe_align_block_size(ids, 8, 16, places, numbers(4), numbers(1), None, numbers(7))
    assert bool((places == -7).all())  # refused before anything is written
    with pytest.raises(RuntimeError, match="at most 16 rows"):
        ops.dsv3_router_gemm(randn(17, 8), randn(17, 64).bfloat16(), randn(8, 64).bfloat16())


@pytest.mark.no_gpu
def test_the_references_permuted_idx_may_have_any_shape() -> None:
    """As the kernel's, which counts its elements: what lies behind the local rows stays."""
    x, ids = torch.randn(1, 8), torch.tensor([[2, 1]], dtype=torch.int32)
    entries = torch.tensor([[0, 1]], dtype=torch.int32)
    mapping = torch.tensor([3, -1, 1, -1], dtype=torch.int32)
    for shape in ((2,), (1, 2), (2, 1)):
        index = torch.full(shape, POISON, dtype=torch.int32)
        first = torch.zeros(5, dtype=torch.int64)
        rows = (torch.zeros(2, 8), first, torch.zeros(1, 2, dtype=torch.int32), index)
        reference.moe_permute(x, ids, entries, mapping, 4, 4, 2, *rows)
        assert index.flatten().tolist() == [0, POISON]
        assert first.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.no_gpu
def test_workspace_sizes_without_gpu(c_library: Callable[[str], ctypes.CDLL]) -> None:
    size = c_library("moe_routing").vk_cuda_moe_sort_workspace
    size.restype = ctypes.c_int64
    for entries in (0, 1, 4097, 16384, 16385, 100_000, 1 << 21):
        expected = reference.moe_permute_sort_workspace_size(entries, 64)
        assert size(ctypes.c_int64(entries), ctypes.c_int64(64)) == expected
