"""What ops trust, by their docstrings: numbers on a GPU that no check on the host could see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .calls import Call, named
from .memory import plain

_MOST = 1 << 20  # numbers that are worth reading


def _integers(value: object) -> Tensor | None:
    """A tensor's integers, in one row; None where there are none, or the op refuses them."""
    if not isinstance(value, Tensor) or not plain(value) or not 0 < value.numel() <= _MOST:
        return None
    if value.dtype.is_floating_point or value.is_complex():
        return None
    return value.flatten().long()


def _within(starts: object, size: int) -> bool:
    """Whether starts of parts, and the end of the last, ascend from 0 to at most ``size``."""
    bounds = _integers(starts)
    if bounds is None:
        return True
    return bool((bounds.diff() >= 0).all()) and int(bounds[0]) >= 0 and int(bounds[-1]) <= size


def _numbers(given: object, low: int, high: int) -> bool:
    """Whether all integers lie from ``low`` to ``high``."""
    values = _integers(given)
    return values is None or (low <= int(values.min()) and int(values.max()) <= high)


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
    bounds = _integers(starts)
    return 0 if bounds is None or bounds.numel() < 2 else int(bounds.diff().max())


def _within_maxima(given: dict[str, Any]) -> bool:
    return (
        _longest(given["query_start_loc"]) <= given["max_query_len"]
        and _longest(given["key_start_loc"]) <= given["max_seq_len"]
        and _numbers(given["seq_lens"], -(2**63), given["max_seq_len"])
    )


def _labels_agree(given: dict[str, Any]) -> bool:
    """Whether all of ``alignment`` rows have one label, and those behind them none."""
    labels, alignment = _integers(given["labels"]), given["alignment"]
    if labels is None or alignment <= 0:
        return True  # refused
    for part in labels.split(min(alignment, labels.numel())):
        used = part >= 0
        if bool((used[1:] & ~used[:-1]).any()) or len(part[used].unique()) > 1:
            return False
    return True


def _slots_differ(given: Any, unused: Callable[[int], bool]) -> bool:
    """Whether no slot of a state is one of two sequences, which run at once and both write it."""
    if not isinstance(given, Tensor) or given.dim() < 2 or _integers(given) is None:
        return True  # refused, or none
    rows = [{slot for slot in row if not unused(slot)} for row in given.flatten(1).tolist()]
    return len(set().union(*rows)) == sum(map(len, rows))


def _scan_slots(given: dict[str, Any]) -> bool:
    indices, none = given["cache_indices"], given["null_block_id"]
    if isinstance(indices, Tensor) and indices.dim() == 1:
        indices = indices[:, None]
    return _slots_differ(indices, lambda slot: slot == none)


def _drafted_tokens(given: dict[str, Any]) -> bool:
    rows = given["mixed_qkv"]
    if not isinstance(rows, Tensor) or rows.dim() == 0:
        return True  # refused
    return _within(given["cu_seqlens"], rows.shape[0])


def _drafted_slots(given: dict[str, Any]) -> bool:
    return _slots_differ(given["state_indices"], lambda slot: slot < 1)


def _pages(given: dict[str, Any]) -> bool:
    """Whether the pages that a request's keys lie in are blocks that there are."""
    table, lengths, key = _integers(given["block_table"]), given["seq_lens"], given["key"]
    if table is None or _integers(lengths) is None or not isinstance(key, Tensor) or key.dim() < 2:
        return True
    rows, blocks, size = given["block_table"], key.shape[0], key.shape[1]
    if rows.dim() != 2 or size == 0:
        return True  # refused
    return all(
        _numbers(row[: -(-max(length, 0) // size)], 0, blocks - 1)
        for row, length in zip(rows, lengths.flatten().tolist(), strict=False)
    )


def _attention_specified(given: dict[str, Any]) -> bool:
    return _within_maxima(given) and _pages(given)


def _is_order(given: object, size: int) -> bool:
    """Whether integers are each of 0 to ``size`` - 1 once."""
    values = _integers(given)
    return values is None or values.sort().values.tolist() == list(range(size))


def _gptq_order(given: dict[str, Any]) -> bool:
    a, order = given["a"], given["b_g_idx"]
    if not isinstance(a, Tensor) or a.dim() != 2 or not isinstance(order, Tensor):
        return True  # refused
    if given["use_exllama"]:
        return _is_order(order, a.shape[1])
    groups = given["b_gptq_scales"]
    return (
        not isinstance(groups, Tensor)
        or groups.dim() == 0
        or _numbers(order, 0, groups.shape[0] - 1)
    )


def _columns(given: dict[str, Any]) -> bool:
    a = given["A"]
    return not isinstance(a, Tensor) or a.dim() < 2 or _numbers(given["perm"], 0, a.shape[1] - 1)


def _pairs_differ(given: dict[str, Any]) -> bool:
    """Whether each metadata byte names two places of four in order, twice, as sparse_compress."""
    metadata = _integers(given["metadata"])
    if metadata is None:
        return True  # refused
    places = [metadata.bitwise_right_shift(2 * at).bitwise_and(3) for at in range(4)]
    return bool(((places[0] < places[1]) & (places[2] < places[3])).all())


_OPS = {
    "varlen_attention": _attention,
    "moe_wna16_marlin_gemm": _experts,
    "fused_gdn_decode_post_conv_mtp": _drafted_tokens,
}
_SPECIFIED = {
    "varlen_attention": _attention_specified,
    "grouped_mm_labelled": _labels_agree,
    "selective_scan_fwd": _scan_slots,
    "fused_gdn_decode_post_conv_mtp": _drafted_slots,
    "sparse_scaled_mm": _pairs_differ,
    "gptq_gemm": _gptq_order,
    "permute_cols": _columns,
}


def specified(call: Call) -> bool:
    """Whether its docstring says what the call computes."""
    return call.op not in _SPECIFIED or _SPECIFIED[call.op](named(call))


def kept(call: Call) -> bool:
    """Whether the call may be made: what the op trusts is so."""
    return call.op not in _OPS or _OPS[call.op](named(call))
