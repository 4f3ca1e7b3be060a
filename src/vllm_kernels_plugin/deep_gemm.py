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
from vllm_kernels_plugin.deep_gemm_products import (
    Scaled,
    fp8_gemm_nt,
    fp8_m_grouped_gemm_nt_masked,
    get_mk_alignment_for_contiguous_layout,
    get_mn_major_tma_aligned_tensor,
    get_theoretical_mk_alignment_for_contiguous_layout,
    get_tma_aligned_size,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    set_mk_alignment_for_contiguous_layout,
    transform_sf_into_required_layout,
)
from vllm_kernels_plugin.errors import no_kernel

NAME = "deep_gemm"
PACKAGE = "vllm-deepgemm"
OP = "mqa_logits"
EXPERTS_OP = "grouped_mm_labelled"
EXPERTS_VARIABLE = "VLLM_MOE_USE_DEEP_GEMM"
# What the engine does by default for kernels that are compiled at their first call, and for those
# whose scales are powers of two: neither is so here. Of experts spread over GPUs (EP) it would take
# DeepGEMM before its own kernels, which no engine has been run with there: by choice.
SETTINGS = {
    "VLLM_DEEP_GEMM_WARMUP": "skip",
    "VLLM_USE_DEEP_GEMM_E8M0": "0",
    EXPERTS_VARIABLE: "0",
}

Tensor: TypeAlias = torch.Tensor

_num_sms: int | None = None
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
