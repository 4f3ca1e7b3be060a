"""Stand-in for `vllm.vllm_flash_attn`, whose extensions no pure package of the engine has.

Its function is served by our attention op; the engine calls it for latent attention's prefill, in
vision encoders, and in its FLASH_ATTN backend where that is asked for. Arguments, shapes and
results are those of FlashAttention 2's variable-length interface (Dao 2023).
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import modules

PACKAGE = "vllm.vllm_flash_attn"
INTERFACE = f"{PACKAGE}.flash_attn_interface"
ROTARY = f"{PACKAGE}.layers.rotary"
VERSION = 2  # part of the interface: what the engine assumes about the implementation
OP = "varlen_attention"


def problem() -> str | None:
    """Why our attention kernels cannot be used, one clause; None where they can."""
    return engine_api.cuda_problem(OP)


def is_fa_version_supported(fa_version: int) -> bool:
    """Whether the engine may use that version of the interface."""
    return fa_version_unsupported_reason(fa_version) is None


def fa_version_unsupported_reason(fa_version: int) -> str | None:
    """Why the engine may not use that version of the interface."""
    if fa_version != VERSION:
        return f"vllm_kernels serves version {VERSION} of the interface only"
    return problem()


def get_scheduler_metadata(*args: object, **kwargs: object) -> None:
    """Returns nothing: each call of our op makes its own plan."""


def compile_flash_attn_varlen_func_from_specs(*args: object, **kwargs: object) -> None:
    """NotImplementedError: there is nothing to compile."""
    raise NotImplementedError("flash attention of version 4 is not served by vllm_kernels")


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    max_seqlen_q: int,
    cu_seqlens_q: torch.Tensor,
    max_seqlen_k: int,
    cu_seqlens_k: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
    q_v: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sequence[int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: torch.Tensor | None = None,
    return_softmax_lse: bool = False,
    out: torch.Tensor | None = None,
    scheduler_metadata: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    num_splits: int = 0,
    output_scale: torch.Tensor | None = None,
    fa_version: int = VERSION,
    s_aux: torch.Tensor | None = None,
    cp_world_size: int = 1,
    cp_rank: int = 0,
    cp_tot_seqused_k: torch.Tensor | None = None,
    mask_mod: object = None,
    aux_tensors: object = None,
    dynamic_causal: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention of requests of different lengths.

    Args:
        q: ``[tokens, heads, head_size]`` bfloat16 or float16.
        k: ``[keys, kv_heads, head_size]``, or with ``block_table``
            ``[blocks, block_size, kv_heads, head_size]``; as ``q``, or float8_e4m3fn.
        v: As ``k``; its head size may differ.
        max_seqlen_q: Upper bound of the requests' query tokens.
        cu_seqlens_q: int32 ``[requests + 1]``, first query token of each request.
        max_seqlen_k: Upper bound of the requests' keys.
        cu_seqlens_k: int32 ``[requests + 1]``, first key of each request; without ``block_table``.
        seqused_k: int32 ``[requests]``, keys of each request.
        block_table: int32 ``[requests, pages]``.
        window_size: Keys to the left and right of the query's own that it sees; -1 is no bound.
        alibi_slopes: float32 ``[heads]`` or ``[requests, heads]``.
        s_aux: ``[heads]``, logits without a value.
        k_descale: float32, of a float8 ``k``.
        v_descale: float32, of a float8 ``v``.
        dynamic_causal: bool ``[requests]``, overrides ``causal``.

    Returns:
        ``[tokens, heads, v's head_size]`` as ``q``, in ``out`` where it is given; with
        ``return_softmax_lse`` also the log-sum-exp, float32 ``[heads, tokens]``.

    Raises:
        NotImplementedError: An argument of other versions of the interface.
    """
    _refuse(
        q_v=q_v is not None,
        dropout_p=dropout_p != 0,
        output_scale=output_scale is not None,
        cp_world_size=cp_world_size != 1,
        mask_mod=mask_mod is not None,
        aux_tensors=aux_tensors is not None,
    )
    q, k, v = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, k, v))
    result = q.new_empty((*q.shape[:2], v.shape[-1])) if out is None else out
    lse = None
    if return_softmax_lse:
        lse = q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
    left, right = window_size or (-1, -1)
    quantised = k.element_size() == 1
    torch.ops.vllm_kernels.varlen_attention(
        result,
        q,
        k,
        v,
        cu_seqlens_q,
        seqused_k,
        None if block_table is not None else cu_seqlens_k,
        block_table,
        max_seqlen_q,
        max_seqlen_k,
        q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale,
        causal,
        left,
        right,
        softcap,
        alibi_slopes,
        s_aux,
        k_descale if quantised else None,
        v_descale if quantised else None,
        lse,
        dynamic_causal,
        num_splits,
    )
    return result if lse is None else (result, lse)


def _refuse(**asked: bool) -> None:
    for name, given in asked.items():
        if given:
            raise NotImplementedError(
                f"flash_attn_varlen_func: {name} is not served by vllm_kernels; choose another "
                "attention backend"
            )


def apply_rotary_emb(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """``x`` rotated by position (Su et al. 2021), as vision encoders ask for it.

    Args:
        x: ``[batch, tokens, heads, head_size]``.
        cos: ``[tokens, rotated / 2]``.
        sin: As ``cos``.
        interleaved: Pairs are neighbours; otherwise halves of the rotated part.
    """
    half = cos.shape[-1]
    turn_cos, turn_sin = (part.unsqueeze(-2).float() for part in (cos, sin))
    rotated, rest = x[..., : 2 * half].float(), x[..., 2 * half :]
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = rotated[..., :half], rotated[..., half:]
    turned = (first * turn_cos - second * turn_sin, first * turn_sin + second * turn_cos)
    result = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    return torch.cat((result.to(x.dtype), rest), -1)


_FUNCTIONS = (
    compile_flash_attn_varlen_func_from_specs,
    fa_version_unsupported_reason,
    flash_attn_varlen_func,
    get_scheduler_metadata,
    is_fa_version_supported,
)


def plant() -> None:
    """Put the package and its modules where the engine imports them from."""
    _module(PACKAGE, *_FUNCTIONS).__path__ = []
    _module(INTERFACE, *_FUNCTIONS)
    _module(ROTARY.rpartition(".")[0]).__path__ = []
    _module(ROTARY, apply_rotary_emb)


def _module(name: str, *functions: Callable[..., Any]) -> types.ModuleType:
    module = modules.plant(name, __doc__ or "", __file__, *functions)
    parent, _, last = name.rpartition(".")
    if parent in sys.modules and parent.startswith(PACKAGE):
        setattr(sys.modules[parent], last, module)
    return module
