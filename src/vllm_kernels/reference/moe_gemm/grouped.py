"""References of the experts' grouped products and of the sizes that they take."""

from __future__ import annotations

import torch

# The engine wants columns before rows in the sizes of so few rows.
_SWAPPED_ROWS = 64


def cutlass_group_gemm_supported(cuda_device_capability: int) -> bool:
    """Whether ``cutlass_moe_mm`` has a kernel for GPUs of that compute capability; 90 is 9.0."""
    return False


def cutlass_moe_mm(
    out_tensors: torch.Tensor,
    a_tensors: torch.Tensor,
    b_tensors: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    expert_offsets: torch.Tensor,
    problem_sizes: torch.Tensor,
    a_strides: torch.Tensor,
    b_strides: torch.Tensor,
    c_strides: torch.Tensor,
    per_act_token: bool,
    per_out_ch: bool,
) -> None:
    """The tokens of each expert times its weights, times the scales of both.

    Args:
        out_tensors: bfloat16 or float16 [rows, n], n a multiple of 8; written: the experts' rows.
        a_tensors: float8_e4m3fn [rows, k].
        b_tensors: float8_e4m3fn [experts, n, k], or [experts, k, n] with k contiguous.
        a_scales: float32; one a row with ``per_act_token``, else one for all or one an expert.
        b_scales: float32 [experts, n] with ``per_out_ch``, else [experts].
        expert_offsets: int32 or int64, at least [experts]: first row of each expert.
        problem_sizes: int32 [experts, 3]: rows, n, k of each expert, or n, rows, k. An expert whose
            sizes name another n has no rows; rows outside of ``a_tensors`` are left out.
        a_strides: int64 [experts]; not read, as the next two: the tensors say the same.
        b_strides: int64 [experts].
        c_strides: int64 [experts].
        per_act_token: Whether tokens have scales of their own.
        per_out_ch: Whether columns have.
    """
    rows, n = out_tensors.shape
    weights = b_tensors
    if weights.stride(2) != 1 and weights.stride(1) == 1:
        weights = weights.transpose(1, 2)
    experts = len(weights)
    token_scales = a_scales.flatten()
    column_scales = b_scales.reshape(experts, -1)
    offsets, sizes = expert_offsets.tolist(), problem_sizes.tolist()
    for expert, (first, second, _) in enumerate(sizes):
        count = first if second == n else second if first == n else 0
        begin = offsets[expert]
        if begin < 0 or count <= 0 or begin >= rows:
            continue
        own = slice(begin, min(begin + count, rows))
        if per_act_token:
            scales = token_scales[own, None]
        else:
            scales = token_scales[expert if len(token_scales) == experts else 0]
        sums = a_tensors[own].float() @ weights[expert].float().t()
        out_tensors[own] = (sums * (column_scales[expert] * scales)).to(out_tensors.dtype)


def _write_sizes(
    problem_sizes1: torch.Tensor,
    problem_sizes2: torch.Tensor,
    counts: torch.Tensor,
    columns: int,
    n: int,
    k: int,
    swapped: bool,
) -> None:
    for sizes, width, depth in ((problem_sizes1, columns, k), (problem_sizes2, k, n)):
        sizes[:, int(swapped)] = counts.int()
        sizes[:, 1 - int(swapped)] = width
        sizes[:, 2] = depth


def get_cutlass_moe_mm_data(
    topk_ids: torch.Tensor,
    expert_offsets: torch.Tensor,
    problem_sizes1: torch.Tensor,
    problem_sizes2: torch.Tensor,
    input_permutation: torch.Tensor,
    output_permutation: torch.Tensor,
    num_experts: int,
    n: int,
    k: int,
    blockscale_offsets: torch.Tensor | None,
    is_gated: bool,
) -> None:
    """Where each expert's rows are, and the sizes of its two products.

    Args:
        topk_ids: int32 or int64 [tokens, topk]; entries outside of [0, num_experts) have no row.
        expert_offsets: int32 [num_experts + 1], written: first row of each expert, and their end.
        problem_sizes1: int32 [num_experts, 3], written: rows, 2 n (n unless ``is_gated``), k; with
            at most 64 entries and no ``blockscale_offsets`` the columns come first.
        problem_sizes2: int32 [num_experts, 3], written: rows, k, n; or k, rows, n.
        input_permutation: int32 [tokens * topk], written up to the end: token of each row.
        output_permutation: int32 [tokens * topk], written: row of each entry, or the end.
        num_experts: Experts, at most 1024.
        n: Inner width of an expert.
        k: Hidden size.
        blockscale_offsets: int32 [num_experts + 1], written: offsets of the counts rounded up to
            128; or None.
        is_gated: Whether the first product gives two halves.
    """
    topk = topk_ids.shape[1]
    ids = topk_ids.flatten().long()
    bucket = ids.where((ids >= 0) & (ids < num_experts), num_experts)
    counts = torch.bincount(bucket, minlength=num_experts + 1)[:num_experts]
    ends = counts.cumsum(0)
    end = int(ends[-1])
    expert_offsets.view(-1)[: num_experts + 1] = torch.cat([ends.new_zeros(1), ends]).int()
    order = bucket.argsort(stable=True)
    input_permutation.view(-1)[:end] = (order[:end] // topk).int()
    rows = torch.arange(len(order), device=order.device).clamp(max=end)
    output_permutation.view(-1)[order] = rows.int()
    if blockscale_offsets is not None:
        padded = (counts + 127).div(128, rounding_mode="floor").mul(128).cumsum(0)
        blockscale_offsets.view(-1)[: num_experts + 1] = torch.cat(
            [padded.new_zeros(1), padded]
        ).int()
    swapped = blockscale_offsets is None and len(ids) <= _SWAPPED_ROWS
    columns = 2 * n if is_gated else n
    _write_sizes(problem_sizes1, problem_sizes2, counts, columns, n, k, swapped)


def get_cutlass_moe_mm_problem_sizes_from_expert_offsets(
    expert_first_token_offset: torch.Tensor,
    problem_sizes1: torch.Tensor,
    problem_sizes2: torch.Tensor,
    n: int,
    k: int,
    swap_ab: bool,
) -> None:
    """The sizes of gated experts whose first rows are known.

    Args:
        expert_first_token_offset: int64 [experts + 1].
        problem_sizes1: int32 [experts, 3], written: rows, 2 n, k; or 2 n, rows, k.
        problem_sizes2: int32 [experts, 3], written: rows, k, n; or k, rows, n.
        n: Inner width of an expert.
        k: Hidden size.
        swap_ab: Whether columns come first.
    """
    counts = expert_first_token_offset.diff()
    _write_sizes(problem_sizes1, problem_sizes2, counts, 2 * n, n, k, swap_ab)


def get_cutlass_batched_moe_mm_data(
    expert_offsets: torch.Tensor,
    problem_sizes1: torch.Tensor,
    problem_sizes2: torch.Tensor,
    expert_num_tokens: torch.Tensor,
    num_local_experts: int,
    padded_m: int,
    n: int,
    k: int,
) -> None:
    """The sizes of gated experts with ``padded_m`` rows each, some of them in use.

    Args:
        expert_offsets: int32 [num_local_experts], written: first row of each expert.
        problem_sizes1: int32 [num_local_experts, 3], written: rows, 2 n, k; with at most 64 rows in
            all the columns come first.
        problem_sizes2: int32 [num_local_experts, 3], written: rows, k, n; or k, rows, n.
        expert_num_tokens: int32 [num_local_experts]: rows in use.
        num_local_experts: Experts.
        padded_m: Rows of each expert.
        n: Inner width of an expert.
        k: Hidden size.
    """
    counts = expert_num_tokens.view(-1)[:num_local_experts]
    first = torch.arange(num_local_experts, device=expert_offsets.device) * padded_m
    expert_offsets.view(-1)[:num_local_experts] = first.int()
    swapped = num_local_experts * padded_m <= _SWAPPED_ROWS
    _write_sizes(problem_sizes1, problem_sizes2, counts, 2 * n, n, k, swapped)
