"""What ops trust, by their docstrings: numbers on a GPU that no check on the host could see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .calls import Call, named
from .memory import plain


def _within(starts: object, size: int) -> bool:
    """Whether starts of parts, and the end of the last, ascend from 0 to at most ``size``."""
    if not isinstance(starts, Tensor) or not plain(starts) or starts.numel() == 0:
        return True
    if starts.dtype.is_floating_point or starts.numel() > 1 << 20:
        return True  # refused
    bounds = starts.flatten().long()
    return bool((bounds.diff() >= 0).all()) and int(bounds[0]) >= 0 and int(bounds[-1]) <= size


def _numbers(values: object, low: int, high: int) -> bool:
    """Whether all integers lie from ``low`` to ``high``."""
    if not isinstance(values, Tensor) or not plain(values) or values.numel() == 0:
        return True
    if values.dtype.is_floating_point or values.is_complex() or values.numel() > 1 << 20:
        return True  # refused
    return low <= int(values.min()) and int(values.max()) <= high


def _attention(given: dict[str, Any]) -> bool:
    query, key = given["query"], given["key"]
    if not all(isinstance(x, Tensor) and x.dim() > 0 for x in (query, key)):
        return True
    return _within(given["query_start_loc"], query.shape[0]) and _within(
        given["key_start_loc"], key.shape[0]
    )


def _experts(given: dict[str, Any]) -> bool:
    weight, places, block = given["b_q_weight"], given["sorted_token_ids"], given["moe_block_size"]
    experts, used = given["expert_ids"], given["num_tokens_past_padded"]
    tensors = (weight, places, experts, used)
    if not all(isinstance(x, Tensor) and x.dim() > 0 and plain(x) for x in tensors):
        return True  # refused
    if used.numel() != 1 or not 1 <= block <= 64:
        return True  # refused
    tiled = min(places.shape[0], experts.shape[0] * block)
    # What lies behind the places in use is never read.
    return (
        _numbers(used, 0, tiled)
        and _numbers(places[: int(used)], 0, 2**31)
        and _numbers(experts[: -(-int(used) // block)], -1, weight.shape[0] - 1)
    )


def _longest(starts: object) -> int:
    """The most between two starts; 0 where there are none."""
    if not isinstance(starts, Tensor) or not plain(starts) or starts.numel() < 2:
        return 0
    if starts.dtype.is_floating_point or starts.is_complex() or starts.numel() > 1 << 20:
        return 0
    return int(starts.flatten().long().diff().max())


def _within_maxima(given: dict[str, Any]) -> bool:
    lengths = given["seq_lens"]
    keys = _longest(given["key_start_loc"])
    if isinstance(lengths, Tensor) and plain(lengths) and 0 < lengths.numel() <= 1 << 20:
        keys = max(keys, int(lengths.max())) if lengths.dtype == torch.int32 else keys
    return (
        _longest(given["query_start_loc"]) <= given["max_query_len"]
        and keys <= given["max_seq_len"]
    )


_OPS = {"varlen_attention": _attention, "moe_wna16_marlin_gemm": _experts}


_SPECIFIED = {"varlen_attention": _within_maxima}


def specified(call: Call) -> bool:
    """Whether its docstring says what the call computes."""
    return call.op not in _SPECIFIED or _SPECIFIED[call.op](named(call))


def kept(call: Call) -> bool:
    """Whether the call may be made: what the op trusts is so."""
    return call.op not in _OPS or _OPS[call.op](named(call))
