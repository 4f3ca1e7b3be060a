"""Stand-in for the engine's FlashMLA: two native modules with their ops, and a Python interface.

The engine takes its backends FLASHMLA and FLASHMLA_SPARSE where it can import all of them, so they
are planted exactly where kernels of latent attention are in use. Arguments, shapes and results
are upstream's; what has no kernel is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import modules, serve
from vllm_kernels_plugin.errors import no_kernel

NATIVE, EXTENSION = "_flashmla_C", "_flashmla_extension_C"
INTERFACE = "vllm.third_party.flashmla.flash_mla_interface"
PACKAGE = "vllm-flashmla"
OP = "mla_attention"
HEAD, LATENT, KEY_BYTES = 576, 512, 656
PLAN_WIDTH = 8  # of upstream's int32 tile_scheduler_metadata
_MOST_KEYS = 1 << 30  # of a request; what its block table holds is not known to the plan

Tensor: TypeAlias = torch.Tensor
Decoded: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def problem() -> str | None:
    """Why no kernel of latent attention is in use, one clause; None where they are."""
    return engine_api.cuda_problem(OP)


# Ops, under upstream's names and schemas


def dense_decode_fwd(
    q: Tensor,
    kcache: Tensor,
    head_size_v: int,
    seqlens_k: Tensor,
    block_table: Tensor,
    softmax_scale: float,
    is_causal: bool,
    tile_scheduler_metadata: Tensor | None,
    num_splits: Tensor | None,
    out_: Tensor | None,
) -> Decoded:
    """Attention of each request's last queries to all its keys.

    Args:
        q: ``[batch, queries, heads, 576]`` bfloat16 or float16.
        kcache: ``[blocks, slots, 1, 576]`` as ``q``.
        seqlens_k: int32 ``[batch]``, keys of each request.
        block_table: int32 ``[batch, blocks of a request]``.
        tile_scheduler_metadata: What an earlier call of the same batch returned, or None.
        num_splits: As ``tile_scheduler_metadata``.
        out_: ``[batch, queries, heads, 512]`` as ``q``.

    Returns:
        Output, float32 log-sum-exp ``[batch, heads, queries]``, and two values for the next call.
    """
    _one_key("dense_decode_fwd", q, kcache.shape[2], head_size_v)
    batch, queries, heads, _ = q.shape
    schedule = tile_scheduler_metadata
    if schedule is None:
        # Computed on the GPU, so that it may be the first kernel of a CUDA graph.
        most = block_table.shape[1] * kcache.shape[1]
        schedule = torch.ops.vllm_kernels.mla_schedule(seqlens_k, queries, heads, most)
    out = _output(q, out_)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32)
    torch.ops.vllm_kernels.mla_attention(
        out, lse, q, kcache.squeeze(2), block_table, seqlens_k, schedule, softmax_scale, is_causal
    )
    return out, lse, schedule, num_splits


def sparse_decode_fwd(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    topk_length: Tensor | None,
    attn_sink: Tensor | None,
    tile_scheduler_metadata: Tensor | None,
    num_splits: Tensor | None,
    extra_kv: Tensor | None,
    extra_indices: Tensor | None,
    extra_topk_length: Tensor | None,
    d_v: int,
    sm_scale: float,
    out_: Tensor | None,
) -> Decoded:
    """Attention of each query to the keys that were selected for it (DeepSeek-V3.2).

    Args:
        q: ``[batch, queries, heads, 576]`` bfloat16.
        kv: ``[blocks, slots, 1, 656]`` of one byte: float8 values, their scales, bfloat16 rope.
        indices: int32 ``[batch, queries, topk]``, ``block * slots + slot``; others are skipped.
        topk_length: int32 ``[batch]``, how many of them count.
        attn_sink: float32 ``[heads]``, logits without a value.
        out_: ``[batch, queries, heads, 512]``, any strides.

    Returns:
        Output, float32 log-sum-exp ``[batch, heads, queries]``, and what was passed as metadata,
        which this op does not need.
    """
    name = "sparse_decode_fwd"
    if extra_kv is not None or extra_indices is not None or extra_topk_length is not None:
        no_kernel(name, "a second cache (DeepSeek-V4)")
    _one_key(name, q, kv.shape[2], d_v)
    if kv.shape[-1] != KEY_BYTES:
        no_kernel(name, f"keys of {kv.shape[-1]} bytes (only of {KEY_BYTES}, DeepSeek-V3.2)")
    batch, queries, heads, _ = q.shape
    out = _output(q, out_)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32)
    torch.ops.vllm_kernels.sparse_mla_attention(
        out, lse, None, q, kv.squeeze(2), indices, topk_length, attn_sink, sm_scale
    )
    return out, lse, tile_scheduler_metadata, num_splits


def sparse_prefill_fwd(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    d_v: int,
    attn_sink: Tensor | None,
    topk_length: Tensor | None,
    out_: Tensor | None,
) -> list[Tensor]:
    """The same over a cache in bfloat16, each query with keys of its own.

    Args:
        q: ``[queries, heads, 576]`` bfloat16; any number of heads, upstream's multiples included.
        kv: ``[keys, 1, 576]`` bfloat16.
        indices: int32 ``[queries, 1, topk]``; those outside of the keys are skipped.
        topk_length: int32 ``[queries]``.
        out_: ``[queries, heads, 512]``, any strides.

    Returns:
        Output, largest logit and log-sum-exp; the latter two float32 ``[queries, heads]``.
    """
    _one_key("sparse_prefill_fwd", q, kv.shape[1], d_v)
    out = _output(q, out_)
    largest, lse = (q.new_empty((*q.shape[:2], 1), dtype=torch.float32) for _ in range(2))
    torch.ops.vllm_kernels.sparse_mla_attention(
        out.unsqueeze(1), lse, largest, q.unsqueeze(1), kv, indices, topk_length, attn_sink,
        sm_scale,
    )  # fmt: skip
    return [out, largest.squeeze(-1), lse.squeeze(-1)]


def dense_prefill_fwd(*_: object) -> NoReturn:
    """NotImplementedError: upstream's runs on GPUs of capability 10.0 only."""
    no_kernel("dense_prefill_fwd", "dense prefill")


def fwd_kvcache_mla_fp8(
    q: Tensor,
    kcache: Tensor,
    head_size_v: int,
    seqlens_k: Tensor,
    block_table: Tensor,
    softmax_scale: float,
    is_causal: bool,
    tile_scheduler_metadata: Tensor,
    num_splits: Tensor,
    descale_q: Tensor | None,
    descale_k: Tensor | None,
) -> list[Tensor]:
    """:func:`dense_decode_fwd` with queries and keys in float8 e4m3.

    Args:
        tile_scheduler_metadata: Of :func:`get_mla_decoding_metadata_dense_fp8`.
        descale_q: float32 ``[1]``, what numbers of ``q`` are multiplied with.
        descale_k: As ``descale_q``, of ``kcache``.

    Returns:
        Output ``[batch, queries, heads, 512]`` in bfloat16, and log-sum-exp as the other's.
    """
    _one_key("fwd_kvcache_mla_fp8", q, kcache.shape[2], head_size_v)
    if kcache.dtype == torch.uint8:
        kcache = kcache.view(torch.float8_e4m3fn)
    batch, queries, heads, _ = q.shape
    out = q.new_empty((batch, queries, heads, LATENT), dtype=torch.bfloat16)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32)
    torch.ops.vllm_kernels.mla_attention(
        out, lse, q, kcache.squeeze(2), block_table, seqlens_k,
        tile_scheduler_metadata.view(-1, 2), softmax_scale, is_causal, descale_q, descale_k,
    )  # fmt: skip
    return [out, lse]


def get_mla_decoding_metadata_dense_fp8(
    seqlens_k: Tensor, num_heads_per_head_k: int, num_heads_k: int
) -> list[Tensor]:
    """How a batch is divided, for :func:`fwd_kvcache_mla_fp8`.

    The engine copies both tensors into its own, of as many rows as the GPU has multiprocessors.

    Args:
        seqlens_k: int32 ``[batch]``, keys of each request.
        num_heads_per_head_k: Heads times queries of a request.

    Returns:
        int32 ``[any, 8]``, a plan in rows of upstream's width, and ``[batch + 1]``, not read.
    """
    if num_heads_k != 1:
        no_kernel("get_mla_decoding_metadata_dense_fp8", f"{num_heads_k} heads of keys (only 1)")
    plan = torch.ops.vllm_kernels.mla_schedule(seqlens_k, 1, num_heads_per_head_k, _MOST_KEYS)
    rows = torch.nn.functional.pad(plan.flatten(), (0, -plan.numel() % PLAN_WIDTH))
    return [rows.view(-1, PLAN_WIDTH), seqlens_k.new_zeros(len(seqlens_k) + 1)]


def _one_key(name: str, q: Tensor, kv_heads: int, d_v: int) -> None:
    if (q.shape[-1], kv_heads, d_v) != (HEAD, 1, LATENT):
        no_kernel(
            name,
            f"a query of {q.shape[-1]} columns, {kv_heads} heads of keys and values of {d_v} "
            f"(only {HEAD}, 1 and {LATENT})",
        )


def _output(q: Tensor, out: Tensor | None) -> Tensor:
    return q.new_empty((*q.shape[:-1], LATENT)) if out is None else out


_DECODED = "(Tensor(c!), Tensor, Tensor(a)?, Tensor(b)?)"
_PLAN = "Tensor(a)? tile_scheduler_metadata, Tensor(b)? num_splits, "
SCHEMAS: dict[str, dict[Callable[..., Any], str]] = {
    NATIVE: {
        dense_decode_fwd: "(Tensor q, Tensor kcache, int head_size_v, Tensor seqlens_k, "
        "Tensor block_table, float softmax_scale, bool is_causal, "
        f"{_PLAN}Tensor(c!)? out_) -> {_DECODED}",
        sparse_decode_fwd: "(Tensor q, Tensor kv, Tensor indices, Tensor? topk_length, "
        f"Tensor? attn_sink, {_PLAN}Tensor? extra_kv, Tensor? extra_indices, "
        "Tensor? extra_topk_length, int d_v, float sm_scale, Tensor(c!)? out_) "
        f"-> {_DECODED}",
        sparse_prefill_fwd: "(Tensor q, Tensor kv, Tensor indices, float sm_scale, int d_v, "
        "Tensor? attn_sink, Tensor? topk_length, Tensor(a!)? out_) -> Tensor[]",
        dense_prefill_fwd: "(Tensor workspace_buffer, Tensor q, Tensor k, Tensor v, "
        "Tensor cumulative_seqlen_q, Tensor cumulative_seqlen_kv, Tensor(a!) o, Tensor(b!) lse, "
        "int mask_mode_code, float softmax_scale, int max_seqlen_q, int max_seqlen_kv, "
        "bool is_varlen) -> ()",
    },
    EXTENSION: {
        fwd_kvcache_mla_fp8: "(Tensor q, Tensor kcache, int head_size_v, Tensor seqlens_k, "
        "Tensor block_table, float softmax_scale, bool is_causal, "
        "Tensor tile_scheduler_metadata, Tensor num_splits, Tensor? descale_q, "
        "Tensor? descale_k) -> Tensor[]",
        get_mla_decoding_metadata_dense_fp8: "(Tensor seqlens_k, int num_heads_per_head_k, "
        "int num_heads_k) -> Tensor[]",
    },
}


# The Python interface


@dataclass
class FlashMLASchedMeta:
    """How a batch is divided among the GPU, for all layers of a step.

    Attributes:
        have_initialized: Whether a call has filled it.
        config: The shapes that it was filled for.
    """

    have_initialized: bool = False
    config: tuple[object, ...] | None = None
    tile_scheduler_metadata: Tensor | None = None
    num_splits: Tensor | None = None


def get_mla_metadata(*_: object, **__: object) -> tuple[FlashMLASchedMeta, None]:
    """An empty plan, which the first call fills; arguments are of an older interface."""
    return FlashMLASchedMeta(), None


def flash_mla_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    block_table: Tensor | None,
    cache_seqlens: Tensor | None,
    head_dim_v: int,
    tile_scheduler_metadata: FlashMLASchedMeta,
    num_splits: None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: Tensor | None = None,
    attn_sink: Tensor | None = None,
    extra_k_cache: Tensor | None = None,
    extra_indices_in_kvcache: Tensor | None = None,
    topk_length: Tensor | None = None,
    extra_topk_length: Tensor | None = None,
    out: Tensor | None = None,
    enable_batch_invariant: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decoding over a paged cache: dense, or with ``indices`` over selected keys.

    Args as those of :func:`dense_decode_fwd` and :func:`sparse_decode_fwd`.

    Returns:
        Output ``[batch, queries, heads, 512]`` and log-sum-exp ``[batch, heads, queries]``.

    Raises:
        NotImplementedError: What has no kernel.
        ValueError: A plan of other shapes, or arguments of the other kind of attention.
    """
    if enable_batch_invariant:
        no_kernel("flash_mla_with_kvcache", "batch invariance")
    plan = tile_scheduler_metadata
    config = (*q.shape[:3], *k_cache.shape[1:3], causal, None if indices is None else indices.shape)
    if plan.have_initialized and plan.config != config:
        raise ValueError(
            f"flash_mla_with_kvcache: the plan was made for {plan.config}, this call is {config}; "
            "make one for each shape with get_mla_metadata()"
        )
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    held = plan.tile_scheduler_metadata, plan.num_splits
    if indices is not None:
        if causal or not is_fp8_kvcache:
            raise ValueError(
                "flash_mla_with_kvcache: selected keys want causal=False and is_fp8_kvcache=True"
            )
        result, lse, *held = sparse_decode_fwd(  # type: ignore[assignment]
            q, k_cache, indices, topk_length, attn_sink, *held, extra_k_cache,
            extra_indices_in_kvcache, extra_topk_length, head_dim_v, scale, out,
        )  # fmt: skip
    else:
        if block_table is None or cache_seqlens is None or attn_sink is not None:
            raise ValueError(
                "flash_mla_with_kvcache: attention to all keys wants block_table and "
                "cache_seqlens, and no attn_sink"
            )
        if is_fp8_kvcache:
            raise ValueError(
                "flash_mla_with_kvcache: a dense FP8 cache is attended by fwd_kvcache_mla_fp8"
            )
        result, lse, *held = dense_decode_fwd(  # type: ignore[assignment]
            q, k_cache, head_dim_v, cache_seqlens, block_table, scale, causal, *held, out
        )
    plan.have_initialized, plan.config = True, config
    plan.tile_scheduler_metadata, plan.num_splits = held
    return result, lse


def flash_mla_sparse_fwd(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    d_v: int = LATENT,
    attn_sink: Tensor | None = None,
    topk_length: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Prefill over selected keys; see :func:`sparse_prefill_fwd`."""
    result, largest, lse = sparse_prefill_fwd(
        q, kv, indices, sm_scale, d_v, attn_sink, topk_length, out
    )
    return result, largest, lse


def flash_attn_varlen_func(*_: object, **__: object) -> NoReturn:
    """NotImplementedError: see :func:`dense_prefill_fwd`."""
    dense_prefill_fwd()


def flash_attn_varlen_kvpacked_func(*_: object, **__: object) -> NoReturn:
    """NotImplementedError: see :func:`dense_prefill_fwd`."""
    dense_prefill_fwd()


def flash_attn_varlen_qkvpacked_func(*_: object, **__: object) -> NoReturn:
    """NotImplementedError: see :func:`dense_prefill_fwd`."""
    dense_prefill_fwd()


_MEMBERS = (
    FlashMLASchedMeta,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_mla_sparse_fwd,
    flash_mla_with_kvcache,
    get_mla_metadata,
)


def plant() -> None:
    """Define the ops, and put the modules where the engine imports them from."""
    for space, functions in SCHEMAS.items():
        library = serve.fragment(space)
        for function, signature in functions.items():
            library.define(function.__name__ + signature)  # type: ignore[no-untyped-call]
            library.impl(  # type: ignore[no-untyped-call]
                function.__name__, function, "CompositeExplicitAutograd"
            )
    serve.plant(SCHEMAS)
    modules.plant(INTERFACE, __doc__ or "", __file__, *_MEMBERS)
