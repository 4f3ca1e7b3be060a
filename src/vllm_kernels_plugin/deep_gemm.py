"""Stand-in for DeepGEMM: the functions that the engine calls on GPUs of capability 9.0.

Upstream compiles its kernels when they are first called, which needs nvcc and a folder for them.
These are compiled already: logits of the indexer in ``vllm-deepgemm``, products in
``vllm-kernels-cuda``. Names, arguments, shapes and results are upstream's. What has no kernel is
refused in a sentence; what the engine looks for to choose something else is absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import modules
from vllm_kernels_plugin.errors import no_kernel

NAME = "deep_gemm"
OP = "mqa_logits"
EXPERTS_OP = "grouped_mm_labelled"
BLOCK = 128  # elements that share a scale
TMA_BYTES = 16
EXPERTS_VARIABLE = "VLLM_MOE_USE_DEEP_GEMM"
# What the engine does by default for kernels that are compiled at their first call, and for those
# whose scales are powers of two: neither is so here. Of experts spread over GPUs (EP) it would take
# DeepGEMM before its own kernels, which no engine has been run with yet: by choice.
SETTINGS = {
    "VLLM_DEEP_GEMM_WARMUP": "skip",
    "VLLM_USE_DEEP_GEMM_E8M0": "0",
    EXPERTS_VARIABLE: "0",
}

Tensor: TypeAlias = torch.Tensor
Scaled: TypeAlias = tuple[Tensor, Tensor]

# Rows of the contiguous layout that have one expert. At the start they are the most: the engine
# asserts that they are as many as a block of scales, and sets fewer where these are enough.
ROWS = (16, 64, BLOCK)

_num_sms: int | None = None
_rows = ROWS[-1]
_pdl = False


def problem() -> str | None:
    """Why no kernel of the indexer's logits is in use, one clause; None where they are."""
    return engine_api.cuda_problem(OP)


def experts_problem() -> str | None:
    """Why no kernel of the experts' grouped products is in use; None where they are."""
    return engine_api.cuda_problem(EXPERTS_OP)


# Logits of the indexer


def fp8_fp4_mqa_logits(
    q: tuple[Tensor, Tensor | None],
    kv: Scaled,
    weights: Tensor,
    cu_seq_len_k_start: Tensor,
    cu_seq_len_k_end: Tensor,
    max_seqlen_k: int = 0,
    clean_logits: bool = False,
) -> Tensor:
    """Logits of each query for the keys that it sees.

    Args:
        q: float8 e4m3 ``[rows, heads, 128]``, and None.
        kv: float8 e4m3 ``[keys, 128]``, and float32 ``[keys]``.
        weights: float32 ``[rows, heads]``, of the heads; the queries' scales are in them.
        cu_seq_len_k_start: int32 ``[rows]``, the first key of each.
        cu_seq_len_k_end: int32 ``[rows]``, the key after the last.
        max_seqlen_k: Most keys of a row; with it a row's first key is in column 0. Older
            callers pass ``clean_logits`` here.
        clean_logits: Whether other columns are -inf; else they are any numbers.

    Returns:
        float32 ``[rows, keys]``, or ``[rows, max_seqlen_k]``; rows are multiples of 16 bytes apart.

    Raises:
        NotImplementedError: Queries with scales of their own (FP4).
    """
    if isinstance(max_seqlen_k, bool):
        clean_logits, max_seqlen_k = max_seqlen_k, 0
    query = _unscaled("fp8_fp4_mqa_logits", q)
    keys, scales = kv
    from_start = max_seqlen_k > 0
    columns = max_seqlen_k if from_start else keys.shape[0]
    logits = _new_logits(query, columns, clean_logits)
    torch.ops.vllm_kernels.mqa_logits(
        logits, query, keys, scales, weights, cu_seq_len_k_start, cu_seq_len_k_end, from_start,
        _num_sms or 0,
    )  # fmt: skip
    return logits


def fp8_mqa_logits(q: Tensor, *rest: Any, **named: Any) -> Tensor:
    """:func:`fp8_fp4_mqa_logits` of queries without a scale."""
    return fp8_fp4_mqa_logits((q, None), *rest, **named)


def get_paged_mqa_logits_metadata(
    context_lens: Tensor, block_kv: int, num_sms: int, indices: Tensor | None = None
) -> Tensor:
    """How the keys of a batch are divided, for all layers; computed on the GPU.

    Args:
        context_lens: int32 ``[batch]`` or ``[batch, queries]``.
        block_kv: Slots of a page; not needed.
        num_sms: Into how many parts.

    Returns:
        int32 ``[num_sms + 1, 2]``, for :func:`fp8_fp4_paged_mqa_logits` alone.

    Raises:
        NotImplementedError: Rows of any number for each request.
    """
    if indices is not None:
        no_kernel("get_paged_mqa_logits_metadata", "a batch with indices of its rows' requests")
    schedule = context_lens.new_empty((num_sms + 1, 2), dtype=torch.int32)
    torch.ops.vllm_kernels.paged_mqa_logits_schedule(schedule, _by_query(context_lens))
    return schedule


def fp8_fp4_paged_mqa_logits(
    q: tuple[Tensor, Tensor | None],
    kv_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    schedule_meta: Tensor,
    max_context_len: int,
    clean_logits: bool = False,
    indices: Tensor | None = None,
) -> Tensor:
    """Logits of each query for the keys of its request, which lie in pages.

    Args:
        q: float8 e4m3 ``[batch, queries, heads, 128]``, and None.
        kv_cache: uint8 ``[pages, slots, 1, 132]``: a page holds the float8 keys of all its slots,
            then their float32 scales.
        weights: float32 ``[batch * queries, heads]``.
        context_lens: int32 ``[batch]`` or ``[batch, queries]``, keys that each sees.
        block_table: int32 ``[batch, any]``, pages of each request.
        schedule_meta: Of :func:`get_paged_mqa_logits_metadata`.
        max_context_len: Columns of the result.
        clean_logits: Whether columns beyond are -inf; else they are any numbers.

    Returns:
        float32 ``[batch * queries, max_context_len]``; rows are multiples of 16 bytes apart.

    Raises:
        NotImplementedError: Queries with scales of their own (FP4), rows of any number for each
            request.
    """
    name = "fp8_fp4_paged_mqa_logits"
    if indices is not None:
        no_kernel(name, "a batch with indices of its rows' requests")
    query = _unscaled(name, q).flatten(0, 1)
    logits = _new_logits(query, max_context_len, clean_logits)
    torch.ops.vllm_kernels.paged_mqa_logits(
        logits, query, kv_cache.squeeze(2), weights, _by_query(context_lens), block_table,
        schedule_meta,
    )  # fmt: skip
    return logits


def fp8_paged_mqa_logits(q: Tensor, *rest: Any, **named: Any) -> Tensor:
    """:func:`fp8_fp4_paged_mqa_logits` of queries without a scale."""
    return fp8_fp4_paged_mqa_logits((q, None), *rest, **named)


def _unscaled(name: str, q: tuple[Tensor, Tensor | None]) -> Tensor:
    query, scale = q
    if scale is not None:
        no_kernel(name, "a query with scales of its own (FP4)")
    return query


def _by_query(context_lens: Tensor) -> Tensor:
    return context_lens.unsqueeze(-1) if context_lens.dim() == 1 else context_lens


def _new_logits(query: Tensor, columns: int, clean: bool) -> Tensor:
    """A row for each of ``query``'s; rows are multiples of 16 bytes apart."""
    shape = (query.shape[0], get_tma_aligned_size(columns, torch.float32.itemsize))
    whole = query.new_empty(shape, dtype=torch.float32)
    if clean:
        whole.fill_(-torch.inf)
    return whole[:, :columns]


# Products with scales for blocks


def fp8_gemm_nt(
    a: Scaled,
    b: Scaled,
    d: Tensor,
    c: Tensor | None = None,
    recipe: tuple[int, ...] | None = None,
    recipe_a: tuple[int, ...] | None = None,
    recipe_b: tuple[int, ...] | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """Write ``a @ b.T`` to ``d``, by the kernel of ``cutlass_scaled_mm``.

    Args:
        a: float8 e4m3 ``[m, k]``, and float32 ``[m, ceil(k / 128)]`` of any strides.
        b: float8 e4m3 ``[n, k]``, and float32 ``[ceil(n / 128), ceil(k / 128)]``. n and k are
            multiples of 16.
        d: bfloat16 or float16 ``[m, n]``.
        recipe: (1, 128, 128), as are the other two, or None.
        compiled_dims: Not needed: nothing is compiled.
        disable_ue8m0_cast: Not needed: scales stay as they are on this GPU.

    Raises:
        NotImplementedError: A sum with ``c``, other blocks, packed scales.
    """
    name = "fp8_gemm_nt"
    if c is not None:
        no_kernel(name, "a sum with c")
    (left, left_scales), (right, right_scales) = _blocks(name, a, b, recipe, recipe_a, recipe_b)
    left_scales = get_mn_major_tma_aligned_tensor(left_scales)
    torch.ops.vllm_kernels.cutlass_scaled_mm(d, left, right.T, left_scales, right_scales.T, None)


def m_grouped_fp8_gemm_nt_contiguous(
    a: Scaled,
    b: Scaled,
    d: Tensor,
    m_indices: Tensor,
    recipe: tuple[int, ...] | None = None,
    recipe_a: tuple[int, ...] | None = None,
    recipe_b: tuple[int, ...] | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """Write each row of ``a`` times its expert's weights to ``d``.

    Args:
        a: float8 e4m3 ``[m, k]``, and float32 ``[m, ceil(k / 128)]`` of any strides.
        b: float8 e4m3 ``[experts, n, k]``, and float32 ``[experts, ceil(n / 128), ceil(k / 128)]``.
        d: bfloat16 ``[m, n]``. Of a block's rows behind its last one with an expert nothing is
            written.
        m_indices: int32 ``[m]``, the expert of each row, -1 for none: the same for as many rows as
            :func:`get_mk_alignment_for_contiguous_layout` says.
        recipe: (1, 128, 128), as are the other two, or None.
        compiled_dims: Not needed: nothing is compiled.
        disable_ue8m0_cast: Not needed: scales stay as they are on this GPU.
        expected_m_for_psum_layout: Not needed without that layout.

    Raises:
        NotImplementedError: The layout of ends of rows, other blocks, packed scales.
    """
    name = "m_grouped_fp8_gemm_nt_contiguous"
    if use_psum_layout:
        no_kernel(name, "the layout of ends of rows (psum)")
    (left, left_scales), (right, right_scales) = _blocks(name, a, b, recipe, recipe_a, recipe_b)
    torch.ops.vllm_kernels.grouped_mm_labelled(
        d, left, left_scales, right, right_scales, m_indices, _rows
    )


def m_grouped_fp8_gemm_nt_masked(
    a: Scaled,
    b: Scaled,
    d: Tensor,
    masked_m: Tensor,
    expected_m: int,
    recipe: tuple[int, ...] | None = None,
    recipe_a: tuple[int, ...] | None = None,
    recipe_b: tuple[int, ...] | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """Write the first rows of each expert times its weights to ``d``.

    Args:
        a: float8 e4m3 ``[experts, m, k]``, and float32 ``[experts, m, ceil(k / 128)]`` of any
            strides.
        b: float8 e4m3 ``[experts, n, k]``, and float32 ``[experts, ceil(n / 128), ceil(k / 128)]``.
        d: bfloat16 ``[experts, m, n]``; other rows stay as they are.
        masked_m: int32 ``[experts]``, rows of each.
        expected_m: About how many, which decides on speed alone.
        recipe: (1, 128, 128), as are the other two, or None.
        compiled_dims: Not needed: nothing is compiled.
        disable_ue8m0_cast: Not needed: scales stay as they are on this GPU.

    Raises:
        NotImplementedError: Other blocks, packed scales.
    """
    name = "m_grouped_fp8_gemm_nt_masked"
    (left, left_scales), (right, right_scales) = _blocks(name, a, b, recipe, recipe_a, recipe_b)
    torch.ops.vllm_kernels.grouped_mm_counted(
        d, left, left_scales, right, right_scales, masked_m, expected_m
    )


def fp8_m_grouped_gemm_nt_masked(*rest: Any, **named: Any) -> None:
    """:func:`m_grouped_fp8_gemm_nt_masked`, as older callers spell it."""
    m_grouped_fp8_gemm_nt_masked(*rest, **named)


def _blocks(
    name: str, a: Scaled, b: Scaled, *recipes: tuple[int, ...] | None
) -> tuple[Scaled, Scaled]:
    """Both operands, with scales of the one kind that there is."""
    _check_blocks(name, *recipes)
    for _, scales in (a, b):
        _check_float(name, scales)
    return a, b


def _check_blocks(name: str, *recipes: tuple[int, ...] | None) -> None:
    for recipe in recipes:
        if recipe is not None and tuple(recipe) not in ((1, 128, 128), (1, 128), (128, 128)):
            no_kernel(name, f"the recipe {tuple(recipe)} (only (1, 128, 128))")


def _check_float(name: str, scales: Tensor) -> None:
    if scales.dtype != torch.float32:
        no_kernel(name, f"scales of {scales.dtype} (only torch.float32)")


# Layouts of scales


def get_tma_aligned_size(x: int, element_size: int) -> int:
    """``x`` elements of so many bytes, rounded up to multiples of 16 bytes."""
    step = TMA_BYTES // element_size
    return -(-x // step) * step


def get_mn_major_tma_aligned_tensor(sf: Tensor) -> Tensor:
    """Scales ``[..., rows, columns]``, float32, with columns contiguous and 16-byte aligned.

    Returns:
        ``sf`` itself where it is so already.
    """
    rows, columns = sf.shape[-2:]
    distance = get_tma_aligned_size(rows, sf.element_size())
    batch = sf.shape[:-2]
    aligned = sf.data_ptr() % TMA_BYTES == 0 and sf.stride()[-2:] == (1, distance)
    whole = not batch or sf.shape[0] == 1 or sf.stride(0) == distance * columns
    if aligned and whole:
        return sf
    copy = sf.new_empty((*batch, columns, distance)).mT[..., :rows, :]
    return copy.copy_(sf)


def transform_sf_into_required_layout(
    sf: Tensor,
    mn: int,
    k: int,
    recipe: tuple[int, ...],
    num_groups: int | None = None,
    is_sfa: bool | None = None,
    disable_ue8m0_cast: bool = False,
) -> Tensor:
    """Scales as the products take them.

    Args:
        sf: float32 ``[ceil(mn / rows), ceil(k / columns)]`` or that for each group.
        recipe: (rows, columns), or (rows of a, rows of b, columns).
        is_sfa: Whether they are of a; only with three numbers.

    Returns:
        Scales of single rows by columns (:func:`get_mn_major_tma_aligned_tensor`), those of blocks
        as they are, contiguous.

    Raises:
        NotImplementedError: Other blocks, packed scales.
        ValueError: A shape that does not belong to ``mn`` and ``k``.
    """
    name = "transform_sf_into_required_layout"
    rows, columns = recipe if len(recipe) == 2 else (recipe[0 if is_sfa else 1], recipe[2])
    if (rows, columns) not in ((1, BLOCK), (BLOCK, BLOCK)):
        no_kernel(name, f"blocks of {rows} x {columns} (only 1 x 128 and 128 x 128)")
    _check_float(name, sf)
    shape = (-(-mn // rows), -(-k // columns))
    wanted = shape if num_groups is None else (num_groups, *shape)
    if tuple(sf.shape) != wanted:
        raise ValueError(
            f"{name}: sf has shape {list(sf.shape)}, want {list(wanted)} for {mn} x {k} in blocks "
            f"of {rows} x {columns}"
        )
    return get_mn_major_tma_aligned_tensor(sf) if rows == 1 else sf.contiguous()


# Settings and what the engine asks


def get_num_sms() -> int:
    """Multiprocessors that the kernels may use: all, or as many as were set."""
    if _num_sms is not None:
        return _num_sms
    return int(torch.cuda.get_device_properties().multi_processor_count)


def set_num_sms(num_sms: int) -> None:
    """Let the logits' kernel use no more multiprocessors; products take those that are free.

    Raises:
        ValueError: More than the GPU has, or none.
    """
    global _num_sms
    most = int(torch.cuda.get_device_properties().multi_processor_count)
    if not 0 < num_sms <= most:
        raise ValueError(f"set_num_sms: {num_sms} multiprocessors, want 1 to {most}")
    _num_sms = num_sms


def set_pdl(enable: bool) -> None:
    """Remember the wish; the kernels overlap with those before them where it is of use."""
    global _pdl
    _pdl = bool(enable)


def get_pdl() -> bool:
    """What :func:`set_pdl` was told."""
    return _pdl


def get_mk_alignment_for_contiguous_layout() -> int:
    """Rows of the contiguous layout that have one expert."""
    return _rows


def set_mk_alignment_for_contiguous_layout(rows: int) -> None:
    """Have the next products take the contiguous layout with so many rows of one expert.

    Raises:
        ValueError: No multiple of 16.
    """
    global _rows
    if rows <= 0 or rows % ROWS[0] != 0:
        raise ValueError(
            f"set_mk_alignment_for_contiguous_layout: {rows} rows, want a multiple of {ROWS[0]}"
        )
    _rows = rows


def get_theoretical_mk_alignment_for_contiguous_layout(
    expected_m: int | None = None, num_groups: int | None = None
) -> int:
    """Rows of one expert that waste little where experts have ``expected_m / num_groups`` rows."""
    if expected_m is None:
        return ROWS[-1]
    mean = -(-expected_m // (num_groups or 1))
    return next((rows for rows in ROWS if mean <= rows), ROWS[-1])


# What upstream has and the engine calls for other GPUs or models

_REFUSED = (
    "fp8_einsum",
    "tf32_hc_prenorm_gemm",
    "m_grouped_fp8_fp4_gemm_nt_contiguous",
    "pack_ue8m0_to_int",
    "get_mn_major_tma_aligned_packed_ue8m0_tensor",
    "get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor",
)


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(
            f"{NAME}.{name} has no kernel in vllm_kernels; choose another backend, or another "
            "checkpoint"
        )

    refuse.__name__ = name
    return refuse


_MEMBERS: tuple[Callable[..., Any], ...] = (
    fp8_fp4_mqa_logits,
    fp8_fp4_paged_mqa_logits,
    fp8_gemm_nt,
    fp8_m_grouped_gemm_nt_masked,
    fp8_mqa_logits,
    fp8_paged_mqa_logits,
    get_mk_alignment_for_contiguous_layout,
    get_mn_major_tma_aligned_tensor,
    get_num_sms,
    get_paged_mqa_logits_metadata,
    get_pdl,
    get_theoretical_mk_alignment_for_contiguous_layout,
    get_tma_aligned_size,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    set_mk_alignment_for_contiguous_layout,
    set_num_sms,
    set_pdl,
    transform_sf_into_required_layout,
    *map(_refused, _REFUSED),
)


def plant() -> dict[str, str]:
    """Put the module where the engine imports it from.

    Returns:
        The engine's settings that go with it, as they are now: the user's own stay.
    """
    modules.plant(NAME, __doc__ or "", __file__, *_MEMBERS)
    return {name: os.environ.setdefault(name, value) for name, value in SETTINGS.items()}
