"""Attention whose keys lie in any rows of a buffer, request by request in float32 or float64."""

from __future__ import annotations

import torch

from vllm_kernels.reference.attention.cpu import attend, visible_keys


def _absent(op: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"{op}: {name} is given, want none")


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    cap: float,
    window: int,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """The last of ``keys`` are those of ``query`` [tokens, heads, head_size]; causal."""
    wide = torch.promote_types(query.dtype, torch.float32)
    visible, _ = visible_keys(
        len(query), len(keys), True, window if window > 0 else -1, query.device
    )
    return attend(query, keys.to(wide), values.to(wide), scale, cap, visible, None, sinks)


def decode_attention_cpu(
    query: torch.Tensor,
    k_buffer: torch.Tensor,
    v_buffer: torch.Tensor,
    output: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    loc: torch.Tensor | None,
    attn_logits: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    sm_scale: float,
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window_size: int,
    encoder_lens: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> None:
    """Attention of one token of each request.

    Args:
        query: [requests, heads, head_size], float32, bfloat16 or float16.
        k_buffer: [rows, kv_heads, head_size], its dtype.
        v_buffer: [rows, kv_heads, value_size]; of latent attention the first elements of the keys.
        output: [requests, heads, value_size]; written. A request without keys gives zeros.
        key, value, loc: None: the buffers have the new tokens' keys and values.
        attn_logits: Not used.
        req_to_token: int32 or int64 [pool, keys]: row of the buffers of each key.
        req_pool_indices: int64 [requests]: row of ``req_to_token``.
        seq_lens: int64 [requests]: keys.
        sm_scale: Factor of the logits.
        logit_cap: Logits become cap * tanh(logit / cap); 0: no cap.
        is_cross_attn, encoder_lens: False and None.
        sliding_window_size: Keys that a token sees, its own too; 0 or less: all.
        sinks: [heads] or None: a logit without a value.
    """
    _absent(
        "decode_attention_cpu", key=key, value=value, loc=loc, is_cross_attn=is_cross_attn,
        encoder_lens=encoder_lens,
    )  # fmt: skip
    for i, (pool, length) in enumerate(
        zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)
    ):
        rows = req_to_token[pool, :length].long()
        output[i] = _attend(
            query[i : i + 1], k_buffer[rows], v_buffer[rows], sm_scale, logit_cap,
            sliding_window_size, sinks,
        )[0]  # fmt: skip


def extend_attention_cpu(
    q_extend: torch.Tensor,
    k_extend: torch.Tensor | None,
    v_extend: torch.Tensor | None,
    o_extend: torch.Tensor,
    k_buffer: torch.Tensor,
    v_buffer: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    extend_seq_lens: torch.Tensor,
    extend_start_loc: torch.Tensor,
    max_len_extend: int,
    sm_scale: float,
    logit_cap: float,
    is_cross_attn: bool,
    sliding_window_size: int,
    encoder_lens: torch.Tensor | None,
    sinks: torch.Tensor | None,
    tree_mask: torch.Tensor | None = None,
) -> None:
    """Causal attention of the last tokens of each request; see ``decode_attention_cpu``.

    ``q_extend`` [tokens, heads, head_size] has ``extend_seq_lens`` tokens of each request from
    ``extend_start_loc`` on (dtype of ``req_to_token``). Their keys and values are ``k_extend`` and
    ``v_extend`` [tokens, kv_heads, ...]; those before them are in the buffers.
    """
    _absent(
        "extend_attention_cpu", is_cross_attn=is_cross_attn, encoder_lens=encoder_lens,
        tree_mask=tree_mask,
    )  # fmt: skip
    if k_extend is None or v_extend is None:
        raise RuntimeError("extend_attention_cpu: k_extend or v_extend is missing")
    requests = (req_pool_indices, seq_lens, extend_start_loc, extend_seq_lens)
    for pool, length, first, tokens in zip(*(x.tolist() for x in requests), strict=True):
        rows = req_to_token[pool, : length - tokens].long()
        new = slice(first, first + tokens)
        o_extend[new] = _attend(
            q_extend[new], torch.cat((k_buffer[rows], k_extend[new])),
            torch.cat((v_buffer[rows], v_extend[new])), sm_scale, logit_cap, sliding_window_size,
            sinks,
        )  # fmt: skip
